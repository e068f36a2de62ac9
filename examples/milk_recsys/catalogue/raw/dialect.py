"""Dialect of a delimited text file: encoding, separator, quotes, header, decimal sign.

What the user does not state is found in the first megabyte. Where two readings are possible, the
file is refused with the option that decides.
"""

from __future__ import annotations

import codecs
import csv
import dataclasses
import io
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from milk_recsys.base.errors import DataError
from milk_recsys.catalogue.raw.files import open_bytes
from milk_recsys.catalogue.raw.tables import TextFormat

__all__ = ["Dialect", "csv_rows", "find_dialect"]

SAMPLE_BYTES = 1 << 20
SAMPLE_ROWS = 1000
# Of separators that fit equally well, the one that is rarest within texts and numbers comes first.
SEPARATORS = ("\t", "::", "|", ";", ",")
BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
RECBOLE_SUFFIXES = (".inter", ".item", ".user", ".net", ".link", ".kg")
Quotes = Literal["none", "doubled", "escaped"]

# A number with a decimal comma that can be nothing else, and one with a decimal point.
COMMA_NUMBER = re.compile(
    r"[+-]?(\d{1,3}([. '\u00a0\u202f]\d{3})+,\d+|\d+,(\d{1,2}|\d{4,})|0,\d+)(e[+-]?\d+)?", re.I
)
POINT_NUMBER = re.compile(
    r"[+-]?(\d{1,3}([, '\u00a0\u202f]\d{3})+\.\d+|\d*\.(\d{1,2}|\d{4,})|0\.\d+)(e[+-]?\d+)?", re.I
)
SIGNS: tuple[tuple[Literal[".", ","], re.Pattern[str]], ...] = (
    (",", COMMA_NUMBER),
    (".", POINT_NUMBER),
)
WHOLE_NUMBER = re.compile(r"[+-]?\d{1,3}([., ]?\d{3})*|[+-]?\d+")


@dataclasses.dataclass(frozen=True)
class Dialect:
    """How one text file is written.

    Attributes:
        names: names of the columns; a repeated name has a number appended.
        types: RecBole's type of each column (``token``, ``float_seq``, ...), or nothing.
        first: the first line of the file, for error messages.
        skipped_lines: number of lines before the first row.
        decimal_known: whether the user states the decimal sign or a cell of the sample shows it.
        doubled_by_sample: whether the sample, not the user, says that quotes are doubled.
    """

    encoding: str
    separator: str
    quotes: Quotes
    header: bool
    decimal: Literal[".", ","]
    decimal_known: bool
    names: tuple[str, ...]
    types: tuple[str, ...]
    first: str
    skipped_lines: int
    doubled_by_sample: bool


def find_dialect(path: Path, text: TextFormat) -> Dialect:
    """Find the dialect of a text file.

    Raises:
        DataError: the file is no text, has no rows, or numbers can be read in two ways.
    """
    encoding, sample, whole = _sample(path, text)
    first_line = next((line for line in io.StringIO(sample) if line.strip()), "").rstrip("\r\n")
    if not first_line:
        raise DataError(f"{path}: is empty.")
    named = path.name.removesuffix(".gz").endswith(RECBOLE_SUFFIXES)
    atomic = named and "\t" in first_line  # MovieLens has a file u.item of another kind.
    separators: Sequence[str] = ("\t",) if atomic else SEPARATORS
    kinds: Sequence[Quotes] = ("none",) if atomic else ("doubled", "escaped", "none")
    separator, quotes = _separator(
        sample,
        whole,
        (text.separator,) if text.separator is not None else separators,
        (text.quotes,) if text.quotes != "auto" else kinds,
    )
    rows = _parse(sample, separator, quotes, whole) or [first_line.split(separator)]
    names, types = _header(rows[0], header=text.header, atomic=atomic)
    decimal: Literal[".", ","] | None = None if text.decimal == "auto" else text.decimal
    if decimal is None:
        # In a comma-separated file a cell such as "12,5" may as well be a list of two numbers.
        cells = rows[1:] if text.header else rows
        decimal = "." if separator == "," else _decimal(path, names, cells)
    return Dialect(
        encoding=encoding,
        separator=separator,
        quotes=quotes,
        header=text.header,
        decimal=decimal or ".",
        decimal_known=decimal is not None,
        names=_distinct(names),
        types=tuple(types),
        first=first_line[:80],
        skipped_lines=_skipped_lines(sample, separator, quotes) if text.header else 0,
        doubled_by_sample=quotes == "doubled" and text.quotes == "auto",
    )


def _header(first: list[str], *, header: bool, atomic: bool) -> tuple[list[str], list[str]]:
    """Return the names of the columns, and their types in RecBole's atomic files."""
    if not header:
        return [str(k) for k in range(1, len(first) + 1)], [""] * len(first)
    names = [cell.strip().strip("\ufeff").strip() for cell in first]
    if not atomic:
        return names, [""] * len(names)
    return [n.partition(":")[0] for n in names], [n.partition(":")[2] for n in names]


