"""The damped training pairs as an operator, for numbers of users and items of any size.

    X = D_u^-b R D_i^-b

where R (U, n) are the training pairs, D_u and D_i the numbers of pairs of users and items, and b is
the popularity exponent. Only the positions of the pairs are held; products are computed for blocks
of users, so that nothing has a row for every user. With several processes each holds the pairs of
consecutive users, and the sums over users are those of all processes.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from milk_recsys.base.distributed import SINGLE_PROCESS, World
from milk_recsys.catalogue.user_rows import UserRows

MAX_PRODUCTS = 2**26  # Number of entries of the products X y of a block of users.
PAIRS_AT_ONCE = 2**22  # Number of pairs that are read at once.


class Block(NamedTuple):
    """The pairs of consecutive users, sorted by item.

    Attributes:
        users: (P_b,) int32, counted from the first user of the block.
        starts: (n + 1,) int32, where the pairs of each item begin.
    """

    users: Tensor
    starts: Tensor


class DampedPairs:
    """X (U, n), or consecutive rows of it.

    Arguments:
        rows: the training pairs; their items are numbered from 0 to n - 1.
        num_items: n.
        exponent: b.
        dtype: dtype of the products.
        users: the U users of this process, who are numbered from 0 here.
        world: the processes, which have the other users.

    Attributes:
        shape: (U, n).
        offsets: (U + 1,) int64, where the pairs of each user begin.
        items: (P,) int32, the items of the pairs, sorted by user.
        counts: (n,) int64, the numbers of pairs of the items, of the users of all processes.
        user_scales, item_scales: the diagonals of D_u^-b (U,) and D_i^-b (n,).
    """

    def __init__(
        self,
        rows: UserRows,
        num_items: int,
        exponent: float,
        dtype: torch.dtype,
        *,
        users: slice = slice(None),
        world: World = SINGLE_PROCESS,
    ) -> None:
        start, end, _ = users.indices(len(rows.offsets) - 1)
        first, device = rows.offsets[start], rows.offsets.device
        offsets = rows.offsets[start : end + 1] - first
        items = torch.empty(int(offsets[-1]), dtype=torch.int32, device=device)
        for numbers in torch.arange(len(items), device=device).split(PAIRS_AT_ONCE):
            items[numbers] = rows.pairs_at(numbers + first)[1].int()
        self._set(offsets, items, num_items, exponent, dtype, world)

    @classmethod
    def of(
        cls, offsets: Tensor, items: Tensor, num_items: int, exponent: float, dtype: torch.dtype
    ) -> DampedPairs:
        """Return X of pairs that are given by `offsets` and `items`."""
        pairs = cls.__new__(cls)
        pairs._set(offsets, items, num_items, exponent, dtype, SINGLE_PROCESS)
        return pairs

    def _set(
        self,
        offsets: Tensor,
        items: Tensor,
        num_items: int,
        exponent: float,
        dtype: torch.dtype,
        world: World,
    ) -> None:
        self._exponent, self.world, self.offsets, self.items = exponent, world, offsets, items
        self.shape = (len(offsets) - 1, num_items)
        counts = torch.zeros(num_items, dtype=torch.int64, device=items.device)
        for block in items.split(PAIRS_AT_ONCE):
            counts += torch.bincount(block, minlength=num_items)
        self.counts = world.sum(counts)
        # Users and items without a pair have no entry; their scale is of no importance.
        self.item_scales = self.counts.clamp(min=1).to(dtype) ** -exponent
        self.user_scales = self.offsets.diff().clamp(min=1).to(dtype) ** -exponent
        self._size = 0  # Number of users in a block.
        self._blocks: list[Block] = []

    def _times(self, scaled: Tensor, start: int, end: int) -> Tensor:
        """Return X y for the users from `start` to `end`, of y with scaled rows (n, q)."""
        ends = self.offsets[start : end + 1]
        items = self.items[ends[0] : ends[-1]]
        return summed(items, ends - ends[0], scaled).mul_(self.user_scales[start:end, None])

    def gram_times(self, y: Tensor) -> Tensor:
        """Return X'X y (n, q) of y (n, q), summed over the users of all processes."""
        scaled = (self.item_scales[:, None] * y).contiguous()
        total = torch.zeros_like(scaled)
        size = max(1, MAX_PRODUCTS // max(1, y.shape[1]))
        if size != self._size:
            self._size, self._blocks = size, []
        for number, start in enumerate(range(0, self.shape[0], size)):
            end = min(start + size, self.shape[0])
            if number == len(self._blocks):
                self._blocks.append(self._sorted(start, end))
            block = self._blocks[number]
            products = self._times(scaled, start, end).mul_(self.user_scales[start:end, None])
            total += summed(block.users, block.starts, products)
        return self.world.sum(total).mul_(self.item_scales[:, None])

    def _sorted(self, start: int, end: int) -> Block:
        """Sort the pairs of a block of users by item."""
        ends = self.offsets[start : end + 1]
        items = self.items[ends[0] : ends[-1]]
        order = items.argsort(stable=True)
        users = torch.arange(end - start, dtype=torch.int32, device=items.device)
        users = users.repeat_interleave(ends.diff())[order]
        counts = torch.bincount(items, minlength=self.shape[1])
        starts = torch.cat([counts.new_zeros(1), counts.cumsum(dim=0)])
        return Block(users, starts.int())

    def users_of(self, items: Tensor) -> tuple[Tensor, Tensor]:
        """Return the users (u,) who have some of the items (s,), and R (u, s) of these, sparse."""
        places = torch.full((self.shape[1],), -1, dtype=torch.int64, device=items.device)
        places[items] = torch.arange(len(items), device=items.device)
        found = [
            numbers[places[self.items[numbers].long()] >= 0]
            for numbers in torch.arange(len(self.items), device=items.device).split(PAIRS_AT_ONCE)
        ]
        pairs = torch.cat([items.new_empty(0), *found])
        users = torch.searchsorted(self.offsets, pairs, right=True) - 1
        users, rows = torch.unique(users, return_inverse=True)
        indices = torch.stack([rows, places[self.items[pairs].long()]])
        ones = self.item_scales.new_ones(len(pairs))
        size = (len(users), len(items))
        return users, torch.sparse_coo_tensor(
            indices, ones, size, check_invariants=False
        ).coalesce()

    def times_of(self, users: Tensor, y: Tensor) -> Tensor:
        """Return the rows of X y (u, q) of some users, of y (n, q)."""
        return user_sums(users, self.offsets, self.items, self.item_scales, self._exponent, y)


def user_sums(
    users: Tensor,
    offsets: Tensor,
    items: Tensor,
    item_scales: Tensor,
    exponent: float | Tensor,
    y: Tensor,
) -> Tensor:
    """Return the rows of X y (u, q) of some users.

    Arguments:
        users: (u,).
        offsets, items, item_scales: as in `DampedPairs`.
        exponent: b.
        y: (n, q).
    """
    lengths = offsets[users + 1] - offsets[users]
    starts = torch.cat([lengths.new_zeros(1), lengths.cumsum(dim=0)])
    shifts = (offsets[users] - starts[:-1]).repeat_interleave(lengths)
    own = items[shifts + torch.arange(len(shifts), device=items.device)]
    scales = lengths.clamp(min=1).to(y) ** -exponent
    return summed(own, starts, y, item_scales[own.long()]).mul_(scales[:, None])


def summed(rows: Tensor, starts: Tensor, y: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return sums of rows of y (k, q): of those that `rows` names from each start to the next.

    Arguments:
        rows: (P,).
        starts: (s + 1,).
        weights: (P,), a weight of each, or None.
    """
    total: Tensor = F.embedding_bag(
        rows,
        y,
        starts.to(rows.dtype),
        mode="sum",
        include_last_offset=True,
        per_sample_weights=weights,
    )
    return total
