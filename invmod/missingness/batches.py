"""Collate samples with missing modalities into one batch of features and a mask."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from invmod._checks import check_known, check_names
from invmod.missingness.features import fill_value, given_rows, integer_fills


class Batch(NamedTuple):
    """The result of `collate`.

    It is a named tuple, so a DataLoader can pin its memory and Lightning can move it to a device.

    Attributes:
        features: modality name -> (N, ...), for every modality; missing rows hold the fill value.
        mask: bool (N, M), True where the sample has the modality; columns in the order of the
            modalities.
        extras: key -> stacked values of all entries that are not modalities (targets, ids).

    Example:
        >>> samples = [{"x": torch.ones(2), "target": 3}, {"target": 4}]
        >>> features, mask, extras = collate(samples, modalities=["x"])
        >>> extras["target"]
        tensor([3, 4])
    """

    features: dict[str, Tensor]
    mask: Tensor
    extras: dict[Hashable, Any]


def collate(
    samples: Sequence[Mapping[Any, Any]],
    *,
    modalities: Sequence[str],
    like: Mapping[str, Tensor] | None = None,
    integer_fill: int | Mapping[str, int] = 0,
) -> Batch:
    r"""Collate samples with missing modalities into a batch; use it as a DataLoader's `collate_fn`.

    .. math::
        X_m = \begin{pmatrix} x_{1m} \\ \vdots \\ x_{Nm} \end{pmatrix}, \qquad
        a_{nm} = 1 \;\text{if sample n has } x_{nm},
        \text{ else row n of } X_m \text{ is the fill value}

    A modality of a sample is missing if the sample's dictionary lacks the key, if the value is
    None, or if all entries of a floating-point value are NaN. The fill value is NaN for
    floating-point features and `integer_fill` for all others. For integer features a missing row
    can be recognised by the mask only. Bind `modalities` with ``functools.partial``, which worker
    processes can pickle::

        DataLoader(dataset, collate_fn=partial(collate, modalities=["image", "words"]))

    Arguments:
        samples: N dictionaries. A modality's value is a tensor, a NumPy array or a number, of the
            same shape and dtype in every sample that has it.
        modalities: the M names in the order of the mask's columns. All other keys are extras, which
            every sample must have: tensors, arrays and numbers are stacked; all other types are
            passed to ``torch.utils.data.default_collate``.
        like: modality name -> a template tensor with the shape, dtype and device of one sample; its
            values are not read (for example ``torch.empty(3, 32, 32)``). It defines the features of
            a modality that no sample of the batch has; samples that have the modality are checked
            against it.
        integer_fill: fill value of missing rows of integer and bool features, or name -> value,
            where a name that is not in the mapping has the fill value 0. The default 0 is a valid
            index of every embedding.

    Returns:
        `Batch(features, mask, extras)`. An empty list of samples gives N = 0 and no extras, and
        requires `like` for all names.

    Raises:
        KeyError: a sample lacks an extra that another sample has, `like` or `integer_fill` has an
            unknown name, or a modality is neither in any sample nor in `like`.
        TypeError: a sample is not a dictionary, a value is not a tensor, array or number, dtypes
            differ, or a fill value is not an int.
        ValueError: shapes or devices differ, a value has some NaN entries but not all, a value is
            infinite, or a fill value is out of the range of its dtype.

    Example:
        >>> samples = [
        ...     {"image": torch.ones(1, 2, 2), "target": 1},
        ...     {"words": torch.tensor([3, 7]), "target": 0},
        ... ]
        >>> batch = collate(samples, modalities=["image", "words"])
        >>> batch.mask
        tensor([[ True, False],
                [False,  True]])
        >>> batch.features["image"].shape, batch.features["words"]
        (torch.Size([2, 1, 2, 2]), tensor([[0, 0],
                [3, 7]]))
        >>> batch.extras
        {'target': tensor([1, 0])}
    """
    names = check_names("collate", modalities)
    fills = integer_fills("collate", integer_fill, names)
    templates = _checked_templates(like, names)
    for n, sample in enumerate(samples):
        if not isinstance(sample, Mapping):
            raise TypeError(
                f"collate: sample {n} must be a dictionary, got {type(sample).__name__}."
            )
    features, columns = {}, []
    for name in names:
        tensors = {
            n: _as_tensor(n, name, s[name])
            for n, s in enumerate(samples)
            if s.get(name) is not None
        }
        template = templates.get(name)
        if template is None and not tensors:
            keys = sorted({str(key) for sample in samples for key in sample})
            raise KeyError(
                f"collate: no sample of the batch has {name!r}, so its shape and dtype are "
                f"unknown; the samples' keys are {keys}. Pass `like={{{name!r}: tensor}}` with a "
                "tensor of one sample's shape and dtype."
            )
        _check_consistent(name, tensors, template)
        features[name], column = _stack_modality(
            name, tensors, len(samples), template, fills.get(name, 0)
        )
        columns.append(column)
    return Batch(features, torch.stack(columns, dim=1), _extras(samples, names))


def _checked_templates(
    like: Mapping[str, Tensor] | None, names: tuple[str, ...]
) -> Mapping[str, Tensor]:
    """Return `like` after checking its names and types."""
    templates = {} if like is None else like
    check_known("collate", "like", templates, names)
    for name, template in templates.items():
        if not isinstance(template, Tensor):
            raise TypeError(
                f"collate: `like` must map {name!r} to a tensor, got {type(template).__name__}."
            )
    return templates


def _as_tensor(n: int, key: Hashable, value: object) -> Tensor:
    """Return one sample's value as a tensor, without a copy if its memory is writeable."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, np.ndarray | np.generic | int | float | complex):
        if isinstance(value, np.ndarray) and not value.flags.writeable:
            value = value.copy()  # torch warns when a tensor shares read-only memory
        try:
            return torch.as_tensor(value)
        except TypeError as error:
            raise TypeError(
                f"collate: {key!r} of sample {n} cannot be made a tensor: {error}"
            ) from error
    raise TypeError(
        f"collate: {key!r} of sample {n} must be a tensor, a NumPy array, a number or None, got "
        f"{type(value).__name__}. Convert it in the dataset, with `torch.as_tensor` for a list of "
        "numbers."
    )


