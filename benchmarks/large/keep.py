"""KEEP on one data set: fitted, written, read back, and ranking the test items."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.large.case import opened


def measure(data: Path, eval_users: int, threads: int) -> dict[str, Any]:
    """Return times and peaks of memory; under FTMT half of the test items lose a modality."""
    given = {"setting": "ftmt", "empty_items": "drop", "compare": "none", "eval_users": eval_users}
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
        "| scale | users | items | pairs | new items | peak RssAnon, GB | fit, s | rank, s "
        "| growth |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]

    def cost(case: dict[str, Any]) -> float:
        return float((case["fit_cpu_s"] + case["rank_cpu_s"]) / case["pairs"])

    first = cost(next(iter(cases.values())))
    for scale, case in cases.items():
        seconds = case["seconds_by_phase"]
        lines.append(
            f"| {scale} | {case['users']:,} | {case['items']:,} | {case['pairs']:,} | "
            f"{case['test_items']:,} | {case['peak_gb']:.2f} | {seconds['fit']:.0f} | "
            f"{seconds['rank']:.0f} | {cost(case) / first:.2f} |"
        )
    return lines
