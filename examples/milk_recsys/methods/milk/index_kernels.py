"""The grouping of a batch's triples by user and by item, compiled by Numba for the CPU."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from milk_recsys.methods.milk.kernels import Bools, Floats, Ints, compiled

__all__ = ["count_pairs", "index_batch"]


@compiled
def index_batch(
    users: Ints, positives: Ints, negatives: Ints, row_of_user: NDArray[np.int32],
    row_of_item: NDArray[np.int32], user_ids: Ints, user_starts: Ints, user_of: Ints, firsts: Ints,
    items: Ints, rows: Ints, item_starts: Ints, entries: Ints,
) -> tuple[int, int, int]:  # fmt: skip
    """Number the distinct users and items of a batch, and group its triples by user.

    Users are numbered in order of first occurrence. Triples are numbered user by user, in their
    order. Items are numbered in order of first occurrence in these triples, positives first. Reads
    of the rows that a user's triples refer to are then mostly in order.

    Arguments:
        users, positives, negatives: (b,) ids.
        row_of_user, row_of_item: scratch space with an entry for each user and each item, filled
            with -1 on entry and on return.
        user_ids: (b,) output, the k distinct users; firsts: (b,) output, the position in `users`
            of each.
        user_starts: (b + 1,) output; user k has the triples user_starts[k] to user_starts[k + 1].
        user_of: (b,) output, the number of each triple's user.
        items: (2 b,) output, the n distinct items.
        rows: (b, 2) output, the numbers of each triple's positive and negative item.
        item_starts: (2 b + 1,) output; entries: (2 b,) output. Item j has the entries
            item_starts[j] to item_starts[j + 1]: 2 t for a triple t whose positive it is, and
            2 t + 1 for a triple whose negative it is.

    Returns:
        k, p and n.
    """
    size = len(users)
    # Number the users, and count the triples of each in `user_starts`, one entry further on.
    num_users = 0
    user_starts[0] = 0
    for b in range(size):
        row = row_of_user[users[b]]
        if row < 0:
            row = num_users
            row_of_user[users[b]] = row
            user_ids[row], firsts[row], user_starts[row + 1] = users[b], b, 0
            num_users += 1
        user_starts[row + 1] += 1
    for k in range(num_users):
        user_starts[k + 1] += user_starts[k]
    # Place the triples. `user_of` is scratch space here: the next free place of each user.
    for k in range(num_users):
        user_of[k] = user_starts[k]
    for b in range(size):
        row = row_of_user[users[b]]
        t = user_of[row]
        user_of[row] += 1
        rows[t, 0], rows[t, 1] = positives[b], negatives[b]
    for k in range(num_users):
        row_of_user[user_ids[k]] = -1
        for t in range(user_starts[k], user_starts[k + 1]):
            user_of[t] = k
    p = _number(rows, 0, 0, row_of_item, items, item_starts)
    n = _number(rows, 1, p, row_of_item, items, item_starts)
    for j in range(n):
        row_of_item[items[j]] = -1
    _list_entries(rows, n, item_starts, entries)
    return num_users, p, n


@compiled
def count_pairs(items: Ints, mask: Bools, complete: bool, shares: Floats) -> float:
    """Count the pairs of aligned modalities of the positive items, weighted by `shares` (p,).

    Arguments:
        items, mask, complete: those of `kernels.backward_items`.
    """
    pairs = 0.0
    for j in range(len(shares)):
        n = 0
        for m in range(mask.shape[1]):
            n += mask[items[j], m]
        if not complete or n == mask.shape[1]:
            pairs += shares[j] * (n * (n - 1) // 2)
    return pairs


@compiled
def _number(
    rows: Ints, column: int, n: int, row_of_item: NDArray[np.int32], items: Ints, item_starts: Ints
) -> int:
    """Replace the item ids in a column by numbers, from n on for items that have none yet.

    The number of occurrences of item j is counted in item_starts[j + 1].

    Returns:
        the next free number.
    """
    for t in range(len(rows)):
        item = rows[t, column]
        row = row_of_item[item]
        if row < 0:
            row = n
            row_of_item[item], items[n], item_starts[n + 1] = n, item, 0
            n += 1
        rows[t, column] = row
        item_starts[row + 1] += 1
    return n


@compiled
def _list_entries(rows: Ints, n: int, item_starts: Ints, entries: Ints) -> None:
    """Turn counts into starts, and list the triples of each item."""
    item_starts[0] = 0
    for j in range(n):
        item_starts[j + 1] += item_starts[j]
    # Fill from the end, so that the starts move to their places: item j's next place is before
    # item_starts[j + 1], which is item_starts[j] at the end.
    for t in range(len(rows) - 1, -1, -1):
        for column in range(1, -1, -1):
            row = rows[t, column] + 1
            item_starts[row] -= 1
            entries[item_starts[row]] = 2 * t + column
    for j in range(n):
        item_starts[j] = item_starts[j + 1]
    item_starts[n] = 2 * len(rows)
