"""Kinds of the columns of a table, and which of them are features if nobody says so."""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Sequence
from typing import Literal, cast

import polars as pl

from milk_recsys.base.errors import DataError, plural
from milk_recsys.catalogue.raw.tables import RawTable, shown_names
from milk_recsys.catalogue.raw.values import (
    CUT_CELL,
    LIST_CELL,
    VECTOR_CELL,
    blank_to_null,
    number_cells,
)

__all__ = ["Column", "choose_features", "describe_columns", "find_columns", "note_columns"]

NUMERIC = ("numbers", "booleans")
Kind = Literal[
    "index", "numbers", "booleans", "vectors", "cut vectors", "text", "lists", "times", "empty"
]
DECLARED = {"token": "text", "token_seq": "text", "float": "numbers", "float_seq": "vectors"}

INDEX_NAME = re.compile(
    r"|Unnamed: \d+(_level_\d+)?|__index_level_\d+__|level_0|index|row_?(nr|id)?"
)
COUNTED = re.compile(r"(.*?)[ _.\-]?(\d+)")
# Names of quantities, codes and times, which are numbers but not coordinates of a feature vector.
QUANTITY = re.compile(
    r"(^|[\W_])(price|preis|prix|precio|cost|amount|qty|quantity|menge|stock|sales?|sold|revenue"
    r"|rating|ratings|rank|score|stars|votes?|count|n|num|number|no|nr|id|ids|code|isbn\d*|ean|gtin"
    r"|sku|asin|upc|zip|plz|year|jahr|month|day|date|datum|time|timestamp|unix|age|weight"
    r"|width|height|depth|length|size|label|class|category|type|user|item|index)($|[\W_])",
    re.IGNORECASE,
)


@dataclasses.dataclass(frozen=True)
class Column:
    """A column of a table, after all its cells have been seen.

    Attributes:
        kind: what the cells hold; the kind that most non-empty cells have.
        width: number of features: 1, or the length of the vectors.
        exceptions: number of non-empty cells that are not of this kind.
        quantity: whether the name is that of a price, a code, a time or their like.
    """

    name: str
    kind: Kind
    width: int = 1
    exceptions: int = 0
    quantity: bool = False

    def __str__(self) -> str:
        name = shown_names([self.name])
        kind = f"vectors of {self.width}" if self.kind == "vectors" else str(self.kind)
        if self.kind == "index":
            kind = "index of the rows"
        if self.kind == "cut vectors":
            kind = "vectors cut with ... when they were printed"
        return f"{name} ({kind})"


class _Tally:
    """Counts of the cells of one column by what they can be read as."""

    def __init__(self) -> None:
        self.cells: Counter[str] = Counter()
        self.widths: Counter[int] = Counter()
        self.codes = False

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
        truth = cells.str.to_lowercase().is_in(["true", "false"])
        number = number_cells(cells, table.decimal).is_not_null() & ~truth
        rest = cells.filter(~number & ~truth)
        vector = rest.str.contains(VECTOR_CELL)
        cut = rest.str.contains(f"(?s){CUT_CELL}")
        listed = rest.str.contains(f"(?s){LIST_CELL}") & ~cut
        self.cells["booleans"] += int(truth.sum())
        self.cells["numbers"] += int(number.sum())
        self.cells["vectors"] += int(vector.sum())
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
        return Column(name, cast(Kind, kind), width, total - count, quantity)


def describe_columns(table: RawTable, besides: Sequence[str]) -> list[Column]:
    """Return all columns of a table with their kinds, except the ones named in `besides`."""
    names = [name for name in table.columns if name not in besides]
    tallies = {name: _Tally() for name in names}
    for _, frame in table.batches(names) if names else ():
        for name in names:
            tallies[name].add(frame[name], table)
    return [tally.column(name, table.types.get(name, "")) for name, tally in tallies.items()]


