"""Feature rows of .npy files, opened as memory maps and copied in blocks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from milk_recsys.base.errors import DataError
from milk_recsys.catalogue.raw.arrays import load_npy

__all__ = ["blocks", "copy_rows", "read_features"]

ROWS_AT_ONCE = 8192  # Number of feature rows copied or checked at a time.


def read_features(path: Path, num_rows: int | None = None) -> np.memmap[Any, Any]:
    """Open an .npy file of features (n, d) as a memory map, without pickles.

    Raises:
        DataError: the file is not an .npy file of numbers, or its number of rows is not `num_rows`.
    """
    rows = load_npy(path)
    if not isinstance(rows, np.memmap) or rows.ndim != 2 or rows.dtype.kind not in "fiu":
        raise DataError(
            f"{path}: must hold numbers of shape (items, width), got {getattr(rows, 'dtype', '?')}."
        )
    if num_rows is not None and len(rows) != num_rows:
        raise DataError(
            f"{path}: has {len(rows)} rows, but there are {num_rows} items. Give every item a row."
        )
    return rows


def copy_rows(
    source: npt.NDArray[Any],
    target: npt.NDArray[Any],
    where: object,
    ids: Sequence[str] | None = None,
) -> None:
    """Copy rows in blocks, in the target's type; a row of NaN is a missing modality.

    Arguments:
        ids: names of the rows, for error messages.

    Raises:
        DataError: a row has NaN in some places only, an infinity, or a number that overflows in the
            target's type.
    """
    for start in range(0, len(source), ROWS_AT_ONCE):
        # An overflow gives an infinity, which is refused below; any kind of NaN stays one.
        with np.errstate(over="ignore", invalid="ignore"):
            block = np.asarray(source[start : start + ROWS_AT_ONCE], dtype=target.dtype)
        holes = np.isnan(block)
        bad = (holes.any(axis=1) & ~holes.all(axis=1)) | np.isinf(block).any(axis=1)
        if bad.any():
            row = start + int(bad.argmax())
            named = f"row {row}" if ids is None else f"the row of item {ids[row]!r}"
            raise DataError(
                f"{where}: {named} has an infinity, or NaN in some places only. A missing row is "
                "NaN throughout; correct the others."
            )
        target[start : start + len(block)] = block


def blocks(rows: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    """Yield the rows in blocks."""
    for start in range(0, len(rows), ROWS_AT_ONCE):
        yield np.asarray(rows[start : start + ROWS_AT_ONCE])
