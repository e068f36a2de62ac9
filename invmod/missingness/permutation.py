"""Permutation p-values of the variation of values between groups, and Holm's correction."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from invmod._scale import standard_deviation
from invmod.missingness.cells import Floats


def standardized(rows: Floats) -> Floats:
    """Return the columns that vary, with mean 0 and standard deviation 1."""
    if not len(rows):
        return rows[:, :0]
    spread = standard_deviation(torch.from_numpy(rows)).numpy()
    varies = spread > 0
    kept: Floats = (rows - rows.mean(axis=0))[:, varies] / spread[varies]
    return kept


def permutation_p(
    z: Floats, groups: np.ndarray[Any, Any], num_permutations: int, rng: np.random.Generator
) -> float:
    """Return the p-value of the variation of z (n, K) between groups (n,)."""
    sizes = np.bincount(groups)
    order = np.argsort(groups, kind="stable")
    starts = np.concatenate([[0], np.cumsum(sizes)[:-1]])

    def between(rows: np.ndarray[Any, Any]) -> float:
        # Rows are sorted by group, so that each group is a contiguous slice to sum.
        sums = np.add.reduceat(z[rows], starts, axis=0)
        return float(((sums**2).sum(axis=1) / sizes).sum())

    observed = between(order)
    # Values that differ only by the order of summation count as ties.
    as_large = sum(
        between(rng.permutation(len(z))) >= observed * (1 - 1e-9) for _ in range(num_permutations)
    )
    return (1 + as_large) / (1 + num_permutations)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values after Holm's step-down correction.

    Example:
        >>> holm([0.01, 0.5, 0.02])
        [0.03, 0.5, 0.04]
    """
    order = sorted(range(len(p_values)), key=lambda index: p_values[index])
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted
