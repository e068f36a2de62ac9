"""Tables in files of columns: Parquet and Arrow (Feather)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import polars as pl
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from milk_recsys.base.errors import DataError
from milk_recsys.catalogue.raw.files import reading
from milk_recsys.catalogue.raw.tables import ROWS_AT_ONCE, RawTable, TextFormat

__all__ = ["ArrowTable", "ParquetTable"]


class ParquetTable(RawTable):
    """A Parquet file."""

    def __init__(self, path: Path, text: TextFormat) -> None:
        self.path, self.text, self.types = path, text, {}
        with reading(path), pq.ParquetFile(path) as file:
            self.columns = tuple(file.schema_arrow.names)

    def batches(self, columns: Sequence[str]) -> Iterator[tuple[int, pl.DataFrame]]:
        """Yield the rows in blocks; see `RawTable`."""
        self.need(*columns)
        first = 0
        with reading(self.path), pq.ParquetFile(self.path) as file:
            for batch in file.iter_batches(ROWS_AT_ONCE, columns=_unique(columns)):
                yield first, _frame(batch, self.path)
                first += batch.num_rows

    def place(self, row: int) -> str:
        """Return the file and the row, counted from 0."""
        return f"{self.path}, row {row}"


class ArrowTable(ParquetTable):
    """An Arrow file, which Feather files are."""

    def __init__(self, path: Path, text: TextFormat) -> None:
        self.path, self.text, self.types = path, text, {}
        with reading(path), pa.OSFile(str(path)) as source:
            self.columns = tuple(pa.ipc.open_file(source).schema.names)

    def batches(self, columns: Sequence[str]) -> Iterator[tuple[int, pl.DataFrame]]:
        """Yield the rows in blocks; see `RawTable`."""
        self.need(*columns)
        first = 0
        with reading(self.path), pa.OSFile(str(self.path)) as source:
            file = pa.ipc.open_file(source)
            for index in range(file.num_record_batches):
                batch = file.get_batch(index).select(_unique(columns))
                yield first, _frame(batch, self.path)
                first += batch.num_rows


def _unique(columns: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(columns))


def _frame(batch: Any, path: Path) -> pl.DataFrame:
    """Return a record batch as a frame of polars."""
    # polars trusts what it is given; a damaged file may hold texts that are not UTF-8.
    batch.validate(full=True)
    # polars 2.1 refuses some sliced lists of a fixed size that have nulls.
    columns = {
        field.name: column.cast(pa.list_(field.type.value_type))
        if pa.types.is_fixed_size_list(field.type)
        else column
        for field, column in zip(batch.schema, batch.columns, strict=True)
    }
    try:
        frame = cast(pl.DataFrame, pl.from_arrow(pa.table(columns)))
    except pl.exceptions.PolarsError as error:
        raise DataError(f"{path}: has a column that cannot be read ({error!s:.150}).") from None
    frame.columns = list(batch.schema.names)
    # Dictionary-encoded texts are texts.
    return frame.with_columns(pl.col(pl.Categorical, pl.Enum).cast(pl.String))
