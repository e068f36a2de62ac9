"""Approximate scores with a bound of their error, computed in tiles of users and items."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from milk_recsys.base.errors import DataError
from milk_recsys.ranking.top_exact import WORK_ARRAY_SIZE, relative_error

__all__ = ["Filter", "UserBlock"]


class UserBlock(NamedTuple):
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

    def cells(self, low: int, high: int, width: int) -> tuple[Tensor, list[int]]:
        """Return the flat indices of the excluded items in tiles (T, R, width) of a span of items.

        Returns:
            the indices, increasing, and T + 1 offsets: those of tile t are the indices from offset
            t to offset t + 1.
        """
        tiles = -(-(high - low) // width)
        if self.excluded is None:
            return torch.empty(0, dtype=torch.int64), [0] * (tiles + 1)
        row, position = self.excluded
        inside = (position >= low) & (position < high)
        row, column = row[inside], position[inside] - low
        tile = column.div(width, rounding_mode="floor")
        size = len(self.vectors) * width
        indices = (tile * size + row * width + column % width).sort().values
        ends = torch.searchsorted(indices, torch.arange(tiles + 1, device=indices.device) * size)
        return indices, ends.tolist()

    def allowed(self, chosen: Tensor, low: int, high: int) -> Tensor:
        """Return which items of a span the chosen rows do not exclude, (R', high - low) bool."""
        allowed = torch.ones(len(chosen), high - low, dtype=torch.bool, device=chosen.device)
        if self.excluded is not None:
            place = chosen.new_full((len(self.vectors),), -1)
            place[chosen] = torch.arange(len(chosen), device=chosen.device)
            row, position = self.excluded
            row = place[row]
            inside = (row >= 0) & (position >= low) & (position < high)
            allowed[row[inside], position[inside] - low] = False
        return allowed


class Filter:
    """Items in the filter's dtype, scaled by a power of two, and bounds of the filter's errors.

    The scale brings all values to at most 1, so that neither products nor norms overflow.

    Arguments:
        items: (C, D) float64.
        dtype: dtype of the scores, torch.float32 or torch.float64. The filter computes in this
            dtype, or in float64 if `torch.get_float32_matmul_precision` is not "highest".

    Raises:
        DataError: a vector is not finite.
    """

    def __init__(self, items: Tensor, dtype: torch.dtype) -> None:
        self.items, self.dtype, self.dim = items, dtype, items.shape[1]
        precise = torch.get_float32_matmul_precision() == "highest"
        self.scaled = torch.empty(
            items.shape, dtype=dtype if precise else torch.float64, device=items.device
        )
        step = max(1, WORK_ARRAY_SIZE // self.dim)
        largest = torch.zeros((), dtype=torch.float64, device=items.device)
        for start in range(0, len(items), step):
            block = items[start : start + step].abs().amax(dim=1)  # NaN if any value is NaN.
            if not bool(torch.isfinite(block).all()):
                row = start + int((~torch.isfinite(block)).nonzero()[0])
                raise DataError(f"ranking: the vector of item {row} is not finite.")
            largest = torch.maximum(largest, block.max())
        self.exponent = _exponent(largest)
        scale = torch.exp2(-self.exponent)
        self.norm = torch.zeros_like(largest)
        for start in range(0, len(items), step):
            scaled = items[start : start + step] * scale
            self.scaled[start : start + step] = scaled
            self.norm = torch.maximum(self.norm, scaled.norm(dim=1).max())

    def scale_users(
        self, users: Tensor, start: int, exclude: tuple[Tensor, Tensor] | None
    ) -> UserBlock:
        """Scale a block of users, which begins with user `start`, and bound the filter's error.

        Raises:
            DataError: a vector is not finite, or its inner products would overflow.
        """
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
            (relative_error(self.dim, self.scaled.dtype) + limits.eps) * norms
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
        return UserBlock(vectors, scaled.to(self.scaled.dtype), error, norms * unit, excluded)


def _exponent(largest: Tensor) -> Tensor:
    """Return the exponent of the next power of two above a number.

    It is clamped so that neither the power nor its inverse overflows in float64.
    """
    return torch.frexp(largest).exponent.double().clamp_(-1000, 1000)
