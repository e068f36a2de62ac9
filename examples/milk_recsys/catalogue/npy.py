"""Feature files: memory-mapped, checked in chunks, never opened as a pickle."""

import tokenize
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from milk_recsys.base.errors import DataError, plural

__all__ = ["BAD_NPY", "Features", "find_observed", "map_npy", "open_features", "scan_features"]

FEATURE_DTYPES = ("float16", "float32", "float64")
CHUNK_ELEMENTS = 1 << 22  # feature values that are checked at a time

Features = npt.NDArray[np.floating[Any]]

BAD_NPY = (
    ValueError,
    TypeError,
    EOFError,
    OverflowError,
    MemoryError,
    RecursionError,
    SyntaxError,
    tokenize.TokenError,
)
"""What numpy may raise for the bytes of a npy file that is damaged, or none at all."""


def open_features(
    path: Path, *, root: Path, num_rows: int | None, dim: int | None, modality: str
) -> Features:
    """Memory-maps a feature file after checking its place, dtype and shape (None: any)."""
    where = f"{path} (modality {modality!r})"
    try:
        inside = path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError, ValueError) as error:  # a link to itself, a NUL in the name
        raise DataError(
            f"{root} (modality {modality!r}): the path {str(path)!a} cannot be followed ({error!s:.200}). "
            "Correct `file`, or put the file itself there."
        ) from None
    if not inside:
        raise DataError(f"{where}: leads outside {root}. Put the file itself into the folder.")
    array = map_npy(path, where, "a float array", "Add it or correct `file`.")
    if array.dtype.name not in FEATURE_DTYPES or not array.dtype.isnative:
        raise DataError(
            f"{where}: the dtype must be {', '.join(FEATURE_DTYPES)} in native byte order, got "
            f"{array.dtype.str!r}. Save it with .astype(numpy.float32)."
        )
    if array.ndim != 2:
        raise DataError(
            f"{where}: must have two dimensions (items, dim), got the shape {array.shape}."
        )
    if num_rows is not None and array.shape[0] != num_rows:
        raise DataError(
            f"{where}: has {plural(array.shape[0], 'row', 'rows')}, but there {'is' if num_rows == 1 else 'are'} "
            f"{plural(num_rows, 'item', 'items')}. "
            "Give every item a row; NaN where it has no such modality."
        )
    if array.shape[1] == 0 or dim not in (None, array.shape[1]):
        raise DataError(
            f"{where}: has {plural(array.shape[1], 'column', 'columns')}, expected {dim or 'at least 1'}. "
            "Correct `dim` or the file."
        )
    return cast(Features, array)


def map_npy(path: Path, where: str, content: str, absent: str) -> Any:
    """Return a read-only memory map of a npy file; pickles are never opened.

    Arguments:
        where: names the file in errors; content: what it should hold; absent: what to do where it is not there.
    """
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError:
        raise DataError(f"{where}: no such file. {absent}") from None
    except OSError as error:
        raise DataError(f"{where}: cannot be opened ({error.strerror}).") from None
    except BAD_NPY as error:
        message = str(error)
    with path.open("rb") as file:
        start = file.read(6)
    if "Python objects" in message or start[:1] == b"\x80":
        raise DataError(
            f"{where}: holds pickled Python objects, which are not opened. Save {content} with numpy.save."
        )
    if start != b"\x93NUMPY":
        raise DataError(f"{where}: is not a npy file. Save {content} with numpy.save.")
    raise DataError(f"{where}: is truncated or damaged ({message}). Write it again.")


def find_observed(features: Features, where: Path | str) -> npt.NDArray[np.bool_]:
    """Which rows are there, (rows,) bool; `where` names them in errors. See `scan_features`."""
    return scan_features(features, where)[0]


def scan_features(features: Features, where: Path | str) -> tuple[npt.NDArray[np.bool_], float]:
    """Look at every value once, in chunks: which rows are there, and the largest magnitude among them.

    Without their sign, the bits of floating-point numbers are in the order of the numbers, infinity and NaN above all
    others; comparing them as whole numbers is several times faster than comparing float16.

    Returns:
        observed: (rows,) bool; and the largest magnitude, 0 without any row.

    Raises:
        DataError: at a row with an infinity, or with NaN in some places only.
    """
    whole = np.dtype(f"u{features.dtype.itemsize}")
    magnitude = whole.type(np.iinfo(whole).max >> 1)
    infinity = np.array(np.inf, dtype=features.dtype).view(whole)
    observed = np.ones(len(features), dtype=np.bool_)
    largest = np.zeros((), dtype=whole)
    step = max(1, CHUNK_ELEMENTS // features.shape[1])
    for start in range(0, len(features), step):
        block = np.ascontiguousarray(features[start : start + step])
        highest = np.bitwise_and(block.view(whole), magnitude).max(axis=1)
        finite = highest < infinity
        rows = np.flatnonzero(~finite)
        empty = np.isnan(block[rows]).all(axis=1)
        if not empty.all():
            row = rows[~empty][0]
            infinite = np.isinf(block[row]).any()
            problem = "has an infinity" if infinite else "is NaN in some places only"
            advice = "Correct it, or" if infinite else "Fill it, or"
            raise DataError(
                f"{where}, row {start + row}: {problem}. {advice} make the whole row NaN: "
                "this item then has no such modality."
            )
        observed[start + rows] = False
        largest = np.maximum(largest, highest[finite].max(initial=0))
    return observed, float(largest.astype(whole).view(features.dtype))
