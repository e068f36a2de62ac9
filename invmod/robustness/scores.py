"""Scores of one model under one condition: the metric, its resamples and its swaps."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from invmod._distributions import Bounds
from invmod.robustness.intervals import (
    Floats,
    equal_and_few,
    paired_binary_interval,
    percentile_interval,
    share_interval,
    skewed_interval,
    t_interval,
)
from invmod.robustness.metrics import Metric, checked_number
from invmod.robustness.resampling import Resamples

MEAN_CHECKS = 10
"""Number of resamples in which a metric must equal the mean of its values of single units."""


class UnitScores:
    """Scores of a metric that is a mean over units.

    Arguments:
        values: (U,), one per unit.
        binary: whether each value is 0 or 1, or a mean of such values over draws. None finds out.
    """

    num_undefined = 0

    def __init__(self, values: Floats, *, binary: bool | None = None) -> None:
        self.values = values
        self.value = float(values.mean())
        self.binary = bool(np.isin(values, (0.0, 1.0)).all()) if binary is None else binary

    def resampled(self, resamples: Resamples) -> Floats:
        """Return the mean of each bootstrap resample, (B,)."""
        return np.array([self.values[index].mean() for index in resamples.indices()])

    def interval(self, _resamples: Resamples, confidence: float) -> Bounds | None:
        """Return the interval of the mean; None for a single unit with no known range."""
        if self.binary:
            return share_interval(self.values, confidence)
        return skewed_interval(self.values, confidence)

    def difference_interval(
        self, other: UnitScores, _resamples: Resamples, confidence: float
    ) -> tuple[Bounds | None, int]:
        """Return the interval of the other's mean minus this one, and 0 undefined resamples."""
        differences = other.values - self.values
        if self.binary and other.binary:
            return paired_binary_interval(differences, confidence), 0
        return t_interval(differences, confidence), 0

    def swapped(self, other: UnitScores, resamples: Resamples) -> Floats:
        """Return the mean difference after each random swap of units, (B,)."""
        # For a mean over units, swapping a unit's models changes the sign of its difference.
        return resamples.swapped_means(other.values - self.values)

    @staticmethod
    def averaged(draws: Sequence[UnitScores]) -> UnitScores:
        """Return the scores of the mean over draws."""
        values = np.mean([draw.values for draw in draws], axis=0)
        return UnitScores(values, binary=all(draw.binary for draw in draws))


class MetricScores:
    """Scores of any metric of predictions and targets, which is recomputed for every resample.

    Arguments:
        metric: function of predictions and targets.
        predictions, targets: (U, ...); several predictions, one per draw, have their mean metric.
        value: the metric, or its mean over draws.
        where: model and condition in words, for error messages.
    """

    def __init__(
        self, metric: Metric, predictions: Sequence[Any], targets: Any, value: float, where: str
    ) -> None:
        self.metric, self.predictions, self.targets = metric, predictions, targets
        self.value, self.where = value, where
        self._resampled: Floats | None = None

    @property
    def num_undefined(self) -> int:
        """Number of bootstrap resamples in which the metric is undefined."""
        return 0 if self._resampled is None else int(np.isnan(self._resampled).sum())

    def resampled(self, resamples: Resamples) -> Floats:
        """Return the metric of each bootstrap resample, (B,); NaN where it is undefined."""
        if self._resampled is None:
            values = [
                np.mean(
                    [
                        undefined_as_nan(
                            self.metric, take(predictions, index), take(self.targets, index)
                        )
                        for predictions in self.predictions
                    ]
                )
                for index in resamples.indices()
            ]
            self._resampled = np.array(values, dtype=np.float64)
        return self._resampled

    def interval(self, resamples: Resamples, confidence: float) -> Bounds | None:
        """Return the interval from the resamples in which the metric is defined."""
        return self._percentiles(self.resampled(resamples), resamples, confidence)

    def difference_interval(
        self, other: MetricScores, resamples: Resamples, confidence: float
    ) -> tuple[Bounds | None, int]:
        """Return the interval of the other's metric minus this one, and the undefined resamples."""
        differences = other.resampled(resamples) - self.resampled(resamples)
        undefined = np.isnan(differences)
        bounds = other._percentiles(differences, resamples, confidence)
        if equal_and_few(differences[~undefined], resamples.num_units, confidence):
            bounds = None
        return bounds, int(undefined.sum())

    def swapped(self, other: MetricScores, resamples: Resamples) -> Floats:
        """Return the difference of metrics after each random swap of predictions, (B,)."""
        # Index u of `both` is unit u of the first model, index u + U the same unit of the second.
        units = np.arange(resamples.num_units)
        both = stack(self.predictions[0], other.predictions[0])
        differences = []
        for swap in resamples.swaps():
            first, second = (
                undefined_as_nan(
                    self.metric,
                    take(both, units + chosen * resamples.num_units),
                    copied(self.targets),
                )
                for chosen in (swap, ~swap)
            )
            differences.append(second - first)
        return np.array(differences, dtype=np.float64)

    def _percentiles(
        self, values: Floats, resamples: Resamples, confidence: float
    ) -> Bounds | None:
        defined = values[~np.isnan(values)]
        if 2 * len(defined) < len(values):
            raise ValueError(
                f"robustness_report: {self.where}, the metric is defined in only {len(defined)} of "
                f"{len(values)} bootstrap resamples of the {resamples.num_units} units, so it has "
                "no interval. Use more units or a metric that is defined on fewer, or pass "
                "`num_resamples=0`."
            )
        return percentile_interval(defined, resamples.num_units, confidence)


