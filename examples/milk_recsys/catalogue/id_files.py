"""Files that name users, items, or pairs of them: tables with these columns, or lines of text."""

from __future__ import annotations

from pathlib import Path

from milk_recsys.base.errors import DataError
from milk_recsys.catalogue.raw.files import file_format, parts_of
from milk_recsys.catalogue.raw.tables import RawTable, open_table, shown_names
from milk_recsys.catalogue.tsv import read_lines

__all__ = ["read_id_file", "read_pair_file"]


def read_id_file(path: Path, column: str, option: str) -> list[str]:
    """Return the ids in a file, without repetitions, in their order.

    The file is a table with the column `column`, in any format that `prepare table` reads. In a
    text file without such a column every line is an id.

    Arguments:
        option: the option that names the file, for messages.

    Raises:
        DataError: the file cannot be read, has no such column, or has no id.
    """
    table = open_table(path)
    name = _column(table, column)
    if name is None and file_format(parts_of(path)[0]) == "text":
        texts = [text for line in read_lines(path) if (text := line.strip())]
    elif name is None:
        raise DataError(
            f"{option}: {path} has no column {column!r}; it has {shown_names(table.columns)}. Name "
            f"the column of {column}s {column!r}, or write one {column} per line."
        )
    else:
        texts = _ids(table, name, option)
    if not texts:
        raise DataError(f"{option}: {path} has no {column}. Leave the option out.")
    return list(dict.fromkeys(texts))


def read_pair_file(path: Path, columns: tuple[str, str], option: str) -> list[tuple[str, str]]:
    """Return the distinct pairs of ids in a table with two columns, in their order.

    Raises:
        DataError: the file cannot be read, or lacks a column.
    """
    table = open_table(path)
    names = []
    for column in columns:
        name = _column(table, column)
        if name is None:
            raise DataError(
                f"{option}: {path} has no column {column!r}; it has {shown_names(table.columns)}. "
                f"Give a table of pairs with the columns {' and '.join(columns)}."
            )
        names.append(name)
    users, items = (_ids(table, name, option) for name in names)
    return list(dict.fromkeys(zip(users, items, strict=True)))


def _column(table: RawTable, column: str) -> str | None:
    """Return the column of ids that a table has.

    In a table that `recommend` wrote, `user` and `item` are numbers of rows, so the columns of its
    ids or names are taken if it has them.
    """
    stripped = {name.strip(): name for name in table.columns}
    own = [f"{column}_id", f"{column}_name"] if {"rank", "score"} <= stripped.keys() else []
    return next((stripped[name] for name in (*own, column) if name in stripped), None)


def _ids(table: RawTable, column: str, option: str) -> list[str]:
    texts = []
    for row, text in enumerate(table.distinct_ids(column)):
        if text is None:
            raise DataError(f"{option}: {table.place(row)} has no id. Leave the row out.")
        texts.append(text)
    return texts
