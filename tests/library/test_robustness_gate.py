"""The gate `RobustnessReport.require`: bounds that are met, and the message of the others."""

import dataclasses
import re

import numpy as np
import pytest

from invmod.robustness import (
    PatternResult,
    ProfileResult,
    RobustnessError,
    RobustnessReport,
)
from tests.library.robustness_cases import NAMES, by_first, by_mean, quick

VALUES = {(True, True): 0.8, (True, False): 0.6, (False, True): 0.2}
LABELS = {(True, True): "text+image", (True, False): "text", (False, True): "image"}


def report_of(values=None, *, higher_is_better=True, models=("ours",)):
    """A report with intervals of half width 0.1; the drops follow from the values."""
    values = VALUES if values is None else values
    complete = values[True, True]
    sign = 1 if higher_is_better else -1
    results = tuple(
        PatternResult(
            model,
            pattern,
            LABELS[pattern],
            value,
            (value - 0.1, value + 0.1),
            sign * (complete - value) / complete if complete else None,
            0,
        )
        for pattern, value in values.items()
        for model in models
    )
    profiles = tuple(
        ProfileResult(model, "phone", (0.6, 0.1), (0.5, 0.1), 0.5, (0.4, 0.6), 0.375)
        for model in models
    )
    return RobustnessReport(
        models,
        ("text", "image"),
        "score",
        higher_is_better,
        10,
        10,
        0.95,
        3,
        9,
        False,
        results,
        profiles=profiles,
    )


@pytest.mark.parametrize(
    "bounds",
    [
        {"worst": 0.2},
        {"complete": 0.8},
        {"worst_drop": 0.75},
        {"pattern": {("text",): 0.6, ("image", "text"): 0.8}},
        {"pattern": {frozenset({"image"}): 0.2}},
        {"pattern": {(True, False): 0.6}},
        {"profile": {"phone": 0.5}},
        {"worst": np.float32(0.1), "complete": 0},
    ],
)
def test_a_value_equal_to_its_bound_meets_it_and_one_below_does_not(bounds):
    report = report_of()
    assert report.require(**bounds) is None

    def tighter(name, bound):
        return bound - 0.001 if name == "worst_drop" else bound + 0.001

    if "complete" in bounds and len(bounds) == 2:
        return
    (name, bound) = next(iter(bounds.items()))
    nested = isinstance(bound, dict)
    for key in bound if nested else [None]:
        tight = {key: tighter(name, bound[key])} if nested else tighter(name, bound)
        with pytest.raises(RobustnessError, match="does not meet 1 bound"):
            report.require(**{name: tight})


def test_a_sum_that_rounds_below_its_bound_meets_it():
    third = 0.1 + 0.1 + 0.1  # above 0.3 by one unit in the last place
    values = {**VALUES, (True, True): 1.0, (False, True): 1 - third - 0.4}
    assert values[False, True] < 0.3
    report_of(values).require(worst=0.3, worst_drop=0.7)


def test_the_message_names_pattern_value_interval_and_bound_of_all_that_fail():
    with pytest.raises(RobustnessError) as caught:
        report_of().require(
            worst=0.3,
            worst_drop=0.1,
            complete=0.9,
            pattern={("text",): 0.7, ("text", "image"): 0.5, frozenset({"image"}): 0.25},
            profile={"phone": 0.55},
        )
    assert isinstance(caught.value, AssertionError)
    text, image = "ours under the pattern text", "ours under the pattern image"
    assert str(caught.value).splitlines() == [
        "score does not meet 6 bounds (higher is better):",
        f"  complete: {text}+image is 0.8000 [0.7000, 0.9000], must be at least 0.9000.",
        f"  worst: {image} is 0.2000 [0.1000, 0.3000], must be at least 0.3000.",
        f"  worst_drop: {image} is 0.2000 [0.1000, 0.3000], 75% worse than 0.8000, must be at "
        "most 10%.",
        f"  pattern: {text} is 0.6000 [0.5000, 0.7000], must be at least 0.7000.",
        f"  pattern: {image} is 0.2000 [0.1000, 0.3000], must be at least 0.2500.",
        "  profile: ours under the profile phone is 0.5000 [0.4000, 0.6000], must be at least "
        "0.5500.",
    ]


def test_if_lower_is_better_the_bounds_are_maxima():
    report = report_of(higher_is_better=False)
    report.require(worst=0.8, complete=0.8, worst_drop=0.0, pattern={("image",): 0.2})
    with pytest.raises(RobustnessError) as caught:
        report.require(worst=0.7, pattern={("image",): 0.1})
    assert str(caught.value).splitlines() == [
        "score does not meet 2 bounds (lower is better):",
        "  worst: ours under the pattern text+image is 0.8000 [0.7000, 0.9000], must be at most "
        "0.7000.",
        "  pattern: ours under the pattern image is 0.2000 [0.1000, 0.3000], must be at most "
        "0.1000.",
    ]
    rising = report_of({**VALUES, (False, True): 1.2}, higher_is_better=False)
    rising.require(worst_drop=0.51)
    with pytest.raises(RobustnessError, match=r"50% worse than 0.8000, must be at most 49.5%"):
        rising.require(worst_drop=0.495)


