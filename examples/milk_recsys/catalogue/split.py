"""The new-item split and who misses what: drawn from a seed, or read from a file."""

from __future__ import annotations

import math
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from invmod import simulate_missing
from milk_recsys.base.errors import DataError, plural
from milk_recsys.base.files import replacing
from milk_recsys.catalogue.dataset import Dataset
from milk_recsys.catalogue.npy import BAD_NPY
from milk_recsys.config.options import DataOptions

__all__ = ["Split", "draw_split", "read_split", "split_facts", "write_split"]

Items = npt.NDArray[np.int64]

COLD_SHARE = 0.2  # of the items that have an interaction; half validation, half test


@dataclass(frozen=True)
class Split:
    """Which items are warm, validation and test, and which modalities the setting leaves them.

    Attributes:
        warm, validation, test: item ids, int64, increasing, without a common item.
        mask: (num_items, M) bool, what nature gives less what the setting removes.
    """

    warm: Items
    validation: Items
    test: Items
    mask: npt.NDArray[np.bool_]

    @property
    def cold(self) -> Items:
        """Validation and test items together, increasing."""
        return np.sort(np.concatenate([self.validation, self.test]))


def draw_split(dataset: Dataset, options: DataOptions) -> tuple[Split, list[str]]:
    """Draw a split from ``options.split_seed``, and say what could not be drawn as asked.

    The split, the test-time mask and the training mask come from three streams of the seed, so that settings and rates
    share their items, and a training mask changes nothing at test time.

    Raises:
        DataError: too few items for a validation and a test set.
    """
    streams = np.random.SeedSequence(options.split_seed).spawn(3)
    items = np.flatnonzero(dataset.item_counts)
    shuffled = np.random.default_rng(streams[0]).permutation(items)
    num_cold = math.floor(COLD_SHARE * len(items) + 0.5)
    validation, test, warm = np.split(shuffled, [num_cold // 2, num_cold])
    for name, part in (("validation", validation), ("test", test)):
        if len(part) == 0:
            raise DataError(
                f"the {name} set is empty: of {plural(len(items), 'item', 'items')} with an interaction, 20% are "
                "new items, half of them validation and half test. Give a data set with at least 8 such items, or a "
                "--split file."
            )
    warm, validation, test = np.sort(warm), np.sort(validation), np.sort(test)

    mask = dataset.natural_mask
    notes: list[str] = []
    if options.setting != "ftft":
        generator = _generator(streams[1])
        parts = [("test", test)] + [("validation", validation)] * options.missing_in_validation
        for name, part in parts:
            mask = _hide(mask, part, options.missing_rate, generator, name, notes)
    if options.setting == "mtmt":
        mask = _hide(
            mask, warm, options.train_missing_rate, _generator(streams[2]), "training", notes
        )
    return Split(warm, validation, test, mask), notes


def _generator(stream: np.random.SeedSequence) -> torch.Generator:
    return torch.Generator().manual_seed(int(stream.generate_state(1, np.uint64)[0] >> 1))


def _hide(
    mask: npt.NDArray[np.bool_],
    rows: Items,
    rate: float,
    generator: torch.Generator,
    name: str,
    notes: list[str],
) -> npt.NDArray[np.bool_]:
    result = simulate_missing(
        torch.from_numpy(mask), rate, rows=torch.from_numpy(rows), generator=generator
    )
    if result.shortfall:
        fewer = plural(result.shortfall, f"fewer {name} item", f"fewer {name} items")
        notes.append(
            f"{fewer} than {rate:.0%} lost a modality: the others have only one to begin with."
        )
    return result.mask.numpy()


def write_split(path: Path, split: Split) -> None:
    """Write the four arrays as an npz file."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(
            file, warm=split.warm, validation=split.validation, test=split.test, mask=split.mask
        )


def read_split(path: Path, dataset: Dataset, setting: str) -> tuple[Split, list[str]]:
    """Read a split file and check it against the data set and the setting.

    Returns:
        the split, and notes on items it leaves out.

    Raises:
        DataError: the file is absent, damaged or pickled; arrays are absent or of a wrong shape; ids are out of range,
            repeated, in two parts or without an interaction; a part is empty; the mask gives what nature does not, or
            takes what the setting keeps.
    """
    arrays = _read_arrays(path)
    parts = {
        name: _checked_items(path, name, arrays[name], dataset)
        for name in ("warm", "validation", "test")
    }
    everything = np.concatenate(list(parts.values()))
    values, counts = np.unique(everything, return_counts=True)
    if counts.max() > 1:
        where = [name for name, items in parts.items() if values[counts.argmax()] in items]
        raise DataError(
            f"{path}: the split overlaps: item {values[counts.argmax()]} is in {' and '.join(where)}."
        )
    mask = _checked_mask(path, arrays["mask"], parts, dataset, setting)
    left_out = len(np.setdiff1d(np.flatnonzero(dataset.item_counts), everything))
    words = plural(left_out, "item with interactions is", "items with interactions are")
    notes = [f"{path}: {words} in no part and left out."] if left_out else []
    return Split(**parts, mask=mask), notes


def _read_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    names = ("warm", "validation", "test", "mask")
    try:
        with path.open("rb") as file:
            if (
                file.read(2) != b"PK"
            ):  # what a zip file begins with; np.load would try others, pickles too
                raise DataError(
                    f"{path}: is not an npz file. Take a split.npz that a run has written."
                )
            file.seek(0)
            archive = np.load(file, allow_pickle=False)
            absent = [name for name in names if name not in archive]
            if absent:
                raise DataError(
                    f"{path}: lacks the arrays {absent}; a split has {', '.join(names)}."
                )
            arrays = {name: archive[name] for name in names}
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
        if not isinstance(array, np.ndarray):  # bytes, where a member is no npy file
            raise DataError(
                f"{path}: `{name}` is not an array. Take a split.npz that a run has written."
            )
    return arrays


def _checked_items(path: Path, name: str, items: npt.NDArray[Any], dataset: Dataset) -> Items:
    if items.ndim != 1 or items.dtype.kind not in "iu":
        raise DataError(
            f"{path}: `{name}` must be item ids, whole numbers of shape (n,), got {items.dtype} {items.shape}."
        )
    if len(items) == 0:
        raise DataError(f"{path}: the {name} set is empty.")
    if items.min() < 0 or items.max() >= dataset.num_items:
        raise DataError(f"{path}: `{name}` has item ids outside 0 to {dataset.num_items - 1}.")
    items = np.sort(items.astype(np.int64))
    if (items[1:] == items[:-1]).any():
        raise DataError(f"{path}: `{name}` has item {items[1:][items[1:] == items[:-1]][0]} twice.")
    without = items[dataset.item_counts[items] == 0]
    if len(without):
        raise DataError(f"{path}: `{name}` has item {without[0]}, which has no interaction.")
    return items


def _checked_mask(
    path: Path, mask: npt.NDArray[Any], parts: dict[str, Items], dataset: Dataset, setting: str
) -> npt.NDArray[np.bool_]:
    if mask.dtype != np.bool_ or mask.shape != dataset.natural_mask.shape:
        raise DataError(
            f"{path}: `mask` must be bool of shape (items, modalities) = {dataset.natural_mask.shape}, "
            f"got {mask.dtype} {mask.shape}."
        )
    given = (mask & ~dataset.natural_mask).any(axis=1)
    if given.any():
        raise DataError(
            f"{path}: `mask` gives item {given.argmax()} a modality that the data set lacks."
        )
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
                f"{path}: under the setting {setting}, {name} items keep what nature gives them, but `mask` takes a "
                f"modality from item {items[lacking.argmax()]}. Choose another --setting or another file."
            )
    return mask


def split_facts(dataset: Dataset, split: Split) -> dict[str, Any]:
    """Count items and pairs, what nature leaves missing, and what the setting removes, apart."""

    def counts(cells: npt.NDArray[np.bool_]) -> dict[str, int]:
        return dict(zip(dataset.modalities, cells.sum(axis=0).tolist(), strict=True))

    removed = dataset.natural_mask & ~split.mask
    parts = {"warm": split.warm, "validation": split.validation, "test": split.test}
    return {
        "items": {name: len(items) for name, items in parts.items()},
        "pairs": {name: int(dataset.item_counts[items].sum()) for name, items in parts.items()},
        "nature": {name: counts(~dataset.natural_mask[items]) for name, items in parts.items()},
        "removed": {name: counts(removed[items]) for name, items in parts.items()},
    }
