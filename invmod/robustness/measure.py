"""Results under each pattern, and differences between models."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from invmod.missingness import pattern_name
from invmod.robustness.conditions import Pattern
from invmod.robustness.evaluation import Evaluation
from invmod.robustness.intervals import Floats
from invmod.robustness.monotony import violations
from invmod.robustness.permutation import corrected_p_values
from invmod.robustness.results import (
    Interval,
    ModelDifference,
    PatternResult,
    Violation,
)
from invmod.robustness.scores import ModelScores


class Comparison(NamedTuple):
    """The difference of a model from the baseline under one pattern.

    `permuted` (B,) are the differences after random swaps of the two models' predictions.
    """

    pattern: Pattern
    value: float
    interval: Interval
    num_undefined: int
    permuted: Floats


def pattern_results(
    evaluation: Evaluation, patterns: Sequence[Pattern]
) -> tuple[list[PatternResult], list[ModelDifference], list[Violation]]:
    """Evaluate all models under each pattern; compare each further model with the first.

    The violations are steps at which one modality more makes a model worse.

    The complete pattern must come first, because drops are relative to it.
    """
    results: list[PatternResult] = []
    complete: dict[str, float] = {}
    baseline, *others = evaluation.predictors
    comparisons: dict[str, list[Comparison]] = {model: [] for model in others}
    kept: dict[str, list[ModelScores]] = {model: [] for model in evaluation.predictors}
    for pattern in patterns:
        name = pattern_name(pattern, evaluation.modalities)
        mask = evaluation.mask & torch.tensor(pattern, device=evaluation.mask.device)
        scores = evaluation.scores([mask], f"under the pattern {name}")
        for model, score in scores.items():
            complete.setdefault(model, score.value)
            kept[model].append(score)
            results.append(
                PatternResult(
                    model=model,
                    pattern=pattern,
                    name=name,
                    value=score.value,
                    interval=evaluation.interval(score),
                    drop=evaluation.drop(complete[model], score.value),
                    empty_rows=int((~mask.any(dim=1)).sum()),
                    num_undefined=score.num_undefined,
                )
            )
        for model in others:
            comparisons[model].append(
                _comparison(evaluation, pattern, scores[baseline], scores[model])
            )
    found = list(violations(evaluation, patterns, kept))
    return results, _differences(baseline, comparisons, evaluation.modalities), found


def _comparison(evaluation: Evaluation, pattern: Pattern, baseline: Any, other: Any) -> Comparison:
    """Compare the scores of a model with those of the baseline, which have the same class."""
    value = other.value - baseline.value
    if not evaluation.resamples.count:
        return Comparison(pattern, value, None, 0, np.empty(0))
    bounds, num_undefined = baseline.difference_interval(
        other, evaluation.resamples, evaluation.confidence
    )
    permuted = baseline.swapped(other, evaluation.resamples)
    return Comparison(pattern, value, bounds, num_undefined, permuted)


def _differences(
    baseline: str, comparisons: dict[str, list[Comparison]], modalities: tuple[str, ...]
) -> list[ModelDifference]:
    """Return the comparisons with p-values, corrected by max-T over patterns and by Bonferroni.

    The Bonferroni factor is the number of models that are compared with the baseline.
    """
    differences = []
    for model, model_comparisons in comparisons.items():
        permuted = np.stack([comparison.permuted for comparison in model_comparisons], axis=1)
        tested: Sequence[tuple[float | None, float | None]] = [(None, None)] * len(
            model_comparisons
        )
        if len(permuted):
            values = np.array([comparison.value for comparison in model_comparisons])
            tested = corrected_p_values(values, permuted, len(comparisons))
        for comparison, (p, corrected_p) in zip(model_comparisons, tested, strict=True):
            differences.append(
                ModelDifference(
                    model=model,
                    baseline=baseline,
                    pattern=comparison.pattern,
                    name=pattern_name(comparison.pattern, modalities),
                    value=comparison.value,
                    interval=comparison.interval,
                    p_value=p,
                    adjusted_p_value=corrected_p,
                    num_undefined=comparison.num_undefined,
                )
            )
    return differences
