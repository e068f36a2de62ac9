"""Negative items without rejection, for a whole batch or a whole epoch at once.

A negative of user u is a uniform draw from the items of a pool that u does not have. Number the
pool's items 0 to n - 1 and let r_0 < r_1 < ... be the numbers of those that u has. Before r_i lie
r_i - i items that u does not have, so the k-th of those (from 0) has the number
k + #{i : r_i - i <= k}. The values r_i - i never decrease along a row, so a binary search counts
them. A draw is a few tensor operations and reads no value back to the host, so the same code runs
on a GPU.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from milk_recsys.errors import DataError

__all__ = ["UserRows", "build_user_rows", "sample_negatives"]


@dataclass(frozen=True)
class UserRows:
    """The pool's items that each user has, as compressed rows made ready for a search.

    Attributes:
        offsets: (U + 1,) int64; user u's row is ``items[offsets[u]:offsets[u + 1]]``.
        items: (P,) int64 item ids, increasing within a user.
        free: (U,) int64, how many items of the pool each user does not have; at least 1.
        keys: (P,) int64, u * (pool_size + 1) + r_i - i, which never decreases from one row to the
            next either, so that one search serves every user.
        pool_size: how many items the pool has.
    """

    offsets: Tensor
    items: Tensor
    free: Tensor
    keys: Tensor
    pool_size: int

    def to(self, device: torch.device | str) -> UserRows:
        """The same rows on another device."""
        return UserRows(
            self.offsets.to(device),
            self.items.to(device),
            self.free.to(device),
            self.keys.to(device),
            self.pool_size,
        )


def build_user_rows(pairs: Tensor, num_users: int, pool: Tensor) -> UserRows:
    """Sort the users' items into rows over a pool.

    Pairs may come in any order and more than once. A pair whose item is not in the pool is left
    out: it can never be drawn. No pairs at all are allowed, and so is a user without any: such a
    user draws from the whole pool.

    Arguments:
        pairs: (P, 2) int64, a user and an item each.
        num_users: how many users there are; their ids are 0 to num_users - 1.
        pool: (n,) int64, the item ids that negatives are drawn from, strictly increasing.

    Returns:
        The rows, on the device of `pairs`.

    Raises:
        DataError: a user has every item of the pool, so that no negative exists for them.
        ValueError: wrong shapes, an empty pool or one out of order, a user id outside 0 to
            num_users - 1.

    Example:
        >>> pairs = torch.tensor([[0, 10], [0, 30], [2, 40]])
        >>> rows = build_user_rows(pairs, 3, torch.tensor([10, 20, 30, 40]))
        >>> rows.offsets.tolist(), rows.items.tolist(), rows.free.tolist()
        ([0, 2, 2, 3], [10, 30, 40], [2, 4, 3])
    """
    pool = pool.to(pairs.device)
    _check_rows(pairs, num_users, pool)
    size = pool.numel()
    users, items = pairs[:, 0], pairs[:, 1]
    places = torch.searchsorted(pool, items.contiguous())
    inside = pool[places.clamp(max=size - 1)] == items
    cells = torch.unique(users[inside] * size + places[inside])  # sorted by user, then place; distinct
    users, places = cells // size, cells % size
    counts = torch.bincount(users, minlength=num_users)
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    free = size - counts
    _check_free(free, size)
    before = places - (torch.arange(len(cells), device=cells.device) - offsets[users])
    return UserRows(offsets, pool[places], free, users * (size + 1) + before, size)


def sample_negatives(
    users: Tensor, rows: UserRows, pool: Tensor, *, generator: torch.Generator | None = None
) -> Tensor:
    """Draw for each given user one of the pool's items that the user does not have, uniformly.

    Arguments:
        users: (B,) int64 user ids, repeats allowed; B may be 0.
        rows: of `build_user_rows` with the same pool, on the device of `users`.
        pool: (n,) int64, the pool that `rows` was built with, on the device of `users`.
        generator: the source of randomness; None is the global one. Draws are made on the
            generator's device, so a CPU generator gives the same negatives on every device, at the
            price of a copy.

    Returns:
        (B,) int64 item ids.

    Raises:
        ValueError: `users` is not a vector, or `pool` is not as long as the pool of `rows`.

    Example:
        >>> pool = torch.tensor([10, 20, 30])
        >>> rows = build_user_rows(torch.tensor([[0, 10], [0, 30], [1, 20], [1, 30]]), 2, pool)
        >>> sample_negatives(torch.tensor([0, 1, 0]), rows, pool).tolist()
        [20, 10, 20]
    """
    if users.ndim != 1:
        raise ValueError(f"sample_negatives: `users` must have shape (B,), got {tuple(users.shape)}.")
    if pool.shape != (rows.pool_size,):
        raise ValueError(
            f"sample_negatives: `pool` must be the pool of `rows`, of shape ({rows.pool_size},), "
            f"got {tuple(pool.shape)}. Build the rows again when the pool changes."
        )
    device = users.device if generator is None else generator.device
    uniform = torch.rand(len(users), generator=generator, device=device, dtype=torch.float64)
    # In float64 the product stays below `free`: the largest draw is 1 - 2^-53.
    k = (uniform.to(users.device) * rows.free[users]).long()
    had = torch.searchsorted(rows.keys, users * (rows.pool_size + 1) + k, right=True)
    return pool[k + had - rows.offsets[users]]


def _check_rows(pairs: Tensor, num_users: int, pool: Tensor) -> None:
    if pairs.ndim != 2 or pairs.shape[1] != 2:
        raise ValueError(f"build_user_rows: `pairs` must have shape (P, 2), got {tuple(pairs.shape)}.")
    if pool.ndim != 1 or pool.numel() == 0:
        raise ValueError(
            f"build_user_rows: `pool` must hold at least one item and have shape (n,), got {tuple(pool.shape)}."
        )
    if bool((pool[1:] <= pool[:-1]).any()):
        raise ValueError("build_user_rows: `pool` must be strictly increasing. Use `torch.unique(pool)`.")
    if len(pairs) and not 0 <= int(pairs[:, 0].min()) <= int(pairs[:, 0].max()) < num_users:
        raise ValueError(
            f"build_user_rows: user ids must lie in 0 to {num_users - 1}, "
            f"got {int(pairs[:, 0].min())} to {int(pairs[:, 0].max())}."
        )


def _check_free(free: Tensor, size: int) -> None:
    full = torch.nonzero(free == 0).flatten().tolist()
    if full:
        others = f" (and {len(full) - 1} more users)" if len(full) > 1 else ""
        raise DataError(
            f"user {full[0]}{others} has all {size} items that negatives are drawn from, so none "
            "is left to draw. Leave out such a user's pairs, or draw negatives from more items."
        )
