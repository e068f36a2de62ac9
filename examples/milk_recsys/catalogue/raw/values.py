"""The meaning of cells: ids as text, numbers, vectors of numbers, and empty cells.

Functions take one column of a table as a polars Series, and return nulls for empty cells.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Collection
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl

__all__ = [
    "MISSING",
    "BadCell",
    "Missing",
    "blank_to_null",
    "id_texts",
    "number_cells",
    "numbers",
    "plain_ids",
    "trimmed",
    "truth_cells",
    "vectors",
]

SPACES = "".join(chr(c) for c in range(0x3001) if chr(c).isspace()) + "\ufeff\u200b"
"""White space and byte-order marks, which are trimmed from both ends of every cell."""

MISSING = frozenset(
    {"nan", "na", "n/a", "#n/a", "<na>", "null", "none", "nat", "k. a.", "k.a.", "[]", "{}"}
)
"""Spellings of an empty cell of numbers or text, in lower case. Ids are never among them."""

LARGEST_WHOLE = 2**53  # Above it, a float has lost digits of an id.
WHOLE_FLOAT = re.compile(r"(-?[0-9]+)\.0+")
NUMBER = r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|[nN]a[nN]|[+-]?[iI]nf(?:inity)?"
NUMBER_CELL = f"^(?:{NUMBER})$"
VECTOR_CELL = rf"^[\[\(]?\s*(?:{NUMBER})(?:(?:\s*[,;]\s*|\s+)(?:{NUMBER}))*\s*,?\s*[\]\)]?$"
CUT_CELL = r"^[\[\(].*\.\.\..*[\]\)]$"
POINT_THOUSANDS = r"^[+-]?[0-9]{1,3}(?:[, '\u00a0\u202f][0-9]{3})+(?:\.[0-9]+)?$"
COMMA_NUMBER_CELL = (
    r"^[+-]?(?:[0-9]{1,3}(?:[. '\u00a0\u202f][0-9]{3})+|[0-9]*)(?:,[0-9]+)?(?:[eE][+-]?[0-9]+)?$"
)
TRUE_CELLS = ("true", "yes")
TRUTH_CELLS = (*TRUE_CELLS, "false", "no")
LIST_CELL = r"^\[\s*['\x22].*['\x22]\s*\]$"


@dataclasses.dataclass(frozen=True)
class BadCell:
    """A cell that cannot be read.

    Attributes:
        row: its row in the column.
        problem: what is wrong, to follow the place in an error message.
    """

    row: int
    problem: str


@dataclasses.dataclass(frozen=True)
class Missing:
    """Spellings of an empty cell, in addition to `MISSING`.

    Arguments:
        given: texts, or COLUMN=TEXT for the cells of one column.
        names: names of the columns of the table.
    """

    given: tuple[str, ...] = ()
    names: Collection[str] = ()

    def of(self, column: str) -> list[str]:
        """Return the further spellings in a column, in lower case."""
        spellings = []
        for word in self.given:
            name, mark, text = word.partition("=")
            if mark and name in self.names:
                if name == column:
                    spellings.append(text)
            else:
                spellings.append(word)
        return [text.strip(SPACES).lower() for text in spellings]


def trimmed(column: pl.Series) -> pl.Series:
    """Return the texts of a column without surrounding white space; empty ones are null."""
    stripped = column.str.strip_chars(SPACES)
    return stripped.set(stripped == "", None)


def blank_to_null(column: pl.Series, further: Collection[str] = ()) -> pl.Series:
    """Return trimmed texts, with null for spellings of an empty cell."""
    stripped = trimmed(column)
    spellings = [*MISSING, *further]
    return stripped.set(stripped.str.to_lowercase().is_in(spellings), None)


# --- ids ------------------------------------------------------------------------------------------


def id_texts(column: pl.Series) -> pl.Series | BadCell:
    """Return ids as texts; null for an empty cell.

    Whole floats of a typed column are integers: a column of integers with an empty cell is often
    written as floats. Texts stay as they are, trimmed (see `plain_ids` for a column of texts).
    """
    kind = column.dtype
    if kind in (pl.Categorical, pl.Enum):
        column, kind = column.cast(pl.String), pl.String()
    if kind == pl.Binary:
        try:
            column, kind = column.cast(pl.String), pl.String()
        except pl.exceptions.ComputeError:
            return BadCell(0, "an id must be text or a number, but the column holds bytes")
    if kind == pl.Null:
        return column.cast(pl.String)
    if kind == pl.String:
        return trimmed(column)
    if kind.is_integer():
        return column.cast(pl.String)
    if kind.is_float() or kind.is_decimal():
        floats = column.cast(pl.Float64).fill_nan(None)
        bad = (floats != floats.floor()) | (floats.abs() >= LARGEST_WHOLE)
        if bad.any():
            row = int(bad.fill_null(False).arg_max() or 0)
            return BadCell(
                row,
                f"{floats[row]!r} cannot be an id: ids that are numbers must be whole and below "
                "2^53. Save the ids as text",
            )
        return floats.cast(pl.Int64).cast(pl.String)
    if kind in (pl.Date, pl.Datetime):
        return column.cast(pl.String)
    row = int(column.is_not_null().arg_max() or 0)
    return BadCell(row, f"an id must be text or a number, but the column holds {kind}")


def plain_ids(ids: list[str]) -> list[str]:
    """Return the distinct ids of a column of texts, without ``.0`` if all of them end in it.

    Example:
        >>> plain_ids(["12.0", "7.0"]), plain_ids(["12.0", "7"]), plain_ids(["007", "3e0"])
        (['12', '7'], ['12.0', '7'], ['007', '3e0'])
    """
    matches = [WHOLE_FLOAT.fullmatch(text) for text in ids]
    if not all(matches):
        return ids
    return [match[1] for match in matches if match]


# --- numbers --------------------------------------------------------------------------------------


def numbers(
    column: pl.Series, decimal: Literal[".", ","] = ".", further: Collection[str] = ()
) -> pl.Series | BadCell:
    """Return the numbers of a column as float64; null for an empty cell or NaN.

    Booleans are 0 and 1, and so are texts if all of them are ``true``, ``false``, ``yes`` or
    ``no``. Texts may have separators of thousands if they also have a decimal sign.
    """
    kind = column.dtype
    if kind == pl.Boolean or kind.is_numeric():
        values = column.cast(pl.Float64).fill_nan(None)
    elif kind == pl.Null:
        values = column.cast(pl.Float64)
    elif kind in (pl.String, pl.Categorical, pl.Enum):
        cells = blank_to_null(column.cast(pl.String), further)
        values = number_cells(cells, decimal)
        truth = truth_cells(cells)
        if truth.any() and not values.is_not_null().any():
            values = cells.str.to_lowercase().is_in(TRUE_CELLS).cast(pl.Float64).set(~truth, None)
        bad = cells.is_not_null() & values.is_null()
        if bad.any():
            row = int(bad.arg_max() or 0)
            return BadCell(row, _bad_number(cells[row], decimal))
    else:
        return BadCell(0, f"must hold numbers, but the column holds {kind}")
    infinite = values.is_infinite().fill_null(False)
    if infinite.any():
        return BadCell(int(infinite.arg_max() or 0), "is an infinity")
    return values


def number_cells(cells: pl.Series, decimal: Literal[".", ","]) -> pl.Series:
    """Return texts as float64, and null for those that are no numbers."""
    if decimal == ",":
        fits = cells.str.contains(COMMA_NUMBER_CELL)
        plain = cells.str.replace_all(r"[. '\u00a0\u202f]", "").str.replace(",", ".", literal=True)
    else:
        fits = cells.str.contains(NUMBER_CELL) | (
            cells.str.contains(POINT_THOUSANDS) & cells.str.contains(".", literal=True)
        )
        plain = cells.str.replace_all(r"[, '\u00a0\u202f]", "")
    return plain.set(~fits, None).cast(pl.Float64, strict=False)


def truth_cells(cells: pl.Series) -> pl.Series:
    """Return which texts are true or false, yes or no."""
    return cells.str.to_lowercase().is_in(TRUTH_CELLS).fill_null(value=False)


def _bad_number(cell: str, decimal: str) -> str:
    text = f"must be a number, got {cell[:60]!r}"
    if decimal == "." and re.fullmatch(r"[+-]?[\d. ]*,\d+", cell):
        return f"{text}. If the file has decimal commas, give --decimal ,"
    return f"{text}. Correct it; if it stands for an empty cell, give --missing {cell[:30]!r}"


# --- vectors --------------------------------------------------------------------------------------


def vectors(column: pl.Series, further: Collection[str] = ()) -> list[npt.NDArray[np.float64]]:
    """Return the vector of each cell, of its own length; an empty one for an empty cell.

    Cells are lists, or texts such as ``[0.1 0.2]``, ``0.1, 0.2`` or ``0.1 0.2``.
    """
    if column.dtype == pl.String:
        cells = blank_to_null(column, further)
        inner = cells.str.strip_chars("[]() \n\t,").str.replace_all(r"[\s,;]+", " ")
        column = inner.str.split(" ").cast(pl.List(pl.Float64), strict=False)
    elif isinstance(column.dtype, pl.Array):
        column = column.arr.to_list()
    lists = column.cast(pl.List(pl.Float64))
    lengths = lists.list.len().fill_null(0).to_numpy().astype(np.int64)
    # A null within a list becomes NaN, which the caller refuses.
    flat = lists.to_arrow().flatten().to_numpy(zero_copy_only=False)
    return np.split(flat, np.cumsum(lengths)[:-1]) if len(lengths) else []
