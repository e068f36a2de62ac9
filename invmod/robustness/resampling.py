"""Bootstrap intervals over units, and permutation tests with step-down max-T correction."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Resamples:
    """Bootstrap resamples and swaps of U units.

    They are the same for every condition and model, so all comparisons are paired.
    """

    def __init__(self, num_units: int, count: int, seed: int) -> None:
        self.num_units, self.count, self.seed = num_units, count, seed

    def indices(self) -> Iterator[NDArray[np.int64]]:
        """Yield the units (U,) of each bootstrap resample."""
        rng = np.random.default_rng([self.seed, 0])
        for _ in range(self.count):
            yield rng.integers(self.num_units, size=self.num_units)

    def swaps(self) -> Iterator[NDArray[np.bool_]]:
        """Yield bool (U,), True for the units that swap models; each has probability 1/2."""
        rng = np.random.default_rng([self.seed, 1])
        for _ in range(self.count):
            yield rng.random(self.num_units) < 0.5


class UnitScores:
    """Scores for a metric that is a mean over units: only one value per unit is resampled."""

    def __init__(self, values: Floats) -> None:
        self.values = values
        self.value = float(values.mean())

    def resampled(self, resamples: Resamples) -> Floats:
        """Return the mean of each bootstrap resample, (B,)."""
        return np.array([self.values[index].mean() for index in resamples.indices()])

    def swapped(self, other: UnitScores, resamples: Resamples) -> Floats:
        """Return the mean difference after each random swap of units, (B,)."""
        # For a mean over units, swapping a unit's models changes the sign of its difference.
        difference = other.values - self.values
        return np.array(
            [np.where(swap, -difference, difference).mean() for swap in resamples.swaps()]
        )


class MetricScores:
    """Scores for any metric of predictions and targets, which is recomputed for every resample."""

    def __init__(
        self, metric: Callable[[Any, Any], float], predictions: Any, targets: Any, value: float
    ) -> None:
        self.metric = metric
        self.predictions = predictions
        self.targets = targets
        self.value = value

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
        # Index u of `both` is unit u of the first model, index u + U the same unit of the second.
        units = np.arange(resamples.num_units)
        both = stack(self.predictions, other.predictions)
        differences = []
        for swap in resamples.swaps():
            first = take(both, units + swap * resamples.num_units)
            second = take(both, units + ~swap * resamples.num_units)
            differences.append(self.metric(second, self.targets) - self.metric(first, self.targets))
        return np.array(differences, dtype=np.float64)


def take(x: Any, index: NDArray[np.int64]) -> Any:
    """Return the units of x in the given order, as a tensor or array like x."""
    return x[torch.from_numpy(index).to(x.device)] if isinstance(x, torch.Tensor) else x[index]


def stack(a: Any, b: Any) -> Any:
    """Return the units of a followed by those of b."""
    return torch.cat([a, b]) if isinstance(a, torch.Tensor) else np.concatenate([a, b])


def interval(resampled: Floats, confidence: float) -> tuple[float, float]:
    """Return the percentile interval of bootstrap values."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail])
    return float(low), float(high)


def adjusted_p_values(observed: Floats, permuted: Floats) -> tuple[Floats, Floats]:
    r"""Two-sided p values of H differences, uncorrected and corrected by step-down max-T.

    .. math::
        p_h = \frac{1 + \#\{b : |t_h^b| \geq |t_h|\}}{1 + B}, \qquad
        \tilde p_h = \max_{g \leq h} \frac{1 + \#\{b : \max_{k \geq g} |t_k^b| \geq |t_g|\}}{1 + B}

    where :math:`t_h` are the differences in descending order of absolute value, each divided by the
    root mean square of its permuted values, and :math:`t_h^b` are the same statistics of
    permutation b of B. All H differences use the same permutations. This accounts for the
    correlation between patterns, so the correction loses little power if patterns are correlated.

    Arguments:
        observed: (H,).
        permuted: (B, H).

    References:
        Westfall and Young, Resampling-Based Multiple Testing, Wiley 1993; Phipson and Smyth,
        Permutation P-values Should Never Be Zero, 2010, for the 1 in numerator and denominator.
    """
    count = permuted.shape[0]
    scale = np.sqrt((permuted**2).mean(axis=0))
    scale = np.where(scale > 0, scale, 1.0)
    t, null = np.abs(observed) / scale, np.abs(permuted) / scale
    slack = 1 - 1e-9  # counts values that differ only by the order of summation as ties
    plain = (1 + (null >= t * slack).sum(axis=0)) / (1 + count)
    order = np.argsort(-t, kind="stable")
    # Column h is the maximum over hypothesis h and all hypotheses with smaller statistics.
    largest = np.maximum.accumulate(null[:, order[::-1]], axis=1)[:, ::-1]
    stepped = (1 + (largest >= t[order] * slack).sum(axis=0)) / (1 + count)
    adjusted = np.empty_like(plain)
    adjusted[order] = np.maximum.accumulate(stepped)
    return plain, adjusted
