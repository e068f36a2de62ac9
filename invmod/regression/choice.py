"""Choice of kernels, weights of modalities and ridges, by errors on rows that were left out.

Rows are held out in one of three ways: each training row is left out in turn (leave-one-out), each
group of rows in turn, or a validation set is given. In all three the squared errors of all ridges
follow from one eigendecomposition per kernel (`Spectrum`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, TypeVar

import torch
from torch import Tensor

from invmod.regression.least_squares import non_negative_least_squares
from invmod.regression.leave_one_out import Spectrum

Criterion = Literal["loo", "gcv"]
Value = TypeVar("Value")

RIDGES = tuple(10 ** (exponent / 2) for exponent in range(-10, 7))
# A choice of weights other than equal ones must be better by this many standard errors of the
# difference between the two errors, which is paired over the held-out rows.
STANDARD_ERRORS = 1.0


def accurate_ridges(ridges: Sequence[float], num_rows: int, dtype: torch.dtype) -> Sequence[float]:
    """Return the ridges of a grid that are above the rounding error of a kernel's eigenvalues.

    The largest eigenvalue of a kernel with diagonal 1 is at most n, so the error is about n times
    the precision of the dtype. A smaller ridge makes the factorisation fail, or the solution
    inaccurate. A single ridge was given, and is kept.

    Example:
        >>> len(RIDGES), min(accurate_ridges(RIDGES, 3000, torch.float32))
        (17, 0.01)
    """
    smallest = 10 * num_rows * torch.finfo(dtype).eps
    return ridges if len(ridges) == 1 else [ridge for ridge in ridges if ridge >= smallest]


@dataclass(frozen=True)
class HeldOut:
    """The rows whose errors decide, and how they are held out.

    Held-out rows are the q = v validation rows, or else the q = n training rows.

    Arguments:
        targets: Y (n, r) of the training rows.
        row_weights: (n,), above 0.
        groups: group number of each training row (n,), int64; None: each row is a group.
        validation: targets (v, r) of the validation rows, or None.
        intercept: whether the regression has an intercept.
        criterion: ``"gcv"`` compares by generalised cross-validation where it can.
    """

    targets: Tensor
    row_weights: Tensor
    groups: Tensor | None
    validation: Tensor | None
    intercept: bool
    criterion: Criterion

    @property
    def answers(self) -> Tensor:
        """Targets of the held-out rows (q, r)."""
        return self.targets if self.validation is None else self.validation

    def weights(self, scored: Tensor) -> Tensor:
        """Return the weights (s,) of the scored held-out rows; those of validation rows are 1."""
        if self.validation is None:
            return self.row_weights[scored]
        return self.row_weights.new_ones(len(scored))

    def of(self, rows: Tensor) -> HeldOut:
        """Return the same for some of the training rows."""
        return HeldOut(
            self.targets[rows],
            self.row_weights[rows],
            None if self.groups is None else self.groups[rows],
            self.validation,
            self.intercept,
            self.criterion,
        )

    def fits(
        self, k: Tensor, k_validation: Tensor | None, ridges: Sequence[float]
    ) -> Iterator[tuple[float, Tensor, float | None]]:
        """Yield each ridge with the predictions of the held-out rows (q, r), and the GCV or None.

        Arguments:
            k: the kernel between training rows (n, n).
            k_validation: the kernel between validation and training rows (v, n), or None.
            ridges: the ridges.
        """
        spectrum = Spectrum(k, self.targets, self.row_weights, intercept=self.intercept)
        groups = None
        if self.groups is not None:
            groups = [(self.groups == g).nonzero()[:, 0] for g in torch.unique(self.groups)]
        for ridge in ridges:
            gcv = None
            if k_validation is not None:
                predictions = spectrum.predictions(k_validation, ridge)
            else:
                predictions = self.targets - spectrum.errors(ridge, groups)
                if self.criterion == "gcv" and groups is None:
                    gcv = float(spectrum.generalised(ridge))
            yield ridge, predictions, gcv


class Fit(NamedTuple):
    """The best ridge for a kernel.

    Attributes:
        ridge: the ridge.
        error: the criterion: mean squared error of the held-out rows that are scored, or GCV.
        predictions: predictions (q, r) of the held-out rows.
    """

    ridge: float
    error: float
    predictions: Tensor


def best_fit(
    held_out: HeldOut,
    k: Tensor,
    k_validation: Tensor | None,
    scored: Tensor,
    ridges: Sequence[float],
) -> Fit:
    """Return the ridge with the smallest error on the scored held-out rows.

    Arguments:
        scored: positions (s,) of the held-out rows whose errors count.
        others: as in `HeldOut.fits`.
    """
    best: Fit | None = None
    for ridge, predictions, gcv in held_out.fits(k, k_validation, ridges):
        error = mean_squares(held_out, predictions, scored) if gcv is None else gcv
        # Among equal errors the larger ridge is kept, and NaN is never better.
        if best is None or error <= best.error or math.isnan(best.error):
            best = Fit(ridge, error, predictions)
    if best is None:
        raise ValueError("best_fit: no ridge was given.")
    return best


def descend(
    values: Sequence[Value], start: int, error: Callable[[Value], float], first: float
) -> Value:
    """Return the value with the smallest error among ordered values, without trying them all.

    From `start` it goes up while the error falls; if the first step up does not help, it goes down.
    This finds the smallest error if the errors fall to one minimum and rise from there. NaN is
    never better.

    Arguments:
        values: the values, in order.
        start: position of the first value.
        error: returns the error of a value.
        first: the error of the first value.

    Example:
        >>> descend([1, 2, 3, 4, 5], 1, lambda x: abs(x - 4), 2)
        4
    """
    best, smallest = start, first
    for step in (1, -1):
        while 0 <= best + step < len(values):
            new = error(values[best + step])
            if not new < smallest:
                break
            best, smallest = best + step, new
        if best != start:
            break
    return values[best]


def squares(held_out: HeldOut, predictions: Tensor, scored: Tensor) -> Tensor:
    """Return the squared errors (s,) of the scored rows; NaN where a prediction is undetermined."""
    return (held_out.answers - predictions)[scored].square().sum(dim=1)


def mean_squares(held_out: HeldOut, predictions: Tensor, scored: Tensor) -> float:
    """Return the weighted mean squared error of the scored rows; NaN if there are none."""
    errors, weights = squares(held_out, predictions, scored), held_out.weights(scored)
    known = ~errors.isnan()
    waits = errors.device.type == "cpu"
    return float(
        _sum_of(weights * errors, known, waits=waits) / _sum_of(weights, known, waits=waits)
    )


def _sum_of(x: Tensor, chosen: Tensor, *, waits: bool) -> Tensor:
    """Return the sum of the chosen entries of x (s,).

    A selection of entries waits on a GPU until their number is known. Without it the sum differs by
    rounding at most.
    """
    return x[chosen].sum() if waits else torch.where(chosen, x, 0.0).sum()


def is_better(held_out: HeldOut, new: Fit, old: Fit, scored: Tensor) -> bool:
    """Return whether the new fit is better by more than `STANDARD_ERRORS` standard errors."""
    gains = squares(held_out, old.predictions, scored) - squares(held_out, new.predictions, scored)
    gains = held_out.weights(scored) * gains
    known = ~gains.isnan()
    if held_out.groups is not None and held_out.validation is None:
        # The errors in a group are not independent, so a group counts as one observation.
        numbers = torch.unique(held_out.groups[scored][known], return_inverse=True)[1]
        sums = gains.new_zeros(int(numbers.max()) + 1 if len(numbers) else 0)
        gains = sums.index_add(0, numbers, gains[known])
    else:
        gains = gains[known]
    if len(gains) < 2:
        return False
    return bool(gains.mean() > STANDARD_ERRORS * gains.std() / math.sqrt(len(gains)))


def stacked_weights(
    held_out: HeldOut, alone: Sequence[Tensor], scored: Tensor
) -> tuple[float, ...] | None:
    """Return weights of modalities by stacking: non-negative least squares, scaled to sum 1.

    The targets are predicted by a weighted sum of the predictions that each modality alone makes
    of held-out rows.

    Arguments:
        alone: predictions (q, r) of the held-out rows from each of the P modalities.
        scored: positions (s,) of the held-out rows that count.

    Returns:
        (P,), or None if all weights are 0.

    References:
        Breiman, Stacked Regressions, Machine Learning 24, 1996.
    """
    targets, row_weights = held_out.answers[scored], held_out.weights(scored)
    centre = row_weights @ targets / row_weights.sum() if held_out.intercept else 0.0
    roots = row_weights.sqrt()[:, None]
    columns = torch.stack([(roots * (x[scored] - centre)).flatten() for x in alone], dim=1)
    right = (roots * (targets - centre)).flatten()
    known = columns.isfinite().all(dim=1)
    columns, right = columns[known], right[known]
    weights = non_negative_least_squares(columns.T @ columns, columns.T @ right)
    total = weights.sum()
    return tuple((weights / total).tolist()) if total > 0 else None
