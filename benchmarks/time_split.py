"""Compare systems when new items are really later: splits by time next to random splits.

python -m benchmarks.time_split --data $INVMOD_DATA/online_retail_t --out docs/results/time_split

Each method is trained with its default options on a random split for each seed, and on a split by
time (``--split-by first_seen``) for each cut, and evaluated on the test items (FTMT). A run that is
in the journal is not repeated, so a killed command resumes. The table has test NDCG@20 and the rank
of each method, and the line below it compares the order of the methods on both kinds of splits.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import spearmanr

from benchmarks.journal import read_journal, write_journal, write_table
from milk_recsys.catalogue.dataset import Dataset, read_dataset
from milk_recsys.config.options import Options
from milk_recsys.study.runs import train_once

METHODS = (
    *("keep", "milk"),
    # The five other methods of the highest mean rank on the splits 0 to 4 of lfm2k, tiktok and
    # amazon_office (docs/standings.md).
    *("linmap", "fease_u", "graph_imputation", "ridge", "marec"),
    "content_knn",
)
CUTS = ("2011-02-01", "2011-03-04", "2011-04-15", "2011-06-01", "2011-08-01")


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is not in the journal yet, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.time_split", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of a data set with times")
    parser.add_argument("--methods", nargs="+", default=METHODS)
    parser.add_argument("--cuts", nargs="*", default=CUTS, help="dates or unix seconds")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2], help="random splits")
    parser.add_argument("--epochs", type=int, help="maximum number of epochs")
    parser.add_argument("--out", type=Path, required=True, help="folder of the journal")
    options = parser.parse_args(argv)
    dataset = read_dataset(options.data, empty_items="drop")
    path = options.out / "runs.jsonl"
    splits = [{"split_seed": seed} for seed in options.seeds]
    splits += [{"split_by": "first_seen", "cut": cut} for cut in options.cuts]
    lines = read_journal(path)
    for method in options.methods:
        for split in splits:
            key = {"data": dataset.name, "method": method, "split": split, "epochs": options.epochs}
            if any(key.items() <= line.items() for line in lines):
                continue
            lines.append({**key, **measure(dataset, method, split, options.epochs)})
            write_journal(path, lines)
            print(json.dumps(lines[-1]["test"]), method, split, file=sys.stderr)
    own = [line for line in lines if line["data"] == dataset.name]
    write_table(options.out / "table.md", table(own, options.methods, splits))
    return 0


def measure(
    dataset: Dataset, method: str, split: dict[str, Any], epochs: int | None
) -> dict[str, Any]:
    """Train and evaluate a method once."""
    options = Options.of(method, compare="none", device="cpu", **split)
    if epochs and options.definition.trains:
        options = options.replace(epochs=epochs)
    record, sections, facts = train_once(options, dataset)
    return {"test": sections["test"], "best_epoch": record["best_epoch"], **facts}


def table(
    lines: Sequence[dict[str, Any]], methods: Sequence[str], splits: Sequence[dict[str, Any]]
) -> list[str]:
    """Return the lines of the table: test NDCG@20, with the rank in each column."""
    values = {
        (line["method"], json.dumps(line["split"])): line["test"]["ndcg@20"] for line in lines
    }
    names = [str(s.get("cut", f"random {s.get('split_seed')}")) for s in splits]
    rows = [["method", *names], ["---"] * (len(names) + 1)]
    for method in methods:
        cells = []
        for split in splits:
            column = {m: values.get((m, json.dumps(split))) for m in methods}
            own = column[method]
            rank = 1 + sum(v > own for v in column.values() if v is not None and own is not None)
            cells.append("" if own is None else f"{own:.4f} ({rank})")
        rows.append([method, *cells])
    tables = [f"| {' | '.join(row)} |" for row in rows]
    return [*tables, "", *_agreement(values, methods, splits)]


def _agreement(
    values: dict[tuple[str, str], float], methods: Sequence[str], splits: Sequence[dict[str, Any]]
) -> list[str]:
    """Return a line on the order of the methods by their means over both kinds of splits."""
    kinds = [[s for s in splits if ("cut" in s) == later] for later in (False, True)]
    means = [
        [np.mean([values[m, json.dumps(s)] for s in kind]) for kind in kinds if kind]
        for m in methods
        if all((m, json.dumps(s)) in values for s in splits)
    ]
    if not all(kinds) or len(means) < 3:
        return []
    result = spearmanr(*np.array(means).T)
    return [
        f"Rank correlation (Spearman) of the {len(means)} methods' mean NDCG@20 on "
        f"{len(kinds[0])} random splits and on {len(kinds[1])} splits by time: "
        f"{result.statistic:.2f} (p = {result.pvalue:.2g})."
    ]


if __name__ == "__main__":
    sys.exit(main())
