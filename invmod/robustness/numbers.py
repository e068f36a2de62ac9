"""Formatting of numbers for tables and pages."""

from __future__ import annotations

import math


def plain(value: float) -> str:
    """Return a number with four decimals, or with few significant digits if it is large or tiny.

    Example:
        >>> plain(0.25), plain(12345.678), plain(3e-5), plain(0.0)
        ('0.2500', '12346', '3.0e-05', '0.0000')
    """
    if abs(value) >= 1000:
        return f"{value:.5g}"
    return f"{value:.4f}" if value == 0 or abs(value) >= 5e-4 else f"{value:.1e}"


def with_interval(value: float, interval: tuple[float, float] | None) -> str:
    """Return a number, followed by its interval if there is one.

    Example:
        >>> with_interval(0.5, (0.4, 0.6)), with_interval(0.5, None)
        ('0.5000 [0.4000, 0.6000]', '0.5000')
    """
    return (
        plain(value)
        if interval is None
        else f"{plain(value)} [{plain(interval[0])}, {plain(interval[1])}]"
    )


def counted(count: int, thing: str) -> str:
    """Return a number of things, whose plural has an s.

    Example:
        >>> counted(1, "case"), counted(2, "case")
        ('1 case', '2 cases')
    """
    return f"{count} {thing}" if count == 1 else f"{count} {thing}s"


def percent(share: float, *, signed: bool = False) -> str:
    """Return a share as a percentage with one decimal, and with its sign if `signed`.

    Example:
        >>> percent(0.125), percent(0.125, signed=True), percent(-0.125)
        ('12.5%', '+12.5%', '-12.5%')
    """
    return f"{share:+.1%}" if signed else f"{share:.1%}"


def change(drop: float | None) -> str:
    """Return the relative change of a metric from its relative loss: a loss has a minus sign.

    A change that rounds to zero has no sign, because it may be a rounding error.

    Example:
        >>> change(0.125), change(-0.125), change(1e-9), change(None)
        ('-12.5%', '+12.5%', '0.0%', 'undefined')
    """
    if drop is None:
        return "undefined"
    return percent(0.0) if abs(drop) < 0.0005 else percent(-drop, signed=True)


def level(confidence: float) -> str:
    """Return a confidence level as a percentage with all of its digits.

    Example:
        >>> level(0.95), level(0.999)
        ('95%', '99.9%')
    """
    return f"{100 * confidence:.10g}%"


def p_value(p: float | None, num_permutations: int, num_comparisons: int = 1) -> str:
    """Return a p-value with the precision that its permutations allow; an empty text for None.

    A p-value of B permutations is a multiple of 1 / (B + 1). Its smallest value shows only that no
    permutation had so large a difference, so it is written as an upper bound, rounded up.

    Arguments:
        p: of a permutation test, or None.
        num_permutations: B.
        num_comparisons: factor of a Bonferroni correction that p includes.

    Example:
        >>> p_value(1 / 1001, 1000), p_value(1 / 201, 200), p_value(13 / 1001, 1000)
        ('<= 0.001', '<= 0.005', '0.013')
        >>> p_value(2 / 1001, 1000, 2), p_value(1.0, 1000), p_value(None, 0)
        ('<= 0.002', '1', '')
    """
    if p is None:
        return ""
    smallest = num_comparisons / (num_permutations + 1)
    if p >= 1:
        return "1"
    if p <= smallest * (1 + 1e-9):
        return f"<= {_rounded_up(p):g}"
    digits = max(2, min(6, math.ceil(math.log10(num_permutations + 1) - 1e-3)))
    # Rounding must not turn a p-value into 0 or 1, or below the smallest one.
    return f"{min(p, 1 - 10**-digits):.{digits}f}"


def _rounded_up(p: float) -> float:
    """Return a number above 0 rounded up to two significant digits."""
    unit = 10.0 ** (math.floor(math.log10(p)) - 1)
    return math.ceil(p / unit - 1e-6) * unit


def true_minus(text: str) -> str:
    """Replace the hyphen in a formatted number by the typographic minus sign (U+2212).

    Example:
        >>> true_minus("-0.5") == "\\N{MINUS SIGN}0.5"
        True
    """
    return text.replace("-", "\N{MINUS SIGN}")


def figure(text: str) -> str:
    """Return a number with typographic signs, and its interval in one unbroken piece.

    Example:
        >>> figure("0.5 [0.4, 0.6]")
        '0.5 [0.4,\\xa00.6]'
    """
    text = text.replace("<= ", "\N{LESS-THAN OR EQUAL TO}\N{NO-BREAK SPACE}")
    return true_minus(text).replace(", ", ",\N{NO-BREAK SPACE}")
