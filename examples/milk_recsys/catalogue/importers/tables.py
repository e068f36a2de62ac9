"""Pairs and features in tables: CSV or Parquet, ids of any kind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from milk_recsys.base.errors import DataError, plural
from milk_recsys.catalogue.importers.write import Draft, Ids, copy_rows, read_features

__all__ = ["prepare_table"]

ROWS_AT_ONCE = 65_536


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
        pairs: CSV or Parquet with a column of users and one of items; others are ignored.
        features: modality -> a table with `item_column` and columns of numbers, or a .npy file whose rows are those of
            `item_ids`, a text file with one id a line.
    """
    users, items, flat = Ids(), Ids(), []
    for table in _batches(pairs, [user_column, item_column]):
        names = [(users, table[user_column]), (items, table[item_column])]
        flat.append(
            np.stack([[ids.number(x) for x in _texts(pairs, c)] for ids, c in names], axis=1)
        )
    if not flat:
        raise DataError(f"{pairs}: there are no interactions at all.")
    draft.write_pairs(np.concatenate(flat).astype(np.int64), len(users), len(items))
    draft.write_names(users.names, items.names)
    for name, path in features.items():
        if path.suffix == ".npy":
            _from_array(draft, name, path, items, item_ids)
        else:
            _from_table(draft, name, path, items, item_column)
    draft.write_manifest()


def _scan(path: Path) -> pl.LazyFrame:
    if not path.is_file():
        raise DataError(f"{path}: no such file.")
    if path.suffix in (".parquet", ".pq"):
        return pl.scan_parquet(path)
    if path.suffix in (".csv", ".tsv", ".txt"):
        return pl.scan_csv(
            path, separator="," if path.suffix == ".csv" else "\t", infer_schema_length=None
        )
    raise DataError(f"{path}: must end in .csv, .tsv or .parquet.")


def _batches(path: Path, columns: Sequence[str]) -> Any:
    """Yield a table's columns some rows at a time."""
    frame = _scan(path)
    try:
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
    if column.null_count():
        raise DataError(
            f"{path}: the column {column.name!r} has an empty cell ({column.null_count()} in all). Fill it in."
        )
    return column.cast(pl.String).to_list()


def _from_array(draft: Draft, name: str, path: Path, items: Ids, item_ids: Path | None) -> None:
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
        raise DataError(f"{item_ids}: an id is there twice.")
    made = draft.new_features(name, source.shape[1], source.dtype)
    places = [
        (row, place) for row, text in enumerate(ids) if (place := items.find(text)) is not None
    ]
    _tell_unused(draft, name, len(ids) - len(places))
    for start in range(0, len(places), ROWS_AT_ONCE):
        rows, into = (list(x) for x in zip(*places[start : start + ROWS_AT_ONCE], strict=True))
        block = np.empty((len(rows), source.shape[1]), made.dtype)
        copy_rows(source[rows], block, path)
        made[into] = block
    draft.finish_features(name, made, path.name)


def _from_table(draft: Draft, name: str, path: Path, items: Ids, item_column: str) -> None:
    schema = _scan(path).collect_schema()
    if item_column not in schema:
        raise DataError(
            f"{path}: has no column {item_column!r}; it has {', '.join(schema.names())}."
        )
    numbers = [
        column for column, kind in schema.items() if column != item_column and kind.is_numeric()
    ]
    if not numbers:
        raise DataError(f"{path}: has no column of numbers beside {item_column!r}.")
    left = [column for column in schema if column not in (item_column, *numbers)]
    if left:
        draft.notes.append(
            f"{name}: {plural(len(left), 'column', 'columns')} without numbers left out ({left[0]}, ...)."
        )
    made, seen, unused = draft.new_features(name, len(numbers)), set(), 0
    for table in _batches(path, [item_column, *numbers]):
        ids = _texts(path, table[item_column])
        block = table.select(pl.col(numbers).cast(pl.Float32)).to_numpy()
        block = np.where(np.isnan(block).all(axis=1, keepdims=True), np.nan, block)
        clean = np.empty_like(block)
        copy_rows(block, clean, path)
        for row, text in enumerate(ids):
            if text in seen:
                raise DataError(f"{path}: item {text!r} is there twice. Keep one row.")
            seen.add(text)
            place = items.find(text)
            if place is None:
                unused += 1
            else:
                made[place] = clean[row]
    _tell_unused(draft, name, unused)
    draft.finish_features(name, made, path.name)


def _tell_unused(draft: Draft, name: str, count: int) -> None:
    if count:
        rows_are = plural(count, "row is of an item", "rows are of items")
        draft.notes.append(f"{name}: {rows_are} without interactions, and left out.")
