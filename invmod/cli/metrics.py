"""Metrics that ``invmod report`` knows by name, as functions of predictions and targets.

Undefined values (such as the AUROC of targets of one class) are NaN, so that a report can count
the bootstrap resamples in which a metric is undefined.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from invmod.cli.arrays import Floats, classes, errors, label_pairs, numbers_of


@dataclass(frozen=True)
class Metric:
    """A metric with its direction.

    Attributes:
        function: of predictions and targets, returns a number.
        higher_is_better: whether a larger value is better.
        per_unit: function that returns one value per unit whose mean is the metric, or None.
        low, high: the range of its values.

    Example:
        >>> METRICS["mse"].higher_is_better
        False
    """

    function: Callable[[Any, Any], float]
    higher_is_better: bool = True
    per_unit: Callable[[Any, Any], Floats] | None = None
    low: float = -math.inf
    high: float = math.inf


def _correct(predictions: Any, targets: Any) -> Floats:
    predicted, true = label_pairs(predictions, targets)
    return np.asarray(predicted == true, dtype=np.float64)


def accuracy(predictions: Any, targets: Any) -> float:
    """Return the share of correct classes.

    Example:
        >>> accuracy(np.array([0, 1, 1]), np.array([0, 1, 0]))
        0.6666666666666666
    """
    return float(_correct(predictions, targets).mean())


def balanced_accuracy(predictions: Any, targets: Any) -> float:
    """Return the mean over the targets' classes of the share of correct ones.

    Example:
        >>> balanced_accuracy(np.array([0, 0, 0, 0]), np.array([0, 0, 0, 1]))
        0.5
    """
    predicted, true = label_pairs(predictions, targets)
    _, kinds = np.unique(true, return_inverse=True)
    kinds = kinds.reshape(-1)
    return float(np.mean(np.bincount(kinds, predicted == true) / np.bincount(kinds)))


def f1(predictions: Any, targets: Any) -> float:
    """Return the F1 score of class 1, for classes 0 and 1; NaN without any 1.

    Example:
        >>> f1(np.array([1, 1, 0]), np.array([1, 0, 0]))
        0.6666666666666666
    """
    predicted, true = label_pairs(predictions, targets)
    for name, given in (("predictions", predicted), ("targets", true)):
        if not np.isin(given, (0, 1)).all():
            raise ValueError(f"f1 needs {name} of 0 and 1. Use f1_macro for other classes.")
    return _f1(predicted, true, 1)


def f1_macro(predictions: Any, targets: Any) -> float:
    """Return the mean F1 score of the classes that occur in predictions or targets.

    Example:
        >>> f1_macro(np.array([1, 1, 2]), np.array([1, 1, 2]))
        1.0
    """
    predicted, true = label_pairs(predictions, targets)
    kinds = np.unique(np.concatenate([predicted, true]))
    return float(np.mean([_f1(predicted, true, kind) for kind in kinds]))


def _f1(predicted: NDArray[Any], true: NDArray[Any], kind: Any) -> float:
    hits = int(((predicted == kind) & (true == kind)).sum())
    total = int((predicted == kind).sum()) + int((true == kind).sum())
    return 2 * hits / total if total else math.nan


def auroc(predictions: Any, targets: Any) -> float:
    """Return the probability that a unit of class 1 has a larger score than one of class 0.

    Ties count 1/2. Scores are (N,), or (N, 2) of which the second column is used.

    Example:
        >>> auroc(np.array([0.1, 0.4, 0.4]), np.array([0, 0, 1]))
        0.75
    """
    scores, true = numbers_of("predictions", predictions), classes(targets)
    if scores.ndim == 2 and scores.shape[1] in (1, 2):
        scores = scores[:, -1]
    if scores.ndim != 1:
        raise ValueError(f"auroc needs scores (N,) or (N, 2), got shape {scores.shape}.")
    if not np.isin(true, (0, 1)).all():
        raise ValueError("auroc needs targets of 0 and 1.")
    if np.isnan(scores).any():
        return math.nan
    positive = true == 1
    above, below = int(positive.sum()), int((~positive).sum())
    if not above or not below:
        return math.nan
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    # Equal scores share the mean of their ranks.
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place.reshape(-1)]
    return float((ranks[positive].sum() - above * (above + 1) / 2) / (above * below))


def r2(predictions: Any, targets: Any) -> float:
    """Return the share of the targets' variance that is explained, a mean over their columns.

    NaN if a column of the targets is constant.

    Example:
        >>> r2(np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 4.0]))
        0.7857142857142857
    """
    residuals, true = errors(predictions, targets)
    spread = ((true - true.mean(axis=0)) ** 2).sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = np.where(spread > 0, 1 - (residuals**2).sum(axis=0) / spread, np.nan)
    return float(shares.mean())


def _squares(predictions: Any, targets: Any) -> Floats:
    return np.asarray((errors(predictions, targets)[0] ** 2).mean(axis=1))


def _absolute(predictions: Any, targets: Any) -> Floats:
    return np.asarray(np.abs(errors(predictions, targets)[0]).mean(axis=1))


def mse(predictions: Any, targets: Any) -> float:
    """Return the mean squared error.

    Example:
        >>> mse(np.array([1.0, 3.0]), np.array([1.0, 1.0]))
        2.0
    """
    return float(_squares(predictions, targets).mean())


def mae(predictions: Any, targets: Any) -> float:
    """Return the mean absolute error.

    Example:
        >>> mae(np.array([1.0, 3.0]), np.array([1.0, 1.0]))
        1.0
    """
    return float(_absolute(predictions, targets).mean())


METRICS = {
    "accuracy": Metric(accuracy, per_unit=_correct, low=0, high=1),
    "auroc": Metric(auroc, low=0, high=1),
    "balanced_accuracy": Metric(balanced_accuracy, low=0, high=1),
    "f1": Metric(f1, low=0, high=1),
    "f1_macro": Metric(f1_macro, low=0, high=1),
    "mae": Metric(mae, higher_is_better=False, per_unit=_absolute, low=0),
    "mse": Metric(mse, higher_is_better=False, per_unit=_squares, low=0),
    "r2": Metric(r2, high=1),
}
