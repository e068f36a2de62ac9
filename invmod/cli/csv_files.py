"""Text tables, with errors that name what is wrong in the file."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

from invmod._optional import import_optional
from invmod.cli.errors import UsageError

if TYPE_CHECKING:
    import polars

SIGNS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}


def read_csv(
    path: str, separator: str, *, null_values: Sequence[str] = (), as_text: bool = False
) -> polars.DataFrame:
    """Return a text table whose fields are divided by the separator.

    Arguments:
        path: of the file.
        separator: a comma or a tab.
        null_values: texts that mean missing.
        as_text: keep all values as they are written.
    """
    pl = import_optional("polars", what="Reading text tables")
    _check_header(path, separator)
    try:
        frame: polars.DataFrame = pl.read_csv(
            path,
            separator=separator,
            null_values=list(null_values) or None,
            # A column whose first rows look like integers may have other numbers later.
            infer_schema_length=None,
            infer_schema=not as_text,
        )
        return frame
    except pl.exceptions.PolarsError as error:
        cause = _cause(path, separator, error)
        raise UsageError(f"{path}: the table cannot be read: {cause}") from error


def _check_header(path: str, separator: str) -> None:
    """Raise if the file has another separator, or a header with a name twice."""
    with closing(_rows(path, separator)) as rows:
        header, first = next(rows, (0, []))[1], next(rows, (0, []))[1]
    for sign, name in SIGNS.items():
        # A text of one column may have the sign in its name, but seldom as often in its values.
        count = header[0].count(sign) if len(header) == 1 else 0
        if count and (not first or separator.join(first).count(sign) == count):
            raise UsageError(
                f"{path}: the table has one column, {header[0]!r}; its fields seem to be divided "
                f"by {name}. Divide them by {SIGNS[separator]}"
                f"{', or name the file .tsv' if (separator, sign) == (',', chr(9)) else ''}."
            )
    if twice := [name for name, count in Counter(header).items() if count > 1]:
        shown = ", ".join(map(repr, twice))
        raise UsageError(f"{path}: the header has {shown} more than once. Rename the columns.")


def _cause(path: str, separator: str, error: Exception) -> str:
    """Return why a table cannot be read, in one sentence for a user of the command."""
    with closing(_rows(path, separator)) as rows:
        width = len(next(rows, (0, []))[1])
        for line, row in rows:
            if len(row) > width:
                return (
                    f"line {line} has {len(row)} fields, the header has {width}. Quote fields that "
                    f"contain {SIGNS[separator]}."
                )
    # Further paragraphs of the message advise on arguments of polars, which the command has not.
    text = str(error).split("\n\n")[0].strip().rstrip(".")
    return f"{text}. Save it in UTF-8." if "utf-8" in text.lower() else f"{text}."


def _rows(path: str, separator: str) -> Generator[tuple[int, list[str]], None, None]:
    """Yield the number of the last line and the fields of each row that is not empty."""
    try:
        with Path(path).open(encoding="utf-8-sig", errors="replace", newline="") as file:
            reader = csv.reader(file, delimiter=separator)
            for row in reader:
                if row:
                    yield reader.line_num, row
    except csv.Error:
        # Only the messages depend on these rows; the table itself is read by polars.
        return
    except OSError as error:
        raise UsageError(f"{path}: the file cannot be read: {error.strerror}.") from error
