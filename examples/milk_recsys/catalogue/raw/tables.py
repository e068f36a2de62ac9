"""Tables of raw data, read in blocks of rows: one class for all formats and folders of parts."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import polars as pl

from milk_recsys.base.errors import DataError
from milk_recsys.catalogue.raw.files import file_format, parts_of
from milk_recsys.catalogue.raw.values import BadCell, Missing, id_texts, numbers, plain_ids

__all__ = ["FrameTable", "PartsTable", "RawTable", "TextFormat", "open_table", "shown_names"]

ROWS_AT_ONCE = 65_536  # Number of rows of a block.


@dataclasses.dataclass(frozen=True)
class TextFormat:
    """What the user states about text files; None and "auto" are found in each file.

    Attributes:
        separator: text between two cells.
        encoding: name of a Python codec.
        decimal: decimal sign of numbers.
        quotes: whether quotes around a cell are plain characters (``none``), and whether a quote
            within a cell is doubled or follows a backslash (``escaped``).
        header: whether the first line names the columns; else they are called 1, 2, ...
        missing: further spellings of an empty cell, or COLUMN=SPELLING for one column.
    """

    separator: str | None = None
    encoding: str | None = None
    decimal: Literal["auto", ".", ","] = "auto"
    quotes: Literal["auto", "none", "doubled", "escaped"] = "auto"
    header: bool = True
    missing: tuple[str, ...] = ()


class RawTable(abc.ABC):
    """A table whose rows are read in blocks, as often as needed.

    Attributes:
        path: the file, for error messages.
        columns: names of the columns.
        types: RecBole's type of a column (``token``, ``float_seq``, ...), where there is one.
        decimal: decimal sign of numbers in texts.
        decimal_known: whether the user states the sign or a cell shows it.
        text: what the user states about text files.
    """

    path: Path
    columns: tuple[str, ...]
    types: dict[str, str]
    decimal: Literal[".", ","] = "."
    decimal_known: bool = False
    text: TextFormat

    @abc.abstractmethod
    def batches(self, columns: Sequence[str]) -> Iterator[tuple[int, pl.DataFrame]]:
        """Yield blocks of rows with the given columns, each with the number of its first row."""

    @abc.abstractmethod
    def place(self, row: int) -> str:
        """Return the file and the line of a row, for error messages."""

    @property
    def hint(self) -> str:
        """Advice for a column that is not there."""
        return ""

    def need(self, *columns: str) -> None:
        """Raise DataError unless the table has all these columns."""
        for name in columns:
            if name not in self.columns:
                raise DataError(
                    f"{self.path}: has no column {name!r}; it has {shown_names(self.columns)}."
                    f"{self.hint}"
                )

    def missing(self, column: str) -> list[str]:
        """Return the user's further spellings of an empty cell in a column."""
        return Missing(self.text.missing, self.columns).of(column)

    def fail(self, bad: BadCell, column: str, first: int = 0) -> DataError:
        """Return the error for a bad cell of a block that begins with the row `first`."""
        return DataError(f"{self.place(first + bad.row)}, column {column!r}: {bad.problem}.")

    def numbers(self, frame: pl.DataFrame, column: str, first: int) -> pl.Series:
        """Return the numbers of a column of a block; see `values.numbers`."""
        values = numbers(frame[column], self.decimal, self.missing(column))
        if isinstance(values, BadCell):
            raise self.fail(values, column, first)
        return values

    def ids(self, frame: pl.DataFrame, column: str, first: int) -> pl.Series:
        """Return the ids of a column of a block; see `values.id_texts`."""
        values = id_texts(frame[column])
        if isinstance(values, BadCell):
            raise self.fail(values, column, first)
        return values

    def distinct_ids(self, column: str) -> list[str | None]:
        """Return the id of every row, and None for an empty cell."""
        self.need(column)
        found: list[str | None] = []
        is_text = True
        for first, frame in self.batches([column]):
            is_text = is_text and frame[column].dtype == pl.String
            found += self.ids(frame, column, first).to_list()
        if is_text:
            plain = iter(plain_ids([text for text in found if text is not None]))
            found = [None if text is None else next(plain) for text in found]
        return found


