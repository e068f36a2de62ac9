"""A floor that needs no training: new items whose content is near to what a user has.

    G_m[i, c] = max(cos(x_im, x_cm), 0) of rows centred on the observed warm ones, 0 unless both have the modality
    s_uc = sum over the items i of u of  sum_m G_m[i, c] / number of modalities that c has

All modalities weigh the same, all neighbours count, and nothing is imputed.
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
    """The floor; see the module."""

    def __init__(self, data: WarmData, options: ContentKnnOptions, seed: int) -> None:  # noqa: ARG002
        self._data = data
        self.rows = ContentRows(data, unit=True)

    def scorer(self, features: Mapping[str, Tensor], observed: Tensor) -> ScoreBlock:
        """Return what scores new items by the profiles of users."""
        check_cells(self._data.num_items, len(observed))
        total = torch.zeros(
            self._data.num_items, len(observed), dtype=self.rows.dtype, device=observed.device
        )
        for warm, new in zip(self.rows.warm, self.rows(features, observed), strict=True):
            total += similar(warm, new, 0)
        return user_profile_scorer(self._data, total / observed.sum(dim=1).clamp(min=1))
