"""Exact lists of a block of users: the highest approximate scores, scored exactly and sorted."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from milk_recsys.ranking.top_exact import (
    WORK_ARRAY_SIZE,
    best_in_float64,
    score_lists,
    sort_lists,
)
from milk_recsys.ranking.top_filter import Filter, UserBlock

__all__ = ["Tiles", "best_lists"]

SPARE = 8  # Number of items kept in addition to the length of the list.
# Maximum number of float64 scores in memory, for rows whose approximate scores do not decide.
FLOAT64_SCORES = 2 * WORK_ARRAY_SIZE


class Tiles(Protocol):
    """Approximate scores: `top_tiles.StoredTiles` or `top_compiled.CompiledTiles`."""

    filter: Filter

    def highest(self, block: UserBlock, low: int, high: int, kept: int) -> tuple[Tensor, Tensor]:
        """Return the `kept` highest approximate scores; see `StoredTiles.highest`."""


def best_lists(tiles: Tiles, block: UserBlock, span: int, length: int) -> tuple[Tensor, Tensor]:
    """Return the best positions and scores, both (R, length), of a block of users.

    Arguments:
        span: number of items whose scores are compared at once.
        length: at most the number of items.
    """
    count = len(tiles.filter.items)
    best = _best_of_span(tiles, block, 0, min(span, count), length)
    for low in range(span, count, span):
        later = _best_of_span(tiles, block, low, min(low + span, count), length)
        best = _merge(best, later, length)
    return best


def _best_of_span(
    tiles: Tiles, block: UserBlock, low: int, high: int, length: int
) -> tuple[Tensor, Tensor]:
    """Return the best of the items from `low` to `high`.

    Returns:
        their positions and scores, both (R, min(length, high - low)).
    """
    items, dtype = tiles.filter.items, tiles.filter.dtype
    length = min(length, high - low)
    kept = min(length + SPARE, high - low)
    columns, values = tiles.highest(block, low, high, kept)
    # A row is certain if each item that was not kept is below the last place by more than the
    # error of both scores.
    last, next_out = values[:, length - 1].double(), values[:, -1].double()
    certain = (next_out == -torch.inf) | (next_out < last - 2 * block.error[:, 0])
    if kept == high - low:
        certain = torch.ones_like(certain)
    columns, order = columns.sort(dim=1)
    allowed = values.gather(1, order) != -torch.inf
    # Columns at -inf may lie beyond the last item: replace them by a valid index.
    columns.masked_fill_(~allowed, 0)
    exact = score_lists(items, block.vectors, columns + low, dtype)
    positions, best = sort_lists(columns + low, exact.masked_fill_(~allowed, -torch.inf), length)
    uncertain = (~certain).nonzero()[:, 0]
    for chosen in torch.split(uncertain, max(1, FLOAT64_SCORES // (high - low))):
        positions[chosen], best[chosen] = _best_in_float64(
            tiles.filter, block, chosen, low, high, length
        )
    return positions, best


def _best_in_float64(
    filter: Filter, block: UserBlock, chosen: Tensor, low: int, high: int, length: int
) -> tuple[Tensor, Tensor]:
    """Return the result of `_best_of_span` for the chosen rows, from products in float64."""
    vectors, norms = block.vectors[chosen], block.norms[chosen]
    parts = []
    for start in range(low, high, FLOAT64_SCORES):
        end = min(start + FLOAT64_SCORES, high)
        allowed = block.allowed(chosen, start, end)
        columns, scores = best_in_float64(
            filter.items[start:end], vectors, norms, allowed, min(length, end - start), filter.dtype
        )
        parts.append((columns + start, scores))
    best = parts[0]
    for part in parts[1:]:
        best = _merge(best, part, length)
    return best


def _merge(
    best: tuple[Tensor, Tensor], later: tuple[Tensor, Tensor], length: int
) -> tuple[Tensor, Tensor]:
    """Merge two lists of positions and scores, of which the second has higher positions.

    The order of equal scores is right, because `sort_lists` is stable.
    """
    positions, scores = (torch.cat(pair, dim=1) for pair in zip(best, later, strict=True))
    return sort_lists(positions, scores, length)
