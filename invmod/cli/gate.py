"""The bounds of ``invmod report``, from the words of its options."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from invmod.cli.errors import UsageError
from invmod.cli.lists import parts, quoted, quoted_start
from invmod.cli.metrics import Metric
from invmod.missingness.masks import pattern_name

Bounds = dict[str, Any]
Names = tuple[str, ...]

SUMMARIES = ("complete", "worst")


def gate_bounds(
    fail_under: Sequence[str],
    fail_over_drop: str | None,
    modalities: Names,
    metric: Metric | None = None,
) -> Bounds:
    """Return the options of `RobustnessReport.require`; empty without a gate.

    Arguments:
        fail_under: texts such as ``"worst=0.6"``, each about something else.
        fail_over_drop: the text of a share, or None.
        modalities: names of the modalities.
        metric: its range limits the bounds; None allows every finite number.

    Example:
        >>> gate_bounds(["worst=0.6", "text+image=.7"], None, ("image", "text"))
        {'worst': 0.6, 'pattern': {('text', 'image'): 0.7}}
    """
    bounds: Bounds = {}
    patterns: dict[Names, float] = {}
    earlier: dict[str | frozenset[str], str] = {}
    for text in fail_under:
        # A name may contain "=", a number does not.
        what, equals, number = text.rpartition("=")
        if not equals:
            raise UsageError(f"--fail-under {text}: write WHAT=VALUE, such as worst=0.6.")
        value = _in_range(text, finite_number("--fail-under", text, number), metric)
        names = _names(text, what, modalities)
        key = what if names is None else frozenset(names)
        if key in earlier:
            raise UsageError(
                f"--fail-under {text}: there is a bound of the same already, {earlier[key]}. Give "
                "one bound of each."
            )
        earlier[key] = text
        if names is None:
            bounds[what] = value
        else:
            patterns[names] = value
    if patterns:
        bounds["pattern"] = patterns
    if fail_over_drop is not None:
        bounds["worst_drop"] = _drop(fail_over_drop, metric)
    return bounds


def finite_number(option: str, text: str, number: str) -> float:
    """Return a number of an option; raise unless it is finite.

    Example:
        >>> finite_number("--rates", "0,.5", ".5")
        0.5
    """
    try:
        value = float(number)
    except ValueError:
        value = float("nan")
    if not abs(value) < float("inf"):
        raise UsageError(f"{option} {text}: {number!r} is not a finite number.")
    return value


def _in_range(text: str, value: float, metric: Metric | None) -> float:
    """Return a bound of the metric; raise if no value of the metric can be so large or small."""
    if metric is not None and not metric.low <= value <= metric.high:
        # A bound outside of the range is met always or never.
        least, most = f"{metric.low:g}", f"{metric.high:g}"
        share = " Write 0.6 for 60%." if (metric.low, metric.high) == (0, 1) else ""
        raise UsageError(
            f"--fail-under {text}: the metric lies in [{least}, {most}], got {value:g}.{share}"
        )
    return value


def _drop(text: str, metric: Metric | None) -> float:
    value = finite_number("--fail-over-drop", text, text)
    if value < 0:
        raise UsageError(
            f"--fail-over-drop {text}: the share must not be negative. Write 0.2 for a loss of 20%."
        )
    if metric is not None and metric.higher_is_better and metric.low == 0 and value > 1:
        raise UsageError(
            f"--fail-over-drop {text}: this metric cannot lose more than its complete value, so "
            "the gate would never fail. Write 0.2 for a loss of 20%."
        )
    return value


def _names(text: str, what: str, modalities: Names) -> Names | None:
    """Return the names of a pattern, or None for the bounds `complete` and `worst`.

    A modality's name may have a "+" and may be "worst", so all readings are found.
    """
    readings = list(dict.fromkeys(_readings(what, modalities)))
    patterns = {frozenset(names): names for names in readings}
    if len(patterns) + (what in SUMMARIES) > 1:
        meanings = [_all_quoted(names) for names in patterns.values()]
        if what in SUMMARIES:
            raise UsageError(
                f"--fail-under {text}: {what} is also the name of a modality. Write "
                f"'{meanings[0]}=VALUE' for the pattern, or rename the modality in the file."
            )
        choices = " or ".join(f"'{meaning}=VALUE'" for meaning in meanings)
        raise UsageError(f"--fail-under {text}: {what} has several meanings. Write {choices}.")
    if what in SUMMARIES:
        return None
    if not readings:
        _raise_unknown(text, what, modalities)
    names = readings[0]
    if len({*names}) != len(names):
        raise UsageError(f"--fail-under {text}: a modality is named twice. Write each name once.")
    return names


def _readings(what: str, modalities: Names) -> Iterator[Names]:
    """Yield each sequence of modalities whose names, plain or quoted, joined by + give the text."""
    starts = [(name, what[len(name) :]) for name in modalities if name and what.startswith(name)]
    start = quoted_start(what)
    if start is not None and start[0] in modalities:
        starts.append(start)
    for name, rest in starts:
        if not rest:
            yield (name,)
        elif rest.startswith("+"):
            for names in _readings(rest[1:], modalities):
                yield (name, *names)


def _all_quoted(names: Names) -> str:
    return "+".join(map(quoted, names))


def _raise_unknown(text: str, what: str, modalities: Names) -> None:
    unknown = [name for name, _ in parts(what, "+") if name not in modalities] or [what]
    # Names are listed as the table shows them, so that they can be copied.
    known = ", ".join(pattern_name((True,), (name,)) for name in modalities)
    raise UsageError(
        f"--fail-under {text}: {', '.join(unknown)} is not among the modalities {known}. Write "
        "complete, worst, or names joined by +."
    )
