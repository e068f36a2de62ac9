"""The highest approximate scores of a block of users, selected while a tile is in the cache.

A row's list contains the scores that were above the row's threshold when they were computed. The
threshold, the lowest of the `kept` highest scores so far, soon exceeds nearly all scores, so most
of the selection is one comparison per score. `top_tiles` does the same without Numba.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from milk_recsys.ranking.top_filter import Filter, UserBlock
from milk_recsys.ranking.top_kernels import CHUNK, finish_lists, select_scores

__all__ = ["CompiledTiles"]

# Minimum number of scores that a list has room for in addition to those kept. The lists of a block
# should fit in the cache next to a tile.
ROOM = 32


class CompiledTiles:
    """Approximate scores of a block of users and a span of items, in tiles of `columns` items.

    Arguments:
        filter: the items and their bounds.
        columns: number of items in a tile, a multiple of CHUNK.
    """

    def __init__(self, filter: Filter, columns: int) -> None:
        self.filter, self.columns = filter, columns
        self._scores = filter.scaled.new_empty(0)

    def highest(self, block: UserBlock, low: int, high: int, kept: int) -> tuple[Tensor, Tensor]:
        """Return the `kept` highest scores of each row; see `StoredTiles.highest`."""
        count, width = len(block.vectors), self.columns
        if len(self._scores) < count * width:
            self._scores = self._scores.new_empty(count * width)
        tile = self._scores[: count * width].view(count, width)
        chunks = tile.numpy().reshape(count, width // CHUNK, CHUNK)
        excluded, ends = block.cells(low, high, width)
        cells = excluded.numpy()
        room = kept + max(ROOM, kept) + CHUNK
        values = np.empty((count, room), chunks.dtype)
        columns = np.empty((count, room), np.int32)
        counts = np.zeros(count, np.int64)
        thresholds = np.full(count, -np.inf, chunks.dtype)
        marks = np.empty(chunks.shape[:2], np.bool_)
        # One call for all views, because making one takes a percent of the time of a product.
        parts = torch.split(self.filter.scaled[low:high].T, width, dim=1)
        for number in _scattered(len(parts)):
            items, out = parts[number], tile
            if items.shape[1] < width:
                out = tile[:, : items.shape[1]]
                tile[:, items.shape[1] :] = -torch.inf
            torch.mm(block.scaled, items, out=out)
            inside = cells[ends[number] : ends[number + 1]]
            select_scores(
                chunks, number * width, inside, kept, thresholds, counts, values, columns, marks
            )
        finish_lists(kept, counts, values, columns)
        best, order = torch.from_numpy(values[:, :kept]).sort(dim=1, descending=True)
        return torch.from_numpy(columns[:, :kept]).long().gather(1, order), best


def _scattered(count: int) -> list[int]:
    """Return 0 to count - 1 in an order that spreads them evenly.

    In the order of the items, a catalogue whose scores increase (for example, by popularity) would
    raise the threshold with each tile.
    """
    # Multiples of the golden ratio, modulo 1, are spread evenly.
    return sorted(range(count), key=lambda number: number * 0.6180339887498949 % 1)
