"""Steps of Adam, compiled by Numba for the CPU."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from milk_recsys.methods.milk.kernels import Floats, Ints, compiled

__all__ = ["step_dense", "step_distinct_rows", "sum_repeated_rows"]


@compiled
def sum_repeated_rows(
    rows: Ints, grad: Floats, first_position: NDArray[np.int32], distinct: Ints, sums: Floats
) -> int:
    """Sum the gradients of equal rows, in order of first occurrence.

    Arguments:
        rows: (B,) the looked-up rows; grad: (B, D) their gradients.
        first_position: (N,) scratch space, filled with -1 on entry and on return.
        distinct: (B,) output; sums: (B, D) output.

    Returns:
        the number of distinct rows.
    """
    count = 0
    for b in range(len(rows)):
        row = first_position[rows[b]]
        if row < 0:
            first_position[rows[b]], distinct[count] = count, rows[b]
            sums[count] = grad[b]
            count += 1
        else:
            for d in range(grad.shape[1]):
                sums[row, d] += grad[b, d]
    for k in range(count):
        first_position[distinct[k]] = -1
    return count


@compiled
def step_distinct_rows(
    weight: Floats, exp_avg: Floats, exp_avg_sq: Floats, rows: Ints, grad: Floats, rates: Floats
) -> None:
    """Update rows of a table with `LazyAdam`.

    Arguments:
        weight, exp_avg, exp_avg_sq: (N, D) the table and Adam's two moments, changed in place.
        rows: (k,) distinct rows; grad: (k, D) their gradients.
        rates: 1 - beta1, 1 - beta2, epsilon, and the learning rate times both bias corrections.
    """
    new, new_sq, eps, size = rates
    for k in range(len(rows)):
        row = rows[k]
        for d in range(weight.shape[1]):
            g = grad[k, d]
            m = exp_avg[row, d] + new * (g - exp_avg[row, d])
            v = exp_avg_sq[row, d] + new_sq * (g * g - exp_avg_sq[row, d])
            exp_avg[row, d], exp_avg_sq[row, d] = m, v
            weight[row, d] -= size * m / (np.sqrt(v) + eps)


@compiled
def step_dense(
    weight: Floats, exp_avg: Floats, exp_avg_sq: Floats, grad: Floats, rates: Floats
) -> None:
    """Update a flat array as `torch.optim.Adam` does.

    Arguments:
        weight, exp_avg, exp_avg_sq, grad: (n,); the first three are changed in place.
        rates: 1 - beta1, 1 - beta2, epsilon, the learning rate over the first bias correction, and
            the inverse root of the second one.
    """
    new, new_sq, eps, size, inverse_root = rates
    for i in range(len(weight)):
        g = grad[i]
        m = exp_avg[i] + new * (g - exp_avg[i])
        v = exp_avg_sq[i] + new_sq * (g * g - exp_avg_sq[i])
        exp_avg[i], exp_avg_sq[i] = m, v
        weight[i] -= size * m / (np.sqrt(v) * inverse_root + eps)
