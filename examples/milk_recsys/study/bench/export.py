"""Write a task to files that a program in any language can read.

A folder for the data set, SET, has ``features/<modality>.npy``, the features of all items as
published. A folder for each split, SET/SETTING/SEED, has these tables:

* ``train`` (user, item): the training pairs;
* ``validation`` (user, item): pairs of the validation items, to choose options or an epoch by;
* ``items`` (item, part, one 0/1 column per modality): the part is warm, validation, test or unused,
  and a modality may be used where its column is 1;
* ``candidates`` (item): the test items, which are ranked;
* ``test_users`` (user): the users for whom they are ranked;
* ``task.json``: name, hashes, sizes and the rule of the lists.

The test pairs are not written. They are public all the same, because the data sets are: the
benchmark trusts that a method does not read them, and `bench audit` finds mistakes, not fraud.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from milk_recsys.base.errors import DataError
from milk_recsys.base.files import replacing, write_json
from milk_recsys.catalogue.dataset import Dataset
from milk_recsys.study.bench.tasks import Instance

__all__ = ["LIST_LENGTH", "Format", "export", "list_length"]

Format = Literal["parquet", "csv"]
LIST_LENGTH = 20
"""Length of a list: the largest K of the metrics."""
PREFIX = "mask_"
"""Prefix of the columns of the mask, so that a modality may be named like another column."""


def list_length(num_candidates: int) -> int:
    """Return the least length of a list: 20, or all candidates if there are fewer."""
    return min(LIST_LENGTH, num_candidates)


def export(drawn: Iterable[Instance], out: Path, kind: Format = "parquet") -> list[Path]:
    """Write splits and the features of their data set; return the folders.

    Existing files are replaced.

    Raises:
        DataError: a folder cannot be written to.
    """
    folders: list[Path] = []
    try:
        for instance in drawn:
            if not folders:
                folders.append(_write_features(instance.dataset, out / instance.set))
            folders.append(_write_split(instance, out, kind))
    except OSError as error:
        raise DataError(f"{out}: cannot be written to ({error.strerror or error}).") from None
    return folders


def _write_features(dataset: Dataset, folder: Path) -> Path:
    (folder / "features").mkdir(parents=True, exist_ok=True)
    for name, x in dataset.features.items():
        with (
            replacing(folder / "features" / f"{name}.npy") as temporary,
            temporary.open("wb") as file,
        ):
            np.save(file, x)
    return folder / "features"


def _write_split(instance: Instance, out: Path, kind: Format) -> Path:
    folder = out / instance.set / instance.setting / str(instance.seed)
    folder.mkdir(parents=True, exist_ok=True)
    split, tables = instance.split, instance.tables
    validation = tables.validation
    test_users = np.unique(tables.test.users.numpy())
    train = tables.pairs.numpy()
    frames = {
        "train": pl.DataFrame({"user": train[:, 0], "item": train[:, 1]}),
        "validation": pl.DataFrame(
            {
                "user": validation.users.numpy(),
                "item": validation.candidates[validation.positions].numpy(),
            }
        ),
        "items": _items(instance),
        "candidates": pl.DataFrame({"item": split.test}),
        "test_users": pl.DataFrame({"user": test_users}),
    }
    for name, frame in frames.items():
        with replacing(folder / f"{name}.{kind}") as temporary:
            if kind == "csv":
                frame.write_csv(temporary)
            else:
                frame.write_parquet(temporary)
    write_json(folder / "task.json", _facts(instance, len(test_users)))
    return folder


def _items(instance: Instance) -> pl.DataFrame:
    split, dataset = instance.split, instance.dataset
    parts: npt.NDArray[Any] = np.full(dataset.num_items, "unused", dtype=object)
    for name in ("warm", "validation", "test"):
        parts[getattr(split, name)] = name
    columns: dict[str, Any] = {
        "item": np.arange(dataset.num_items),
        "part": pl.Series(parts.tolist(), dtype=pl.String),
    }
    columns |= {
        f"{PREFIX}{name}": split.mask[:, m].astype(np.int8)
        for m, name in enumerate(dataset.modalities)
    }
    return pl.DataFrame(columns)


def _facts(instance: Instance, num_test_users: int) -> dict[str, Any]:
    length = list_length(len(instance.split.test))
    return {
        "task": instance.name,
        "official": instance.official,
        "hashes": dict(instance.hashes),
        "data": instance.dataset.fingerprint,
        "num_users": instance.dataset.num_users,
        "num_items": instance.dataset.num_items,
        "modalities": list(instance.dataset.modalities),
        "test_users": num_test_users,
        "candidates": len(instance.split.test),
        "list_length": length,
        "lists": (
            "A table (seed, user, rank, item), rank 1 first, or (seed, user, item, score): for "
            f"every test user at least {length} different candidates."
        ),
    }