def test_a_drop_above_100_percent_is_a_bound_only_where_it_can_be_exceeded():
    report_of().require(worst_drop=1.0)
    errors = report_of({**VALUES, (False, True): 2.0}, higher_is_better=False)
    errors.require(worst_drop=1.6)
    with pytest.raises(RobustnessError, match=r"150% worse than 0\.8000, must be at most 110%"):
        errors.require(worst_drop=1.1)
    explained = report_of({**VALUES, (False, True): -0.8})
    explained.require(worst_drop=2.1)
    with pytest.raises(RobustnessError, match="200% worse than"):
        explained.require(worst_drop=1.5)
    with pytest.raises(ValueError, match="must not be negative"):
        errors.require(worst_drop=-0.1)


def test_a_bound_equal_to_the_value_after_rounding_is_shown_in_full():
    report = report_of({**VALUES, (False, True): 0.19999})
    with pytest.raises(RobustnessError, match=r"at least 0.2 and is 0.19999 before rounding"):
        report.require(worst=0.2)


def test_an_undefined_drop_does_not_meet_a_bound():
    zero = report_of(dict.fromkeys(VALUES, 0.0))
    with pytest.raises(RobustnessError, match="its drop is undefined because the complete metric"):
        zero.require(worst_drop=0.5)
    zero.require(worst=0.0, complete=0.0)


def test_without_a_model_every_model_must_meet_the_bounds():
    report = quick({"mean": by_mean, "first": by_first}, num_resamples=20)
    report.require(worst=0.75, model="mean")
    for model in ("first", None):
        with pytest.raises(RobustnessError, match="worst: first under the pattern") as caught:
            report.require(worst=0.75, model=model)
        assert "mean under" not in str(caught.value)
    worst = report.worst("first")
    assert worst.name in str(caught.value)
    assert f"[{worst.interval[0]:.4f}, {worst.interval[1]:.4f}]" in str(caught.value)


def test_a_dead_modality_fails_the_gate_and_its_mended_twin_passes():
    """The first model reads one modality and ignores the two others."""
    bounds = {"worst": 0.7, "worst_drop": 0.25, "pattern": {("image",): 0.7, ("audio",): 0.7}}
    quick(by_mean).require(**bounds)
    with pytest.raises(RobustnessError, match="does not meet 4 bounds"):
        quick(by_first).require(**bounds)


@pytest.mark.parametrize(
    ("bounds", "error", "message"),
    [
        ({}, ValueError, "needs at least one bound"),
        ({"pattern": {}}, ValueError, "needs at least one bound"),
        ({"worst": float("nan")}, ValueError, "`worst` must be a finite number, got nan"),
        ({"worst": True}, ValueError, "`worst` must be a finite number, got True"),
        ({"worst": "0.5"}, ValueError, "`worst` must be a finite number, got '0.5'"),
        ({"complete": "high"}, TypeError, "`complete` must be a number, got 'high'"),
        ({"worst_drop": [0.1]}, TypeError, "`worst_drop` must be a number, got [0.1]"),
        ({"pattern": {"text": 0.5}}, TypeError, "Write ('text',)."),
        ({"pattern": {("video",): 0.5}}, KeyError, "names ['video'], which are not among"),
        ({"pattern": {(True,): 0.5}}, ValueError, "must have 2 entries, one per modality"),
        ({"pattern": {(): 0.5}}, KeyError, "the pattern none was not evaluated"),
        ({"pattern": {("text",): None}}, TypeError, "`pattern[('text',)]` must be a number"),
        ({"profile": {"car": 0.5}}, KeyError, "no profile 'car' among ['phone']"),
        ({"worst": 0.1, "model": "theirs"}, KeyError, "there is no model 'theirs' among ['ours']"),
        ({"pattern": {"text+image": 0.5}}, TypeError, "Write ('text', 'image')."),
        (
            {"pattern": {"video": 0.5}},
            TypeError,
            "Write a tuple of names such as ('text', 'image')",
        ),
        ({"pattern": {("text", "text"): 0.5}}, ValueError, "has a name twice"),
        (
            {"pattern": {("text", "image"): 0.99, ("image", "text"): 0.1}},
            ValueError,
            "two bounds of the pattern ('image', 'text')",
        ),
        ({"pattern": {("text",): 0.9, (True, False): 0.1}}, ValueError, "has two bounds"),
        ({"worst_drop": 20}, ValueError, "must be at most 1, got 20.0: score is not negative"),
        ({"worst_drop": -0.1}, ValueError, "must not be negative, got -0.1"),
    ],
)
def test_invalid_bounds_are_rejected_with_the_reason(bounds, error, message):
    with pytest.raises(error, match=re.escape(message)):
        report_of().require(**bounds)


def test_a_pattern_that_was_not_evaluated_is_an_error():
    report = quick(patterns="one_left")
    assert report.result(("image",)).pattern == (False, True, False)
    with pytest.raises(KeyError, match=r"the pattern text\+image was not evaluated"):
        report.require(pattern={("text", "image"): 0.1})


def test_results_are_looked_up_by_pattern_and_model():
    report = quick({"mean": by_mean, "first": by_first})
    for model in report.models:
        for result in report.results(model):
            names = {name for name, here in zip(NAMES, result.pattern, strict=True) if here}
            assert report.result(names, model) == report.result(result.pattern, model) == result
    assert report.result(NAMES) == report.complete("mean")


def test_a_report_with_profiles_round_trips():
    report = report_of()
    assert RobustnessReport.from_json(report.to_json()) == report
    assert report.profile("phone") == report.profiles[0]
    assert dataclasses.replace(report, profiles=()) != report
