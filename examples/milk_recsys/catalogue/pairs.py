"""Pairs of a user and an item as arrays (P, 2): reading npy files, sorting, iterating in blocks."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from milk_recsys.base.errors import DataError, plural
from milk_recsys.catalogue.npy import map_npy

__all__ = ["PAIRS_AT_ONCE", "Pairs", "pair_blocks", "read_pairs", "sort_unique_pairs"]

PAIRS_AT_ONCE = 1 << 21  # Number of pairs in a block.

Pairs = npt.NDArray[np.integer[Any]]


def read_pairs(path: Path, num_users: int, num_items: int, notes: list[str]) -> Pairs:
    """Open an npy file of pairs, (P, 2) integers, and check it in blocks.

    Returns:
        The memory map itself if its pairs are sorted and distinct, so that they take no memory;
        else a sorted copy.

    Raises:
        DataError: the file is missing, damaged, empty, of a wrong shape or type, or has an id that
            is out of range.
    """
    pairs = map_npy(path, str(path), "whole numbers", "Add it to the folder.")
    if (
        pairs.dtype.kind not in "iu"
        or not pairs.dtype.isnative
        or pairs.ndim != 2
        or pairs.shape[1] != 2
    ):
        raise DataError(
            f"{path}: must hold whole numbers in native byte order, of shape (pairs, 2): a user "
            f"and an item each; got {pairs.dtype.str!r} {pairs.shape}. Save it with "
            ".astype(numpy.int32)."
        )
    if len(pairs) == 0:
        raise DataError(f"{path}: there are no interactions at all. Write one pair per row.")
    for start, block in pair_blocks(pairs):
        for column, (kind, limit) in enumerate((("user", num_users), ("item", num_items))):
            bad = (block[:, column] < 0) | (block[:, column] >= limit)
            if bad.any():
                row = int(bad.argmax())
                raise DataError(
                    f"{path}, row {start + row}: the {kind} id {block[row, column]} is out of "
                    f"range. Ids go from 0 to {limit - 1}, as num_{kind}s in dataset.json is "
                    f"{limit}."
                )
    return sort_unique_pairs(pairs, num_items, path.name, notes)


def sort_unique_pairs(pairs: Pairs, num_items: int, name: str, notes: list[str]) -> Pairs:
    """Return the distinct pairs, sorted by user, then item.

    Arguments:
        pairs: (P, 2); the ids are in range.
        num_items: number of items.
        name: name of the file, for the note on repeated pairs.
        notes: list that this note is appended to.

    Returns:
        The array itself if its pairs are already sorted and distinct, else a copy of type int32.
    """
    if _in_order(pairs):
        return pairs
    # One integer per pair sorts much faster than rows of two columns. Ids are below 2**31, so the
    # keys are below 2**62.
    keys = np.empty(len(pairs), dtype=np.int64)
    for start, block in pair_blocks(pairs):
        users, items = block.astype(np.int64).T
        keys[start : start + len(block)] = users * num_items + items
    keys.sort()
    first = np.empty(len(keys), dtype=np.bool_)
    first[:1] = True
    np.not_equal(keys[1:], keys[:-1], out=first[1:])
    repeated = len(keys) - int(np.count_nonzero(first))
    if repeated:
        notes.append(
            f"{name}: {plural(repeated, 'repeated pair was', 'repeated pairs were')} merged."
        )
        keys = keys[first]
    ordered = np.empty((len(keys), 2), dtype=np.int32)
    for start in range(0, len(keys), PAIRS_AT_ONCE):
        rows = slice(start, start + PAIRS_AT_ONCE)
        ordered[rows, 0], ordered[rows, 1] = np.divmod(keys[rows], num_items)
    return ordered


def pair_blocks(pairs: Pairs) -> Iterator[tuple[int, Pairs]]:
    """Yield the pairs in blocks, each with the number of its first pair."""
    # A plain array over the same memory: slicing a numpy.memmap object is slower.
    rows = np.asarray(pairs)
    for start in range(0, len(rows), PAIRS_AT_ONCE):
        yield start, rows[start : start + PAIRS_AT_ONCE]


def _in_order(pairs: Pairs) -> bool:
    """Return whether every pair is greater than the one before it, by user, then item."""
    last = (-1, -1)
    for _, block in pair_blocks(pairs):
        if not (last < tuple(block[0].tolist())):
            return False
        users, items = block[:, 0], block[:, 1]
        if not (
            (users[1:] > users[:-1]) | ((users[1:] == users[:-1]) & (items[1:] > items[:-1]))
        ).all():
            return False
        last = tuple(block[-1].tolist())
    return True
