"""A floor that needs no training: new items whose content is near to what a user has.

    G_m[i, c] = max(cos(x_im, x_cm), 0) of rows centred on the observed warm ones, 0 unless both have the modality
    s_uc = sum over the items i of u of  sum_m G_m[i, c] / number of modalities that c has

All modalities weigh the same, all neighbours count, and nothing is imputed.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from milk_recsys.baselines.shape import ScoreBlock, WarmData
from milk_recsys.options import Options

__all__ = ["ContentKnn"]


class ContentKnn:
    """The floor; see the module."""

    def __init__(self, data: WarmData, options: Options) -> None:
        self._data = data
        self._dtype = torch.float64 if options.dtype == "float64" else torch.float32
        self.net = nn.Module()
        self.means, self.rows = [], []
        for m, name in enumerate(data.modalities):
            known = data.observed[:, m]
            x = torch.where(known[:, None], data.features[name].to(self._dtype), 0.0)
            self.means.append(x.sum(dim=0) / known.sum())
            self.rows.append(self._unit(m, x, known))

    def _unit(self, m: int, x: Tensor, known: Tensor) -> Tensor:
        """Centre and scale rows; 0 where they are missing."""
        centred = x.to(self._dtype) - self.means[m]
        return torch.where(known[:, None], F.normalize(centred, dim=1), 0.0)

    def train_epoch(self, epoch: int) -> dict[str, float]:  # noqa: ARG002
        """There is nothing to train."""
        return {"loss": 0.0}

    def scorer(self, features: Mapping[str, Tensor], observed: Tensor) -> ScoreBlock:
        """Return what scores new items by the profiles of users."""
        similar = torch.zeros(self._data.num_items, len(observed), dtype=self._dtype, device=observed.device)
        for m, name in enumerate(self._data.modalities):
            similar += (self.rows[m] @ self._unit(m, features[name], observed[:, m]).T).clamp(min=0)
        similar /= observed.sum(dim=1).clamp(min=1)

        def score(users: Tensor) -> Tensor:
            rows = self._data.rows
            counts = rows.offsets[users + 1] - rows.offsets[users]
            first = torch.repeat_interleave(rows.offsets[users] - (counts.cumsum(0) - counts), counts)
            items = rows.pairs_at(first + torch.arange(len(first), device=users.device))[1]
            offsets = counts.cumsum(0) - counts
            return F.embedding_bag(items, similar, offsets, mode="sum")

        return score

    def state_dict(self) -> dict[str, Tensor]:
        """Return nothing: all follows from the data."""
        return {}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take back nothing."""
