"""The function `robustness_report`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from invmod.missingness.sentinels import IntegerFill
from invmod.robustness.arguments import (
    Predict,
    checked_confidence,
    checked_counts,
    checked_features,
    checked_mask,
    checked_predictors,
    checked_targets,
    drawn_seed,
)
from invmod.robustness.conditions import Patterns, Rates, checked_rates, pattern_list
from invmod.robustness.evaluation import Evaluation
from invmod.robustness.inputs import Array, Feature
from invmod.robustness.measure import pattern_results
from invmod.robustness.metrics import checked_direction, checked_metric, metric_name
from invmod.robustness.rates import profile_results, rate_results
from invmod.robustness.report import RobustnessReport
from invmod.robustness.resampling import Resamples

RATES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def robustness_report(
    predict: Predict | Mapping[str, Predict],
    features: Mapping[str, Feature | None],
    targets: Any,
    metric: Callable[[Any, Any], float],
    *,
    mask: Array | Mapping[str, Array] | None = None,
    patterns: Patterns = "all",
    rates: Rates = RATES,
    num_draws: int = 3,
    generator: torch.Generator | None = None,
    higher_is_better: bool | None = None,
    per_unit: Callable[[Any, Any], Any] | None = None,
    targets_first: bool | None = None,
    integer_fill: IntegerFill = "auto",
    num_resamples: int = 1000,
    confidence: float = 0.95,
) -> RobustnessReport:
    r"""Evaluate models under every pattern of missing modalities and along missing rates.

    A pattern :math:`b \in \{0, 1\}^M` is imposed on all rows, in addition to the natural
    missingness. Its value is the metric of the predictions from the remaining cells:

    .. math::
        v_b = \mathrm{metric}\big(
        \mathrm{predict}(x \text{ with NaN where } a_{nm} b_m = 0, \; a b), \; y\big),
        \qquad \mathrm{drop}_b = \frac{v_{\mathrm{complete}} - v_b}{|v_{\mathrm{complete}}|}

    where :math:`a` is the mask (N, M), :math:`x` are the features and :math:`y` the targets. If a
    lower metric is better, the sign of the drop is reversed, so that a positive drop is always a
    loss. Hidden cells are passed to the model as `invmod.hide_features` leaves them
    (NaN, or `integer_fill` for integers and bools), so even a model that ignores its mask cannot
    read them.

    For the missing rates, `invmod.simulate_mcar` hides cells in all modalities at once and in one
    modality at a time. A row never loses all of its modalities. The draw is conditional on this, so
    the share of hidden cells (`effective_rate`, the horizontal axis of the curves) is smaller than
    the nominal rate. The draws of a modality use the same random numbers at every rate and for
    every model.

    Units are the first axis of predictions and targets; they can differ from the rows of the
    features (for example users and items). Intervals depend on the metric. A metric is a mean over
    units if `per_unit` is given, or if it equals the mean of its values of single units; this is
    tried if there are at most 1000 or `num_resamples` units.

    - Mean of 0-1 values (accuracy): the exact interval of a proportion (Clopper-Pearson), with the
      effective number of units of Korn and Graubard where values are means over draws. Differences
      of two models: an adjusted interval after Bonett and Price.
    - Other mean: a t interval, corrected for skewness by Hall's transformation. Differences of two
      models: the t interval. With one unit there is none; if all units are equal it has no width.
    - Any other metric: percentiles of the bootstrap over units, expanded for few units. Resamples
      in which the metric is undefined (NaN, infinite, or a ValueError) are left out and counted in
      `num_undefined`.

    With several models, each further model is compared with the first one under each pattern by a
    permutation test, which swaps the two models' predictions of each unit with probability 1/2. The
    p-values are corrected for the number of patterns by step-down max-T, and for several
    comparisons by Bonferroni.

    Arguments:
        predict: called with features (hidden cells filled as above) and a mask (N, M); returns a
            tensor or an array whose first axis is that of `targets`. To compare models, pass name
            -> such a function. It receives tensors if `features` are tensors, and arrays if they
            are arrays; each call gets its own copies, so a model may write into them. A module must
            be in evaluation mode. It is called without gradients, ``P + R (M + 1) num_draws`` times
            with P patterns and R rates above 0 (``P + R num_draws`` times if M = 1 or with R
            profiles).
        features: modality name -> (N, ...), tensors or NumPy arrays of any shape after the first
            axis; or a mapping of them, such as token ids with an attention mask, whose arrays are
            hidden together; or None, a modality that is missing in all rows. Models receive
            mappings and None as they are given.
        targets: tensor or array, (U, ...).
        metric: function of predictions and targets (U, ...), in this order, that returns a number.
            Functions of ``sklearn.metrics``, which take targets first, are recognised, also in a
            `functools.partial`.
        mask: bool (N, M), or name -> (N,), the natural mask; if None, rows of NaN are missing.
        patterns: ``"all"``, ``"one_missing"``, ``"one_left"``, or a sequence of collections of the
            available names. ``"all"`` means all :math:`2^M - 1` non-empty patterns up to M = 8, and
            a sample of 255 for larger M: the complete pattern, those with one modality missing or
            one left, and random others. The complete pattern is always included.
        rates: nominal missing rates in [0, 1) of the curves, a sequence, array or tensor; without
            rates the report has no curves. Or profiles of unequal rates, name -> {modality: rate}
            (a modality without a rate keeps its cells) or name -> one rate for all modalities; then
            the report has `profiles` instead of curves. A row never loses all of its modalities.
        num_draws: number of draws of hidden cells at each rate, over which results are averaged.
        generator: seeds draws, patterns and resamples; None is the global generator.
        higher_is_better: whether a larger metric is better. None finds out for functions of
            ``sklearn.metrics``: False for errors, losses and deviances, True for scores. For every
            other metric, None means True: state False for your own errors and losses.
        per_unit: function of predictions and targets that returns (U,) values whose mean is the
            metric. It makes intervals and tests fast and more accurate.
        targets_first: whether `metric` and `per_unit` take targets before predictions, as those of
            scikit-learn do. None means only where they come from ``sklearn.metrics``: set it for
            your own wrappers of them.
        integer_fill: content of missing and hidden cells of integers and bools. ``"auto"``: -1 for
            signed integers, 0 or False for unsigned integers and bools. An int, or name -> int for
            some modalities: this value. None: 0. Without a mask, rows of integers are naturally
            missing by the same rule.
        num_resamples: B, the number of bootstrap resamples and of permutations; 0 for neither
            intervals nor tests. No p-value is below 1 / (B + 1).
        confidence: confidence level of the intervals, in (0, 1).

    Returns:
        `RobustnessReport`, which prints as a table and can be saved as JSON. Functions of
        ``invmod.robustness`` plot its curves and heat map and write an HTML page.

    Raises:
        KeyError: `integer_fill` has a name that is not in `features`.
        TypeError: predictions, targets, features or the mask have a wrong type, such as data
            frames, lists, strings and sparse arrays (the message says how to convert them), or the
            metric does not return one number.
        ValueError: an argument is out of range, shapes do not fit, a module is in training mode,
            predictions or a metric are NaN (the message names model and condition), the metric is
            not the mean of `per_unit`, or it is undefined in more than half of the resamples; or
            `higher_is_better` is needed, because the name of a function of ``sklearn.metrics``
            shows no direction.

    References:
        Westfall and Young, Resampling-Based Multiple Testing, 1993. Those of the intervals are in
        ``invmod/robustness/intervals.py``.

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
    curve_rates, profiles = checked_rates(rates, tuple(tensors))
    num_draws, num_resamples = checked_counts(num_draws, num_resamples)
    targets = checked_targets(targets)
    # Separate seeds make resamples and hidden cells independent of the number of conditions.
    resample_seed, draw_seed = drawn_seed(generator), drawn_seed(generator)
    evaluation = Evaluation(
        predictors=checked_predictors(predict),
        features=tensors,
        given_as_tensors=given_as_tensors,
        mask=checked_mask(mask, tensors, integer_fill),
        targets=targets,
        metric=checked_metric("metric", metric, targets_first),
        per_unit=None if per_unit is None else checked_metric("per_unit", per_unit, targets_first),
        integer_fill=integer_fill,
        higher_is_better=checked_direction("robustness_report", metric, higher_is_better),
        confidence=checked_confidence(confidence),
        resamples=Resamples(len(targets), num_resamples, resample_seed),
        draw_seed=draw_seed,
    )
    chosen, sampled = pattern_list(patterns, evaluation.modalities, generator)
    results, differences, worse = pattern_results(evaluation, chosen)
    return RobustnessReport(
        models=tuple(evaluation.predictors),
        modalities=evaluation.modalities,
        metric=metric_name(metric),
        higher_is_better=evaluation.higher_is_better,
        num_rows=len(evaluation.mask),
        num_units=len(targets),
        confidence=evaluation.confidence,
        num_draws=num_draws,
        num_resamples=num_resamples,
        patterns_sampled=sampled,
        patterns=tuple(results),
        rates=tuple(rate_results(evaluation, curve_rates, num_draws, results)),
        differences=tuple(differences),
        profiles=tuple(profile_results(evaluation, profiles, num_draws, results)),
        worse_with_more=tuple(worse),
    )
