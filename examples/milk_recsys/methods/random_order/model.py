"""A floor: every user has every new item at random, the same always.

The score of user u for the item at place c is a hash of the seed, u and c: uniform in [0, 1), whatever is scored
beside it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from milk_recsys.methods.contract import ScoreBlock
from milk_recsys.methods.random_order import RandomOptions
from milk_recsys.methods.warm import WarmData

__all__ = ["RandomOrder"]


class RandomOrder:
    """The floor; see the module."""

    def __init__(self, data: WarmData, options: RandomOptions, seed: int) -> None:  # noqa: ARG002
        self._seed = np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]

    def scorer(self, features: Mapping[str, Tensor], observed: Tensor) -> ScoreBlock:  # noqa: ARG002
        """Return what scores new items: a hash of user and place (splitmix64)."""
        places = np.arange(len(observed), dtype=np.uint64)

        def score(users: Tensor) -> Tensor:
            with np.errstate(over="ignore"):
                rows = users.cpu().numpy().astype(np.uint64)[:, None] << np.uint64(32)
                x = (rows + places + self._seed) * np.uint64(0x9E3779B97F4A7C15)
                x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
                x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
                x ^= x >> np.uint64(31)
            return torch.from_numpy((x >> np.uint64(11)).astype(np.float64) / 2.0**53).to(
                users.device
            )

        return score