def choose_features(columns: Sequence[Column], modality: str, where: object) -> list[Column]:
    """Return the columns that are the features of a modality if the user names none.

    These are a column of vectors, else numbered columns (``e0, e1, ...``), else columns of numbers
    that are no index, price, code or time.

    Raises:
        DataError: there is none, or there are several columns of vectors.
    """
    vectors = [c for c in columns if c.kind in ("vectors", "cut vectors")]
    readable = [c for c in vectors if c.kind == "vectors"]
    named = [c for c in vectors if c.name == modality]
    if named or len(readable) == 1:
        return named or readable
    if readable:
        raise DataError(
            f"{where}: has several columns of vectors: {_listed(readable)}. Name those of the "
            f"modality: --feature-columns {modality}={readable[0].name}."
        )
    numbers = [c for c in columns if c.kind in ("numbers", "booleans")]
    families = _numbered(columns)
    families = {p: f for p, f in families.items() if modality in p} or families
    if len(families) > 1:
        prefixes = ", ".join(f"{prefix}*" for prefix in families)
        raise DataError(
            f"{where}: has several sets of numbered columns: {prefixes}. Name those of the "
            f"modality: --feature-columns {modality}={next(iter(families))}*."
        )
    chosen = next(iter(families.values()), [c for c in numbers if not c.quantity])
    if chosen:
        return chosen
    advice = numbers[0].name if numbers else "COLUMN"
    raise DataError(
        f"{where}: has no column that is a feature unasked: {_listed(columns) or 'nothing else'}. "
        f"Name the features: --feature-columns {modality}={advice}, or read texts with --text."
    )


def _numbered(columns: Sequence[Column]) -> dict[str, list[Column]]:
    """Return the sets of columns that are numbered, like ``e0, e1, e2``, by their prefix."""
    groups: dict[str, list[Column]] = {}
    for column in columns:
        match = COUNTED.fullmatch(column.name)
        # Columns without a name of their own (1, 2, ...) belong together only if all are numbers.
        if match and column.kind != "index" and (match[1] or column.kind in NUMERIC):
            groups.setdefault(match[1], []).append(column)
    return {
        prefix: group
        for prefix, group in groups.items()
        if len(group) > 1 and sum(c.kind in NUMERIC for c in group) * 2 > len(group)
    }


def find_columns(columns: Sequence[Column], wanted: Sequence[str], where: object) -> list[Column]:
    """Return the columns that the user names; ``*`` stands for any text within a name.

    Raises:
        DataError: a name fits no column, or a column cannot be a feature.
    """
    chosen: list[Column] = []
    for pattern in wanted:
        form = re.compile(".*".join(map(re.escape, pattern.split("*"))))
        fitting = [c for c in columns if form.fullmatch(c.name)]
        if not fitting:
            raise DataError(f"{where}: has no column {pattern!r}; it has {_listed(columns)}.")
        chosen += [c for c in fitting if c not in chosen]
    for column in chosen:
        if column.kind == "cut vectors":
            raise DataError(
                f"{where}, column {column.name!r}: its vectors were cut with ... when they were "
                "printed, so numbers are lost. Write them again, for example as Parquet."
            )
        if column.kind in ("text", "lists", "times", "empty"):
            raise DataError(
                f"{where}, column {column.name!r}: holds {column.kind}, no numbers. Leave it out, "
                "or read it with --text or --categories."
            )
    return chosen


def note_columns(
    modality: str, where: object, used: Sequence[Column], all_: Sequence[Column]
) -> str:
    """Return the note that names the columns used and left out."""
    left_out = [c for c in all_ if c not in used]
    note = f"{modality}: {plural(sum(c.width for c in used), 'feature', 'features')} from "
    note += f"{_listed(used)} of {where}"
    return note + (f"; left out: {_listed(left_out)}." if left_out else ".")


def _listed(columns: Sequence[Column]) -> str:
    shown = [str(c) for c in columns]
    return ", ".join(shown if len(shown) <= 8 else [*shown[:3], "...", *shown[-2:]])
