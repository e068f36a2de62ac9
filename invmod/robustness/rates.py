"""Results along missing rates: points of the curves, and profiles of unequal rates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor

from invmod.missingness import simulate_mcar
from invmod.robustness.evaluation import Evaluation
from invmod.robustness.results import PatternResult, ProfileResult, RateResult
from invmod.robustness.scores import ModelScores


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
                        result.model,
                        modality,
                        0.0,
                        0.0,
                        result.value,
                        result.interval,
                        result.num_undefined,
                    )


def _points(
    evaluation: Evaluation, modality: str | None, rate: float, num_draws: int
) -> Iterator[RateResult]:
    """Yield one point per model: the mean over draws, with the interval of that mean."""
    modalities = evaluation.modalities
    hidden = [modality in (None, name) for name in modalities]
    column = len(modalities) if modality is None else modalities.index(modality)
    where = f"at the missing rate {rate:g} of {'all modalities' if modality is None else modality}"
    rates = tuple(rate * here for here in hidden)
    shares, scores = _drawn(evaluation, rates, num_draws, column, where)
    effective_rate = shares.overall(hidden)
    for model, score in scores.items():
        interval = evaluation.interval(score)
        yield RateResult(
            model, modality, rate, effective_rate, score.value, interval, score.num_undefined
        )


def profile_results(
    evaluation: Evaluation,
    profiles: Mapping[str, tuple[float, ...]],
    num_draws: int,
    results: Sequence[PatternResult],
) -> Iterator[ProfileResult]:
    """Yield one result per profile and model.

    Arguments:
        evaluation: models and data.
        profiles: name -> M missing rates.
        num_draws: number of draws of hidden cells for each profile.
        results: of `pattern_results`; drops are relative to the complete pattern.
    """
    complete = {result.model: result.value for result in results if all(result.pattern)}
    for name, rates in profiles.items():
        # All profiles use the same random numbers, so they are compared on the same draws.
        column = len(evaluation.modalities) + 1
        where = f"under the profile {name}"
        shares, scores = _drawn(evaluation, rates, num_draws, column, where)
        for model, score in scores.items():
            interval = evaluation.interval(score)
            yield ProfileResult(
                model=model,
                name=name,
                rates=rates,
                effective_rates=shares.by_modality(),
                value=score.value,
                interval=interval,
                drop=evaluation.drop(complete[model], score.value),
                num_undefined=score.num_undefined,
            )


class Shares:
    """Numbers of hidden and of available cells, summed over draws.

    Attributes:
        hidden, available: int64 (M,).
    """

    def __init__(self, num_modalities: int) -> None:
        self.hidden = torch.zeros(num_modalities, dtype=torch.int64)
        self.available = torch.zeros(num_modalities, dtype=torch.int64)

    def add(self, available: Tensor, mask: Tensor) -> None:
        """Add the cells of one draw: those available before it and those after it."""
        self.available += available.sum(dim=0)
        self.hidden += available.sum(dim=0) - mask.sum(dim=0)

    def overall(self, chosen: Sequence[bool]) -> float:
        """Return the hidden share of the chosen modalities' cells; 0 if they have none."""
        columns = torch.tensor(chosen)
        return float(self.hidden[columns].sum() / self.available[columns].sum().clamp(min=1))

    def by_modality(self) -> tuple[float, ...]:
        """Return the hidden share of each modality's cells; 0 for a modality without any."""
        return tuple((self.hidden / self.available.clamp(min=1)).tolist())


def _drawn(
    evaluation: Evaluation, rates: Sequence[float], num_draws: int, column: int, where: str
) -> tuple[Shares, dict[str, ModelScores]]:
    """Return the hidden shares, and model -> scores, which are means over the draws.

    Arguments:
        evaluation: models and data.
        rates: M missing rates.
        num_draws: number of draws of hidden cells.
        column: number of the curve, which selects its random numbers.
        where: the condition in words, for error messages.
    """
    available = evaluation.mask.cpu()
    shares = Shares(len(rates))
    masks = []
    for draw in range(num_draws):
        # A draw uses the same random numbers at every rate, so the cells hidden at a smaller rate
        # are also hidden at a larger one. The two multipliers give each draw and curve a seed.
        generator = torch.Generator().manual_seed(
            (evaluation.draw_seed + 1009 * draw + 9176 * column) % 2**63
        )
        mask = simulate_mcar(available, rates, generator=generator).mask
        shares.add(available, mask)
        masks.append(mask.to(evaluation.mask.device))
    return shares, evaluation.scores(masks, where)
