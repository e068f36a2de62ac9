"""Scorers of scikit-learn as metrics of a report: functions of predictions and targets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sklearn.base import is_classifier, is_regressor
from sklearn.metrics import check_scoring

# Methods whose results a scorer compares with the targets.
RESPONSES = ("predict", "predict_proba", "predict_log_proba", "decision_function")

Metric = Callable[[Any, Any], Any]


class Scoring(NamedTuple):
    """A metric, and the method of the estimators whose results it takes.

    `metric` and `per_unit` take predictions and targets, in this order; `per_unit` is None if the
    metric is not known to be a mean over rows.
    """

    response: str
    metric: Metric
    per_unit: Callable[[Any, Any], NDArray[Any]] | None


class _StandIn:
    """An estimator with the attributes of another one, whose responses come from a function.

    Scorers call methods of an estimator. A report instead has predictions already, and scores
    resamples of them.
    """

    def __init__(self, estimator: Any, respond: Callable[[str, Any], Any], hidden: set[str]):
        self._estimator = estimator
        self._respond = respond
        self._hidden = hidden

    def __getattr__(self, name: str) -> Any:
        if name in self._hidden:
            raise AttributeError(f"{type(self._estimator).__name__} has no {name} for this scorer.")
        # An estimator without this method raises AttributeError here, as a scorer expects.
        attribute = getattr(self._estimator, name)
        if name not in RESPONSES:
            return attribute

        def response(X: Any) -> Any:
            return self._respond(name, X)

        # Scorers look a method up by the name that it carries.
        response.__name__ = name
        return response

    def __sklearn_is_fitted__(self) -> bool:
        return True


def scoring_of(
    function: str, estimators: Mapping[str, Any], scoring: Any, X: Any, y: NDArray[Any]
) -> Scoring:
    """Return the metric of a scorer for all estimators.

    Arguments:
        function: name of the public function, for error messages.
        estimators: name -> fitted estimator.
        scoring: a scorer, the name of one, or None for the accuracy of classifiers and :math:`R^2`
            of regressors.
        X: the complete table, for one call of the scorer.
        y: targets (N,).

    Raises:
        TypeError: `scoring` is neither a name nor callable.
        ValueError: scikit-learn has no scorer of this name or the estimators do not fit it, the
            scorer calls no method or several, or classifiers have different classes.
    """
    first = next(iter(estimators.values()))
    if scoring is None:
        scoring = _default(function, estimators)
    if not isinstance(scoring, str) and not callable(scoring):
        raise TypeError(
            f"{function}: `scoring` must be the name of a scorer or a scorer, got "
            f"{type(scoring).__name__}."
        )
    _check_classes(function, estimators)
    scorer = check_scoring(first, scoring)
    hidden = _unshared(estimators)
    used: list[str] = []

    def recorded(name: str, table: Any) -> Any:
        used.append(name)
        return getattr(first, name)(table)

    scorer(_StandIn(first, recorded, hidden), X, y)
    if len(set(used)) != 1:
        raise ValueError(
            f"{function}: `scoring` must call exactly one of {RESPONSES}, got {sorted(set(used))}. "
            "Pass the name of a scorer or the result of `sklearn.metrics.make_scorer`."
        )
    # The table of this estimator is the predictions themselves, and its responses return them.
    answers = _StandIn(first, lambda _, predictions: predictions, hidden)

    def metric(predictions: Any, targets: Any) -> Any:
        return scorer(answers, predictions, targets)

    metric.__name__ = scoring if isinstance(scoring, str) else getattr(scoring, "__name__", "score")
    per_unit = _PER_UNIT.get(scoring) if isinstance(scoring, str) else None
    return Scoring(used[0], metric, per_unit)


def _default(function: str, estimators: Mapping[str, Any]) -> str:
    for test, name in ((is_classifier, "accuracy"), (is_regressor, "r2")):
        if all(test(estimator) for estimator in estimators.values()):
            return name
    raise ValueError(
        f"{function}: the estimators are neither all classifiers nor all regressors, so there is "
        "no default score. Pass `scoring`."
    )


def _check_classes(function: str, estimators: Mapping[str, Any]) -> None:
    """Raise unless classifiers agree on their classes, the columns of their probabilities."""
    first, *others = [
        (name, getattr(estimator, "classes_", None)) for name, estimator in estimators.items()
    ]
    for name, classes in others:
        if not np.array_equal(np.asarray(first[1]), np.asarray(classes)):
            raise ValueError(
                f"{function}: the estimators must have the same `classes_`, but {first[0]!r} has "
                f"{first[1]} and {name!r} has {classes}."
            )


def _unshared(estimators: Mapping[str, Any]) -> set[str]:
    """Return the methods that the scorer must not use.

    The test of a difference swaps the predictions of two estimators row by row, so all must come
    from one method. Decision functions have no common scale, so of several estimators the
    probabilities are used where all have them.
    """
    shared = {
        name
        for name in RESPONSES
        if all(hasattr(estimator, name) for estimator in estimators.values())
    }
    if len(estimators) > 1 and "predict_proba" in shared:
        shared.discard("decision_function")
    return set(RESPONSES) - shared


def _correct(predictions: Any, targets: Any) -> NDArray[Any]:
    equal = np.asarray(predictions == targets).reshape(len(targets), -1)
    # With several outputs a row is correct if all of them are.
    return np.asarray(equal.all(axis=1), dtype=np.float64)


def _negative_error(power: int) -> Callable[[Any, Any], NDArray[Any]]:
    def per_unit(predictions: Any, targets: Any) -> NDArray[Any]:
        errors = np.abs(np.asarray(predictions, dtype=np.float64) - targets) ** power
        return np.asarray(-errors.reshape(len(errors), -1).mean(axis=1))

    return per_unit


# Scores that are means over rows: the report resamples one value per row instead of calling the
# scorer for every resample.
_PER_UNIT = {
    "accuracy": _correct,
    "neg_mean_absolute_error": _negative_error(1),
    "neg_mean_squared_error": _negative_error(2),
}
