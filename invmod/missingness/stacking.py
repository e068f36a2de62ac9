"""Stack the samples of one modality, tensors or mappings of equal shapes, with missing rows."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from torch import Tensor

from invmod.missingness.arrays import available_rows
from invmod.missingness.samples import (
    Pad,
    padded_parts,
    sample_tensor,
    sequence_length,
    sequence_parts,
)
from invmod.missingness.sentinels import Fill, fill_value

# The tensors of one sample: key -> tensor; the key is None if the sample's value is not a mapping.
Parts = Mapping[Any, Tensor]


def sample_parts(
    name: str,
    values: Mapping[int, Any],
    template: Tensor | Mapping[str, Tensor] | None,
    pads: Mapping[str, Pad],
) -> tuple[dict[int, Parts], Parts | None]:
    """Return sample number -> its tensors, padded if the modality has a padding value.

    The second result is the template in the same form, or None.
    """
    if name in pads:
        sequences = {n: sequence_parts(n, name, value) for n, value in values.items()}
        whole = None if template is None else sequence_parts(None, name, template)
        # The length of a template is used only if no sample has the modality.
        longest = max(map(sequence_length, sequences.values() if sequences else [whole or {}]))
        padded = {n: padded_parts(name, x, longest, pads[name]) for n, x in sequences.items()}
        if whole is not None:
            whole = {
                key: x.new_empty((longest, *x.shape[1:])) if x.ndim else x
                for key, x in whole.items()
            }
        return {**padded}, whole
    parts: dict[int, Parts] = {
        n: (
            {key: sample_tensor(n, f"{name}[{key}]", x) for key, x in value.items()}
            if isinstance(value, Mapping)
            else {None: sample_tensor(n, name, value)}
        )
        for n, value in values.items()
    }
    if template is None or isinstance(template, Mapping):
        return parts, template
    return parts, {None: template}


def stack_modality(
    name: str,
    parts: Mapping[int, Parts],
    template: Parts | None,
    num_rows: int,
    fill: Fill,
) -> tuple[Any, Tensor]:
    """Return one modality, filled in missing rows, and its column of the mask.

    The modality is a tensor (N, ...), or a mapping key -> (N, ...) if its samples are mappings.
    """
    example = next(iter(parts.values())) if template is None else template
    for n, part in parts.items():
        if not part:
            raise ValueError(
                f"collate: {name!r} of sample {n} is an empty mapping. Use None for a missing "
                "modality."
            )
        if part.keys() != example.keys():
            raise KeyError(
                f"collate: {name!r} of sample {n} has the keys {_keys(part)}, but another sample "
                f"or `like` has {_keys(example)}. Give all samples one form."
            )
    stacked: dict[Any, Tensor] = {}
    for key in example:
        label = name if key is None else f"{name}[{key}]"
        tensors = {n: part[key] for n, part in parts.items()}
        check_consistent(label, tensors, None if template is None else template[key])
        x = next(iter(tensors.values()), example[key])
        # A template on the meta device has no storage, so a modality without samples is made on
        # the CPU.
        device = torch.device("cpu") if x.device.type == "meta" else x.device
        sentinel = fill_value("collate", name, x.dtype, fill)
        filler = torch.full(tuple(x.shape), sentinel, dtype=x.dtype, device=device)
        stacked[key] = (
            torch.stack([tensors.get(n, filler) for n in range(num_rows)])
            if num_rows
            else filler.new_empty((0, *filler.shape))
        )
    column = torch.tensor([n in parts for n in range(num_rows)], dtype=torch.bool, device=device)
    # A modality whose samples are not mappings has one part, without a key.
    feature: Any = stacked.get(None, stacked)
    # A sample may also state a missing modality by a row of NaN, which is not available either.
    return feature, column & available_rows("collate", name, feature, fill)


def _keys(parts: Parts) -> str:
    """Return the keys of a sample's tensors for messages."""
    return "(no mapping)" if None in parts else str(list(parts))


def check_consistent(key: Hashable, tensors: Mapping[int, Tensor], template: Tensor | None) -> None:
    """Raise unless all tensors have the same shape, dtype and device.

    `tensors` maps sample numbers to tensors. The reference is the template or, if it is None, the
    tensor of the first sample.
    """
    first = next(iter(tensors), None)
    if first is None:
        return
    expected, whose = (
        (tensors[first], f"that of sample {first}")
        if template is None
        else (template, "that of `like`")
    )
    for n, x in tensors.items():
        if x.shape != expected.shape:
            raise ValueError(
                f"collate: {key!r} of sample {n} has shape {tuple(x.shape)}, but {whose} has "
                f"{tuple(expected.shape)}. Give all samples one shape in the dataset: resize or "
                "crop images; for sequences of different lengths pass `pad`."
            )
        if x.dtype != expected.dtype:
            raise TypeError(
                f"collate: {key!r} of sample {n} has dtype {x.dtype}, but {whose} has "
                f"{expected.dtype}. Convert them to one dtype in the dataset."
            )
        if x.device != expected.device and expected.device.type != "meta":
            raise ValueError(
                f"collate: {key!r} of sample {n} is on {x.device}, but {whose} is on "
                f"{expected.device}. Leave samples on the CPU and move the batch."
            )
