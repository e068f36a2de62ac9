"""The split into warm and new items, and a run's mask, drawn from a seed.

`split_file.py` reads and writes it.

Only drawing a mask needs torch. Importing this module does not import it, so that the commands that
only read or write splits start at once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from milk_recsys.base.errors import DataError, plural
from milk_recsys.catalogue.dataset import Dataset
from milk_recsys.catalogue.time_split import check_ranked, known_at_cut, time_parts
from milk_recsys.config.options import DataOptions

if TYPE_CHECKING:
    import torch

__all__ = ["PARTS", "Split", "draw_split", "grown_split", "split_facts"]

ItemIds = npt.NDArray[np.int64]

# Share of the items with interactions that are new: one half for validation, the other for test.
COLD_SHARE = 0.2
PARTS = ("warm", "validation", "test")


@dataclass(frozen=True)
class Split:
    """The warm, validation and test items, and the modalities of each item that a run may use.

    Attributes:
        warm, validation, test: item ids, int64, increasing; the three sets are disjoint.
        mask: (num_items, M) bool, the natural mask without the cells that the setting removes.
        cut: time in unix seconds of a split by time; pairs of warm items from then on do not train.
    """

    warm: ItemIds
    validation: ItemIds
    test: ItemIds
    mask: npt.NDArray[np.bool_]
    cut: float | None = None

    @property
    def cold(self) -> ItemIds:
        """Validation and test items together, increasing."""
        return np.sort(np.concatenate([self.validation, self.test]))

    def used(self, dataset: Dataset) -> Dataset:
        """Return the data set with the pairs that train or are ranked; without a cut all of them.

        Raises:
            DataError: the split has a cut, and the data set no times.
        """
        return dataset if self.cut is None else known_at_cut(dataset, self.cold, self.cut)[0]


def draw_split(dataset: Dataset, options: DataOptions) -> tuple[Split, list[str]]:
    """Draw a split from ``options.split_seed``; also return notes on it.

    With ``--split-by first_seen`` the items are divided by time, and only the masks are drawn. With
    ``--fit-all`` all items are training items and have all modalities that the data have.

    The split, the test-time mask and the training mask are drawn from three separate streams of the
    seed. Therefore all settings and rates have the same warm and new items, and the training mask
    does not affect the test-time mask.

    Raises:
        DataError: there are too few items for a validation and a test set.
    """
    if options.fit_all:
        none = np.empty(0, dtype=np.int64)
        return Split(np.flatnonzero(dataset.item_counts), none, none, dataset.natural_mask), []
    streams = np.random.SeedSequence(options.split_seed).spawn(3)
    notes: list[str] = []
    cut: float | None = None
    if options.split_by == "first_seen":
        parts = time_parts(dataset, options.cut, COLD_SHARE)
        warm, validation, test, cut = parts.warm, parts.validation, parts.test, parts.cut
        used, note = known_at_cut(dataset, np.concatenate([validation, test]), cut)
        check_ranked(used, {"validation": validation, "test": test})
        notes.append(note)
    else:
        warm, validation, test = _random_parts(dataset, streams[0])
    mask = dataset.natural_mask
    if options.setting != "ftft":
        # Test items are masked first, so that masking validation items does not change their masks.
        generator = _generator(streams[1])
        masked = [("test", test)] + [("validation", validation)] * options.missing_in_validation
        for name, part in masked:
            mask = _remove_modalities(mask, part, options.missing_rate, generator, name, notes)
    if options.setting == "mtmt":
        generator = _generator(streams[2])
        mask = _remove_modalities(
            mask, warm, options.train_missing_rate, generator, "training", notes
        )
    return Split(warm, validation, test, mask, cut), notes


def _random_parts(
    dataset: Dataset, stream: np.random.SeedSequence
) -> tuple[ItemIds, ItemIds, ItemIds]:
    """Draw the warm, validation and test items."""
    items = np.flatnonzero(dataset.item_counts)
    shuffled = np.random.default_rng(stream).permutation(items)
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
    return np.sort(warm), np.sort(validation), np.sort(test)


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


def split_facts(dataset: Dataset, split: Split) -> dict[str, Any]:
    """Count the items and pairs of each part, and its missing cells by modality.

    Returns:
        ``items`` and ``pairs``: part -> count; ``nature``: part -> modality -> number of items that
        lack it in the data; ``removed``: the same for modalities that the setting removes.
    """

    def counts(cells: npt.NDArray[np.bool_]) -> dict[str, int]:
        return dict(zip(dataset.modalities, cells.sum(axis=0).tolist(), strict=True))

    dataset = split.used(dataset)
    removed = dataset.natural_mask & ~split.mask
    parts = {"warm": split.warm, "validation": split.validation, "test": split.test}
    return {
        "items": {name: len(items) for name, items in parts.items()},
        "pairs": {name: int(dataset.item_counts[items].sum()) for name, items in parts.items()},
        "nature": {name: counts(~dataset.natural_mask[items]) for name, items in parts.items()},
        "removed": {name: counts(removed[items]) for name, items in parts.items()},
    }
