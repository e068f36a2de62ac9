"""Intervals of a robustness report: quantiles, coverage computed exactly, undefined metrics."""

import itertools
import json
import math

import numpy as np
import pytest
import sklearn.metrics
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from invmod._distributions import beta_cdf, beta_quantile, binomial_interval, t_quantile
from invmod.robustness import RobustnessReport, robustness_report
from invmod.robustness.intervals import (
    paired_binary_interval,
    percentile_interval,
    share_interval,
    skewed_interval,
    t_interval,
)
from invmod.robustness.scores import is_mean_over_units
from tests.library.robustness_cases import (
    accuracy,
    by_first,
    by_mean,
    made_up,
    mean,
    quick,
    right,
)
from tests.strategies import NAN, laws, seeded

SEEDS = st.integers(0, 2**32 - 1)

# --- quantiles and formulas


@laws
@given(SEEDS)
def test_quantiles_equal_those_of_scipy(seed):
    rng = np.random.default_rng(seed)
    a, b = (float(x) for x in 10 ** rng.uniform(-1, 5, 2))
    for p in (0.005, 0.025, 0.3, 0.975, 0.995):
        expected = stats.beta.ppf(p, a, b)
        assert beta_quantile(p, a, b) == pytest.approx(expected, rel=1e-7, abs=1e-12)
        df = float(np.ceil(a))
        assert t_quantile(p, df) == pytest.approx(stats.t.ppf(p, df), rel=1e-7)
    x = float(rng.random())
    assert beta_cdf(x, a, b) == pytest.approx(stats.beta.cdf(x, a, b), abs=1e-9)
    assert t_quantile(0.5, 3) == 0.0


