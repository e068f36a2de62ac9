"""Evenness of the modalities, and steps at which one modality more makes a model worse."""

import dataclasses
import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from invmod.robustness import PatternResult, RobustnessReport
from invmod.robustness.arguments import drawn_seed
from invmod.robustness.monotony import Step, steps
from invmod.robustness.monotony import _interval as interval_of_loss
from invmod.robustness.monotony import _null as centred_or_swapped
from invmod.robustness.resampling import Resamples
from tests.library.robustness_cases import by_mean, made_up, mean, quick, right
from tests.strategies import normal, seeded


def report_of(value, names=("a", "b", "c"), *, higher_is_better=True, keep=lambda pattern: True):
    """A report whose metric is a function of the pattern."""
    patterns = sorted(
        (p for p in itertools.product((True, False), repeat=len(names)) if any(p) and keep(p)),
        key=sum,
        reverse=True,
    )
    results = tuple(PatternResult("m", p, str(p), value(p), None, None, 0) for p in patterns)
    return RobustnessReport(
        ("m",), names, "score", higher_is_better, 9, 9, 0.95, 3, 0, False, results
    )


def additive(pattern):
    return 0.2 + sum(part for part, here in zip((0.3, 0.2, 0.1), pattern, strict=True) if here)


def test_an_additive_metric_has_its_parts_as_contributions():
    found = report_of(additive).contributions(empty=0.2)
    assert list(found.values) == ["a", "b", "c"]
    np.testing.assert_allclose(list(found.values.values()), (0.3, 0.2, 0.1))
    assert found.evenness == pytest.approx(0.921, abs=5e-4)
    assert (found.model, found.clipped) == ("m", ())


def test_contributions_sum_to_the_gain_and_equal_the_mean_over_orders():
    values = dict(
        zip(itertools.product((True, False), repeat=3), normal(seeded(0), 8).tolist(), strict=True)
    )
    found = report_of(values.__getitem__).contributions(empty=values[False, False, False])
    expected = np.zeros(3)
    for order in itertools.permutations(range(3)):
        pattern = [False] * 3
        for modality in order:
            before = values[tuple(pattern)]
            pattern[modality] = True
            expected[modality] += (values[tuple(pattern)] - before) / 6
    np.testing.assert_allclose(list(found.values.values()), expected)
    assert sum(found.values.values()) == pytest.approx(
        values[True, True, True] - values[False, False, False]
    )
    assert found.clipped == tuple(n for n, phi in zip("abc", expected, strict=True) if phi < 0)
    positive = expected.clip(min=0) / expected.clip(min=0).sum()
    entropy = -sum(s * math.log(s) for s in positive if s > 0)
    assert found.evenness == pytest.approx(entropy / math.log(3))


def test_evenness_is_1_for_equal_modalities_and_0_for_one_that_carries_everything():
    assert report_of(lambda p: sum(p) ** 2 / 9).contributions(empty=0).evenness == pytest.approx(1)
    alone = report_of(lambda p: float(p[0])).contributions(empty=0.0)
    assert alone.evenness == 0.0
    assert math.copysign(1, alone.evenness) == 1
    two = report_of(lambda p: float(p[0] + p[1])).contributions(empty=0.0)
    assert two.evenness == pytest.approx(math.log(2) / math.log(3))
    assert report_of(lambda p: 0.5).contributions(empty=0.5).evenness is None
    assert report_of(lambda p: 0.5, ("a",)).contributions(empty=0.1).evenness is None


def test_a_lower_metric_is_better_if_the_report_says_so():
    down = report_of(lambda p: 1 - additive(p), higher_is_better=False).contributions(empty=0.8)
    np.testing.assert_allclose(list(down.values.values()), (0.3, 0.2, 0.1))


def test_a_modality_that_does_harm_is_clipped_and_named():
    found = report_of(lambda p: 0.5 * p[0] - 0.1 * p[2]).contributions(empty=0.0)
    assert found.clipped == ("c",)
    assert found.values["c"] == pytest.approx(-0.1)
    assert found.evenness == 0.0


