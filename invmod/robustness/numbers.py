"""Formatting of numbers for tables and pages."""

from __future__ import annotations


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


def percent(share: float, *, signed: bool = False) -> str:
    """Return a share as a percentage with one decimal, and with its sign if `signed`.

    Example:
        >>> percent(0.125), percent(0.125, signed=True), percent(-0.125)
        ('12.5%', '+12.5%', '-12.5%')
    """
    return f"{share:+.1%}" if signed else f"{share:.1%}"


def change(drop: float | None) -> str:
    """Return the relative change of a metric from its relative loss: a loss has a minus sign.

    Example:
        >>> change(0.125), change(-0.125), change(0.0), change(None)
        ('-12.5%', '+12.5%', '0.0%', 'undefined')
    """
    return "undefined" if drop is None else percent(-drop, signed=True) if drop else percent(0.0)


def p_value(p: float | None) -> str:
    """Return a p value with three significant digits; an empty text if there is none.

    Example:
        >>> p_value(0.01234), p_value(None)
        ('0.0123', '')
    """
    return "" if p is None else f"{p:.3g}"


def true_minus(text: str) -> str:
    """Replace the hyphen in a formatted number by the typographic minus sign (U+2212).

    Example:
        >>> true_minus("-0.5") == "\\N{MINUS SIGN}0.5"
        True
    """
    return text.replace("-", "\N{MINUS SIGN}")
