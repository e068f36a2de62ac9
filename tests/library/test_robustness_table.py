"""The text table of a robustness report."""

import builtins
import dataclasses
import re

import pytest
import torch

from invmod.robustness import (
    ModelDifference,
    PatternResult,
    ProfileResult,
    RateResult,
    RobustnessReport,
    Violation,
    text_table,
)
from invmod.robustness.numbers import p_value
from tests.library.robustness_cases import (
    by_first,
    by_mean,
    made_up,
    mean,
    quick,
)
from tests.strategies import NAN


@pytest.fixture(scope="module")
def report():
    return quick(
        {"ours": by_mean, "<b>theirs</b>": by_first}, rates=(0.0, 0.5, 0.9), num_resamples=40
    )


def test_the_table_contains_every_number(report):
    text = str(report)
    assert text == text_table(report)
    for result in report.patterns:
        assert re.search(
            rf"^{re.escape(result.name)} +.*{result.value:.4f} \[{result.interval[0]:.4f}",
            text,
            re.MULTILINE,
        )
    for model in report.models:
        assert f"{report.area(None, model):.4f}" in text
    assert "(higher is better), 60 units, 95% intervals, 40 resamples" in text
    # The intervals start at the same position, so the columns are aligned.
    assert len({line.find("[") for line in text.split("\n\n")[1].splitlines()[2:9]}) == 1
    assert "no intervals" in str(quick())


def by_hand():
    """A report in which no two numbers are equal, so that a wrong one is noticed."""
    both, text = (True, True), (True, False)
    return RobustnessReport(
        models=("old", "new"),
        modalities=("text", "image"),
        metric="score",
        higher_is_better=True,
        num_rows=7,
        num_units=5,
        confidence=0.9,
        num_draws=3,
        num_resamples=1000,
        patterns_sampled=False,
        patterns=(
            PatternResult("old", both, "text+image", 0.81, (0.71, 0.91), 0.0, 0),
            PatternResult("new", both, "text+image", 0.82, (0.72, 0.92), 0.0, 0),
            PatternResult("old", text, "text", 0.63, (0.53, 0.73), 0.222, 2),
            PatternResult("new", text, "text", 0.84, (0.74, 0.94), -0.024, 2),
        ),
        rates=(
            RateResult("old", None, 0.0, 0.0, 0.81, (0.71, 0.91)),
            RateResult("new", None, 0.0, 0.0, 0.82, (0.72, 0.92)),
            RateResult("old", None, 0.5, 0.333, 0.75, (0.65, 0.85)),
            RateResult("new", None, 0.5, 0.333, 0.76, (0.66, 0.86)),
        ),
        profiles=(
            ProfileResult("old", "phone", (0.6, 0.1), (0.57, 0.06), 0.65, (0.6, 0.7), 0.198),
            ProfileResult("new", "phone", (0.6, 0.1), (0.57, 0.06), 0.79, (0.7, 0.9), 0.037),
        ),
        differences=(
            ModelDifference("new", "old", both, "text+image", 0.01, (-0.02, 0.04), 0.24, 0.36),
            ModelDifference("new", "old", text, "text", 0.21, (0.11, 0.31), 1 / 1001, 2 / 1001),
        ),
    )


def test_the_table_of_a_report_made_by_hand():
    assert (
        str(by_hand())
        == """\
score (higher is better), 5 units, 7 rows, 90% intervals, 1000 resamples

pattern        old                      change  new                      change
-------------  -----------------------  ------  -----------------------  ------
text+image     0.8100 [0.7100, 0.9100]  0.0%    0.8200 [0.7200, 0.9200]  0.0%
text           0.6300 [0.5300, 0.7300]  -22.2%  0.8400 [0.7400, 0.9400]  +2.4%
-------------  -----------------------  ------  -----------------------  ------
worst pattern  text                     -22.2%  text+image               0.0%
worst value    0.6300                   -22.2%  0.8200                   0.0%
A pattern leaves up to 2 rows without any modality.

modalities missing  old     new
------------------  ------  ------
0                   0.8100  0.8200
1                   0.6300  0.8400
Mean over the patterns with that number of missing modalities.

missing rate          effective  old                      new
--------------------  ---------  -----------------------  -----------------------
0                     0.000      0.8100 [0.7100, 0.9100]  0.8200 [0.7200, 0.9200]
0.5                   0.333      0.7500 [0.6500, 0.8500]  0.7600 [0.6600, 0.8600]
--------------------  ---------  -----------------------  -----------------------
mean along the curve             0.7800                   0.7900

profile  text         image        old                      change  new                      change
-------  -----------  -----------  -----------------------  ------  -----------------------  ------
phone    0.6 (0.570)  0.1 (0.060)  0.6500 [0.6000, 0.7000]  -19.8%  0.7900 [0.7000, 0.9000]  -3.7%
In brackets: the share of cells that was hidden.

pattern     difference                            corrected p
----------  ----------  ------------------------  -----------
text+image  new - old   0.0100 [-0.0200, 0.0400]  0.360
text        new - old   0.2100 [0.1100, 0.3100]   0.002"""
    )


