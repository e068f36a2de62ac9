"""Permutation tests of a robustness report."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from invmod.robustness.permutation import adjusted_p_values
from invmod.robustness.resampling import Resamples
from tests.library.robustness_cases import (
    by_first,
    by_mean,
    quick,
    right,
)
from tests.strategies import generators, laws, normal


@laws
@given(generators(), st.integers(1, 5), st.integers(1, 12))
def test_max_t_equals_its_definition(generator, num_tests, count):
    observed = normal(generator, num_tests).numpy()
    permuted = normal(generator, count, num_tests).numpy()
    scale = np.sqrt((observed**2 + (permuted**2).sum(axis=0)) / (1 + count))
    t, null = abs(observed) / scale, abs(permuted) / scale
    plain, adjusted = adjusted_p_values(observed, permuted)
    ranked, running = sorted(range(num_tests), key=lambda h: -t[h]), 0.0
    for place, h in enumerate(ranked):
        assert plain[h] == (1 + sum(null[b, h] >= t[h] for b in range(count))) / (1 + count)
        exceeds = [max(null[b, g] for g in ranked[place:]) >= t[h] for b in range(count)]
        running = max(running, (1 + sum(exceeds)) / (1 + count))
        assert adjusted[h] == running
    assert (adjusted >= plain).all()


def test_the_permutation_test_keeps_its_level_for_models_that_differ_by_chance():
    """For two models with independent, equally frequent errors, about 10% are rejected at 10%."""
    rejected, trials, n = 0, 200, 40
    for trial in range(trials):
        rng = np.random.default_rng(trial)
        differences = rng.integers(0, 2, (n, 6)).astype(float) - rng.integers(0, 2, (n, 6))
        signs = np.stack(list(Resamples(n, 199, trial).swaps())) * -2.0 + 1
        _, adjusted = adjusted_p_values(differences.mean(axis=0), signs @ differences / n)
        rejected += bool((adjusted <= 0.1).any())
    assert rejected / trials <= 0.1 + 3 * (0.09 / trials) ** 0.5
    assert rejected / trials >= 0.04  # the test is not too conservative


def test_a_real_difference_is_significant_and_an_absent_one_is_not():
    report = quick(
        {"first": by_first, "mean": by_mean, "again": by_first}, num_resamples=300, per_unit=right
    )
    assert {(d.model, d.baseline) for d in report.differences} == {
        ("mean", "first"),
        ("again", "first"),
    }
    values = {(r.model, r.name): r.value for r in report.patterns}
    for difference in report.differences:
        assert difference.value == pytest.approx(
            values[difference.model, difference.name] - values["first", difference.name]
        )
        if difference.model == "again":
            assert difference.value == 0
            assert difference.adjusted_p_value == 1
        elif difference.name == "image+audio":
            assert difference.adjusted_p_value < 0.02
            assert difference.interval[0] > 0
        assert difference.adjusted_p_value >= difference.p_value


def test_the_correction_includes_the_number_of_comparisons():
    two = quick({"first": by_first, "mean": by_mean}, num_resamples=99, per_unit=right)
    three = quick(
        {"first": by_first, "mean": by_mean, "again": by_first}, num_resamples=99, per_unit=right
    )
    for a, b in zip(two.differences, three.differences, strict=False):
        assert b.adjusted_p_value == min(1.0, 2 * a.adjusted_p_value)
