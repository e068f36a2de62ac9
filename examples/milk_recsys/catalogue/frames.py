"""Data sets from frames in memory: pandas, polars, Arrow, or a mapping of columns."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa  # type: ignore[import-untyped]

from milk_recsys.base.errors import DataError
from milk_recsys.catalogue.dataset import Dataset, drop_empty_items
from milk_recsys.catalogue.importers.assemble import start
from milk_recsys.catalogue.importers.matching import Matching
from milk_recsys.catalogue.importers.numbers import write_rows, write_table_numbers
from milk_recsys.catalogue.importers.row_options import RowOptions
from milk_recsys.catalogue.importers.write import Draft
from milk_recsys.catalogue.npy import Features, scan_features
from milk_recsys.catalogue.raw.arrays import FeatureRows, ids_of_array
from milk_recsys.catalogue.raw.tables import FrameTable

__all__ = ["Catalogue", "MemoryDraft", "frame_of", "write_features"]


@dataclasses.dataclass(frozen=True)
class Catalogue:
    """A data set in memory, and the ids of its users and items.

    Arguments:
        dataset: users, items, interactions and features, as `read_dataset` returns them.
        user_ids, item_ids: the id, as text, of each user and item.
        notes, warnings: messages on how the frames were read.
        columns: modality -> the columns of its frame that are its features; none for an array.
    """

    dataset: Dataset
    user_ids: tuple[str, ...]
    item_ids: tuple[str, ...]
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    columns: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)

    @classmethod
    def from_frames(
        cls,
        pairs: Any,
        features: Mapping[str, Any],
        *,
        user: str = "user",
        item: str = "item",
        time: str | None = None,
        columns: Mapping[str, tuple[str, ...]] | None = None,
        rows: RowOptions | None = None,
        empty_items: Literal["error", "drop"] = "error",
        name: str = "frames",
    ) -> Catalogue:
        """Make a data set from frames; ids, cells and columns are read as `prepare table` does.

        Arguments:
            pairs: frame of interactions: of pandas, polars or Arrow, or a mapping of columns.
            features: modality -> a frame with the column `item`; or a pair (ids, array) of n ids
                and an array (n, d).
            user, item, time: names of the columns.
            columns: modality -> the columns that are its features; see `--feature-columns`.
            rows: which rows count, instead of all; `user`, `item` and `time` replace its columns.
            empty_items: items without any modality are an error, or lose their interactions.
            name: name of the data set.

        Raises:
            DataError: a frame cannot be read; the message names the frame and the row.

        Example:
            >>> catalogue = Catalogue.from_frames(
            ...     {"user": ["ann", "bob"], "item": [7, 8]},
            ...     {"image": {"item": [8, 7], "e0": [1.0, 3.0], "e1": [2.0, 4.0]}},
            ... )
            >>> catalogue.item_ids, catalogue.dataset.features["image"].tolist()
            (('7', '8'), [[3.0, 4.0], [1.0, 2.0]])
        """
        options = dataclasses.replace(
            rows or RowOptions(), user_column=user, item_column=item, time_column=time
        )
        draft = MemoryDraft(name)
        matching = start(draft, FrameTable(frame_of(pairs, "pairs"), "pairs"), options, item)
        used = {
            modality: write_features(
                draft, modality, given, (columns or {}).get(modality, ()), matching
            )
            for modality, given in features.items()
        }
        if not draft.arrays:
            raise DataError("Catalogue.from_frames: `features` must have at least one modality.")
        return cls(
            draft.dataset(empty_items),
            tuple(draft.user_names),
            tuple(draft.item_names),
            tuple(draft.notes),
            tuple(draft.warnings),
            used,
        )


class MemoryDraft(Draft):
    """A data set that is made in memory instead of a folder."""

    def __init__(self, name: str) -> None:
        super().__init__(None, name, name)
        self.arrays: dict[str, Features] = {}
        self.user_names: list[str] = []
        self.item_names: list[str] = []
        self.pairs = np.empty((0, 2), dtype=np.int64)
        self.times: npt.NDArray[np.float64] | None = None

    def _store_pairs(
        self, pairs: npt.NDArray[np.int64], times: npt.NDArray[np.float64] | None
    ) -> None:
        self.pairs, self.times = pairs.astype(np.int32), times

    def write_names(
        self,
        users: Sequence[str] | None,
        items: Sequence[str] | None,
        item_ids: Sequence[str] | None = None,
    ) -> None:
        """Keep the ids of users and items."""
        self.user_names = list(users or self.user_names)
        self.item_names = list(item_ids or items or self.item_names)

    def _new_array(self, modality: str, shape: tuple[int, int], dtype: Any) -> Any:
        self.arrays[modality] = np.empty(shape, dtype=dtype)
        return self.arrays[modality]

    def dataset(self, empty_items: Literal["error", "drop"]) -> Dataset:
        """Return the data set."""
        scanned = {name: scan_features(x, name) for name, x in self.arrays.items()}
        natural_mask = np.stack([present for present, _ in scanned.values()], axis=1)
        notes: list[str] = []
        pairs, times = drop_empty_items(
            Path(self.name), self.pairs, self.times, natural_mask, empty_items, notes
        )
        return Dataset(
            name=self.name,
            num_users=self.counts["num_users"],
            num_items=self.counts["num_items"],
            interactions=pairs,
            features=self.arrays,
            natural_mask=natural_mask,
            user_names=tuple(self.user_names),
            item_names=tuple(self.item_names),
            times=times,
            notes=tuple(notes),
            abs_max={name: (self.arrays[name], top) for name, (_, top) in scanned.items()},
        )


def write_features(
    draft: MemoryDraft,
    modality: str,
    given: Any,
    wanted: tuple[str, ...],
    matching: Matching,
    *,
    checked: bool = True,
) -> tuple[str, ...]:
    """Write a modality from a frame, or from a pair (ids, array); return its columns.

    Arguments:
        wanted: the columns; if there are none, they are chosen.
        checked: whether to look for rows that were probably filled in.
    """
    if isinstance(given, tuple) and len(given) == 2:
        ids, array = np.asarray(given[0]), np.asarray(given[1])
        if array.ndim != 2 or array.dtype.kind not in "fiub" or len(ids) != len(array):
            raise DataError(
                f"features[{modality!r}]: must be n ids and an array (n, d) of numbers, got "
                f"{len(ids)} ids and {array.dtype} {array.shape}."
            )
        path = Path(modality)
        rows = FeatureRows(path, array, ids_of_array(path, "ids", ids))
        write_rows(draft, modality, rows, matching, checked=checked)
        return ()
    table = FrameTable(frame_of(given, f"features[{modality!r}]"), modality)
    return write_table_numbers(draft, modality, table, wanted, matching, checked=checked).columns


def frame_of(given: Any, name: str) -> pl.DataFrame:
    """Return a frame of pandas, polars or Arrow, or a mapping of columns, as one of polars.

    Raises:
        DataError: it is none of these, or a column mixes kinds of values.
    """
    if isinstance(given, pl.LazyFrame):
        given = given.collect()
    names = getattr(getattr(given, "index", None), "names", None)
    if names is not None and any(label is not None for label in names):
        given = given.reset_index()  # An index of pandas that has a name is a column.
    try:
        if isinstance(given, pl.DataFrame):
            frame = given
        elif isinstance(given, pa.Table | pa.RecordBatch):
            frame = cast(pl.DataFrame, pl.from_arrow(given))
        elif isinstance(given, Mapping) or hasattr(given, "__arrow_c_stream__"):
            frame = pl.DataFrame(given)
        else:
            raise DataError(
                f"{name}: must be a frame of pandas, polars or Arrow, or a mapping of columns, got "
                f"{type(given).__name__}."
            )
    except (pl.exceptions.PolarsError, pa.ArrowException, TypeError) as error:
        first = (str(error).splitlines() or [""])[0]
        raise DataError(f"{name}: cannot be read as a frame ({first:.150}).") from None
    return frame.with_columns(pl.col(pl.Categorical, pl.Enum).cast(pl.String))
