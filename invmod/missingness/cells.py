"""The rule for missing cells of arrays of any kind: numbers, text and objects."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

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
            f"{function}: the feature of {name!r} must be a tensor, a NumPy array or None, got "
            f"{type(values).__name__}. Convert it by `numpy.asarray`."
        )
    if values.ndim == 0:
        raise ValueError(
            f"{function}: the feature of {name!r} must have shape (N, ...), got a scalar."
        )
    return values


def missing_cells(values: NDArray[Any]) -> Bools:
    """Return bool (N, K), True for a missing entry of an array (N, ...) with K entries per row.

    NaN, NaT, None and a text that is empty or only white space are missing. Numbers without NaN
    (integers and bools) are never missing, and neither is an infinity.

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


def numeric_rows(values: NDArray[Any], missing: Bools) -> Floats | None:
    """Return float64 (N, K) with NaN in missing entries; None if the values are not numbers."""
    table = values.reshape(missing.shape)
    if table.dtype.kind not in "fiub":
        return None
    rows = table.astype(np.float64)
    rows[missing] = np.nan
    return rows
