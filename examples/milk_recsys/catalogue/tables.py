"""A data set and its split as tensors on the device of the model."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from milk_recsys.base.distributed import SINGLE_PROCESS, World
from milk_recsys.base.errors import DataError
from milk_recsys.catalogue.dataset import Dataset
from milk_recsys.catalogue.features import ItemFeatures
from milk_recsys.catalogue.pairs import Pairs, pair_blocks
from milk_recsys.catalogue.split import Split
from milk_recsys.catalogue.user_blocks import UserBlocks, build_user_blocks
from milk_recsys.catalogue.user_rows import UserRows, build_user_rows
from milk_recsys.config.options import DataOptions, Options

__all__ = ["Group", "Tables", "build_tables"]

# Prepared features that would take more memory than this on the CPU stay in their files.
CPU_FEATURE_BYTES = 2**30


@dataclass(frozen=True)
class Group:
    """Candidate items, and the positive pairs that are ranked among them.

    Attributes:
        candidates: (C,) item ids, increasing.
        users: (P,) user ids, one per positive pair.
        positions: (P,) index of each pair's item in `candidates`.
    """

    candidates: Tensor
    users: Tensor
    positions: Tensor


@dataclass(frozen=True)
class Tables:
    """A data set and its split as tensors on the device of the model.

    Attributes:
        features: features of all items as stored, NaN rows included.
        natural_mask: (num_items, M) bool, the modalities that the items have.
        mask: (num_items, M) bool, the modalities that the run may use.
        warm: ids of the training items, increasing.
        training: the training pairs, and the pool that negatives are drawn from. With
            ``--user-blocks`` it is the `UserBlocks` of this process, else the `UserRows` of all
            users.
        validation, test, all_cold: positive pairs and their candidates. `all_cold` ranks the test
            positives among all cold items.
    """

    modalities: tuple[str, ...]
    num_users: int
    features: ItemFeatures
    natural_mask: Tensor
    mask: Tensor
    warm: Tensor
    training: UserRows | UserBlocks
    validation: Group
    test: Group
    all_cold: Group

    @property
    def device(self) -> torch.device:
        """The device of the tensors."""
        return self.warm.device

    @property
    def rows(self) -> UserRows:
        """The rows of all users.

        Raises:
            ValueError: the pairs are divided into blocks of users, of which this process has its
                own.
        """
        if isinstance(self.training, UserBlocks):
            raise ValueError(
                "Tables.rows: the training pairs are divided into blocks of users (--user-blocks), "
                "so that no process has all of them. Use `Tables.blocks`, or build the tables "
                "without the option."
            )
        return self.training

    @property
    def blocks(self) -> UserBlocks | None:
        """This process's blocks of users; None without ``--user-blocks``."""
        return self.training if isinstance(self.training, UserBlocks) else None

    @property
    def pool(self) -> Tensor:
        """Ids of the items that negatives are drawn from, increasing."""
        return self.training.pool

    @property
    def num_pairs(self) -> int:
        """Number P of training pairs."""
        return self.training.num_pairs

    @property
    def trained_users(self) -> Tensor:
        """Whether each user has a training pair, (num_users,) bool."""
        return self.training.has_pairs

    def pairs_at(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Return the users and items, (n,) int64 each, of the training pairs with these numbers.

        Pairs are numbered from 0 to P - 1.
        """
        return self.rows.pairs_at(numbers)

    def training_view(self) -> Tables:
        """Return the tables without the items that training must not see.

        Such items have no features and an all-False mask, and the groups to rank are empty. The
        items that negatives are drawn from remain: these are the warm items, or all items with
        ``--negatives all``, which leaks on purpose.
        """
        in_pool = torch.zeros(len(self.mask), dtype=torch.bool, device=self.device).index_fill_(
            0, self.pool, True
        )
        empty_group = Group(*(self.warm.new_empty(0) for _ in range(3)))
        return replace(
            self,
            features=self.features.only(self.pool),
            natural_mask=self.natural_mask & in_pool[:, None],
            mask=self.mask & in_pool[:, None],
            validation=empty_group,
            test=empty_group,
            all_cold=empty_group,
        )

    @property
    def pairs(self) -> Tensor:
        """All training pairs (P, 2), int64, built on each access. For large sets use `pairs_at`."""
        return torch.stack(self.pairs_at(torch.arange(self.num_pairs, device=self.device)), dim=1)


def build_tables(
    dataset: Dataset,
    split: Split,
    options: Options,
    device: torch.device,
    world: World = SINGLE_PROCESS,
) -> Tables:
    """Build the tensors that training and evaluation need, on the device.

    Pairs are read in blocks, so that a memory-mapped file is never loaded as a whole.

    Arguments:
        world: the processes that share the blocks of users of ``--user-blocks``.

    Raises:
        DataError: no warm item has one of the modalities, features are so large that their squares
            overflow, or a user has every item that negatives are drawn from.
        OptionError: the number of blocks of users does not fit the data or the processes.
    """
    # Nothing could be fitted for a modality that no training item has.
    absent = [
        name for k, name in enumerate(dataset.modalities) if not split.mask[split.warm, k].any()
    ]
    if absent:
        raise DataError(
            f"no training item has the modality {absent[0]!r}, so nothing can be learnt about it. "
            "Remove this modality from the data set."
        )
    _check_size(dataset, options.run.dtype)
    # With "test", validation and test items are ranked among the items of their own half only.
    warm, own_half = torch.from_numpy(split.warm), options.data.candidates == "test"
    pool = (
        warm
        if options.data.negatives == "warm"
        else torch.from_numpy(np.sort(np.concatenate([split.warm, split.cold])))
    )
    validation, test = (
        _positives(dataset, items, options.data) for items in (split.validation, split.test)
    )
    all_cold = _group(test, split.cold, device)
    return Tables(
        modalities=dataset.modalities,
        num_users=dataset.num_users,
        features=ItemFeatures(
            dataset.features,
            device,
            mapped=keep_features_on_disk(dataset, options.data.features, options.run.dtype, device),
        ),
        natural_mask=torch.from_numpy(dataset.natural_mask).to(device),
        mask=torch.from_numpy(split.mask).to(device),
        warm=warm.to(device),
        training=_training_pairs(dataset, warm, pool, options, device, world),
        validation=_group(validation, split.validation if own_half else split.cold, device),
        test=_group(test, split.test, device) if own_half else all_cold,
        all_cold=all_cold,
    )


def _training_pairs(
    dataset: Dataset,
    warm: Tensor,
    pool: Tensor,
    options: Options,
    device: torch.device,
    world: World,
) -> UserRows | UserBlocks:
    """Build the rows of all users or, with ``--user-blocks``, those of this process's users."""
    # Only MILK and its ablations have this option.
    num_blocks = getattr(options.method, "user_blocks", None)
    pairs, num_users = dataset.interactions, dataset.num_users
    if num_blocks is None:
        return build_user_rows(pairs, num_users, pool, only=warm).to(device)
    is_warm = np.zeros(dataset.num_items, dtype=np.bool_)
    is_warm[warm.numpy()] = True
    return build_user_blocks(
        pairs, num_users, pool, num_blocks, is_warm=is_warm, world=world, device=device
    )


def keep_features_on_disk(
    dataset: Dataset, features: str, dtype: str, device: torch.device
) -> bool:
    """Return whether features stay in their files.

    Arguments:
        features: the option; with "auto", features stay there if a prepared copy would take much
            memory.
        dtype: the model's precision, which prepared features have.
    """
    if features != "auto":
        return features == "mapped"
    size = sum(x.size for x in dataset.features.values()) * (8 if dtype == "float64" else 4)
    if device.type == "cuda":
        return size > torch.cuda.get_device_properties(device).total_memory // 4
    return size > CPU_FEATURE_BYTES


def _positives(dataset: Dataset, items: npt.NDArray[np.int64], options: DataOptions) -> Pairs:
    """Return the pairs of the given items, restricted to the users who are evaluated."""
    selected = np.zeros(dataset.num_items, dtype=np.bool_)
    selected[items] = True
    pairs: Pairs = np.concatenate(
        [block[selected[block[:, 1]]] for _, block in pair_blocks(dataset.interactions)]
    )
    if options.eval_users is None:
        return pairs
    # The fourth stream of the seed; `draw_split` uses the first three (spawn keys 0, 1 and 2).
    seed = np.random.SeedSequence(options.split_seed, spawn_key=(3,))
    order = np.random.default_rng(seed).permutation(dataset.num_users)
    evaluated = np.zeros(dataset.num_users, dtype=np.bool_)
    evaluated[pairs[:, 0]] = True
    # Of the users with a positive, keep the first `eval_users` in the random order.
    evaluated[order[evaluated[order]][options.eval_users :]] = False
    kept: Pairs = pairs[evaluated[pairs[:, 0]]]
    return kept


def _group(pairs: Pairs, candidates: npt.NDArray[np.int64], device: torch.device) -> Group:
    # The candidates are sorted and contain every item of the pairs, so a binary search finds them.
    positions = np.searchsorted(candidates, pairs[:, 1])
    return Group(
        *(
            torch.from_numpy(a.astype(np.int64)).to(device)
            for a in (candidates, pairs[:, 0], positions)
        )
    )


def _check_size(dataset: Dataset, dtype: str) -> None:
    """Refuse features whose squares, summed over a row, could overflow in the model's precision."""
    # The margin of 1e3 leaves room for the sum of a million squares.
    limit = float(np.finfo(np.float64 if dtype == "float64" else np.float32).max) ** 0.5 / 1e3
    for name in dataset.modalities:
        largest = dataset.largest(name)
        if largest > limit:
            raise DataError(
                f"modality {name!r} has values up to {largest:.3g}, beyond {limit:.1g}. "
                "Scale its features."
            )
