"""Time a training epoch and an evaluation against the plain reference, both in this process, by turns.

make bench                      # on $INVMOD_DATA/tiktok
python -m benchmarks --data DIR --threads 2 --out FILE
"""

import argparse
import dataclasses
import datetime
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "examples"))

import torch

from benchmarks.reference import ReferenceMilk, ReferenceWeights, reference_epoch, reference_evaluate, reference_rows
from milk_recsys import train
from milk_recsys.data import DataError, read_dataset
from milk_recsys.evaluation import Tables, build_tables, evaluate_group
from milk_recsys.files import write_json
from milk_recsys.model import Recommender
from milk_recsys.options import Options
from milk_recsys.split import draw_split

Timed = tuple[Callable[[], Any], Callable[[], Any]]


def main() -> int:
    """Run both cases, print the table and write the JSON."""
    arguments = parse()
    torch.set_num_threads(arguments.threads)
    try:
        dataset = read_dataset(arguments.data, empty_items="drop")
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    options = Options(data=arguments.data)
    split, _ = draw_split(dataset, options)
    tables = build_tables(dataset, split, options, torch.device("cpu"))
    model = train.build_model(options, tables)
    cases = {
        "training epoch": epochs(model, tables, options),
        "evaluation": evaluations(model, tables),
    }
    found = {name: compare(*pair, rounds=arguments.rounds) for name, pair in cases.items()}
    facts = {
        "data": dataset.name,
        "batch_size": options.batch_size,
        "embedding_dim": options.embedding_dim,
        "threads": torch.get_num_threads(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": datetime.date.today().isoformat(),
    }
    print(table(found, facts))
    write_json(arguments.out, {**facts, "cases": found})
    return 0


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.split("\n")[0])
    root = os.environ.get("INVMOD_DATA")
    parser.add_argument("--data", type=Path, default=Path(root) / "tiktok" if root else None)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7, help="timed runs of each side, after one that is not")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results.json"))
    arguments = parser.parse_args()
    if arguments.data is None:
        parser.error("INVMOD_DATA is not set: name a data set with --data")
    return arguments


def epochs(model: Recommender, tables: Tables, options: Options) -> Timed:
    """One epoch of MILK: ours, and the reference's on the same prepared features."""
    rows = train.prepared_rows(model, tables)
    prepared = rows(torch.arange(tables.features.num_items))
    optimiser = torch.optim.Adam(model.parameters(), lr=options.lr, fused=True)
    reference = twin(model, tables)
    reference_optimiser = torch.optim.Adam(reference.parameters(), lr=options.lr)
    pairs, pool = tables.pairs.numpy(), tables.pool.tolist()
    reference_users = reference_rows(pairs, tables.num_users)
    strengths = ReferenceWeights(
        **{field.name: getattr(options, field.name) for field in dataclasses.fields(ReferenceWeights)}
    )
    numbers = iter(range(10**6))
    return (
        lambda: train.train_epoch(model, optimiser, tables, rows, next(numbers), options),
        lambda: reference_epoch(
            reference, reference_optimiser, prepared, tables.observed, pairs, reference_users, pool,
            alpha=options.alpha, strengths=strengths, batch_size=options.batch_size, seed=next(numbers),
        ),
    )  # fmt: skip


def evaluations(model: Recommender, tables: Tables) -> Timed:
    """Rank the test items for every user with a positive; the reference gets prepared features."""
    prepared = train.prepared_rows(model, tables)(torch.arange(tables.features.num_items))
    reference, candidates = twin(model, tables), tables.test.candidates.tolist()
    liked: dict[int, set[int]] = {}
    for user, place in zip(tables.test.users.tolist(), tables.test.positions.tolist(), strict=True):
        liked.setdefault(user, set()).add(candidates[place])
    return (
        lambda: evaluate_group(model, tables, tables.test, tables.observed),
        lambda: reference_evaluate(reference, prepared, liked, candidates),
    )


def twin(model: Recommender, tables: Tables) -> ReferenceMilk:
    """The reference with the weights of the model."""
    dims = tables.features.dims
    reference = ReferenceMilk(tables.num_users, dims, model.options.embedding_dim)
    with torch.no_grad():
        for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
            theirs.copy_(ours)
    return reference


def compare(ours: Callable[[], Any], reference: Callable[[], Any], *, rounds: int) -> dict[str, Any]:
    """Time both by turns after a warm-up; seconds of each side and the ratio of the medians."""
    seconds: dict[str, list[float]] = {"ours": [], "reference": []}
    for turn in range(rounds + 1):
        for name, run in (("ours", ours), ("reference", reference)):
            begun = time.perf_counter()
            run()
            if turn:
                seconds[name].append(time.perf_counter() - begun)
    return {**seconds, "ratio": statistics.median(seconds["reference"]) / statistics.median(seconds["ours"])}


def table(found: dict[str, dict[str, Any]], facts: dict[str, Any]) -> str:
    """Tabulate medians with the range of the runs."""
    lines = ["| case | ours, s | reference, s | reference / ours |", "| --- | --- | --- | --- |"]
    for name, case in found.items():
        cells = [
            f"{statistics.median(case[side]):.4f} ({min(case[side]):.4f} to {max(case[side]):.4f})"
            for side in ("ours", "reference")
        ]
        lines.append(f"| {name} | {cells[0]} | {cells[1]} | {case['ratio']:.1f} |")
    stated = ", ".join(f"{name} {value}" for name, value in facts.items())
    return "\n".join([*lines, "", f"Medians (least to most) of runs by turns; {stated}."])


if __name__ == "__main__":
    sys.exit(main())
