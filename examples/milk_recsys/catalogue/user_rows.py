"""Each user's items within a pool, as compressed sparse rows (CSR)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from milk_recsys.base.errors import DataError
from milk_recsys.catalogue.pairs import PAIRS_AT_ONCE

__all__ = ["UserRows", "build_user_rows", "check_free"]


@dataclass(frozen=True)
class UserRows:
    """Each user's items within a pool, as compressed rows with one sortable number per pair.

    Pairs are numbered by user, then item. The i-th pair of user u, counted from 0, whose item is at
    position r_i of the pool, has the key

        u * (pool_size + 1) + (r_i - i),

    where r_i - i is the number of pool items before this item that the user does not have. Keys
    never decrease, within a row or from one row to the next, so a binary search for a user's k-th
    free item works on all rows at once. A key determines both user and item, so no other copy of
    the pairs is kept.

    Attributes:
        offsets: (U + 1,) int64; user u has the pairs ``offsets[u]`` to ``offsets[u + 1] - 1``.
        free: (U,) int64, the number of pool items that each user does not have; at least 1.
        keys: (P + 1,) int64, the keys of the pairs and a last one that is greater than all of them.
        pool: (n,) int64, the item ids of the pool, increasing.
        longest: length of the longest row.
    """

    offsets: Tensor
    free: Tensor
    keys: Tensor
    pool: Tensor
    longest: int

    @property
    def pool_size(self) -> int:
        """Number of items in the pool."""
        return len(self.pool)

    @property
    def num_pairs(self) -> int:
        """Number P of pairs."""
        return len(self.keys) - 1

    @property
    def has_pairs(self) -> Tensor:
        """Mask of the users with a pair, (U,) bool."""
        return self.offsets.diff() > 0

    @property
    def items(self) -> Tensor:
        """Item ids (P,) int64 of all pairs, increasing within a user; built on each access."""
        return self.pairs_at(torch.arange(self.num_pairs, device=self.keys.device))[1]

    def pairs_at(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Return the users (n,) and items (n,), int64, of the pairs with the given numbers.

        Arguments:
            numbers: (n,) int32 or int64.

        Example:
            >>> pairs = torch.tensor([[2, 40], [0, 30], [0, 10]])
            >>> rows = build_user_rows(pairs, 3, torch.tensor([10, 20, 30, 40]))
            >>> [ids.tolist() for ids in rows.pairs_at(torch.tensor([2, 1]))]
            [[2, 0], [40, 30]]
        """
        numbers = numbers.to(self.keys.device)
        keys = self.keys.index_select(0, numbers)
        # Inverse of the key: 0 <= r_i - i < pool_size, so the quotient is u and the remainder is
        # r_i - i; i is the pair's number minus the user's offset.
        users = keys // (self.pool_size + 1)
        places = keys - users * (self.pool_size + 1) + numbers - self.offsets.index_select(0, users)
        return users, self.pool.index_select(0, places)

    def to(self, device: torch.device | str) -> UserRows:
        """Return the same rows on another device."""
        return UserRows(
            self.offsets.to(device),
            self.free.to(device),
            self.keys.to(device),
            self.pool.to(device),
            self.longest,
        )


def build_user_rows(
    pairs: Tensor | npt.NDArray[np.integer[Any]],
    num_users: int,
    pool: Tensor,
    *,
    only: Tensor | None = None,
    first_user: int = 0,
) -> UserRows:
    """Build the users' rows over a pool from their pairs.

    Pairs may be in any order and may be repeated. A pair whose item is not in the pool is left out,
    because this item is never drawn as a negative. There may be no pairs at all, and users without
    any; such a user's negatives are drawn from the whole pool.

    Arguments:
        pairs: (P, 2) integers, a user and an item each. They are read in blocks, so that a
            memory-mapped array is not loaded as a whole. Pairs in order are not sorted again.
        num_users: number of users; their ids are first_user to first_user + num_users - 1.
        pool: (n,) int64, the item ids that negatives are drawn from, strictly increasing.
        only: ids of some items of the pool; pairs of other items are left out. None: no limit.
        first_user: id of the first user, which the rows call user 0.

    Returns:
        The rows, on the device of `pairs` (the CPU for an array).

    Raises:
        DataError: a user has every item of the pool, so that no negative exists for them.
        ValueError: wrong shapes, a pool that is empty or not increasing, or a user id outside the
            range.

    Example:
        >>> pairs = torch.tensor([[0, 10], [0, 30], [2, 40]])
        >>> rows = build_user_rows(pairs, 3, torch.tensor([10, 20, 30, 40]))
        >>> rows.offsets.tolist(), rows.items.tolist(), rows.free.tolist()
        ([0, 2, 2, 3], [10, 30, 40], [2, 4, 3])
    """
    device = pairs.device if isinstance(pairs, Tensor) else torch.device("cpu")
    pool = pool.to(device)
    _check_rows(pairs, pool)
    size = len(pool)
    wanted = torch.ones(size, dtype=torch.bool, device=device)
    if only is not None:
        wanted = torch.isin(pool, only.to(device))
    cells = _cells(pairs, num_users, pool, wanted, first_user)
    # The cells of user u are at least u n and less than (u + 1) n, so offsets are found by a
    # search.
    edges = torch.arange(num_users + 1, device=device) * size
    offsets = torch.searchsorted(cells[:-1], edges)
    free = size - offsets.diff()
    check_free(free, size, first_user)
    # Turn cells into keys in place: u n + r becomes u (n + 1) + r - i, where n is the size of the
    # pool and i the pair's number minus the user's offset. The last entry, a sentinel, stays.
    for start in range(0, len(cells) - 1, PAIRS_AT_ONCE):
        block = cells[start : min(start + PAIRS_AT_ONCE, len(cells) - 1)]
        users = block // size
        block += users + offsets[users] - torch.arange(start, start + len(block), device=device)
    return UserRows(offsets, free, cells, pool, size - int(free.min()) if num_users else 0)


