"""Score methods on the task "missing modalities and new items" of DGMRec's repository, on TikTok.

Two tables, because the repository's evaluation mixes new items with others:

- clean: the candidates are the new items alone, for the users who have one among their test pairs;
- mixed: the candidates are all items except the user's training items, and the test pairs are those
  of the repository, some of them on items with training pairs. A method scores these items by their
  features, as new. With --warm donor they have instead the scores that KEEP's decomposition gives
  to training items, which are on the scale of the scores of `keep` and `linmap`.

The files of the repository (data/masks/tiktok: tiktok.inter, tiktok_del.inter,
missing_items_0.6.npy) are not part of this project. All counts of the task are compared with those
of the published files.

python -m benchmarks.dgmrec_task --files FOLDER --data $INVMOD_DATA/tiktok --models keep ridge
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from milk_recsys.base.errors import DataError
from milk_recsys.base.files import replacing
from milk_recsys.catalogue.dataset import Dataset, read_dataset
from milk_recsys.catalogue.importers.dgmrec import (
    TIKTOK_COUNTS,
    DgmrecTask,
    check_counts,
    read_dgmrec_task,
)
from milk_recsys.catalogue.split import Split
from milk_recsys.catalogue.tables import Tables, build_tables
from milk_recsys.config.method import find_method
from milk_recsys.config.options import OptionError, Options, validate
from milk_recsys.methods.contract import Learner, ScoreBlock
from milk_recsys.methods.graphs import ragged_ranges
from milk_recsys.methods.learner import build
from milk_recsys.methods.warm import WarmData
from milk_recsys.ranking.metrics import mean_metrics, per_user_metrics, positive_ranks
from milk_recsys.run.loop import train_model
from milk_recsys.run.progress import Progress
from milk_recsys.study.audit import audit

KS = (5, 10, 20, 50)
TOP = 20  # Length of the lists whose share of new items is reported.
DONOR_SCALE = ("keep", "linmap")  # Methods whose scores are on the scale of KEEP's decomposition.
MAX_SCORES = 2**22  # Number of scores in memory.


def main(argv: Sequence[str] | None = None) -> int:
    """Score the methods one after the other, and write both tables."""
    arguments = _parser().parse_args(argv)
    torch.set_num_threads(arguments.threads)
    try:
        task = read_dgmrec_task(arguments.files)
        check_counts(task, TIKTOK_COUNTS)
        dataset, split = task.apply(read_dataset(arguments.data))
        lines = tables_of(task, dataset, split, arguments.models, arguments.set, arguments.warm)
    except (DataError, OptionError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    lines += [
        f"Missing rate 0.6, warm items {arguments.warm}; {time.strftime('%Y-%m-%d')}, "
        f"{platform.machine()}, {arguments.threads} threads, torch {torch.__version__}.",
        "",
    ]
    if arguments.out:
        with replacing(arguments.out) as temporary:
            temporary.write_text("\n".join(lines), encoding="utf-8")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.dgmrec_task", description=__doc__)
    parser.add_argument(
        "--files", type=Path, required=True, help="folder with the three files of the repository"
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the data set tiktok")
    parser.add_argument("--models", nargs="+", default=["keep"], help="methods to score")
    parser.add_argument(
        "--set",
        nargs="+",
        default=[],
        metavar="NAME=VALUE",
        help="options, for those of the methods that have them",
    )
    parser.add_argument(
        "--warm",
        choices=("as_new", "donor"),
        default="as_new",
        help="scores of the training items in the mixed table",
    )
    parser.add_argument("--threads", type=int, default=2, help="number of CPU threads")
    parser.add_argument("--out", type=Path, help="file for the tables, which are also printed")
    return parser


def tables_of(
    task: DgmrecTask,
    dataset: Dataset,
    split: Split,
    models: Sequence[str],
    given: Sequence[str],
    warm: str,
) -> list[str]:
    """Score the methods, print both tables, and return their lines.

    Raises:
        OptionError: there is no such method or option, or a method has no scores on the scale that
            `warm` needs.
    """
    runs = [_options(model, given) for model in models]
    if warm == "donor":
        others = [model for model in models if model not in DONOR_SCALE]
        if others:
            raise OptionError(
                f"--warm donor: the scores of {others[0]} are on another scale. Choose --warm "
                f"as_new, or models of {', '.join(DONOR_SCALE)}."
            )
    names = [f"{metric}@{k}" for metric in ("recall", "ndcg") for k in KS]
    head = ["model", *names, "users", f"new in top {TOP}", "seconds"]
    found: dict[str, list[list[str]]] = {"clean": [], "mixed": []}
    for options in runs:
        begun = time.perf_counter()
        audit(options, dataset, split)
        tables = build_tables(dataset, split, options, torch.device("cpu"))
        with tempfile.TemporaryDirectory() as folder:
            learner, _ = train_model(options, tables, Path(folder), Progress(quiet=True))
        parts = {
            "clean": evaluate_clean(learner, tables, task),
            "mixed": evaluate_mixed(learner, tables, task, options if warm == "donor" else None),
        }
        seconds = time.perf_counter() - begun
        for title, metrics in parts.items():
            values = [f"{metrics[name]:.4f}" for name in names]
            found[title].append(
                [
                    f"`{options.run.model}`",
                    *values,
                    f"{metrics['users']:.0f}",
                    f"{metrics['share']:.2f}",
                    f"{seconds:.0f}",
                ]
            )
    lines: list[str] = []
    for title, rows in found.items():
        lines += [f"**{title}**", "", _row(head), _row(["---"] * len(head))]
        lines += [*map(_row, rows), ""]
    print("\n".join(lines), flush=True)
    return lines


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _options(model: str, given: Sequence[str]) -> Options:
    """Return the options of a run: those of the command line that the method has."""
    values: dict[str, Any] = {}
    for assignment in given:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise OptionError(f"--set {assignment}: must be NAME=VALUE.")
        if name in find_method(model).fields:
            try:
                values[name] = json.loads(text)
            except json.JSONDecodeError:
                values[name] = text
    options = Options.of(model, **values, compare="none", setting="mtmt", device="cpu")
    validate(options)
    return options


# --- evaluation -----------------------------------------------------------------------------------


def evaluate_clean(learner: Learner, tables: Tables, task: DgmrecTask) -> dict[str, float]:
    """Rank the new items alone; return the means over users."""
    return _evaluate(
        learner.scorer(tables.features, torch.from_numpy(task.new), tables.mask),
        task.clean,
        task.new,
        np.ones(len(task.new), dtype=np.bool_),
    )


def evaluate_mixed(
    learner: Learner, tables: Tables, task: DgmrecTask, donor: Options | None = None
) -> dict[str, float]:
    """Rank all items except a user's training items; return the means over users.

    Arguments:
        donor: options whose decomposition scores the training items; None: the learner scores them
            by their features.
    """
    items = torch.arange(task.num_items)
    score = learner.scorer(tables.features, items, tables.mask)
    if donor is not None:
        shrinkage = learner.chosen.get("shrinkage", donor.method.shrinkage)  # KEEP may choose it.
        score = with_donor(score, tables, donor, shrinkage)
    new = ~np.isin(items.numpy(), task.warm)
    return _evaluate(without_training_items(score, tables), task.test, items.numpy(), new)


def with_donor(score: ScoreBlock, tables: Tables, options: Options, shrinkage: float) -> ScoreBlock:
    """Return scores in which those of the training items are X T, KEEP's at full rank."""
    own = options.method
    linmap = Options.of(
        "linmap",
        shrinkage=shrinkage,
        popularity=own.popularity,
        compare="none",
        dtype=options.run.dtype,
        device="cpu",
    )
    donor = build(WarmData.of_tables(tables, linmap), linmap).donor_scorer()

    def mixed(users: Tensor) -> Tensor:
        return score(users).index_copy(1, tables.warm, donor(users))

    return mixed


