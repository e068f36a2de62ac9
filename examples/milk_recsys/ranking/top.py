"""The exact top of many inner products, in little more than the time of the matrix product.

A score is the inner product of a user's and an item's vector: products and a sum in pairs, in float64 and in one fixed
order, rounded to the dtype asked for. The order is by score, and at the same score by position. So a list depends
neither on the sizes of blocks, nor on threads, nor on who else is listed.

Computing every score so would take many times longer than a matrix product in float32, and is needed only for those
near the top. The product (`Candidates`) is a filter: what it says is off by no more than a bound known beforehand, so
that items further than that below the last place cannot be in the list. Of each group of items only the maximum is
looked at, until few groups are left. The few items that remain are scored as above. Where more remain than are kept
(items with the same vector, say), that row is computed in float64.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from milk_recsys.base.errors import DataError

__all__ = ["Candidates", "Top", "best_columns", "top_items"]

CPU_ROWS, GPU_ROWS = (
    2**20,
    2**26,
)  # scores in a block of rows that is wanted: a CPU's cache, a GPU's parallelism
LEAST_ROWS = (
    256  # rows in a block where memory allows: fewer, and the product reads the items too often
)
CPU_SCORES, GPU_SCORES = 2**25, 2**28  # scores held at once
COLUMNS = 2048  # items in one product, so that its result stays in a CPU's cache
LARGEST_GROUP = 32
SPARE = 8  # items kept beyond those asked for
WORK_ARRAY_SIZE = 2**20  # numbers in a work array beside the scores


class Top(NamedTuple):
    """The best items of each user, best first; at the same score the lower position is first.

    Attributes:
        positions: (U, K) int64; -1 where a user may have no more items.
        scores: (U, K), decreasing along a row; -inf where the position is -1.
    """

    positions: Tensor
    scores: Tensor


class _Rows(NamedTuple):
    """A block of users, with what is needed to compare their scores.

    Attributes:
        vectors: (R, D) float64; scaled: (R, D), of the filter's dtype.
        error: (R, 1) float64, how far the filter's scores may be from the scores, scaled likewise.
        norms: (R, 1) float64, of the vectors, times the largest norm of an item.
        kept_out: row and position of the items left out, or None.
    """

    vectors: Tensor
    scaled: Tensor
    error: Tensor
    norms: Tensor
    kept_out: tuple[Tensor, Tensor] | None


def top_items(
    users: Tensor,
    items: Tensor,
    top: int,
    *,
    exclude: tuple[Tensor, Tensor] | None = None,
    dtype: torch.dtype = torch.float32,
) -> Top:
    """Find the items with the highest inner products for each user.

    Of a list that does not fit in memory, make parts with `Candidates`.

    Arguments:
        users: (U, D); items: (C, D), any float dtype, on one device.
        top: the length of a list; C where that is smaller.
        exclude: items that a user must not get, as compressed rows: offsets (U + 1,) and positions (P,), int64. User
            u's are ``positions[offsets[u]:offsets[u + 1]]``, in any order.
        dtype: that scores are rounded to, torch.float32 or torch.float64.

    Returns:
        `Top`, on the device of the vectors.

    Raises:
        ValueError: wrong shapes, offsets or positions out of range, `top` below 1.
        TypeError: another dtype.
        DataError: a vector that is not finite, or too large to be multiplied.

    Example:
        >>> users, items = torch.tensor([[1.0, 0.0], [0.0, 2.0]]), torch.tensor([[1.0, 1.0], [3.0, 1.0], [2.0, 0.0]])
        >>> top_items(users, items, 2).positions.tolist()
        [[1, 2], [0, 1]]
        >>> top_items(users, items, 3, exclude=(torch.tensor([0, 1, 1]), torch.tensor([1]))).positions.tolist()
        [[2, 0, -1], [0, 1, 2]]
    """
    return Candidates(items, dtype=dtype).top(users, top, exclude=exclude)


class Candidates:
    """Items made ready for finding the best of them, for one block of users after the other.

    Holds the items in float64 (without a copy where they come so) and in the filter's dtype, and the scores of a block,
    in memory that is used again.

    Arguments:
        items: (C, D), any float dtype.
        dtype: that scores are rounded to, torch.float32 or torch.float64. The filter computes in it, but in float64
            where torch is told to multiply float32 less precisely.
        scores_at_once: how many scores are held at once; None suits the device.

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
        wanted = max(LEAST_ROWS, (CPU_ROWS if cpu else GPU_ROWS) // max(1, count))
        self.rows_at_once = max(1, min(wanted, math.isqrt(held)))
        self.span = max(
            1, min(held // self.rows_at_once, count)
        )  # items among which a block is ranked at once
        self.columns = min(COLUMNS if cpu else self.span, self.span)
        self.columns += -self.columns % LARGEST_GROUP
        precise = torch.get_float32_matmul_precision() == "highest"
        self._prepare(dtype if precise else torch.float64)
        self._scores = torch.empty(0, dtype=self.scaled.dtype, device=items.device)

    @torch.no_grad()
    def top(self, users: Tensor, top: int, *, exclude: tuple[Tensor, Tensor] | None = None) -> Top:
        """Find the best items of each user; arguments, result and errors are those of `top_items`."""
        self._check(users, top, exclude)
        length = min(top, len(self.items))
        positions = torch.empty(len(users), length, dtype=torch.int64, device=self.items.device)
        scores = torch.empty(len(users), length, dtype=self.dtype, device=self.items.device)
        for start in range(0, len(users) if length else 0, self.rows_at_once):
            part = slice(start, min(start + self.rows_at_once, len(users)))
            rows, held = self._rows(users[part], start, exclude), 0
            for low in range(0, len(self.items), self.span):
                found = self._best(rows, low, min(low + self.span, len(self.items)), length)
                if low:  # what was found before stands first: its positions are lower
                    columns = torch.cat([positions[part, :held], found[0]], dim=1)
                    found = _sorted(
                        columns, torch.cat([scores[part, :held], found[1]], dim=1), length
                    )
                held = found[0].shape[1]
                positions[part, :held], scores[part, :held] = found
        positions.masked_fill_(scores == -torch.inf, -1)
        return Top(positions, scores)

    def _prepare(self, dtype: torch.dtype) -> None:
        """Scale all items by one power of two, so that neither products nor norms leave the filter's range."""
        self.scaled = torch.empty(self.items.shape, dtype=dtype, device=self.items.device)
        step = max(1, WORK_ARRAY_SIZE // self.dim)
        largest = torch.zeros((), dtype=torch.float64, device=self.items.device)
        for start in range(0, len(self.items), step):
            block = self.items[start : start + step].abs().amax(dim=1)  # NaN wins
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

    def _rows(self, users: Tensor, start: int, exclude: tuple[Tensor, Tensor] | None) -> _Rows:
        vectors = users.double()
        largest = vectors.abs().amax(dim=1, keepdim=True)
        exponent = _exponent(largest)
        scaled = vectors * torch.exp2(-exponent)
        norms = scaled.norm(dim=1, keepdim=True) * self.norm
        unit = torch.exp2(exponent + self.exponent)
        limits, kind = torch.finfo(self.dtype), torch.finfo(self.scaled.dtype)
        bad = ~torch.isfinite(largest) | (norms * unit > limits.max / 4)
        if bool(bad.any()):
            first = int(bad[:, 0].nonzero()[0])
            what = (
                "too large to be multiplied"
                if bool(torch.isfinite(largest[first]))
                else "not finite"
            )
            raise DataError(f"ranking: the vector of user {start + first} is {what}.")
        # The filter's sum of rounded factors in any order, and the score's; its rounding; what is below normal range.
        error = (
            (self._relative(kind) + limits.eps) * norms
            + 4 * self.dim * kind.tiny
            + limits.tiny / unit
        )
        kept_out = None
        if exclude is not None:
            offsets = exclude[0][start : start + len(users) + 1]
            row = torch.repeat_interleave(
                torch.arange(len(users), device=offsets.device), offsets.diff()
            )
            kept_out = row, exclude[1][int(offsets[0]) : int(offsets[-1])]
        return _Rows(vectors, scaled.to(self.scaled.dtype), error, norms * unit, kept_out)

    def _relative(self, kind: torch.finfo) -> float:
        """Bound the error of an inner product, as a share of the product of the norms."""
        return 1.01 * (2 * self.dim + 8) * kind.eps / 2

    def _best(self, rows: _Rows, low: int, high: int, length: int) -> tuple[Tensor, Tensor]:
        """Return the best of the items from `low` to `high`, positions and scores (R, min(length, high - low))."""
        length = min(length, high - low)
        kept = min(length + SPARE, high - low)
        group = LARGEST_GROUP
        while group > 1 and (high - low) // group < 4 * kept:
            group //= 2
        scores, maxima = self._filter(rows, low, high, group)
        columns, values = _above(scores, maxima, kept)
        # Sure: each item left out is further below the last place than both may be off.
        last, next_out = values[:, length - 1].double(), values[:, -1].double()
        sure = (next_out == -torch.inf) | (next_out < last - 2 * rows.error[:, 0])
        if kept == high - low:
            sure = torch.ones_like(sure)
        columns, order = columns.sort(dim=1)
        allowed = values.gather(1, order) != -torch.inf
        columns.masked_fill_(~allowed, 0)  # those beyond the last item among them
        exact = self._score_lists(rows.vectors, columns + low)
        positions, found = _sorted(columns + low, exact.masked_fill_(~allowed, -torch.inf), length)
        unsure = (~sure).nonzero()[:, 0]
        step = max(1, 2 * WORK_ARRAY_SIZE // (high - low))
        for start in range(0, len(unsure), step):
            some = unsure[start : start + step]
            allowed = scores[:, some].transpose(0, 1).flatten(1)[:, : high - low] != -torch.inf
            positions[some], found[some] = self._best_slowly(rows, some, allowed, low, length)
        return positions, found

    def _filter(self, rows: _Rows, low: int, high: int, group: int) -> tuple[Tensor, Tensor]:
        """Return approximate scores in tiles (T, R, columns), and the maxima of their groups (R, T * columns / group).

        A group's items lie columns / group apart, so that maxima are those of long rows. Items left out, and columns
        beyond the last item, have -inf.
        """
        count, width = len(rows.vectors), self.columns
        tiles = -(-(high - low) // width)
        if len(self._scores) < tiles * count * width:
            self._scores = self._scores.new_empty(tiles * count * width)
        flat = self._scores[: tiles * count * width]
        scores = flat.view(tiles, count, width)
        out, ends = self._left_out(rows, low, high, tiles)
        groups = width // group
        maxima = scores.new_empty(count, tiles * groups)
        for tile in range(tiles):
            items = self.scaled[low + tile * width : min(low + (tile + 1) * width, high)]
            scores[tile, :, len(items) :] = -torch.inf
            torch.mm(rows.scaled, items.T, out=scores[tile, :, : len(items)])
            if ends[tile] < ends[tile + 1]:
                flat.index_fill_(0, out[ends[tile] : ends[tile + 1]], -torch.inf)
            part = maxima[:, tile * groups : (tile + 1) * groups]
            torch.amax(scores[tile].view(count, group, groups), dim=1, out=part)
        return scores, maxima

    def _left_out(self, rows: _Rows, low: int, high: int, tiles: int) -> tuple[Tensor, list[int]]:
        """Return where in the tiles the items to leave out are, increasing, and where each tile's begin and end."""
        if rows.kept_out is None:
            return torch.empty(0, dtype=torch.int64), [0] * (tiles + 1)
        row, position = rows.kept_out
        inside = (position >= low) & (position < high)
        row, column = row[inside], position[inside] - low
        tile = column.div(self.columns, rounding_mode="floor")
        size = len(rows.vectors) * self.columns
        places = (tile * size + row * self.columns + column % self.columns).sort().values
        ends = torch.searchsorted(places, torch.arange(tiles + 1, device=places.device) * size)
        return places, ends.tolist()

    def _best_slowly(
        self, rows: _Rows, some: Tensor, allowed: Tensor, low: int, length: int
    ) -> tuple[Tensor, Tensor]:
        """Find what `_best` finds, for some rows, by all scores: a product in float64 settles nearly all of them."""
        vectors = rows.vectors[some]
        scores = vectors @ self.items[low : low + allowed.shape[1]].T
        kind = torch.finfo(torch.float64)
        error = self._relative(kind) * rows.norms[some]
        error = torch.where(error > 0, error + 4 * self.dim * kind.tiny, 0)
        least = (scores - error).to(self.dtype).masked_fill_(~allowed, -torch.inf)
        most = (scores + error).to(self.dtype).masked_fill_(~allowed, -torch.inf)
        last = least.topk(length, dim=1).values[:, -1:]
        row, column = ((least != most) & (most >= last)).nonzero().unbind(1)
        step = max(1, WORK_ARRAY_SIZE // self.dim)
        for start in range(0, len(row), step):
            r, c = row[start : start + step], column[start : start + step]
            least[r, c] = self._score_lists(vectors[r], c[:, None] + low)[:, 0]
        columns, found = best_columns(least, length)
        return columns + low, found + 0.0  # no -0.0

    def _score_lists(self, vectors: Tensor, positions: Tensor) -> Tensor:
        """Return the scores (R, K) of each row's own items, (R, K)."""
        products = self.items.index_select(0, positions.reshape(-1)).view(
            *positions.shape, self.dim
        )
        products *= vectors[:, None]
        width = self.dim
        while width > 1:  # the same order of sums, whatever the shapes
            half = width // 2
            products[..., :half] += products[..., width - half : width]
            width -= half
        return products[..., 0].to(self.dtype) + 0.0  # no -0.0

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
                f"ranking: positions of `exclude` must be in 0 to {len(self.items) - 1}, got {int(positions.min())} "
                f"to {int(positions.max())}."
            )


def best_columns(scores: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """Find the highest scores of each row, best first; at the same score the lower column first.

    Unlike `torch.topk`, which columns win a tie, and their order, are settled.

    Arguments:
        scores: (R, C), without NaN.
        top: how many; C where that is smaller.

    Returns:
        columns (R, K) and their scores (R, K).

    Example:
        >>> best_columns(torch.tensor([[1.0, 2.0, 2.0, 2.0]]), 2)
        (tensor([[1, 2]]), tensor([[2., 2.]]))
    """
    top = min(top, scores.shape[1])
    values, columns = scores.topk(min(top + 1, scores.shape[1]), dim=1)
    if (
        values.shape[1] > top > 0
    ):  # where the last place is tied, topk has picked any of the tied columns
        tied = (values[:, top] == values[:, top - 1]).nonzero()[:, 0]
        columns = columns[:, :top].contiguous()
        if len(tied):
            columns[tied] = _lowest_columns(scores[tied], values[tied, top - 1 : top], top)
    columns = columns.sort(dim=1).values
    return _sorted(columns, scores.gather(1, columns), top)


def _lowest_columns(scores: Tensor, last: Tensor, top: int) -> Tensor:
    """Return the columns above the `last` score, and then the lowest ones at it: `top` a row, increasing."""
    above, level = scores > last, scores == last
    wanted = top - above.sum(dim=1, keepdim=True)
    chosen = above | (level & (level.cumsum(dim=1) <= wanted))
    return chosen.nonzero()[:, 1].view(len(scores), top)


def _sorted(columns: Tensor, scores: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """Order columns by decreasing score, those at the same score as they come, and keep the first ones."""
    values, order = scores.sort(dim=1, descending=True, stable=True)
    return columns.gather(1, order[:, :top]), values[:, :top]


def _above(scores: Tensor, maxima: Tensor, kept: int) -> tuple[Tensor, Tensor]:
    """Return columns (R, kept) with the highest scores in tiles, (T, R, columns), and the scores, decreasing.

    Any of those at the same score may win. The columns with the `kept` highest scores of a row lie in as many groups,
    those with the highest maxima.
    """
    _, count, width = scores.shape
    groups = maxima.shape[1] // len(scores)
    group = width // groups
    best = maxima.topk(kept, dim=1, sorted=False).indices
    tile = best.div(groups, rounding_mode="floor")
    row = torch.arange(count, device=best.device)[:, None]
    first = (tile * count + row) * width + best - tile * groups
    places = (first[:, :, None] + torch.arange(group, device=best.device) * groups).flatten(1)
    values, order = scores.view(-1).take(places).topk(kept, dim=1)
    places = places.gather(1, order)
    return places.div(count * width, rounding_mode="floor") * width + places % width, values


def _exponent(largest: Tensor) -> Tensor:
    """Return the power of two next above a number, kept to where it and its inverse are numbers."""
    return torch.frexp(largest).exponent.double().clamp_(-1000, 1000)
