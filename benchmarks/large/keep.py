"""KEEP on one data set: fitted, written, read back, and ranking the test items."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.large.case import opened


def measure(data: Path, eval_users: int, threads: int, rank: int | None = None) -> dict[str, Any]:
    """Return times and peaks of memory; under FTMT half of the test items lose a modality.

    Arguments:
        rank: number of singular vectors; None for as many as KEEP takes.
    """
    given: dict[str, Any] = {"setting": "ftmt", "empty_items": "drop", "compare": "none"}
    given |= {"eval_users": eval_users, "rank": rank}
    case = opened(data, threads, model="keep", **given)
    from milk_recsys.methods.keep.model import keep_learner
    from milk_recsys.run.evaluation import evaluate_group

    tables, memory = case.tables, case.memory
    begun = time.process_time()
    with memory.phase("fit"):
        learner = keep_learner(case.options, tables)
        learner.prepare()
    fitted = time.process_time()
    with tempfile.TemporaryDirectory(dir=data.parent) as folder:
        weights = Path(folder) / "model.safetensors"
        with memory.phase("save"):
            learner.save(weights, {}, weights_only=True)
        with memory.phase("restore"):
            learner.load(weights, weights_only=True)
    restored = time.process_time()
    with memory.phase("rank"):
        means, _ = evaluate_group(learner, tables, tables.test, tables.mask)
    candidates = tables.test.candidates
    return {
        "model": "keep",
        **case.results(),
        "test_items": len(candidates),
        "complete_test_items": int(tables.mask[candidates].all(dim=1).sum()),
        "chosen": learner.chosen,
        "fit_cpu_s": fitted - begun,
        "rank_cpu_s": time.process_time() - restored,
        "test": {"users": means["users"], "ndcg@20": means["ndcg@20"]},
    }


def table(cases: dict[str, dict[str, Any]]) -> list[str]:
    """Tabulate sizes, memory and time.

    The column "growth" is the CPU time of fitting and ranking per pair divided by that of the first
    scale.
    """
    lines = [
        "| scale | users | items | pairs | new items | singular vectors | peak memory, GB "
        "| fit, s | rank, s | fit, CPU s | rank, CPU s | growth |",
        "| --- |" + " ---: |" * 11,
    ]

    def cost(case: dict[str, Any]) -> float:
        return float((case["fit_cpu_s"] + case["rank_cpu_s"]) / case["pairs"])

    first = cost(next(iter(cases.values())))
    for scale, case in cases.items():
        seconds = case["seconds_by_phase"]
        # The exact vectors of a small catalogue need no singular vectors.
        vectors = case["chosen"].get("rank", 0)
        cells = [
            scale,
            *(f"{case[name]:,}" for name in ("users", "items", "pairs", "test_items")),
            f"{vectors:,}",
            f"{case['peak_gb']:.2f}",
            *(f"{seconds[name]:.0f}" for name in ("fit", "rank")),
            *(f"{case[name]:,.0f}" for name in ("fit_cpu_s", "rank_cpu_s")),
            f"{cost(case) / first:.2f}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return lines
