"""Statistics of split conformal prediction: ranks, quantiles, coverage."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# A row of candidates has as many numbers as there are calibration rows; this bounds the memory.
NUMBERS_AT_ONCE = 4_000_000


def conformal_rank(num_rows: int, coverage: float) -> int:
    r"""Return the rank of the conformal quantile among the calibration scores in ascending order.

    .. math:: k = \lceil (n + 1) \, c \rceil

    where n is the number of calibration rows and c the coverage. If k exceeds n, no score is large
    enough and the quantile is infinite.

    Example:
        >>> conformal_rank(9, 0.9), conformal_rank(8, 0.9), conformal_rank(9, 0.7)
        (9, 9, 7)
    """
    return math.ceil((num_rows + 1) * _exact(coverage))


def rows_needed(coverage: float) -> int:
    r"""Return the smallest number of calibration rows with a finite quantile.

    .. math:: n = \lceil c / (1 - c) \rceil

    Example:
        >>> rows_needed(0.9), rows_needed(0.95)
        (9, 19)
    """
    exact = _exact(coverage)
    return math.ceil(exact / (1 - exact))


def _exact(coverage: float) -> Fraction:
    # In floating point (9 + 1) * 0.7 is above 7, and the next integer would be 8. A coverage that
    # is very close to 1 must not be rounded to 1.
    fraction = Fraction(coverage).limit_denominator(1_000_000)
    return fraction if 0 < fraction < 1 else Fraction(coverage)


def conformal_quantile(sorted_scores: Floats, coverage: float) -> float:
    """Return the k-th smallest score, or infinity if k exceeds the number of scores.

    It is an order statistic: an interpolated quantile is smaller, and then coverage is not
    guaranteed.

    Example:
        >>> conformal_quantile(np.arange(1.0, 10.0), 0.8), conformal_quantile(np.ones(8), 0.9)
        (8.0, inf)
    """
    rank = conformal_rank(len(sorted_scores), coverage)
    return float(sorted_scores[rank - 1]) if rank <= len(sorted_scores) else math.inf


def coverage_deviation(num_rows: int, coverage: float) -> float | None:
    """Return the standard deviation of coverage over draws of the calibration rows.

    With continuous scores, coverage given the calibration rows has the distribution
    Beta(k, n + 1 - k). The result is None if the quantile is infinite.

    Example:
        >>> round(coverage_deviation(100, 0.9), 3), coverage_deviation(8, 0.9)
        (0.03, None)
    """
    rank = conformal_rank(num_rows, coverage)
    if rank > num_rows:
        return None
    total = num_rows + 1
    return math.sqrt(rank * (total - rank) / (total**2 * (total + 1)))


def combined_ends(
    ends: list[tuple[Floats, Floats]], scores: list[Floats], coverage: float
) -> tuple[Floats, Floats]:
    """Return the ends of nested intervals, (N,) each, as order statistics over calibration rows.

    Calibration row i proposes the ends ``lower_u - s_i`` and ``upper_u + s_i``, where u is the
    pattern under which the row was scored. The result is the (n + 1 - k)-th smallest proposed lower
    end and the k-th smallest proposed upper end.

    Arguments:
        ends: for each pattern u, lower and upper (N,) of the test rows predicted under u.
        scores: for each pattern u, the scores of its calibration rows.
        coverage: in (0, 1), such that the rank k is at most n.
    """
    total = sum(map(len, scores))
    rank = conformal_rank(total, coverage)
    num_rows = len(ends[0][0])
    lower, upper = np.empty(num_rows), np.empty(num_rows)
    block = max(1, NUMBERS_AT_ONCE // total)
    for start in range(0, num_rows, block):
        part = slice(start, start + block)
        lowest = np.hstack([e[0][part, None] - s for e, s in zip(ends, scores, strict=True)])
        highest = np.hstack([e[1][part, None] + s for e, s in zip(ends, scores, strict=True)])
        lower[part] = np.partition(lowest, total - rank, axis=1)[:, total - rank]
        upper[part] = np.partition(highest, rank - 1, axis=1)[:, rank - 1]
    return lower, upper


def accepted_classes(
    class_scores: list[Floats], scores: list[Floats], coverage: float
) -> NDArray[np.bool_]:
    """Return which classes (N, C) are in the sets: fewer than k calibration scores are smaller.

    Arguments:
        class_scores: for each pattern u, the scores (N, C) of all classes, predicted under u.
        scores: for each pattern u, the scores of its calibration rows in ascending order.
        coverage: in (0, 1).
    """
    smaller: Any = sum(
        np.searchsorted(sorted_scores, candidate, side="left")
        for candidate, sorted_scores in zip(class_scores, scores, strict=True)
    )
    accepted: NDArray[np.bool_] = smaller < conformal_rank(sum(map(len, scores)), coverage)
    return accepted
