"""FEASE: item-item weights in closed form, with content as a prior or as further rows.

EASE fits a matrix B of item-item weights with a zero diagonal that minimises |R - R B|^2 + l |B|^2,
where R (U, n) is the 0/1 matrix of training pairs. A user's score of an item is the sum of the
item's column of B over the items that the user has.

`Fease`, FEASE-I with a prior, adds delta |B - H|^2, where H are similarities of content. With
P = (R'R + kappa I)^-1 and kappa = l + delta, its solution is

    B = I + delta P H - P diag((1 + delta (P H)_jj) / P_jj)

The column of R of a new item c is 0, so that row and column c of P are 0 outside the diagonal, and
the weights of the warm items in the column of c are

    b_c = delta P h_c

where h_c (n,) are the similarities of c and the warm items. They are normalised by the weights of
the modalities that both items have (`shared_similarity`). The scores are computed with delta =
kappa: another delta multiplies them all by one factor.

`FeaseU`, FEASE-U, applies EASE to the rows of R and of the features together, the items being the
columns. The column of a new item is the regression of its features on those of the warm items, in
which the rows of users draw the scores of all users to 0:

    b_c = argmin over b of |R b|^2 + l |b|^2 + alpha^2 sum_(m in p) w_m |x_cm - X_m' b|^2
        = alpha^2 (R'R + l I + alpha^2 sum_(m in p) w_m X_m X_m')^-1 sum_(m in p) w_m X_m x_cm

where p is the pattern of modalities of c; X_m (n, d_m) are the rows of the warm items in modality
m, centred on the warm items that have m, of length 1, and 0 where an item lacks m; x_cm (d_m,) is
the row of c; and w_m are the weights of the modalities of p, with sum 1.

References:
    Steck, Embarrassingly shallow autoencoders for sparse data, WWW 2019 (EASE). FEASE,
    arXiv:2504.02288; the two forms are derived from their objectives.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from milk_recsys.base.random_state import seeded
from milk_recsys.methods.closed_form import (
    ContentRows,
    Smoother,
    check_cells,
    interactions,
    modality_weights,
    patterns,
    user_profile_scorer,
)
from milk_recsys.methods.contract import ScoreBlock
from milk_recsys.methods.fease import FeaseOptions, FeaseUOptions
from milk_recsys.methods.similarity import shared_similarity
from milk_recsys.methods.warm import WarmData

__all__ = ["Fease", "FeaseU"]

BLOCK = 1024  # Number of columns that are solved for at once.


class _Whitened:
    """Content rows, weights of the modalities, and products with kappa P.

    Attributes:
        rows: the content rows, of length 1.
        weights: mu (M,), see `modality_weights`.
        smooth: the smoother S = (R'R + kappa I)^-1 R'R = I - kappa P, in float64.
    """

    def __init__(self, data: WarmData, strength: float, seed: int) -> None:
        self._data, self.rows = data, ContentRows(data, unit=True)
        with seeded(seed, device=data.device) as generator:
            self.weights = modality_weights(data, self.rows, 0, generator)
        # float64, because the columns are the small difference t - S t of large values.
        self.smooth = Smoother(interactions(data, torch.float64), strength)

    def __call__(self, t: Tensor) -> Tensor:
        """Return kappa P t (n, C) of t (n, C), in the precision of t."""
        whitened = torch.empty_like(t)
        for block in torch.arange(t.shape[1], device=t.device).split(BLOCK):
            columns = t[:, block].double()
            whitened[:, block] = (columns - self.smooth(columns)).to(t.dtype)
        return whitened


class Fease:
    """FEASE-I with a prior; the docstring of the module states its equations."""

    def __init__(self, data: WarmData, options: FeaseOptions, seed: int) -> None:
        self._data = data
        self.whiten = _Whitened(data, options.l2, seed)

    def columns(self, features: Mapping[str, Tensor], mask: Tensor) -> Tensor:
        """Return the weights b_c of the warm items for C new items, (n, C)."""
        check_cells(self._data.num_items, len(mask))
        rows, weights = self.whiten.rows, self.whiten.weights
        new = rows(features, mask)
        columns = torch.empty(self._data.num_items, len(mask), dtype=rows.dtype, device=mask.device)
        for block in torch.arange(len(mask), device=mask.device).split(BLOCK):
            similarities = shared_similarity(
                rows.warm, self._data.mask, [x[block] for x in new], mask[block], weights
            )
            columns[:, block] = self.whiten(similarities)
        return columns

    def scorer(self, features: Mapping[str, Tensor], mask: Tensor) -> ScoreBlock:
        """Return a function that sums the weights of new items over a user's items."""
        return user_profile_scorer(self._data, self.columns(features, mask))


class FeaseU:
    """FEASE-U; the docstring of the module states its equations.

    With A = R'R + l I and the rows X_p of a pattern, scaled by alpha and the square roots of its
    weights, b_c = (A + X_p X_p')^-1 X_p x_c = A^-1 X_p (I + X_p'A^-1 X_p)^-1 x_c. So A^-1 X and
    X'A^-1 X are computed once, and a pattern costs one factorisation of the size of its features.
    """

    def __init__(self, data: WarmData, options: FeaseUOptions, seed: int) -> None:
        self._data, self._strength = data, options.content_weight
        whiten = _Whitened(data, options.l2, seed)
        self.rows, self.weights = whiten.rows, whiten.weights.double()
        warm = torch.cat(self.rows.warm, dim=1).double()
        self.solved = whiten(warm) / options.l2
        self.gram = warm.T @ self.solved
        widths = torch.tensor([x.shape[1] for x in self.rows.warm], device=data.device)
        # The modality of each column of `solved`.
        self.modality = torch.arange(len(widths), device=data.device).repeat_interleave(widths)

    def scales(self, pattern: tuple[int, ...]) -> Tensor:
        """Return alpha sqrt(w_m) of each modality, 0 for those outside the pattern, (M,)."""
        weights = torch.zeros_like(self.weights)
        weights[list(pattern)] = self.weights[list(pattern)]
        if not weights.any():
            # All modalities of the pattern have weight 0: weight them equally.
            weights[list(pattern)] = 1.0
        return (self._strength * weights / weights.sum()).sqrt()

    def columns(self, features: Mapping[str, Tensor], mask: Tensor) -> Tensor:
        """Return the weights b_c of the warm items for C new items, (n, C)."""
        check_cells(self._data.num_items, len(mask))
        new = torch.cat(self.rows(features, mask), dim=1).double()
        columns = torch.zeros(
            self._data.num_items, len(mask), dtype=self.rows.dtype, device=mask.device
        )
        for pattern, items in patterns(mask):
            scales = self.scales(pattern)[self.modality]
            used = scales.nonzero()[:, 0]
            scales = scales[used]
            system = scales[:, None] * self.gram[used[:, None], used] * scales
            system.diagonal().add_(1.0)
            factor = torch.linalg.cholesky(system)
            solved = self.solved[:, used] * scales
            for block in items.split(BLOCK):
                right = scales[:, None] * new[block][:, used].T
                columns[:, block] = (solved @ torch.cholesky_solve(right, factor)).to(columns.dtype)
        return columns

    def scorer(self, features: Mapping[str, Tensor], mask: Tensor) -> ScoreBlock:
        """Return a function that sums the weights of new items over a user's items."""
        return user_profile_scorer(self._data, self.columns(features, mask))
