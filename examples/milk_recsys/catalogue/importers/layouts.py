"""Importers for two published layouts: MMRec's .inter files, and lines of `user item item ...`."""

from __future__ import annotations

import csv
import dataclasses
import io
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from milk_recsys.base.errors import DataError
from milk_recsys.catalogue.importers.options import OutputOptions
from milk_recsys.catalogue.importers.rows import copy_rows, read_features
from milk_recsys.catalogue.importers.write import Draft
from milk_recsys.catalogue.raw.files import open_bytes
from milk_recsys.catalogue.raw.tables import open_table
from milk_recsys.catalogue.raw.times import Times, day_range
from milk_recsys.catalogue.raw.values import BadCell
from milk_recsys.catalogue.split import Split

__all__ = ["Mmrec", "Text", "read_inter"]

Pairs = npt.NDArray[np.int64]
SPLITS = ("train", "val", "test")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mmrec(OutputOptions):
    """Data set in MMRec's layout: one .inter file, image_feat.npy, text_feat.npy."""

    folder: Path
    """Folder with the files."""

    def describe(self) -> str:
        """Return the source of the data set, for its manifest."""
        return f"prepare.py mmrec: {self.folder.name}"

    def fill(self, draft: Draft) -> None:
        """Write the data set, with names from u_id_mapping.csv and i_id_mapping.csv."""
        files = sorted(self.folder.glob("*.inter"))
        if len(files) != 1:
            raise DataError(f"{self.folder}: must hold one .inter file, found {len(files)}.")
        pairs = read_inter(files[0])[:, :2]
        features = {"visual": "image_feat.npy", "text": "text_feat.npy"}
        _write(draft, self.folder, features, pairs, read_inter_times(files[0], draft))
        draft.write_names(
            _read_mapping(self.folder / "u_id_mapping.csv", draft.counts["num_users"], draft),
            _read_mapping(self.folder / "i_id_mapping.csv", draft.counts["num_items"], draft),
        )
        draft.write_manifest()
        draft.notes.append(
            "x_label, a split of the interactions of warm items, is not used: train.py draws the "
            "split into warm and new items."
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Text(OutputOptions):
    """Text files train.txt, val.txt, test.txt with lines `user item item ...`, and *_feat.npy."""

    folder: Path
    """Folder with the files."""
    split: Literal["keep", "draw"] = "keep"
    """Split of new items: keep that of the files, or let train.py draw one."""

    def describe(self) -> str:
        """Return the source of the data set, for its manifest."""
        return f"prepare.py text: {self.folder.name}"

    def fill(self, draft: Draft) -> None:
        """Write the data set."""
        prepare_text(draft, self.folder, keep_split=self.split == "keep")


def read_inter_times(path: Path, draft: Draft) -> npt.NDArray[np.float64] | None:
    """Return the times of an .inter file, or None if it has no column `timestamp`."""
    table = open_table(path)
    if "timestamp" not in table.columns:
        return None
    clock, blocks = Times(), []
    for first, frame in table.batches(["timestamp"]):
        seconds = clock.seconds(frame["timestamp"])
        if isinstance(seconds, BadCell):
            raise table.fail(seconds, "timestamp", first)
        if seconds.has_nulls():
            draft.notes.append(f"{path.name}: timestamp has empty cells, so times are left out.")
            return None
        blocks.append(seconds.to_numpy())
    if not blocks:
        return None
    times = np.concatenate(blocks)
    draft.notes.append(f"{path.name}: timestamp is {clock.note}, {day_range(times)}.")
    return times


def _read_mapping(path: Path, count: int, draft: Draft) -> list[str] | None:
    """Return the name of each number from MMRec's file of names, or None without one."""
    if not path.exists():
        return None
    table = open_table(path)
    numbers = [c for c in table.columns if c in ("userID", "itemID")]
    names = [c for c in table.columns if c not in numbers]
    if len(numbers) != 1 or len(names) != 1:
        draft.notes.append(f"{path.name}: is not a table of a name and a number; not used.")
        return None
    by_number = dict(zip(table.distinct_ids(numbers[0]), table.distinct_ids(names[0]), strict=True))
    return [by_number.get(str(k)) or str(k) for k in range(count)]


def read_inter(path: Path) -> Pairs:
    """Return user, item and label (P, 3) of an .inter file.

    The entries of its header may name a type, as in ``userID:token``.

    Raises:
        DataError: the file is missing, or a line is not of this form; the message names the line.
    """
    # An array of 64-bit integers needs far less memory than a list of Python integers.
    flat = array("q")
    with _opened(path) as file:
        rows = csv.reader(file, delimiter="\t")
        header = next(rows, [])
        names = [name.split(":")[0] for name in header]
        lacking = [name for name in ("userID", "itemID", "x_label") if name not in names]
        if lacking:
            raise DataError(
                f"{path}, line 1: the header lacks {', '.join(lacking)}; it has "
                f"{', '.join(names) or 'nothing'}."
            )
        columns = [names.index(name) for name in ("userID", "itemID", "x_label")]
        for number, row in enumerate(rows, 2):
            try:
                user, item, label = (int(row[k]) for k in columns)
            except (ValueError, IndexError):
                raise DataError(
                    f"{path}, line {number}: must hold whole numbers, got {row!r:.80}."
                ) from None
            if user < 0 or item < 0 or label not in (0, 1, 2):
                raise DataError(
                    f"{path}, line {number}: ids start at 0 and x_label is 0, 1 or 2, "
                    f"got {row!r:.80}."
                )
            flat.extend((user, item, label))
    return np.array(flat, dtype=np.int64).reshape(-1, 3)


def prepare_text(draft: Draft, folder: Path, *, keep_split: bool) -> None:
    """Write a data set from ``train.txt``, ``val.txt``, ``test.txt`` and all ``*_feat.npy`` files.

    Arguments:
        folder: holds these files.
        keep_split: whether to keep the split of the three text files; else train.py draws one.
    """
    parts = {name: _read_lines(folder / f"{name}.txt") for name in SPLITS}
    files = {
        path.name.removesuffix("_feat.npy"): path.name for path in sorted(folder.glob("*_feat.npy"))
    }
    if not files:
        raise DataError(
            f"{folder}: holds no *_feat.npy. Give the features of at least one modality."
        )
    _write(draft, folder, files, np.concatenate(list(parts.values())))
    draft.write_manifest()
    if not keep_split:
        return
    items = {name: np.unique(pairs[:, 1]) for name, pairs in parts.items()}
    for first, second in (("train", "val"), ("train", "test"), ("val", "test")):
        common = np.intersect1d(items[first], items[second])
        if len(common):
            raise DataError(
                f"{folder}: item {common[0]} is in {first}.txt and in {second}.txt "
                f"({len(common)} such items), so these files do not split the items into warm and "
                "new ones. Leave the split to train.py: --split draw."
            )
    # Reading drops the interactions of items without any modality; these must not be in a split.
    dataset = draft.read()
    used = np.flatnonzero(dataset.item_counts)
    kept = {name: np.intersect1d(ids, used) for name, ids in items.items()}
    draft.write_split(Split(kept["train"], kept["val"], kept["test"], dataset.natural_mask))
    draft.notes.append(
        "the split of the text files is in split.npz: train with --split OUT/split.npz "
        "--setting ftft."
    )


def _read_lines(path: Path) -> Pairs:
    """Return the pairs (P, 2) of a file whose lines are a user and that user's items."""
    flat = array("q")
    with _opened(path) as file:
        for number, line in enumerate(file, 1):
            words = line.split()
            if not words:
                continue
            try:
                user, *items = map(int, words)
            except ValueError:
                raise DataError(
                    f"{path}, line {number}: must be whole numbers, `user item item ...`."
                ) from None
            if user < 0 or any(item < 0 for item in items):
                raise DataError(f"{path}, line {number}: ids start at 0.")
            for item in items:
                flat.extend((user, item))
    return np.array(flat, dtype=np.int64).reshape(-1, 2)


@contextmanager
def _opened(path: Path) -> Iterator[io.TextIOWrapper]:
    """Open a text file that shows a progress bar while it is read."""
    with open_bytes(path, progress=True) as stream:
        text = io.TextIOWrapper(stream, encoding="utf-8", errors="replace")
        yield text
        text.detach()


def _write(
    draft: Draft,
    folder: Path,
    files: dict[str, str],
    pairs: Pairs,
    times: npt.NDArray[np.float64] | None = None,
) -> None:
    """Write the pairs and the features; row i of each feature file belongs to item i."""
    rows = {name: read_features(folder / file) for name, file in files.items()}
    count = len(next(iter(rows.values())))
    if len(pairs) and pairs[:, 1].max() >= count:
        raise DataError(
            f"{folder / next(iter(files.values()))}: has {count} rows, but there is an item "
            f"{pairs[:, 1].max()}. Give every item a row."
        )
    for file in files.values():
        read_features(folder / file, count)
    draft.write_pairs(pairs, int(pairs[:, 0].max(initial=-1)) + 1, count, times)
    for name, source in rows.items():
        target = draft.new_features(name, source.shape[1], source.dtype)
        copy_rows(source, target, folder / files[name])
        draft.finish_features(name, target, files[name])
