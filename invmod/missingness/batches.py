"""Collate samples with missing modalities into one batch of features and a mask."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from invmod._checks import check_known, check_names
from invmod.missingness.samples import Pad, checked_pads, is_missing, sample_tensor
from invmod.missingness.sentinels import IntegerFill, integer_fills
from invmod.missingness.stacking import check_consistent, sample_parts, stack_modality


class Batch(NamedTuple):
    """The result of `collate`.

    It is a named tuple, so a DataLoader can pin its memory and Lightning can move it to a device.

    Attributes:
        features: modality name -> (N, ...), or name -> key -> (N, ...), for every modality; missing
            rows hold the sentinel.
        mask: bool (N, M), True where the sample has the modality; columns in the order of the
            modalities.
        extras: key -> stacked values of all entries that are not modalities (targets, ids).

    Example:
        >>> samples = [{"x": torch.ones(2), "target": 3}, {"target": 4}]
        >>> features, mask, extras = collate(samples, modalities=["x"])
        >>> extras["target"]
        tensor([3, 4])
    """

    features: dict[str, Any]
    mask: Tensor
    extras: dict[Hashable, Any]


def collate(
    samples: Sequence[Mapping[Any, Any]],
    *,
    modalities: Sequence[str],
    like: Mapping[str, Tensor | Mapping[str, Tensor]] | None = None,
    pad: Mapping[str, Pad] | None = None,
    integer_fill: IntegerFill = "auto",
) -> Batch:
    r"""Collate samples with missing modalities into a batch; use it as a DataLoader's `collate_fn`.

    .. math::
        X_m = \begin{pmatrix} x_{1m} \\ \vdots \\ x_{Nm} \end{pmatrix}, \qquad
        a_{nm} = 1 \;\text{if sample n has } x_{nm},
        \text{ else row n of } X_m \text{ is the sentinel}

    A modality of a sample is missing if the sample's dictionary lacks the key, if the value is
    None, a NaN without axes (as in a column of a table) or ``pandas.NA``, or if the row is missing
    by the rule of `mask_from_features`: all NaN, or for signed integers all -1. Missing rows hold
    the sentinel of `hide_features`: NaN for floating-point and complex features, -1 for signed
    integers, 0 or False for unsigned integers and bools, whose missing rows only the mask can tell.

    A value may be a mapping, such as token ids with their attention mask; the batch then has a
    mapping key -> (N, ...) of that modality. For a modality in `pad` the samples may have different
    lengths: its sequences (L, ...) are padded at their ends to the longest of the batch, and the
    batch has a mapping with the key ``"attention_mask"``, bool (N, L), True at the positions that
    are not padding. A sequence that is not a mapping itself has the key ``"values"`` in it.

    Bind `modalities` with ``functools.partial``, which worker processes can pickle::

        DataLoader(dataset, collate_fn=partial(collate, modalities=["image", "words"]))

    Arguments:
        samples: N dictionaries. A modality's value is a tensor, a NumPy array or a number, of the
            same shape and dtype in every sample that has it, or a mapping key -> such a value.
            Numbers, as in rows of a table, are stacked to (N,); an encoder of one number per row
            takes ``features[name][:, None]``.
        modalities: the M names in the order of the mask's columns. All other keys are extras, which
            every sample must have: tensors, arrays and numbers are stacked; all other types are
            passed to ``torch.utils.data.default_collate``.
        like: modality name -> a template tensor with the shape, dtype and device of one sample, or
            a mapping of templates; its values are not read (for example ``torch.empty(3, 32,
            32)``). It defines the features of a modality that no sample of the batch has; samples
            that have the modality are checked against it.
        pad: modality name -> the padding value of its sequences, or for a mapping also key ->
            value, where a key that is not named is padded with 0. An attention mask that the
            samples have is padded with 0.
        integer_fill: the sentinel of integers and bools. ``"auto"``: as above. An int, or name ->
            int for some modalities: this value. None: 0, a valid index of every embedding, and no
            row of integers is recognised as missing.

    Returns:
        `Batch(features, mask, extras)`. An empty list of samples gives N = 0 and no extras, and
        requires `like` for all names.

    Raises:
        KeyError: a sample lacks an extra that another sample has, an argument has an unknown name,
            mappings have different keys, or a modality is neither in any sample nor in `like`.
        TypeError: a sample is not a dictionary, a value is not of the types above, dtypes differ,
            or a fill or padding value is not a number.
        ValueError: shapes or devices differ, a value has some NaN entries but not all, a value is
            infinite, or a fill or padding value is out of the range of its dtype.

    Example:
        >>> samples = [
        ...     {"image": torch.ones(1, 2, 2), "target": 1},
        ...     {"words": torch.tensor([3, 7]), "target": 0},
        ...     {"words": torch.tensor([5]), "target": 0},
        ... ]
        >>> batch = collate(samples, modalities=["image", "words"], pad={"words": 0})
        >>> batch.mask
        tensor([[ True, False],
                [False,  True],
                [False,  True]])
        >>> batch.features["image"].shape, batch.features["words"]["values"]
        (torch.Size([3, 1, 2, 2]), tensor([[-1, -1],
                [ 3,  7],
                [ 5,  0]]))
        >>> batch.features["words"]["attention_mask"].sum(dim=1)  # the lengths
        tensor([0, 2, 1])
        >>> batch.extras
        {'target': tensor([1, 0, 0])}
    """
    names = check_names("collate", modalities)
    fills = integer_fills("collate", integer_fill, names)
    templates, pads = _checked_templates(like, names), checked_pads(pad, names)
    for n, sample in enumerate(samples):
        if not isinstance(sample, Mapping):
            raise TypeError(
                f"collate: sample {n} must be a dictionary, got {type(sample).__name__}."
            )
    features, columns = {}, []
    for name in names:
        values = {n: s.get(name) for n, s in enumerate(samples)}
        values = {n: value for n, value in values.items() if not is_missing(value)}
        template = templates.get(name)
        if template is None and not values:
            keys = sorted({str(key) for sample in samples for key in sample})
            raise KeyError(
                f"collate: no sample of the batch has {name!r}, so its shape and dtype are "
                f"unknown; the samples' keys are {keys}. Pass `like={{{name!r}: tensor}}` with a "
                "tensor of one sample's shape and dtype."
            )
        parts, whole = sample_parts(name, values, template, pads)
        features[name], column = stack_modality(name, parts, whole, len(samples), fills[name])
        columns.append(column)
    return Batch(features, torch.stack(columns, dim=1), _extras(samples, names))


def _checked_templates(
    like: Mapping[str, Tensor | Mapping[str, Tensor]] | None, names: tuple[str, ...]
) -> Mapping[str, Tensor | Mapping[str, Tensor]]:
    """Return `like` after checking its names and types."""
    templates = {} if like is None else like
    check_known("collate", "like", templates, names)
    for name, template in templates.items():
        for part in template.values() if isinstance(template, Mapping) else (template,):
            if not isinstance(part, Tensor):
                raise TypeError(
                    f"collate: `like` must map {name!r} to a tensor or a mapping of tensors, got "
                    f"{type(part).__name__}."
                )
    return templates


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
        if all(isinstance(value, (Tensor, np.ndarray)) for value in values):
            tensors = {n: sample_tensor(n, key, value) for n, value in enumerate(values)}
            check_consistent(key, tensors, None)
            stacked[key] = torch.stack(list(tensors.values()))
            continue
        try:
            stacked[key] = default_collate(values)
        except (TypeError, RuntimeError, KeyError) as error:
            raise TypeError(f"collate: the values of {key!r} cannot be stacked: {error}") from error
    return stacked
