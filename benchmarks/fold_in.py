"""Compare folded-in users with users of a fit: NDCG@20 on new items, and seconds.

python -m benchmarks.fold_in --data $INVMOD_DATA/lfm2k --out docs/results/fold_in

A tenth of the users is held back. KEEP is fitted on the warm items of a split (FTMT) without the
pairs of these users, who are then folded in by their pairs (`methods/keep/user_map.py`). Their
lists of test items are compared with

    updated      the fitted model, updated with their pairs
    fit again    KEEP fitted on the pairs of all users, which chooses its options again
    nothing      equal scores, as for users about whom nothing is known
"""

from __future__ import annotations

import argparse
import copy
import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.journal import write_journal, write_table
from benchmarks.machine import versions
from milk_recsys.catalogue.dataset import read_dataset
from milk_recsys.catalogue.split import draw_split
from milk_recsys.catalogue.tables import Tables, build_tables
from milk_recsys.catalogue.user_rows import build_user_rows
from milk_recsys.config.options import Options
from milk_recsys.methods.keep.fitted import KeepModel
from milk_recsys.methods.keep.model import Keep
from milk_recsys.methods.keep.update import update_model
from milk_recsys.methods.keep.user_map import UserMap
from milk_recsys.methods.warm import WarmData
from milk_recsys.ranking.metrics import per_user_metrics, positive_ranks


def main(argv: Sequence[str] | None = None) -> int:
    """Measure each data set and split, write the journal and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.fold_in", description=__doc__)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders of data sets")
    parser.add_argument("--seeds", type=int, nargs="+", default=[500], help="of the splits")
    parser.add_argument("--share", type=float, default=0.1, help="share of users held back")
    parser.add_argument("--out", type=Path, required=True, help="folder of the journal")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    rows = []
    for folder in options.data:
        for seed in options.seeds:
            rows.append(measure(folder, seed, options.share))
            print(json.dumps(rows[-1]), file=sys.stderr)
    write_journal(options.out / "runs.jsonl", [{"versions": versions(), **row} for row in rows])
    lines = [" | ".join(map(str, row.values())) for row in rows]
    header = [" | ".join(rows[0]), " | ".join(["---"] * len(rows[0]))]
    write_table(options.out / "table.md", [f"| {x} |" for x in (*header, *lines)])
    return 0


def measure(folder: Path, seed: int, share: float) -> dict[str, Any]:
    """Return NDCG@20 of the users who were held back, in each way, and the seconds."""
    options = Options.of("keep", split_seed=seed, compare="none")
    dataset = read_dataset(folder, empty_items="drop")
    split, _ = draw_split(dataset, options.data)
    tables = build_tables(dataset, split, options, torch.device("cpu"))
    data = WarmData.of_tables(tables, options)
    trained = data.trained_users.nonzero()[:, 0]
    order = torch.randperm(len(trained), generator=torch.Generator().manual_seed(seed))
    held = trained[order[: round(share * len(trained))]].sort().values
    pairs = torch.stack(data.pairs, dim=1)
    own = torch.isin(pairs[:, 0], held)
    every = torch.arange(data.num_items)
    rest = build_user_rows(pairs[~own], data.num_users, every)
    some, seconds_fit = fitted(dataclasses.replace(data, rows=rest), options)
    whole, _ = fitted(data, options)
    begun = time.process_time()
    places = torch.searchsorted(held, pairs[own, 0])
    offsets = torch.nn.functional.pad(torch.bincount(places).cumsum(0), (1, 0))
    vectors = UserMap(some).vectors(offsets, pairs[own, 1])
    seconds = time.process_time() - begun
    folded = ndcg(tables, held, vectors, new_vectors(some, tables))
    updated = copy.deepcopy(some)
    update_model(updated, pairs[own])
    added = ndcg(tables, held, updated.user_vectors(held), new_vectors(updated, tables))
    again = ndcg(tables, held, whole.user_vectors(held), new_vectors(whole, tables))
    nothing = ndcg(tables, held, torch.zeros_like(vectors), new_vectors(some, tables))
    return {
        "data set": dataset.name,
        "seed": seed,
        "users held back": len(held),
        "folded in": f"{folded:.4f}",
        "updated": f"{added:.4f}",
        "fit again": f"{again:.4f}",
        "nothing": f"{nothing:.4f}",
        "fold-in, s": f"{seconds:.3f}",
        "fit, s": f"{seconds_fit:.1f}",
    }


def fitted(data: WarmData, options: Options) -> tuple[KeepModel, float]:
    """Return the fitted model, and the CPU seconds of the fit."""
    begun = time.process_time()
    net = Keep(data, options.method, 0).net
    return net, time.process_time() - begun


def new_vectors(model: KeepModel, tables: Tables) -> Tensor:
    """Return the vectors of the test items."""
    items = tables.test.candidates
    return model.embed_items(tables.features.rows(items), tables.mask[items])


def ndcg(tables: Tables, held: Tensor, users: Tensor, items: Tensor) -> float:
    """Return mean NDCG@20 of the held-back users on the test items."""
    own = torch.isin(tables.test.users, held)
    places = torch.searchsorted(held, tables.test.users[own])
    scores = users @ items.T
    ranks = positive_ranks(
        scores.__getitem__, places, tables.test.positions[own], num_candidates=len(items)
    )
    return float(per_user_metrics(places, ranks)["ndcg@20"].mean())


if __name__ == "__main__":
    sys.exit(main())
