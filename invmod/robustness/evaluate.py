"""The function `robustness_report`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from invmod.robustness.arguments import (
    Array,
    Predict,
    check_confidence,
    check_counts,
    checked_features,
    checked_mask,
    checked_predictors,
    checked_targets,
    drawn_seed,
)
from invmod.robustness.conditions import Patterns, checked_rates, pattern_list
from invmod.robustness.evaluation import Evaluation
from invmod.robustness.measure import pattern_results, rate_results
from invmod.robustness.report import RobustnessReport
from invmod.robustness.resampling import Resamples

RATES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def robustness_report(
    predict: Predict | Mapping[str, Predict],
    features: Mapping[str, Array],
    targets: Any,
    metric: Callable[[Any, Any], float],
    *,
    mask: Array | None = None,
    patterns: Patterns = "all",
    rates: Sequence[float] = RATES,
    num_draws: int = 3,
    generator: torch.Generator | None = None,
    higher_is_better: bool = True,
    per_unit: Callable[[Any, Any], Any] | None = None,
    integer_fill: int | Mapping[str, int] = -1,
    num_resamples: int = 1000,
    confidence: float = 0.95,
) -> RobustnessReport:
    r"""Measure models complete, under every pattern of missing modalities, and along missing rates.

    A pattern :math:`b \in \{0, 1\}^M` is imposed on all rows, in addition to the natural missingness. Its value is the
    metric of the predictions from the remaining cells:

    .. math::
        v_b = \mathrm{metric}\big(\mathrm{predict}(x \text{ with NaN where } a_{nm} b_m = 0, \; a b), \; y\big),
        \qquad \mathrm{drop}_b = \frac{v_{\mathrm{complete}} - v_b}{|v_{\mathrm{complete}}|}

    where :math:`a` is the mask (N, M), :math:`x` are the features and :math:`y` the targets. The drop has the other
    sign where lower is better, so that it is always a loss. Hidden cells reach the model as NaN, and those of integers
    and bools as `integer_fill`: a model that ignores its mask cannot see them.

    Along missing rates, cells are hidden by `invmod.simulate_mcar`, in all modalities at once and in one at a time. A
    row never loses all of its modalities: its draw is conditional on that, so the share of hidden cells
    (`effective_rate`, the axis of the curves) is smaller than the nominal rate. The draws of a modality are made from
    the same random numbers at every rate, for every model.

    Intervals are percentiles of the bootstrap over units, the first axis of predictions and targets, which need not be
    the rows of the features (users against items). With several models, each later one is compared with the first under
    each pattern by a permutation test: the two models' predictions of a random half of the units are swapped. The
    p values are corrected for the number of patterns by step-down max-T, and for several comparisons by Bonferroni.

    Arguments:
        predict: called with features (hidden ones as above) and a mask (N, M); returns a tensor or an array whose first
            axis is that of `targets`. Or name -> such a function, to compare. It gets tensors where `features` has
            tensors, arrays where it has arrays. A module must be in evaluation mode. Called without gradients,
            ``P + R (M + 1) num_draws`` times with P patterns and R rates above 0 (one draw less of modalities where
            M = 1).
        features: modality name -> (N, ...), tensors or NumPy arrays of any shape behind the first axis.
        targets: tensor or array, (U, ...).
        metric: of predictions and targets (U, ...); returns a number.
        mask: bool (N, M), the natural mask; where None, rows of NaN are missing.
        patterns: ``"all"``: the :math:`2^M - 1` that leave something, up to M = 8; beyond that 255 of them: the
            complete one, those with one missing and with one left, and random others. Or ``"one_missing"``,
            ``"one_left"``, or a sequence of collections of the names that are left. The complete one is always there.
        rates: nominal missing rates in [0, 1); none: no curves.
        num_draws: draws of hidden cells at each rate, of which the mean is taken.
        generator: seeds draws, patterns and resamples; the global generator where None.
        higher_is_better: whether a larger metric is better.
        per_unit: of predictions and targets, (U,) values whose mean is the metric; with it, resampling is fast.
        integer_fill: the content of hidden cells of integers and bools, or name -> value.
        num_resamples: B, bootstrap resamples and permutations; 0: neither intervals nor tests.
        confidence: of the intervals, in (0, 1).

    Returns:
        `RobustnessReport`: prints as a table and saves as JSON. Functions of ``invmod.robustness`` draw its curves and
        heat map and write its page.

    Raises:
        KeyError: `integer_fill` has a name that `features` lacks.
        TypeError: predictions, targets, features or the mask are of a wrong type.
        ValueError: an argument outside its range, shapes that do not fit, a module in training mode, predictions or a
            metric with NaN (the message names model and condition), or a metric that is not the mean of `per_unit`.

    References:
        Efron and Tibshirani, An Introduction to the Bootstrap, 1993; Westfall and Young, Resampling-Based Multiple
        Testing, 1993.

    Example:
        >>> features = {"a": torch.tensor([[0.0], [1.0]]), "b": torch.tensor([[0.0], [1.0]])}
        >>> def predict(features, mask):  # the value of a, or 0 where a is missing
        ...     return features["a"][:, 0].nan_to_num()
        >>> def accuracy(predictions, targets):
        ...     return (predictions == targets).double().mean().item()
        >>> report = robustness_report(
        ...     predict, features, torch.tensor([0.0, 1.0]), accuracy, rates=(), num_resamples=0)
        >>> {result.name: result.value for result in report.patterns}
        {'a+b': 1.0, 'a': 1.0, 'b': 0.5}
        >>> report.worst().name, report.worst().drop
        ('b', 0.5)
    """
    given_as_tensors, tensors = checked_features(features)
    rates = checked_rates(rates)
    check_counts(num_draws, num_resamples)
    check_confidence(confidence)
    targets = checked_targets(targets)
    resample_seed, draw_seed = drawn_seed(generator), drawn_seed(generator)
    evaluation = Evaluation(
        predictors=checked_predictors(predict),
        features=tensors,
        given_as_tensors=given_as_tensors,
        mask=checked_mask(mask, tensors),
        targets=targets,
        metric=metric,
        per_unit=per_unit,
        integer_fill=integer_fill,
        higher_is_better=higher_is_better,
        confidence=confidence,
        resamples=Resamples(len(targets), num_resamples, resample_seed),
        draw_seed=draw_seed,
    )
    chosen, sampled = pattern_list(patterns, evaluation.modalities, generator)
    results, differences = pattern_results(evaluation, chosen)
    return RobustnessReport(
        models=tuple(evaluation.predictors),
        modalities=evaluation.modalities,
        metric=getattr(metric, "__name__", "metric"),
        higher_is_better=higher_is_better,
        num_rows=len(evaluation.mask),
        num_units=len(targets),
        confidence=confidence,
        num_draws=num_draws,
        num_resamples=num_resamples,
        patterns_sampled=sampled,
        patterns=tuple(results),
        rates=tuple(rate_results(evaluation, rates, num_draws, results)),
        differences=tuple(differences),
    )