def test_the_smallest_p_value_of_the_permutations_is_shown_as_a_bound():
    report = quick({"first": by_first, "mean": by_mean}, num_resamples=200)
    smallest = [d for d in report.differences if d.adjusted_p_value == 1 / 201]
    assert smallest
    rows = [line for line in str(report).splitlines() if "mean - first" in line]
    for difference, row in zip(report.differences, rows, strict=True):
        assert row.startswith(difference.name)
        assert row.endswith("<= 0.005") == (difference in smallest)
    assert "0.00498" not in str(report)


@pytest.mark.parametrize("count", [1, 5, 19, 99, 200, 999, 1000, 9999])
def test_no_p_value_is_shown_below_what_the_permutations_allow(count):
    for comparisons in (1, 2, 3):
        smallest = min(1.0, comparisons / (count + 1))
        for exceeding in range(1, min(count, 50) + 2):
            p = min(1.0, comparisons * exceeding / (count + 1))
            text = p_value(p, count, comparisons)
            shown = float(text.removeprefix("<= "))
            assert shown >= smallest * (1 - 1e-9) or shown == pytest.approx(p, abs=0.5 / count)
            assert text.startswith("<= ") == (exceeding == 1 and p < 1)
            assert (text == "1") == (p == 1)


@pytest.mark.parametrize(
    ("names", "rates"),
    [
        (("text",), (0.0, 0.5, 0.9)),
        (("text", "image"), (0.5,)),
        (("text", "image"), (0.5, 0.5 + 1e-12)),
        (("text", "image"), (0.0, 1e-9)),
    ],
    ids=["one modality", "one rate", "equal rates", "nothing hidden"],
)
def test_a_curve_without_width_is_printed_without_its_mean(names, rates):
    features, targets = made_up(names=names)
    report = quick({"a": by_mean, "b": by_first}, features, targets, rates=rates, num_draws=1)
    text = str(report)
    assert "mean along the curve" not in text
    for point in report.curve():
        assert f"{point.rate:g}  " in text
    with pytest.raises(ValueError, match="has no width"):
        report.area()


def test_rows_of_one_modality_each_can_be_printed():
    features, targets = made_up()
    for index, name in enumerate(features):
        features[name][torch.arange(60) % 3 != index] = NAN
    report = quick(by_mean, features, targets, rates=(0.0, 0.5, 0.9), num_resamples=20)
    assert {point.effective_rate for point in report.rates} == {0.0}
    assert "mean along the curve" not in str(report)
    assert "A pattern leaves up to 40 rows without any modality." in str(report)


def test_ties_and_undefined_changes_are_stated():
    tied = quick({"a": by_mean, "zero": lambda x, m: torch.zeros(60)}, metric=mean)
    assert len(tied.tied_for_worst("zero")) == 7
    assert tied.tied_for_worst("zero")[0] == tied.worst("zero")
    assert "zero: 7 patterns tie for the worst; the first is named." in str(tied)
    assert "a: " not in str(tied)
    assert len(tied.tied_for_worst("a")) == 1
    undefined = [line for line in str(tied).splitlines() if "undefined" in line]
    assert len(undefined) == 9  # seven patterns and the two rows of the worst


def test_the_level_of_the_intervals_has_all_of_its_digits():
    report = quick(num_resamples=20, confidence=0.999)
    assert "99.9% intervals" in str(report)


def test_a_long_list_of_patterns_is_shortened_with_a_note():
    features, targets = made_up(20, [f"m{index}" for index in range(6)])
    report = quick({"a": by_mean, "b": by_first}, features, targets)
    text = str(report)
    assert "Shown: the complete pattern, one missing, one left, and the worst; 63 in all." in text
    assert report.worst("b").name in text
    assert len(text.splitlines()) < 50


def test_the_table_reports_emptied_rows_and_formats_numbers_of_any_size():
    features, targets = made_up()
    features["image"][:, :] = features["audio"][:, :] = NAN
    features["text"][:3] = NAN
    text = str(quick(by_mean, features, targets, patterns="one_left"))
    assert "A pattern leaves up to 60 rows without any modality." in text
    large = str(quick(lambda x, mask: mask.double().sum(dim=1) * 12345.678, metric=mean))
    assert re.search(r"text\+image\+audio +37037 ", large)
    tiny = str(quick(lambda x, mask: mask.double().sum(dim=1) * 1e-5, metric=mean))
    assert re.search(r"text\+image\+audio +3.0e-05 ", tiny)


def test_the_table_and_json_need_only_core_dependencies(monkeypatch):
    real = builtins.__import__

    def without(name, *rest, **more):
        if name.split(".")[0] in ("matplotlib", "polars", "jinja2", "scipy", "sklearn"):
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    report = quick({"a": by_mean, "b": by_first}, rates=(0.5,), num_resamples=3)
    assert str(report)
    assert RobustnessReport.from_json(report.to_json()) == report


def test_steps_have_corrected_p_values():
    step = Violation("new", (True, True), "text+image", "image", 0.5, 0.7, 0.2, None, 0.01, 0.04)
    text = str(dataclasses.replace(by_hand(), worse_with_more=(step,)))
    (row,) = (line for line in text.splitlines() if line.startswith("new  ") and "image" in line)
    assert row.split()[-1] == "0.040"
