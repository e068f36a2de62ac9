"""Interactions in raw tables: ids as text, ratings, times, conditions, and the k-core."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import polars as pl

from milk_recsys.base.errors import DataError, OptionError, plural
from milk_recsys.catalogue.importers.ids import (
    Ids,
    Numbering,
    Pairs,
    core,
    fold_case,
)
from milk_recsys.catalogue.importers.row_options import RowOptions
from milk_recsys.catalogue.raw.conditions import Condition, parse_conditions, rows_kept
from milk_recsys.catalogue.raw.tables import RawTable
from milk_recsys.catalogue.raw.times import Times, day_range
from milk_recsys.catalogue.raw.values import BadCell

__all__ = ["Interactions", "read_interactions"]

QUANTITY_NAME = re.compile(r"(^|[\W_])(quantity|qty|menge|amount|units)($|[\W_])", re.I)
RATING_NAME = re.compile(r"(^|[\W_])(ratings?|overall|stars|score|grade|bewertung)($|[\W_])", re.I)
# Ids that often stand for an empty cell; a user of this name is noted, and kept.
EMPTY_NAMES = ("nan", "none", "null", "na", "n/a", "<na>", "undefined", "unknown", "nat", "-1")


@dataclasses.dataclass
class Interactions:
    """Interactions as numbers.

    Attributes:
        pairs: (P, 2) numbers of a user and an item; pairs may repeat.
        times: (P,) unix seconds, or None.
        rows: number of rows of the table.
        notes: messages for the user.
    """

    users: Ids
    items: Ids
    pairs: Pairs
    times: npt.NDArray[np.float64] | None
    rows: int
    notes: list[str]


def read_interactions(table: RawTable, options: RowOptions) -> Interactions:
    """Read the rows of a table that count as interactions.

    Raises:
        DataError: a column is absent, a cell cannot be read, an id is empty, or no row counts.
        OptionError: a condition is invalid.
    """
    conditions = parse_conditions(options.where)
    if (options.rating_column is None) != (options.min_rating is None):
        raise OptionError("--rating-column and --min-rating belong together. Give both or none.")
    if options.implicit_rating is not None and options.rating_column is None:
        raise OptionError("--implicit-rating needs --rating-column and --min-rating.")
    wanted = options.columns
    table.need(*wanted)
    free = [name for name in table.columns if name not in wanted]
    rated = [n for n in free if RATING_NAME.search(n)][: options.rating_column is None]
    counted = [n for n in free if QUANTITY_NAME.search(n)][:1]
    reader = _Rows(table, options, conditions, rated, counted)
    for first, frame in table.batches([*wanted, *rated, *counted]):
        reader.add(first, frame)
    return reader.result()


class _Rows:
    """Collects the rows that count, block by block."""

    def __init__(
        self,
        table: RawTable,
        options: RowOptions,
        conditions: Sequence[Condition],
        unused: Sequence[str],
        counted: Sequence[str],
    ) -> None:
        self.table, self.options, self.conditions = table, options, conditions
        self.unused, self.counted = unused, counted
        self.users, self.items = Numbering(), Numbering()
        self.clock = Times(options.time_format)
        self.blocks: list[npt.NDArray[np.int64]] = []
        self.times: list[npt.NDArray[np.float64]] = []
        self.rows = self.unmet = self.empty = self.low = self.implicit = self.unrated = 0
        self.negative = 0
        self.limits: list[float] = []

    def add(self, first: int, frame: pl.DataFrame) -> None:
        """Add the rows of a block that count."""
        table, options = self.table, self.options
        self.rows += len(frame)
        kept = rows_kept(self.conditions, table, frame, first)
        self.unmet += int((~kept).sum())
        columns = (options.user_column, options.item_column)
        ids = [fold_case(table.ids(frame, column, first), options.id_case) for column in columns]
        for column, values in zip(columns, ids, strict=True):
            empty = values.is_null() & kept
            if options.empty_ids == "error" and empty.any():
                row = int(empty.arg_max() or 0)
                bad = BadCell(row, "is empty. Fill it in, or leave such rows out: --empty-ids drop")
                raise table.fail(bad, column, first)
            self.empty += int(empty.sum())
            kept &= ~empty
        kept = self._rated(first, frame, kept)
        for column in self.counted:
            self.negative += int(((_loose_numbers(frame[column]) < 0) & kept).sum())
        numbers = [
            numbering.number(values.filter(kept), is_text=frame[column].dtype == pl.String)
            for numbering, column, values in zip(
                (self.users, self.items), columns, ids, strict=True
            )
        ]
        self.blocks.append(np.stack(numbers, axis=1))
        if options.time_column is not None:
            self._add_times(first, frame, kept)

    def _rated(self, first: int, frame: pl.DataFrame, kept: pl.Series) -> pl.Series:
        """Return which of the rows kept so far have a rating that counts."""
        for column in self.unused:
            values = _loose_numbers(frame[column])
            ends = (values.min(), values.max())
            self.limits += [float(x) for x in ends if x is not None]  # type: ignore[arg-type]
        options = self.options
        if options.rating_column is None:
            return kept
        ratings = self.table.numbers(frame, options.rating_column, first)
        self.unrated += int((ratings.is_null() & kept).sum())
        low = ratings.fill_null(-np.inf) < float(options.min_rating or 0)
        if options.implicit_rating is not None:
            implicit = (ratings == options.implicit_rating).fill_null(value=False)
            self.implicit += int((implicit & kept).sum())
            low &= ~implicit
        self.low += int((low & kept).sum())
        return kept & ~low

    def _add_times(self, first: int, frame: pl.DataFrame, kept: pl.Series) -> None:
        column = str(self.options.time_column)
        seconds = self.clock.seconds(frame[column])
        if isinstance(seconds, BadCell):
            raise self.table.fail(seconds, column, first)
        absent = seconds.is_null() & kept
        if absent.any():
            bad = BadCell(
                int(absent.arg_max() or 0),
                f"has no time. Correct it, or leave out such rows: --where '{column}!='",
            )
            raise self.table.fail(bad, column, first)
        self.times.append(seconds.filter(kept).to_numpy())

    def result(self) -> Interactions:
        """Return all rows that count, after the k-core."""
        pairs = np.concatenate(self.blocks) if self.blocks else np.empty((0, 2), dtype=np.int64)
        times = np.concatenate(self.times) if self.times else None
        notes = self._notes(times)
        if not len(pairs):
            reason = f" ({self.rows} rows, of which none counts)" if self.rows else ""
            raise DataError(f"{self.table.path}: there are no interactions at all{reason}.")
        if self.options.min_pairs > 1:
            kept = core(pairs, self.options.min_pairs)
            if not kept.any():
                raise DataError(
                    f"{self.table.path}: no user and item have {self.options.min_pairs} pairs "
                    "among one another. Lower --min-pairs."
                )
            notes.append(
                f"{plural(int((~kept).sum()), 'row is', 'rows are')} left out, of users and items "
                f"with fewer than {self.options.min_pairs} distinct pairs (--min-pairs)."
            )
            pairs, times = pairs[kept], None if times is None else times[kept]
        users, by_user = self.users.final(pairs[:, 0])
        items, by_item = self.items.final(pairs[:, 1])
        notes += _suspicious(users, by_user, "user") + _suspicious(items, by_item, "item")
        pairs = np.stack([by_user, by_item], axis=1)
        return Interactions(users, items, pairs, times, self.rows, notes)

    def _notes(self, times: npt.NDArray[np.float64] | None) -> list[str]:
        options, name, notes = self.options, self.table.path.name, []
        if self.unmet:
            met = " and ".join(map(str, self.conditions))
            notes.append(f"{name}: {plural(self.unmet, 'row does', 'rows do')} not meet {met}.")
        if self.empty:
            notes.append(
                f"{name}: {plural(self.empty, 'row', 'rows')} without a user or an item left out."
            )
        if options.rating_column is not None:
            notes.append(self._rating_note())
        for column in self.unused:
            span = f" ({min(self.limits):g} to {max(self.limits):g})" if self.limits else ""
            notes.append(
                f"{name}: all rows count, whatever their {column!r}{span} is. To keep good ratings "
                f"only: --rating-column {column} --min-rating NUMBER."
            )
        if self.negative:
            column = self.counted[0]
            notes.append(
                f"{name}: {plural(self.negative, 'row', 'rows')} with a negative {column!r} count "
                f"as well. If they are cancellations, leave them out: --where '{column}>0'."
            )
        if times is not None and len(times):
            notes.append(
                f"{name}: times in {options.time_column!r}: {self.clock.note}, {day_range(times)}."
            )
        return notes

    def _rating_note(self) -> str:
        options = self.options
        note = (
            f"{self.table.path.name}: {plural(self.low, 'row', 'rows')} with a "
            f"{options.rating_column!r} below {options.min_rating:g} left out"
        )
        if self.unrated:
            note += f", {self.unrated} of them without any"
        if options.implicit_rating is not None:
            note += f"; {self.implicit} with {options.implicit_rating:g} (none given) count"
        return note + "."


def _loose_numbers(column: pl.Series) -> pl.Series:
    """Return the numbers of a column that is only noted, and null for all else."""
    return column.cast(pl.String).str.replace(",", ".").cast(pl.Float64, strict=False)


def _suspicious(ids: Ids, numbers: npt.NDArray[np.int64], kind: str) -> list[str]:
    """Return notes on names that often stand for an empty cell."""
    notes = []
    for name in ids.names:
        if name.lower() in EMPTY_NAMES:
            count = int((numbers == ids.find(name)).sum())
            notes.append(
                f"{plural(count, 'row belongs', 'rows belong')} to the {kind} {name!r} "
                f"({count / len(numbers):.0%}), which may stand for an empty cell. To leave them "
                f"out: --where '{kind.upper()}_COLUMN!={name}'."
            )
    return notes
