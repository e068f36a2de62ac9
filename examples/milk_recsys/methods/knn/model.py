"""kNN: new items whose content is near to what a user has; modalities count as they do for warm items.

    G_m[i, c] = max(cos(x_im, x_cm), 0) of rows centred on the observed warm ones, the k largest of each column
    s = R sum_m mu_m G_m / sum_m mu_m a_m;   a_m whether the new item has the modality (mu = 1 where all it has are 0)
    mu >= 0 by least squares, so that R G_m of warm items' neighbours, themselves left out, gives their own pairs

Nothing is imputed, and there is nothing to train but mu.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from milk_recsys.methods.closed_form import NeighbourScores, user_profile_scorer
from milk_recsys.methods.contract import ScoreBlock
from milk_recsys.methods.knn import KnnOptions
from milk_recsys.methods.warm import WarmData

__all__ = ["Knn"]


class Knn:
    """The closed form; see the module."""

    def __init__(self, data: WarmData, options: KnnOptions, seed: int) -> None:
        self._data = data
        self.neighbour_scores = NeighbourScores(data, options.neighbours, seed)

    def scorer(self, features: Mapping[str, Tensor], observed: Tensor) -> ScoreBlock:
        """Return what scores new items by the profiles of users."""
        return user_profile_scorer(self._data, self.neighbour_scores(features, observed))
