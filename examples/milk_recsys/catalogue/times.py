"""Times of interactions, in unix seconds: the column `time` of a table, or times.npy.

A pair that occurs several times has the first of its times. This module does not import torch.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped]

from milk_recsys.base.errors import DataError
from milk_recsys.catalogue.npy import map_npy
from milk_recsys.catalogue.pairs import Pairs
from milk_recsys.catalogue.tsv import read_column, read_header

__all__ = ["Times", "first_times", "read_times"]

Times = npt.NDArray[np.float64]


def read_times(folder: Path, num_items: int, pairs: Pairs, notes: list[str]) -> Times | None:
    """Return the time of each of the distinct pairs (P, 2), or None if the folder has none.

    Times stand in the column `time` of interactions.tsv, or in times.npy beside interactions.npy:
    one number for each row of that file.

    Raises:
        DataError: times.npy has another length, or times that are not finite.
    """
    binary = folder / "interactions.npy"
    if not binary.exists():
        return _read_column(folder / "interactions.tsv", num_items, notes)
    path = folder / "times.npy"
    if not path.exists():
        return None
    times = map_npy(path, str(path), "numbers of seconds", "Add it to the folder.")
    stored = map_npy(binary, str(binary), "whole numbers", "Add it to the folder.")
    if times.dtype.kind not in "iuf" or times.shape != (len(stored),):
        raise DataError(
            f"{path}: must hold one number of seconds for each of the {len(stored)} rows of "
            f"interactions.npy, got {times.dtype} {times.shape}."
        )
    if not np.isfinite(times).all():
        row = int(np.isfinite(times).argmin())
        raise DataError(f"{path}, row {row}: is not finite. Give unix seconds, or remove the file.")
    # Pairs that were sorted and distinct in the file are still that file.
    if len(stored) == len(pairs) and np.array_equal(stored, pairs):
        return np.asarray(times, dtype=np.float64)
    return first_times(stored, np.asarray(times, dtype=np.float64), num_items)


def first_times(pairs: Pairs, times: Times, num_items: int) -> Times:
    """Return the first time of each distinct pair, in the order of the sorted pairs.

    Arguments:
        pairs: (P, 2), in any order.
        times: (P,).

    Example:
        >>> first_times(np.array([[1, 0], [0, 1], [1, 0]]), np.array([30.0, 10.0, 20.0]), 2)
        array([10., 20.])
    """
    keys = pairs[:, 0].astype(np.int64) * num_items + pairs[:, 1]
    order = np.lexsort((times, keys))
    keys = keys[order]
    first = np.ones(len(keys), dtype=np.bool_)
    np.not_equal(keys[1:], keys[:-1], out=first[1:])
    return times[order][first]


def _read_column(path: Path, num_items: int, notes: list[str]) -> Times | None:
    """Return the times of interactions.tsv; a column `time` of other content is ignored."""
    header = read_header(path)
    if header.count("time") != 1:
        return None
    try:
        times = read_column(path, header, "time", pa.float64())
    except pa.ArrowInvalid as error:
        notes.append(
            f"{path.name}: the column time does not hold unix seconds and is ignored "
            f"({str(error).splitlines()[0]:.120})."
        )
        return None
    if not np.isfinite(times).all():
        notes.append(f"{path.name}: the column time has empty cells and is ignored.")
        return None
    users = read_column(path, header, "user", pa.int64())
    items = read_column(path, header, "item", pa.int64())
    return first_times(np.stack([users, items], axis=1), times, num_items)
