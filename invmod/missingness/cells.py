"""The rule for missing cells of arrays of any kind: numbers, text and objects."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from invmod._checks import check_known, check_names
from invmod.missingness.arrays import Array, Feature, available_rows, equal_rows
from invmod.missingness.sentinels import Fill, IntegerFill, integer_fills

Bools = NDArray[np.bool_]
Floats = NDArray[np.float64]


def as_array(function: str, name: str, values: object) -> NDArray[Any]:
    """Return the values of a modality as an array (N, ...); raise for other types and scalars."""
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        # NumPy has no bfloat16; float32 holds each of its values exactly.
        values = (values.float() if values.dtype == torch.bfloat16 else values).numpy()
    if not isinstance(values, np.ndarray):
        raise TypeError(
            f"{function}: the feature of {name!r} must be a tensor, a NumPy array, a mapping key "
            f"-> tensor or None, got {type(values).__name__}. Convert it by `numpy.asarray`."
        )
    if values.ndim == 0:
        raise ValueError(
            f"{function}: the feature of {name!r} must have shape (N, ...), got a scalar."
        )
    return values


def feature_cells(function: str, name: str, feature: Feature, fill: Fill = "auto") -> Bools:
    """Return bool (N, K), True for the missing entries of a feature.

    The rows of a mapping have one entry: missing if the row is missing in one of its arrays, as in
    `mask_from_features`.
    """
    if not isinstance(feature, Mapping):
        values = as_array(function, name, feature)
        if values.dtype.kind in "iub":
            # Only whole rows count: token ids, for example, may be padded with the sentinel.
            rows_of_it = ~available_rows(function, name, np.asarray(values), fill).numpy()
            return np.repeat(rows_of_it[:, None], math.prod(values.shape[1:]), axis=1)
        return missing_cells(values)
    rows: list[Bools] = [
        np.asarray(feature_cells(function, f"{name}[{key}]", part, fill).all(axis=1))
        for key, part in feature.items()
    ]
    if not rows or any(len(row) != len(rows[0]) for row in rows):
        raise ValueError(
            f"{function}: the arrays of {name!r} must have equal numbers of rows, got "
            f"{[len(row) for row in rows]}."
        )
    return np.logical_or.reduce(np.stack(rows), axis=0, keepdims=True).T


def missing_cells(values: NDArray[Any]) -> Bools:
    """Return bool (N, K), True for a missing entry of an array (N, ...) with K entries per row.

    NaN, NaT, None and a text that is empty or only white space are missing; an infinity is not.
    Integers and bools are available.

    Example:
        >>> missing_cells(np.array(["cat", " ", ""]))[:, 0].tolist()
        [False, True, True]
        >>> missing_cells(np.array([None, 0, float("nan")], dtype=object))[:, 0].tolist()
        [True, False, True]
    """
    table = values.reshape(len(values), math.prod(values.shape[1:]))
    kind = table.dtype.kind
    if kind in "fc":
        return np.asarray(np.isnan(table))
    if kind in "mM":
        return np.asarray(np.isnat(table))
    if kind in "US":
        return np.asarray(np.char.str_len(np.char.strip(table)) == 0)
    if kind == "O":
        missing = [_is_missing(entry) for entry in table.ravel().tolist()]
        return np.array(missing, dtype=bool).reshape(table.shape)
    return np.zeros(table.shape, dtype=bool)


def _is_missing(entry: object) -> bool:
    if entry is None:
        return True
    if isinstance(entry, (str, bytes)):
        return not entry.strip()
    # NaN, NaT and the missing values of data frames differ from themselves or compare to neither.
    try:
        return bool(entry != entry)
    except (TypeError, ValueError):
        return type(entry).__name__ == "NAType"


def missing_rows(
    function: str,
    data: Array | Mapping[str, Feature | None],
    modalities: Sequence[str],
    integer_fill: IntegerFill = "auto",
) -> tuple[Bools, Bools]:
    """Return bool (N, M) twice: whether a modality is missing in a row, wholly or only in part."""
    names = check_names(function, modalities)
    fills = integer_fills(function, integer_fill, names)
    if not isinstance(data, Mapping):
        return _missing_of_mask(function, data, names)
    check_known(function, "data", data, names)
    given = {name: x for name, x in data.items() if x is not None}
    plain = {
        name: as_array(function, name, x) for name, x in given.items() if not isinstance(x, Mapping)
    }
    # Bool features have no missing value, so columns that are all bool (N,) can only be a mask.
    if (
        given
        and plain.keys() == given.keys()
        and all(x.dtype == np.bool_ and x.ndim == 1 for x in plain.values())
    ):
        if absent := [name for name in names if name not in plain]:
            raise KeyError(f"{function}: `data` is a mask without the modalities {absent}.")
        equal_rows(function, {name: len(x) for name, x in plain.items()})
        return _missing_of_mask(function, np.stack([plain[name] for name in names], axis=1), names)
    cells = {name: feature_cells(function, name, x, fills[name]) for name, x in given.items()}
    num_rows = equal_rows(function, {name: len(x) for name, x in cells.items()})
    missing = np.ones((num_rows, len(names)), dtype=bool)
    partial = np.zeros_like(missing)
    for column, name in enumerate(names):
        if name in cells:
            # A row without entries has nothing that could be missing.
            missing[:, column] = cells[name].all(axis=1) if cells[name].shape[1] else False
            partial[:, column] = cells[name].any(axis=1) & ~missing[:, column]
    return missing, partial


def _missing_of_mask(function: str, data: Array, names: tuple[str, ...]) -> tuple[Bools, Bools]:
    mask = as_array(function, "mask", data)
    if mask.dtype != np.bool_:
        raise TypeError(
            f"{function}: a mask must have dtype bool, got {mask.dtype}. Pass features as a "
            "mapping, name -> (N, ...)."
        )
    if mask.ndim != 2 or mask.shape[1] != len(names):
        raise ValueError(
            f"{function}: a mask must have shape (N, M) = (N, {len(names)}), got {mask.shape}."
        )
    return ~mask, np.zeros_like(mask)


def numeric_rows(values: NDArray[Any], missing: Bools) -> Floats:
    """Return numbers as float64 (N, K) with NaN in missing entries."""
    rows = values.reshape(missing.shape).astype(np.float64)
    rows[missing] = np.nan
    return rows
