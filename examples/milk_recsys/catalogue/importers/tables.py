"""Importer for pairs and features in tables: CSV or Parquet, with ids of any type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from milk_recsys.base.errors import DataError, plural
from milk_recsys.catalogue.importers.write import Draft, Ids, copy_rows, read_features

__all__ = ["prepare_table"]

ROWS_AT_ONCE = 65_536  # Number of table rows read at a time.


def prepare_table(
    draft: Draft,
    pairs: Path,
    features: Mapping[str, Path],
    *,
    user_column: str,
    item_column: str,
    item_ids: Path | None,
) -> None:
    """Write a data set from tables.

    Arguments:
        pairs: CSV or Parquet file with a column of users and one of items; other columns are
            ignored.
        features: modality -> a table with `item_column` and columns of numbers, or an .npy file.
        user_column, item_column: names of these columns.
        item_ids: text file with one id per line, the item of each row of the .npy files.
    """
    # Ids of any type become texts, which are numbered in the order of their first appearance.
    users, items, blocks = Ids(), Ids(), []
    for table in _batches(pairs, [user_column, item_column]):
        columns = [(users, table[user_column]), (items, table[item_column])]
        blocks.append(
            np.stack([[ids.number(x) for x in _texts(pairs, c)] for ids, c in columns], axis=1)
        )
    if not blocks:
        raise DataError(f"{pairs}: there are no interactions at all.")
    draft.write_pairs(np.concatenate(blocks).astype(np.int64), len(users), len(items))
    draft.write_names(users.names, items.names)
    for name, path in features.items():
        if path.suffix == ".npy":
            _from_array(draft, name, path, items, item_ids)
        else:
            _from_table(draft, name, path, items, item_column)
    draft.write_manifest()


def _scan(path: Path) -> pl.LazyFrame:
    """Open a table lazily, with types inferred from all rows, not only from the first ones."""
    if not path.is_file():
        raise DataError(f"{path}: no such file.")
    if path.suffix in (".parquet", ".pq"):
        return pl.scan_parquet(path)
    if path.suffix in (".csv", ".tsv", ".txt"):
        separator = "," if path.suffix == ".csv" else "\t"
        # The inference reads the whole file, so it is done once and not for every block of rows.
        inferred = pl.scan_csv(path, separator=separator, infer_schema_length=None)
        return pl.scan_csv(path, separator=separator, schema=inferred.collect_schema())
    raise DataError(f"{path}: must end in .csv, .tsv or .parquet.")


def _batches(path: Path, columns: Sequence[str]) -> Any:
    """Yield the given columns of a table in blocks of rows."""
    try:
        frame = _scan(path)
        known = frame.collect_schema().names()
        lacking = [name for name in columns if name not in known]
        if lacking:
            raise DataError(f"{path}: has no column {lacking[0]!r}; it has {', '.join(known)}.")
        count = frame.select(pl.len()).collect().item()
        for start in range(0, count, ROWS_AT_ONCE):
            yield frame.select(columns).slice(start, ROWS_AT_ONCE).collect()
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{path}: cannot be read ({str(error).splitlines()[0]}).") from None


def _texts(path: Path, column: pl.Series) -> list[str]:
    """Return the ids of a column as text, the type of ids in a data set."""
    if column.null_count():
        raise DataError(
            f"{path}: the column {column.name!r} has an empty cell ({column.null_count()} in all). "
            "Fill it in."
        )
    return column.cast(pl.String).to_list()


def _from_array(draft: Draft, name: str, path: Path, items: Ids, item_ids: Path | None) -> None:
    """Write a modality whose features are an .npy file; `item_ids` names the item of each row."""
    if item_ids is None:
        raise DataError(
            f"{path}: rows of a .npy file need --item-ids, a text file with the id of each row."
        )
    try:
        ids = item_ids.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise DataError(f"{item_ids}: cannot be read ({error.strerror}).") from None
    ids = [text.strip() for text in ids if text.strip()]
    source = read_features(path, len(ids))
    if len(set(ids)) < len(ids):
        raise DataError(f"{item_ids}: an id appears twice. Keep one line and one row for it.")
    target = draft.new_features(name, source.shape[1], source.dtype)
    places = [
        (row, place) for row, text in enumerate(ids) if (place := items.find(text)) is not None
    ]
    _note_unused(draft, name, len(ids) - len(places))
    # Only the rows of items with interactions are read from the memory map, in blocks.
    for start in range(0, len(places), ROWS_AT_ONCE):
        rows, into = (list(x) for x in zip(*places[start : start + ROWS_AT_ONCE], strict=True))
        block = np.empty((len(rows), source.shape[1]), target.dtype)
        copy_rows(source[rows], block, path)
        target[into] = block
    draft.finish_features(name, target, path.name)


def _from_table(draft: Draft, name: str, path: Path, items: Ids, item_column: str) -> None:
    """Write a modality whose features are the numeric columns of a table."""
    schema = _scan(path).collect_schema()
    if item_column not in schema:
        raise DataError(
            f"{path}: has no column {item_column!r}; it has {', '.join(schema.names())}."
        )
    numbers = [
        column for column, kind in schema.items() if column != item_column and kind.is_numeric()
    ]
    if not numbers:
        raise DataError(f"{path}: has no column of numbers in addition to {item_column!r}.")
    omitted = [column for column in schema if column not in (item_column, *numbers)]
    if omitted:
        draft.notes.append(
            f"{name}: {plural(len(omitted), 'column', 'columns')} without numbers left out "
            f"({omitted[0]}, ...)."
        )
    target, seen, unused = draft.new_features(name, len(numbers)), set(), 0
    for table in _batches(path, [item_column, *numbers]):
        ids = _texts(path, table[item_column])
        block = table.select(pl.col(numbers).cast(pl.Float32)).to_numpy()
        # Only a row that is NaN or empty throughout is a missing modality; `copy_rows` checks that.
        block = np.where(np.isnan(block).all(axis=1, keepdims=True), np.nan, block)
        checked = np.empty_like(block)
        copy_rows(block, checked, path)
        for row, text in enumerate(ids):
            if text in seen:
                raise DataError(f"{path}: item {text!r} appears twice. Keep one row.")
            seen.add(text)
            place = items.find(text)
            if place is None:
                unused += 1
            else:
                target[place] = checked[row]
    _note_unused(draft, name, unused)
    draft.finish_features(name, target, path.name)


def _note_unused(draft: Draft, name: str, count: int) -> None:
    if count:
        belongs = plural(count, "row belongs to an item", "rows belong to items")
        left_out = "is left out" if count == 1 else "are left out"
        draft.notes.append(f"{name}: {belongs} without interactions and {left_out}.")