def _check_consistent(
    key: Hashable, tensors: Mapping[int, Tensor], template: Tensor | None
) -> None:
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
                "crop images, pad token ids."
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


def _stack_modality(
    name: str,
    tensors: Mapping[int, Tensor],
    num_rows: int,
    template: Tensor | None,
    integer_fill: int,
) -> tuple[Tensor, Tensor]:
    """Return one modality (N, ...), filled in missing rows, and its column of the mask."""
    values = list(tensors.values())
    example = values[0] if template is None or values else template
    fill = fill_value("collate", name, example.dtype, integer_fill)
    # A template on the meta device has no storage, so a modality without samples is made on the
    # CPU.
    device = torch.device("cpu") if example.device.type == "meta" else example.device
    rows = torch.tensor(list(tensors), dtype=torch.int64, device=device)
    column = torch.zeros(num_rows, dtype=torch.bool, device=device)
    column[rows] = True
    if len(values) == num_rows > 0:
        x = torch.stack(values)
    else:
        x = torch.full((num_rows, *example.shape), fill, dtype=example.dtype, device=device)
        if values:
            x = x.index_copy(0, rows, torch.stack(values))
    # A sample may also state a missing modality by a row of NaN, which is not available either.
    return x, column & given_rows("collate", name, x)


def _extras(samples: Sequence[Mapping[Any, Any]], names: tuple[str, ...]) -> dict[Hashable, Any]:
    """Stack the entries of the samples that are not modalities."""
    keys = dict.fromkeys(key for sample in samples for key in sample if key not in names)
    stacked: dict[Hashable, Any] = {}
    for key in keys:
        values = [sample.get(key) for sample in samples]
        lacking = next((n for n, value in enumerate(values) if value is None), None)
        if lacking is not None:
            raise KeyError(
                f"collate: sample {lacking} lacks {key!r}, which is not a modality and which "
                "another sample has. Only modalities may be missing: add it to `modalities`, or "
                "give every sample a value."
            )
        if all(isinstance(value, Tensor | np.ndarray) for value in values):
            tensors = {n: _as_tensor(n, key, value) for n, value in enumerate(values)}
            _check_consistent(key, tensors, None)
            stacked[key] = torch.stack(list(tensors.values()))
            continue
        try:
            stacked[key] = default_collate(values)
        except (TypeError, RuntimeError, KeyError) as error:
            raise TypeError(f"collate: the values of {key!r} cannot be stacked: {error}") from error
    return stacked
