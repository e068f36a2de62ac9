"""Measure the parts on a data set, split by split; see `parts.py`.

python -m benchmarks.keep_parts --data $INVMOD_DATA/lfm2k --out docs/results/keep_parts

The splits are drawn with seeds that no other study uses. A split that is in the journal is not
measured again.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from scipy import stats  # type: ignore[import-untyped]

from benchmarks.keep_parts.parts import PARTS
from benchmarks.keep_parts.problem import fit
from benchmarks.machine import versions
from milk_recsys.base.files import replacing


def main(argv: Sequence[str] | None = None) -> int:
    """Measure all parts on the splits that are not measured yet, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.keep_parts", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data set")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(300, 305)))
    parser.add_argument("--threads", type=int, default=1, help="number of CPU threads")
    parser.add_argument("--out", type=Path, required=True, help="folder of the journal")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    journal = arguments.out / f"{arguments.data.name}.jsonl"
    text = journal.read_text(encoding="utf-8") if journal.exists() else ""
    lines = [json.loads(line) for line in text.splitlines()]
    for seed in arguments.seeds:
        if any(line["seed"] == seed for line in lines):
            continue
        problem = fit(arguments.data, seed)
        line: dict[str, Any] = {"seed": seed, "ndcg@20": {}, "seconds": {}}
        for name, part in PARTS.items():
            begun = time.perf_counter()
            line["ndcg@20"][name] = part(problem)
            line["seconds"][name] = round(time.perf_counter() - begun, 1)
        lines.append({**line, **versions()})
        arguments.out.mkdir(parents=True, exist_ok=True)
        with replacing(journal) as temporary:
            temporary.write_text(
                "".join(json.dumps(each) + "\n" for each in lines), encoding="utf-8"
            )
        print(json.dumps(lines[-1]), flush=True)
    print("\n".join(table(lines)))
    return 0


def table(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the lines of a table: mean NDCG@20, gain over KEEP, p value of a paired t test."""
    base = [line["ndcg@20"]["KEEP"] for line in lines]
    rows = ["| | NDCG@20 | gain | p |", "| --- | --- | --- | --- |"]
    for name in PARTS:
        values = [line["ndcg@20"][name] for line in lines]
        mean, other = sum(values) / len(values), sum(base) / len(base)
        p = ""
        if len(values) > 1 and values != base:
            p = f"{stats.ttest_rel(values, base).pvalue:.3f}"
        rows.append(f"| {name} | {mean:.4f} | {100 * (mean / other - 1):+.1f}% | {p} |")
    return rows


if __name__ == "__main__":
    sys.exit(main())
