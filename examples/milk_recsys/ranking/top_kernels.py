"""Loops of the top items that are compiled by Numba for the CPU.

The functions take NumPy arrays and write their results into arrays of the caller. Each has an
equivalent in torch operations, and tests compare the two.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["CHUNK", "finish_lists", "select_scores"]

CHUNK = 32  # Number of neighbouring scores that are compared with the threshold at once.

Ints = NDArray[np.int64]
Columns = NDArray[np.int32]
Floats = NDArray[np.floating[Any]]
Bools = NDArray[np.bool_]

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(*fastmath: str) -> Callable[[Function], Function]:
    """Compile at the first call, with flags of LLVM, and cache the machine code on disk."""

    def wrap(function: Function) -> Function:
        # LLVM gets no flags at all from an empty set.
        dispatcher = njit(cache=True, fastmath=set(fastmath), error_model="numpy", nogil=True)
        return cast(Function, dispatcher(function))

    return wrap


@compiled()
def select_scores(
    tile: Floats, first: int, cells: Ints, kept: int, thresholds: Floats, counts: Ints,
    values: Floats, columns: Columns, marks: Bools,
) -> None:  # fmt: skip
    """Append the scores of a tile that are above their row's threshold to the row's list.

    A list that is full is cut to its `kept` highest scores, and the lowest of these becomes the
    row's threshold. A score that is not above it has `kept` scores that are at least as high.

    Arguments:
        tile: (R, A, CHUNK) scores of R users and A * CHUNK items.
        first: column of the tile's first item.
        cells: (X,) scores to set to -inf: their indices in all tiles of width A * CHUNK up to
            this one, one after the other.
        kept: number of scores that a list keeps at least.
        thresholds: (R,), changed in place; -inf at first.
        counts: (R,) lengths of the lists, changed in place.
        values, columns: (R, L) the lists, changed in place; L is at least kept + CHUNK.
        marks: (R, A) scratch space.
    """
    flat, before = tile.reshape(-1), first * tile.shape[0]
    for cell in cells:
        flat[cell - before] = -np.inf
    _mark_chunks(tile, thresholds, marks)
    for r in range(tile.shape[0]):
        threshold, n = thresholds[r], counts[r]
        for a in range(tile.shape[1]):
            if marks[r, a]:
                if n + tile.shape[2] > values.shape[1]:
                    threshold, n = _cut(values[r], columns[r], n, kept), kept
                for j in range(tile.shape[2]):
                    if tile[r, a, j] > threshold:
                        values[r, n] = tile[r, a, j]
                        columns[r, n] = first + a * tile.shape[2] + j
                        n += 1
        thresholds[r], counts[r] = threshold, n


@compiled()
def finish_lists(kept: int, counts: Ints, values: Floats, columns: Columns) -> None:
    """Move the `kept` highest scores of each list to its beginning, in any order.

    Where a list is shorter, fill it with the score -inf and the column 0.
    """
    for r in range(len(counts)):
        if counts[r] > kept:
            _cut(values[r], columns[r], counts[r], kept)
        for n in range(counts[r], kept):
            values[r, n], columns[r, n] = -np.inf, 0


# "reassoc" and "nsz" let the compiler count with vector instructions. Counts are exact in any
# order, and a float counts with fewer instructions than an integer of another width.
@compiled("reassoc", "nsz")
def _mark_chunks(tile: Floats, thresholds: Floats, marks: Bools) -> None:
    """Mark the chunks that have a score above their row's threshold."""
    for r in range(tile.shape[0]):
        threshold = thresholds[r]
        for a in range(tile.shape[1]):
            above = np.float32(0)
            for j in range(tile.shape[2]):
                above += np.float32(tile[r, a, j] > threshold)
            marks[r, a] = above > 0


@compiled()
def _cut(values: Floats, columns: Columns, n: int, kept: int) -> Any:
    """Move the `kept` highest of the first n values, and their columns, to the front.

    It is quickselect with Hoare's partition, which also halves runs of equal values.

    Returns:
        the lowest of the `kept` highest values.
    """
    low, high, last = 0, n - 1, kept - 1
    while low < high:
        pivot = values[(low + high) // 2]
        i, j = low, high
        while i <= j:
            while values[i] > pivot:
                i += 1
            while values[j] < pivot:
                j -= 1
            if i <= j:
                values[i], values[j] = values[j], values[i]
                columns[i], columns[j] = columns[j], columns[i]
                i += 1
                j -= 1
        if last <= j:
            high = j
        elif last >= i:
            low = i
        else:
            break
    return values[last]
