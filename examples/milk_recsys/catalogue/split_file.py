"""Files split.npz: the three sets of items, the mask, and the cut of a split by time.

This module does not import torch.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from milk_recsys.base.errors import DataError, plural
from milk_recsys.base.files import replacing
from milk_recsys.base.reading import check_regular
from milk_recsys.catalogue.dataset import Dataset
from milk_recsys.catalogue.npy import BAD_NPY
from milk_recsys.catalogue.split import PARTS, ItemIds, Split

__all__ = ["read_split", "stored_split", "write_split"]


def write_split(path: Path, split: Split) -> None:
    """Write the three sets of items, the mask and the cut, if there is one, as an npz file."""
    arrays = {
        name: getattr(split, name)
        for name in (*PARTS, "mask", *(["cut"] if split.cut is not None else []))
    }
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


def stored_split(path: Path) -> Split:
    """Return the arrays of a split file as they are, without a check against a data set."""
    arrays = _read_arrays(path)
    return Split(**{name: arrays[name] for name in (*PARTS, "mask")}, cut=_cut(path, arrays))


def read_split(
    path: Path, dataset: Dataset, setting: str, *, fit_all: bool = False
) -> tuple[Split, list[str]]:
    """Read a split file and check it against the data set and the setting.

    Arguments:
        fit_all: whether it is that of a run with ``--fit-all``, without validation and test items.

    Returns:
        The split, and notes on items that are in none of its parts.

    Raises:
        DataError: the file is absent, damaged or pickled; arrays are absent or have a wrong shape;
            ids are out of range, repeated, in two parts or without an interaction; a part is empty;
            the mask has a modality that the data set lacks, or lacks one that the setting keeps.
    """
    arrays = _read_arrays(path)
    parts = {
        name: _checked_items(path, name, arrays[name], dataset, empty=fit_all and name != "warm")
        for name in PARTS
    }
    all_items = np.concatenate(list(parts.values()))
    values, counts = np.unique(all_items, return_counts=True)
    if counts.max() > 1:
        where = [name for name, items in parts.items() if values[counts.argmax()] in items]
        raise DataError(
            f"{path}: the split overlaps: item {values[counts.argmax()]} is in "
            f"{' and '.join(where)}."
        )
    mask = _checked_mask(path, arrays["mask"], parts, dataset, setting)
    unused = len(np.setdiff1d(np.flatnonzero(dataset.item_counts), all_items))
    words = plural(unused, "item with interactions is", "items with interactions are")
    notes = [f"{path}: {words} in none of the three parts and not used."] if unused else []
    split = Split(**parts, mask=mask, cut=_cut(path, arrays))
    split.used(dataset)  # Raises if the data set has no times.
    return split, notes


def _read_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Return the arrays of a split file by name."""
    names = (*PARTS, "mask")
    check_regular(path)
    try:
        with path.open("rb") as file:
            # An npz file is a zip file, which begins with "PK". The check comes before np.load,
            # which accepts other formats as well.
            if file.read(2) != b"PK":
                raise DataError(f"{path}: is not an npz file. Name the split.npz of a run.")
            file.seek(0)
            archive = np.load(file, allow_pickle=False)
            absent = [name for name in names if name not in archive]
            if absent:
                raise DataError(
                    f"{path}: lacks the arrays {absent}; a split has {', '.join(names)}."
                )
            # Arrays are decompressed on access, so errors in their data are raised here.
            arrays = {name: archive[name] for name in (*names, "cut") if name in archive}
    except FileNotFoundError:
        raise DataError(f"{path}: no such file. Name the split.npz of a run.") from None
    except DataError:
        raise
    except (
        OSError,
        AttributeError,
        RuntimeError,
        zipfile.BadZipFile,
        zlib.error,
        *BAD_NPY,
    ) as error:
        raise DataError(f"{path}: is not a readable npz file without pickles ({error}).") from None
    for name, array in arrays.items():
        # np.load returns bytes for a member of the archive that is not an npy file.
        if not isinstance(array, np.ndarray):
            raise DataError(f"{path}: `{name}` is not an array. Name the split.npz of a run.")
    return arrays


def _cut(path: Path, arrays: dict[str, npt.NDArray[Any]]) -> float | None:
    if "cut" not in arrays:
        return None
    cut = arrays["cut"]
    if cut.dtype.kind not in "iuf" or cut.size != 1 or not math.isfinite(float(cut.item())):
        raise DataError(f"{path}: `cut` must be a number of seconds, got {cut.dtype} {cut.shape}.")
    return float(cut.item())


def _checked_items(
    path: Path, name: str, items: npt.NDArray[Any], dataset: Dataset, *, empty: bool
) -> ItemIds:
    if items.ndim != 1 or items.dtype.kind not in "iu":
        raise DataError(
            f"{path}: `{name}` must be item ids, whole numbers of shape (n,), got {items.dtype} "
            f"{items.shape}."
        )
    if len(items) == 0:
        if empty:
            return np.empty(0, dtype=np.int64)
        raise DataError(f"{path}: the {name} set is empty.")
    if items.min() < 0 or items.max() >= dataset.num_items:
        raise DataError(f"{path}: `{name}` has item ids outside 0 to {dataset.num_items - 1}.")
    items = np.sort(items.astype(np.int64))
    if (items[1:] == items[:-1]).any():
        raise DataError(f"{path}: `{name}` has item {items[1:][items[1:] == items[:-1]][0]} twice.")
    unused = items[dataset.item_counts[items] == 0]
    if len(unused):
        raise DataError(f"{path}: `{name}` has item {unused[0]}, which has no interaction.")
    return items


def _checked_mask(
    path: Path, mask: npt.NDArray[Any], parts: dict[str, ItemIds], dataset: Dataset, setting: str
) -> npt.NDArray[np.bool_]:
    if mask.dtype != np.bool_ or mask.shape != dataset.natural_mask.shape:
        raise DataError(
            f"{path}: `mask` must be bool of shape (items, modalities) = "
            f"{dataset.natural_mask.shape}, got {mask.dtype} {mask.shape}."
        )
    added = (mask & ~dataset.natural_mask).any(axis=1)
    if added.any():
        raise DataError(
            f"{path}: `mask` gives item {added.argmax()} a modality that the data set lacks."
        )
    # Parts that must keep all their modalities: under FTMT only new items may lose some, and under
    # MTMT all items may.
    full = {"ftft": tuple(parts), "ftmt": ("warm",), "mtmt": ()}[setting]
    for name, items in parts.items():
        empty = ~mask[items].any(axis=1)
        if empty.any():
            raise DataError(
                f"{path}: `mask` leaves item {items[empty.argmax()]} ({name}) no modality at all."
            )
        lacking = (mask[items] != dataset.natural_mask[items]).any(axis=1)
        if name in full and lacking.any():
            raise DataError(
                f"{path}: under the setting {setting}, {name} items keep all modalities that they "
                f"have, but `mask` removes one from item {items[lacking.argmax()]}. Choose another "
                "--setting or another file."
            )
    return mask
