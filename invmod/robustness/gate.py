"""The gate: bounds that a report must meet, as a line of a test suite."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Protocol

from invmod.robustness.conditions import suggested_names
from invmod.robustness.numbers import counted, plain, with_interval
from invmod.robustness.results import PatternResult, ProfileResult

PatternKey = Collection[str] | tuple[bool, ...]

TOLERANCE = 1e-9
"""Relative tolerance of a bound, for values such as 0.6 that a sum over rows rounds."""


class Report(Protocol):
    """The part of a `RobustnessReport` that the gate reads.

    The class itself has the method `require`, so its module imports this one.
    """

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the models."""

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the modalities."""

    @property
    def metric(self) -> str:
        """Name of the metric."""

    @property
    def higher_is_better(self) -> bool:
        """Whether a larger metric is better."""

    def complete(self, model: str | None = None) -> PatternResult:
        """Return the result with all modalities."""

    def worst(self, model: str | None = None) -> PatternResult:
        """Return the result with the worst metric."""

    def result(self, pattern: PatternKey, model: str | None = None) -> PatternResult:
        """Return the result under one pattern."""

    def profile(self, name: str, model: str | None = None) -> ProfileResult:
        """Return the result under a profile."""


class RobustnessError(AssertionError):
    """A report does not meet a bound of `RobustnessReport.require`.

    The message has one line per bound that is not met: the pattern, its value and interval, and the
    bound. It is an `AssertionError`, so test runners report it as a failed check.

    Example:
        >>> from invmod.robustness import PatternResult, RobustnessReport
        >>> results = (PatternResult("m", (True,), "a", 0.4, (0.3, 0.5), 0.0, 0),)
        >>> report = RobustnessReport(
        ...     ("m",), ("a",), "accuracy", True, 10, 10, 0.95, 3, 9, False, results
        ... )
        >>> try:
        ...     report.require(complete=0.6)
        ... except RobustnessError as error:
        ...     print(error)
        accuracy does not meet 1 bound (higher is better):
          complete: m under the pattern a is 0.4000 [0.3000, 0.5000], must be at least 0.6000.
    """


def require(
    report: Report,
    *,
    worst: float | None,
    worst_drop: float | None,
    complete: float | None,
    pattern: Mapping[PatternKey, float] | None,
    profile: Mapping[str, float] | None,
    model: str | None,
) -> None:
    """Raise a `RobustnessError` unless the report meets all bounds; see the method `require`."""
    bounds = {"worst": worst, "worst_drop": worst_drop, "complete": complete}
    given = {name: _checked(name, bound) for name, bound in bounds.items() if bound is not None}
    by_pattern = _by_pattern(pattern or {}, report.modalities)
    by_profile = {
        name: _checked(f"profile[{name!r}]", bound) for name, bound in (profile or {}).items()
    }
    if not (given or by_pattern or by_profile):
        raise ValueError(
            "RobustnessReport.require: needs at least one bound. Pass `worst`, `worst_drop`, "
            "`complete`, `pattern` or `profile`."
        )
    names = report.models if model is None else (model,)
    if "worst_drop" in given:
        _check_drop_bound(report, names, given["worst_drop"])
    failures = [
        failure
        for name in names
        for failure in (
            *_summary_failures(report, name, given),
            *_named_failures(report, name, by_pattern, by_profile),
        )
    ]
    if failures:
        better = "higher" if report.higher_is_better else "lower"
        count = counted(len(failures), "bound")
        lines = "".join(f"\n  {failure}" for failure in failures)
        raise RobustnessError(f"{report.metric} does not meet {count} ({better} is better):{lines}")


def pattern_of(key: PatternKey, modalities: tuple[str, ...]) -> tuple[bool, ...]:
    """Return the pattern as M bools, from the names of its available modalities or from M bools.

    Example:
        >>> pattern_of({"audio"}, ("text", "audio")), pattern_of((True, False), ("text", "audio"))
        ((False, True), (True, False))
    """
    if isinstance(key, str) or not isinstance(key, Collection):
        raise TypeError(
            "RobustnessReport: a pattern must be a collection of names of available modalities or "
            f"{len(modalities)} bools, got {key!r}. Write {suggested_names(key, modalities)}."
        )
    if key and all(isinstance(entry, bool) for entry in key):
        if len(key) != len(modalities):
            raise ValueError(
                f"RobustnessReport: a pattern of bools must have {len(modalities)} entries, one "
                f"per modality, got {key!r}."
            )
        return tuple(bool(entry) for entry in key)
    unknown = [name for name in key if name not in modalities]
    if unknown:
        raise KeyError(
            f"RobustnessReport: the pattern names {unknown}, which are not among "
            f"{list(modalities)}."
        )
    if len(set(key)) != len(key):
        raise ValueError(f"RobustnessReport: the pattern {key!r} has a name twice.")
    return tuple(name in key for name in modalities)


def _by_pattern(
    pattern: Mapping[PatternKey, float], modalities: tuple[str, ...]
) -> dict[tuple[bool, ...], float]:
    """Return pattern -> bound; one pattern must not have two bounds, of which one would win."""
    bounds: dict[tuple[bool, ...], float] = {}
    for key, bound in pattern.items():
        wanted = pattern_of(key, modalities)
        if wanted in bounds:
            raise ValueError(
                f"RobustnessReport.require: `pattern` has two bounds of the pattern {key!r}. "
                "Names in another order are the same pattern: leave one out."
            )
        bounds[wanted] = _checked(f"pattern[{key!r}]", bound)
    return bounds


def _check_drop_bound(report: Report, models: Collection[str], bound: float) -> None:
    """Raise if the bound of a drop is negative, or so large that no drop can exceed it."""
    if bound < 0:
        raise ValueError(
            f"RobustnessReport.require: `worst_drop` must not be negative, got {bound!r}. It is "
            "the largest allowed loss, such as 0.2 for 20%."
        )
    # A metric that is never negative falls to 0 at most. An error has no largest value, and a
    # metric with negative values, such as R^2, can lose more than its complete value.
    can_be_negative = any(report.worst(model).value < 0 for model in models)
    if bound > 1 and report.higher_is_better and not can_be_negative:
        raise ValueError(
            f"RobustnessReport.require: `worst_drop` must be at most 1, got {bound!r}: "
            f"{report.metric} is not negative, so it cannot lose more than 100%. Write 0.2 for "
            "20%. If the metric can be negative, bound its value by `worst`."
        )


def _summary_failures(report: Report, model: str, bounds: Mapping[str, float]) -> Iterator[str]:
    if "complete" in bounds:
        result = report.complete(model)
        yield from _value_failures(report, "complete", result, bounds["complete"])
    if "worst" in bounds:
        yield from _value_failures(report, "worst", report.worst(model), bounds["worst"])
    if "worst_drop" in bounds:
        yield from _drop_failures(report, report.worst(model), bounds["worst_drop"])


def _named_failures(
    report: Report,
    model: str,
    by_pattern: Mapping[tuple[bool, ...], float],
    by_profile: Mapping[str, float],
) -> Iterator[str]:
    for pattern, bound in by_pattern.items():
        yield from _value_failures(report, "pattern", report.result(pattern, model), bound)
    for name, bound in by_profile.items():
        yield from _value_failures(report, "profile", report.profile(name, model), bound)


def _value_failures(
    report: Report, label: str, result: PatternResult | ProfileResult, bound: float
) -> Iterator[str]:
    met = result.value >= bound if report.higher_is_better else result.value <= bound
    if not (met or math.isclose(result.value, bound, rel_tol=TOLERANCE)):
        rule = "at least" if report.higher_is_better else "at most"
        text = plain(bound)
        if text == plain(result.value):
            # Both round to the same four decimals, so the message needs all of them.
            text = f"{bound!r} and is {result.value!r} before rounding"
        yield f"{label}: {_described(result)}, must be {rule} {text}."


def _drop_failures(report: Report, worst: PatternResult, bound: float) -> Iterator[str]:
    if worst.drop is None:
        # A gate that cannot be evaluated must not be passed.
        yield (
            f"worst_drop: {_described(worst)}, and its drop is undefined because the complete "
            "metric is 0."
        )
    elif not (worst.drop <= bound or math.isclose(worst.drop, bound, rel_tol=TOLERANCE)):
        complete = report.complete(worst.model).value
        yield (
            f"worst_drop: {_described(worst)}, {_exact_percent(worst.drop)} worse than "
            f"{plain(complete)}, must be at most {_exact_percent(bound)}."
        )


def _described(result: PatternResult | ProfileResult) -> str:
    kind = "profile" if hasattr(result, "rates") else "pattern"
    value = with_interval(result.value, result.interval)
    return f"{result.model} under the {kind} {result.name} is {value}"


def _exact_percent(share: float) -> str:
    """Return a share as a percentage with two decimals, without trailing zeros."""
    return f"{100 * share:.2f}".rstrip("0").rstrip(".") + "%"


def _checked(name: str, bound: float) -> float:
    """Return the bound as a float; a NaN bound would be met by every value."""
    try:
        value = float(bound)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"RobustnessReport.require: `{name}` must be a number, got {bound!r}."
        ) from error
    if isinstance(bound, (bool, str)) or not math.isfinite(value):
        raise ValueError(
            f"RobustnessReport.require: `{name}` must be a finite number, got {bound!r}."
        )
    return value


def checked_significance(level: float) -> float:
    """Return the level of a test as a float, after checking that it lies in (0, 1)."""
    function = "RobustnessReport.violations"
    try:
        value = float(level)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{function}: `significance` must be a number, got {level!r}.") from error
    if not 0 < value < 1:
        raise ValueError(
            f"{function}: `significance` must lie in (0, 1), got {level!r}. Write 0.05 for 5%."
        )
    return value
