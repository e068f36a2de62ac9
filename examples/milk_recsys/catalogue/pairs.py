"""Pairs of a user and an item as arrays (P, 2): read from a npy file, put in order, gone through in blocks."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from milk_recsys.base.errors import DataError, plural
from milk_recsys.catalogue.npy import map_npy

__all__ = ["PAIRS_AT_ONCE", "Pairs", "pair_blocks", "read_pairs", "sort_unique_pairs"]

PAIRS_AT_ONCE = 1 << 21

Pairs = npt.NDArray[np.integer[Any]]


def read_pairs(path: Path, num_users: int, num_items: int, notes: list[str]) -> Pairs:
    """Open a npy file of pairs, (P, 2) whole numbers; check it in blocks.

    Returns:
        the mapped file itself where it is in order, so that it takes no memory; else a sorted copy.

    Raises:
        DataError: for anything wrong in the file.
    """
    pairs = map_npy(path, str(path), "whole numbers", "Add it to the folder.")
    if (
        pairs.dtype.kind not in "iu"
        or not pairs.dtype.isnative
        or pairs.ndim != 2
        or pairs.shape[1] != 2
    ):
        raise DataError(
            f"{path}: must hold whole numbers in native byte order, of shape (pairs, 2): a user and an item each; got "
            f"{pairs.dtype.str!r} {pairs.shape}. Save it with .astype(numpy.int32)."
        )
    if len(pairs) == 0:
        raise DataError(f"{path}: there are no interactions at all. Give one pair a row.")
    for start, block in pair_blocks(pairs):
        for column, (kind, limit) in enumerate((("user", num_users), ("item", num_items))):
            bad = (block[:, column] < 0) | (block[:, column] >= limit)
            if bad.any():
                row = int(bad.argmax())
                raise DataError(
                    f"{path}, row {start + row}: the {kind} id {block[row, column]} is out of range. Ids go from 0 to "
                    f"{limit - 1}, as num_{kind}s in dataset.json is {limit}."
                )
    return sort_unique_pairs(pairs, num_items, path.name, notes)


def sort_unique_pairs(pairs: Pairs, num_items: int, name: str, notes: list[str]) -> Pairs:
    """Return the pairs sorted by user, then item, each once: the array itself where it is so, else an int32 copy.

    Arguments:
        pairs: (P, 2), ids in range.
        name: of the file, for a note on repeated pairs, which is added to `notes`.
    """
    if _in_order(pairs):
        return pairs
    keys = np.empty(len(pairs), dtype=np.int64)
    for start, block in pair_blocks(pairs):
        users, items = block.astype(np.int64).T
        keys[start : start + len(block)] = users * num_items + items  # below 2**62
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
    settled = np.empty((len(keys), 2), dtype=np.int32)
    for start in range(0, len(keys), PAIRS_AT_ONCE):
        rows = slice(start, start + PAIRS_AT_ONCE)
        settled[rows, 0], settled[rows, 1] = np.divmod(keys[rows], num_items)
    return settled


def pair_blocks(pairs: Pairs) -> Iterator[tuple[int, Pairs]]:
    """Yield the pairs some at a time, each block with the number of its first pair."""
    rows = np.asarray(pairs)  # a memory map as a plain array: slices of it are made faster
    for start in range(0, len(rows), PAIRS_AT_ONCE):
        yield start, rows[start : start + PAIRS_AT_ONCE]


def _in_order(pairs: Pairs) -> bool:
    """Whether every pair is above the one before it."""
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
