"""Texts and levels of categories in cells: plain, in lists, or printed as lists."""

from __future__ import annotations

import ast
import html
import re
from collections.abc import Collection

import polars as pl

from milk_recsys.catalogue.raw.values import LIST_CELL, MISSING, SPACES, blank_to_null

__all__ = ["items_of", "texts"]


def texts(column: pl.Series, further: Collection[str] = ()) -> list[str]:
    """Return one text for each cell, "" for an empty one; the texts of a list are joined.

    Character references of HTML (``&amp;``) are replaced by their characters.
    """
    if isinstance(column.dtype, pl.List | pl.Array):
        lists = [[] if cell is None else list(cell) for cell in column.to_list()]
        return [" ".join(_words(cell)) for cell in lists]
    cells = blank_to_null(column.cast(pl.String), further)
    return [_text(cell) for cell in cells.to_list()]


def items_of(
    column: pl.Series, further: Collection[str] = (), separator: str = "|"
) -> list[list[str]]:
    """Return the levels of each cell: the texts of a list, or the separated texts of a cell."""
    if isinstance(column.dtype, pl.List | pl.Array):
        return [[] if cell is None else _words(cell) for cell in column.to_list()]
    cells = blank_to_null(column.cast(pl.String), further)
    return [
        [] if not cell else _literal(cell) if cell[0] == "[" else _words(cell.split(separator))
        for cell in cells.to_list()
    ]


def _words(cell: Collection[object]) -> list[str]:
    words = (html.unescape(str(word)).strip(SPACES) for word in cell if word is not None)
    return [word for word in words if word and word.lower() not in MISSING]


def _text(cell: str | None) -> str:
    if not cell:
        return ""
    return " ".join(_literal(cell)) if cell[0] == "[" else html.unescape(cell)


def _literal(cell: str) -> list[str]:
    """Return the texts of a Python list printed as text, without evaluating any code."""
    if re.match(LIST_CELL, cell, re.DOTALL):
        try:
            parsed = ast.literal_eval(cell)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            parsed = None
        if isinstance(parsed, list):
            return _words(parsed)
    return [html.unescape(cell)]
