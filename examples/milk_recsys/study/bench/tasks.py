"""The tasks of the benchmark: data set, setting and split seed, identified by hashes.

``tasks.json``, next to this file, records the hashes of the official tasks, so that a task that is
drawn from other pairs, or by another random generator, is refused. This command draws all of them
and writes the file:

    python -m milk_recsys.study.bench.tasks --data $INVMOD_DATA

Importing this module needs no torch. Drawing a task does.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from milk_recsys.base.errors import DataError
from milk_recsys.base.files import read_json, write_json
from milk_recsys.catalogue.dataset import Dataset, read_dataset
from milk_recsys.catalogue.split import Split, draw_split
from milk_recsys.catalogue.synthetic import embedded_dataset, tiny_dataset
from milk_recsys.config.options import Options
from milk_recsys.study.bench.names import SETTINGS, Task, seed_ranges
from milk_recsys.study.records import hashes_of

if TYPE_CHECKING:
    from milk_recsys.catalogue.tables import Tables

__all__ = [
    "GENERATED",
    "SETS",
    "Instance",
    "folder_of",
    "instances",
    "open_dataset",
    "recorded",
    "recorded_hashes",
    "table_of_tasks",
]

SETS = ("lfm2k", "tiktok", "amazon_office", "citeulike_t")
"""The real data sets; their folders are in the folder --data or $INVMOD_DATA."""
GENERATED: Mapping[str, Callable[[], Dataset]] = MappingProxyType(
    {"tiny": tiny_dataset, "embedded": embedded_dataset}
)
"""Data sets that are generated, to try the benchmark without a download."""
SEEDS = (*range(10), *range(100, 110), *range(200, 210))
"""Seeds of the official splits: used in development, held out, and held out for newer systems."""
RECORD = Path(__file__).with_name("tasks.json")


# --- the record -----------------------------------------------------------------------------------


@functools.cache
def recorded() -> dict[str, Any]:
    """Return the record of the official tasks.

    Returns:
        set -> ``fingerprint``, ``users``, ``items``, ``pairs``, ``modalities``, and ``tasks``:
        setting -> seed as text -> ``split``, ``candidates`` (hashes), ``test_items`` and
        ``test_users`` (numbers).
    """
    record: dict[str, Any] = read_json(RECORD)
    return record


def recorded_hashes(name: str, setting: str, seed: int) -> dict[str, Any] | None:
    """Return the entry of the record for one split; None if it is not an official one."""
    entry: dict[str, Any] | None = (
        recorded().get(name, {}).get("tasks", {}).get(setting, {}).get(str(seed))
    )
    return entry


# --- drawing a task -------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Instance:
    """One split of a task, with everything that methods are given or measured on.

    Attributes:
        tables: the split as tensors; ``tables.test`` has the candidates and the test pairs.
        hashes: as `hashes_of` returns them.
        official: whether the hashes are recorded in ``tasks.json``.
    """

    set: str
    setting: str
    seed: int
    dataset: Dataset
    split: Split
    tables: Tables
    hashes: Mapping[str, str]
    official: bool

    @property
    def name(self) -> str:
        """The task with this seed alone."""
        return f"{self.set}/{self.setting}/{self.seed}"


def folder_of(name: str, root: Path | None) -> Path | None:
    """Return the folder of a data set; None if it is generated.

    Raises:
        DataError: there is no root folder, or no such folder in it.
    """
    if name in GENERATED:
        return None
    if root is None:
        raise DataError(
            f"--data is needed for {name}: the folder that holds the folder {name}. Set it, or "
            f"INVMOD_DATA. Without data, the sets {' and '.join(GENERATED)} can be tried."
        )
    if not (root / name).is_dir():
        raise DataError(
            f"{root / name}: no such folder. Put the data set there, or name another --data."
        )
    return root / name


def open_dataset(name: str, root: Path | None) -> tuple[Dataset, list[str]]:
    """Read or generate a data set; return it with notes on how it differs from the official one.

    Other features are no error: whoever derives them again from the public sources may get other
    last bits, and lists are measured without features. Other splits are one; see `instances`.

    Raises:
        DataError: the data set cannot be read.
    """
    folder = folder_of(name, root)
    if folder is None:
        return GENERATED[name](), []
    dataset = read_dataset(folder, empty_items="drop")
    official = recorded().get(name, {}).get("fingerprint", dataset.fingerprint)
    if official == dataset.fingerprint:
        return dataset, []
    return dataset, [
        f"{folder}: its pairs or features differ from those of the official data set {name} "
        f"(fingerprint {dataset.fingerprint}, not {official}). A method that reads them is not "
        "trained on what the other systems were trained on."
    ]


def instances(task: Task, dataset: Dataset) -> Iterator[Instance]:
    """Draw the splits of a task and compare them with the record.

    Raises:
        DataError: a split or a mask differs from the official one.
    """
    for seed in task.seeds:
        drawn = _draw(task.set, task.setting, seed, dataset)
        entry = recorded_hashes(task.set, task.setting, seed)
        if entry is None:
            yield drawn
            continue
        for key, value in drawn.hashes.items():
            if entry[key] != value:
                raise DataError(
                    f"{drawn.name}: the {key} hash is {value}, but the official one is "
                    f"{entry[key]}, so the random generators of this computer draw other splits. "
                    "Report it with the versions of NumPy and PyTorch."
                )
        yield dataclasses.replace(drawn, official=True)


def _draw(name: str, setting: str, seed: int, dataset: Dataset) -> Instance:
    import torch

    from milk_recsys.catalogue.tables import build_tables

    # The options that decide splits, masks and candidates are the same for all methods.
    options = Options.of("random", setting=setting, split_seed=seed, features="mapped")
    split, _ = draw_split(dataset, options.data)
    tables = build_tables(dataset, split, options, torch.device("cpu"))
    return Instance(
        name, setting, seed, dataset, split, tables, hashes_of(split, tables), official=False
    )


# --- the list of tasks, and writing the record ----------------------------------------------------


def table_of_tasks(task: Task | None = None) -> list[dict[str, str]]:
    """Return the official tasks as rows of a table: one per set and setting, or one per seed."""
    rows = []
    for name, entry in recorded().items():
        for setting, splits in entry["tasks"].items():
            if task is None:
                rows.append(
                    {
                        "task": f"{name}/{setting}/{seed_ranges([int(s) for s in splits])}",
                        "users": f"{entry['users']:,}",
                        "items": f"{entry['items']:,}",
                        "pairs": f"{entry['pairs']:,}",
                        "modalities": ", ".join(entry["modalities"]),
                        "data": entry["fingerprint"],
                    }
                )
            elif (name, setting) == (task.set, task.setting):
                rows += [
                    {
                        "task": f"{name}/{setting}/{seed}",
                        "split": split["split"],
                        "candidates": split["candidates"],
                        "test items": f"{split['test_items']:,}",
                        "test users": f"{split['test_users']:,}",
                    }
                    for seed, split in splits.items()
                    if int(seed) in task.seeds
                ]
    return rows


def draw_record(root: Path, sets: Sequence[str] = (*GENERATED, *SETS)) -> dict[str, Any]:
    """Draw all official tasks and return their record; see `recorded`."""
    record: dict[str, Any] = {}
    for name in sets:
        folder = folder_of(name, root)
        dataset = GENERATED[name]() if folder is None else read_dataset(folder, empty_items="drop")
        seeds = SEEDS[:10] if name in GENERATED else SEEDS
        record[name] = {
            "fingerprint": dataset.fingerprint,
            "users": dataset.num_users,
            "items": dataset.num_items,
            "pairs": len(dataset.interactions),
            "modalities": list(dataset.modalities),
            "tasks": {
                setting: {str(seed): _entry(_draw(name, setting, seed, dataset)) for seed in seeds}
                for setting in SETTINGS
            },
        }
    return record


def _entry(drawn: Instance) -> dict[str, Any]:
    test = drawn.tables.test
    return {
        **drawn.hashes,
        "test_items": len(test.candidates),
        "test_users": len(np.unique(test.users.numpy())),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the record of the official tasks."""
    parser = argparse.ArgumentParser(
        prog="python -m milk_recsys.study.bench.tasks", description="Write tasks.json."
    )
    parser.add_argument("--data", type=Path, required=True, help="folder of the real data sets")
    write_json(RECORD, draw_record(parser.parse_args(arguments).data))
    print(RECORD)
    return 0


if __name__ == "__main__":
    sys.exit(main())
