"""Untrained baseline: a random order of the new items for each user.

The score of user u for the item at position c is a hash of the seed, u and c. It is uniform in [0,
1), and depends neither on the other users nor on the other items that are scored in the same call.
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
    """A random order of new items; see the docstring of the module."""

    def __init__(self, data: WarmData, options: RandomOptions, seed: int) -> None:  # noqa: ARG002
        self._seed = np.random.SeedSequence(seed).generate_state(1, np.uint64)[0]

    def scorer(self, features: Mapping[str, Tensor], mask: Tensor) -> ScoreBlock:  # noqa: ARG002
        """Return a function that hashes users and positions of new items (splitmix64)."""
        positions = np.arange(len(mask), dtype=np.uint64)

        def score(users: Tensor) -> Tensor:
            # splitmix64 works modulo 2^64, so overflow is intended. The user takes the upper 32
            # bits of the key and the position the lower 32, so that no two pairs share a key.
            with np.errstate(over="ignore"):
                rows = users.cpu().numpy().astype(np.uint64)[:, None] << np.uint64(32)
                x = (rows + positions + self._seed) * np.uint64(0x9E3779B97F4A7C15)
                x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
                x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
                x ^= x >> np.uint64(31)
            # The upper 53 bits of the hash fill the mantissa of a float64.
            return torch.from_numpy((x >> np.uint64(11)).astype(np.float64) / 2.0**53).to(
                users.device
            )

        return score
