"""The function `estimator_report`: the robustness report over fitted estimators."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.utils import check_consistent_length, check_random_state
from sklearn.utils.validation import check_is_fitted

from invmod._checks import check_known
from invmod.integrations.sklearn.columns import Columns
from invmod.integrations.sklearn.scoring import Metric, Scoring, scoring_of
from invmod.integrations.sklearn.tables import Table, as_table, check_collected
from invmod.robustness import RobustnessReport, robustness_report
from invmod.robustness.conditions import Patterns, Rates
from invmod.robustness.evaluate import RATES
from invmod.robustness.metrics import checked_direction, metric_name

_FUNCTION = "estimator_report"


def estimator_report(
    estimator: Any | Mapping[str, Any],
    X: Any,
    y: Any,
    *,
    groups: Mapping[str, Columns],
    scoring: str | Callable[[Any, Any, Any], float] | None = None,
    metric: Metric | None = None,
    higher_is_better: bool | None = None,
    fill: Any = None,
    patterns: Patterns = "all",
    rates: Rates = RATES,
    num_draws: int = 3,
    random_state: Any = None,
    num_resamples: int = 1000,
    confidence: float = 0.95,
) -> RobustnessReport:
    r"""Evaluate fitted estimators of scikit-learn under every pattern of missing modalities.

    A modality is a group of columns. Under a pattern, all columns of its missing modalities are
    hidden in all rows, and the estimators predict from the table that remains; `robustness_report`
    states the equations, the missing rates and the tests.

    Hidden cells are NaN in an array and null in a data frame, unless `fill` has another value. A
    row whose columns of a modality are all missing in `X` counts as missing that modality. Columns
    in no group are never hidden.

    With ``scoring="accuracy"`` (the default of classifiers), ``"neg_mean_absolute_error"`` or
    ``"neg_mean_squared_error"``, resampling is fast. Any other score is computed again for each
    resample of each condition: choose few `rates` and `num_resamples` for large tables.

    Arguments:
        estimator: a fitted estimator or pipeline. To compare several, pass name -> estimator; the
            first one is the baseline.
        X: (N, C), an array or a data frame of pandas or polars.
        y: targets, an array or a series of numbers or class labels.
        groups: modality name -> its columns: a name, a position, a slice of positions, a sequence
            of names or positions, or bools (C,).
        scoring: a scorer, called as ``scorer(estimator, X, y)``, or the name of one. None is the
            accuracy of classifiers and :math:`R^2` of regressors. Higher is always better. To
            compare several estimators that all have probabilities, scorers that accept a decision
            function get probabilities, because decision functions have no common scale.
        metric: instead of `scoring`, a function of targets and predictions as in
            ``sklearn.metrics``, **targets first**. The predictions are those of ``predict``; for
            probabilities use ``scoring=make_scorer(...)``.
        higher_is_better: whether a larger `metric` is better. None finds out for functions of
            ``sklearn.metrics``: False for errors, losses and deviances, True for scores. For every
            other metric, None means True.
        fill: value of hidden cells. None: missing. A number or a string: this value. Modality name
            -> value: a value per modality. A fitted transformer, such as `ModalityKNNImputer`: its
            output for the table in which hidden cells are missing; it must be a data frame (see
            `set_output`) if the estimator was fitted on one.
        patterns, rates, num_draws, num_resamples, confidence: as in `robustness_report`.
        random_state: seed of draws and resamples: an int, a ``RandomState``, or None.

    Returns:
        `invmod.RobustnessReport`.

    Raises:
        ImportError: X is a data frame, and narwhals is not installed.
        KeyError: `groups` or `fill` names a column or a modality that does not exist.
        TypeError: X, y, `groups`, `scoring` or an estimator has a wrong type.
        ValueError: an estimator refuses missing values (the message explains the remedies),
            `groups` does not fit the table, an argument is out of range, or the name of a function
            of ``sklearn.metrics`` shows no direction and `higher_is_better` is None.
        sklearn.exceptions.NotFittedError: an estimator is not fitted.

    Example:
        >>> import numpy as np
        >>> from sklearn.pipeline import make_pipeline
        >>> from sklearn.tree import DecisionTreeClassifier
        >>> from invmod.integrations.sklearn import ModalityMeanImputer
        >>> X = np.array([[0.0, 1.0], [0.0, 0.0], [1.0, 1.0], [1.0, 0.0]])
        >>> y = np.array(["no", "no", "yes", "yes"])
        >>> groups = {"image": 0, "text": 1}
        >>> model = make_pipeline(ModalityMeanImputer(groups), DecisionTreeClassifier())
        >>> report = estimator_report(
        ...     model.fit(X, y), X, y, groups=groups, rates=(), num_resamples=0)
        >>> {result.name: result.value for result in report.patterns}
        {'image+text': 1.0, 'image': 1.0, 'text': 0.5}
    """
    estimators = dict(estimator) if isinstance(estimator, Mapping) else {"model": estimator}
    _check_estimators(estimators)
    if scoring is not None and metric is not None:
        raise ValueError(f"{_FUNCTION}: pass `scoring` or `metric`, not both.")
    if metric is None and higher_is_better is not None and not higher_is_better:
        raise ValueError(
            f"{_FUNCTION}: `higher_is_better` belongs to `metric`; scorers are higher."
        )
    higher = True if metric is None else checked_direction(_FUNCTION, metric, higher_is_better)
    table = as_table(_FUNCTION, X, groups)
    mask = table.mask()
    check_collected(_FUNCTION, "y", y)
    targets = _targets(y)
    check_consistent_length(mask, targets)
    hide = _hider(table, fill)
    score = _score(estimators, scoring, metric, hide(mask), targets)
    seed = int(check_random_state(random_state).randint(2**31))
    # The models of the report get their tables from `hide`. The features stand for the rows only,
    # because a table may have text and categories, which arrays of features cannot hold.
    rows = {name: np.zeros((len(mask), 1), dtype=np.float32) for name in table.groups}
    return robustness_report(
        {
            name: _predictor(name, estimator, score.response, hide)
            for name, estimator in estimators.items()
        },
        rows,
        targets,
        score.metric,
        mask=mask,
        patterns=patterns,
        rates=rates,
        num_draws=num_draws,
        generator=torch.Generator().manual_seed(seed),
        higher_is_better=higher,
        per_unit=score.per_unit,
        num_resamples=num_resamples,
        confidence=confidence,
    )


def _check_estimators(estimators: dict[str, Any]) -> None:
    if not estimators:
        raise ValueError(f"{_FUNCTION}: `estimator` must have at least one estimator, got none.")
    for name, estimator in estimators.items():
        if isinstance(estimator, type) or not hasattr(estimator, "predict"):
            raise TypeError(
                f"{_FUNCTION}: the estimator {name!r} must be a fitted estimator with `predict`, "
                f"got {estimator!r}."
            )
        check_is_fitted(estimator)


def _targets(y: Any) -> NDArray[Any]:
    targets = y.to_numpy() if hasattr(y, "to_numpy") else np.asarray(y)
    # Strings of pandas and polars become objects, and labels from a list become fixed-width text.
    return np.asarray(targets)


def _score(
    estimators: dict[str, Any], scoring: Any, metric: Metric | None, X: Any, y: NDArray[Any]
) -> Scoring:
    if metric is None:
        # The scorer is called once here, with the first estimator.
        chosen: Scoring = _explained(
            lambda: scoring_of(_FUNCTION, estimators, scoring, X, y), next(iter(estimators))
        )
        return chosen
    function = metric

    def reversed_metric(predictions: Any, targets: Any) -> Any:
        return function(targets, predictions)

    reversed_metric.__name__ = metric_name(metric)
    return Scoring("predict", reversed_metric, None)


def _hider(table: Table, fill: Any) -> Callable[[NDArray[np.bool_]], Any]:
    """Return the function that makes a table from a mask (N, M)."""
    if hasattr(fill, "transform"):
        check_is_fitted(fill)
        missing = dict.fromkeys(table.groups)
        return lambda mask: fill.transform(table.hide(mask, missing))
    if isinstance(fill, Mapping):
        check_known(_FUNCTION, "fill", fill, tuple(table.groups))
        values = {name: fill.get(name) for name in table.groups}
    else:
        values = dict.fromkeys(table.groups, fill)
    return lambda mask: table.hide(mask, values)


def _predictor(
    name: str, estimator: Any, response: str, hide: Callable[[NDArray[np.bool_]], Any]
) -> Callable[[Any, Any], NDArray[Any]]:
    """Return the function of features and mask that the report calls."""

    def predict(_: Any, mask: Any) -> NDArray[Any]:
        table = hide(np.asarray(mask))
        return np.asarray(_explained(lambda: getattr(estimator, response)(table), name))

    return predict


def _explained(call: Callable[[], Any], name: str) -> Any:
    """Return ``call()``; explain the error of an estimator that refuses missing values."""
    try:
        return call()
    except ValueError as error:
        if "NaN" not in str(error):
            raise
        raise ValueError(
            f"{_FUNCTION}: the estimator {name!r} refuses NaN, the value of missing cells. Put an "
            "imputer into its pipeline, such as `make_pipeline(ModalityMeanImputer(groups), "
            "estimator)`, fit the pipeline and report on it; or pass `fill`, a value or a fitted "
            f"imputer. The estimator reported: {error}"
        ) from error
