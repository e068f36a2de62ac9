"""The parts of a training step between its matrix products, compiled by Numba for the CPU.

The functions take NumPy arrays and write their results into arrays of the caller. `index_batch`
groups the triples of a batch by user, and lists for each item the triples that have it. So each
row of users and items is read or written once per pass, while it is in the cache, and gradients
are summed without a second pass. A test compares the functions with the torch operations of
`objective.py`. They run in one thread, so their results do not depend on the number of threads.

Names of axes: b triples, k distinct users, n distinct items of which the first p are positives,
M modalities, D dimensions, E environments.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = [
    "backward_items",
    "backward_users",
    "compiled",
    "losses_of",
    "score_triples",
    "slopes_of",
]

Ints = NDArray[np.int64]
Floats = NDArray[np.floating[Any]]
Bools = NDArray[np.bool_]

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Compile at the first call, and cache the machine code on disk."""
    # "reassoc" lets the compiler reorder sums, without which they do not vectorise. The flags
    # "nnan" and "ninf" are left out, so that NaN and infinity propagate as in torch.
    dispatcher = njit(
        cache=True, fastmath={"reassoc", "contract", "nsz"}, error_model="numpy", nogil=True
    )(function)
    return cast(Function, dispatcher)


@compiled
def score_triples(u: Floats, c: Floats, user_of: Ints, rows: Ints, scores: Floats) -> None:
    """Compute the score of the positive minus that of the negative item, in every modality.

    Arguments:
        u: (k, D) users; c: (n, M, D) encoded items, with or without a bias, which cancels.
        user_of, rows: those of `index_batch`.
        scores: (b, M) output.
    """
    size = c.shape[2]
    for t in range(len(rows)):
        k, i, j = user_of[t], rows[t, 0], rows[t, 1]
        for m in range(c.shape[1]):
            score = u[k, 0] * 0  # A zero of the arrays' dtype, so that float32 sums stay float32.
            for d in range(size):
                score += u[k, d] * (c[i, m, d] - c[j, m, d])
            scores[t, m] = score


@compiled
def losses_of(
    scores: Floats, weights: Floats, sigmoids: Floats, losses: NDArray[np.float64]
) -> None:
    """Compute the BPR losses (Eq. 15) of fused scores, summed over the triples.

    Fusion and score are linear, so scores are fused instead of embeddings (Eq. 12-13).

    Arguments:
        scores: (b, M) score differences; weights: (E, M) fusion weights.
        sigmoids: (b, E) output, the derivatives of the losses by the margins, times -1.
        losses: (E,) output.
    """
    num_envs = len(weights)
    product = np.ones(num_envs, np.float64)
    # Constants of the arrays' dtype, so that float32 values stay float32.
    zero, one = scores.dtype.type(0), scores.dtype.type(1)
    losses[:] = 0
    for t in range(len(scores)):
        for e in range(num_envs):
            margin = zero
            for m in range(scores.shape[1]):
                margin += weights[e, m] * scores[t, m]
            # softplus(-x) = max(-x, 0) + ln(1 + exp(-|x|)). The sum of logarithms is the logarithm
            # of a product, which cannot overflow: 32 factors are at most 2 each.
            small = np.exp(-abs(margin))
            product[e] *= 1.0 + small
            losses[e] -= min(margin, zero)
            sigmoids[t, e] = (one if margin < 0 else small) / (one + small)
        if t % 32 == 31:
            for e in range(num_envs):
                losses[e] += np.log(product[e])
                product[e] = 1
    for e in range(num_envs):
        losses[e] += np.log(product[e])


@compiled
def slopes_of(
    sigmoids: Floats, weights: Floats, by_losses: NDArray[np.float64], by_score: Floats
) -> None:
    """Compute the gradient by the score differences from that by the losses.

    Arguments:
        sigmoids, weights: those of `losses_of`.
        by_losses: (E,) gradient by the losses.
        by_score: (b, M) output.
    """
    num_envs, num_modalities = weights.shape
    factors = np.empty((num_modalities, num_envs), weights.dtype)
    for e in range(num_envs):
        for m in range(num_modalities):
            factors[m, e] = -by_losses[e] * weights[e, m]
    for t in range(len(sigmoids)):
        for m in range(num_modalities):
            slope = factors[0, 0] * 0
            for e in range(num_envs):
                slope += sigmoids[t, e] * factors[m, e]
            by_score[t, m] = slope


@compiled
def backward_users(
    u: Floats, c: Floats, user_starts: Ints, rows: Ints, by_score: Floats, by_squares: float,
    regularised: bool, by_u: Floats,
) -> float:  # fmt: skip
    """Compute the gradient of the loss by the users' rows, summed over their triples.

    Arguments:
        u, c, user_starts, rows: those of `score_triples` and `index_batch`.
        by_score: (b, M) gradient by the score differences; by_squares: gradient by the
            regulariser's sum of squared norms.
        regularised: whether there is such a sum.
        by_u: (k, D) output.

    Returns:
        the sum of squared norms of the triples' users; 0 without a regulariser.
    """
    size = c.shape[2]
    squares = 0.0
    for k in range(len(u)):
        first, stop = user_starts[k], user_starts[k + 1]
        by_u[k] = 0
        if regularised:
            square, factor = u[k, 0] * 0, u.dtype.type(2 * by_squares * (stop - first))
            for d in range(size):
                square += u[k, d] ** 2
                by_u[k, d] = factor * u[k, d]
            squares += (stop - first) * square
        for t in range(first, stop):
            i, j = rows[t, 0], rows[t, 1]
            for m in range(c.shape[1]):
                slope = by_score[t, m]
                for d in range(size):
                    by_u[k, d] += slope * (c[i, m, d] - c[j, m, d])
    return squares


