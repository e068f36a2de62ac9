"""Predictions and targets as arrays, with the checks that a metric needs to compare them."""

from __future__ import annotations

from numbers import Number
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

KINDS = {"U": "text", "T": "text", "S": "bytes", "M": "dates", "m": "durations"}
"""Kind of a dtype -> its labels in words; those of bools and of all numbers can be equal."""

WORDS = {"text": str, "bytes": bytes, "numbers": Number}
"""Labels in words -> type of the entries of an array of objects."""


def labels(predictions: Any) -> NDArray[Any]:
    """Return class labels (N,); scores (N, C) of C >= 2 classes become the class of the largest.

    Example:
        >>> labels(np.array([[0.1, 0.9], [0.7, 0.3]])).tolist()
        [1, 0]
    """
    array = as_array(predictions)
    if array.ndim == 2 and array.shape[1] > 1:
        if array.dtype.kind == "f" and np.isnan(array).any():
            # The largest of scores with NaN would be a class that the model did not predict.
            raise ValueError("a metric of classes needs scores without NaN.")
        return np.asarray(array.argmax(axis=1))
    if array.ndim == 2:
        array = array[:, 0]
    if array.ndim != 1:
        raise ValueError(
            f"a metric of classes needs labels (N,) or scores (N, C), got shape {array.shape}."
        )
    if _has_fractions(array):
        raise ValueError(
            "a metric of classes needs labels (N,) or scores (N, C), got fractions of shape (N,). "
            "Return the class, for example `scores > 0.5`."
        )
    return array


def label_pairs(predictions: Any, targets: Any) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return predicted and true classes (N,) after checking that they can be equal."""
    predicted, true = labels(predictions), classes(targets)
    kind, true_kind = _kind(predicted), _kind(true)
    # Objects may be equal to values of any kind.
    if len({kind, true_kind} - {"objects"}) > 1:
        given = "scores of columns" if as_array(predictions).shape[1:] > (1,) else kind
        raise ValueError(
            f"targets are {true_kind}, predictions are {given}, so no class can be correct. "
            "Return the label, in the form of the targets."
        )
    return predicted, true


def _kind(array: NDArray[Any]) -> str:
    """Return the kind of labels in words; "objects" for a mixture."""
    kind = array.dtype.kind
    if kind != "O":
        return "numbers" if kind in "biufc" else KINDS.get(kind, "objects")
    kinds = {
        next((word for word, known in WORDS.items() if isinstance(entry, known)), "objects")
        for entry in array.ravel().tolist()
    }
    return kinds.pop() if len(kinds) == 1 else "objects"


def _has_fractions(array: NDArray[Any]) -> bool:
    return array.dtype.kind == "f" and not np.array_equal(array, np.round(array))


def as_array(values: Any) -> NDArray[Any]:
    """Return a tensor or an array as an array."""
    # A tensor is recognised by its method, so that this module needs no torch.
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values)


def classes(targets: Any) -> NDArray[Any]:
    """Return the targets' class labels (N,).

    Example:
        >>> classes(np.array([[1], [0]])).tolist()
        [1, 0]
    """
    array = as_array(targets)
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim != 1:
        raise ValueError(f"a metric of classes needs targets (N,), got shape {array.shape}.")
    if _has_fractions(array):
        raise ValueError(
            "a metric of classes needs targets that are classes, got fractions or NaN. Use r2, mse "
            "or mae for numbers."
        )
    return array


def numbers_of(name: str, values: Any) -> Floats:
    """Return values as float64; raise unless they are real numbers.

    Example:
        >>> numbers_of("targets", np.array([1, 2])).tolist()
        [1.0, 2.0]
    """
    array = as_array(values)
    if array.dtype.kind not in "biuf":
        raise ValueError(f"the metric needs {name} that are numbers, got {_kind(array.ravel())}.")
    return array.astype(np.float64)


def errors(predictions: Any, targets: Any) -> tuple[Floats, Floats]:
    """Return predictions minus targets and the targets, both (N, K)."""
    predicted, true = numbers_of("predictions", predictions), numbers_of("targets", targets)
    predicted, true = predicted.reshape(len(predicted), -1), true.reshape(len(true), -1)
    if predicted.shape != true.shape:
        # Without this check, (N, 1) and (N,) would be broadcast to (N, N).
        raise ValueError(
            f"predictions and targets must have equal shapes, got {predicted.shape} and "
            f"{true.shape}."
        )
    return predicted - true, true
