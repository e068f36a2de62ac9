"""MARec in closed form, for new items: kNN on content, smoothed over users.

MARec fits an item-item matrix B (n, n) with a zero diagonal that minimises

    |R - R B|^2 + l1 |B|^2 + sum_j d_j |R b_j - alpha t_j|^2,   t = R T

where R (U, n) is the 0/1 matrix of training pairs, b_j and t_j are columns of B and t, T are the
similarities of `knn`, and l1, d_j and alpha are weights. The column of R of a new item is 0 and all
new items have the same d_j, so that the scores of new items are, up to a common factor,

    s = K (K + lambda I)^-1 R T,   K = R R',   lambda = l1 / (1 + d)

where T (n, C) are the similarities of warm and new items and d is the common value of d_j.

References:
    Monteil, Vaskovych, Lu, Majumder and van den Hengel, MARec: metadata alignment for cold-start
    recommendation, RecSys 2024.
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
    """The MARec model; the docstring of the module states its equations."""

    def __init__(self, data: WarmData, options: MarecOptions, seed: int) -> None:
        self._data = data
        self.neighbour_scores = NeighbourScores(data, options.neighbours, seed)
        self.smooth = Smoother(
            interactions(data, self.neighbour_scores.rows.dtype), options.smoothing
        )

    def scorer(self, features: Mapping[str, Tensor], mask: Tensor) -> ScoreBlock:
        """Return a function that sums the smoothed similarities over a user's items."""
        return user_profile_scorer(self._data, self.smooth(self.neighbour_scores(features, mask)))
