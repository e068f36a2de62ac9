"""The findings of a report in a few sentences."""

from __future__ import annotations

from typing import NamedTuple

from invmod.missingness import pattern_name
from invmod.robustness.numbers import counted, percent, with_interval
from invmod.robustness.report import RobustnessReport
from invmod.robustness.results import PatternResult, Violation

SAFE_LOSS = 0.05
"""Largest relative loss that counts as safe at a missing rate."""

LEVEL = 0.05
"""Level of the corrected tests between models."""


class SafeRate(NamedTuple):
    """The largest missing rate up to which a model loses at most `SAFE_LOSS`.

    Attributes:
        rate: effective rate, the share of hidden cells; 0 if no evaluated rate is safe.
        next_rate: the next evaluated rate, which loses more; None if all of them are safe.
    """

    rate: float
    next_rate: float | None


def safe_rate(report: RobustnessReport, model: str | None = None) -> SafeRate | None:
    """Return the largest safe missing rate among those evaluated for all modalities.

    It is None if the report has no curve with hidden cells, or if relative losses are undefined
    because the complete value is 0.

    Example:
        >>> from invmod.robustness import PatternResult, RateResult
        >>> rates = tuple(
        ...     RateResult("m", None, rate, rate, value, None)
        ...     for rate, value in ((0.0, 0.8), (0.2, 0.78), (0.4, 0.7))
        ... )
        >>> results = (PatternResult("m", (True, True), "a+b", 0.8, None, 0.0, 0),)
        >>> report = RobustnessReport(
        ...     ("m",), ("a", "b"), "accuracy", True, 10, 10, 0.95, 3, 0, False, results, rates
        ... )
        >>> safe_rate(report)
        SafeRate(rate=0.2, next_rate=0.4)
    """
    if not any(point.modality is None for point in report.rates):
        return None
    complete = report.complete(model).value
    points = [point for point in report.curve(None, model) if point.effective_rate > 0]
    if not points or complete == 0:
        return None
    sign = 1 if report.higher_is_better else -1
    safe = 0.0
    for point in points:
        # The tolerance counts a loss of exactly 5% as safe, whatever its rounding error.
        if sign * (complete - point.value) / abs(complete) > SAFE_LOSS * (1 + 1e-9):
            return SafeRate(safe, point.effective_rate)
        safe = point.effective_rate
    return SafeRate(safe, None)


def verdict(report: RobustnessReport, model: str | None = None) -> list[str]:
    r"""Return a model's findings as sentences: complete value, worst pattern, safe missing rate.

    Arguments:
        report: of `robustness_report`.
        model: name; None is the first model.

    Raises:
        KeyError: the report has no such model.

    Example:
        >>> from invmod.robustness import PatternResult
        >>> results = (
        ...     PatternResult("m", (True, True), "a+b", 0.8, None, 0.0, 0),
        ...     PatternResult("m", (True, False), "a", 0.4, None, 0.5, 0),
        ... )
        >>> report = RobustnessReport(
        ...     ("m",), ("a", "b"), "accuracy", True, 10, 10, 0.95, 3, 0, False, results
        ... )
        >>> print(*verdict(report), sep="\n")
        With all modalities, accuracy is 0.8000.
        The worst pattern is without b: 0.4000, 50.0% worse.
    """
    complete = report.complete(model)
    sentences = [
        f"With all modalities, {report.metric} is "
        f"{with_interval(complete.value, complete.interval)}.",
        _worst(report, report.worst(model), complete),
    ]
    sentences += _at_rates(report, model)
    sentences += _profiles(report, model)
    sentences += _worse_with_more(report, complete.model)
    return sentences + _comparison(report, complete.model)


def _worst(report: RobustnessReport, worst: PatternResult, complete: PatternResult) -> str:
    if len(report.modalities) == 1:
        return "There is one modality, so no pattern with a missing modality is evaluated."
    if len(report.results(worst.model)) == 1:
        return "No pattern with a missing modality was evaluated."
    sampled = "evaluated " if report.patterns_sampled else ""
    if worst.value == complete.value:
        return f"No {sampled}pattern with missing modalities is worse."
    value = with_interval(worst.value, worst.interval)
    others = len(report.tied_for_worst(worst.model)) - 1
    ties = f" (tied with {others} {'other' if others == 1 else 'others'})" if others else ""
    return (
        f"The worst {sampled}pattern is {described(worst, report.modalities)}{ties}: {value}, "
        f"{_loss(worst.drop)}."
    )


