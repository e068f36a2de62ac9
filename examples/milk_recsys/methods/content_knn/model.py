"""Content kNN, an untrained baseline: recommend new items with content similar to the user's items.

    G_m[i, c] = max(cos(x_im, x_cm), 0)
    s_uc = sum over the items i of u of  (sum_m G_m[i, c]) / M_c

where x_im and x_cm are the features in modality m of warm item i and new item c, centred on the
mean of the warm items that have the modality; G_m[i, c] is 0 unless both items have it; M_c is the
number of modalities that c has; and s_uc is the score of user u for c.

All modalities have equal weight, all warm items are neighbours, and nothing is imputed.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from milk_recsys.methods.closed_form import ContentRows, check_cells, similar, user_profile_scorer
from milk_recsys.methods.content_knn import ContentKnnOptions
from milk_recsys.methods.contract import ScoreBlock
from milk_recsys.methods.warm import WarmData

__all__ = ["ContentKnn"]


class ContentKnn:
    """Content kNN; the docstring of the module states its equations."""

    def __init__(self, data: WarmData, options: ContentKnnOptions, seed: int) -> None:  # noqa: ARG002
        self._data = data
        self.rows = ContentRows(data, unit=True)

    def scorer(self, features: Mapping[str, Tensor], mask: Tensor) -> ScoreBlock:
        """Return a function that sums the similarities of new items over a user's items."""
        check_cells(self._data.num_items, len(mask))
        total = torch.zeros(
            self._data.num_items, len(mask), dtype=self.rows.dtype, device=mask.device
        )
        for warm, new in zip(self.rows.warm, self.rows(features, mask), strict=True):
            total += similar(warm, new, 0)
        # Divide by M_c; an item without any modality has a total of 0 anyway.
        return user_profile_scorer(self._data, total / mask.sum(dim=1).clamp(min=1))
