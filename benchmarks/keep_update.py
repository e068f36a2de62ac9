"""Compare updates of a fitted KEEP with fitting it again: seconds and largest difference of scores.

python -m benchmarks.keep_update --data $INVMOD_DATA/lfm2k --out docs/results/keep_update

Of the training data of a split (FTMT), a share of the users, of the items and of the other pairs is
held back. KEEP is fitted on the rest. Then it is updated twice: with the pairs and users among the
known items, and with the items. Each result is compared with a fit from the start on the same data:

    CPU s       CPU seconds until the vectors of the test items are there; a fit from the start
                chooses all options again
    difference  of the scores of all users for the test items, to a fit with the same options,
                divided by the largest score

After the first update the difference is that of rounding. The second one has the centres and scales
of the content frozen, too, which the fit from the start computes from all items.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.journal import read_journal, write_journal, write_table
from benchmarks.machine import versions
from milk_recsys.catalogue.dataset import read_dataset
from milk_recsys.catalogue.split import draw_split
from milk_recsys.catalogue.tables import Tables, build_tables
from milk_recsys.catalogue.user_rows import build_user_rows
from milk_recsys.config.options import Options
from milk_recsys.methods.keep.content import content_regression
from milk_recsys.methods.keep.fitted import KeepModel
from milk_recsys.methods.keep.model import Keep
from milk_recsys.methods.keep.update import update_model
from milk_recsys.methods.warm import WarmData

CPU = torch.device("cpu")
COLUMNS = (
    *("data set", "training items", "first fit, CPU s"),
    *("new pairs", "pairs: update, CPU s", "pairs: fit again, CPU s", "pairs: difference"),
    *("new items", "items: update, CPU s", "items: fit again, CPU s", "items: difference"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure each data set, write the journal and print the table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.keep_update", description=__doc__)
    parser.add_argument("--data", type=Path, nargs="+", required=True, help="folders of data sets")
    parser.add_argument("--seed", type=int, default=300, help="seed of the split")
    parser.add_argument("--share", type=float, default=0.02, help="share that is held back")
    parser.add_argument("--threads", type=int, default=1, help="number of CPU threads")
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    parser.add_argument("--out", type=Path, required=True, help="folder of the journal")
    arguments = parser.parse_args(argv)
    torch.set_num_threads(arguments.threads)
    journal = arguments.out / "updates.jsonl"
    for folder in arguments.data:
        case = measure(folder, arguments.seed, arguments.share, arguments.dtype)
        others = [line for line in read_journal(journal) if line["data"] != case["data"]]
        write_journal(journal, [*others, {**case, **versions()}])
        print(json.dumps(case), flush=True)
    write_table(arguments.out / "table.md", table(read_journal(journal)))
    return 0


def measure(folder: Path, seed: int, share: float, dtype: str) -> dict[str, Any]:
    """Fit KEEP on a part of the training data of a split, and update it with the rest."""
    options = Options.of(
        "keep", data=folder, setting="ftmt", split_seed=seed, empty_items="drop", device="cpu",
        compare="none", dtype=dtype,
    )  # fmt: skip
    dataset = read_dataset(folder, empty_items="drop")
    split, _ = draw_split(dataset, options.data)
    tables = build_tables(dataset, split, options, CPU)
    whole = shuffled(WarmData.of_tables(tables, options), seed)
    num_users, num_items = (int(n * (1 - share)) for n in (whole.num_users, whole.num_items))
    known = torch.rand(whole.num_pairs, generator=torch.Generator().manual_seed(seed)) >= share
    users, items = whole.pairs
    known &= (users < num_users) & (items < num_items)
    first = part(whole, known, num_users, num_items)
    second = part(whole, items < num_items, whole.num_users, num_items)
    seconds, net = fitted(first, options, tables)
    result: dict[str, Any] = {"data": folder.name, "training_items": num_items, "fit_s": seconds}
    for name, data, new in (
        ("pairs", second, (items < num_items) & ~known),
        ("items", whole, items >= num_items),
    ):
        begun = time.process_time()
        content = {} if name == "pairs" else content_from(whole, num_items)
        count = update_model(net, torch.stack(whole.pairs, dim=1)[new], **content)
        scores = scores_of(net, tables)
        updated = time.process_time()
        again_s, _ = fitted(data, options, tables)
        expected = scores_of(same_options(net, data, options), tables)
        result[name] = {
            "new": count if name == "pairs" else whole.num_items - num_items,
            "update_s": updated - begun,
            "fit_s": again_s,
            "difference": float((scores - expected).abs().max() / expected.abs().max()),
        }
    return result


def shuffled(data: WarmData, seed: int) -> WarmData:
    """Number users and items at random, so that the last ones are any."""
    generator = torch.Generator().manual_seed(seed)
    users, items = (
        torch.randperm(n, generator=generator) for n in (data.num_users, data.num_items)
    )
    pairs = torch.stack([users.argsort()[data.pairs[0]], items.argsort()[data.pairs[1]]], dim=1)
    return dataclasses.replace(
        data,
        features={name: x[items] for name, x in data.features.items()},
        mask=data.mask[items],
        rows=build_user_rows(pairs, data.num_users, torch.arange(data.num_items)),
    )


def part(data: WarmData, pairs: Tensor, num_users: int, num_items: int) -> WarmData:
    """Return the first users and items with some of the pairs."""
    kept = torch.stack(data.pairs, dim=1)[pairs]
    return dataclasses.replace(
        data,
        num_users=num_users,
        features={name: x[:num_items] for name, x in data.features.items()},
        mask=data.mask[:num_items],
        rows=build_user_rows(kept, num_users, torch.arange(num_items)),
    )


def content_from(data: WarmData, start: int) -> dict[str, Any]:
    """Return the content of the warm items from a number on, as arguments of `update_model`."""
    features = {name: x[start:] for name, x in data.features.items()}
    return {"features": features, "mask": data.mask[start:]}


def fitted(data: WarmData, options: Options, tables: Tables) -> tuple[float, KeepModel]:
    """Fit KEEP and embed the test items; return the seconds and the model."""
    begun = time.process_time()
    net = Keep(data, options.method, options.run.seed).net
    scores_of(net, tables)
    return time.process_time() - begun, net


def same_options(net: KeepModel, data: WarmData, options: Options) -> KeepModel:
    """Return KEEP fitted from the start, with the options that a model has chosen."""
    own = dataclasses.replace(
        options.method,
        shrinkage=float(net.shrinkage),
        predicted_popularity=float(net.exponent),
        width=1.0,  # The regression is replaced.
    )
    again = Keep(data, own, options.run.seed).net
    state = {
        name: x for name, x in again.state_dict().items() if not name.startswith("regression.")
    }
    chosen, names = net.regression, net.regression.modalities
    widths = {
        name: 1.0 if kernel is None else kernel.width for name, kernel in chosen.kernels.items()
    }
    regression = content_regression(
        names,
        options.method,
        data.dtype,
        data.num_items,
        projected=not chosen.is_exact,
        widths=widths,
    )
    columns = [data.modalities.index(name) for name in names]
    features = {name: data.features[name] for name in names}
    targets = again.regression.get_buffer("targets")
    regression.fit(features, targets, data.mask[:, columns]).set_choices(chosen.choices)
    return KeepModel(data.modalities, options.method, regression, state)


@torch.no_grad()
def scores_of(net: KeepModel, tables: Tables) -> Tensor:
    """Return the scores of all users for the test items."""
    items = tables.test.candidates
    vectors = net.embed_items(tables.features.rows(items), tables.mask[items])
    return net.user_vectors(None) @ vectors.T


def table(cases: Sequence[dict[str, Any]]) -> list[str]:
    """Return the lines of the table."""
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + " --- |" * len(COLUMNS)]
    for case in cases:
        cells = [case["data"], f"{case['training_items']:,}", f"{case['fit_s']:.2f}"]
        for name in ("pairs", "items"):
            one = case[name]
            cells += [
                f"{one['new']:,}",
                f"{one['update_s']:.2f}",
                f"{one['fit_s']:.2f}",
                f"{one['difference']:.1e}",
            ]
        lines.append("| " + " | ".join(cells) + " |")
    last = cases[-1]
    lines += [
        "",
        "Pairs: new pairs and users among known items. Items: new items, too. Difference: largest "
        "difference of the scores of all users for the test items, divided by the largest score.",
        "",
        f"Measured on {last['machine']}, {last['threads']} threads, torch {last['torch']}, "
        f"{last['date']}.",
    ]
    return lines


if __name__ == "__main__":
    sys.exit(main())
