"""Text files with separators, parsed by pyarrow in blocks; every cell is text."""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import polars as pl
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.csv as pa_csv  # type: ignore[import-untyped]

from milk_recsys.base.errors import DataError, plural
from milk_recsys.base.reading import MAX_LINE
from milk_recsys.catalogue.raw.dialect import SAMPLE_BYTES, Dialect, csv_rows, find_dialect
from milk_recsys.catalogue.raw.files import open_bytes, reading
from milk_recsys.catalogue.raw.tables import RawTable, TextFormat

__all__ = ["DelimitedTable"]

BLOCK_BYTES = 1 << 24  # Bytes of text parsed at a time.
UNIT = "\x1f"  # Stands for a separator of two characters, such as `::`.


class DelimitedTable(RawTable):
    """A text file with separators.

    pyarrow parses the file. Only a file with a mistake is read again row by row, to name the line
    in the error message.
    """

    def __init__(self, path: Path, text: TextFormat) -> None:
        self.path, self.text = path, text
        self.dialect = find_dialect(path, text)
        self.columns, self.decimal = self.dialect.names, self.dialect.decimal
        self.decimal_known = self.dialect.decimal_known
        self.types = {n: t for n, t in zip(self.columns, self.dialect.types, strict=True) if t}

    @property
    def hint(self) -> str:
        """Advice for a column that is not there: the first line, and options."""
        if not self.dialect.header:
            return " Without a header, columns are named by their numbers from 1."
        return (
            f" Its first line is {self.dialect.first!r}, and cells are separated by "
            f"{self.dialect.separator!r}. If it has no header, give --no-header and name columns "
            "by their numbers from 1; another separator is given by --separator."
        )

    def batches(self, columns: Sequence[str]) -> Iterator[tuple[int, pl.DataFrame]]:
        """Yield the rows in blocks; see `RawTable`."""
        self.need(*columns)
        first = 0
        with open_bytes(self.path, progress=True) as stream:
            try:
                for batch in _open_csv(
                    _Utf8(stream, self.path, self.dialect), self.dialect, columns
                ):
                    frame = cast(pl.DataFrame, pl.from_arrow(batch))
                    # polars gives a column without a name one of its own.
                    frame.columns = list(dict.fromkeys(columns))
                    yield first, frame
                    first += len(frame)
            except pa.ArrowInvalid as error:
                self._find_ragged_row()
                raise DataError(
                    f"{self.path}: cannot be parsed ({str(error).splitlines()[0]:.150}). Check its "
                    "quotes, or state --quotes none."
                ) from None
        # pyarrow's allocator would otherwise keep the memory of the parsed blocks.
        pa.default_memory_pool().release_unused()

    def place(self, row: int) -> str:
        """Return the file and the line on which a row begins, counted from 1."""
        with self._rows() as rows:
            for number, (line, _) in enumerate(rows):
                if number == row:
                    return f"{self.path}, line {line}"
        return f"{self.path}, row {row}"

    def _find_ragged_row(self) -> None:
        """Raise DataError for the first row whose number of cells differs from the header's."""
        width = len(self.columns)
        with self._rows() as rows:
            for line, cells in rows:
                if len(cells) != width:
                    than = "the header has" if self.dialect.header else "the first row has"
                    raise DataError(
                        f"{self.path}, line {line}: has {plural(len(cells), 'cell', 'cells')}, but "
                        f"{than} {width} (separator {self.dialect.separator!r}). Correct the "
                        "line, or state --separator or --quotes."
                    )

    @contextmanager
    def _rows(self) -> Iterator[Iterator[tuple[int, list[str]]]]:
        """Open the file once more; yield its rows after the header, each with its first line."""
        dialect = self.dialect
        with open_bytes(self.path) as stream, reading(self.path):
            lines = io.TextIOWrapper(
                cast(IO[bytes], _Utf8(stream, self.path, dialect)),
                encoding="utf-8",
                newline="",
            )
            separator = UNIT if len(dialect.separator) > 1 else dialect.separator
            reader = csv_rows(lines, separator, dialect.quotes)
            rows = _numbered(reader)
            if dialect.header:
                next(rows, None)
            yield rows
            lines.detach()


