"""Values of a user that mean missing, such as NA or -9."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from invmod.cli.errors import UsageError
from invmod.cli.lists import parts, quoted


def candidates(texts: Sequence[str]) -> list[str]:
    """Return all values that lists may mean: each text as a whole, and its entries.

    Example:
        >>> candidates(["NA,-9", "x"])
        ['NA,-9', 'NA', '-9', 'x']
    """
    return list(dict.fromkeys(value for text in texts for value in (text, *_entries(text))))


def chosen(texts: Sequence[str], occurring: set[str]) -> tuple[list[str], list[str]]:
    """Return the values that the texts mean, and those of them that occur nowhere.

    A text that occurs in the data as a whole is one value, otherwise it is a list.

    Example:
        >>> chosen(["NA,-9", "no, or unknown"], {"NA", "no, or unknown"})
        (['NA', '-9', 'no, or unknown'], ['-9'])
    """
    values: list[str] = []
    for text in texts:
        entries = _entries(text)
        if text in occurring and len(entries) > 1 and not occurring.isdisjoint(entries):
            apart = ",".join(map(quoted, entries))
            raise UsageError(
                f"--missing-value {text}: this is a value and also a list of values. Write "
                f"'{quoted(text)}' or '{apart}'."
            )
        values += [text] if text in occurring else entries
    values = list(dict.fromkeys(values))
    return values, [value for value in values if value not in occurring]


def _entries(text: str) -> list[str]:
    return [entry if is_quoted else entry.strip() for entry, is_quoted in parts(text)]


def occurring_in(columns: Mapping[str, NDArray[Any]], values: Iterable[str]) -> set[str]:
    """Return the values that occur in some column.

    Example:
        >>> sorted(occurring_in({"a": np.array([1.0, -9.0]), "b": np.array(["x"])}, ["-9", "y"]))
        ['-9']
    """
    return {value for value in values if any(_hits(x, [value]).any() for x in columns.values())}


def without(values: NDArray[Any], missing_values: Sequence[str]) -> NDArray[Any]:
    """Return the array with NaN, None or blank text where an entry is one of `missing_values`.

    Example:
        >>> without(np.array([1, -9]), ["NA", "-9"])
        array([ 1., nan])
    """
    hits = _hits(values, missing_values)
    if not hits.any():
        return values
    if values.dtype.kind in "fiub":
        return np.where(hits, np.nan, values.astype(np.float64))
    if values.dtype.kind == "U":
        return np.where(hits, "", values)
    changed = values.astype(object)
    changed[hits] = None
    return changed


def _hits(values: NDArray[Any], missing_values: Sequence[str]) -> NDArray[np.bool_]:
    """Return a bool array of the shape of `values`, True where an entry is a missing value."""
    kind = values.dtype.kind
    if kind in "fiub":
        numbers = [number for text in missing_values if (number := _number(text)) is not None]
        return np.asarray(np.isin(values, numbers))
    if kind == "U":
        return np.asarray(np.isin(values, list(missing_values)))
    if kind == "M":
        return np.asarray(np.isin(values, _dates(missing_values, values.dtype)))
    texts = set(missing_values)
    # Objects, bytes and durations are compared as they are written.
    entries = values
    if kind == "S":
        entries = np.char.decode(values, "utf-8", "replace")
    elif kind != "O":
        entries = values.astype(str)
    hits = [str(entry) in texts for entry in entries.ravel().tolist()]
    return np.array(hits, dtype=bool).reshape(values.shape)


def _dates(texts: Sequence[str], dtype: np.dtype[Any]) -> NDArray[np.datetime64]:
    """Return the texts that are dates of this type; the others cannot occur among such dates."""
    dates = []
    for text in texts:
        try:
            exact = np.datetime64(text, "us")
            date = exact.astype(dtype)
        except (ValueError, OverflowError):
            continue
        # Old versions of numpy do not report an overflow, such as that of year 0 in nanoseconds.
        if date.astype("datetime64[us]") == exact:
            dates.append(date)
    return np.array(dates, dtype=dtype)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
