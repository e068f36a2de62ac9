"""Ridge: from the content of warm items to who has them, one regression for each pattern of modalities.

    F (n, d): the modalities that a pattern has side by side, centred on the warm rows that have it, 0 where missing
    s = R T,  T = F_w (F_w'F_w + l I)^-1 f_c;   then, with a smoother, s <- K (K + lambda I)^-1 s,  K = R R'

Nothing is imputed: a new item is scored by the regression on what it has.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from milk_recsys.methods.closed_form import (
    ContentRows,
    Smoother,
    check_cells,
    interactions,
    patterns,
    user_profile_scorer,
)
from milk_recsys.methods.contract import ScoreBlock
from milk_recsys.methods.ridge import RidgeOptions
from milk_recsys.methods.warm import WarmData

__all__ = ["Ridge"]


class Ridge:
    """The closed form; see the module."""

    def __init__(self, data: WarmData, options: RidgeOptions, seed: int) -> None:  # noqa: ARG002
        self._data, self._options = data, options
        self.rows = ContentRows(data, unit=False)
        strength = self._options.smoothing
        self.smooth = Smoother(interactions(data, self.rows.dtype), strength) if strength else None

    def regress(self, features: Mapping[str, Tensor], observed: Tensor) -> Tensor:
        """Return T (n, C), each pattern by its own regression, in float64 on the smaller side."""
        check_cells(self._data.num_items, len(observed))
        rows = self.rows(features, observed)
        item_scores = torch.zeros(
            self._data.num_items, len(observed), dtype=self.rows.dtype, device=observed.device
        )
        for pattern, positions in patterns(observed):
            warm = torch.cat([self.rows.warm[m] for m in pattern], dim=1).double()
            new = torch.cat([rows[m][positions] for m in pattern], dim=1).double()
            item_scores[:, positions] = _ridge(warm, new, self._options.ridge).to(item_scores.dtype)
        return item_scores

    def scorer(self, features: Mapping[str, Tensor], observed: Tensor) -> ScoreBlock:
        """Return what scores new items by the profiles of users."""
        item_scores = self.regress(features, observed)
        return user_profile_scorer(
            self._data, self.smooth(item_scores) if self.smooth else item_scores
        )


def _ridge(warm: Tensor, new: Tensor, strength: float) -> Tensor:
    """Return F_w (F_w'F_w + l I)^-1 F_c' (n, C) of rows (n, d) and (C, d): solved in d or in n dimensions."""
    n, d = warm.shape
    gram = warm.T @ warm if d <= n else warm @ warm.T
    gram.diagonal().add_(strength)
    factor = torch.linalg.cholesky(gram)
    if d <= n:
        return warm @ torch.cholesky_solve(new.T, factor)
    return torch.cholesky_solve(warm @ new.T, factor)
