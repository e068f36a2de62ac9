"""Importers for two published layouts: MMRec's .inter files, and lines of `user item item ...`."""

from __future__ import annotations

import csv
from array import array
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import rich.progress

from milk_recsys.base.errors import DataError
from milk_recsys.catalogue.importers.write import Draft, copy_rows, read_features
from milk_recsys.catalogue.split import Split

__all__ = ["prepare_mmrec", "prepare_text", "read_inter"]

Pairs = npt.NDArray[np.int64]
SPLITS = ("train", "val", "test")


def prepare_mmrec(draft: Draft, folder: Path) -> None:
    """Write a data set from a folder in MMRec's layout.

    The folder holds one ``.inter`` file, ``image_feat.npy`` and ``text_feat.npy``.
    """
    files = sorted(folder.glob("*.inter"))
    if len(files) != 1:
        raise DataError(f"{folder}: must hold one .inter file, found {len(files)}.")
    pairs = read_inter(files[0])[:, :2]
    _write(draft, folder, {"visual": "image_feat.npy", "text": "text_feat.npy"}, pairs)
    draft.write_manifest()
    draft.notes.append(
        "x_label, a split of the interactions of warm items, is not used: train.py draws the split "
        "into warm and new items."
    )


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


def _opened(path: Path) -> Any:
    """Open a text file that shows a progress bar while it is read."""
    if not path.is_file():
        raise DataError(f"{path}: no such file.")
    return rich.progress.open(
        path, "r", encoding="utf-8", errors="replace", description=path.name, transient=True
    )


def _write(draft: Draft, folder: Path, files: dict[str, str], pairs: Pairs) -> None:
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
    draft.write_pairs(pairs, int(pairs[:, 0].max(initial=-1)) + 1, count)
    for name, source in rows.items():
        target = draft.new_features(name, source.shape[1], source.dtype)
        copy_rows(source, target, folder / files[name])
        draft.finish_features(name, target, files[name])
