"""Conversion of the arrays given to `robustness_report`, and the errors of those it refuses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from invmod.missingness import arrays

Array = Tensor | NDArray[Any]
Feature = Array | Mapping[str, Array]
# A feature as tensors; None is a modality that is missing in all rows.
TensorFeature = Tensor | dict[str, Tensor] | None

# Kinds of NumPy dtypes that a tensor can hold: bool, integers, floats and complex numbers.
NUMERIC_KINDS = "biufc"


def checked_array(argument: str, x: object, where: str = "") -> Array:
    """Return a dense tensor or array; raise with the way to convert anything else.

    Arguments:
        argument: what x is, in words.
        x: any object.
        where: the condition in words, for error messages.
    """
    under = f" {where}" if where else ""
    if isinstance(x, Tensor):
        if x.layout != torch.strided:
            raise TypeError(
                f"robustness_report: {argument} must be dense, got a tensor with the layout "
                f"{x.layout}{under}. Pass `x.to_dense()`."
            )
        return x
    if isinstance(x, np.ma.MaskedArray):
        raise TypeError(
            f"robustness_report: {argument} must be a tensor or an array, got a "
            f"MaskedArray{under}, whose mask would be ignored. Pass `x.filled(numpy.nan)`."
        )
    if isinstance(x, np.ndarray):
        return x
    raise TypeError(
        f"robustness_report: {argument} must be a tensor or an array, got {type(x).__name__}"
        f"{under}.{_hint(x)}"
    )


def as_tensor(argument: str, x: Array) -> Tensor:
    """Return an array as a tensor, as `invmod.missingness.arrays` does.

    Raises:
        TypeError: a tensor cannot hold the dtype, such as that of strings.
    """
    if isinstance(x, Tensor):
        return x
    if x.dtype.kind not in NUMERIC_KINDS or x.dtype.itemsize > 8 + 8 * (x.dtype.kind == "c"):
        hint = (
            "Encode them as numbers first."
            if x.dtype.kind in "OUSTV"
            else "Convert it by `x.astype(numpy.float64)`."
        )
        raise TypeError(
            f"robustness_report: {argument} must have a numeric or bool dtype that a tensor can "
            f"hold, got {x.dtype}. {hint}"
        )
    return arrays.as_tensor(f"robustness_report: {argument}", x)


def _hint(x: object) -> str:
    """Return how to convert an object to an array, by the methods that it has."""
    # The methods are tried in an order that suits sparse matrices, which have several of them.
    if hasattr(x, "collect"):
        return " Pass `x.collect().to_numpy()`."
    for method in ("toarray", "to_numpy"):
        if hasattr(x, method):
            return f" Pass `x.{method}()`."
    return " Pass `numpy.asarray(x)`." if isinstance(x, (list, tuple)) else ""