@pytest.mark.parametrize("trials", [1, 2, 20, 400])
def test_the_interval_of_a_proportion_equals_that_of_scipy(trials):
    for successes in {0, 1, trials // 2, trials - 1, trials}:
        for confidence in (0.8, 0.95):
            expected = stats.binomtest(successes, trials).proportion_ci(confidence, "exact")
            found = binomial_interval(successes, trials, confidence)
            np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("trials", [1, 5, 20, 60])
def test_a_proportion_is_covered_with_at_least_the_confidence(trials):
    """The coverage is a sum over all numbers of successes, so it has no simulation error."""
    bounds = [binomial_interval(k, trials, 0.95) for k in range(trials + 1)]
    for p in (0.001, 0.01, 0.05, 0.1, 0.3, 0.5, 0.77, 0.95, 0.99):
        weights = stats.binom.pmf(range(trials + 1), trials, p)
        covered = sum(
            weight for weight, (low, high) in zip(weights, bounds, strict=True) if low <= p <= high
        )
        assert covered >= 0.95


@pytest.mark.parametrize("trials", [5, 20, 40])
def test_a_difference_of_proportions_is_covered_with_the_confidence(trials):
    """The coverage is a sum over all numbers of units that differ in each direction."""
    for more, less in itertools.product((0.0, 0.01, 0.05, 0.2, 0.3), repeat=2):
        covered = 0.0
        for n_more in range(trials + 1):
            for n_less in range(trials + 1 - n_more):
                differences = np.zeros(trials)
                differences[:n_more] = 1.0
                differences[trials - n_less :] -= 1.0
                weight = stats.multinomial.pmf(
                    (n_more, n_less, trials - n_more - n_less),
                    trials,
                    (more, less, 1 - more - less),
                )
                low, high = paired_binary_interval(differences, 0.95)
                covered += weight * (low <= more - less <= high)
        assert covered >= 0.945


def test_the_t_interval_equals_that_of_scipy():
    values = np.random.default_rng(0).normal(size=20)
    expected = stats.ttest_1samp(values, 0.0).confidence_interval(0.9)
    np.testing.assert_allclose(t_interval(values, 0.9), expected, rtol=1e-7)


@laws
@given(SEEDS, st.integers(3, 40))
def test_the_interval_of_skewed_values_inverts_halls_transformation(seed, count):
    values = np.random.default_rng(seed).exponential(size=count)
    low, high = skewed_interval(values, 0.95)
    deviation, gamma = values.std(ddof=1), stats.skew(values)

    def transformed(bound):
        w = (values.mean() - bound) / deviation
        return w + gamma * w**2 / 3 + gamma**2 * w**3 / 27 + gamma / (6 * count)

    expected = stats.t.ppf(0.975, count - 1) / math.sqrt(count)
    assert transformed(low) == pytest.approx(expected)
    assert transformed(high) == pytest.approx(-expected)
    assert low < values.mean() < high
    # Units and direction of the values do not matter.
    np.testing.assert_allclose(skewed_interval(3 - 2 * values, 0.95), (3 - 2 * high, 3 - 2 * low))
    symmetric = np.concatenate([values, -values])
    np.testing.assert_allclose(skewed_interval(symmetric, 0.9), t_interval(symmetric, 0.9))


def test_percentiles_are_expanded_to_the_width_of_the_t_interval():
    """The bootstrap means of normal values have their quantiles."""
    for count in (10, 20, 1000):
        values = stats.norm.ppf((np.arange(1, 200_000) - 0.5) / 200_000)
        deviation = math.sqrt(1 / count)  # of the mean of values with variance 1
        low, high = percentile_interval(values * deviation, count, 0.95)
        # The bootstrap divides by U, so its deviation falls short by sqrt((U - 1) / U).
        width = stats.t.ppf(0.975, count - 1) / math.sqrt(count - 1)
        assert high == pytest.approx(width, rel=1e-3)
        assert low == pytest.approx(-width, rel=1e-3)


def test_shares_have_the_interval_of_their_effective_number_of_trials():
    binary = np.array([1.0, 1.0, 0.0, 1.0, 1.0])
    assert share_interval(binary, 0.95) == binomial_interval(4, 5, 0.95)
    assert share_interval(np.full(7, 1.0), 0.95) == binomial_interval(7, 7, 0.95)
    assert share_interval(np.full(4, 0.5), 0.95) == binomial_interval(2, 4, 0.95)
    shares = np.array([0.0, 1 / 3, 2 / 3, 1.0, 1 / 3, 2 / 3, 1.0, 1.0])
    trials = shares.mean() * (1 - shares.mean()) / (shares.var(ddof=1) / 8)
    trials *= (stats.norm.ppf(0.975) / stats.t.ppf(0.975, 7)) ** 2
    expected = (
        stats.beta.ppf(0.025, trials * shares.mean(), trials * (1 - shares.mean()) + 1),
        stats.beta.ppf(0.975, trials * shares.mean() + 1, trials * (1 - shares.mean())),
    )
    np.testing.assert_allclose(share_interval(shares, 0.95), expected, rtol=1e-7)


def test_tiny_and_equal_cases():
    one, equal = np.array([0.3]), np.full(9, 0.1)
    assert t_interval(one, 0.95) is skewed_interval(one, 0.95) is None
    assert percentile_interval(np.zeros(10), 1, 0.95) is None
    np.testing.assert_allclose(skewed_interval(equal, 0.95), (0.1, 0.1))
    np.testing.assert_allclose(t_interval(equal, 0.95), (0.1, 0.1))
    # (2.5 - 1.5) / 23 -/+ 2.093 * sqrt((4 / 23 - 1 / 529) / 23)
    one_more = paired_binary_interval(np.array([1.0] + [0.0] * 19), 0.95)
    np.testing.assert_allclose(one_more, (-0.13750, 0.22446), atol=5e-5)
    low, high = paired_binary_interval(np.zeros(20), 0.95)
    assert low == -high < 0


# --- intervals in a report


def test_accuracy_has_the_exact_interval_with_and_without_values_of_units():
    options = {"predict": {"a": by_mean, "b": by_first}, "num_resamples": 20}
    report = quick(**options)
    for result in report.patterns:
        expected = binomial_interval(round(60 * result.value), 60, 0.95)
        np.testing.assert_allclose(result.interval, expected)
    features, targets = made_up()
    for difference in report.differences:
        mask = torch.tensor(difference.pattern).expand(60, 3)
        hidden = {
            name: torch.where(mask[:, i, None], x, NAN)
            for i, (name, x) in enumerate(features.items())
        }
        a, b = (right(f(hidden, mask), targets).numpy() for f in (by_mean, by_first))
        expected = paired_binary_interval(b - a, 0.95)
        np.testing.assert_allclose(difference.interval, expected)


def test_a_perfect_model_has_an_interval_with_a_width():
    _, targets = made_up()
    report = quick(lambda x, mask: targets, num_resamples=20, rates=(0.0, 0.5))
    for result in (*report.patterns, *report.rates):
        assert result.value == 1.0
        np.testing.assert_allclose(result.interval, (0.025 ** (1 / 60), 1.0), rtol=1e-6)


def squared_error(predictions, targets):
    return float(((predictions - targets) ** 2).double().mean())


def test_other_means_have_the_interval_of_skewed_values_and_differences_the_t_interval():
    def regress(features, mask):
        return features["text"].nan_to_num().mean(dim=1)

    report = quick({"a": regress, "b": by_first}, metric=squared_error, num_resamples=20)
    features, targets = made_up()
    errors = [
        (regress(features, None) - targets) ** 2,
        right(by_first(features, None), 1 - targets),
    ]
    errors = [x.double().numpy() for x in errors]
    np.testing.assert_allclose(report.complete("a").interval, skewed_interval(errors[0], 0.95))
    np.testing.assert_allclose(
        report.complete("b").interval, binomial_interval(errors[1].sum(), 60, 0.95)
    )
    np.testing.assert_allclose(
        report.differences[0].interval, t_interval(errors[1] - errors[0], 0.95)
    )


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        (accuracy, True),
        (squared_error, True),
        (lambda p, t: float((p.double() - t).abs().mean().float()), True),
        (lambda p, t: sklearn.metrics.f1_score(t, p, average="micro"), True),
        (lambda p, t: sklearn.metrics.f1_score(t, p, average="macro"), False),
        (lambda p, t: sklearn.metrics.balanced_accuracy_score(t, p), False),
        (lambda p, t: sklearn.metrics.r2_score(t, p), False),
        (lambda p, t: sklearn.metrics.roc_auc_score(t, p), False),
        (lambda p, t: squared_error(p, t) ** 0.5, False),
        (lambda p, t: float((p - t).double().median()), False),
        (lambda p, t: float((p - t).double().std()), False),
        (lambda p, t: float((p == t).double().max()), False),
    ],
)
@pytest.mark.parametrize("perfect", [False, True])
def test_a_metric_is_recognised_as_a_mean_over_units_even_for_a_perfect_model(
    metric, expected, perfect
):
    features, targets = made_up()
    predictions = targets if perfect else by_mean(features, torch.ones(60, 3, dtype=torch.bool))
    assert is_mean_over_units(metric, predictions, targets, seed=0) is expected