def test_contributions_need_all_patterns_and_a_finite_value_of_none():
    some = report_of(additive, keep=lambda p: sum(p) != 1)
    with pytest.raises(ValueError, match=r"needs all patterns of the modalities, 7, got 4"):
        some.contributions(empty=0.2)
    with pytest.raises(ValueError, match="`empty` must be a finite number, got nan"):
        report_of(additive).contributions(empty=float("nan"))


# --- steps


@pytest.mark.parametrize("m", [1, 2, 3, 5])
def test_the_steps_are_all_pairs_that_differ_by_one_modality(m):
    patterns = [p for p in itertools.product((True, False), repeat=m) if any(p)]
    found = steps(patterns)
    assert len(found) == m * 2 ** (m - 1) - m
    for more, fewer, added in found:
        assert patterns[more][added]
        assert not patterns[fewer][added]
        assert sum(a != b for a, b in zip(patterns[more], patterns[fewer], strict=True)) == 1


def harmed_by_audio(features, mask):
    """Vote with the audio counted five times and in the wrong direction."""
    weights = {"text": 1.0, "image": 1.0, "audio": -5.0}
    votes = [
        torch.where(mask[:, i], weights[name] * features[name].mean(dim=1), 0.0)
        for i, name in enumerate(features)
    ]
    return (sum(votes) > 0).long()


@pytest.mark.parametrize("per_unit", [right, None])
@pytest.mark.parametrize("higher_is_better", [True, False])
def test_a_modality_that_does_harm_is_found(per_unit, higher_is_better):
    def error(predictions, targets):
        return 1 - float(right(predictions, targets).mean())

    options = {"num_resamples": 300, "per_unit": per_unit}
    if not higher_is_better:
        per_unit = per_unit and (lambda p, t: 1 - right(p, t))
        options |= {"metric": error, "higher_is_better": False, "per_unit": per_unit}
    report = quick({"good": by_mean, "bad": harmed_by_audio}, **options)
    found = report.violations(significance=0.05)
    assert {(v.model, v.added) for v in found} == {("bad", "audio")}
    assert {v.name for v in found} == {"text+image+audio", "text+audio", "image+audio"}
    sign = 1 if higher_is_better else -1
    for violation in found:
        with_it = report.result(violation.pattern, "bad").value
        fewer = (*violation.pattern[:2], False)
        without = report.result(fewer, "bad").value
        assert (violation.value, violation.value_without) == (with_it, without)
        assert violation.loss == pytest.approx(sign * (without - with_it))
        assert violation.interval[0] > 0
        assert violation.interval[0] < violation.loss < violation.interval[1]
        assert violation.p_value <= violation.adjusted_p_value
    assert report.violations(significance=0.05, model="good") == ()
    assert RobustnessReport.from_json(report.to_json()) == report
    assert "significantly in 3 (at 5%, corrected)" in " ".join(str(report).split())
    assert "better without" in str(report)


def test_the_violations_of_another_metric_are_tested_by_the_centred_bootstrap():
    def balanced(predictions, targets):
        rates = [float((predictions[targets == c] == c).double().mean()) for c in (0, 1)]
        return sum(rates) / 2

    report = quick({"good": by_mean, "bad": harmed_by_audio}, metric=balanced, num_resamples=200)
    found = report.violations(significance=0.05)
    assert {(v.model, v.added) for v in found} == {("bad", "audio")}
    assert all(v.interval[0] > 0 for v in found)


@pytest.mark.parametrize(("num_defined", "known"), [(49, False), (50, True)])
def test_a_loss_that_is_undefined_in_most_resamples_has_no_interval(num_defined, known):
    values = np.where(np.arange(100) < num_defined, normal(seeded(0), 100).numpy(), np.nan)
    more, fewer = (SimpleNamespace(resampled=lambda _, x=x: x) for x in (values, np.zeros(100)))
    evaluation = SimpleNamespace(resamples=Resamples(30, 100, 0), confidence=0.95)
    assert (interval_of_loss(evaluation, more, fewer, 1.0) is not None) == known


