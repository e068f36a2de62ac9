"""Sampling of negative items without rejection, for a whole batch or a whole epoch at once.

A negative of user u is a uniform draw from the items of a pool that u does not have. Number the
pool's items 0 to n - 1 and let r_0 < r_1 < ... be the numbers of those that u has. There are r_i -
i items below r_i that u does not have, so the k-th of those (from 0) has the number
k + #{i : r_i - i <= k}. The values r_i - i never decrease along a row, so a binary search counts
them. A draw consists of a few tensor operations and reads no value back to the host, so the same
code runs on a GPU.
"""

from __future__ import annotations

import torch
from torch import Tensor

from milk_recsys.catalogue.user_rows import UserRows

__all__ = ["count_before", "sample_negatives"]


KEYS_IN_CACHE = 2**21  # Maximum number of keys (int64, 16 MB) that fit a CPU's last-level cache.


def sample_negatives(
    users: Tensor, rows: UserRows, pool: Tensor, *, generator: torch.Generator | None = None
) -> Tensor:
    """Draw, for each given user, one of the pool's items that the user does not have, uniformly.

    With a CPU generator, successive calls draw the same items as one call for all users, so an
    epoch can be drawn in parts.

    Arguments:
        users: (B,) int64 user ids, repeats allowed; B may be 0.
        rows: from `build_user_rows` with the same pool, on the device of `users`.
        pool: (n,) int64, the pool that `rows` was built with, on the device of `users`.
        generator: the source of randomness; None for the global generator. Draws are made on the
            generator's device, so a CPU generator gives the same negatives on every device, at the
            cost of a copy.

    Returns:
        (B,) int64 item ids.

    Raises:
        ValueError: `users` is not a vector, or `pool` and the pool of `rows` differ in length.

    Example:
        >>> from milk_recsys.catalogue.user_rows import build_user_rows
        >>> pool = torch.tensor([10, 20, 30])
        >>> rows = build_user_rows(torch.tensor([[0, 10], [0, 30], [1, 20], [1, 30]]), 2, pool)
        >>> sample_negatives(torch.tensor([0, 1, 0]), rows, pool).tolist()
        [20, 10, 20]
    """
    if users.ndim != 1:
        raise ValueError(
            f"sample_negatives: `users` must have shape (B,), got {tuple(users.shape)}."
        )
    if pool.shape != (rows.pool_size,):
        raise ValueError(
            f"sample_negatives: `pool` must be the pool of `rows`, of shape ({rows.pool_size},), "
            f"got {tuple(pool.shape)}. Build the rows again when the pool changes."
        )
    device = users.device if generator is None else generator.device
    uniform = torch.rand(len(users), generator=generator, device=device, dtype=torch.float64)
    # In float64 the product stays below `free`: the largest draw is 1 - 2^-53.
    k = (uniform.to(users.device) * rows.free[users]).long()
    return pool[k + count_before(k, users, rows)]


def count_before(k: Tensor, users: Tensor, rows: UserRows) -> Tensor:
    """Count the values r_i - i that are at most k in each user's row."""
    # Keys are u * (n + 1) + r_i - i, increasing over all users. One search of all keys is one
    # call, but reads some twenty distant positions per draw, which is slow when the keys
    # exceed the cache. Then only the user's row is bisected: more calls, but few positions
    # that are near each other.
    wanted = users * (rows.pool_size + 1) + k
    if rows.num_pairs <= KEYS_IN_CACHE:
        return torch.searchsorted(rows.keys[:-1], wanted, right=True) - rows.offsets[users]
    count = torch.zeros_like(users)
    before = rows.offsets[users] - 1
    for step in (1 << bit for bit in reversed(range(rows.longest.bit_length()))):
        # Positions beyond the user's row are harmless: all keys there are larger than `wanted`.
        position = (before + count).add_(step).clamp_(max=rows.num_pairs)
        count += (rows.keys.index_select(0, position) <= wanted).long().mul_(step)
    return count