def test_many_units_are_not_tried_one_by_one(monkeypatch):
    monkeypatch.setattr("invmod.robustness.evaluation.UNITS_TRIED", 59)
    calls = []

    def counted(predictions, targets):
        calls.append(len(targets))
        return accuracy(predictions, targets)

    quick(metric=counted, num_resamples=10, patterns=[])
    assert calls == [60] * 11
    calls.clear()
    quick(metric=counted, num_resamples=60, patterns=[])
    assert calls.count(1) == 120
    assert calls.count(60) == 11
    calls.clear()
    quick(metric=counted, num_resamples=0, patterns=[])
    assert calls == [60]


def auc(scores, targets):
    positive, negative = scores[targets == 1], scores[targets == 0]
    return float((positive[:, None] > negative).double().mean())


def scores_of(features, mask):
    z = torch.stack([x.mean(dim=1) for x in features.values()], dim=1)
    return torch.where(mask, z, 0.0).sum(dim=1)


def test_other_metrics_have_expanded_percentiles_of_the_bootstrap_over_units():
    report = quick(scores_of, metric=auc, num_resamples=400, patterns="one_left", confidence=0.8)
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
        expected = percentile_interval(np.array(values), 60, 0.8)
        np.testing.assert_allclose([low, high], expected, atol=0.02)


def rare(features, mask):
    """Scores of 30 units of which two are positive."""
    return features["text"].nan_to_num()[:, 0]


