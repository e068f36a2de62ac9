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

__all__ = ["ATTEMPTS", "count_before", "sample_negatives", "sample_shared_negatives"]


ATTEMPTS = 2  # Draws among the shared items before those that the user does not have are listed.
CELLS_AT_ONCE = 2**22  # Maximum number of (user, shared item) cells that are compared at once.
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


def sample_shared_negatives(
    users: Tensor,
    rows: UserRows,
    places: Tensor,
    batches: Tensor,
    *,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Draw, for each given user, one of the N items of a batch that the user does not have.

    The draw is uniform among those of the N items that the user does not have; an item that is
    there twice counts twice. A user who has all N items receives a uniform draw from the items of
    the pool that they do not have. If the N items are uniform draws from the pool, every negative
    is uniform over the items that its user does not have, as with `sample_negatives`, but the
    negatives of a batch are not independent.

    Arguments:
        users: (B,) int64 user ids, repeats allowed.
        rows: from `build_user_rows`, on the device of `users`.
        places: (S, N) int64, positions in the pool of `rows`: the N items of each batch.
        batches: (B,) int64, the row of `places` for each user.
        generator: the source of randomness, as in `sample_negatives`. Each user consumes one
            number, whatever the items are.

    Returns:
        (B,) int64 item ids.

    Example:
        >>> from milk_recsys.catalogue.user_rows import build_user_rows
        >>> pool = torch.tensor([10, 20, 30])
        >>> rows = build_user_rows(torch.tensor([[0, 10], [0, 30], [1, 20]]), 2, pool)
        >>> places, batches = torch.tensor([[1, 1], [0, 1], [0, 0]]), torch.tensor([0, 1, 2])
        >>> sample_shared_negatives(torch.tensor([0, 1, 0]), rows, places, batches).tolist()
        [20, 10, 20]
    """
    size = places.shape[1]
    device = users.device if generator is None else generator.device
    uniform = torch.rand(len(users), generator=generator, device=device, dtype=torch.float64)
    uniform, result = uniform.to(users.device), torch.empty_like(users)
    is_open = torch.ones_like(users, dtype=torch.bool)
    # The integer part of uniform * N chooses an item, and the rest is uniform again, independently
    # of it. So one number suffices for all choices of a user.
    for _ in range(ATTEMPTS):
        scaled = uniform * size
        slot = scaled.long()
        place = places[batches, slot]
        result = torch.where(is_open, place, result)
        uniform = torch.where(is_open, scaled - slot, uniform)
        is_open = is_open & _has(place, users, rows)
    left = is_open.nonzero().flatten()
    for part in torch.split(left, max(1, CELLS_AT_ONCE // max(size, 1))):
        result[part] = _listed(users[part], rows, places[batches[part]], uniform[part])
    return rows.pool[result]


def _listed(users: Tensor, rows: UserRows, places: Tensor, uniform: Tensor) -> Tensor:
    """Choose one of the places (B, N) that the user does not have; of the pool if there is none."""
    repeated = users[:, None].expand_as(places)
    is_free = ~_has(places.flatten(), repeated.flatten(), rows).view_as(places)
    count = is_free.sum(dim=1)
    k = (uniform * torch.where(count > 0, count, rows.free[users])).long()
    # The k-th free column is the first one up to which k + 1 are free.
    column = (is_free.cumsum(dim=1) <= k[:, None]).sum(dim=1).clamp_(max=places.shape[1] - 1)
    own = k + count_before(k, users, rows)
    return torch.where(count > 0, places.gather(1, column[:, None]).flatten(), own)


def _has(places: Tensor, users: Tensor, rows: UserRows) -> Tensor:
    """Return whether each user has the item at a position of the pool."""
    # The i-th key of a user's row is u * (n + 1) + r_i - i, so r_i < place if it is less than
    # `wanted` - i. Count these items by bisection, as `count_before` does.
    wanted = users * (rows.pool_size + 1) + places
    first = rows.offsets[users]
    count = torch.zeros_like(users)
    for step in (1 << bit for bit in reversed(range(rows.longest.bit_length()))):
        ahead = count + (step - 1)
        # Positions beyond the user's row are harmless, as in `count_before`.
        position = (first + ahead).clamp_(max=rows.num_pairs)
        count += (rows.keys.index_select(0, position) < wanted - ahead).long().mul_(step)
    position = (first + count).clamp_(max=rows.num_pairs)
    return rows.keys.index_select(0, position) == wanted - count
