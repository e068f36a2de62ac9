"""Tables in JSON: one object per line, or a list of objects."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from milk_recsys.base.errors import DataError
from milk_recsys.base.reading import MAX_JSON, MAX_LINE
from milk_recsys.catalogue.raw.files import open_bytes
from milk_recsys.catalogue.raw.tables import ROWS_AT_ONCE, RawTable, TextFormat

__all__ = ["JsonTable", "json_objects"]

HEAD = 1000  # Number of objects whose keys are the columns.
LARGEST_WHOLE = 2**53


class JsonTable(RawTable):
    """Objects, of which a key is a column. An absent key and null are empty cells.

    Nested objects, and lists of objects, are kept as JSON text.
    """

    def __init__(self, path: Path, text: TextFormat) -> None:
        self.path, self.text, self.types = path, text, {}
        keys: dict[str, None] = {}
        for number, (_, record) in enumerate(self._objects(progress=False)):
            keys |= dict.fromkeys(record)
            if number >= HEAD:
                break
        if not keys:
            raise DataError(f"{path}: has no objects.")
        self.columns = tuple(keys)

    def batches(self, columns: Sequence[str]) -> Iterator[tuple[int, pl.DataFrame]]:
        """Yield the objects in blocks; see `RawTable`."""
        self.need(*columns)
        names, first = list(dict.fromkeys(columns)), 0
        cells: dict[str, list[Any]] = {name: [] for name in names}
        for _, record in self._objects():
            for name in names:
                cells[name].append(record.get(name))
            if len(cells[names[0]]) == ROWS_AT_ONCE:
                yield first, pl.DataFrame([_series(n, c) for n, c in cells.items()])
                first += ROWS_AT_ONCE
                cells = {name: [] for name in names}
        if cells[names[0]]:
            yield first, pl.DataFrame([_series(n, c) for n, c in cells.items()])

    def place(self, row: int) -> str:
        """Return the file and the line of an object, counted from 1."""
        for number, (line, _) in enumerate(self._objects(progress=False)):
            if number == row:
                return f"{self.path}, line {line}"
        return f"{self.path}, object {row}"

    def _objects(self, *, progress: bool = True) -> Iterator[tuple[int, dict[str, Any]]]:
        encoding = self.text.encoding or "utf-8"
        return json_objects(self.path, encoding, progress=progress)


def json_objects(
    path: Path, encoding: str = "utf-8", *, progress: bool = True
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the numbered objects of a file with one object per line, or of one list.

    The lines of Amazon's metadata of 2014 are Python literals, which are parsed as well and never
    run.

    Raises:
        DataError: a line is neither, or no object.
    """
    with open_bytes(path, progress=progress) as stream:
        for number, data in enumerate(iter(lambda: stream.readline(MAX_LINE), b""), 1):
            line = _decode(path, number, data, encoding).strip().lstrip("\ufeff")
            if not line:
                continue
            if number == 1 and line[0] == "[":
                rest = stream.read(MAX_JSON)
                if len(rest) == MAX_JSON:
                    raise DataError(
                        f"{path}: is a JSON list of more than {MAX_JSON:,} bytes. Write one object "
                        "per line."
                    )
                yield from _list(path, line + _decode(path, 2, rest, encoding))
                return
            if len(data) == MAX_LINE and not data.endswith(b"\n"):
                raise DataError(f"{path}, line {number}: has more than {MAX_LINE:,} bytes.")
            record = _parse(path, number, line)
            if not isinstance(record, dict):
                raise DataError(
                    f"{path}, line {number}: must be an object, got {type(record).__name__}."
                )
            yield number, record


def _decode(path: Path, number: int, data: bytes, encoding: str) -> str:
    """Return the text of bytes that begin in line `number`."""
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = number + data[: error.start].count(b"\n")
        raise DataError(
            f"{path}, line {line}: is not {encoding} text. Name the file's encoding, for example "
            "--encoding latin-1 (Western Europe)."
        ) from None
    except LookupError:
        raise DataError(
            f"--encoding: {encoding!r} is not known. Give for example latin-1."
        ) from None


def _parse(path: Path, number: int, line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        pass
    try:
        return ast.literal_eval(line)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        raise DataError(
            f"{path}, line {number}: is neither JSON nor a Python literal. Remove the line, or "
            "download the file again."
        ) from None


def _list(path: Path, text: str) -> Iterator[tuple[int, dict[str, Any]]]:
    try:
        records = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is not valid JSON ({error!s:.100}).") from None
    for number, record in enumerate(records, 1):
        if not isinstance(record, dict):
            raise DataError(f"{path}: entry {number} of the list must be an object.")
        yield number, record


def _series(name: str, cells: list[Any]) -> pl.Series:
    """Return cells as one column: numbers, lists of numbers, lists of texts, or texts."""
    kinds = {_kind(cell) for cell in cells} - {"empty"}
    if not kinds:
        return pl.Series(name, [None] * len(cells), dtype=pl.Null)
    if kinds <= {"bool"}:
        return pl.Series(name, cells, dtype=pl.Boolean)
    if kinds <= {"int"}:
        return pl.Series(name, cells, dtype=pl.Int64)
    if kinds <= {"int", "float"}:
        return pl.Series(name, [c if c is None else float(c) for c in cells], dtype=pl.Float64)
    if kinds <= {"numbers", "no numbers"} and "numbers" in kinds:
        return pl.Series(name, cells, dtype=pl.List(pl.Float64), strict=False)
    if kinds <= {"texts", "no numbers"}:
        lists = [None if c is None else [_text(word) for word in _flat(c)] for c in cells]
        return pl.Series(name, lists, dtype=pl.List(pl.String))
    return pl.Series(name, [_text(cell) for cell in cells], dtype=pl.String)


def _kind(cell: Any) -> str:
    if cell is None:
        return "empty"
    if isinstance(cell, bool):
        return "bool"
    if isinstance(cell, int):
        return "int" if abs(cell) < LARGEST_WHOLE else "text"
    if isinstance(cell, float):
        return "float"
    if isinstance(cell, list):
        if not cell:
            return "no numbers"
        number = all(isinstance(x, int | float) and not isinstance(x, bool) for x in cell)
        return "numbers" if number else "texts"
    return "text"


def _flat(cells: list[Any]) -> Iterator[Any]:
    """Yield the entries of nested lists."""
    for cell in cells:
        if isinstance(cell, list):
            yield from _flat(cell)
        else:
            yield cell


def _text(cell: Any) -> str | None:
    """Return a cell as text; nested objects as JSON, a list of texts by its words."""
    if isinstance(cell, dict | list):
        cell = json.dumps(cell, ensure_ascii=False) if cell else None
    if cell is None:
        return None
    text = str(cell)
    try:
        text.encode()
    except UnicodeEncodeError:  # Half of an emoji, which JSON may escape and UTF-8 cannot hold.
        return text.encode("utf-8", "replace").decode()
    return text
