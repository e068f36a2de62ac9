"""What a step does beside matrix products, compiled by Numba: each row is read once, while it is in the cache.

The functions take NumPy arrays and write into those that they are given. Each says which function of torch tensors it
equals; tests hold the two together. They run in one thread: what they do is small beside the products.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["backward_sums", "find_rows", "forward_sums", "step_rows"]

Ints = NDArray[np.int64]
Floats = NDArray[np.floating[Any]]
Bools = NDArray[np.bool_]

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Compile at the first call, and keep the result on the disk.

    Sums may be reordered, so that they vectorise; NaN and infinity stay what they are.
    """
    made = njit(
        cache=True, fastmath={"reassoc", "contract", "nsz"}, error_model="numpy", nogil=True
    )(function)
    return cast(Function, made)


@compiled
def find_rows(
    positives: Ints,
    negatives: Ints,
    place: NDArray[np.int32],
    items: Ints,
    rows: Ints,
    others: Ints,
    copies: Floats,
) -> tuple[int, int]:
    """Number the distinct items of a batch in the order of their first place, those of positives first.

    Arguments:
        positives, negatives: (b,) item ids.
        place: (num_items,) of -1, and so again in the end.
        items: (2 b,) gets the distinct items; rows, others: (b,) get their numbers; copies: (2 b,) how
            often each is there.

    Returns:
        how many items are positive ones, and how many there are.
    """
    p = _number(positives, 0, place, items, rows, copies)
    n = _number(negatives, p, place, items, others, copies)
    for k in range(n):
        place[items[k]] = -1
    return p, n


@compiled
def forward_sums(
    u: Floats, c: Floats, rows: Ints, others: Ints, mask: Bools, shares: Floats, copies: Floats, scores: Floats
) -> tuple[float, float]:  # fmt: skip
    """Score the triples, and add up the distances and squares of `fused.fused_sums`, from encoded items c (n, M, D).

    Arguments:
        mask: (p, M), with p = 0 for no alignment; copies: (n,), or (0,) for no regulariser.
        scores: (b, M) gets the differences of scores.

    Returns:
        distances and squares.
    """
    num_modalities, size = c.shape[1], c.shape[2]
    distances, squares = 0.0, 0.0
    for b in range(len(rows)):
        i, j = rows[b], others[b]
        for m in range(num_modalities):
            score = u[b, 0] * 0
            for d in range(size):
                score += u[b, d] * (c[i, m, d] - c[j, m, d])
            scores[b, m] = score
    total = np.empty(size, c.dtype)
    for j in range(len(mask)):
        n = _mean(c, mask, j, total)
        distance = u[0, 0] * 0
        for m in range(num_modalities):
            if mask[j, m]:
                for d in range(size):
                    distance += (c[j, m, d] - total[d]) ** 2
        distances += shares[j] * n * distance
    if len(copies):
        for b in range(len(u)):
            square = u[0, 0] * 0
            for d in range(size):
                square += u[b, d] ** 2
            squares += square
    for j in range(len(copies)):
        _total(c, j, total)
        square = u[0, 0] * 0
        for d in range(size):
            square += total[d] ** 2
        squares += copies[j] * square / num_modalities**2
    return distances, squares


@compiled
def backward_sums(
    u: Floats, c: Floats, rows: Ints, others: Ints, mask: Bools, shares: Floats, copies: Floats, by_score: Floats,
    by_sums: Floats, by_u: Floats, by_c: Floats, by_bias: NDArray[np.float64],
) -> None:  # fmt: skip
    """Write the gradient of `forward_sums`, given by_score (b, M) and by_sums (2,), to by_u (b, D), by_c (n, M, D).

    by_bias (M, D), of 0, gets the sum of by_c over its rows.
    """
    num_modalities, size = c.shape[1], c.shape[2]
    by_distances, by_squares = by_sums
    total = np.empty(size, c.dtype)
    for j in range(len(c)):
        if len(copies):
            _total(c, j, total)
            factor = 2 * by_squares * copies[j] / num_modalities**2
            for m in range(num_modalities):
                for d in range(size):
                    by_c[j, m, d] = factor * total[d]
        else:
            for m in range(num_modalities):
                for d in range(size):
                    by_c[j, m, d] = 0
        if j < len(mask):
            factor = 2 * by_distances * shares[j] * _mean(c, mask, j, total)
            for m in range(num_modalities):
                if mask[j, m]:
                    for d in range(size):
                        by_c[j, m, d] += factor * (c[j, m, d] - total[d])
    regularised = 2 * by_squares if len(copies) else 0 * by_squares
    for b in range(len(rows)):
        i, j = rows[b], others[b]
        for d in range(size):
            by_u[b, d] = regularised * u[b, d]
        for m in range(num_modalities):
            slope = by_score[b, m]
            for d in range(size):
                by_u[b, d] += slope * (c[i, m, d] - c[j, m, d])
            for d in range(size):
                by_c[i, m, d] += slope * u[b, d]
            for d in range(size):
                by_c[j, m, d] -= slope * u[b, d]
    for j in range(len(c)):
        for m in range(num_modalities):
            for d in range(size):
                by_bias[m, d] += by_c[j, m, d]


@compiled
def step_rows(
    weight: Floats, exp_avg: Floats, exp_avg_sq: Floats, rows: Ints, grad: Floats, place: NDArray[np.int32],
    rates: Floats,
) -> None:  # fmt: skip
    """Make the step of `LazyAdam.update`.

    Arguments:
        rows: (B,); grad: (B, D), which holds sums of equal rows in the end.
        place: (N,) of -1, and so again in the end.
        rates: 1 - beta1, 1 - beta2, epsilon, and the learning rate with the corrections of both moments.
    """
    width = weight.shape[1]
    new, new_sq, eps, size = rates
    for b in range(len(rows)):
        first = place[rows[b]]
        if first < 0:
            place[rows[b]] = b
        else:
            for d in range(width):
                grad[first, d] += grad[b, d]
    for b in range(len(rows)):
        if place[rows[b]] == b:
            place[rows[b]] = -1
            w, m, v, g = weight[rows[b]], exp_avg[rows[b]], exp_avg_sq[rows[b]], grad[b]
            for d in range(width):
                m[d] += new * (g[d] - m[d])
                v[d] += new_sq * (g[d] * g[d] - v[d])
                w[d] -= size * m[d] / (np.sqrt(v[d]) + eps)


@compiled
def _number(
    ids: Ints, n: int, place: NDArray[np.int32], items: Ints, rows: Ints, copies: Floats
) -> int:
    """Number the ids that have no place yet from n on, and count all; return the next number."""
    for b in range(len(ids)):
        item = ids[b]
        row = place[item]
        if row < 0:
            row = n
            place[item], items[n], copies[n] = n, item, 0
            n += 1
        rows[b] = row
        copies[row] += 1
    return n


@compiled
def _total(c: Floats, j: int, total: Floats) -> None:
    """Sum a row over its modalities."""
    total[:] = c[j, 0]
    for m in range(1, c.shape[1]):
        for d in range(c.shape[2]):
            total[d] += c[j, m, d]


@compiled
def _mean(c: Floats, mask: Bools, j: int, mean: Floats) -> int:
    """Average a row over the modalities that the mask allows, and count them."""
    n = 0
    mean[:] = 0
    for m in range(c.shape[1]):
        if mask[j, m]:
            n += 1
            for d in range(c.shape[2]):
                mean[d] += c[j, m, d]
    for d in range(c.shape[2]):
        mean[d] /= max(n, 1)
    return n
