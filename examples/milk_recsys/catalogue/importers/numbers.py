"""Modalities that are numbers in files: columns of a table, or the rows of an array."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from milk_recsys.base.errors import DataError
from milk_recsys.catalogue.encoders.saved import Recipe
from milk_recsys.catalogue.importers.matching import Matching, Place
from milk_recsys.catalogue.importers.rows import copy_rows
from milk_recsys.catalogue.importers.write import Draft
from milk_recsys.catalogue.raw.arrays import FeatureRows, open_rows
from milk_recsys.catalogue.raw.columns import Column, describe_columns
from milk_recsys.catalogue.raw.feature_columns import choose_features, find_columns, note_columns
from milk_recsys.catalogue.raw.files import file_format
from milk_recsys.catalogue.raw.tables import RawTable, TextFormat, open_table
from milk_recsys.catalogue.raw.values import BadCell, vectors

__all__ = ["is_array", "number_blocks", "write_numbers", "write_rows", "write_table_numbers"]

ROWS_AT_ONCE = 65_536  # Number of rows of an array read at a time.
Block = npt.NDArray[np.float32]


def write_numbers(
    draft: Draft,
    name: str,
    place: Place,
    matching: Matching,
    *,
    text: TextFormat,
    item_ids: Path | None = None,
) -> Recipe | None:
    """Write a modality from a table with numbers or vectors, or from an array of rows.

    Arguments:
        item_ids: text file with the id of each row of an array.

    Returns:
        The recipe for new items; None for an array, which has no columns.
    """
    if is_array(place.path):
        key = place.columns[0] if place.columns else None
        kind = file_format(place.path)
        rows = open_rows(place.path, kind, key, item_ids, matching.item_column)
        write_rows(draft, name, rows, matching)
        return None
    table = open_table(place.path, text)
    return write_table_numbers(draft, name, table, place.columns, matching)


def is_array(path: Path) -> bool:
    """Return whether a file holds arrays, not a table."""
    return not path.is_dir() and file_format(path) in ("npy", "npz", "hdf5")


def write_table_numbers(
    draft: Draft,
    name: str,
    table: RawTable,
    wanted: Sequence[str],
    matching: Matching,
    *,
    checked: bool = True,
) -> Recipe:
    """Write a modality from columns of a table.

    Arguments:
        wanted: the columns; if there are none, `raw.columns.choose_features` chooses them.
        checked: whether to look for rows that were probably filled in.
    """
    table.need(matching.item_column)
    columns = describe_columns(table, [matching.item_column])
    chosen = (
        find_columns(columns, wanted, table.path)
        if wanted
        else choose_features(columns, name, table.path)
    )
    used = find_columns(columns, [c.name for c in chosen], table.path)
    draft.notes.append(note_columns(name, table.path.name, used, columns))
    places = matching.table_places(table, name, draft)
    target = draft.new_features(name, sum(column.width for column in used))
    if target.shape[1] == 1:
        draft.warnings.append(
            f"{name}: a single number. Rows are scaled to unit length in training, which leaves "
            "only its sign; give several numbers, such as bins of it, or --no-scale-features."
        )
    for first, block in number_blocks(table, used, matching.item_column):
        into = places[first : first + len(block)]
        target[into[into >= 0]] = block[into >= 0]
    draft.finish_features(name, target, table.path.name, checked=checked)
    return Recipe(matching.item_column, tuple(column.name for column in used))


def number_blocks(table: RawTable, columns: Sequence[Column], item_column: str) -> Any:
    """Yield the features of the rows of a table in blocks (n, d), each with its first row.

    Raises:
        DataError: a cell is no number, a vector has another length, or a row has some but not all
            of its numbers; the message names the line, the column and the item.
    """
    names = [column.name for column in columns]
    for first, frame in table.batches([item_column, *names]):
        parts = [_cells(table, frame, column, first, item_column) for column in columns]
        with np.errstate(over="ignore"):  # An overflow gives an infinity, which is refused below.
            block = np.concatenate(parts, axis=1).astype(np.float32)
        holes = np.isnan(block)
        partial = holes.any(axis=1) & ~holes.all(axis=1)
        if partial.any():
            row = int(partial.argmax())
            widths = np.cumsum([column.width for column in columns])
            column = columns[int(np.searchsorted(widths, holes[row].argmax(), side="right"))]
            raise _fail(
                table, frame, BadCell(row, "is empty, but other features of this item are not"),
                column.name, first, item_column, "Fill it in, or empty all of them."
            )  # fmt: skip
        if np.isinf(block).any():
            row = int(np.isinf(block).any(axis=1).argmax())
            raise _fail(
                table, frame, BadCell(row, "has a number beyond the range of float32"),
                names[0], first, item_column, "Scale the features.",
            )  # fmt: skip
        yield first, block


def _cells(
    table: RawTable, frame: pl.DataFrame, column: Column, first: int, item_column: str
) -> npt.NDArray[np.float64]:
    """Return the numbers of one column of a block, (n, width)."""
    if column.kind != "vectors":
        values = table.numbers(frame, column.name, first)
        return values.fill_null(np.nan).to_numpy()[:, None]
    block = np.full((len(frame), column.width), np.nan)
    for row, vector in enumerate(vectors(frame[column.name], table.missing(column.name))):
        problem = ""
        if len(vector) not in (0, column.width):
            problem = f"has {len(vector)} numbers instead of {column.width}"
        elif np.isinf(vector).any():
            problem = "has an infinity"
        elif np.isnan(vector).any() and not np.isnan(vector).all():
            problem = "has an empty place or NaN among its numbers"
        if problem:
            advice = "Correct the vector, or empty the whole cell: the item then lacks it."
            bad = BadCell(row, problem)
            raise _fail(table, frame, bad, column.name, first, item_column, advice)
        if len(vector):
            block[row] = vector
    return block


def _fail(
    table: RawTable,
    frame: pl.DataFrame,
    bad: BadCell,
    column: str,
    first: int,
    item_column: str,
    advice: str,
) -> DataError:
    item = frame[item_column][bad.row]
    return DataError(
        f"{table.place(first + bad.row)}, column {column!r}, item {str(item).strip()!r}: "
        f"{bad.problem}. {advice}"
    )


def write_rows(
    draft: Draft, name: str, source: FeatureRows, matching: Matching, *, checked: bool = True
) -> None:
    """Write a modality from the rows of an array, of which only those of items are read.

    Arguments:
        checked: whether to look for rows that were probably filled in.
    """
    places = matching.places(source.ids, source.path, name, draft)
    target = draft.new_features(name, source.rows.shape[1], source.rows.dtype)
    used = np.flatnonzero(places >= 0)
    for start in range(0, len(used), ROWS_AT_ONCE):
        rows = used[start : start + ROWS_AT_ONCE]
        block = np.empty((len(rows), source.rows.shape[1]), target.dtype)
        copy_rows(source.rows[rows], block, source.path, [source.ids[k] for k in rows])
        target[places[rows]] = block
    draft.finish_features(name, target, source.path.name, checked=checked)
