"""The split into warm and new items, and a run's mask, drawn from a seed or read from a file.

Only drawing a mask needs torch. Importing this module does not import it, so that the commands that
only read or write splits start at once.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from milk_recsys.base.errors import DataError, plural
from milk_recsys.base.files import replacing
from milk_recsys.catalogue.dataset import Dataset
from milk_recsys.catalogue.npy import BAD_NPY
from milk_recsys.config.options import DataOptions

if TYPE_CHECKING:
    import torch

__all__ = ["Split", "draw_split", "grown_split", "read_split", "split_facts", "write_split"]

ItemIds = npt.NDArray[np.int64]

# Share of the items with interactions that are new: one half for validation, the other for test.
COLD_SHARE = 0.2


@dataclass(frozen=True)
class Split:
    """The warm, validation and test items, and the modalities of each item that a run may use.

    Attributes:
        warm, validation, test: item ids, int64, increasing; the three sets are disjoint.
        mask: (num_items, M) bool, the natural mask without the cells that the setting removes.
    """

    warm: ItemIds
    validation: ItemIds
    test: ItemIds
    mask: npt.NDArray[np.bool_]

    @property
    def cold(self) -> ItemIds:
        """Validation and test items together, increasing."""
        return np.sort(np.concatenate([self.validation, self.test]))

    @classmethod
    def stored(cls, path: Path) -> Split:
        """Return the arrays of a split file as they are, without a check against a data set."""
        return cls(**_read_arrays(path))


def draw_split(dataset: Dataset, options: DataOptions) -> tuple[Split, list[str]]:
    """Draw a split from ``options.split_seed``; also return notes on missing rates not reached.

    The split, the test-time mask and the training mask are drawn from three separate streams of the
    seed. Therefore all settings and rates have the same warm and new items, and the training mask
    does not affect the test-time mask.

    Raises:
        DataError: there are too few items for a validation and a test set.
    """
    streams = np.random.SeedSequence(options.split_seed).spawn(3)
    items = np.flatnonzero(dataset.item_counts)
    shuffled = np.random.default_rng(streams[0]).permutation(items)
    # This rounds halves up; Python's `round` would round them to the even number.
    num_cold = math.floor(COLD_SHARE * len(items) + 0.5)
    validation, test, warm = np.split(shuffled, [num_cold // 2, num_cold])
    for name, part in (("validation", validation), ("test", test)):
        if len(part) == 0:
            raise DataError(
                f"the {name} set is empty: of {plural(len(items), 'item', 'items')} with an "
                "interaction, 20% are new items, half of them validation and half test. Give a "
                "data set with at least 8 such items, or a --split file."
            )
    warm, validation, test = np.sort(warm), np.sort(validation), np.sort(test)

    mask = dataset.natural_mask
    notes: list[str] = []
    if options.setting != "ftft":
        # Test items are masked first, so that masking validation items does not change their masks.
        generator = _generator(streams[1])
        parts = [("test", test)] + [("validation", validation)] * options.missing_in_validation
        for name, part in parts:
            mask = _remove_modalities(mask, part, options.missing_rate, generator, name, notes)
    if options.setting == "mtmt":
        generator = _generator(streams[2])
        mask = _remove_modalities(
            mask, warm, options.train_missing_rate, generator, "training", notes
        )
    return Split(warm, validation, test, mask), notes


def _generator(stream: np.random.SeedSequence) -> torch.Generator:
    import torch

    # A seed of torch must fit into a signed 64-bit integer, hence the shift by one bit.
    return torch.Generator().manual_seed(int(stream.generate_state(1, np.uint64)[0] >> 1))


def _remove_modalities(
    mask: npt.NDArray[np.bool_],
    rows: ItemIds,
    rate: float,
    generator: torch.Generator,
    name: str,
    notes: list[str],
) -> npt.NDArray[np.bool_]:
    """Remove one modality from a share `rate` of the rows; note it if too few rows can lose one."""
    import torch

    from invmod import simulate_missing

    result = simulate_missing(
        torch.from_numpy(mask), rate, rows=torch.from_numpy(rows), generator=generator
    )
    if result.shortfall:
        fewer = plural(result.shortfall, f"fewer {name} item", f"fewer {name} items")
        notes.append(
            f"{fewer} than {rate:.0%} lost a modality: the remaining items have only one modality."
        )
    return result.mask.numpy()


def write_split(path: Path, split: Split) -> None:
    """Write the three sets of items and the mask as an npz file."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(
            file, warm=split.warm, validation=split.validation, test=split.test, mask=split.mask
        )


def read_split(path: Path, dataset: Dataset, setting: str) -> tuple[Split, list[str]]:
    """Read a split file and check it against the data set and the setting.

    Returns:
        The split, and notes on items that are in none of its parts.

    Raises:
        DataError: the file is absent, damaged or pickled; arrays are absent or have a wrong shape;
            ids are out of range, repeated, in two parts or without an interaction; a part is empty;
            the mask has a modality that the data set lacks, or lacks one that the setting keeps.
    """
    arrays = _read_arrays(path)
    parts = {
        name: _checked_items(path, name, arrays[name], dataset)
        for name in ("warm", "validation", "test")
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
    return Split(**parts, mask=mask), notes


def grown_split(split: Split, dataset: Dataset) -> Split:
    """Return the split of a data set that has grown.

    Items with interactions that are in none of the three parts are training items. They have the
    modalities that the data have.

    Arguments:
        split: of the data before; its items have the same ids now.
    """
    used = np.flatnonzero(dataset.item_counts)
    warm = np.union1d(split.warm, np.setdiff1d(used, split.cold)).astype(np.int64)
    mask = np.concatenate([split.mask, dataset.natural_mask[len(split.mask) :]])
    new = np.setdiff1d(warm, split.warm)
    mask[new] = dataset.natural_mask[new]
    return Split(warm, split.validation, split.test, mask)


def _read_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """Return the four arrays of a split file by name."""
    names = ("warm", "validation", "test", "mask")
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
        # np.load returns bytes for a member of the archive that is not an npy file.
        if not isinstance(array, np.ndarray):
            raise DataError(f"{path}: `{name}` is not an array. Name the split.npz of a run.")
    return arrays


def _checked_items(path: Path, name: str, items: npt.NDArray[Any], dataset: Dataset) -> ItemIds:
    if items.ndim != 1 or items.dtype.kind not in "iu":
        raise DataError(
            f"{path}: `{name}` must be item ids, whole numbers of shape (n,), got {items.dtype} "
            f"{items.shape}."
        )
    if len(items) == 0:
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


def split_facts(dataset: Dataset, split: Split) -> dict[str, Any]:
    """Count the items and pairs of each part, and its missing cells by modality.

    Returns:
        ``items`` and ``pairs``: part -> count; ``nature``: part -> modality -> number of items that
        lack it in the data; ``removed``: the same for modalities that the setting removes.
    """

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
