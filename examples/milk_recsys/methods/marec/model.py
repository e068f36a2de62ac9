"""MARec, a reading of its closed form: content says what is similar, interactions smooth it.

    B minimises |R - R B|^2 + l1 |B|^2 + sum_j d_j |R b_j - alpha t_j|^2 with a zero diagonal;   t = R T, T as in kNN

A new item has no column in R, and all have the same d_j, so that with K = R R' its scores are, up to scale,

    s = K (K + lambda I)^-1 R T

References:
    Monteil, Vaskovych, Lu, Majumder and van den Hengel, MARec: metadata alignment for cold-start recommendation,
    RecSys 2024.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from milk_recsys.methods.closed_form import (
    NeighbourScores,
    Smoother,
    interactions,
    user_profile_scorer,
)
from milk_recsys.methods.contract import ScoreBlock
from milk_recsys.methods.marec import MarecOptions
from milk_recsys.methods.warm import WarmData

__all__ = ["Marec"]


class Marec:
    """The closed form; see the module."""

    def __init__(self, data: WarmData, options: MarecOptions, seed: int) -> None:
        self._data, own = data, options
        self.neighbour_scores = NeighbourScores(data, own.neighbours, seed)
        self.smooth = Smoother(interactions(data, self.neighbour_scores.rows.dtype), own.smoothing)

    def scorer(self, features: Mapping[str, Tensor], observed: Tensor) -> ScoreBlock:
        """Return what scores new items by the smoothed profiles of users."""
        return user_profile_scorer(
            self._data, self.smooth(self.neighbour_scores(features, observed))
        )