def _skipped_lines(sample: str, separator: str, quotes: Quotes) -> int:
    """Return the number of lines up to the end of the header."""
    separator = "\x1f" if len(separator) > 1 else separator
    reader = csv_rows(io.StringIO(sample, newline=""), separator, quotes)
    next(row for row in reader if row)
    return int(reader.line_num)


def csv_rows(lines: Iterable[str], separator: str, quotes: Quotes, *, strict: bool = False) -> Any:
    """Return a `csv.reader` of lines of text; `separator` must be one character.

    Arguments:
        strict: whether text after a closing quote is an error.
    """
    return csv.reader(
        lines,
        delimiter=separator,
        quoting=csv.QUOTE_NONE if quotes == "none" else csv.QUOTE_MINIMAL,
        doublequote=quotes != "escaped",
        escapechar="\\" if quotes == "escaped" else None,
        strict=strict,
    )


def _sample(path: Path, text: TextFormat) -> tuple[str, str, bool]:
    """Return the encoding, the text of the first megabyte, and whether this is the whole file."""
    with open_bytes(path) as stream:
        data = stream.read(SAMPLE_BYTES)
        whole = len(data) < SAMPLE_BYTES
    encoding = next((name for bom, name in BOMS if data.startswith(bom)), text.encoding or "utf-8")
    if b"\0" in data and not encoding.startswith("utf-16"):
        raise DataError(
            f"{path}: is a binary file of an unknown kind. Give CSV, Parquet, JSON lines, .npy, "
            ".npz or HDF5."
        )
    try:
        decoder = codecs.getincrementaldecoder(encoding)()
    except LookupError:
        raise DataError(
            f"--encoding: {encoding!r} is not known. Give for example latin-1."
        ) from None
    try:
        return encoding, decoder.decode(data, final=whole), whole
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise DataError(
            f"{path}, line {line}: is not {encoding} text. Name the file's encoding, for example "
            "--encoding latin-1 (Western Europe) or --encoding cp1252 (Windows)."
        ) from None


def _separator(
    sample: str, whole: bool, separators: Sequence[str], kinds: Sequence[Quotes]
) -> tuple[str, Quotes]:
    """Return the separator and the quotes under which rows have the most cells, all equally many.

    If rows differ under every reading, the separator is the most frequent one of the first line;
    the reader then names the row that differs.
    """
    best: tuple[int, str, Quotes] | None = None
    for separator in separators:
        for quotes in kinds:
            rows = _parse(sample, separator, quotes, whole)
            widths = {len(row) for row in rows or []}
            if len(widths) == 1 and (best is None or max(widths) > best[0]):
                best = (max(widths), separator, quotes)
                break
    if best is not None and (best[0] > 1 or len(separators) == 1):
        return best[1], best[2]
    first = next(line for line in io.StringIO(sample) if line.strip())
    separator = max(separators, key=first.count)
    fitting = (q for q in kinds if _parse(sample, separator, q, whole) is not None)
    return separator, next(fitting, "none")


def _parse(sample: str, separator: str, quotes: Quotes, whole: bool) -> list[list[str]] | None:
    """Return the first rows, without empty ones; None if the quotes do not fit."""
    if len(separator) > 1:
        sample, separator = sample.replace(separator, "\x1f"), "\x1f"
    # `str.splitlines` would also split at characters that do not end a line of a table.
    lines = list(io.StringIO(sample, newline=""))
    rows: list[list[str]] = []
    reader = csv_rows(lines, separator, quotes, strict=True)
    try:
        for row in reader:
            if row:
                rows.append(row)
            if len(rows) >= SAMPLE_ROWS:
                return rows
    except csv.Error:
        # The end of the sample may lie within a quoted cell.
        if whole or reader.line_num < len(lines):
            return None
        return rows
    return rows if whole else rows[:-1]


def _decimal(path: Path, names: Sequence[str], rows: list[list[str]]) -> Literal[".", ","] | None:
    """Return the decimal sign with which a column can only be read; None if there is none."""
    found: dict[Literal[".", ","], str] = {}
    for column, name in enumerate(names):
        cells = {row[column].strip() for row in rows if column < len(row)} - {""}
        for sign, pattern in SIGNS:
            matched = [cell for cell in cells if pattern.fullmatch(cell)]
            if matched and all(
                pattern.fullmatch(c) or WHOLE_NUMBER.fullmatch(c) or not re.search(r"\d", c)
                for c in cells
            ):
                found.setdefault(sign, name)
    if len(found) == 2:
        raise DataError(
            f"{path}: the column {found[',']!r} has decimal commas, and {found['.']!r} has decimal "
            "points. State the sign with --decimal, or correct one of them."
        )
    return next(iter(found), None)


def _distinct(names: Sequence[str]) -> tuple[str, ...]:
    """Append a number to repeated names."""
    seen: dict[str, int] = {}
    distinct = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        distinct.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return tuple(distinct)