def test_the_p_value_of_a_violation_counts_swaps_that_lose_at_least_as_much():
    options = {"num_resamples": 99, "per_unit": right, "patterns": [("text", "image")]}
    features, targets = made_up()

    def chance(given, mask):
        votes = torch.where(mask[:, 0], given["text"][:, 0], 0.1)
        return (votes + torch.where(mask[:, 2], -0.3 * given["audio"][:, 1], 0.0) > 0).long()

    report = quick(chance, features, targets, **options)
    (violation,) = report.violations()
    every = torch.ones(60, 3, dtype=torch.bool)
    fewer = torch.tensor([True, True, False]).expand(60, 3)
    loss = (
        right(chance(features, fewer), targets) - right(chance(features, every), targets)
    ).numpy()
    swaps = np.stack(list(Resamples(60, 99, drawn_seed(seeded(0))).swaps()))
    losses = np.where(swaps, -loss, loss).mean(axis=1)
    expected = (1 + (losses >= loss.mean() - 1e-12).sum()) / 100
    assert 0.02 < expected < 0.5
    assert violation.p_value == violation.adjusted_p_value == pytest.approx(expected)
    # With a second model, the number of models is the factor of Bonferroni's correction.
    both = quick({"a": chance, "b": by_mean}, features, targets, **options)
    (corrected,) = both.violations(model="a")
    assert corrected.adjusted_p_value == pytest.approx(2 * expected)


def test_centred_bootstrap_values_are_widened_for_few_units():
    class Scores:
        def __init__(self, values, value):
            self.values, self.value = np.array(values), value

        def resampled(self, _resamples):
            return self.values

    class Given:
        resamples = Resamples(5, 3, 0)

    scores = [Scores([0.6, 0.7, 0.9], 0.7), Scores([0.5, 0.4, 0.5], 0.5)]
    null = centred_or_swapped(Given(), scores, [Step(0, 1, 0)])
    expected = np.array([[-0.1 - 0.0], [0.0 + 0.1], [0.2 - 0.0]]) * math.sqrt(5 / 4)
    np.testing.assert_allclose(null, expected)


def test_violations_by_chance_are_rarely_significant():
    """Noise is voted with noise: about 5% of reports have a significant step at 5%."""
    trials, significant, seen = 150, 0, 0
    for trial in range(trials):
        features, _ = made_up(40, seed=trial)
        targets = torch.randint(2, (40,), generator=seeded(1000 + trial))
        report = quick(
            by_mean, features, targets, num_resamples=99, per_unit=right, generator=seeded(trial)
        )
        seen += bool(report.violations())
        significant += bool(report.violations(significance=0.05))
    assert seen > 0.7 * trials
    assert significant / trials <= 0.05 + 3 * (0.05 * 0.95 / trials) ** 0.5


def test_without_resamples_the_steps_are_listed_but_not_tested():
    report = quick(harmed_by_audio)
    assert {v.adjusted_p_value for v in report.violations()} == {None}
    assert report.violations()[0].loss == max(v.loss for v in report.violations())
    assert "(not tested)" in str(report)
    with pytest.raises(ValueError, match="`significance` needs p-values"):
        report.violations(significance=0.05)
    with pytest.raises(KeyError, match="no model 'x'"):
        report.violations(model="x")


@pytest.mark.parametrize("level", [5, 1.0, 0, -0.05, float("nan")])
def test_a_level_of_significance_lies_between_0_and_1(level):
    report = quick(harmed_by_audio, num_resamples=20)
    with pytest.raises(ValueError, match=r"`significance` must lie in \(0, 1\), got .*5%"):
        report.violations(significance=level)
    with pytest.raises(TypeError, match="`significance` must be a number, got 'all'"):
        report.violations(significance="all")


def test_equal_values_are_no_violation():
    report = quick(lambda x, m: torch.full((60,), 0.1), metric=mean, num_resamples=20)
    assert report.violations() == ()
    assert "worse" not in str(report)


def test_a_report_cannot_be_changed():
    report = quick()
    with pytest.raises(dataclasses.FrozenInstanceError):
        report.metric = "other"
