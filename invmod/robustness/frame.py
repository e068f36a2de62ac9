"""Conversion of a report to a data frame."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from invmod._optional import import_optional
from invmod.robustness.report import RobustnessReport
from invmod.robustness.results import Interval

if TYPE_CHECKING:
    import polars


def to_frame(report: RobustnessReport) -> polars.DataFrame:
    """Return patterns, rates and profiles as a polars data frame, one row per model and condition.

    Arguments:
        report: of `robustness_report`.

    Returns:
        a data frame with the columns model, condition ("pattern", "rate" or "profile"), name (of
        the pattern or profile, or the hidden modality, or "all"), num_missing, rate,
        effective_rate, value, low and high (bounds of the interval), drop and empty_rows.

    Raises:
        ImportError: polars is not installed; the message explains how to install it.

    Example:
        >>> from invmod.robustness import PatternResult
        >>> result = PatternResult("m", (True,), "a", 0.8, (0.7, 0.9), 0.0, 0)
        >>> report = RobustnessReport(
        ...     ("m",), ("a",), "accuracy", True, 10, 10, 0.95, 3, 9, False, (result,)
        ... )
        >>> to_frame(report).row(0)
        ('m', 'pattern', 'a', 0, None, None, 0.8, 0.7, 0.9, 0.0, 0)
    """
    pl = import_optional("polars")
    schema = {
        "model": pl.String,
        "condition": pl.String,
        "name": pl.String,
        "num_missing": pl.Int64,
        "rate": pl.Float64,
        "effective_rate": pl.Float64,
        "value": pl.Float64,
        "low": pl.Float64,
        "high": pl.Float64,
        "drop": pl.Float64,
        "empty_rows": pl.Int64,
    }
    rows: list[dict[str, Any]] = [
        {
            "model": result.model,
            "condition": "pattern",
            "name": result.name,
            "num_missing": result.num_missing,
            "value": result.value,
            **_bounds(result.interval),
            "drop": result.drop,
            "empty_rows": result.empty_rows,
        }
        for result in report.patterns
    ]
    rows += [
        {
            "model": point.model,
            "condition": "rate",
            "name": _curve_name(point.modality),
            "rate": point.rate,
            "effective_rate": point.effective_rate,
            "value": point.value,
            **_bounds(point.interval),
        }
        for point in report.rates
    ]
    rows += [
        {
            "model": profile.model,
            "condition": "profile",
            "name": profile.name,
            "value": profile.value,
            **_bounds(profile.interval),
            "drop": profile.drop,
        }
        for profile in report.profiles
    ]
    # Keys that a row lacks become null.
    frame: polars.DataFrame = pl.DataFrame(rows, schema=schema)
    return frame


def _curve_name(modality: str | None) -> str:
    """Return the hidden modality, quoted if it is called "all", the name of the joint curve."""
    if modality is None:
        return "all"
    return f'"{modality}"' if modality.strip('"') == "all" else modality


def _bounds(interval: Interval) -> dict[str, float | None]:
    low, high = interval or (None, None)
    return {"low": low, "high": high}