class PartsTable(RawTable):
    """The parts of one table, one after the other."""

    def __init__(self, path: Path, parts: Sequence[RawTable]) -> None:
        self.path, self.parts, self.text = path, list(parts), parts[0].text
        self.columns, self.types = parts[0].columns, parts[0].types
        self.decimal = self._common_sign()
        self._starts: list[int] = []

    def _common_sign(self) -> Literal[".", ","]:
        """Return the decimal sign of the parts, some of which may show none."""
        shown = {part.decimal: part.path for part in self.parts if part.decimal_known}
        if len(shown) == 2:
            raise DataError(
                f"{self.path}: {shown[','].name} has decimal commas, and {shown['.'].name} has "
                "decimal points. Convert the numbers of one of them."
            )
        return next(iter(shown), ".")

    def batches(self, columns: Sequence[str]) -> Iterator[tuple[int, pl.DataFrame]]:
        """Yield the blocks of all parts; see `RawTable`."""
        start, starts = 0, []
        for part in self.parts:
            part.need(*columns)
            starts.append(start)
            rows = 0
            for first, frame in part.batches(columns):
                rows = first + len(frame)
                yield start + first, frame
            start += rows
            self._starts = starts

    def place(self, row: int) -> str:
        """Return the part and the line of a row."""
        index = max(k for k, start in enumerate([0, *self._starts[1:]]) if start <= row)
        return self.parts[index].place(row - ([0, *self._starts[1:]][index]))


class FrameTable(RawTable):
    """A table in memory."""

    def __init__(self, frame: pl.DataFrame, name: str, text: TextFormat | None = None) -> None:
        self.frame, self.path, self.text = frame, Path(name), text or TextFormat()
        self.columns, self.types = tuple(frame.columns), {}

    def batches(self, columns: Sequence[str]) -> Iterator[tuple[int, pl.DataFrame]]:
        """Yield the rows in blocks; see `RawTable`."""
        for first in range(0, len(self.frame), ROWS_AT_ONCE):
            yield first, self.frame[first : first + ROWS_AT_ONCE].select(columns)

    def place(self, row: int) -> str:
        """Return the name of the table and the row."""
        return f"{self.path}, row {row}"


def shown_names(columns: Sequence[str]) -> str:
    """Return names of columns on one line, for an error message."""
    # A file without a header has cells in place of names, which may be long.
    names = [" ".join(name.split())[:60] or "(no name)" for name in columns[:40]]
    return ", ".join(names) + (", ..." if len(columns) > 40 else "")


def open_table(path: Path, text: TextFormat | None = None) -> RawTable:
    """Open a file, or a folder of parts, as a table.

    Text files with separators, JSON lines, Parquet and Arrow files are tables; the first bytes of
    the file decide.

    Raises:
        DataError: the file is absent, empty, damaged, or no table.
    """
    text = text or TextFormat()
    tables = [_open(part, text) for part in parts_of(path)]
    return tables[0] if len(tables) == 1 else PartsTable(path, tables)


def _open(path: Path, text: TextFormat) -> RawTable:
    # The readers build on this module, hence the imports here.
    from milk_recsys.catalogue.raw.columnar import ArrowTable, ParquetTable
    from milk_recsys.catalogue.raw.delimited import DelimitedTable
    from milk_recsys.catalogue.raw.json_lines import JsonTable

    kind = file_format(path)
    if kind == "parquet":
        return ParquetTable(path, text)
    if kind == "arrow":
        return ArrowTable(path, text)
    if kind == "json":
        return JsonTable(path, text)
    if kind == "text":
        return DelimitedTable(path, text)
    raise DataError(f"{path}: is a file of arrays ({kind}), not a table.")
