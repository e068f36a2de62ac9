"""The choice of weights and ridge for each pattern of modalities."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from invmod.regression.choice import Fit, HeldOut, best_fit, is_better, stacked_weights
from invmod.regression.classes import fitted_sharpness
from invmod.regression.training_rows import Pattern, TrainingRows

# Shares of the stacked weights that are compared, each in a mixture with equal weights.
SHARES = (0.5, 1.0)


class PatternChoice(NamedTuple):
    """The options of one pattern, chosen or given.

    Attributes:
        weights: mu (P,), one weight per modality of the pattern.
        ridge: the ridge.
        error: mean squared error of the held-out rows, or GCV; None if nothing was compared.
        sharpness: factor of the scores in the probabilities of classes; None if there are none.

    Example:
        >>> PatternChoice(weights=(0.5, 0.5), ridge=0.1, error=None, sharpness=None).ridge
        0.1
    """

    weights: tuple[float, ...]
    ridge: float
    error: float | None
    sharpness: float | None


def read_choice(weights: tuple[float, ...], numbers: Sequence[float]) -> PatternChoice:
    """Return a choice from its weights, ridge, error and sharpness; NaN stands for None."""
    ridge, *others = numbers
    error, sharpness = (None if math.isnan(number) else number for number in others)
    return PatternChoice(weights, ridge, error, sharpness)


@dataclass(frozen=True)
class Comparison:
    """The rows on which choices are made.

    Arguments:
        training: the training rows.
        sample: positions of the training rows (s,) on which choices are made.
        held_out: targets of all training rows, and how rows are held out.
        x: the validation rows (v, d_m) of each modality; None without a validation set.
        observed: bool (v, M) of the validation rows; None without a validation set.
        ridges: the ridges to choose from.
    """

    training: TrainingRows
    sample: Tensor
    held_out: HeldOut
    x: Sequence[Tensor] | None
    observed: Tensor | None
    ridges: Sequence[float]

    def sampled(self, used: Tensor) -> Tensor:
        """Return the sampled ones of some training rows; the first ones if none was sampled."""
        rows = used[torch.isin(used, self.sample)]
        return rows if len(rows) else used[: len(self.sample)]

    def scored(self, pattern: Pattern, rows: Tensor) -> Tensor:
        """Return the positions (s,) of held-out rows that have the whole pattern, or of all."""
        observed = self.training.observed[rows] if self.observed is None else self.observed
        complete = observed[:, list(pattern)].all(dim=1).nonzero()[:, 0]
        return complete if len(complete) else torch.arange(len(observed), device=observed.device)

    def fit(self, pattern: Pattern, weights: Sequence[float], rows: Tensor) -> Fit:
        """Return the best ridge of a pattern with weights mu (P,), fitted on some training rows."""
        k = self.training.kernel(pattern, weights, rows)
        k_validation = None
        if self.x is not None and self.observed is not None:
            k_validation = self.training.kernel_to(pattern, weights, rows, self.x, self.observed)
        held_out = self.held_out.of(rows)
        return best_fit(held_out, k, k_validation, self.scored(pattern, rows), self.ridges)

    def alone(self, m: int) -> Alone:
        """Return the regression on one modality alone, with the best ridge."""
        rows = self.sampled(self.training.used((m,), "all"))
        fit = self.fit((m,), (1.0,), rows)
        if self.observed is not None:
            predictions = torch.where(self.observed[:, m, None], fit.predictions, torch.nan)
            return Alone(rows, fit, predictions)
        predictions = torch.full_like(self.training.targets, torch.nan)
        predictions[rows] = fit.predictions
        return Alone(rows, fit, predictions)


class Alone(NamedTuple):
    """The regression on one modality alone.

    Attributes:
        rows: positions of its training rows (s,), those that are sampled and have the modality.
        fit: the best ridge.
        predictions: of the held-out rows, (n, r) for all training rows, or (v, r) for the
            validation rows; NaN for rows that are not sampled or lack the modality.
    """

    rows: Tensor
    fit: Fit
    predictions: Tensor


def choose(
    compared: Comparison,
    pattern: Pattern,
    used: Tensor,
    weights: Sequence[float] | None,
    alone: Callable[[int], Alone],
    *,
    classes: bool,
) -> PatternChoice:
    """Choose the weights of a pattern's modalities and its ridge.

    Arguments:
        compared: the rows to compare on.
        pattern: positions of the modalities, none of them constant.
        used: positions of the training rows from which the pattern is predicted.
        weights: mu (P,) if they are given.
        alone: `Comparison.alone`, or a cache of it.
        classes: whether the targets are indicators of classes.
    """
    rows = compared.sampled(used)
    scored = compared.scored(pattern, rows)
    held_out = compared.held_out.of(rows)
    equal = (1 / len(pattern),) * len(pattern)
    chosen = equal if weights is None else tuple(weights)
    single = alone(pattern[0]) if len(pattern) == 1 and len(compared.ridges) > 1 else None
    if single is not None and torch.equal(single.rows, rows):
        best = single.fit
    else:
        best = compared.fit(pattern, chosen, rows)
    if weights is None and len(pattern) > 1:
        predictions = [alone(m).predictions for m in pattern]
        if compared.observed is None:
            predictions = [x[rows] for x in predictions]
        stacked = stacked_weights(held_out, predictions, scored)
        mixtures = [] if stacked is None else [mixture(equal, stacked, s) for s in SHARES]
        for mixed in mixtures:
            fit = compared.fit(pattern, mixed, rows)
            if is_better(held_out, fit, best, scored):
                best, chosen = fit, mixed
    sharpness = None
    if classes:
        sharpness = fitted_sharpness(
            best.predictions[scored], held_out.answers[scored], held_out.weights(scored)
        )
    return PatternChoice(chosen, best.ridge, best.error, sharpness)


def mixture(first: Sequence[float], second: Sequence[float], share: float) -> tuple[float, ...]:
    """Return (1 - share) times the first weights plus share times the second ones."""
    return tuple((1 - share) * a + share * b for a, b in zip(first, second, strict=True))
