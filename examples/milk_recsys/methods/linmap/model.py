"""Linear map from content to the scores that a donor gives to warm items, as in warm-transfer.

    D = X (X'X + lambda I)^-1 X'X                                donor's scores of the warm items
    s_c = mean(D) + (D - mean(D)) F (F'F + l I)^-1 (f_c - f)

where X (U, n) are the training pairs, each divided by (its user's pairs x its item's pairs) to the
power b; D (U, n) are the donor's scores, a kernel ridge regression over users (that of KEEP at full
rank); mean(D) (U,) is their mean over the warm items; F (n, d) are the features of the warm items,
centred on their mean f (d,); f_c (d,) are the features of new item c; and s_c (U,) are its scores.
It is ridge regression with an intercept from features to donor scores, for all users at once.

An item that lacks a modality has zeros there, each modality being centred on the warm items that
have it before, and its features are scaled by sqrt(M / |p|), where p is the pattern of the
modalities that it has. With `per_pattern` there is one map for each pattern, from its modalities
alone, and nothing is scaled.

References:
    The package warm-transfer 0.1.0, `linmap`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from milk_recsys.base.random_state import seeded
from milk_recsys.methods.closed_form import (
    ContentRows,
    Smoother,
    check_cells,
    interactions,
    patterns,
    user_profile_scorer,
)
from milk_recsys.methods.contract import ScoreBlock
from milk_recsys.methods.keep.pairs import DampedPairs
from milk_recsys.methods.keep.vectors import LEADING, SingularVectors, damped
from milk_recsys.methods.linmap import LinmapOptions
from milk_recsys.methods.ridge.model import ridge_columns
from milk_recsys.methods.warm import WarmData

__all__ = ["Linmap"]


class Linmap:
    """The linear map; the docstring of the module states its equations.

    Attributes:
        scales: n_u^-b (U,) and d_i^-b (n,), where n_u and d_i are the numbers of pairs of a user
            and of an item.
    """

    def __init__(self, data: WarmData, options: LinmapOptions, seed: int) -> None:
        self._data, self._options = data, options
        self.rows = ContentRows(data, unit=False)
        pairs = DampedPairs(data.rows, data.num_items, options.popularity, self.rows.dtype)
        self.scales = [pairs.user_scales, pairs.item_scales]
        x = damped(interactions(data, self.rows.dtype), options.popularity)
        with seeded(seed, device=data.device):
            unit = SingularVectors(pairs, min(LEADING, *x.shape)).leading.unit
        self.smooth = Smoother(x, options.shrinkage * unit)

    def columns(self, features: Mapping[str, Tensor], mask: Tensor) -> Tensor:
        """Return the weights t_c of the donor's scores for C new items, (n, C): s_c = D t_c."""
        check_cells(self._data.num_items, len(mask))
        new, n = self.rows(features, mask), self._data.num_items
        # The weights 1 / n give mean(D), the score of an item without features.
        columns = torch.full((n, len(mask)), 1 / n, dtype=self.rows.dtype, device=mask.device)
        if not self._options.per_pattern:
            known = mask.any(dim=1).nonzero()[:, 0]
            warm = _scaled(self.rows.warm, self._data.mask)
            rows = _scaled([x[known] for x in new], mask[known])
            columns[:, known] += self._map(warm, rows)
            return columns
        for pattern, items in patterns(mask):
            warm = torch.cat([self.rows.warm[m] for m in pattern], dim=1)
            columns[:, items] += self._map(warm, torch.cat([new[m][items] for m in pattern], dim=1))
        return columns

    def _map(self, warm: Tensor, new: Tensor) -> Tensor:
        """Return F (F'F + l I)^-1 (f_c - f) (n, C), computed in float64."""
        warm, new = warm.double(), new.double()
        mean = warm.mean(dim=0)
        return ridge_columns(warm - mean, new - mean, self._options.ridge).to(self.rows.dtype)

    def scorer(self, features: Mapping[str, Tensor], mask: Tensor) -> ScoreBlock:
        """Return a function from users to their scores of new items."""
        return self._scores(self.columns(features, mask))

    def donor_scorer(self) -> ScoreBlock:
        """Return a function from users to the donor's scores D of the warm items, (u, n)."""
        n = self._data.num_items
        check_cells(n, n)
        return self._scores(torch.eye(n, dtype=self.rows.dtype, device=self._data.device))

    def _scores(self, columns: Tensor) -> ScoreBlock:
        """Return a function from users (u,) to D t (u, C) of columns t (n, C)."""
        of_users, of_items = self.scales
        z = self.smooth(columns).mul_(of_items[:, None])
        profile = user_profile_scorer(self._data, z)
        return lambda users: profile(users).mul_(of_users[users, None])


def _scaled(rows: Sequence[Tensor], mask: Tensor) -> Tensor:
    """Concatenate rows (N, d_m), each scaled by the root of M / (number of modalities), (N, d)."""
    scale = (mask.shape[1] / mask.sum(dim=1).clamp(min=1).to(rows[0].dtype)).sqrt()
    return torch.cat(list(rows), dim=1) * scale[:, None]
