"""Times of interactions: numbers of seconds or fractions of them, dates and clock times as text."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import polars as pl

from milk_recsys.catalogue.raw.values import BadCell, trimmed

__all__ = ["FORMATS", "Times", "day_range", "find_format", "seconds"]

FORMATS = (
    "%Y-%m-%dT%H:%M:%S%.f%z",
    "%Y-%m-%d %H:%M:%S%.f%z",
    "%Y-%m-%dT%H:%M:%S%.f",
    "%Y-%m-%d %H:%M:%S%.f",
    "%Y-%m-%d %H:%M",
    "%Y-%m-%d",
    "%Y/%m/%d %H:%M:%S",
    "%Y/%m/%d %H:%M",
    "%Y/%m/%d",
    "%Y%m%d",
    "%d.%m.%Y %H:%M:%S",
    "%d.%m.%Y %H:%M",
    "%d.%m.%Y",
    "%d/%m/%Y %H:%M:%S",
    "%m/%d/%Y %H:%M:%S",
    "%d/%m/%Y %H:%M",
    "%m/%d/%Y %H:%M",
    "%d/%m/%Y",
    "%m/%d/%Y",
    "%d-%b-%Y",
    "%d %b %Y",
    "%b %d, %Y",
    "%m %d, %Y",
)
"""Formats that are tried, in this order. A day and a month that could change places are refused."""

MAX_SECONDS = 1e11  # Beyond the year 5138 the calendar explains nothing.

# Unix times are told apart by their size: seconds stay below 1e11 until the year 5138.
UNITS = (
    (1e11, 1.0, "seconds"),
    (1e14, 1e3, "milliseconds"),
    (1e17, 1e6, "microseconds"),
    (math.inf, 1e9, "nanoseconds"),
)


class Times:
    """Converts one column of times, block by block, always in the same way.

    Arguments:
        form: format of the texts as in `strptime`, or None to find it in the first block.

    Attributes:
        note: how the times were read.
    """

    def __init__(self, form: str | None = None) -> None:
        self.form = form
        self.note = ""
        self._unit: tuple[float, float, str] | None = None

    def seconds(self, column: pl.Series) -> pl.Series | BadCell:
        """Return unix seconds as float64."""
        kind = column.dtype
        if kind in (pl.Date, pl.Datetime):
            self.note = "midnight UTC" if kind == pl.Date else _zone(kind)
            return _epoch(column.cast(pl.Datetime("us")) if kind == pl.Date else column)
        if kind == pl.String:
            cells = trimmed(column)
            values = cells.cast(pl.Float64, strict=False)
            # Eight digits are a date, not a number of seconds in 1970.
            dates = cells.str.contains("^[12][0-9]{7}$").all(ignore_nulls=True)
            if (
                self.form is None
                and not dates
                and not (cells.is_not_null() & values.is_null()).any()
            ):
                return self._numbers(values)
            return self._texts(cells)
        if kind.is_numeric():
            return self._numbers(column.cast(pl.Float64).fill_nan(None))
        if kind == pl.Null:
            return column.cast(pl.Float64)
        return BadCell(0, f"must be a time, but the column holds {kind}")

    def _numbers(self, values: pl.Series) -> pl.Series | BadCell:
        largest = float(values.abs().max() or 0)  # type: ignore[arg-type]
        if self._unit is None:
            self._unit = next(unit for unit in UNITS if largest < unit[0])
        limit, scale, name = self._unit
        if largest >= limit:
            row = int((values.abs() >= limit).arg_max() or 0)
            return BadCell(
                row, f"the time {values[row]:.0f} is too large for {name}, the unit of those before"
            )
        self.note = f"{name} since 1970 (UTC)"
        return values / scale

    def _texts(self, cells: pl.Series) -> pl.Series | BadCell:
        if self.form is None:
            found = find_format(cells)
            if isinstance(found, BadCell):
                return found
            self.form = found
        parsed = _parse(cells, self.form)
        bad = cells.is_not_null() & parsed.is_null()
        if bad.any():
            row = int(bad.arg_max() or 0)
            return BadCell(
                row,
                f"the time {cells[row][:40]!r} does not have the format {self.form!r}. Correct it, "
                "or give --time-format",
            )
        zone = " with its zone" if "%z" in self.form else "; no zone is stated, so UTC"
        self.note = f"text in the format {self.form}{zone}"
        return _epoch(parsed)


def seconds(column: pl.Series, form: str | None = None) -> pl.Series | BadCell:
    """Return the unix seconds of one column; see `Times`."""
    return Times(form).seconds(column)


def day_range(times: npt.NDArray[np.float64]) -> str:
    """Return the first and the last day of unix seconds, as text.

    Example:
        >>> day_range(np.array([86400.0, 0.0]))
        'from 1970-01-01 to 1970-01-02'
    """
    ends = np.array([times.min(), times.max()])
    if np.abs(ends).max() >= MAX_SECONDS:
        return f"from {ends[0]:g} to {ends[1]:g} seconds"
    first, last = ends.astype("datetime64[s]").astype("datetime64[D]")
    return f"from {first} to {last}"


def find_format(cells: pl.Series) -> str | BadCell:
    """Return the one format of `FORMATS` that reads all texts of a column.

    Two formats that differ in the order of day and month, and both fit, are refused.
    """
    known = cells.drop_nulls().unique()
    if not len(known):
        return FORMATS[0]
    first = str(cells.drop_nulls()[0])
    for form in FORMATS:
        # Most formats do not even fit the first text.
        if _parse(known[:1], form).has_nulls() or _parse(known, form).has_nulls():
            continue
        swapped = form.replace("%d/%m/", "%m/%d/")
        if swapped != form and not _parse(known, swapped).has_nulls():
            return BadCell(
                0,
                f"the time {first!r} can be read with the day or the month first. Give "
                f"--time-format {form!r} or {swapped!r}",
            )
        return form
    row = int(cells.is_not_null().arg_max() or 0)
    return BadCell(
        row, f"{first[:40]!r} is no time in a known format. Give --time-format, as in strptime"
    )


def _parse(cells: pl.Series, form: str) -> pl.Series:
    """Return the times of texts in a format, in UTC; null where they do not fit."""
    if "%H" not in form:
        return cells.str.to_date(form, strict=False).cast(pl.Datetime("us"))
    zoned = "%z" in form
    texts = cells.str.replace(r"(?:Z| UTC| GMT)$", "+0000") if zoned else cells
    times = texts.str.to_datetime(form, strict=False, time_unit="us")
    return times.dt.replace_time_zone(None) if zoned else times


def _epoch(column: pl.Series) -> pl.Series:
    """Return the seconds since 1970 of a column of clock times; a zone makes them instants."""
    return column.dt.cast_time_unit("us").dt.epoch("us").cast(pl.Float64) / 1e6


def _zone(kind: pl.DataType) -> str:
    zone = getattr(kind, "time_zone", None)
    return f"instants, stored with the zone {zone}" if zone else "no zone is stated, so UTC"