@compiled
def backward_items(
    u: Floats, c: Floats, bias: Floats, user_of: Ints, items: Ints, item_starts: Ints,
    entries: Ints, by_score: Floats, mask: Bools, complete: bool, shares: Floats,
    by_sums: tuple[float, float], regularised: bool, by_c: Floats, by_bias: NDArray[np.float64],
) -> tuple[float, float]:  # fmt: skip
    """Compute the gradient of the loss by the encoded items, and the sums of two of its terms.

    The encoded row of an item is `c` plus `bias`. Its gradient consists of the parts of the
    alignment (Eq. 6), of the regulariser, and of the scores of the triples that have the item.

    Arguments:
        u, c, user_of, items, item_starts, entries: those of `score_triples` and `index_batch`.
        bias: (M, D) of the encoders.
        by_score: (b, M) gradient by the score differences.
        mask: (num_items, M) modalities of each item id that are aligned.
        complete: whether only items with all modalities are aligned.
        shares: (p,) weights of the positive items in the alignment; (0,) for no alignment.
        by_sums: gradients by the two returned sums.
        regularised: whether there is a regulariser.
        by_c: (n, M, D) output.
        by_bias: (M, D) output. The scores' part is left out: it sums to 0, since each triple adds
            to the row of its positive item what it subtracts from that of its negative item.

    Returns:
        the weighted sum of squared distances of the alignment, and the sum of squared norms of the
        uniformly fused items of all triples.
    """
    num_modalities, size = c.shape[1], c.shape[2]
    row, total = np.empty((num_modalities, size), c.dtype), np.empty(size, c.dtype)
    bias_total, by_total = bias.sum(axis=0), np.zeros(size, np.float64)
    distances, squares = 0.0, 0.0
    by_bias[:] = 0
    for j in range(len(c)):
        if regularised:
            copies = item_starts[j + 1] - item_starts[j]
            squares += _regularise(c, j, bias_total, copies, by_sums[1], total, by_c, by_total)
        else:
            by_c[j] = 0
        if j < len(shares):
            distances += _align(
                c, j, bias, mask, items[j], complete, shares[j], by_sums[0], row, total, by_c,
                by_bias,
            )  # fmt: skip
        for e in range(item_starts[j], item_starts[j + 1]):
            t = entries[e] >> 1
            k = user_of[t]
            for m in range(num_modalities):
                slope = by_score[t, m]
                if entries[e] & 1:
                    slope = -slope
                for d in range(size):
                    by_c[j, m, d] += slope * u[k, d]
    for m in range(num_modalities):
        by_bias[m] += by_total
    return distances, squares


@compiled
def _regularise(
    c: Floats, j: int, bias: Floats, copies: int, by_squares: float, total: Floats, by_c: Floats,
    by_total: NDArray[np.float64],
) -> float:  # fmt: skip
    """Write the regulariser's gradient by row j to `by_c`, and add one modality's to `by_total`.

    Arguments:
        bias: (D,) sum over modalities; copies: number of positions of the batch with the item.
        total: (D,) scratch space.

    Returns:
        the squared norm of the mean over modalities, times the number of copies of the item.
    """
    num_modalities, size = c.shape[1], c.shape[2]
    for d in range(size):
        total[d] = bias[d] + c[j, 0, d]
    for m in range(1, num_modalities):
        for d in range(size):
            total[d] += c[j, m, d]
    square, factor = c[j, 0, 0] * 0, c.dtype.type(2 * by_squares * copies / num_modalities**2)
    for d in range(size):
        square += total[d] ** 2
        total[d] *= factor
    for d in range(size):
        by_total[d] += total[d]
    for m in range(num_modalities):
        for d in range(size):
            by_c[j, m, d] = total[d]
    return float(copies * square / num_modalities**2)


@compiled
def _align(
    c: Floats, j: int, bias: Floats, mask: Bools, item: int, complete: bool, share: float,
    by_distances: float, row: Floats, mean: Floats, by_c: Floats, by_bias: NDArray[np.float64],
) -> float:  # fmt: skip
    """Add the alignment's gradient by row j to `by_c` and `by_bias`.

    The sum over pairs of ||c_m - c_m'||^2 equals n * sum over m of ||c_m - mean||^2, with n the
    number of aligned modalities: linear, not quadratic, in M. Its derivative is 2 n (c_m - mean),
    because the derivative through the mean is 0.

    Arguments:
        item: the item's row of `mask`; row: (M, D) and mean: (D,) scratch space.

    Returns:
        the sum over pairs, times the share of the row.
    """
    num_modalities, size = c.shape[1], c.shape[2]
    n = 0
    mean[:] = 0
    for m in range(num_modalities):
        if mask[item, m]:
            n += 1
            for d in range(size):
                row[m, d] = c[j, m, d] + bias[m, d]
                mean[d] += row[m, d]
    if n == 0 or (complete and n < num_modalities):
        return 0.0
    inverse = c.dtype.type(1 / n)
    for d in range(size):
        mean[d] *= inverse
    distance, factor = c[j, 0, 0] * 0, c.dtype.type(2 * by_distances * share * n)
    for m in range(num_modalities):
        if mask[item, m]:
            for d in range(size):
                row[m, d] -= mean[d]
                distance += row[m, d] ** 2
                row[m, d] *= factor
                by_c[j, m, d] += row[m, d]
            for d in range(size):
                by_bias[m, d] += row[m, d]
    return float(share * n * distance)
