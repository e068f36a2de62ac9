"""Permutation tests of several hypotheses, with the step-down max-T correction."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def adjusted_p_values(
    observed: Floats, permuted: Floats, *, one_sided: bool = False
) -> tuple[Floats, Floats]:
    r"""Return p-values of H differences, uncorrected and corrected by step-down max-T.

    .. math::
        p_h = \frac{1 + \#\{b : |t_h^b| \geq |t_h|\}}{1 + B}, \qquad
        \tilde p_h = \max_{g \leq h} \frac{1 + \#\{b : \max_{k \geq g} |t_k^b| \geq |t_g|\}}{1 + B}

    where :math:`t_h` are the differences in descending order of absolute value, each divided by the
    root mean square of its permuted values and itself, and :math:`t_h^b` are the same statistics of
    permutation b of B. The observed difference is one of the B + 1 equally likely ones, so the
    scale must include it: otherwise the test rejects too often with few permutations. All H
    differences use the same permutations. This accounts for the correlation between patterns, so
    the correction loses little power if patterns are correlated.

    Arguments:
        observed: (H,).
        permuted: (B, H). A NaN, where the metric is undefined, counts as larger than any observed
            difference.
        one_sided: test only for differences above 0; the absolute values in the equations are then
            the values themselves.

    References:
        Westfall and Young, Resampling-Based Multiple Testing, Wiley 1993; Phipson and Smyth,
        Permutation P-values Should Never Be Zero, 2010, for the 1 in numerator and denominator.
    """
    count = permuted.shape[0]
    scale = np.sqrt(np.nanmean(np.vstack([observed, permuted]) ** 2, axis=0))
    scale = np.where(scale > 0, scale, 1.0)
    t, null = observed / scale, np.nan_to_num(permuted / scale, nan=np.inf)
    if not one_sided:
        t, null = np.abs(t), np.abs(null)
    # The slack counts values that differ only by the order of summation as ties.
    reached = t - 1e-9 * np.abs(t)
    plain = (1 + (null >= reached).sum(axis=0)) / (1 + count)
    order = np.argsort(-t, kind="stable")
    # Column h is the maximum over hypothesis h and all hypotheses with smaller statistics.
    largest = np.maximum.accumulate(null[:, order[::-1]], axis=1)[:, ::-1]
    stepped = (1 + (largest >= reached[order]).sum(axis=0)) / (1 + count)
    adjusted = np.empty_like(plain)
    adjusted[order] = np.maximum.accumulate(stepped)
    return plain, adjusted


def corrected_p_values(
    observed: Floats, permuted: Floats, factor: int, *, one_sided: bool = False
) -> list[tuple[float, float]]:
    """Return each p-value of `adjusted_p_values`, and its correction by max-T and Bonferroni.

    Arguments:
        observed, permuted, one_sided: as in `adjusted_p_values`.
        factor: of Bonferroni's correction, the number of families of hypotheses.
    """
    plain, adjusted = adjusted_p_values(observed, permuted, one_sided=one_sided)
    corrected = np.minimum(1, adjusted * factor)
    return list(zip(plain.tolist(), corrected.tolist(), strict=True))
