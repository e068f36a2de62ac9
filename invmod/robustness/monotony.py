"""Steps between patterns at which one modality more makes a model worse, and their test."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from invmod._distributions import Bounds
from invmod.missingness import pattern_name
from invmod.robustness.conditions import Pattern
from invmod.robustness.evaluation import Evaluation
from invmod.robustness.intervals import Floats, equal_and_few, percentile_interval
from invmod.robustness.permutation import corrected_p_values
from invmod.robustness.results import Violation
from invmod.robustness.scores import ModelScores, UnitScores


class Step(NamedTuple):
    """Positions of two patterns in a list; the first has one modality more than the second."""

    more: int
    fewer: int
    added: int


def steps(patterns: Sequence[Pattern]) -> list[Step]:
    """Return all pairs of patterns that differ by one modality.

    Example:
        >>> steps([(True, True), (True, False)])
        [Step(more=0, fewer=1, added=1)]
    """
    places = {pattern: place for place, pattern in enumerate(patterns)}
    return [
        Step(place, places[fewer], added)
        for place, pattern in enumerate(patterns)
        for added, available in enumerate(pattern)
        if available and (fewer := (*pattern[:added], False, *pattern[added + 1 :])) in places
    ]


def violations(
    evaluation: Evaluation,
    patterns: Sequence[Pattern],
    scores: Mapping[str, Sequence[ModelScores]],
) -> Iterator[Violation]:
    """Yield the steps at which each model becomes worse.

    For a mean over units, the null distribution of a step swaps each unit's values with and without
    the modality at random. For other metrics it is the centred bootstrap. All steps of a model use
    the same swaps or resamples, so max-T accounts for their correlation. Bonferroni's factor is the
    number of models.

    Arguments:
        evaluation: models and data.
        patterns: all patterns of the report.
        scores: model -> scores under each pattern.
    """
    pairs = steps(patterns)
    if not pairs:
        return
    sign = -1.0 if evaluation.higher_is_better else 1.0
    for model, model_scores in scores.items():
        values = [score.value for score in model_scores]
        losses = np.array([sign * (values[s.more] - values[s.fewer]) for s in pairs])
        tested: Sequence[tuple[float | None, float | None]] = [(None, None)] * len(pairs)
        if evaluation.resamples.count:
            null = sign * _null(evaluation, model_scores, pairs)
            tested = corrected_p_values(losses, null, len(scores), one_sided=True)
        for step, loss, (p, corrected_p) in zip(pairs, losses.tolist(), tested, strict=True):
            # Means of the same units in different patterns can differ by rounding errors.
            if loss > 1e-12 * max(abs(values[step.more]), abs(values[step.fewer])):
                yield Violation(
                    model=model,
                    pattern=patterns[step.more],
                    name=pattern_name(patterns[step.more], evaluation.modalities),
                    added=evaluation.modalities[step.added],
                    value=values[step.more],
                    value_without=values[step.fewer],
                    loss=loss,
                    interval=_interval(
                        evaluation, model_scores[step.more], model_scores[step.fewer], sign
                    ),
                    p_value=p,
                    adjusted_p_value=corrected_p,
                )


def _null(evaluation: Evaluation, scores: Sequence[ModelScores], pairs: Sequence[Step]) -> Floats:
    """Return differences (B, H) of the H steps, more minus fewer, if both are equally good."""
    more, fewer = [step.more for step in pairs], [step.fewer for step in pairs]
    resamples = evaluation.resamples
    if all(isinstance(score, UnitScores) for score in scores):
        units = np.stack(
            [score.values for score in scores if isinstance(score, UnitScores)], axis=1
        )
        # A swap changes the sign of a unit's difference, and the mean of the signed values is a
        # matrix product, from which every step is a difference of two columns.
        signed = resamples.swapped_means(units)
        differences: Floats = signed[:, more] - signed[:, fewer]
        return differences
    columns = np.stack([score.resampled(resamples) for score in scores], axis=1)
    centred = columns - np.array([score.value for score in scores])
    # The variance of bootstrap values is smaller by (U - 1) / U.
    widened = np.sqrt(resamples.num_units / max(1, resamples.num_units - 1))
    null: Floats = widened * (centred[:, more] - centred[:, fewer])
    return null


def _interval(
    evaluation: Evaluation, more: ModelScores, fewer: ModelScores, sign: float
) -> Bounds | None:
    resamples = evaluation.resamples
    if not resamples.count:
        return None
    if isinstance(more, UnitScores) and isinstance(fewer, UnitScores):
        bounds, _ = fewer.difference_interval(more, resamples, evaluation.confidence)
    else:
        differences = more.resampled(resamples) - fewer.resampled(resamples)
        defined = differences[~np.isnan(differences)]
        few = equal_and_few(defined, resamples.num_units, evaluation.confidence)
        if few or 2 * len(defined) < len(differences):
            return None
        bounds = percentile_interval(defined, resamples.num_units, evaluation.confidence)
    if bounds is None:
        return None
    low, high = sorted(sign * bound for bound in bounds)
    return low, high
