"""Little's statistic: means of each pattern against those of a normal distribution fitted by EM."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from invmod.missingness.cells import Floats
from invmod.missingness.mcar_results import counted

MAX_COLUMNS = 200
MAX_ITERATIONS = 2000
TOLERANCE = 1e-8  # largest change of an estimate, in standard deviations, at convergence
SMALLEST = 1e-8  # smallest eigenvalue of a correlation matrix that counts as regular


class NotComputable(Exception):
    """Little's test cannot be computed; the message completes "because"."""


def little_statistic(y: Floats, names: tuple[str, ...]) -> tuple[float, int, int]:
    """Return the statistic, its degrees of freedom and the number of rows that have a value.

    Arguments:
        y: (N, p) with NaN where a value is missing.
        names: of the p columns, for error messages.

    Raises:
        NotComputable: the statistic is undefined or EM does not converge.

    Example:
        >>> nan = float("nan")
        >>> y = np.array([[0.0, 0.0], [1.0, 2.0], [2.0, 1.0], [3.0, nan], [4.0, nan]])
        >>> statistic, degrees, rows = little_statistic(y, ("a", "b"))
        >>> round(statistic, 6), degrees, rows  # (3 * 1^2 + 2 * 1.5^2) / 2.5
        (3.0, 1, 5)
    """
    y = y[~np.isnan(y).all(axis=1)]
    n, p = y.shape
    if p > MAX_COLUMNS:
        raise NotComputable(
            f"it has {p} columns, more than {MAX_COLUMNS}. Group them into modalities and use the "
            "permutation test."
        )
    if n <= p:
        raise NotComputable(
            f"it needs more rows than columns, got {counted(n, 'row')} and "
            f"{counted(p, 'column')}. Use the permutation test."
        )
    _check_columns(y, names)
    patterns, group = np.unique(~np.isnan(y), axis=0, return_inverse=True)
    groups = [(has, y[group.reshape(-1) == j][:, has]) for j, has in enumerate(patterns)]
    degrees = int(patterns.sum()) - p
    if len(groups) < 2 or degrees < 1:
        raise NotComputable("it needs at least two patterns of missing values that share a column.")
    # The statistic does not change with the columns' units; standardized columns keep EM accurate.
    centre, scale = np.nanmean(y, axis=0), np.nanstd(y, axis=0)
    groups = [(has, (rows - centre[has]) / scale[has]) for has, rows in groups]
    mean, covariance = _normal_estimates(groups, n, p)
    covariance = covariance * n / (n - 1)
    statistic = 0.0
    for has, rows in groups:
        deviation = rows.mean(axis=0) - mean[has]
        part = covariance[np.ix_(has, has)]
        statistic += len(rows) * float(deviation @ np.linalg.solve(part, deviation))
    return statistic, degrees, n


def _check_columns(y: Floats, names: tuple[str, ...]) -> None:
    for column, name in zip(y.T, names, strict=True):
        values = column[~np.isnan(column)]
        if values.std() <= 1e-12 * np.abs(values).max(initial=0.0):
            raise NotComputable(
                f"the column {name!r} is constant where it is available. Leave it out."
            )


def _normal_estimates(
    groups: list[tuple[NDArray[np.bool_], Floats]], n: int, p: int
) -> tuple[Floats, Floats]:
    """Return mean (p,) and covariance (p, p) that maximize the likelihood, by EM."""
    mean, covariance = np.zeros(p), np.eye(p)
    # Each pattern enters the E step only by its mean and its second moments.
    moments = [(has, len(rows), rows.mean(axis=0), rows.T @ rows) for has, rows in groups]
    for _ in range(MAX_ITERATIONS):
        first, second = np.zeros(p), np.zeros((p, p))
        for has, count, average, squares in moments:
            # The expected row is `offset + weights @ observed`; observed columns are unchanged.
            weights = np.zeros((p, int(has.sum())))
            weights[has] = np.eye(int(has.sum()))
            lacks = ~has
            weights[lacks] = np.linalg.solve(
                covariance[np.ix_(has, has)], covariance[np.ix_(has, lacks)]
            ).T
            offset = mean - weights @ mean[has]
            total = count * (weights @ average)
            first += count * offset + total
            second += (
                weights @ squares @ weights.T
                + np.outer(offset, total)
                + np.outer(total, offset)
                + count * np.outer(offset, offset)
            )
            # The conditional covariance of the missing columns; 0 for the observed ones.
            second += count * (covariance - weights @ covariance[has])
        new_mean = first / n
        new_covariance = second / n - np.outer(new_mean, new_mean)
        new_covariance = (new_covariance + new_covariance.T) / 2
        change = max(np.abs(new_mean - mean).max(), np.abs(new_covariance - covariance).max())
        mean, covariance = new_mean, new_covariance
        deviations = np.sqrt(np.clip(np.diag(covariance), 1e-300, None))
        smallest = np.linalg.eigvalsh(covariance / np.outer(deviations, deviations))[0]
        if not smallest > SMALLEST:
            raise NotComputable(
                "the columns are collinear, so their covariance cannot be inverted. Leave out "
                "columns that are functions of others, or use the permutation test."
            )
        if change < TOLERANCE:
            return mean, covariance
    raise NotComputable(
        f"the estimates did not converge in {MAX_ITERATIONS} iterations of EM. Use the permutation "
        "test."
    )
