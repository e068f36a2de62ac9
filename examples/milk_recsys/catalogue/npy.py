"""Read .npy files as memory maps, without pickles, and check feature values in chunks."""

import tokenize
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from milk_recsys.base.errors import DataError, plural
from milk_recsys.base.reading import check_inside, check_regular

__all__ = ["BAD_NPY", "Features", "find_present", "map_npy", "open_features", "scan_features"]

FEATURE_DTYPES = ("float16", "float32", "float64")
CHUNK_ELEMENTS = 1 << 22  # Number of feature values checked at a time.

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
"""Errors that NumPy may raise for a damaged npy file, or for a file of another kind."""


def open_features(
    path: Path, *, root: Path, num_rows: int | None, dim: int | None, modality: str
) -> Features:
    """Memory-map a feature file after checking its path, dtype and shape.

    Arguments:
        root: the data set's folder; a path that leads outside it is refused.
        num_rows, dim: the expected shape; None accepts any.
    """
    where = f"{path} (modality {modality!r})"
    check_inside(path, root, f" (modality {modality!r})")
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
            f"{where}: has {plural(array.shape[0], 'row', 'rows')}, but there "
            f"{'is' if num_rows == 1 else 'are'} {plural(num_rows, 'item', 'items')}. "
            "Give every item a row; use a row of NaN for an item that lacks this modality."
        )
    if array.shape[1] == 0 or dim not in (None, array.shape[1]):
        raise DataError(
            f"{where}: has {plural(array.shape[1], 'column', 'columns')}, "
            f"expected {dim or 'at least 1'}. Correct `dim` or the file."
        )
    return cast(Features, array)


def map_npy(path: Path, where: str, content: str, absent: str) -> Any:
    """Return a read-only memory map of an npy file; pickles are never opened.

    Arguments:
        where: name of the file in error messages.
        content: description of the expected content, for error messages.
        absent: advice for the case that the file is missing.
    """
    check_regular(path)
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError:
        raise DataError(f"{where}: no such file. {absent}") from None
    except OSError as error:
        raise DataError(f"{where}: cannot be opened ({error.strerror}).") from None
    except BAD_NPY as error:
        message = str(error)
    # The first bytes distinguish a pickle (byte 0x80), a damaged npy file and any other format.
    with path.open("rb") as file:
        start = file.read(6)
    if "Python objects" in message or start[:1] == b"\x80":
        raise DataError(
            f"{where}: holds pickled Python objects, which are not opened. "
            f"Save {content} with numpy.save."
        )
    if start != b"\x93NUMPY":
        raise DataError(f"{where}: is not a npy file. Save {content} with numpy.save.")
    raise DataError(f"{where}: is truncated or damaged ({message}). Write it again.")


def find_present(
    features: Features, where: Path | str, *, content_zeros: bool = False
) -> npt.NDArray[np.bool_]:
    """Return which rows are present, as (rows,) bool. See `scan_features`."""
    return scan_features(features, where, content_zeros=content_zeros)[0]


def scan_features(
    features: Features, where: Path | str, *, content_zeros: bool = False
) -> tuple[npt.NDArray[np.bool_], float]:
    """Find the rows that are present and the largest absolute value among them.

    Every value is read once, in chunks.

    Arguments:
        features: (rows, d); a row of NaN is missing, and so is a row of zeros.
        where: name of the file in error messages.
        content_zeros: whether a row of zeros is content.

    Returns:
        Which rows are present, (rows,) bool; and the largest absolute value, 0 if there is no row.

    Raises:
        DataError: a row has an infinity, or NaN in some places only.
    """
    # The bits of a float without its sign bit, read as an unsigned integer, are in the order of the
    # absolute values; infinity comes after all finite numbers, and NaN after infinity. Comparing
    # such integers is several times faster than comparing float16 numbers.
    unsigned = np.dtype(f"u{features.dtype.itemsize}")
    without_sign = unsigned.type(np.iinfo(unsigned).max >> 1)
    infinity = np.array(np.inf, dtype=features.dtype).view(unsigned)
    present = np.ones(len(features), dtype=np.bool_)
    largest = np.zeros((), dtype=unsigned)
    step = max(1, CHUNK_ELEMENTS // features.shape[1])
    for start in range(0, len(features), step):
        block = np.ascontiguousarray(features[start : start + step])
        highest = np.bitwise_and(block.view(unsigned), without_sign).max(axis=1)
        finite = highest < infinity
        if not content_zeros:
            present[start : start + len(block)] = highest > 0
        # Only rows with an infinity or NaN need a second look.
        rows = np.flatnonzero(~finite)
        empty = np.isnan(block[rows]).all(axis=1)
        if not empty.all():
            row = rows[~empty][0]
            infinite = np.isinf(block[row]).any()
            problem = "has an infinity" if infinite else "is NaN in some places only"
            advice = "Correct it, or" if infinite else "Fill it, or"
            raise DataError(
                f"{where}, row {start + row}: {problem}. {advice} make the whole row NaN: "
                "this item then lacks the modality."
            )
        present[start + rows] = False
        largest = np.maximum(largest, highest[finite].max(initial=0))
    return present, float(largest.astype(unsigned).view(features.dtype))
