"""Bootstrap intervals over users."""

import numpy as np
import pytest
import torch
from scipy import stats

from milk_recsys.base import statistics
from milk_recsys.base.statistics import mean_interval, paired_difference


@pytest.mark.parametrize("values", [[], [0.25], [0.25, 0.25, 0.25]])
def test_without_variation_there_is_no_interval(values):
    assert mean_interval(np.array(values)) is None


def test_two_values_have_the_interval_between_them():
    """A quarter of the resamples consists of the lower value alone, another of the higher one."""
    assert mean_interval(np.array([0.0, 1.0])) == (0.0, 1.0)


def test_the_interval_of_many_values_is_that_of_the_normal_distribution():
    values = np.random.default_rng(0).gamma(2.0, 0.1, size=2000)
    low, high = mean_interval(values)
    half = stats.norm.ppf(0.975) * values.std() / len(values) ** 0.5
    # The quantiles of 1000 resamples vary by some 5% of the half width.
    assert low == pytest.approx(values.mean() - half, abs=0.15 * half)
    assert high == pytest.approx(values.mean() + half, abs=0.15 * half)


def test_the_interval_equals_that_of_scipy():
    values = np.random.default_rng(3).gamma(2.0, 0.1, size=150)
    expected = stats.bootstrap(
        (values,), np.mean, n_resamples=1000, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    assert mean_interval(values) == pytest.approx((expected.low, expected.high), rel=1e-12)


def test_an_interval_is_the_same_in_every_call_and_for_every_batch(monkeypatch):
    values = np.random.default_rng(1).standard_normal(300)
    interval = mean_interval(values)
    assert mean_interval(values) == interval
    monkeypatch.setattr(statistics, "MAX_ELEMENTS", 300)  # one resample at a time
    assert mean_interval(values) == pytest.approx(interval, abs=1e-12)


def test_an_interval_moves_and_scales_with_the_values():
    values = np.random.default_rng(2).standard_normal(100)
    low, high = mean_interval(values)
    assert mean_interval(3 + 2 * values) == pytest.approx((3 + 2 * low, 3 + 2 * high))


def test_a_paired_difference_has_the_interval_of_the_differences():
    a, b = torch.tensor([0.5, 0.75, 1.0, 0.0]), torch.tensor([0.25, 0.75, 0.5, 0.5])
    low, high = mean_interval((a - b).numpy())
    assert paired_difference(a, b) == {"difference": 0.0625, "low": low, "high": high}
    assert paired_difference(a, a) == {"difference": 0.0, "low": 0.0, "high": 0.0}
