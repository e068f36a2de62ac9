"""Kinds of the columns of a table, found from their cells."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Collection, Sequence
from typing import Literal, cast

import polars as pl

from milk_recsys.catalogue.raw.tables import RawTable, shown_names
from milk_recsys.catalogue.raw.values import (
    CUT_CELL,
    LIST_CELL,
    VECTOR_CELL,
    blank_to_null,
    number_cells,
    truth_cells,
)

__all__ = ["AMOUNTS", "Column", "describe_columns", "listed", "note_unused"]

Kind = Literal[
    "index", "numbers", "booleans", "vectors", "cut vectors", "text", "lists", "times", "empty"
]
DECLARED = {"token": "text", "token_seq": "text", "float": "numbers", "float_seq": "vectors"}

INDEX_NAME = re.compile(
    r"|Unnamed: \d+(_level_\d+)?|__index_level_\d+__|level_0|index|row_?(nr|id)?"
)
# Names of quantities, codes and times, which are numbers but not coordinates of a feature vector.
AMOUNTS = (
    r"price|preis|prix|precio|cost|amount|qty|quantity|menge|stock|sales?|sold|revenue|ratings?"
    r"|votes?|year|jahr|month|day|date|datum|time|timestamp"
)
QUANTITY = re.compile(
    rf"(^|[\W_])({AMOUNTS}|rank|score|stars|count|n|num|number|no|nr|id|ids|code|isbn\d*|ean|gtin"
    r"|sku|asin|upc|zip|plz|unix|age|weight"
    r"|width|height|depth|length|size|label|class|category|type|user|item|index)($|[\W_])",
    re.IGNORECASE,
)
TWO_NUMBERS = r"^[+-]?[0-9]+,[0-9]+$"  # May also be one number with a decimal comma.


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of a table, after all its cells have been seen.

    Attributes:
        kind: what the cells hold; the kind that most non-empty cells have.
        width: number of features: 1, or the length of the vectors.
        exceptions: number of non-empty cells that are not of this kind.
        quantity: whether the name is that of a price, a code, a time or their like.
        ambiguous: whether each cell may be one number with a decimal comma, or two numbers.
    """

    name: str
    kind: Kind
    width: int = 1
    exceptions: int = 0
    quantity: bool = False
    ambiguous: bool = False

    def __str__(self) -> str:
        name = shown_names([self.name])
        kind = f"vectors of {self.width}" if self.kind == "vectors" else str(self.kind)
        if self.kind == "index":
            kind = "index of the rows"
        if self.kind == "cut vectors":
            kind = "vectors cut with ... when they were printed"
        if self.ambiguous:
            kind = "numbers with a decimal comma, or pairs of numbers"
        return f"{name} ({kind})"


class _Tally:
    """Counts of the cells of one column by what they can be read as."""

    def __init__(self) -> None:
        self.cells: Counter[str] = Counter()
        self.widths: Counter[int] = Counter()
        self.codes = False
        self.ambiguous = 0

    def add(self, column: pl.Series, table: RawTable) -> None:
        kind = column.dtype
        present = int(column.is_not_null().sum())
        if isinstance(kind, pl.List | pl.Array):
            lists = column.arr.to_list() if isinstance(kind, pl.Array) else column
            numeric = lists.dtype.inner.is_numeric()  # type: ignore[attr-defined]
            lengths = lists.list.len().fill_null(0)
            filled = lengths > 0
            self.cells["vectors" if numeric else "lists"] += int(filled.sum())
            self.widths.update(lengths.filter(filled).to_list() if numeric else [])
        elif kind == pl.Boolean:
            self.cells["booleans"] += present
        elif kind.is_numeric():
            self.cells["numbers"] += present
        elif kind.is_temporal():
            self.cells["times"] += present
        elif kind == pl.String:
            self._add_texts(column, table)
        elif kind != pl.Null:
            self.cells["text"] += present

    def _add_texts(self, column: pl.Series, table: RawTable) -> None:
        cells = blank_to_null(column, table.missing(column.name)).drop_nulls()
        # A leading zero belongs to a code, such as an article number.
        self.codes = self.codes or bool(cells.str.contains("^0[0-9]").any())
        truth = truth_cells(cells)
        number = number_cells(cells, table.decimal).is_not_null()
        rest = cells.filter(~number & ~truth)
        vector = rest.str.contains(VECTOR_CELL)
        cut = rest.str.contains(f"(?s){CUT_CELL}")
        listed = rest.str.contains(f"(?s){LIST_CELL}") & ~cut
        self.cells["booleans"] += int(truth.sum())
        self.cells["numbers"] += int(number.sum())
        self.cells["vectors"] += int(vector.sum())
        if table.text.decimal == "auto":
            self.ambiguous += int(rest.str.contains(TWO_NUMBERS).sum())
        self.cells["cut vectors"] += int((cut & ~vector).sum())
        self.cells["lists"] += int(listed.sum())
        self.cells["text"] += int((~vector & ~cut & ~listed).sum())
        inner = rest.filter(vector).str.strip_chars("[]() \n\t,")
        gaps = inner.str.count_matches(r"[\s,;]+")
        self.widths.update((gaps + 1).to_list())

    def column(self, name: str, declared: str = "") -> Column:
        """Return the column; `declared` is RecBole's type of it, which decides."""
        total = self.cells.total()
        if not total:
            return Column(name, "empty")
        kind = DECLARED.get(declared, self.cells.most_common(1)[0][0])
        count = self.cells[kind]
        width = self.widths.most_common(1)[0][0] if kind == "vectors" and self.widths else 1
        quantity = self.codes or QUANTITY.search(name) is not None
        if kind == "numbers" and INDEX_NAME.fullmatch(name):
            kind = "index"
        ambiguous = kind == "vectors" and not declared and self.ambiguous == count
        return Column(name, cast(Kind, kind), width, total - count, quantity, ambiguous)


def describe_columns(table: RawTable, besides: Sequence[str]) -> list[Column]:
    """Return all columns of a table with their kinds, except the ones named in `besides`."""
    names = [name for name in table.columns if name not in besides]
    tallies = {name: _Tally() for name in names}
    for _, frame in table.batches(names) if names else ():
        for name in names:
            tallies[name].add(frame[name], table)
    return [tally.column(name, table.types.get(name, "")) for name, tally in tallies.items()]


def note_unused(table: RawTable, used: Collection[str]) -> list[str]:
    """Return a note that names the columns of a table that nothing uses, if there are any.

    The first block of rows decides on their kinds.
    """
    names = [name for name in table.columns if name not in used]
    if not names:
        return []
    tallies = {name: _Tally() for name in names}
    _, frame = next(iter(table.batches(names)), (0, pl.DataFrame()))
    for name in frame.columns:
        tallies[name].add(frame[name], table)
    columns = [tally.column(name, table.types.get(name, "")) for name, tally in tallies.items()]
    return [f"{table.path.name}: left out: {listed(columns)}."]


def listed(columns: Sequence[Column]) -> str:
    """Return the names and kinds of columns on one line; the middle of many is left out."""
    shown = [str(c) for c in columns]
    return ", ".join(shown if len(shown) <= 8 else [*shown[:3], "...", *shown[-2:]])
