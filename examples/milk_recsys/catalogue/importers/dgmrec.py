"""The task "missing modalities and new items" of DGMRec's repository, from its public files.

A folder holds, for the data set NAME,

- ``NAME.inter``: all pairs, with the label 0 (training), 1 (validation) or 2 (test) in `x_label`;
- ``NAME_del.inter``: the same without the training pairs of the new items;
- ``missing_items_RATE.npy``: the items that lack modalities, by the letters of what they lack.

The repository's list of new items is not among its files. They are recovered as the items with
training pairs in the first file and none in the second; those that never had a training pair cannot
be told from other items without one.

References:
    DGMRec, SIGIR 2025, the repository ptkjw1997/DGMRec, revision cd8f00d: data/masks/tiktok.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from milk_recsys.base.errors import DataError
from milk_recsys.catalogue.dataset import Dataset
from milk_recsys.catalogue.importers.layouts import read_inter
from milk_recsys.catalogue.importers.pickled import read_pickled_arrays
from milk_recsys.catalogue.split import Split

__all__ = ["TIKTOK_COUNTS", "DgmrecTask", "check_counts", "read_dgmrec_task"]

Ids = npt.NDArray[np.int64]
TRAINING, VALIDATION, TEST = 0, 1, 2
LETTERS = MappingProxyType({"text": "t", "visual": "v", "acoustic": "a"})
"""Modality -> its letter in the file of missing modalities."""

TIKTOK_COUNTS: Mapping[str, int] = MappingProxyType(
    {
        "pairs": 68_722,
        "users": 9_308,
        "items": 6_710,
        "training pairs before": 59_541,
        "validation pairs": 6_130,
        "test pairs before": 3_051,
        "removed pairs": 11_249,
        "training pairs": 48_292,
        "training items": 5_003,
        "new items": 1_242,
        "validation pairs on items without a training pair": 1_609,
        "test pairs": 13_238,
        "test users": 4_316,
        "test pairs on items without a training pair": 11_161,
        "test pairs on new items": 10_958,
        "test users with a new item": 2_607,
        "items that lack a modality": 4_024,
        "items that lack text": 2_681,
        "items that lack visual": 2_685,
        "items that lack acoustic": 2_685,
        "new items with visual and acoustic": 579,
        "new items with visual alone": 161,
        "new items with acoustic alone": 164,
        "new items with neither": 338,
        "training items with visual and acoustic": 2_334,
        "training items with visual alone": 673,
        "training items with acoustic alone": 662,
        "training items with neither": 1_334,
    }
)
"""Counts of the TikTok task with missing rate 0.6, as found in the files of revision cd8f00d."""


@dataclasses.dataclass(frozen=True)
class DgmrecTask:
    """The pairs and the missing modalities of the task.

    Attributes:
        num_users, num_items: one more than the largest ids.
        full: (P, 3) user, item and label of the first file.
        training: (P, 2) training pairs, sorted, without those of new items.
        removed: (P, 2) training pairs of new items.
        validation: (P, 2) validation pairs.
        test: (P, 2) the pairs that the repository tests on: those with the label 2 and the removed
            ones, of users with a training pair.
        new: ids of the recovered new items, increasing.
        missing: modality -> ids of the items that lack it.
    """

    num_users: int
    num_items: int
    full: Ids
    training: Ids
    removed: Ids
    validation: Ids
    test: Ids
    new: Ids
    missing: Mapping[str, Ids]

    @property
    def warm(self) -> Ids:
        """Items with a training pair, increasing."""
        return np.unique(self.training[:, 1])

    @property
    def clean(self) -> Ids:
        """The test pairs of new items, (P, 2)."""
        return self.test[np.isin(self.test[:, 1], self.new)]

    def counts(self) -> dict[str, int]:
        """Return the counts that `TIKTOK_COUNTS` states."""
        warm, clean, labels = self.warm, self.clean, self.full[:, 2]
        cold_test = ~np.isin(self.test[:, 1], warm)
        return {
            "pairs": len(self.full),
            "users": self.num_users,
            "items": self.num_items,
            "training pairs before": int((labels == TRAINING).sum()),
            "validation pairs": len(self.validation),
            "test pairs before": int((labels == TEST).sum()),
            "removed pairs": len(self.removed),
            "training pairs": len(self.training),
            "training items": len(warm),
            "new items": len(self.new),
            "validation pairs on items without a training pair": int(
                (~np.isin(self.validation[:, 1], warm)).sum()
            ),
            "test pairs": len(self.test),
            "test users": len(np.unique(self.test[:, 0])),
            "test pairs on items without a training pair": int(cold_test.sum()),
            "test pairs on new items": len(clean),
            "test users with a new item": len(np.unique(clean[:, 0])),
            "items that lack a modality": len(np.unique(np.concatenate([*self.missing.values()]))),
            **{f"items that lack {name}": len(ids) for name, ids in self.missing.items()},
            **self._patterns("new items", self.new),
            **self._patterns("training items", warm),
        }

    def _patterns(self, title: str, items: Ids) -> dict[str, int]:
        """Count items by what they keep of the two modalities that are public, besides the text."""
        visual, acoustic = self.mask(("visual", "acoustic"))[items].T
        return {
            f"{title} with visual and acoustic": int((visual & acoustic).sum()),
            f"{title} with visual alone": int((visual & ~acoustic).sum()),
            f"{title} with acoustic alone": int((~visual & acoustic).sum()),
            f"{title} with neither": int((~visual & ~acoustic).sum()),
        }

    def mask(self, modalities: Sequence[str]) -> npt.NDArray[np.bool_]:
        """Return the modalities that each item keeps, (num_items, M).

        Raises:
            DataError: the task has no such modality.
        """
        kept = np.ones((self.num_items, len(modalities)), dtype=np.bool_)
        for column, name in enumerate(modalities):
            if name not in self.missing:
                raise DataError(
                    f"the task has no modality {name!r}. Give a data set with some of "
                    f"{', '.join(self.missing)}."
                )
            kept[self.missing[name], column] = False
        return kept

    def apply(self, dataset: Dataset) -> tuple[Dataset, Split]:
        """Return the data set and the split of the clean task.

        The warm items are those with a training pair, with their training pairs alone. The test
        items are the recovered new items, with their pairs in `clean`. The validation items are all
        others without a training pair, with their validation pairs.

        Raises:
            DataError: the data set does not have the pairs of the task.
        """
        pairs = np.asarray(dataset.interactions, dtype=np.int64)
        if not np.array_equal(pairs, _sorted(self.full[:, :2])):
            raise DataError(
                f"{dataset.name}: its pairs are not those of the task. Give the data set that the "
                "task was made from, with the same ids."
            )
        validation = np.setdiff1d(np.arange(self.num_items), np.concatenate([self.warm, self.new]))
        judged = self.validation[np.isin(self.validation[:, 1], validation)]
        interactions = _sorted(np.concatenate([self.training, judged, self.clean]))
        mask = dataset.natural_mask & self.mask(dataset.modalities)
        split = Split(self.warm, np.unique(judged[:, 1]), self.new, mask)
        return dataclasses.replace(dataset, interactions=interactions.astype(np.int32)), split


def read_dgmrec_task(folder: Path, name: str = "tiktok", rate: str = "0.6") -> DgmrecTask:
    """Read the task from a folder with the repository's files; see the docstring of the module.

    Arguments:
        folder: holds the three files.
        name: name of the data set.
        rate: missing rate, as in the name of the third file.

    Raises:
        DataError: a file is missing or damaged, or the files do not belong together.
    """
    full = read_inter(folder / f"{name}.inter")
    kept_path = folder / f"{name}_del.inter"
    kept = read_inter(kept_path)
    missing = read_pickled_arrays(folder / f"missing_items_{rate}.npy")
    num_users, num_items = (int(full[:, k].max()) + 1 for k in (0, 1))
    keys, kept_keys = (_keys(rows, num_items) for rows in (full, kept))
    removed = full[~np.isin(keys, kept_keys)]
    if not np.isin(kept_keys, keys).all() or (removed[:, 2] != TRAINING).any():
        raise DataError(
            f"{kept_path}: must hold the rows of {name}.inter without some training pairs. Take "
            "both files from one revision of the repository."
        )
    training = kept[kept[:, 2] == TRAINING]
    new = np.setdiff1d(removed[:, 1], training[:, 1])
    test = np.concatenate([full[full[:, 2] == TEST], removed[np.isin(removed[:, 1], new)]])
    test = test[np.isin(test[:, 0], training[:, 0])]
    return DgmrecTask(
        num_users=num_users,
        num_items=num_items,
        full=full,
        training=_sorted(training[:, :2]),
        removed=_sorted(removed[:, :2]),
        validation=_sorted(full[full[:, 2] == VALIDATION][:, :2]),
        test=_sorted(test[:, :2]),
        new=new,
        missing=_missing(folder / f"missing_items_{rate}.npy", missing, num_items),
    )


def check_counts(task: DgmrecTask, expected: Mapping[str, int]) -> None:
    """Compare the counts of a task with the expected ones.

    Raises:
        DataError: a count differs; the message names all that do.
    """
    counts = task.counts()
    differences = [
        f"{counts.get(name, 0):,} {name} instead of {value:,}"
        for name, value in expected.items()
        if counts.get(name) != value
    ]
    if differences:
        raise DataError(
            f"the files of the task have {', '.join(differences)}. Take them from the revision "
            "that the counts are of."
        )


def _missing(path: Path, given: Mapping[str, Ids], num_items: int) -> dict[str, Ids]:
    """Return modality -> items that lack it, from the sets of items by what they lack."""
    every = "".join(LETTERS.values())
    unknown = [key for key in given if key != "all" and (not key or set(key) - set(every))]
    if unknown:
        raise DataError(
            f"{path}: the entry {unknown[0]!r} is not of the letters {every} or `all`. Give a "
            "file of this task."
        )
    items = np.concatenate([np.zeros(0, dtype=np.int64), *given.values()])
    if len(items) and not 0 <= items.min() <= items.max() < num_items:
        raise DataError(
            f"{path}: has the item {items.max() if items.min() >= 0 else items.min()}, but ids go "
            f"from 0 to {num_items - 1}. Give a file of this data set."
        )
    if len(np.unique(items)) < len(items):
        raise DataError(f"{path}: an item is in two entries. Give a file of this task.")
    return {
        name: np.sort(
            np.concatenate(
                [
                    np.zeros(0, dtype=np.int64),
                    *(ids for key, ids in given.items() if key == "all" or letter in key),
                ]
            )
        )
        for name, letter in LETTERS.items()
    }


def _keys(rows: Ids, num_items: int) -> Ids:
    """Return one number for each row of user, item and label."""
    keys: Ids = (rows[:, 0] * num_items + rows[:, 1]) * 3 + rows[:, 2]
    return keys


def _sorted(pairs: Ids) -> Ids:
    """Return pairs sorted by user, then item."""
    return pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
