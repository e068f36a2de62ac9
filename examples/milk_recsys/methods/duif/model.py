"""DUIF: inner products of user vectors and a linear map of items' content.

    s_uj = <p_u, W x_j>
    loss = mean over triples (u, i, j) of -ln sigma(s_ui - s_uj)
               + l2 (|p_u|^2 + |W x_i|^2 + |W x_j|^2)

where p_u is the vector of user u, x_j the content of item j, W a matrix, i an item of the user, j a
negative, sigma the logistic function, and l2 a weight.

References:
    Geng, Zhang, Bian and Chua, Learning image and user features for recommendation in social
    networks, ICCV 2015.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from milk_recsys.base.random_state import seeded
from milk_recsys.methods.contract import ScoreBlock
from milk_recsys.methods.duif import DuifOptions
from milk_recsys.methods.warm import Checkpointed, Content, WarmData, bpr_loss, minimise

__all__ = ["Duif"]


class Duif(Checkpointed):
    """The DUIF model; the docstring of the module states its equations."""

    def __init__(self, data: WarmData, options: DuifOptions, seed: int) -> None:
        self._data, self._options, self._seed = data, options, seed
        self.content = Content(data)
        with seeded(seed, device=data.device):
            self.net: Any = nn.ModuleDict(
                {
                    "user": nn.Embedding(data.num_users, options.embedding_dim),
                    "item": nn.Linear(
                        self.content.warm.shape[1], options.embedding_dim, bias=False
                    ),
                }
            )
            nn.init.normal_(self.net["user"].weight, std=0.1)  # type: ignore[arg-type]
        self.net.to(data.device, self.content.dtype)
        self._adam = torch.optim.Adam(self.net.parameters(), lr=self._options.lr, fused=True)
        self.optimisers = (self._adam,)

    def train_epoch(self, epoch: int) -> dict[str, float]:
        """Train for one epoch."""
        total = 0.0
        with seeded(self._seed, 1, epoch, device=self._data.device) as generator:
            for users, items, negatives in self._data.triples(self._options.batch_size, generator):
                loss = self.loss(users, items, negatives)
                total += len(users) * minimise(loss, self._adam)
        return {"loss": total / self._data.num_pairs}

    def loss(self, users: Tensor, items: Tensor, negatives: Tensor) -> Tensor:
        """Return the loss of a batch of triples (B,)."""
        # Map each distinct item of the batch once; `inverse`
        # (2, B) expands to positives and negatives.
        distinct, inverse = torch.unique(torch.stack([items, negatives]), return_inverse=True)
        u, (v, w) = self.net["user"](users), self.net["item"](self.content.warm[distinct])[inverse]
        norms = (u.square() + v.square() + w.square()).sum(dim=1).mean()
        return bpr_loss((u * v).sum(dim=1), (u * w).sum(dim=1)) + self._options.l2 * norms

    def scorer(self, features: Mapping[str, Tensor], mask: Tensor) -> ScoreBlock:
        """Return a function that scores new items: <p_u, W x_j>."""
        v = self.net["item"](self.content(features, mask))
        return lambda users: self.net["user"](users) @ v.T
