"""Results under each pattern, differences between models, and points of the rate curves."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from invmod.missingness import pattern_name, simulate_mcar
from invmod.robustness.conditions import Pattern
from invmod.robustness.evaluation import Evaluation
from invmod.robustness.report import Interval, ModelDifference, PatternResult, RateResult
from invmod.robustness.resampling import Floats, adjusted_p_values


class Comparison(NamedTuple):
    """The difference of a model from the baseline under one pattern.

    `permuted` (B,) are the differences after random swaps of the two models' predictions.
    """

    pattern: str
    value: float
    interval: Interval
    permuted: Floats


def pattern_results(
    evaluation: Evaluation, patterns: Sequence[Pattern]
) -> tuple[list[PatternResult], list[ModelDifference]]:
    """Evaluate all models under each pattern; compare each further model with the first.

    The complete pattern must come first, because drops are relative to it.
    """
    results: list[PatternResult] = []
    complete: dict[str, float] = {}
    baseline, *others = evaluation.predictors
    comparisons: dict[str, list[Comparison]] = {model: [] for model in others}
    for pattern in patterns:
        name = pattern_name(pattern, evaluation.modalities)
        mask = evaluation.mask & torch.tensor(pattern, device=evaluation.mask.device)
        scores = evaluation.scores(mask, f"under the pattern {name}")
        resampled = {model: evaluation.resampled(score) for model, score in scores.items()}
        for model, score in scores.items():
            complete.setdefault(model, score.value)
            results.append(
                PatternResult(
                    model=model,
                    pattern=pattern,
                    name=name,
                    value=score.value,
                    interval=evaluation.interval(resampled[model]),
                    drop=evaluation.drop(complete[model], score.value),
                    empty_rows=int((~mask.any(dim=1)).sum()),
                )
            )
        for model in others:
            value = scores[model].value - scores[baseline].value
            bounds = evaluation.interval(resampled[model] - resampled[baseline])
            permuted = scores[baseline].swapped(scores[model], evaluation.resamples)  # type: ignore[arg-type]
            # Both models use the same resamples, so the difference of their values is paired.
            comparisons[model].append(Comparison(name, value, bounds, permuted))
    return results, _differences(baseline, comparisons)


def _differences(baseline: str, comparisons: dict[str, list[Comparison]]) -> list[ModelDifference]:
    """Return the comparisons with p values, corrected by max-T over patterns and by Bonferroni.

    The Bonferroni factor is the number of models that are compared with the baseline.
    """
    differences = []
    for model, model_comparisons in comparisons.items():
        permuted = np.stack([comparison.permuted for comparison in model_comparisons], axis=1)
        p_values: Sequence[float | None] = [None] * len(model_comparisons)
        corrected: Sequence[float | None] = p_values
        if len(permuted):
            plain, adjusted = adjusted_p_values(
                np.array([comparison.value for comparison in model_comparisons]), permuted
            )
            p_values = plain.tolist()
            corrected = np.minimum(1, adjusted * len(comparisons)).tolist()
        for comparison, p, corrected_p in zip(model_comparisons, p_values, corrected, strict=True):
            differences.append(
                ModelDifference(
                    model=model,
                    baseline=baseline,
                    name=comparison.pattern,
                    value=comparison.value,
                    interval=comparison.interval,
                    p_value=p,
                    adjusted_p_value=corrected_p,
                )
            )
    return differences


def rate_results(
    evaluation: Evaluation, rates: Sequence[float], num_draws: int, results: Sequence[PatternResult]
) -> Iterator[RateResult]:
    """Yield the points of the curves: first for all modalities together, then for each modality.

    Arguments:
        evaluation: models and data.
        rates: nominal missing rates, ascending.
        num_draws: number of draws of hidden cells at each rate.
        results: of `pattern_results`; the complete pattern is the point at rate 0.
    """
    modalities = evaluation.modalities
    for modality in [None, *modalities] if len(modalities) > 1 else [None]:
        for rate in rates:
            if rate > 0:
                yield from _points(evaluation, modality, rate, num_draws)
                continue
            for result in results:
                if all(result.pattern):
                    yield RateResult(
                        result.model, modality, 0.0, 0.0, result.value, result.interval
                    )


def _points(
    evaluation: Evaluation, modality: str | None, rate: float, num_draws: int
) -> Iterator[RateResult]:
    """Yield one point per model: the mean over draws, with the interval of that mean."""
    values: dict[str, list[float]] = {model: [] for model in evaluation.predictors}
    totals: dict[str, Floats] = {}
    effective_rate = 0.0
    for draw in range(num_draws):
        mask, hidden = _draw(evaluation, modality, rate, draw)
        effective_rate += hidden / num_draws
        where = f"at the missing rate {rate:g} of {modality or 'all modalities'}"
        for model, scores in evaluation.scores(mask, where).items():
            values[model].append(scores.value)
            resampled = evaluation.resampled(scores)
            totals[model] = totals[model] + resampled if model in totals else resampled
    for model, draw_values in values.items():
        bounds = evaluation.interval(totals[model] / num_draws)
        mean = float(np.mean(draw_values))
        yield RateResult(model, modality, rate, effective_rate, mean, bounds)


def _draw(
    evaluation: Evaluation, modality: str | None, rate: float, draw: int
) -> tuple[Tensor, float]:
    """Return a mask, and the share of the available cells that it hides.

    A draw uses the same random numbers at every rate, so the cells hidden at a smaller rate are
    also hidden at a larger rate.
    """
    modalities, available = evaluation.modalities, evaluation.mask.cpu()
    column = len(modalities) if modality is None else modalities.index(modality)
    # The two multipliers give each draw and each curve its own seed.
    generator = torch.Generator().manual_seed(
        (evaluation.draw_seed + 1009 * draw + 9176 * column) % 2**63
    )
    rates = {name: rate for name in modalities if modality in (None, name)}
    mask = simulate_mcar(available, rates, modalities=modalities, generator=generator).mask
    columns = [modalities.index(name) for name in rates]
    before = int(available[:, columns].sum())
    hidden = before - int(mask[:, columns].sum())
    return mask.to(evaluation.mask.device), hidden / max(before, 1)
