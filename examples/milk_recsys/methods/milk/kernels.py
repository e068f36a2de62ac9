"""The parts of a training step that are not matrix products, compiled by Numba for the CPU.

The functions take NumPy arrays and write their results into arrays of the caller. The loops go row
by row, so that each row is read once, while it is in the cache. Each function has an equivalent in
torch operations, and a test compares the two. The functions run in one thread, because they take
little time compared with the matrix products.
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
    """Compile at the first call, and cache the machine code on disk."""
    # "reassoc" lets the compiler reorder sums, without which they do not vectorise. The flags
    # "nnan" and "ninf" are left out, so that NaN and infinity propagate as in torch.
    dispatcher = njit(
        cache=True, fastmath={"reassoc", "contract", "nsz"}, error_model="numpy", nogil=True
    )(function)
    return cast(Function, dispatcher)


@compiled
def find_rows(
    positives: Ints,
    negatives: Ints,
    row_of_item: NDArray[np.int32],
    items: Ints,
    rows: Ints,
    negative_rows: Ints,
    copies: Floats,
) -> tuple[int, int]:
    """Number the distinct items of a batch in order of first occurrence, positives first.

    It is the counterpart of `batches.gather_batch`.

    Arguments:
        positives, negatives: (b,) item ids.
        row_of_item: (num_items,) scratch space, filled with -1 on entry and on return.
        items: (2 b,) output, the distinct items.
        rows, negative_rows: (b,) output, the rows of positives and negatives in `items`.
        copies: (2 b,) output, the number of occurrences of each distinct item.

    Returns:
        the number of distinct positive items, and the number of distinct items.
    """
    p = _number(positives, 0, row_of_item, items, rows, copies)
    n = _number(negatives, p, row_of_item, items, negative_rows, copies)
    # Reset only the entries that were written: a batch has far fewer items than the catalogue.
    for k in range(n):
        row_of_item[items[k]] = -1
    return p, n


@compiled
def forward_sums(
    u: Floats, c: Floats, rows: Ints, negative_rows: Ints, mask: Bools, shares: Floats,
    copies: Floats, scores: Floats,
) -> tuple[float, float]:  # fmt: skip
    """Compute score differences per modality, and the sums of alignment (Eq. 6) and regulariser.

    It is the counterpart of `objective.scores`, `pairwise_alignment_loss` and the regulariser's sum
    of squares in `objective.batch_sums`.

    Arguments:
        u: (b, D) users of the triples.
        c: (n, M, D) encoded rows of items.
        rows, negative_rows: (b,) rows in c of the positive and the negative items.
        mask: (p, M) modalities to align in the first p rows of c; p = 0 for no alignment.
        shares: (p,) weights of these rows.
        copies: (n,) number of occurrences of each row, or (0,) for no regulariser.
        scores: (b, M) output, the score of the positive minus that of the negative item.

    Returns:
        the weighted sum of squared distances, and the sum of squared norms.
    """
    num_modalities, size = c.shape[1], c.shape[2]
    distances, squares = 0.0, 0.0
    for b in range(len(rows)):
        i, j = rows[b], negative_rows[b]
        for m in range(num_modalities):
            score = u[b, 0] * 0  # A zero of the arrays' dtype, so that float32 sums stay float32.
            for d in range(size):
                score += u[b, d] * (c[i, m, d] - c[j, m, d])
            scores[b, m] = score
    total = np.empty(size, c.dtype)
    # The sum over pairs of ||c_m - c_m'||^2 equals n * sum over m of ||c_m - mean||^2, with n the
    # number of aligned modalities: linear, not quadratic, in M.
    for j in range(len(mask)):
        n = _mean(c, mask, j, total)
        distance = u[0, 0] * 0
        for m in range(num_modalities):
            if mask[j, m]:
                for d in range(size):
                    distance += (c[j, m, d] - total[d]) ** 2
        distances += shares[j] * n * distance
    # Squared norms of the users and of the uniformly fused items, h_j = (sum over m of c_jm) / M.
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
    u: Floats, c: Floats, rows: Ints, negative_rows: Ints, mask: Bools, shares: Floats,
    copies: Floats, by_score: Floats, by_sums: Floats, by_u: Floats, by_c: Floats,
    by_bias: NDArray[np.float64],
) -> None:  # fmt: skip
    """Compute the gradient of the loss with respect to the inputs of `forward_sums`.

    Arguments that are not listed are those of `forward_sums`.

    Arguments:
        by_score: (b, M) gradient with respect to the score differences.
        by_sums: (2,) gradient with respect to the two returned sums.
        by_u: (b, D) output; by_c: (n, M, D) output.
        by_bias: (M, D), zeros on entry, to which the sum of by_c over its rows is added.
    """
    num_modalities, size = c.shape[1], c.shape[2]
    by_distances, by_squares = by_sums
    total = np.empty(size, c.dtype)
    # First pass, over rows: the regulariser's and the alignment's part of by_c. With n aligned
    # modalities, the derivative of n * sum ||c_m - mean||^2 is 2 n (c_m - mean), because the
    # derivative through the mean is 0.
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
    # Second pass, over triples: the regulariser's part of by_u, and the scores' part
    # of by_u and by_c.
    regularised = 2 * by_squares if len(copies) else 0 * by_squares
    for b in range(len(rows)):
        i, j = rows[b], negative_rows[b]
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
    weight: Floats, exp_avg: Floats, exp_avg_sq: Floats, rows: Ints, grad: Floats,
    first_position: NDArray[np.int32], rates: Floats,
) -> None:  # fmt: skip
    """Update the looked-up rows of a table with `LazyAdam`.

    Arguments:
        weight, exp_avg, exp_avg_sq: (N, D) the table and Adam's two moments, changed in place.
        rows: (B,) the looked-up rows.
        grad: (B, D) their gradients. On return the first position of a row holds the row's sum.
        first_position: (N,) scratch space, filled with -1 on entry and on return.
        rates: 1 - beta1, 1 - beta2, epsilon, and the learning rate times both bias corrections.
    """
    width = weight.shape[1]
    new, new_sq, eps, size = rates
    # A row that occurs more than once must take one step with the sum of its gradients.
    for b in range(len(rows)):
        first = first_position[rows[b]]
        if first < 0:
            first_position[rows[b]] = b
        else:
            for d in range(width):
                grad[first, d] += grad[b, d]
    for b in range(len(rows)):
        if first_position[rows[b]] == b:
            first_position[rows[b]] = -1
            w, m, v, g = weight[rows[b]], exp_avg[rows[b]], exp_avg_sq[rows[b]], grad[b]
            for d in range(width):
                m[d] += new * (g[d] - m[d])
                v[d] += new_sq * (g[d] * g[d] - v[d])
                w[d] -= size * m[d] / (np.sqrt(v[d]) + eps)


@compiled
def _number(
    ids: Ints, n: int, row_of_item: NDArray[np.int32], items: Ints, rows: Ints, copies: Floats
) -> int:
    """Give items that have no row yet the rows from n on, and count occurrences.

    Returns:
        the next free row.
    """
    for b in range(len(ids)):
        item = ids[b]
        row = row_of_item[item]
        if row < 0:
            row = n
            row_of_item[item], items[n], copies[n] = n, item, 0
            n += 1
        rows[b] = row
        copies[row] += 1
    return n


@compiled
def _total(c: Floats, j: int, total: Floats) -> None:
    """Write the sum of row j over its modalities to `total`."""
    total[:] = c[j, 0]
    for m in range(1, c.shape[1]):
        for d in range(c.shape[2]):
            total[d] += c[j, m, d]


@compiled
def _mean(c: Floats, mask: Bools, j: int, mean: Floats) -> int:
    """Write the mean of row j over the modalities in the mask to `mean`; return their number."""
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
