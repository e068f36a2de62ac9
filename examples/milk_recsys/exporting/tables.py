"""Tables that are written in blocks of rows, as Parquet or as tab-separated text."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

# polars takes long to import; functions import it once the options have been read.
if TYPE_CHECKING:
    import polars as pl

__all__ = ["ROWS_AT_ONCE", "write_table"]

ROWS_AT_ONCE = 2**18  # Number of rows of a table that are collected before writing.


def write_table(path: Path, frames: Iterable[pl.DataFrame], kind: Literal["parquet", "tsv"]) -> int:
    """Write data frames as one table, without holding all rows in memory.

    Returns:
        the number of rows.
    """
    rows = 0
    with (_parquet if kind == "parquet" else _tsv)(path) as write:
        for frame in _grouped(frames):
            rows += len(frame)
            write(frame)
    return rows


def _grouped(frames: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """Join small frames, so that a Parquet file has few row groups."""
    import polars as pl

    collected: list[pl.DataFrame] = []
    for frame in frames:
        collected.append(frame)
        if sum(map(len, collected)) >= ROWS_AT_ONCE:
            yield pl.concat(collected)
            collected = []
    if collected:
        yield pl.concat(collected)


@contextmanager
def _parquet(path: Path) -> Iterator[Callable[[pl.DataFrame], None]]:
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    writer: Any = None

    def write(frame: pl.DataFrame) -> None:
        nonlocal writer
        # The writer is created with the first frame because it needs the schema.
        table = frame.to_arrow()
        writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd")
        writer.write_table(table)

    try:
        yield write
    finally:
        if writer is not None:
            writer.close()


@contextmanager
def _tsv(path: Path) -> Iterator[Callable[[pl.DataFrame], None]]:
    with path.open("wb") as file:

        def write(frame: pl.DataFrame) -> None:
            # Names contain neither tabs nor line ends, so no quotes are needed; the readers of
            # names accept none.
            frame.write_csv(
                file, separator="\t", include_header=file.tell() == 0, quote_style="never"
            )

        yield write
