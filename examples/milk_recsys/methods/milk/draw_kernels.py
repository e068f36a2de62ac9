"""Drawing of triples, compiled by Numba for the CPU: the numbers of `draws.py`, in one pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
from numba import njit
from numpy.typing import NDArray

from milk_recsys.ranking.negatives import ATTEMPTS

__all__ = ["draw_triples"]

Ints = NDArray[np.int64]

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Compile at the first call, and cache the machine code on disk."""
    # Without `fastmath`: a fused multiply-add would round `uniform * n - slot` differently from
    # torch.
    return cast(Function, njit(cache=True, error_model="numpy", nogil=True)(function))


@compiled
def draw_triples(
    chosen: NDArray[np.integer[Any]], uniforms: NDArray[np.float64], offsets: Ints, free: Ints,
    keys: Ints, pool: Ints, shared: Ints, batches: Ints, users: Ints, positives: Ints,
    negatives: Ints,
) -> None:  # fmt: skip
    """Look up the chosen pairs and draw a negative for each.

    Arguments:
        chosen: (b,) numbers of pairs.
        uniforms: (b,) uniform random numbers.
        offsets, free, keys, pool: those of `UserRows`.
        shared: (S, N) positions in the pool, the shared negatives of each batch; (0, 0) for none.
        batches: (b,) the row of `shared` for each pair; (0,) without shared negatives.
        users, positives, negatives: (b,) output.
    """
    base = len(pool) + 1
    for b in range(len(chosen)):
        number = chosen[b]
        user = keys[number] // base
        first, stop, key = offsets[user], offsets[user + 1], user * base
        users[b] = user
        positives[b] = pool[keys[number] - key + number - first]
        if shared.shape[1]:
            place = _shared_place(
                uniforms[b], shared, batches[b], keys, first, stop, key, free[user]
            )
        else:
            place = _free_place(int(uniforms[b] * free[user]), keys, first, stop, key)
        negatives[b] = pool[place]


@compiled
def _shared_place(
    uniform: float, shared: Ints, batch: int, keys: Ints, first: int, stop: int, key: int,
    free: int,
) -> int:  # fmt: skip
    """Return the position in the pool of one of the shared items that the user does not have."""
    size = shared.shape[1]
    for _ in range(ATTEMPTS):
        scaled = uniform * size
        slot = int(scaled)
        uniform = scaled - slot
        if not _has(shared[batch, slot], keys, first, stop, key):
            return int(shared[batch, slot])
    count = 0
    for slot in range(size):
        count += not _has(shared[batch, slot], keys, first, stop, key)
    if count == 0:
        return _free_place(int(uniform * free), keys, first, stop, key)
    wanted = int(uniform * count)
    for slot in range(size):
        if not _has(shared[batch, slot], keys, first, stop, key):
            if wanted == 0:
                return int(shared[batch, slot])
            wanted -= 1
    return -1  # Not reached: wanted < count.


@compiled
def _free_place(k: int, keys: Ints, first: int, stop: int, key: int) -> int:
    """Return the position of the k-th item of the pool that the user does not have."""
    low, high = first, stop
    while low < high:
        middle = (low + high) // 2
        if keys[middle] <= key + k:
            low = middle + 1
        else:
            high = middle
    return k + low - first


@compiled
def _has(place: int, keys: Ints, first: int, stop: int, key: int) -> bool:
    """Return whether the user has the item at a position of the pool."""
    low, high = first, stop
    while low < high:
        middle = (low + high) // 2
        if keys[middle] - key + (middle - first) < place:
            low = middle + 1
        else:
            high = middle
    return low < stop and keys[low] - key + (low - first) == place
