"""The highest approximate scores of a block of users, from tiles that are stored whole.

To find the highest scores, only the maximum of each group of items is compared, until few groups
are left. `top_compiled` does the same with loops that are compiled by Numba.
"""

from __future__ import annotations

import torch
from torch import Tensor

from milk_recsys.ranking.top_filter import Filter, UserBlock

__all__ = ["LARGEST_GROUP", "StoredTiles"]

LARGEST_GROUP = 32  # Maximum number of items in a group that shares one maximum.


class StoredTiles:
    """Approximate scores of a block of users and a span of items, in tiles of `columns` items.

    Arguments:
        filter: the items and their bounds.
        columns: number of items in a tile, a multiple of LARGEST_GROUP.
    """

    def __init__(self, filter: Filter, columns: int) -> None:
        self.filter, self.columns = filter, columns
        self._scores = filter.scaled.new_empty(0)

    def highest(self, block: UserBlock, low: int, high: int, kept: int) -> tuple[Tensor, Tensor]:
        """Return the `kept` highest scores of the items from `low` to `high` for each row.

        Returns:
            columns (R, kept), positions minus `low`, and their scores, decreasing, with any order
            and choice of equal ones. The score is -inf where fewer items are not excluded; the
            column then may lie beyond the last item.
        """
        # Smaller groups where there are few items, so that four times as many groups
        # as items wanted remain.
        group = LARGEST_GROUP
        while group > 1 and (high - low) // group < 4 * kept:
            group //= 2
        scores, maxima = self._compute(block, low, high, group)
        return _above(scores, maxima, kept)

    def _compute(self, block: UserBlock, low: int, high: int, group: int) -> tuple[Tensor, Tensor]:
        """Compute approximate scores of the items from `low` to `high`.

        Excluded items, and columns beyond the last item, have the score -inf. The items of a group
        lie columns / group apart, so that the maximum over a group is an elementwise maximum of
        long rows.

        Returns:
            scores in T tiles, (T, R, columns), and the maxima of groups, (R, T * columns / group).
        """
        count, width = len(block.vectors), self.columns
        tiles = -(-(high - low) // width)
        if len(self._scores) < tiles * count * width:
            self._scores = self._scores.new_empty(tiles * count * width)
        flat = self._scores[: tiles * count * width]
        scores = flat.view(tiles, count, width)
        excluded, ends = block.cells(low, high, width)
        groups = width // group
        maxima = scores.new_empty(count, tiles * groups)
        for tile in range(tiles):
            items = self.filter.scaled[low + tile * width : min(low + (tile + 1) * width, high)]
            scores[tile, :, len(items) :] = -torch.inf
            torch.mm(block.scaled, items.T, out=scores[tile, :, : len(items)])
            if ends[tile] < ends[tile + 1]:
                flat.index_fill_(0, excluded[ends[tile] : ends[tile + 1]], -torch.inf)
            part = maxima[:, tile * groups : (tile + 1) * groups]
            torch.amax(scores[tile].view(count, group, groups), dim=1, out=part)
        return scores, maxima


def _above(scores: Tensor, maxima: Tensor, kept: int) -> tuple[Tensor, Tensor]:
    """Return the `kept` highest scores of each row, in any order of equal scores.

    The `kept` highest scores of a row lie in at most `kept` groups, so it is enough to look at the
    `kept` groups with the highest maxima.

    Arguments:
        scores: (T, R, columns), in tiles; maxima: (R, T * groups per tile); see
            `StoredTiles._compute`.

    Returns:
        columns (R, kept) and their scores, decreasing.
    """
    _, count, width = scores.shape
    groups = maxima.shape[1] // len(scores)
    group = width // groups
    best = maxima.topk(kept, dim=1, sorted=False).indices
    tile = best.div(groups, rounding_mode="floor")
    row = torch.arange(count, device=best.device)[:, None]
    # Flat indices of a group's items in (T, R, columns): its first item, then
    # steps of `groups` columns.
    first = (tile * count + row) * width + best - tile * groups
    indices = (first[:, :, None] + torch.arange(group, device=best.device) * groups).flatten(1)
    values, order = scores.view(-1).take(indices).topk(kept, dim=1)
    indices = indices.gather(1, order)
    # Back to columns of the span: tile * width + column within the tile.
    return indices.div(count * width, rounding_mode="floor") * width + indices % width, values