def _cells(
    pairs: Tensor | npt.NDArray[Any],
    num_users: int,
    pool: Tensor,
    wanted: Tensor,
    first_user: int,
) -> Tensor:
    """Return u * pool_size + r of the wanted pairs, strictly increasing, then the greatest int64.

    u is the user, counted from the first one, and r the position of the item in the pool; `wanted`
    (n,) marks positions.
    """
    # `places` maps an item id to its position in the pool, or to -1; a look-up in this table is
    # faster than a binary search in the pool.
    end = max(int(pool[-1]) + 1, 1)
    places = torch.full((end,), -1, dtype=torch.int32, device=pool.device)
    places[pool[wanted]] = torch.arange(len(pool), dtype=torch.int32, device=pool.device)[wanted]

    def blocks() -> Iterator[Tensor]:
        for start in range(0, len(pairs), PAIRS_AT_ONCE):
            block = pairs[start : start + PAIRS_AT_ONCE]
            users, items = (
                (block if isinstance(block, Tensor) else torch.from_numpy(np.array(block)))
                .long()
                .unbind(1)
            )
            _check_users(users, first_user, num_users)
            place = places[items.clamp(0, end - 1)]
            inside = (place >= 0) & (items >= 0) & (items < end)
            yield (users[inside] - first_user) * len(pool) + place[inside]

    # The pairs are read twice, first to count and then to fill one tensor, which needs less memory
    # than joining a list of blocks.
    count = sum(map(len, blocks()))
    cells = torch.empty(count + 1, dtype=torch.int64, device=pool.device)
    cells[-1] = torch.iinfo(torch.int64).max
    filled, in_order = 0, True
    for block in blocks():
        cells[filled : filled + len(block)] = block
        # Compare within the block, and its first cell with the last one of the block before.
        begin = max(filled - 1, 0)
        filled += len(block)
        in_order = in_order and bool(
            (cells[begin + 1 : filled] > cells[begin : max(filled - 1, 0)]).all()
        )
    # `torch.unique` sorts and removes repeated pairs; the sentinel remains the last entry.
    return cells if in_order else torch.unique(cells)


def _check_rows(pairs: Tensor | npt.NDArray[Any], pool: Tensor) -> None:
    if pairs.ndim != 2 or pairs.shape[1] != 2:
        raise ValueError(
            f"build_user_rows: `pairs` must have shape (P, 2), got {tuple(pairs.shape)}."
        )
    if pool.ndim != 1 or pool.numel() == 0:
        raise ValueError(
            "build_user_rows: `pool` must hold at least one item and have shape (n,), got "
            f"{tuple(pool.shape)}."
        )
    if bool((pool[1:] <= pool[:-1]).any()) or int(pool[0]) < 0:
        raise ValueError(
            "build_user_rows: `pool` must be item ids, strictly increasing. "
            "Use `torch.unique(pool)`."
        )


def _check_users(users: Tensor, first_user: int, num_users: int) -> None:
    low, high = (int(bound) for bound in users.aminmax())
    last_user = first_user + num_users - 1
    if not first_user <= low <= high <= last_user:
        raise ValueError(
            f"build_user_rows: user ids must lie in {first_user} to {last_user}, got {low} to "
            f"{high}."
        )


def check_free(free: Tensor, size: int, first_user: int = 0) -> None:
    """Refuse users who have every item that negatives are drawn from.

    Arguments:
        free: (U,) number of items of the pool that each user does not have.
        size: number of items of the pool.
        first_user: id of the first user.

    Raises:
        DataError: a user has no free item.
    """
    full = torch.nonzero(free == 0).flatten().tolist()
    if full:
        others = f" (and {len(full) - 1} more users)" if len(full) > 1 else ""
        raise DataError(
            f"user {first_user + full[0]}{others} has all {size} items that negatives are drawn "
            "from, so none is left to draw. Leave out such a user's pairs, or draw negatives from "
            "more items."
        )