def _numbered(reader: Any) -> Iterator[tuple[int, list[str]]]:
    """Yield the rows of a `csv.reader` that are not blank, each with its first line."""
    line = reader.line_num + 1
    for row in reader:
        if row:
            yield line, row
        line = reader.line_num + 1


def _open_csv(source: Any, dialect: Dialect, columns: Sequence[str]) -> Any:
    """Open a stream of UTF-8 with pyarrow, which yields record batches of texts."""
    separator = UNIT if len(dialect.separator) > 1 else dialect.separator
    return pa_csv.open_csv(
        pa.PythonFile(source, mode="r"),
        read_options=pa_csv.ReadOptions(
            column_names=list(dialect.names),
            skip_rows=dialect.skipped_lines,
            block_size=BLOCK_BYTES,
            use_threads=False,
        ),
        parse_options=pa_csv.ParseOptions(
            delimiter=separator,
            quote_char=False if dialect.quotes == "none" else '"',
            double_quote=dialect.quotes == "doubled",
            escape_char="\\" if dialect.quotes == "escaped" else False,
            newlines_in_values=dialect.quotes != "none",
        ),
        convert_options=pa_csv.ConvertOptions(
            column_types=dict.fromkeys(columns, pa.string()),
            include_columns=list(dict.fromkeys(columns)),
            null_values=[],
        ),
    )


class _Utf8(io.RawIOBase):
    """The bytes of a text file as UTF-8, with one character in place of a longer separator."""

    def __init__(self, stream: BinaryIO, path: Path, dialect: Dialect) -> None:
        self.stream, self.path, self.dialect = stream, path, dialect
        self.decoder = codecs.getincrementaldecoder(dialect.encoding)()
        self.buffer, self.held, self.bytes, self.lines, self.ended = b"", "", 0, 0, False
        self.line_bytes = 0  # Bytes read of the line that is not complete yet.

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        block = self.read(len(target)) or b""
        target[: len(block)] = block
        return len(block)

    def read(self, size: int = -1) -> bytes:
        """Return at most `size` bytes, and none at the end."""
        while not self.ended and (size < 0 or len(self.buffer) < size):
            self.buffer += self._next(max(size, 1 << 16))
        size = len(self.buffer) if size < 0 else size
        block, self.buffer = self.buffer[:size], self.buffer[size:]
        return block

    def _next(self, size: int) -> bytes:
        data = self.stream.read(size)
        self.ended = not data
        try:
            text = self.held + self.decoder.decode(data, final=self.ended)
        except UnicodeDecodeError as error:
            line = self.lines + data[: max(0, error.start)].count(b"\n") + 1
            raise DataError(
                f"{self.path}, line {line}: is not {self.dialect.encoding} text. Name the file's "
                "encoding, for example --encoding latin-1 (Western Europe)."
            ) from None
        self.lines += data.count(b"\n")
        self.line_bytes = len(data.rpartition(b"\n")[2]) + (b"\n" not in data) * self.line_bytes
        if self.line_bytes > MAX_LINE:
            raise DataError(
                f"{self.path}, line {self.lines + 1}: has more than {MAX_LINE:,} bytes. Is this a "
                "table with one row per line?"
            )
        self.bytes += len(data)
        self._check_escapes(text)
        separator = self.dialect.separator
        if len(separator) == 1:
            return text.encode("utf-8")
        # The end of a block may hold the beginning of a separator, which is kept for the next one.
        tail = text.rpartition(separator)[2]
        parts = range(0 if self.ended else len(separator) - 1, 0, -1)
        cut = next((k for k in parts if tail.endswith(separator[:k])), 0)
        self.held = text[len(text) - cut :]
        return text[: len(text) - cut].replace(separator, UNIT).encode("utf-8")

    def _check_escapes(self, text: str) -> None:
        """Refuse a backslash before a quote that the sample of the file did not have."""
        if self.bytes > SAMPLE_BYTES and self.dialect.doubled_by_sample and '\\"' in text:
            raise DataError(
                f'{self.path}: has the characters \\" after its first megabyte, where quotes are '
                "doubled. State --quotes escaped if a backslash escapes a quote, or --quotes "
                "doubled if it does not."
            )