def without_training_items(score: ScoreBlock, tables: Tables) -> ScoreBlock:
    """Return scores in which a user's training items come after all others."""

    def masked(users: Tensor) -> Tensor:
        scores = score(users).clone()
        numbers, starts = ragged_ranges(tables.rows.offsets, users)
        counts = torch.diff(starts, append=torch.tensor([len(numbers)]))
        rows = torch.repeat_interleave(torch.arange(len(users)), counts)
        lowest = scores.min(dim=1).values - 1
        scores[rows, tables.pairs_at(numbers)[1]] = lowest[rows]
        return scores

    return masked


def _evaluate(
    score: ScoreBlock,
    pairs: np.ndarray[Any, Any],
    candidates: np.ndarray[Any, Any],
    new: np.ndarray[Any, Any],
) -> dict[str, float]:
    """Return the means of the metrics over users, and the share of new items in the lists."""
    top, length, is_new = [], min(TOP, len(candidates)), torch.from_numpy(new)

    def watched(users: Tensor) -> Tensor:
        scores = score(users)
        top.append(is_new[scores.topk(length, dim=1).indices].double().mean(dim=1))
        return scores

    users = torch.from_numpy(pairs[:, 0])
    with torch.no_grad():
        ranks = positive_ranks(
            watched,
            users,
            torch.from_numpy(np.searchsorted(candidates, pairs[:, 1])),
            num_candidates=len(candidates),
            max_elements=MAX_SCORES,
        )
    means: Mapping[str, float] = mean_metrics(per_user_metrics(users, ranks, KS))
    return {**means, "share": float(torch.cat(top).mean())}


if __name__ == "__main__":
    sys.exit(main())
