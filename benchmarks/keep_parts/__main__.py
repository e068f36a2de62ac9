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
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from scipy import stats  # type: ignore[import-untyped]

from benchmarks.journal import read_journal, write_journal, write_table
from benchmarks.keep_parts.parts import PARTS
from benchmarks.keep_parts.problem import fit
from benchmarks.machine import versions


def main(argv: Sequence[str] | None = None) -> int:
    """Measure all parts on the splits that are not measured yet, and write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.keep_parts", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data set")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(range(300, 305)))
    parser.add_argument("--threads", type=int, default=1, help="number of CPU threads")
    parser.add_argument("--out", type=Path, required=True, help="folder of the journal")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    journal = arguments.out / f"{arguments.data.name}.jsonl"
    lines = read_journal(journal)
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
        write_journal(journal, lines)
        print(json.dumps(lines[-1]), flush=True)
    write_table(arguments.out / "table.md", table(arguments.out))
    return 0


def table(folder: Path) -> list[str]:
    """Return the lines of the table of all data sets with a journal in a folder.

    It has the mean NDCG@20 of each part, its gain over KEEP, and the p-value of a paired t test.
    """
    rows, conditions = (
        ["| data set | variant | NDCG@20 | change | p |", "| --- | --- | --- | --- | --- |"],
        "",
    )
    for journal in sorted(folder.glob("*.jsonl")):
        lines = read_journal(journal)
        base = [line["ndcg@20"]["KEEP"] for line in lines]
        for name in PARTS:
            values = [line["ndcg@20"][name] for line in lines]
            change, p = "", ""
            if name != "KEEP":
                change = f"{100 * (sum(values) / sum(base) - 1):+.1f}%"
            if len(values) > 1 and values != base:
                p = f"{stats.ttest_rel(values, base).pvalue:.3f}"
            mean = sum(values) / len(values)
            rows.append(f"| {journal.stem} | {name} | {mean:.4f} | {change} | {p} |")
        conditions = ", ".join(
            [lines[-1]["machine"], f"torch {lines[-1]['torch']}", lines[-1]["date"]]
        )
    return [*rows, "", f"Measured on {conditions}." if conditions else ""]


if __name__ == "__main__":
    sys.exit(main())
