"""MILK on one data set: trained for some steps, written, read back, and validated."""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.large.case import opened


class Enough(Exception):
    """Ends training after the requested number of steps."""


@dataclasses.dataclass(frozen=True)
class Clock:
    """Times of training by one clock: wall-clock time, or CPU time of the process.

    Other processes on the machine disturb CPU time less than wall-clock time.

    Attributes:
        steps: number of timed steps.
        setup_s: seconds for the permutation of the epoch and for sampling the first negatives.
        step_ms: mean over the timed steps, some of which sample further negatives; milliseconds.
        median_ms: median over the timed steps; milliseconds.
        triple_us: mean time per triple of an epoch; microseconds.
    """

    steps: int
    setup_s: float
    step_ms: float
    median_ms: float
    triple_us: float

    @classmethod
    def of(cls, marks: list[float], warm_up: int, per_epoch: int, batch_size: int) -> Clock:
        """Compute the times from readings of a clock, before the epoch and after each step."""
        gaps = [later - earlier for earlier, later in itertools.pairwise(marks[warm_up:])]
        step = sum(gaps) / len(gaps)
        # The first interval holds the set-up and one step; its duration is estimated by the median.
        setup = max(0.0, marks[1] - marks[0] - statistics.median(gaps))
        triple = (setup / per_epoch + step) / batch_size
        return cls(len(gaps), setup, 1e3 * step, 1e3 * statistics.median(gaps), 1e6 * triple)


def measure(
    data: Path, steps: int, warm_up: int, eval_users: int, optimiser: str, threads: int
) -> dict[str, Any]:
    """Build, train, save, restore and validate; return times and peaks of memory."""
    given = {"features": "mapped", "eval_users": eval_users, "optimiser": optimiser}
    case = opened(data, threads, model="milk", **given)
    from milk_recsys.methods.milk.learner import Learner
    from milk_recsys.methods.milk.model import build_model
    from milk_recsys.run import loop
    from milk_recsys.run.evaluation import evaluate_group

    tables, memory, options = case.tables, case.memory, case.options
    with memory.phase("model"):
        learner = Learner(build_model(options, tables), tables, options)
    marks = [(time.perf_counter(), time.process_time())]

    def mark() -> None:
        marks.append((time.perf_counter(), time.process_time()))
        if len(marks) > warm_up + steps:
            raise Enough

    with memory.phase("train"), suppress(Enough):
        loop.train_epoch(learner, 0, mark)
    with tempfile.TemporaryDirectory(dir=data.parent) as folder:
        weights = Path(folder) / "model.safetensors"
        checkpoint = Path(folder) / "checkpoint.safetensors"
        with memory.phase("save"):
            learner.save(weights, {}, weights_only=True)
            learner.save(checkpoint, {})
        with memory.phase("restore"):
            learner.load(checkpoint)
            learner.load(weights, weights_only=True)
    with memory.phase("validate"):
        means, _ = evaluate_group(learner, tables, tables.validation, tables.mask)
    per_epoch = math.ceil(tables.num_pairs / options.method.batch_size)
    wall, busy = (
        Clock.of(
            [mark[clock] for mark in marks],
            min(warm_up, len(marks) // 4),
            per_epoch,
            options.method.batch_size,
        )
        for clock in range(2)
    )
    return {
        **case.results(),
        "optimiser": optimiser,
        "steps_timed": wall.steps,
        "steps_per_epoch": per_epoch,
        "triples_per_second": 1e6 / wall.triple_us,
        "wall": dataclasses.asdict(wall),
        "processor": dataclasses.asdict(busy),
        "validation": {"users": means["users"], "ndcg@20": means["ndcg@20"]},
    }


def table(cases: dict[str, dict[str, Any]]) -> list[str]:
    """Tabulate sizes, memory and speed.

    The column "growth" is the CPU time per triple divided by that of the first scale.
    """
    lines = [
        "| scale | users | items | pairs | peak memory, GB | triples / s | CPU us / triple "
        "| growth |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    first = next(iter(cases.values()))["processor"]["triple_us"]
    for scale, case in cases.items():
        cpu_us = case["processor"]["triple_us"]
        lines.append(
            f"| {scale} | {case['users']:,} | {case['items']:,} | {case['pairs']:,} | "
            f"{case['peak_gb']:.2f} | {case['triples_per_second']:,.0f} | {cpu_us:.1f} | "
            f"{cpu_us / first:.2f} |"
        )
    return lines
