"""kNN on content with fitted modality weights.

    G_m[i, c] = max(cos(x_im, x_cm), 0), the k largest values of each column
    s = R (sum_m mu_m G_m) / (sum_m mu_m a_m)

where x_im and x_cm are the features in modality m of warm item i and new item c, centred on the
mean of the warm items that have the modality; R (U, n) is the 0/1 matrix of training pairs; a_m is
1 if the new item has the modality and 0 otherwise; and s (U, C) are the scores. The weights mu_m >=
0 are fitted by least squares so that sum_m mu_m R G_m, with G_m between warm items and without an
item's similarity to itself, predicts R. A new item whose modalities all have weight 0 takes them
with equal weight.

Nothing is imputed, and nothing except mu is fitted.
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
    """The kNN model; the docstring of the module states its equations."""

    def __init__(self, data: WarmData, options: KnnOptions, seed: int) -> None:
        self._data = data
        self.neighbour_scores = NeighbourScores(data, options.neighbours, seed)

    def scorer(self, features: Mapping[str, Tensor], mask: Tensor) -> ScoreBlock:
        """Return a function that sums the similarities of new items over a user's items."""
        return user_profile_scorer(self._data, self.neighbour_scores(features, mask))
