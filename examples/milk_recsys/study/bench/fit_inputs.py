"""The arguments of a function from outside that the audit calls."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from milk_recsys.catalogue.tables import build_tables
from milk_recsys.config.options import Options
from milk_recsys.study.audit import pairs_of_few_users
from milk_recsys.study.bench.tasks import Instance

__all__ = ["Array", "Fit", "Inputs", "inputs_of"]

Array = npt.NDArray[Any]
Fit = Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class Inputs:
    """The arguments of the function, with n warm items, C cold items and M modalities.

    Attributes:
        pairs: (P, 2) int64, a user id and the row of a warm item in `features`.
        features: modality -> (n, d_m) float32 or float64; NaN where the item lacks the modality.
        mask: (n, M) bool, True where a modality may be used.
        cold_features: modality -> (C, d_m), as `features`.
        cold_mask: (C, M) bool.
        users: (U,) int64, the users for whom the cold items are ranked, increasing.
        seed: seed of all random numbers.
    """

    pairs: Array
    features: dict[str, Array]
    mask: Array
    cold_features: dict[str, Array]
    cold_mask: Array
    users: Array
    seed: int

    def only_cold(self, rows: Array) -> Inputs:
        """Return the inputs with some of the cold items, in a given order."""
        cold = {name: x[rows] for name, x in self.cold_features.items()}
        return dataclasses.replace(self, cold_features=cold, cold_mask=self.cold_mask[rows])

    def call(self, fit: Fit) -> Any:
        """Call the function with copies, so that it may change its arguments."""
        return fit(
            pairs=self.pairs.copy(),
            features={name: x.copy() for name, x in self.features.items()},
            mask=self.mask.copy(),
            cold_features={name: x.copy() for name, x in self.cold_features.items()},
            cold_mask=self.cold_mask.copy(),
            users=self.users.copy(),
            seed=self.seed,
        )


def inputs_of(instance: Instance, *, few_users: bool = False, reveal: bool = False) -> Inputs:
    """Return the inputs of a split, whose cold items are the candidates.

    Arguments:
        few_users: take the pairs of 200 users only, as the audit does, so that it takes seconds.
            Of these, the test users with a training pair are ranked for: without one, all scores
            may be equal, and lists of equal scores depend on the places of the items.
        reveal: give hidden cells the values that the setting hides, instead of NaN.
    """
    tables, split = instance.tables, instance.split
    if few_users:
        options = Options.of("random", setting=instance.setting, split_seed=instance.seed)
        dataset = dataclasses.replace(
            instance.dataset, interactions=pairs_of_few_users(instance.dataset)
        )
        tables = build_tables(dataset, split, options, torch.device("cpu"))
    pairs = tables.pairs.numpy().copy()
    pairs[:, 1] = np.searchsorted(split.warm, pairs[:, 1])

    def rows(items: Array) -> dict[str, Array]:
        taken = {}
        for m, (name, x) in enumerate(instance.dataset.features.items()):
            # float16 sums overflow in outsiders' code as in ours.
            x = np.array(x[items], dtype=np.promote_types(x.dtype, np.float32))
            if not reveal:
                x[~split.mask[items, m]] = np.nan
            taken[name] = x
        return taken

    users = np.unique(tables.test.users.numpy())
    return Inputs(
        pairs,
        rows(split.warm),
        split.mask[split.warm],
        rows(split.test),
        split.mask[split.test],
        users[np.isin(users, pairs[:, 0])] if few_users else users,
        instance.seed,
    )
