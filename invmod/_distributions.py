"""Quantiles of the normal, Student t and beta distributions, and the interval of a proportion.

The core of the library does not depend on SciPy, which the tests use as an oracle.
"""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Callable

Bounds = tuple[float, float]

ITERATIONS = 200
TINY = 1e-300


def normal_cdf(x: float) -> float:
    """Return the probability that a standard normal variable is at most x."""
    return 0.5 * math.erfc(-x / math.sqrt(2))


def normal_quantile(p: float) -> float:
    """Return the p quantile of the standard normal distribution."""
    return statistics.NormalDist().inv_cdf(p)


@functools.lru_cache(maxsize=4096)
def beta_quantile(p: float, a: float, b: float) -> float:
    """Return the p quantile of the beta distribution with parameters a and b above 0.

    Example:
        >>> round(beta_quantile(0.5, 1.0, 1.0), 6), round(beta_quantile(0.05, 1.0, 3.0), 6)
        (0.5, 0.016952)
    """
    return _root(lambda x: beta_cdf(x, a, b) - p, 0.0, 1.0)


@functools.lru_cache(maxsize=4096)
def t_quantile(p: float, df: float) -> float:
    r"""Return the p quantile of Student's t distribution with `df` degrees of freedom.

    If :math:`B` has a beta distribution with parameters df / 2 and 1 / 2, then
    :math:`\sqrt{\mathrm{df} \, (1 - B) / B}` is the absolute value of a t variable.

    Example:
        >>> round(t_quantile(0.975, 19), 4)
        2.093
    """
    if p == 0.5:
        return 0.0
    tail = 2 * min(p, 1 - p)
    x = beta_quantile(tail, df / 2, 0.5)
    return math.copysign(math.sqrt(df * (1 - x) / x), p - 0.5)


def binomial_interval(successes: float, trials: float, confidence: float) -> Bounds:
    r"""Return the exact interval of a proportion (Clopper and Pearson).

    .. math::
        \big[ B_{\alpha / 2}(k, n - k + 1), \; B_{1 - \alpha / 2}(k + 1, n - k) \big]

    where :math:`B_q(a, b)` is the q quantile of a beta distribution, k are the successes among n
    trials and :math:`1 - \alpha` is the confidence. The coverage is never below the confidence, for
    any proportion and any n. Because k has few values, it is above it near 0 and 1.

    References:
        Clopper and Pearson, The use of confidence or fiducial limits illustrated in the case of the
        binomial, Biometrika 26(4), 1934.

    Example:
        >>> low, high = binomial_interval(20, 20, 0.95)
        >>> round(low, 4), high
        (0.8316, 1.0)
    """
    tail = (1 - confidence) / 2
    # Effective numbers of trials are not whole, so "no success" and "no failure" have a tolerance.
    nothing = 1e-9 * trials
    low = 0.0 if successes <= nothing else beta_quantile(tail, successes, trials - successes + 1)
    failures = trials - successes
    high = 1.0 if failures <= nothing else beta_quantile(1 - tail, successes + 1, failures)
    return low, high


def beta_cdf(x: float, a: float, b: float) -> float:
    """Return the regularised incomplete beta function, from its continued fraction."""
    if x <= 0 or x >= 1:
        return float(x >= 1)
    log_front = (
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )
    # The fraction converges fast below the mean; above it, the symmetry of the function is used.
    if x < (a + 1) / (a + b + 2):
        return math.exp(log_front) * _fraction(x, a, b) / a
    return 1 - math.exp(log_front) * _fraction(1 - x, b, a) / b


def _fraction(x: float, a: float, b: float) -> float:
    """Return the continued fraction of the incomplete beta function by Lentz's method."""
    c, d = 1.0, 1 / _away_from_zero(1 - (a + b) * x / (a + 1))
    value = d
    # About sqrt(max(a, b)) terms are needed.
    for m in range(1, ITERATIONS + int(2 * math.sqrt(a + b))):
        for factor in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 / _away_from_zero(1 + factor * d)
            c = _away_from_zero(1 + factor / c)
            step = c * d
            value *= step
        if abs(step - 1) < 1e-15:
            break
    return value


def _away_from_zero(x: float) -> float:
    return x if abs(x) > TINY else TINY


def _root(function: Callable[[float], float], low: float, high: float) -> float:
    """Return the root of an increasing function that changes its sign between two points.

    The Illinois form of the secant method keeps the root bracketed and needs about ten steps; a
    bisection replaces a step that shrinks the bracket too little.
    """
    at_low, at_high = function(low), function(high)
    for step in range(ITERATIONS):
        middle = (low + high) / 2 if step % 3 == 2 else _secant(low, at_low, high, at_high)
        value = function(middle)
        if value == 0 or high - low <= 1e-15 * max(abs(low), abs(high)):
            return middle
        if value < 0:
            low, at_low = middle, value
            at_high /= 2
        else:
            high, at_high = middle, value
            at_low /= 2
    return (low + high) / 2


def _secant(low: float, at_low: float, high: float, at_high: float) -> float:
    return low + (high - low) * at_low / (at_low - at_high)
