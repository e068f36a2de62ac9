"""Exact top items by inner product, in little more time than the matrix product takes.

A score is the inner product of a user's and an item's vector, computed in float64 by pairwise
summation in one fixed order, and rounded to the dtype of the result. Lists are sorted by score, and
by position where scores are equal. A list therefore depends neither on the sizes of blocks, nor on
the number of threads, nor on the other users of the call.

Computing every score in this way would take many times longer than a matrix product in float32, and
only the scores near the top matter. So `Candidates` filters first:

1. A matrix product in float32 gives approximate scores. Their error has a bound that is computed
   beforehand, so items whose approximate score is below the last place by more than twice the bound
   cannot be in the list.
2. To find the highest approximate scores, only the maximum of each group of items is compared,
   until few groups are left.
3. The few remaining items are scored exactly, as above.
4. If more items remain than are kept (for example, items with equal vectors), the scores of that
   row are computed by a matrix product in float64, and exactly where that does not decide either.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from milk_recsys.base.errors import DataError

__all__ = ["Candidates", "Top", "best_columns", "top_items"]

# Target number of scores per block of users: a block fits a CPU's cache, or occupies a GPU.
CPU_ROWS, GPU_ROWS = 2**20, 2**26
# Minimum number of users per block, memory permitting: each block reads all items once.
MIN_ROWS = 256
CPU_SCORES, GPU_SCORES = 2**25, 2**28  # Maximum number of scores in memory.
COLUMNS = 2048  # Number of items in one product on a CPU, so that its result stays in the cache.
LARGEST_GROUP = 32  # Maximum number of items in a group that shares one maximum.
SPARE = 8  # Number of items kept in addition to the length of the list.
WORK_ARRAY_SIZE = 2**20  # Maximum number of elements of a temporary array other than the scores.


class Top(NamedTuple):
    """The best items of each user, best first; of equal scores, the lower position first.

    Attributes:
        positions: (U, K) int64; -1 at the end of a row where all other items are excluded.
        scores: (U, K), non-increasing along a row; -inf where the position is -1.
    """

    positions: Tensor
    scores: Tensor


class _UserBlock(NamedTuple):
    """A block of users.

    Attributes:
        vectors: (R, D) float64.
        scaled: (R, D), the vectors scaled by a power of two each, in the filter's dtype.
        error: (R, 1) float64, bound of the error of the filter's (scaled) scores.
        norms: (R, 1) float64, norms of the vectors times the largest norm of an item.
        excluded: (rows, positions) of the excluded items, or None.
    """

    vectors: Tensor
    scaled: Tensor
    error: Tensor
    norms: Tensor
    excluded: tuple[Tensor, Tensor] | None


def top_items(
    users: Tensor,
    items: Tensor,
    top: int,
    *,
    exclude: tuple[Tensor, Tensor] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Top:
    """Find the items with the highest inner products for each user.

    If the result does not fit in memory, use `Candidates` for one block of users after the other.

    Arguments:
        users: (U, D); items: (C, D), any float dtype, on one device.
        top: the length of a list; at most C items are returned.
        exclude: items that must not be in a user's list, in CSR form: offsets (U + 1,) and
            positions (P,), int64. Those of user u are ``positions[offsets[u]:offsets[u + 1]]``, in
            any order.
        dtype: dtype of the scores, torch.float32 or torch.float64.

    Returns:
        `Top`, on the device of the vectors.

    Raises:
        ValueError: a shape is wrong, offsets or positions are out of range, or `top` is below 1.
        TypeError: `dtype` is another dtype.
        DataError: a vector is not finite, or its inner products would overflow.

    Example:
        >>> users = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
        >>> items = torch.tensor([[1.0, 1.0], [3.0, 1.0], [2.0, 0.0]])
        >>> top_items(users, items, 2).positions.tolist()
        [[1, 2], [0, 1]]
        >>> exclude = torch.tensor([0, 1, 1]), torch.tensor([1])
        >>> top_items(users, items, 3, exclude=exclude).positions.tolist()
        [[2, 0, -1], [0, 1, 2]]
    """
    return Candidates(items, dtype=dtype).top(users, top, exclude=exclude)


class Candidates:
    """Items prepared for `top`, which finds the best of them for a block of users.

    Memory: the items in float64 (no copy if they are float64 already) and in the filter's dtype,
    and a buffer for the scores of a block.

    Arguments:
        items: (C, D), any float dtype.
        dtype: dtype of the scores, torch.float32 or torch.float64. The filter computes in this
            dtype, or in float64 if `torch.get_float32_matmul_precision` is not "highest".
        scores_at_once: maximum number of scores in memory; None for a default of the device.

    Raises:
        ValueError, TypeError, DataError: as in `top_items`.
    """

    def __init__(
        self,
        items: Tensor,
        *,
        dtype: torch.dtype = torch.float32,
        scores_at_once: int | None = None,
    ) -> None:
        if items.ndim != 2 or items.shape[1] < 1:
            raise ValueError(
                f"ranking: `items` must have shape (C, D), D at least 1, got {tuple(items.shape)}."
            )
        if dtype not in (torch.float32, torch.float64):
            raise TypeError(
                f"ranking: `dtype` must be torch.float32 or torch.float64, got {dtype}."
            )
        cpu = items.device.type == "cpu"
        self.dtype = dtype
        self.items = items.detach().double().contiguous()
        count, self.dim = items.shape
        held = scores_at_once or (CPU_SCORES if cpu else GPU_SCORES)
        wanted = max(MIN_ROWS, (CPU_ROWS if cpu else GPU_ROWS) // max(1, count))
        self.rows_at_once = max(1, min(wanted, math.isqrt(held)))
        # A block of users is ranked over `span` items at once, in tiles of `columns` items each.
        self.span = max(1, min(held // self.rows_at_once, count))
        self.columns = min(COLUMNS if cpu else self.span, self.span)
        # Round up, so that every size of group (a power of two) divides a tile.
        self.columns += -self.columns % LARGEST_GROUP
        precise = torch.get_float32_matmul_precision() == "highest"
        self._prepare(dtype if precise else torch.float64)
        self._scores = torch.empty(0, dtype=self.scaled.dtype, device=items.device)

    @torch.no_grad()
    def top(self, users: Tensor, top: int, *, exclude: tuple[Tensor, Tensor] | None = None) -> Top:
        """Find the best items of each user; arguments, result and errors as in `top_items`."""
        self._check(users, top, exclude)
        length = min(top, len(self.items))
        positions = torch.empty(len(users), length, dtype=torch.int64, device=self.items.device)
        scores = torch.empty(len(users), length, dtype=self.dtype, device=self.items.device)
        for start in range(0, len(users) if length else 0, self.rows_at_once):
            part = slice(start, min(start + self.rows_at_once, len(users)))
            block, held = self._scale_users(users[part], start, exclude), 0
            for low in range(0, len(self.items), self.span):
                best = self._best(block, low, min(low + self.span, len(self.items)), length)
                if low:
                    # Merge with the best of the spans before. They come first, because `_sorted` is
                    # stable and their positions are lower.
                    columns = torch.cat([positions[part, :held], best[0]], dim=1)
                    best = _sorted(
                        columns, torch.cat([scores[part, :held], best[1]], dim=1), length
                    )
                held = best[0].shape[1]
                positions[part, :held], scores[part, :held] = best
        positions.masked_fill_(scores == -torch.inf, -1)
        return Top(positions, scores)

    def _prepare(self, dtype: torch.dtype) -> None:
        """Store the items in the filter's dtype, scaled by a power of two, and their largest norm.

        The scale brings all values to at most 1, so that neither products nor norms overflow.
        """
        self.scaled = torch.empty(self.items.shape, dtype=dtype, device=self.items.device)
        step = max(1, WORK_ARRAY_SIZE // self.dim)
        largest = torch.zeros((), dtype=torch.float64, device=self.items.device)
        for start in range(0, len(self.items), step):
            block = self.items[start : start + step].abs().amax(dim=1)  # NaN if any value is NaN.
            if not bool(torch.isfinite(block).all()):
                row = start + int((~torch.isfinite(block)).nonzero()[0])
                raise DataError(f"ranking: the vector of item {row} is not finite.")
            largest = torch.maximum(largest, block.max())
        self.exponent = _exponent(largest)
        scale = torch.exp2(-self.exponent)
        norm = torch.zeros_like(largest)
        for start in range(0, len(self.items), step):
            scaled = self.items[start : start + step] * scale
            self.scaled[start : start + step] = scaled
            norm = torch.maximum(norm, scaled.norm(dim=1).max())
        self.norm = norm

    def _scale_users(
        self, users: Tensor, start: int, exclude: tuple[Tensor, Tensor] | None
    ) -> _UserBlock:
        """Scale a block of users, which begins with user `start`, and bound the filter's error."""
        vectors = users.double()
        largest = vectors.abs().amax(dim=1, keepdim=True)
        exponent = _exponent(largest)
        scaled = vectors * torch.exp2(-exponent)
        norms = scaled.norm(dim=1, keepdim=True) * self.norm
        unit = torch.exp2(exponent + self.exponent)
        limits, filter_limits = torch.finfo(self.dtype), torch.finfo(self.scaled.dtype)
        bad = ~torch.isfinite(largest) | (norms * unit > limits.max / 4)
        if bool(bad.any()):
            first = int(bad[:, 0].nonzero()[0])
            problem = (
                "too large to be multiplied"
                if bool(torch.isfinite(largest[first]))
                else "not finite"
            )
            raise DataError(f"ranking: the vector of user {start + first} is {problem}.")
        # The sum of three bounds: the filter's rounding errors, in any order of summation,
        # and the rounding of the score (relative to the norms); underflow in the filter;
        # underflow of the score.
        error = (
            (self._relative(filter_limits) + limits.eps) * norms
            + 4 * self.dim * filter_limits.tiny
            + limits.tiny / unit
        )
        excluded = None
        if exclude is not None:
            offsets = exclude[0][start : start + len(users) + 1]
            row = torch.repeat_interleave(
                torch.arange(len(users), device=offsets.device), offsets.diff()
            )
            excluded = row, exclude[1][int(offsets[0]) : int(offsets[-1])]
        return _UserBlock(vectors, scaled.to(self.scaled.dtype), error, norms * unit, excluded)

    def _relative(self, finfo: torch.finfo) -> float:
        """Return a bound of the error of an inner product, relative to the product of the norms."""
        return 1.01 * (2 * self.dim + 8) * finfo.eps / 2

    def _best(self, block: _UserBlock, low: int, high: int, length: int) -> tuple[Tensor, Tensor]:
        """Return the best of the items from `low` to `high`.

        Returns:
            their positions and scores, both (R, min(length, high - low)).
        """
        length = min(length, high - low)
        kept = min(length + SPARE, high - low)
        # Smaller groups where there are few items, so that four times as many groups
        # as items wanted remain.
        group = LARGEST_GROUP
        while group > 1 and (high - low) // group < 4 * kept:
            group //= 2
        scores, maxima = self._filter(block, low, high, group)
        columns, values = _above(scores, maxima, kept)
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
        exact = self._score_lists(block.vectors, columns + low)
        positions, best = _sorted(columns + low, exact.masked_fill_(~allowed, -torch.inf), length)
        uncertain = (~certain).nonzero()[:, 0]
        step = max(1, 2 * WORK_ARRAY_SIZE // (high - low))
        for start in range(0, len(uncertain), step):
            chosen = uncertain[start : start + step]
            allowed = scores[:, chosen].transpose(0, 1).flatten(1)[:, : high - low] != -torch.inf
            positions[chosen], best[chosen] = self._best_in_float64(
                block, chosen, allowed, low, length
            )
        return positions, best

    def _filter(self, block: _UserBlock, low: int, high: int, group: int) -> tuple[Tensor, Tensor]:
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
        excluded, ends = self._excluded_cells(block, low, high, tiles)
        groups = width // group
        maxima = scores.new_empty(count, tiles * groups)
        for tile in range(tiles):
            items = self.scaled[low + tile * width : min(low + (tile + 1) * width, high)]
            scores[tile, :, len(items) :] = -torch.inf
            torch.mm(block.scaled, items.T, out=scores[tile, :, : len(items)])
            if ends[tile] < ends[tile + 1]:
                flat.index_fill_(0, excluded[ends[tile] : ends[tile + 1]], -torch.inf)
            part = maxima[:, tile * groups : (tile + 1) * groups]
            torch.amax(scores[tile].view(count, group, groups), dim=1, out=part)
        return scores, maxima

    def _excluded_cells(
        self, block: _UserBlock, low: int, high: int, tiles: int
    ) -> tuple[Tensor, list[int]]:
        """Return the flat indices of the excluded items in the tiles (T, R, columns).

        Returns:
            the indices, increasing, and T + 1 offsets: those of tile t are the indices from offset
            t to offset t + 1.
        """
        if block.excluded is None:
            return torch.empty(0, dtype=torch.int64), [0] * (tiles + 1)
        row, position = block.excluded
        inside = (position >= low) & (position < high)
        row, column = row[inside], position[inside] - low
        tile = column.div(self.columns, rounding_mode="floor")
        size = len(block.vectors) * self.columns
        indices = (tile * size + row * self.columns + column % self.columns).sort().values
        ends = torch.searchsorted(indices, torch.arange(tiles + 1, device=indices.device) * size)
        return indices, ends.tolist()

    def _best_in_float64(
        self, block: _UserBlock, chosen: Tensor, allowed: Tensor, low: int, length: int
    ) -> tuple[Tensor, Tensor]:
        """Return the result of `_best` for the chosen rows, from a matrix product in float64.

        Arguments:
            chosen: (R',) rows of the block; allowed: (R', high - low) bool, items not excluded.
        """
        vectors = block.vectors[chosen]
        scores = vectors @ self.items[low : low + allowed.shape[1]].T
        finfo = torch.finfo(torch.float64)
        error = self._relative(finfo) * block.norms[chosen]
        error = torch.where(error > 0, error + 4 * self.dim * finfo.tiny, 0)
        # The score lies between both bounds. For nearly all items they round to the same number,
        # which then is the score. The others are scored exactly if they may reach the last place.
        lower = (scores - error).to(self.dtype).masked_fill_(~allowed, -torch.inf)
        upper = (scores + error).to(self.dtype).masked_fill_(~allowed, -torch.inf)
        last = lower.topk(length, dim=1).values[:, -1:]
        row, column = ((lower != upper) & (upper >= last)).nonzero().unbind(1)
        step = max(1, WORK_ARRAY_SIZE // self.dim)
        for start in range(0, len(row), step):
            r, c = row[start : start + step], column[start : start + step]
            lower[r, c] = self._score_lists(vectors[r], c[:, None] + low)[:, 0]
        columns, best = best_columns(lower, length)
        return columns + low, best + 0.0  # Adding 0.0 turns -0.0 into 0.0.

    def _score_lists(self, vectors: Tensor, positions: Tensor) -> Tensor:
        """Return the exact scores (R, K) of a list of items for each row.

        Arguments:
            vectors: (R, D) float64; positions: (R, K) items.
        """
        products = self.items.index_select(0, positions.reshape(-1)).view(
            *positions.shape, self.dim
        )
        products *= vectors[:, None]
        # Pairwise summation by halving: the order of additions depends on the dimension D alone.
        width = self.dim
        while width > 1:
            half = width // 2
            products[..., :half] += products[..., width - half : width]
            width -= half
        return products[..., 0].to(self.dtype) + 0.0  # Adding 0.0 turns -0.0 into 0.0.

    def _check(self, users: Tensor, top: int, exclude: tuple[Tensor, Tensor] | None) -> None:
        if top < 1:
            raise ValueError(f"ranking: `top` must be at least 1, got {top}.")
        if users.ndim != 2 or users.shape[1] != self.dim:
            raise ValueError(
                f"ranking: `users` must have shape (U, {self.dim}), got {tuple(users.shape)}."
            )
        if exclude is None:
            return
        offsets, positions = exclude
        if offsets.shape != (len(users) + 1,) or positions.ndim != 1:
            raise ValueError(
                f"ranking: `exclude` must be offsets ({len(users) + 1},) and positions (P,), got "
                f"{tuple(offsets.shape)} and {tuple(positions.shape)}."
            )
        if (
            int(offsets[0]) < 0
            or int(offsets[-1]) > len(positions)
            or bool((offsets.diff() < 0).any())
        ):
            raise ValueError(
                f"ranking: offsets of `exclude` must increase from 0 to at most {len(positions)}."
            )
        if len(positions) and not 0 <= int(positions.min()) <= int(positions.max()) < len(
            self.items
        ):
            raise ValueError(
                f"ranking: positions of `exclude` must be in 0 to {len(self.items) - 1}, got "
                f"{int(positions.min())} to {int(positions.max())}."
            )


def best_columns(scores: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """Find the highest scores of each row, best first; of equal scores, the lower column first.

    In `torch.topk`, the choice and the order of columns with equal scores are undefined.

    Arguments:
        scores: (R, C), without NaN.
        top: K; at most C columns are returned.

    Returns:
        columns (R, K) and their scores (R, K).

    Example:
        >>> best_columns(torch.tensor([[1.0, 2.0, 2.0, 2.0]]), 2)
        (tensor([[1, 2]]), tensor([[2., 2.]]))
    """
    top = min(top, scores.shape[1])
    values, columns = scores.topk(min(top + 1, scores.shape[1]), dim=1)
    if values.shape[1] > top > 0:
        # If the first score that is not taken equals the last one taken, topk chose arbitrarily.
        tied = (values[:, top] == values[:, top - 1]).nonzero()[:, 0]
        columns = columns[:, :top].contiguous()
        if len(tied):
            columns[tied] = _lowest_columns(scores[tied], values[tied, top - 1 : top], top)
    columns = columns.sort(dim=1).values
    return _sorted(columns, scores.gather(1, columns), top)


def _lowest_columns(scores: Tensor, last: Tensor, top: int) -> Tensor:
    """Return `top` columns per row: those with scores above `last`, then the lowest equal to it.

    Arguments:
        scores: (R, C); last: (R, 1), the score of the last place.

    Returns:
        (R, top), increasing along a row.
    """
    above, equal = scores > last, scores == last
    wanted = top - above.sum(dim=1, keepdim=True)
    chosen = above | (equal & (equal.cumsum(dim=1) <= wanted))
    return chosen.nonzero()[:, 1].view(len(scores), top)


def _sorted(columns: Tensor, scores: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """Sort columns by decreasing score, stably for equal scores, and take the first `top`."""
    values, order = scores.sort(dim=1, descending=True, stable=True)
    return columns.gather(1, order[:, :top]), values[:, :top]


def _above(scores: Tensor, maxima: Tensor, kept: int) -> tuple[Tensor, Tensor]:
    """Return the `kept` highest scores of each row, in any order of equal scores.

    The `kept` highest scores of a row lie in at most `kept` groups, so it is enough to look at the
    `kept` groups with the highest maxima.

    Arguments:
        scores: (T, R, columns), in tiles; maxima: (R, T * groups per tile); see
            `Candidates._filter`.

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


def _exponent(largest: Tensor) -> Tensor:
    """Return the exponent of the next power of two above a number.

    It is clamped so that neither the power nor its inverse overflows in float64.
    """
    return torch.frexp(largest).exponent.double().clamp_(-1000, 1000)
