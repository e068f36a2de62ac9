"""Ridge regression from the content of items to their users, one for each pattern of modalities.

    T = F_w (F_w'F_w + l I)^-1 F_c'
    s = R T                               without smoothing
    s = K (K + lambda I)^-1 R T           with smoothing, K = R R'

where, for one pattern, F_w (n, d) and F_c (C, d) are the features of the warm and of the new items,
concatenated over the modalities of the pattern. Each modality is centred on the mean of the warm
items that have it, and is 0 where an item lacks it. R (U, n) is the 0/1 matrix of training pairs, s
(U, C) are the scores, and l and lambda are the strengths of the two penalties.

Nothing is imputed: a new item is scored by the regression on the modalities that it has.
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

__all__ = ["Ridge", "ridge_columns"]


class Ridge:
    """The ridge regressions; the docstring of the module states their equations."""

    def __init__(self, data: WarmData, options: RidgeOptions, seed: int) -> None:  # noqa: ARG002
        self._data, self._options = data, options
        self.rows = ContentRows(data, unit=False)
        strength = self._options.smoothing
        self.smooth = Smoother(interactions(data, self.rows.dtype), strength) if strength else None

    def regress(self, features: Mapping[str, Tensor], mask: Tensor) -> Tensor:
        """Return T (n, C), with one regression per pattern, each computed in float64."""
        check_cells(self._data.num_items, len(mask))
        rows = self.rows(features, mask)
        item_scores = torch.zeros(
            self._data.num_items, len(mask), dtype=self.rows.dtype, device=mask.device
        )
        for pattern, positions in patterns(mask):
            warm = torch.cat([self.rows.warm[m] for m in pattern], dim=1).double()
            new = torch.cat([rows[m][positions] for m in pattern], dim=1).double()
            columns = ridge_columns(warm, new, self._options.ridge)
            item_scores[:, positions] = columns.to(item_scores.dtype)
        return item_scores

    def scorer(self, features: Mapping[str, Tensor], mask: Tensor) -> ScoreBlock:
        """Return a function that sums the rows of T over a user's items."""
        item_scores = self.regress(features, mask)
        return user_profile_scorer(
            self._data, self.smooth(item_scores) if self.smooth else item_scores
        )


def ridge_columns(warm: Tensor, new: Tensor, strength: float) -> Tensor:
    """Return F_w (F_w'F_w + l I)^-1 F_c' (n, C) of rows F_w (n, d) and F_c (C, d).

    The column of a new item holds the weights of the warm items' targets in the prediction of a
    ridge regression with penalty l, which is `strength`.
    """
    n, d = warm.shape
    # F_w (F_w'F_w + l I)^-1 = (F_w F_w' + l I)^-1 F_w, so solve the
    # smaller system, of d or of n rows.
    gram = warm.T @ warm if d <= n else warm @ warm.T
    gram.diagonal().add_(strength)
    factor = torch.linalg.cholesky(gram)
    if d <= n:
        return warm @ torch.cholesky_solve(new.T, factor)
    return torch.cholesky_solve(warm @ new.T, factor)
