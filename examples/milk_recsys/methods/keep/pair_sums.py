"""The training pairs of a fitted KEEP, and the sum over them that new pairs change."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from milk_recsys.methods.keep.vectors import damped, gram

if TYPE_CHECKING:
    from milk_recsys.methods.keep.fitted import KeepModel

__all__ = ["PairSums", "StoredPairs"]


class StoredPairs(NamedTuple):
    """The training pairs of a model, sorted by user and item.

    Attributes:
        users, items: int64 (P,).
        num_users, num_items: U and n.
    """

    users: Tensor
    items: Tensor
    num_users: int
    num_items: int

    @classmethod
    def of(cls, model: KeepModel) -> StoredPairs:
        """Return the pairs that are in the state of a model."""
        size = (len(model.trained_users), len(model.counts))
        if "user_items" in model._buffers:
            offsets = model.get_buffer("user_offsets")
            users = torch.arange(size[0], device=offsets.device).repeat_interleave(offsets.diff())
            return cls(users, model.get_buffer("user_items").long(), *size)
        if "items" in model._buffers:  # The vectors of the users are the rows of X.
            users, items = model.user_vectors(None).nonzero().unbind(1)
            return cls(users, items, *size)
        rows, columns = (
            model.get_buffer(name) for name in ("item_rows", "item_columns")
        )  # E is X'.
        order = (columns * size[1] + rows).argsort()
        return cls(columns[order], rows[order], *size)

    def joined(self, pairs: Tensor, num_users: int, num_items: int) -> tuple[StoredPairs, Tensor]:
        """Add pairs (P, 2), of which some may be known; return all, and those that are new."""
        known = self.users * num_items + self.items
        given = torch.unique(pairs[:, 0] * num_items + pairs[:, 1])
        new = given[~torch.isin(given, known)]
        keys = torch.cat([known, new]).sort().values
        both = StoredPairs(keys // num_items, keys % num_items, num_users, num_items)
        return both, torch.stack([new // num_items, new % num_items], dim=1)

    def matrix(self, dtype: torch.dtype) -> Tensor:
        """Return R (U, n), sparse."""
        return _matrix(self.users, self.items, (self.num_users, self.num_items), dtype)


class PairSums(NamedTuple):
    """H, a sum over users (or over items) of which each pair belongs to one.

    Attributes:
        products: H (n, n), or (U, U) of a sum over items.
    """

    products: Tensor

    @classmethod
    def of(
        cls, rows: Tensor, columns: Tensor, size: int, power: float, dtype: torch.dtype
    ) -> PairSums:
        """Sum the terms d_r^-2b r_r r_r' of some rows of a matrix of 0 and 1.

        Arguments:
            rows, columns: (P,) the positions of the 1, with all of those of a row.
            size: number of columns.
            power: b.
        """
        numbers = torch.unique(rows, return_inverse=True)[1]
        count = int(numbers.max()) + 1 if len(numbers) else 0
        matrix = _matrix(numbers, columns, (count, size), dtype)
        ones = torch.ones(size, dtype=torch.int64, device=rows.device)
        return cls(gram(damped(matrix, power, ones)))

    def updated(
        self,
        before: tuple[Tensor, Tensor],
        after: tuple[Tensor, Tensor],
        changed: Tensor,
        size: int,
        power: float,
    ) -> PairSums:
        """Replace the terms of the changed rows.

        Arguments:
            before, after: rows and columns of all pairs.
            changed: numbers of the rows whose pairs differ.
            size: number of columns after the change, not less than before.
            power: b.
        """
        added = size - len(self.products)
        products = F.pad(self.products, (0, added, 0, added))
        for sign, (rows, columns) in ((-1, before), (1, after)):
            own = torch.isin(rows, changed)
            term = PairSums.of(rows[own], columns[own], size, power, products.dtype)
            products = products.add_(term.products, alpha=sign)
        return PairSums(products)


def _matrix(rows: Tensor, columns: Tensor, size: tuple[int, int], dtype: torch.dtype) -> Tensor:
    """Return a sparse matrix of 0 and 1."""
    ones = torch.ones(len(rows), dtype=dtype, device=rows.device)
    indices = torch.stack([rows, columns])
    return torch.sparse_coo_tensor(indices, ones, size, check_invariants=False).coalesce()
