"""Conformity scores: how badly a target fits an output of a model."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from invmod.calibration.ranks import Floats

Score = Literal["absolute", "quantiles", "probability", "cumulative"]
SCORES: tuple[Score, ...] = ("absolute", "quantiles", "probability", "cumulative")
INTERVAL_SCORES: tuple[Score, ...] = SCORES[:2]


def interval_ends(score: Score, outputs: Floats) -> tuple[Floats, Floats]:
    """Return the lower and upper ends (n,) of the model's own intervals.

    A point prediction is an interval of width 0, so the absolute residual is the special case of
    conformalised quantile regression with equal ends.

    Example:
        >>> interval_ends("absolute", np.array([1.0]))
        (array([1.]), array([1.]))
        >>> interval_ends("quantiles", np.array([[1.0, 3.0]]))
        (array([1.]), array([3.]))
    """
    return (outputs, outputs) if score == "absolute" else (outputs[:, 0], outputs[:, 1])


def class_scores(score: Score, outputs: Floats) -> Floats:
    """Return the scores (n, C) of all classes from their probabilities (n, C).

    Example:
        >>> class_scores("probability", np.array([[0.5, 0.25, 0.25]]))
        array([[0.5 , 0.75, 0.75]])
        >>> class_scores("cumulative", np.array([[0.25, 0.5, 0.25]]))
        array([[0.75, 0.5 , 1.  ]])
    """
    if score == "probability":
        return 1 - outputs
    # Among equally probable classes the one with the smaller index comes first. The sum up to a
    # class is 1 minus the sum of the classes after it, so that the least probable class has a score
    # of exactly 1: in a sum of all classes, rounding would break ties between rows.
    order = np.argsort(-outputs, axis=1, kind="stable")
    descending = np.take_along_axis(outputs, order, axis=1)
    after = np.zeros_like(outputs)
    after[:, :-1] = np.cumsum(descending[:, :0:-1], axis=1)[:, ::-1]
    cumulative = np.empty_like(outputs)
    np.put_along_axis(cumulative, order, 1 - after, axis=1)
    return cumulative


def target_scores(score: Score, outputs: Floats, targets: NDArray[Any]) -> Floats:
    """Return the scores (n,) of the targets.

    Example:
        >>> target_scores("quantiles", np.array([[1.0, 3.0], [1.0, 3.0]]), np.array([5.0, 2.5]))
        array([ 2. , -0.5])
        >>> target_scores("probability", np.array([[0.25, 0.75]]), np.array([0]))
        array([0.75])
    """
    if score in INTERVAL_SCORES:
        lower, upper = interval_ends(score, outputs)
        residuals: Floats = np.maximum(lower - targets, targets - upper)
        return residuals
    chosen: Floats = class_scores(score, outputs)[np.arange(len(outputs)), targets]
    return chosen
