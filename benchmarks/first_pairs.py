"""Compare vectors of new items that have a few pairs: from content, from pairs, and from both.

python -m benchmarks.first_pairs --data $INVMOD_DATA/lfm2k --out docs/results/first_pairs

KEEP is fitted on the warm items of a split (FTMT). Of each validation item (with ``--part test``:
of each test item) 1, 3 or 10 pairs are drawn and given to the model. The other pairs are ranked
among the items of the part, without the given pairs, and NDCG@20 is compared:

    content     vectors from the content, the given pairs are not used
    update      the items are added as warm items with the given pairs (`update_model`)
    pairs       vectors from the given pairs alone (kappa = 0)
    kappa K     the mean of both, with content worth K pairs (`methods/keep/first_pairs.py`)
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.journal import write_journal, write_table
from benchmarks.machine import versions
from milk_recsys.catalogue.dataset import read_dataset
from milk_recsys.catalogue.split import draw_split
from milk_recsys.catalogue.tables import Group, Tables, build_tables
from milk_recsys.config.options import Options
from milk_recsys.methods.keep.first_pairs import vectors_with_pairs
from milk_recsys.methods.keep.fitted import KeepModel
from milk_recsys.methods.keep.model import Keep
from milk_recsys.methods.keep.update import update_model
from milk_recsys.methods.keep.user_map import UserMap, warm_vectors
from milk_recsys.methods.warm import WarmData
from milk_recsys.ranking.metrics import per_user_metrics, positive_ranks

GIVEN = (1, 3, 10)
CONTENT_PAIRS = (5.0, 10.0, 20.0, 40.0, 80.0)
EXCLUDED = -1e30  # Score of a pair that was given.


def main(argv: Sequence[str] | None = None) -> int:
    """Measure each data set and split, write the journal and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.first_pairs", description=__doc__)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders of data sets")
    parser.add_argument("--seeds", type=int, nargs="+", default=[400, 401], help="of the splits")
    parser.add_argument("--part", choices=("validation", "test"), default="validation")
    parser.add_argument("--out", type=Path, required=True, help="folder of the journal")
    options = parser.parse_args(argv)
    torch.set_num_threads(1)
    rows = []
    for folder in options.data:
        for seed in options.seeds:
            rows += measure(folder, seed, options.part)
            print(json.dumps(rows[-len(GIVEN) :], indent=1), file=sys.stderr)
    used = versions()
    write_journal(
        options.out / f"{options.part}.jsonl", [{"versions": used, **row} for row in rows]
    )
    lines = [" | ".join(map(str, row.values())) for row in rows]
    header = [" | ".join(rows[0]), " | ".join(["---"] * len(rows[0]))]
    write_table(options.out / f"{options.part}.md", [f"| {x} |" for x in (*header, *lines)])
    return 0


def measure(folder: Path, seed: int, part: str) -> list[dict[str, Any]]:
    """Return NDCG@20 of each kind of vectors, for each number of given pairs."""
    options = Options.of("keep", split_seed=seed, compare="none")
    dataset = read_dataset(folder, empty_items="drop")
    tables = build_tables(
        dataset, draw_split(dataset, options.data)[0], options, torch.device("cpu")
    )
    model = Keep(WarmData.of_tables(tables, options), options.method, 0).net.double()
    group = tables.validation if part == "validation" else tables.test
    rows = []
    for given in GIVEN:
        generator = torch.Generator().manual_seed(seed)
        pairs, rest = divided(group, given, generator)
        row = {"data set": dataset.name, "seed": seed, "given pairs": given}
        for name, vectors in kinds(model, tables, group, pairs).items():
            row[name] = f"{ndcg(*vectors, pairs, rest):.4f}"
        rows.append(row)
    return rows


def divided(group: Group, given: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Divide the pairs (P, 2) of users and candidates: up to `given` of each item, and the rest.

    An item keeps at least half of its pairs.
    """
    order = torch.randperm(len(group.users), generator=generator)
    pairs = torch.stack([group.users, group.positions], dim=1)[order]
    pairs = pairs[pairs[:, 1].argsort(stable=True)]
    counts = torch.bincount(pairs[:, 1], minlength=len(group.candidates))
    starts = counts.cumsum(0) - counts
    place = torch.arange(len(pairs)) - starts[pairs[:, 1]]
    first = place < torch.clamp(counts // 2, max=given)[pairs[:, 1]]
    return pairs[first], pairs[~first]


def kinds(
    model: KeepModel, tables: Tables, group: Group, pairs: Tensor
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return users' and items' vectors of each kind."""
    items = group.candidates
    features = {name: x.double() for name, x in tables.features.rows(items).items()}
    mask, user_map, a = tables.mask[items], UserMap(model), model.user_vectors(None)
    found = {"content": (a, model.embed_items(features, mask))}
    updated = copy.deepcopy(model)
    number = torch.stack([pairs[:, 0], pairs[:, 1] + len(model.counts)], dim=1)
    update_model(updated, number, features=features, mask=mask)
    found["update"] = (updated.user_vectors(None), warm_vectors(updated)[-len(items) :])
    for kappa in (0.0, *CONTENT_PAIRS):
        name = f"kappa {kappa:g}" if kappa else "pairs"
        # Items without a given pair have their content alone.
        vectors, _ = vectors_with_pairs(user_map, features, mask, pairs, kappa or 1e-6)
        found[name] = (a, vectors)
    return found


def ndcg(users: Tensor, items: Tensor, given: Tensor, rest: Tensor) -> float:
    """Return mean NDCG@20 of the rest of the pairs, without the given ones among the candidates."""
    scores = users @ items.T
    scores[given[:, 0], given[:, 1]] = EXCLUDED
    order = rest[:, 0].argsort(stable=True)
    ranks = positive_ranks(scores.__getitem__, *rest[order].unbind(1), num_candidates=len(items))
    return float(per_user_metrics(rest[order, 0], ranks)["ndcg@20"].mean())


if __name__ == "__main__":
    sys.exit(main())