def rare_data():
    features, _ = made_up(30)
    targets = torch.zeros(30, dtype=torch.long)
    targets[:2] = 1
    return features, targets


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["nan", "raises", "infinite"])
def test_resamples_in_which_a_metric_is_undefined_are_counted_and_left_out(kind):
    features, targets = rare_data()

    def metric(scores, truth):
        if (truth == 1).any():
            return auc(scores, truth)
        if kind == "raises":
            raise ValueError("only one class")
        return NAN if kind == "nan" else math.inf

    report = quick(
        {"a": rare, "b": scores_of}, features, targets, metric, num_resamples=200, rates=(0.0, 0.5)
    )
    counts = {x.num_undefined for x in (*report.patterns, *report.rates, *report.differences)}
    assert len(counts) == 1  # the resamples are the same everywhere
    (count,) = counts
    assert abs(count / 200 - (28 / 30) ** 30) < 4 * (0.13 * 0.87 / 200) ** 0.5
    for result in (*report.patterns, *report.rates, *report.differences):
        low, high = result.interval
        assert -1 <= low <= result.value <= high <= 1
    text = report.to_json()
    json.loads(text, parse_constant=pytest.fail)
    assert RobustnessReport.from_json(text) == report
    assert f"undefined in up to {count} of 200 resamples" in str(report)


def test_a_metric_that_is_mostly_undefined_is_a_clear_error():
    features, targets = rare_data()

    def metric(scores, truth):
        return auc(scores, truth) if (truth == 1).sum() > 2 else float("nan")

    def whole(scores, truth):
        return 0.5 if len(set(scores.tolist())) == 30 else NAN

    with pytest.raises(ValueError, match="the metric of 'model' is nan under the pattern"):
        quick(rare, features, targets, metric, num_resamples=50)
    message = (
        r"'model' under the pattern text\+image\+audio, the metric is defined in only 0 of 50 "
        "bootstrap resamples of the 30 units"
    )
    with pytest.raises(ValueError, match=message):
        quick(rare, features, targets, whole, num_resamples=50)
    assert quick(rare, features, targets, whole, patterns=[]).complete().value == 0.5


def test_sklearn_metrics_that_warn_are_counted_without_a_warning_per_resample():
    """`roc_auc_score` warns and returns NaN, or raises, if there is one class."""
    features, targets = rare_data()
    report = quick(
        rare, features, targets, sklearn.metrics.roc_auc_score, num_resamples=60, patterns=[]
    )
    assert report.complete().num_undefined > 0
    assert report.complete().interval[0] < report.complete().value


def test_a_single_unit_has_an_interval_only_for_a_proportion():
    features, targets = made_up(1)
    options = {"num_resamples": 20, "rates": (0.0, 0.5)}
    exact = quick(by_mean, features, targets, per_unit=right, **options)
    assert exact.complete().interval in ((0.025, 1.0), pytest.approx((0.025, 1.0)))
    report = quick(
        {"a": scores_of, "b": lambda x, m: torch.full((1,), 0.5)},
        features,
        targets,
        mean,
        **options,
    )
    assert {x.interval for x in (*report.patterns, *report.rates, *report.differences)} == {None}
    assert "1 unit, no intervals (a single unit)" in str(report)
    assert RobustnessReport.from_json(report.to_json()) == report


def test_equal_values_have_an_interval_without_width():
    report = quick(lambda x, mask: torch.full((60,), 0.25), metric=mean, num_resamples=20)
    assert {result.interval for result in report.patterns} == {(0.25, 0.25)}


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


@pytest.mark.parametrize("per_unit", [True, False])
@pytest.mark.parametrize("units", [2, 3, 5, 6, 9])
def test_equal_differences_have_an_interval_only_where_the_test_agrees(units, per_unit):
    """Differences of 0.2 for every unit: the sign test has the p-value 2 ** (1 - units)."""
    targets = np.linspace(1.0, 2.0, units)

    def shifted(by):
        return lambda features, mask: targets + by + 0.1 * (~mask[:, 0])

    def metric(predictions, targets):
        errors = predictions - targets
        return float(errors.mean() if per_unit else np.median(errors))

    report = robustness_report(
        {"a": shifted(0.0), "b": shifted(0.2)},
        {"x": np.ones((units, 1)), "y": np.ones((units, 1))},
        targets,
        metric,
        rates=(),
        num_resamples=99,
        generator=seeded(0),
    )
    for difference in report.differences:
        assert difference.value == pytest.approx(0.2)
        if units < 6:
            assert difference.interval is None
            assert difference.p_value > 0.05
        else:
            np.testing.assert_allclose(difference.interval, (0.2, 0.2))
    for step in report.violations():
        assert (step.interval is None) == (units < 6)
