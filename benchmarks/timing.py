"""Benchmark cases: their timing, the table of the results, and the comparison with earlier ones."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.machine import Rates, Work, wait

# Runs that are shorter than this are repeated, and the mean of the repetitions is one measurement.
LEAST_SECONDS = 0.02


@dataclass(frozen=True)
class Case:
    """A pair of functions to time: our code and the reference that it is compared with.

    Arguments:
        ours: runs our code.
        reference: runs the reference.
        unit: name of the unit of work that a time is for: an epoch, a step, a draw.
        against: short description of the reference.
        units: number of units of work in one run of `ours`.
        reference_units: number of units of work in one run of `reference`.
        floor: lower bound on the work of one unit of ours; None if it was not counted.
        wanted: target for the ratio reference / ours; None if there is no target.
        steps: number of steps in a unit, to show a time per step too; None to leave it out.
        max_rounds: maximum number of rounds, for cases that take long.
    """

    ours: Callable[[], Any]
    reference: Callable[[], Any]
    unit: str
    against: str
    units: float = 1
    reference_units: float = 1
    floor: Work | None = None
    wanted: float | None = None
    steps: int | None = None
    max_rounds: int = 100


def measure(case: Case, *, rounds: int) -> dict[str, Any]:
    """Time both sides alternately after a warm-up.

    A machine that becomes slower during a case then slows both sides down.

    Returns:
        seconds per unit of work of each round, the ratio of the medians, and facts of the case.
    """
    sides = {"ours": (case.ours, case.units), "reference": (case.reference, case.reference_units)}
    repeats: dict[str, int] = {}
    for name, (run, _) in sides.items():
        # The first call may compile or allocate. If it was short, a second call gives a better
        # estimate of how often to repeat the run in a measurement.
        warm_up = _timed(run, 1)
        warm_up = warm_up if warm_up > LEAST_SECONDS else _timed(run, 1)
        repeats[name] = max(1, math.ceil(LEAST_SECONDS / max(warm_up, 1e-9)))
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(min(rounds, case.max_rounds)):
        for name, (run, units) in sides.items():
            seconds[name].append(_timed(run, repeats[name]) / units)
    ours, reference = (statistics.median(seconds[name]) for name in sides)
    return {
        "unit": case.unit,
        "against": case.against,
        **seconds,
        "ratio": reference / ours,
        "wanted": case.wanted,
        "steps": case.steps,
        "work": case.floor and case.floor._asdict(),
    }


def add_floors(results: Mapping[str, dict[str, Any]], rates: Rates) -> None:
    """Add the lower bound in seconds, and the ratio of our median time to it, to each result.

    Both are None for cases without counted work.
    """
    for case in results.values():
        floor = rates.floor(Work(**case["work"])) if case["work"] else None
        case["floor"], case["over_floor"] = floor, floor and statistics.median(case["ours"]) / floor


def _timed(run: Callable[[], Any], repeats: int) -> float:
    wait()
    begun = time.perf_counter()
    for _ in range(repeats):
        run()
    wait()
    return (time.perf_counter() - begun) / repeats


def table(results: Mapping[str, Mapping[str, Any]]) -> str:
    """Tabulate medians with minimum and maximum of the rounds, in Markdown."""
    head = ("case", "ours", "reference", "what it is", "reference / ours", "ours / floor")
    lines = [head, ("---",) * len(head)]
    for name, case in results.items():
        ours, reference = (_spread(case[side]) for side in ("ours", "reference"))
        per_step = (
            f"; {_time(statistics.median(case['ours']) / case['steps'])} a step"
            if case["steps"]
            else ""
        )
        wanted = f" (wanted: {case['wanted']:.3g})" if case["wanted"] else ""
        over = "" if case["over_floor"] is None else f"{case['over_floor']:.3g}"
        ratio = f"{case['ratio']:.3g}{wanted}"
        lines.append(
            (f"{name}, {case['unit']}", ours + per_step, reference, case["against"], ratio, over)
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _spread(seconds: list[float]) -> str:
    return f"{_time(statistics.median(seconds))} ({_time(min(seconds))} to {_time(max(seconds))})"


def _time(seconds: float) -> str:
    # The largest unit in which the time is at least 1.
    scale, unit = next(
        ((k, u) for k, u in ((1, "s"), (1e3, "ms"), (1e6, "us")) if seconds * k >= 1), (1e9, "ns")
    )
    return f"{seconds * scale:.3g} {unit}"


def fallen(
    results: Mapping[str, Mapping[str, Any]], before: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """Return a message for each case whose ratio is less than half of its earlier ratio."""
    return [
        f"{name}: reference / ours has fallen from {before[name]['ratio']:.3g} to "
        f"{case['ratio']:.3g}"
        for name, case in results.items()
        if name in before and case["ratio"] < before[name]["ratio"] / 2
    ]
