"""Intervals and tests: bootstrap over units, and the permutation test with the step-down max-T correction."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Scores(Protocol):
    """One model's predictions under one condition, and the metric of any resample of their units."""

    value: float

    def resampled(self, resamples: Resamples) -> Floats:
        """Return the metric of each bootstrap resample, (B,)."""

    def swapped(self, other: Any, resamples: Resamples) -> Floats:
        """Return the difference other - self after each random swap of units, (B,)."""


class Resamples:
    """The same bootstrap resamples and swaps of U units for every condition and model, so that all are paired."""

    def __init__(self, num_units: int, count: int, seed: int) -> None:
        self.num_units, self.count, self.seed = num_units, count, seed

    def indices(self) -> Iterator[NDArray[np.int64]]:
        """Yield the units (U,) of each bootstrap resample."""
        rng = np.random.default_rng([self.seed, 0])
        for _ in range(self.count):
            yield rng.integers(self.num_units, size=self.num_units)

    def swaps(self) -> Iterator[NDArray[np.bool_]]:
        """Yield bool (U,), which units swap their models; each with probability 1/2."""
        rng = np.random.default_rng([self.seed, 1])
        for _ in range(self.count):
            yield rng.random(self.num_units) < 0.5


class UnitScores:
    """A metric that is the mean of one value a unit: resampling needs the values alone."""

    def __init__(self, values: Floats) -> None:
        self.values = values
        self.value = float(values.mean())

    def resampled(self, resamples: Resamples) -> Floats:
        """Return the mean of each bootstrap resample, (B,)."""
        return np.array([self.values[index].mean() for index in resamples.indices()])

    def swapped(self, other: UnitScores, resamples: Resamples) -> Floats:
        """Return the mean difference after each random change of signs, (B,)."""
        difference = other.values - self.values
        return np.array(
            [np.where(swap, -difference, difference).mean() for swap in resamples.swaps()]
        )


class MetricScores:
    """Any metric of predictions and targets: it is computed anew for every resample."""

    def __init__(
        self, metric: Callable[[Any, Any], float], predictions: Any, targets: Any, value: float
    ) -> None:
        self.metric, self.predictions, self.targets, self.value = (
            metric,
            predictions,
            targets,
            value,
        )

    def resampled(self, resamples: Resamples) -> Floats:
        """Return the metric of each bootstrap resample, (B,)."""
        return np.array(
            [
                self.metric(take(self.predictions, index), take(self.targets, index))
                for index in resamples.indices()
            ],
            dtype=np.float64,
        )

    def swapped(self, other: MetricScores, resamples: Resamples) -> Floats:
        """Return the difference of metrics after each random swap of predictions, (B,)."""
        units = np.arange(resamples.num_units)
        both = stack(self.predictions, other.predictions)
        differences = []
        for swap in resamples.swaps():
            first = take(both, units + swap * resamples.num_units)
            second = take(both, units + ~swap * resamples.num_units)
            differences.append(self.metric(second, self.targets) - self.metric(first, self.targets))
        return np.array(differences, dtype=np.float64)


def take(x: Any, index: NDArray[np.int64]) -> Any:
    """Return the units of x in the given order, of the type of x."""
    return x[torch.from_numpy(index).to(x.device)] if isinstance(x, torch.Tensor) else x[index]


def stack(a: Any, b: Any) -> Any:
    """Return the units of a and behind them those of b."""
    return torch.cat([a, b]) if isinstance(a, torch.Tensor) else np.concatenate([a, b])


def interval(resampled: Floats, confidence: float) -> tuple[float, float]:
    """Return the percentile interval of bootstrap values."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return float(low), float(high)


def adjusted_p_values(observed: Floats, permuted: Floats) -> tuple[Floats, Floats]:
    r"""Two-sided p values of H differences, plain and corrected for their number by step-down max-T.

    With statistics :math:`t_h`, each divided by the root mean square of its permuted values, in descending order of
    size, and the same for each of B permutations,

    .. math::
        p_h = \frac{1 + \#\{b : |t_h^b| \geq |t_h|\}}{1 + B}, \qquad
        \tilde p_h = \max_{g \leq h} \frac{1 + \#\{b : \max_{k \geq g} |t_k^b| \geq |t_g|\}}{1 + B}

    The permutations are shared by all H, which keeps their dependence: no power is lost to patterns that agree.

    Arguments:
        observed: (H,).
        permuted: (B, H).

    References:
        Westfall and Young, Resampling-Based Multiple Testing, Wiley 1993; Phipson and Smyth, Permutation P-values
        Should Never Be Zero, 2010, for the 1 in both.
    """
    count = permuted.shape[0]
    scale = np.sqrt((permuted**2).mean(axis=0))
    scale = np.where(scale > 0, scale, 1.0)
    t, null = np.abs(observed) / scale, np.abs(permuted) / scale
    slack = 1 - 1e-9  # the same numbers in another order are a tie
    plain = (1 + (null >= t * slack).sum(axis=0)) / (1 + count)
    order = np.argsort(-t, kind="stable")
    largest = np.maximum.accumulate(null[:, order[::-1]], axis=1)[
        :, ::-1
    ]  # over this one and all smaller ones
    stepped = (1 + (largest >= t[order] * slack).sum(axis=0)) / (1 + count)
    adjusted = np.empty_like(plain)
    adjusted[order] = np.maximum.accumulate(stepped)
    return plain, adjusted
