"""Training-free imputation over a graph of items, and one ridge regression on the filled features.

1. Missing rows of warm items are filled over the graph of items that share users (`graph.py`).
2. A missing row of a new item, which has no users, is filled from its k nearest warm items in the
   modalities that it has:

       x_cm = sum_i H_ic u_im x_im / sum_i H_ic u_im

   where H_ic are the similarities of `shared_similarity` with equal weights, of the k most similar
   warm items alone, and u_im is 1 if warm item i has modality m or received a row in step 1.
3. T = F_w (F_w'F_w + l I)^-1 F_c',   s = R T   or   s = K (K + lambda I)^-1 R T,   K = R R'

where F_w (n, d) and F_c (C, d) are the filled features of all modalities side by side, each
centred on the warm items that have it, and the rest is as in `ridge`. A row that cannot be filled
is the mean, and the scores of a new item without any modality are 0.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from milk_recsys.methods.closed_form import (
    ContentRows,
    Smoother,
    check_cells,
    interactions,
    user_profile_scorer,
)
from milk_recsys.methods.contract import ScoreBlock
from milk_recsys.methods.graph_imputation import GraphImputationOptions
from milk_recsys.methods.graph_imputation.graph import (
    diffusion_weights,
    fill_rows,
    multi_hop,
    neighbour_graph,
)
from milk_recsys.methods.ridge.model import ridge_columns
from milk_recsys.methods.similarity import shared_similarity
from milk_recsys.methods.warm import WarmData

__all__ = ["GraphImputation"]

BLOCK = 1024  # Number of new items that are filled at once.


class GraphImputation:
    """The imputation and the regression; the docstring of the module states their equations.

    Attributes:
        rows: the content rows.
        filled: filled rows of the warm items, (n, d_m) for each modality.
        usable: whether a warm item has a modality or received a row of it, (n, M).
    """

    def __init__(self, data: WarmData, options: GraphImputationOptions, seed: int) -> None:  # noqa: ARG002
        self._data, self._options = data, options
        self.rows = ContentRows(data, unit=False)
        parts = self._fill()
        self.filled = [x for x, _ in parts]
        self.usable = torch.stack([usable for _, usable in parts], dim=1)
        self._unit = [F.normalize(x, dim=1) for x in self.rows.warm]
        strength = options.smoothing
        self.smooth = Smoother(interactions(data, self.rows.dtype), strength) if strength else None

    def _fill(self) -> list[tuple[Tensor, Tensor]]:
        """Return the filled rows of the warm items and where they are usable, by modality."""
        own, mask, warm = self._options, self._data.mask, self.rows.warm
        if mask.all():
            return list(zip(warm, mask.T, strict=True))
        graph = neighbour_graph(self._data, own.neighbours, self.rows.dtype)
        if own.diffusion == "multi_hop":
            return [
                multi_hop(graph, x, known, own.layers)
                for x, known in zip(warm, mask.T, strict=True)
            ]
        incomplete = (~mask.all(dim=1)).nonzero()[:, 0]
        weights = diffusion_weights(graph, incomplete, own.diffusion, own.neighbours)
        return [
            fill_rows(weights, incomplete, x, known) for x, known in zip(warm, mask.T, strict=True)
        ]

    def fill_new(self, features: Mapping[str, Tensor], mask: Tensor) -> list[Tensor]:
        """Return the filled rows of C new items, (C, d_m) for each modality."""
        rows = self.rows(features, mask)
        for block in (~mask.all(dim=1)).nonzero()[:, 0].split(BLOCK):
            nearest, weights = self._nearest([x[block] for x in rows], mask[block])
            for m, x in enumerate(rows):
                share = weights * self.usable[nearest, m]
                total = share.sum(dim=1, keepdim=True)
                shares = share / total.clamp(min=torch.finfo(share.dtype).tiny)
                # One row of the sum per neighbour, so that no (C, k, d) tensor is held.
                means = torch.zeros_like(x[block])
                for k in range(nearest.shape[1]):
                    means.addcmul_(shares[:, k, None], self.filled[m][nearest[:, k]])
                x[block] = torch.where(mask[block, m, None], x[block], means)
        return rows

    def _nearest(self, rows: list[Tensor], mask: Tensor) -> tuple[Tensor, Tensor]:
        """Return the k most similar warm items of each new item and their similarities, (C, k)."""
        unit = [F.normalize(x, dim=1) for x in rows]
        equal = torch.ones(mask.shape[1], dtype=self.rows.dtype, device=mask.device)
        similarities = shared_similarity(self._unit, self._data.mask, unit, mask, equal)
        values, nearest = similarities.topk(min(self._options.neighbours, len(similarities)), dim=0)
        return nearest.T, values.T

    def columns(self, features: Mapping[str, Tensor], mask: Tensor) -> Tensor:
        """Return T (n, C), computed in float64."""
        check_cells(self._data.num_items, len(mask))
        new = torch.cat(self.fill_new(features, mask), dim=1).double()
        warm = torch.cat(self.filled, dim=1).double()
        return ridge_columns(warm, new, self._options.ridge).to(self.rows.dtype)

    def scorer(self, features: Mapping[str, Tensor], mask: Tensor) -> ScoreBlock:
        """Return a function that sums the rows of T over a user's items."""
        columns = self.columns(features, mask)
        return user_profile_scorer(self._data, self.smooth(columns) if self.smooth else columns)
