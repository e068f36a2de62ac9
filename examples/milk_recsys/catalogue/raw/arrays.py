"""Arrays of features in .npy, .npz and HDF5 files, and the ids of their rows."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from milk_recsys.base.errors import DataError, plural
from milk_recsys.catalogue.npy import BAD_NPY
from milk_recsys.catalogue.raw.files import check_file, reading
from milk_recsys.catalogue.raw.values import SPACES, plain_ids

__all__ = ["FeatureRows", "ids_of_array", "load_npy", "open_rows", "read_id_lines"]

ID_KEYS = ("item", "items", "item_id", "item_ids", "id", "ids")
"""Names of an array of ids that belongs to the array of features in the same file."""


class FeatureRows:
    """Feature rows of one modality and the id of each.

    Attributes:
        rows: (n, d) numbers, sliced block by block: a memory map, an array or an HDF5 data set.
        ids: one text for each row.
    """

    def __init__(self, path: Path, rows: Any, ids: list[str]) -> None:
        self.path, self.rows, self.ids = path, rows, ids
        if len(set(ids)) < len(ids):
            seen: set[str] = set()
            twice = next(text for text in ids if text in seen or seen.add(text))  # type: ignore[func-returns-value]
            raise DataError(f"{path}: the id {twice!r} appears twice. Keep one row for it.")


def open_rows(
    path: Path, kind: str, key: str | None, item_ids: Path | None, item_column: str
) -> FeatureRows:
    """Open the feature rows of a file of arrays.

    Arguments:
        kind: ``npy``, ``npz`` or ``hdf5``.
        key: name of the array in a file that holds several; None if only one can be meant.
        item_ids: text file with one id per line, the item of each row. An .npz or HDF5 file may
            hold the ids itself, as an array that is called like `item_column`, or `ids`, `items`.
    """
    if kind == "npy":
        arrays: Mapping[str, Any] = {"": load_npy(path)}
    elif kind == "npz":
        arrays = _load_npz(path)
    else:
        arrays = _open_hdf5(path)
    rows = _choose(path, arrays, key)
    if item_ids is not None:
        ids = read_id_lines(item_ids)
        source = str(item_ids)
    else:
        source = next((k for k in (item_column, *ID_KEYS) if k in arrays), "")
        if not source:
            raise DataError(
                f"{path}: the rows of an array need --item-ids, a text file with the id of each "
                "row on a line of its own"
                + ("." if kind == "npy" else ", or an array of ids called ids in the same file.")
            )
        ids = ids_of_array(path, source, np.asarray(arrays[source]))
    if len(ids) != rows.shape[0]:
        header = f" Its first id is {ids[0]!r}; a header is no id." if ids else ""
        raise DataError(
            f"{source}: has {plural(len(ids), 'id', 'ids')}, but {path} has "
            f"{plural(rows.shape[0], 'row', 'rows')}. Give one id per row.{header}"
        )
    return FeatureRows(path, rows, ids)


def read_id_lines(path: Path) -> list[str]:
    """Return the ids of a text file with one id per line."""
    check_file(path)
    with reading(path):
        data = path.read_bytes()
    if b"\0" in data:
        raise DataError(f"{path}: is a binary file. Give a text file with one id per line.")
    with reading(path):
        lines = data.decode("utf-8-sig").split("\n")
    ids = [line.strip(SPACES) for line in lines]
    while ids and not ids[-1]:
        ids.pop()
    if "" in ids:
        raise DataError(f"{path}, line {ids.index('') + 1}: is empty. Give one id per line.")
    return plain_ids(ids)


def load_npy(path: Path) -> Any:
    """Open an .npy file as a memory map, without pickles."""
    check_file(path)
    try:
        with warnings.catch_warnings():
            # A damaged header may look like one of Python 2, of which numpy warns.
            warnings.simplefilter("ignore", UserWarning)
            return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, *BAD_NPY) as error:
        raise DataError(f"{path}: is not an .npy file of numbers ({error}).") from None


def _load_npz(path: Path) -> dict[str, Any]:
    check_file(path)
    try:
        # `np.load` would not close a damaged file that it opened itself.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, zipfile.BadZipFile, KeyError, RuntimeError, *BAD_NPY) as error:
        raise DataError(
            f"{path}: is not an .npz file of numbers and texts ({error!s:.150})."
        ) from None
    return {name: array for name, array in arrays.items() if isinstance(array, np.ndarray)}


def _open_hdf5(path: Path) -> dict[str, Any]:
    try:
        import h5py  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        raise DataError(
            f"{path}: HDF5 needs h5py, which is not installed: pip install 'invmod[hdf5]'."
        ) from None
    check_file(path)
    arrays: dict[str, Any] = {}
    with reading(path):
        # The file stays open as long as its data sets are in use.
        file = h5py.File(path, "r")
        file.visititems(
            lambda name, node: arrays.update({name: node} if isinstance(node, h5py.Dataset) else {})
        )
    return arrays


def _choose(path: Path, arrays: Mapping[str, Any], key: str | None) -> Any:
    """Return the array of features: the one named `key`, or the only one of shape (n, d)."""
    if key is not None:
        if key not in arrays:
            raise DataError(f"{path}: has no array {key!r}; it has {', '.join(arrays)}.")
        rows = arrays[key]
        if not _is_features(rows):
            raise DataError(
                f"{path}: the array {key!r} must hold numbers of shape (items, width), got "
                f"{rows.dtype} {rows.shape}."
            )
        return rows
    fitting = [name for name, rows in arrays.items() if _is_features(rows)]
    if not fitting:
        shown = ", ".join(f"{name or 'it'} {a.dtype} {a.shape}" for name, a in arrays.items())
        raise DataError(
            f"{path}: must hold numbers of shape (items, width), got {shown or 'no array'}."
        )
    if len(fitting) > 1:
        raise DataError(
            f"{path}: has several arrays of shape (items, width): {', '.join(fitting)}. Name one, "
            f"as in {path.name}:{fitting[0]}."
        )
    return arrays[fitting[0]]


def _is_features(rows: Any) -> bool:
    return len(rows.shape) == 2 and rows.shape[1] > 0 and rows.dtype.kind in "fiub"


def ids_of_array(path: Path, name: str, ids: npt.NDArray[Any]) -> list[str]:
    """Return the ids of an array as texts; see `raw.values.plain_ids`."""
    if ids.ndim != 1 or ids.dtype.kind not in "iuUSOf":
        raise DataError(
            f"{path}: the array {name!r} must hold one id per row, got {ids.dtype} {ids.shape}."
        )
    if ids.dtype.kind == "f":
        if not (np.isfinite(ids).all() and (ids == np.floor(ids)).all()):
            raise DataError(f"{path}: the array {name!r} has ids that are not whole numbers.")
        ids = ids.astype(np.int64)
    texts = [x.decode("utf-8", "replace") if isinstance(x, bytes) else str(x) for x in ids.tolist()]
    texts = [text.strip(SPACES) for text in texts]
    return plain_ids(texts) if ids.dtype.kind in "USO" else texts