def described(result: PatternResult, modalities: tuple[str, ...]) -> str:
    """Return a pattern in words, by its missing modalities or by the fewer available ones.

    Example:
        >>> result = PatternResult("m", (True, False, False), "a", 0.4, None, 0.5, 0)
        >>> described(result, ("a", "b", "c"))
        'with only a'
    """
    missing = tuple(not has for has in result.pattern)
    if not any(missing):
        return "with all modalities"
    if sum(result.pattern) < sum(missing):
        return f"with only {_listed(result.pattern, modalities)}"
    return f"without {_listed(missing, modalities)}"


def _listed(pattern: tuple[bool, ...], modalities: tuple[str, ...]) -> str:
    # Each name is shown as in the names of patterns, where ambiguous names are quoted.
    names = [
        pattern_name((True,), (name,)) for name, has in zip(modalities, pattern, strict=True) if has
    ]
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def _loss(drop: float | None) -> str:
    if drop is None:
        return "a relative loss that is undefined, because the complete value is 0"
    if drop <= 0:
        return "no worse" if drop == 0 else f"{percent(-drop)} better"
    return "less than 0.1% worse" if drop < 0.0005 else f"{percent(drop)} worse"


def _at_rates(report: RobustnessReport, model: str | None) -> list[str]:
    safe = safe_rate(report, model)
    if safe is None:
        return []
    kept = f"{report.metric} stays within {SAFE_LOSS:.0%} of its complete value"
    if safe.next_rate is None:
        return [
            f"Up to the largest evaluated missing rate, {percent(safe.rate)} of the cells, {kept}."
        ]
    if safe.rate == 0:
        return [
            f"Already at the smallest evaluated missing rate, {percent(safe.next_rate)} of the "
            f"cells, {report.metric} is more than {SAFE_LOSS:.0%} worse than its complete value."
        ]
    return [
        f"Up to a missing rate of {percent(safe.rate)} of the cells, {kept}; at the next evaluated "
        f"rate, {percent(safe.next_rate)}, it does not."
    ]


def _profiles(report: RobustnessReport, model: str | None) -> list[str]:
    names = dict.fromkeys(profile.name for profile in report.profiles)
    results = [report.profile(name, model) for name in names]
    if not results:
        return []
    choose = min if report.higher_is_better else max
    worst = choose(results, key=lambda result: result.value)
    which = "the profile" if len(results) == 1 else f"the worst of {len(results)} profiles,"
    value = with_interval(worst.value, worst.interval)
    return [f"Under {which} {worst.name}, {report.metric} is {value}, {_loss(worst.drop)}."]


def _worse_with_more(report: RobustnessReport, model: str) -> list[str]:
    """Return how often adding one modality makes a model significantly worse."""
    if not report.num_resamples:
        return []
    found = report.violations(significance=LEVEL, model=model)
    if not found:
        return []
    surest, cases = found[0], counted(len(found), "case")
    added = pattern_name((True,), (surest.added,))
    fewer = name_without(surest, report.modalities)
    return [
        f"Adding one modality makes the model significantly worse in {cases} (at {LEVEL:.0%}, "
        f"corrected), most clearly {added} in addition to {fewer}."
    ]


def name_without(violation: Violation, modalities: tuple[str, ...]) -> str:
    """Return the name of a violation's pattern without the added modality.

    Example:
        >>> both = (True, True)
        >>> step = Violation("m", both, "text+audio", "audio", 0.7, 0.8, 0.1, None, None, None)
        >>> name_without(step, ("text", "audio"))
        'text'
    """
    fewer = [
        has and name != violation.added
        for name, has in zip(modalities, violation.pattern, strict=True)
    ]
    return pattern_name(fewer, modalities)


def _comparison(report: RobustnessReport, model: str) -> list[str]:
    """Return how often a model differs significantly from the baseline."""
    differences = [entry for entry in report.differences if entry.model == model]
    tested = [entry for entry in differences if entry.adjusted_p_value is not None]
    if not tested:
        return []
    sign = 1 if report.higher_is_better else -1
    significant = [entry for entry in tested if (entry.adjusted_p_value or 0.0) <= LEVEL]
    better = sum(sign * entry.value > 0 for entry in significant)
    patterns = counted(len(tested), "pattern")
    return [
        f"Of {patterns}, the model is significantly better than {tested[0].baseline} under "
        f"{better} and significantly worse under {len(significant) - better} (at {LEVEL:.0%}, "
        "corrected)."
    ]
