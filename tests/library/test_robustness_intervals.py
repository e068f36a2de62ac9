"""Intervals of a robustness report."""

import numpy as np
import pytest
import torch

from tests.library.robustness_cases import (
    by_first,
    by_mean,
    made_up,
    mean,
    quick,
    right,
)


def auc(scores, targets):
    positive, negative = scores[targets == 1], scores[targets == 0]
    return float((positive[:, None] > negative).double().mean())


def scores_of(features, mask):
    z = torch.stack([x.mean(dim=1) for x in features.values()], dim=1)
    return torch.where(mask, z, 0.0).sum(dim=1)


def test_intervals_are_percentiles_of_the_bootstrap_over_units():
    report = quick(scores_of, metric=auc, num_resamples=200, patterns="one_left", confidence=0.8)
    features, targets = made_up()
    for result in report.patterns:
        z = torch.stack([x.mean(dim=1) for x in features.values()], dim=1)
        scores = (z * torch.tensor(result.pattern)).sum(dim=1)
        rng = np.random.default_rng(0)
        values = [
            auc(scores[i], targets[i]) for i in (rng.integers(60, size=60) for _ in range(2000))
        ]
        low, high = result.interval
        assert low <= result.value <= high
        np.testing.assert_allclose([low, high], np.quantile(values, [0.1, 0.9]), atol=0.02)


def test_a_metric_with_per_unit_values_gives_the_same_report():
    options = {"predict": {"a": by_mean, "b": by_first}, "rates": (0.0, 0.5), "num_resamples": 50}
    slow, fast = quick(**options), quick(**options, per_unit=right)
    for a, b in zip((*slow.patterns, *slow.rates), (*fast.patterns, *fast.rates), strict=True):
        assert a.value == pytest.approx(b.value)
        np.testing.assert_allclose(a.interval, b.interval)
    for a, b in zip(slow.differences, fast.differences, strict=True):
        assert a.p_value == b.p_value
        assert a.adjusted_p_value == b.adjusted_p_value
        np.testing.assert_allclose(a.interval, b.interval, atol=1e-12)


def test_the_units_need_not_be_the_rows_of_the_features():
    """Seven users are the units; the modalities of 60 items, the rows, are hidden."""
    items, _ = made_up()
    users = torch.arange(7)

    def recommend(features, mask):
        return (users[:, None] * mask.double().mean(dim=1)).sum(dim=1)

    report = quick(recommend, items, users, mean, num_resamples=20)
    assert (report.num_rows, report.num_units) == (60, 7)
    assert report.complete().value == pytest.approx(3 * 60)
    assert "7 units, 60 rows" in str(report)
