"""The function `calibrate_by_pattern`."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from typing import Literal

from invmod._checks import check_choice, check_count, check_known
from invmod.calibration.groups import RULES, CalibrationRows, PatternScores, Rule
from invmod.calibration.model import MaskedModel, Pattern, Predict, check_predict
from invmod.calibration.predictor import ConformalPredictor
from invmod.calibration.scores import INTERVAL_SCORES, SCORES, Score
from invmod.calibration.table import Array, Features, Mask, Table, checked_table
from invmod.calibration.targets import checked_targets
from invmod.missingness import rows_by_pattern
from invmod.missingness.sentinels import IntegerFill

Patterns = Literal["all", "observed"] | Sequence[Collection[str]]

FUNCTION = "calibrate_by_pattern"
MAX_ALL = 8  # largest number of modalities for which all 2^M - 1 patterns are calibrated


def calibrate_by_pattern(
    predict: Predict,
    features: Features,
    targets: Array,
    score: Score,
    *,
    mask: Mask | None = None,
    coverage: float = 0.9,
    rule: Rule = "auto",
    min_rows: int = 200,
    patterns: Patterns = "all",
    integer_fill: IntegerFill = "auto",
) -> ConformalPredictor:
    r"""Calibrate a model so that its intervals or sets hold within each pattern of modalities.

    Split conformal prediction: the model is fixed, and its errors on calibration rows decide how
    wide an interval must be. A single quantile of all errors covers on average over patterns, but
    too seldom where modalities are missing. Here each pattern p has its own quantile

    .. math::
        q_p = s_{(k)}, \qquad k = \lceil (n_p + 1) \, c \rceil

    where :math:`s_{(k)}` is the k-th smallest score of the :math:`n_p` calibration rows of the
    pattern, c is the coverage, and :math:`q_p = \infty` if :math:`k > n_p`. The scores are

    .. math::
        \text{absolute: } |y - f|, \qquad
        \text{quantiles: } \max(l - y, \; y - u), \qquad
        \text{probability: } 1 - \pi_y, \qquad
        \text{cumulative: } \sum_{c : \pi_c \ge \pi_y} \pi_c

    where f is a prediction, l and u are a predicted lower and upper quantile, and :math:`\pi` are
    predicted probabilities of classes. The sum of ``"cumulative"`` has no random term, so that sets
    are reproducible; the least probable class always has the score 1, and with few classes such
    ties make sets cover more than asked. Among equal probabilities the smaller index counts first.

    The rule decides which calibration rows a pattern has. With :math:`a_i` the modalities of row i:

    * ``"mondrian"``: rows with :math:`a_i = p`. It is valid under any mechanism of missingness.
    * ``"masked_down"``: rows with :math:`a_i \supseteq p`, scored with only the modalities of p. It
      is valid if values are missing completely at random (MCAR).
    * ``"nested"``: all rows that share a modality with p, row i scored with the shared modalities
      :math:`a_i \cap p`; a test row is predicted with the same modalities before it is compared
      with row i. It needs MCAR too, and usually covers more than asked.
    * ``"auto"``: Mondrian for patterns with at least `min_rows` rows; else masked down, if it has
      enough rows for finite intervals (9 for a coverage of 90%, 19 for 95%); else nested.

    The report states the rule, the rows and the quantile of each pattern. Calibration rows must
    have no part in fitting the model, its imputer or its options.

    Arguments:
        predict: called with features (hidden cells are NaN, or `integer_fill`) and a mask (n, M).
            It returns (n,) predictions for ``"absolute"``, (n, 2) lower and upper quantiles for
            ``"quantiles"``, and (n, C) probabilities for ``"probability"`` and ``"cumulative"``. It
            receives tensors if `features` are tensors, and arrays if they are arrays; all rows of a
            call have the same pattern. It is called without gradients, at most once per pattern.
        features: modality name -> (N, ...) of the calibration rows, or name -> key -> (N, ...),
            such as token ids with their attention mask. None: missing in all rows; `predict` then
            receives None too, because the shape is unknown.
        targets: (N,), numbers, or indices of classes.
        score: ``"absolute"`` or ``"quantiles"`` for intervals, ``"probability"`` or
            ``"cumulative"`` for sets of classes.
        mask: the natural mask, bool (N, M) with columns in the order of `features`, or name ->
            (N,); if None, rows of NaN are missing.
        coverage: share c of targets to cover, in (0, 1).
        rule: the rule of all patterns, or ``"auto"``.
        min_rows: smallest number of rows with exactly a pattern for which ``"auto"`` uses only
            them. With 200 rows coverage of 90% has a standard deviation of 2 points over draws of
            the calibration rows.
        patterns: ``"all"`` for all :math:`2^M - 1` (up to M = 8), ``"observed"`` for those of the
            calibration rows, or a sequence of collections of the available names.
        integer_fill: content of hidden cells of integers and bools. ``"auto"``: -1 for signed
            integers, 0 or False for others; an int, or name -> int, for another value.

    Returns:
        `ConformalPredictor` with ``intervals(features, mask)`` or ``sets(features, mask)``, and
        ``report(features, targets, mask)``.

    Raises:
        KeyError: `patterns` or `integer_fill` has a name that is not in `features`.
        TypeError: an argument has a wrong type.
        ValueError: an argument is out of range, shapes do not fit, or the model returns NaN.

    References:
        Vovk, Gammerman and Shafer, Algorithmic Learning in a Random World, 2005 (Mondrian);
        Romano, Patterson and Candes, Conformalized Quantile Regression, 2019;
        Romano, Sesia and Candes, Classification with Valid and Adaptive Coverage, 2020;
        Zaffran, Dieuleveut, Josse and Romano, Conformal Prediction with Missing Values, 2023
        (masked down and nested).

    Example:
        >>> import torch
        >>> features = {"a": torch.zeros(19, 1), "b": torch.zeros(19, 1)}
        >>> features["b"][:10] = torch.nan
        >>> def predict(features, mask):
        ...     return features["a"][:, 0].nan_to_num()
        >>> predictor = calibrate_by_pattern(predict, features, torch.arange(19.0), "absolute")
        >>> {result.name: result.quantile for result in predictor.report().patterns}
        {'a+b': 18.0, 'a': 17.0, 'b': 18.0}
        >>> predictor.intervals({"a": torch.ones(1, 1), "b": torch.full((1, 1), torch.nan)})
        tensor([[-16.,  18.]], dtype=torch.float64)
    """
    check_predict(FUNCTION, predict)
    check_choice(FUNCTION, "score", score, SCORES)
    check_choice(FUNCTION, "rule", rule, RULES)
    min_rows = check_count(FUNCTION, "min_rows", min_rows)
    if not 0 < coverage < 1:
        raise ValueError(f"{FUNCTION}: `coverage` must lie in (0, 1), got {coverage}.")
    table = checked_table(FUNCTION, features, mask, integer_fill)
    chosen = pattern_list(patterns, table)
    values = checked_targets(FUNCTION, targets, score, len(table.mask), None)
    model = MaskedModel(predict, table.modalities, score, integer_fill, table.templates())
    rows = CalibrationRows(FUNCTION, model, table, values)
    calibrated: dict[Pattern, PatternScores] = {}
    for pattern in chosen:
        calibrated[pattern] = rows.scores(pattern, coverage, rule, min_rows)
    if score not in INTERVAL_SCORES and rows.num_classes is None:
        raise ValueError(
            f"{FUNCTION}: no calibration row has one of `patterns`, so the number of "
            "classes is unknown. Pass calibration rows that have some modalities."
        )
    # Rows without any modality have no calibration rows, hence infinite intervals.
    calibrated[(False,) * len(table.modalities)] = PatternScores("none", ())
    return ConformalPredictor(model, float(coverage), len(table.mask), rows.num_classes, calibrated)


def pattern_list(patterns: Patterns, table: Table) -> list[Pattern]:
    """Return the patterns to calibrate, those with more modalities first."""
    modalities = table.modalities
    m = len(modalities)
    if isinstance(patterns, str):
        check_choice(FUNCTION, "patterns", patterns, ("all", "observed"))
        if patterns == "all" and m > MAX_ALL:
            raise ValueError(
                f"{FUNCTION}: patterns='all' would calibrate {2**m - 1} patterns of {m} "
                "modalities. Pass patterns='observed' or a list of the patterns of your test rows."
            )
        found = (
            itertools.product((True, False), repeat=m)
            if patterns == "all"
            else rows_by_pattern(table.mask)
        )
        distinct = {tuple(pattern) for pattern in found if any(pattern)}
    else:
        distinct = {_named(kept, modalities) for kept in patterns}
    return sorted(distinct, key=lambda pattern: (sum(pattern), pattern), reverse=True)


def _named(kept: Collection[str], modalities: tuple[str, ...]) -> Pattern:
    if isinstance(kept, str):
        raise TypeError(
            f"{FUNCTION}: each of `patterns` must be a collection of names, got the string "
            f"{kept!r}. Write ({kept!r},)."
        )
    check_known(FUNCTION, "patterns", kept, modalities)
    if not kept:
        raise ValueError(f"{FUNCTION}: each of `patterns` must have at least one modality.")
    return tuple(name in kept for name in modalities)