ModelScores = UnitScores | MetricScores


def undefined_as_nan(metric: Metric, predictions: Any, targets: Any) -> float:
    """Return the metric of resampled units; NaN if it is undefined, infinite or raises."""
    with silent():
        try:
            value = checked_number(metric(predictions, targets), "in a resample")
        # The metric was defined for all units. Metrics raise these errors where, for example, a
        # resample has no positive unit.
        except (ValueError, ZeroDivisionError, FloatingPointError):
            return float("nan")
    return value if np.isfinite(value) else float("nan")


@contextmanager
def silent() -> Iterator[None]:
    """Ignore warnings: metrics warn where they are undefined, once per resample."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        yield


def unit_values(metric: Metric, predictions: Any, targets: Any) -> Floats | None:
    """Return the metric of each single unit, (U,); None if it is undefined for one of them."""
    values = np.empty(len(targets))
    with silent():
        for unit in range(len(targets)):
            index = np.array([unit])
            try:
                value = metric(take(predictions, index), take(targets, index))
                values[unit] = checked_number(value)
            # A metric of many units may fail in any way on a single one. It is then no mean.
            except Exception:
                return None
    return values if np.isfinite(values).all() else None


def is_mean_over_units(metric: Metric, predictions: Any, targets: Any, seed: int) -> bool:
    """Return whether a metric equals the mean of its values of single units.

    It is compared on resamples in which predictions and targets of different units are paired, so
    that a perfect model, whose values are all equal, does not make any metric look like a mean.
    """
    rng = np.random.default_rng([seed, 2])
    predictions = take(predictions, rng.permutation(len(targets)))
    values = unit_values(metric, predictions, targets)
    if values is None:
        return False
    for _ in range(MEAN_CHECKS):
        index = rng.integers(len(targets), size=len(targets))
        found = undefined_as_nan(metric, take(predictions, index), take(targets, index))
        if not close(float(values[index].mean()), found):
            return False
    return True


def close(mean: float, value: float) -> bool:
    """Return whether a mean equals a metric; the tolerance allows for one computed in float32."""
    return bool(np.isclose(mean, value, rtol=1e-5, atol=1e-8))


def take(x: Any, index: NDArray[np.int64]) -> Any:
    """Return the units of x in the given order, as a new tensor or array like x."""
    return x[torch.from_numpy(index).to(x.device)] if isinstance(x, torch.Tensor) else x[index]


def stack(a: Any, b: Any) -> Any:
    """Return the units of a followed by those of b."""
    return torch.cat([a, b]) if isinstance(a, torch.Tensor) else np.concatenate([a, b])


def copied(x: Any) -> Any:
    """Return a copy of a tensor or an array, so that a function may write into it."""
    return x.clone() if isinstance(x, torch.Tensor) else x.copy()
