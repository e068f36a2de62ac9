"""A data set and its split as tensors on the device of the model."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from milk_recsys.base.errors import DataError
from milk_recsys.catalogue.dataset import Dataset
from milk_recsys.catalogue.features import ItemFeatures
from milk_recsys.catalogue.pairs import Pairs, pair_blocks
from milk_recsys.catalogue.split import Split
from milk_recsys.catalogue.user_rows import UserRows, build_user_rows
from milk_recsys.config.options import Options

__all__ = ["Group", "Tables", "build_tables"]


CPU_FEATURE_BYTES = 2**30  # of prepared features, beyond which they stay in their files


@dataclass(frozen=True)
class Group:
    """Candidates, and the positive pairs that are ranked among them.

    Attributes:
        candidates: (C,) item ids, increasing.
        users: (P,) user ids; positions: (P,) of their positives among the candidates.
    """

    candidates: Tensor
    users: Tensor
    positions: Tensor


@dataclass(frozen=True)
class Tables:
    """A data set and its split as tensors on the device of the model.

    Attributes:
        features: of all items as stored, NaN rows included.
        natural_mask: (num_items, M) bool, the modalities that items have; mask: those that the setting leaves.
        rows: the training pairs, and what of the pool each user has.
        validation, test, all_cold: positives and their candidates.
    """

    modalities: tuple[str, ...]
    num_users: int
    features: ItemFeatures
    natural_mask: Tensor
    mask: Tensor
    warm: Tensor
    rows: UserRows
    validation: Group
    test: Group
    all_cold: Group

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.warm.device

    @property
    def pool(self) -> Tensor:
        """Item ids that negatives are drawn from, increasing."""
        return self.rows.pool

    @property
    def num_pairs(self) -> int:
        """The number of training pairs P."""
        return self.rows.num_pairs

    @property
    def trained_users(self) -> Tensor:
        """Which users have a training pair, (num_users,) bool."""
        return self.rows.offsets.diff() > 0

    def pairs_at(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Return the users and the items, (n,) int64 each, of training pairs by their numbers (n,) from 0 to P - 1."""
        return self.rows.pairs_at(numbers)

    def training_view(self) -> Tables:
        """Return the tables without the items that training must not see: no features, no mask, nothing to rank.

        What remains are the items that negatives are drawn from, which are the warm ones but for a leak by option.
        """
        known = torch.zeros(len(self.mask), dtype=torch.bool, device=self.device).index_fill_(
            0, self.pool, True
        )
        nothing = Group(*(self.warm.new_empty(0) for _ in range(3)))
        return replace(
            self,
            features=self.features.only(self.pool),
            natural_mask=self.natural_mask & known[:, None],
            mask=self.mask & known[:, None],
            validation=nothing,
            test=nothing,
            all_cold=nothing,
        )

    @property
    def pairs(self) -> Tensor:
        """All training pairs (P, 2), int64, made anew each time: of a large set, ask for some (`pairs_at`)."""
        return torch.stack(self.pairs_at(torch.arange(self.num_pairs, device=self.device)), dim=1)


def build_tables(dataset: Dataset, split: Split, options: Options, device: torch.device) -> Tables:
    """Put what training and evaluation read on the device; pairs are gone through in blocks.

    Raises:
        DataError: a modality that no warm item has, features too large to be squared, or a user who has every item
            that negatives are drawn from.
    """
    absent = [
        name for k, name in enumerate(dataset.modalities) if not split.mask[split.warm, k].any()
    ]
    if absent:
        raise DataError(
            f"no training item has the modality {absent[0]!r}, so nothing can be learnt about it. Leave it out."
        )
    _check_size(dataset, options)
    warm, narrow = torch.from_numpy(split.warm), options.data.candidates == "test"
    pool = (
        warm
        if options.data.negatives == "warm"
        else torch.from_numpy(np.sort(np.concatenate([split.warm, split.cold])))
    )
    rows = build_user_rows(dataset.interactions, dataset.num_users, pool, only=warm)
    validation, test = (
        _positives(dataset, items, options) for items in (split.validation, split.test)
    )
    all_cold = _group(test, split.cold, device)
    return Tables(
        modalities=dataset.modalities,
        num_users=dataset.num_users,
        features=ItemFeatures(
            dataset.features, device, mapped=keep_features_on_disk(dataset, options, device)
        ),
        natural_mask=torch.from_numpy(dataset.natural_mask).to(device),
        mask=torch.from_numpy(split.mask).to(device),
        warm=warm.to(device),
        rows=rows.to(device),
        validation=_group(validation, split.validation if narrow else split.cold, device),
        test=_group(test, split.test, device) if narrow else all_cold,
        all_cold=all_cold,
    )


def keep_features_on_disk(dataset: Dataset, options: Options, device: torch.device) -> bool:
    """Whether features stay in their files: as the option says, or where a prepared copy would take much memory."""
    if options.data.features != "auto":
        return options.data.features == "mapped"
    size = sum(x.size for x in dataset.features.values()) * (
        8 if options.run.dtype == "float64" else 4
    )
    if device.type == "cuda":
        return size > torch.cuda.get_device_properties(device).total_memory // 4
    return size > CPU_FEATURE_BYTES


def _positives(dataset: Dataset, items: npt.NDArray[np.int64], options: Options) -> Pairs:
    """Return the pairs of some items: of all users, or of those who are evaluated."""
    wanted = np.zeros(dataset.num_items, dtype=np.bool_)
    wanted[items] = True
    pairs: Pairs = np.concatenate(
        [block[wanted[block[:, 1]]] for _, block in pair_blocks(dataset.interactions)]
    )
    if options.data.eval_users is None:
        return pairs
    seed = np.random.SeedSequence(
        options.data.split_seed, spawn_key=(3,)
    )  # beside the three streams of `draw_split`
    order = np.random.default_rng(seed).permutation(dataset.num_users)
    user_wanted = np.zeros(dataset.num_users, dtype=np.bool_)
    user_wanted[pairs[:, 0]] = True
    user_wanted[order[user_wanted[order]][options.data.eval_users :]] = False
    kept: Pairs = pairs[user_wanted[pairs[:, 0]]]
    return kept


def _group(pairs: Pairs, candidates: npt.NDArray[np.int64], device: torch.device) -> Group:
    positions = np.searchsorted(candidates, pairs[:, 1])
    return Group(
        *(
            torch.from_numpy(a.astype(np.int64)).to(device)
            for a in (candidates, pairs[:, 0], positions)
        )
    )


def _check_size(dataset: Dataset, options: Options) -> None:
    """Refuse features whose squares overflow in the model's precision."""
    limit = (
        float(np.finfo(np.float64 if options.run.dtype == "float64" else np.float32).max) ** 0.5
        / 1e3
    )
    for name in dataset.modalities:
        largest = dataset.largest(name)
        if largest > limit:
            raise DataError(
                f"modality {name!r} has values up to {largest:.3g}, beyond {limit:.1g}. Scale its features."
            )
