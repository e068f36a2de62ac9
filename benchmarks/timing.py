"""Cases, how they are timed, and the table and the comparison made of them."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from benchmarks.machine import Rates, Work, wait

LEAST_SECONDS = 0.02  # a timed run is repeated until it takes as long


@dataclass(frozen=True)
class Case:
    """Something to time, and what it is compared with.

    Arguments:
        ours, reference: what to run.
        unit: what times are stated for: an epoch, a step, a draw.
        against: what the reference is, in a few words.
        units, reference_units: how many of the unit one run of each side does.
        floor: the work of one unit of ours, where it was counted.
        wanted: the least ratio that is wanted, where one is.
        steps: steps in a unit, where a time per step is shown too.
        most_rounds: fewer rounds than asked for, where a run takes long.
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
    most_rounds: int = 100


def measure(case: Case, *, rounds: int) -> dict[str, Any]:
    """Time both sides by turns after a warm-up; seconds a unit of each, and the ratio of the medians."""
    sides = {"ours": (case.ours, case.units), "reference": (case.reference, case.reference_units)}
    repeats: dict[str, int] = {}
    for name, (run, _) in sides.items():
        warm = _timed(run, 1)
        warm = warm if warm > LEAST_SECONDS else _timed(run, 1)
        repeats[name] = max(1, math.ceil(LEAST_SECONDS / max(warm, 1e-9)))
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(min(rounds, case.most_rounds)):
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


def add_floors(found: Mapping[str, dict[str, Any]], rates: Rates) -> None:
    """Add the seconds of the floor, and how many times as many ours took; None where no work was counted."""
    for case in found.values():
        floor = rates.floor(Work(**case["work"])) if case["work"] else None
        case["floor"], case["over_floor"] = floor, floor and statistics.median(case["ours"]) / floor


def _timed(run: Callable[[], Any], repeats: int) -> float:
    wait()
    begun = time.perf_counter()
    for _ in range(repeats):
        run()
    wait()
    return (time.perf_counter() - begun) / repeats


def table(found: Mapping[str, Mapping[str, Any]]) -> str:
    """Tabulate medians with the range of the runs."""
    head = ("case", "ours", "reference", "what it is", "reference / ours", "ours / floor")
    lines = [head, ("---",) * len(head)]
    for name, case in found.items():
        ours, reference = (_spread(case[side]) for side in ("ours", "reference"))
        each = (
            f"; {_time(statistics.median(case['ours']) / case['steps'])} a step"
            if case["steps"]
            else ""
        )
        wanted = f" (wanted: {case['wanted']:.3g})" if case["wanted"] else ""
        over = "" if case["over_floor"] is None else f"{case['over_floor']:.3g}"
        ratio = f"{case['ratio']:.3g}{wanted}"
        lines.append(
            (f"{name}, {case['unit']}", ours + each, reference, case["against"], ratio, over)
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _spread(seconds: list[float]) -> str:
    return f"{_time(statistics.median(seconds))} ({_time(min(seconds))} to {_time(max(seconds))})"


def _time(seconds: float) -> str:
    scale, unit = next(
        ((k, u) for k, u in ((1, "s"), (1e3, "ms"), (1e6, "us")) if seconds * k >= 1), (1e9, "ns")
    )
    return f"{seconds * scale:.3g} {unit}"


def fallen(
    found: Mapping[str, Mapping[str, Any]], kept: Mapping[str, Mapping[str, Any]]
) -> list[str]:
    """Say of which cases the ratio is less than half of what it was."""
    return [
        f"{name}: reference / ours has fallen from {kept[name]['ratio']:.3g} to {case['ratio']:.3g}"
        for name, case in found.items()
        if name in kept and case["ratio"] < kept[name]["ratio"] / 2
    ]
