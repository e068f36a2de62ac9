"""Measure KEEP's quality and time by numbers of landmarks, neighbours and probes.

python -m benchmarks.keep_size --data $INVMOD_DATA/citeulike_t --out docs/results/keep_size

Each line of the journal is KEEP on one split, with the regression on content projected or, for
comparison, exact. The exact regression has the options of the default (512 landmarks and 256
neighbours) on the split, so that only the regressions differ: the shrinkage and the exponent of the
popularity are read from its line, and the others are chosen in the same way, on the same rows. A
line that is there is not measured again. The splits are drawn with seeds that no study uses. CPU
seconds are those of all threads together. The figure shows the share of the exact NDCG@20 by
neighbours, with a line for each number of landmarks.

    --cases default    measures only the exact regression and KEEP's default (512 and 256)
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from benchmarks.journal import read_journal, write_journal, write_table
from benchmarks.machine import versions

# (landmarks of each modality, neighbours, probes); None: the exact regression.
EXACT = None
PROJECTED = (
    *(
        (landmarks, neighbours, None)
        for landmarks in (64, 256, 512)
        for neighbours in (0, 16, 64, 256)
    ),
    (512, 512, None),
    (1024, 256, None),
    (1024, 0, None),
    (2048, 0, None),
    (4096, 0, None),
    (512, 256, 2),
    (512, 256, 8),
    (512, 256, 32),
)
DEFAULT = (512, 256, None)
Case = tuple[int, int, int | None] | None
# The set whose seconds the table by sizes has: it is the largest.
TIMED = "citeulike_t"


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what the journal lacks, and write the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.keep_size", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of the data set")
    parser.add_argument("--seeds", type=int, nargs="+", default=[300, 301, 302])
    parser.add_argument("--threads", type=int, default=2, help="number of CPU threads")
    parser.add_argument("--cases", choices=("all", "default"), default="all")
    parser.add_argument("--out", type=Path, required=True, help="folder of the journals")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--options", default="{}", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.measure is not None:  # This is the process of one case.
        case = json.loads(arguments.measure)
        options = json.loads(arguments.options)
        print(
            json.dumps(
                measure(arguments.data, arguments.seeds[0], case, arguments.threads, options)
            )
        )
        return 0
    journal = arguments.out / f"{arguments.data.name}.jsonl"
    lines = read_journal(journal)
    cases = PROJECTED if arguments.cases == "all" else (DEFAULT,)
    for seed in arguments.seeds:
        for case in (DEFAULT, EXACT, *cases):
            given = None if case is None else list(case)
            done = [line for line in lines if line["seed"] == seed and line["case"] == given]
            # With all items as landmarks the regression is exact.
            if done or (case is not None and lines and case[0] > lines[0]["items"]):
                continue
            options = {}
            if case is EXACT:
                default = (seed, list(DEFAULT))
                options = next(
                    line["chosen"] for line in lines if (line["seed"], line["case"]) == default
                )
            found = measure_apart(arguments.data, seed, case, arguments.threads, options)
            lines.append({"seed": seed, "case": given, **found, **versions()})
            write_journal(journal, lines)
            print(json.dumps(lines[-1]), flush=True)
    write_table(arguments.out / "table.md", table(arguments.out))
    write_curves(arguments.out)
    return 0


def measure_apart(
    data: Path, seed: int, case: Case, threads: int, options: dict[str, float]
) -> dict[str, Any]:
    """Measure a case in a new process, which holds nothing of the cases before."""
    words = ["--measure", json.dumps(case), "--data", str(data), "--seeds", str(seed)]
    words += ["--threads", str(threads), "--out", "unused", "--options", json.dumps(options)]
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.keep_size", *words],
        cwd=Path(__file__).resolve().parents[1],
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return dict(json.loads(run.stdout.splitlines()[-1]))


def measure(
    data: Path, seed: int, case: Case, threads: int, given: dict[str, float]
) -> dict[str, Any]:
    """Fit KEEP on a split and rank its test items; return NDCG@20 under FTMT and the seconds.

    Arguments:
        given: the shrinkage and the exponent of the popularity, or nothing if they are chosen.
    """
    import torch

    from invmod.regression import arguments
    from milk_recsys.catalogue.dataset import read_dataset
    from milk_recsys.catalogue.split import draw_split
    from milk_recsys.catalogue.tables import build_tables
    from milk_recsys.config.options import Options
    from milk_recsys.methods.keep import model
    from milk_recsys.methods.keep.choice import PairChoice
    from milk_recsys.run.evaluation import evaluate_group

    torch.set_num_threads(threads)
    sizes = (
        {} if case is None else dict(zip(("landmarks", "neighbours", "probes"), case, strict=True))
    )
    options = Options.of(
        "keep", data=data, setting="ftmt", split_seed=seed, empty_items="drop", device="cpu",
        compare="none", **sizes,
    )  # fmt: skip
    # KEEP takes the exact regression up to 10,000 warm items, and the projected one beyond.
    model.MAX_ROWS = sys.maxsize if case is None else 0
    arguments.MAX_ROWS = sys.maxsize
    dataset = read_dataset(data, empty_items="drop")
    # With fewer items its vectors have a form that needs the exact regression: take singular ones.
    model.MAX_DIRECT = 0 if dataset.num_items <= 10_000 else model.MAX_DIRECT
    split, _ = draw_split(dataset, options.data)
    tables = build_tables(dataset, split, options, torch.device("cpu"))
    if given:
        # As options, they would change the vectors that the regression's options are chosen on.
        same = PairChoice(given["shrinkage"], given["predicted_popularity"], None)
        model.Keep._choose = lambda *_: same  # type: ignore[method-assign]
    begun = time.perf_counter(), time.process_time()
    learner = model.keep_learner(options, tables)
    learner.prepare()
    fitted = time.perf_counter(), time.process_time()
    means, _ = evaluate_group(learner, tables, tables.test, tables.mask)
    ended = time.perf_counter(), time.process_time()
    seconds = {
        f"{part}_{kind}": round(end[number] - start[number], 2)
        for part, start, end in (("fit", begun, fitted), ("rank", fitted, ended))
        for number, kind in enumerate(("s", "cpu_s"))
    }
    chosen = {name: learner.chosen[name] for name in ("shrinkage", "predicted_popularity")}
    result = {"items": len(tables.warm), "ndcg@20": means["ndcg@20"], "threads": threads}
    return {**result, **seconds, "chosen": chosen}


def table(folder: Path) -> list[str]:
    """Return two tables of the journals in a folder: the default, and every size."""
    journals = {path.stem: read_journal(path) for path in sorted(folder.glob("*.jsonl"))}
    lines = [
        "| data set | training items | splits | exact, NDCG@20 | approximated, NDCG@20 | share "
        "| exact, CPU s | approximated, CPU s |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, runs in journals.items():
        pairs = shared(runs, list(DEFAULT))
        if not pairs:
            continue
        both = [list(part) for part in zip(*pairs, strict=True)]
        ndcg = [f"{fmean(run['ndcg@20'] for run in part):.4f}" for part in both]
        seconds = [f"{cpu_seconds(part):.0f}" for part in both]
        share = f"{share_of_exact(pairs):.1f}%"
        lines.append(row([name, f"{runs[0]['items']:,}", len(pairs), *ndcg, share, *seconds]))
    lines += [
        "",
        "The share of the exact NDCG@20 by sizes:",
        "",
        row(["landmarks", "neighbours", "probes", *journals, f"CPU s on {TIMED}"]),
        "| ---: | ---: | ---: |" + " ---: |" * (len(journals) + 1),
    ]
    for case in map(list, PROJECTED):
        found = {name: shared(runs, case) for name, runs in journals.items()}
        if not any(found.values()):
            continue
        cells = ["all" if size is None else str(size) for size in case]
        cells += [f"{share_of_exact(pairs):.1f}%" if pairs else "" for pairs in found.values()]
        timed = [run for _, run in found.get(TIMED, [])]
        lines.append(row([*cells, f"{cpu_seconds(timed):.0f}" if timed else ""]))
    last = list(journals.values())[-1][-1]
    lines += ["", f"Measured on {last['machine']}, torch {last['torch']}, {last['date']}."]
    return lines


def shared(runs: list[dict[str, Any]], case: list[int | None]) -> list[tuple[Any, Any]]:
    """Return the exact run and that of a case, on each split that has both."""
    exact = {run["seed"]: run for run in runs if run["case"] is None}
    return [
        (exact[run["seed"]], run) for run in runs if run["case"] == case and run["seed"] in exact
    ]


def share_of_exact(pairs: list[tuple[Any, Any]]) -> float:
    """Return the NDCG@20 of a case in percent of the exact one, of the result of `shared`."""
    exact, given = (sum(run["ndcg@20"] for run in part) for part in zip(*pairs, strict=True))
    return float(100 * given / exact)


def cpu_seconds(runs: list[dict[str, Any]]) -> float:
    """Return the CPU seconds of the fit and of ranking, means over runs."""
    return fmean(run["fit_cpu_s"] + run["rank_cpu_s"] for run in runs)


def row(cells: Sequence[object]) -> str:
    """Return a line of a table."""
    return "| " + " | ".join(map(str, cells)) + " |"


def write_curves(folder: Path) -> None:
    """Draw the share of the exact NDCG@20 by landmarks and neighbours, a panel for each set."""
    import matplotlib.pyplot as plt

    from milk_recsys.base.files import replacing

    journals = sorted(folder.glob("*.jsonl"))
    rows = -(-len(journals) // 2)
    figure, axes = plt.subplots(
        rows, 2, figsize=(6.4, 2.8 * rows), sharey=True, squeeze=False, layout="constrained"
    )
    panels = list(axes.flat)
    for panel in panels[len(journals) :]:
        panel.set_axis_off()
    for panel, journal in zip(panels, journals, strict=False):
        runs = read_journal(journal)
        for landmarks in sorted({case[0] for case in PROJECTED}):
            searched = sorted(c for c in PROJECTED if c[0] == landmarks and c[2] is None)
            found = {case[1]: shared(runs, list(case)) for case in searched}
            shares = {count: share_of_exact(pairs) for count, pairs in found.items() if pairs}
            if not shares:
                continue
            panel.plot(
                *zip(*shares.items(), strict=True), "o-", ms=3, label=f"{landmarks:,} landmarks"
            )
        panel.axhline(100, color="grey", linewidth=0.8, linestyle=":")
        panel.set_xscale("symlog", base=2, linthresh=16)
        panel.set_xticks([0, 16, 64, 256], ["0", "16", "64", "256"])
        panel.set_xlim(-4, 700)
        panel.set_xlabel("neighbours")
        panel.set_title(journal.stem)
    for panel in axes[:, 0]:
        panel.set_ylabel("% of the exact NDCG@20")
    # The panel with most numbers of landmarks names them all.
    panel = max(panels, key=lambda axis: len(axis.get_legend_handles_labels()[1]))
    panel.legend(fontsize=8, frameon=False, loc="lower right")
    with replacing(folder / "curves.png") as temporary:
        figure.savefig(temporary, format="png", dpi=120, metadata={"Software": None})
    plt.close(figure)


if __name__ == "__main__":
    sys.exit(main())
