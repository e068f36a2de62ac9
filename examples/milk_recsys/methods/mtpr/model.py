"""MTPR: ranks items with their vector (normal) and without it (counterfactual) against each other.

    user                 p_u W_u
    normal item          [q_i, x_i W] W_i
    counterfactual item  [0, x_i W] W_i
    loss = mean over triples of the sum over (s+, s-) of softplus(s- - s+)
           + (wd_e sum over triples (|p_u|^2 + |q_i|^2 + |q_j|^2)
              + wd (|W|^2 + |W_u|^2 + |W_i|^2)) / B

where p_u, q_i and x_i are the vector of user u, and the vector and the content of item i; [a, b] is
the concatenation; the
scores s are inner products of user and item; the pairs (s+, s-) are (N+, N-), (C+, C-), (N+, C-)
and (C+, N-), where N and C are scores of the normal and the counterfactual form, + and - of the
positive i and the negative j of a triple (u, i, j); wd_e and wd are weight decays; and B is the
batch size.

References:
    Du, Wang, He, Li, Tang and Chua, How to learn item representation for cold-start multimedia
    recommendation?, MM 2020.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from milk_recsys.base.random_state import seeded
from milk_recsys.methods.contract import ScoreBlock
from milk_recsys.methods.mtpr import MtprOptions
from milk_recsys.methods.warm import Checkpointed, Content, WarmData, minimise

__all__ = ["Mtpr"]

STD = 0.01


class Mtpr(Checkpointed):
    """The MTPR model; the docstring of the module states its equations."""

    def __init__(self, data: WarmData, options: MtprOptions, seed: int) -> None:
        self._data, self._options, self._seed = data, options, seed
        self.content, d = Content(data), options.embedding_dim
        shapes = {
            "user": (data.num_users, 2 * d),
            "item": (data.num_items, d),
            "content": (self.content.warm.shape[1], d),
            "user_map": (2 * d, d),
            "item_map": (2 * d, d),
        }
        with seeded(seed, device=data.device):
            initial = {name: torch.empty(shape).normal_(std=STD) for name, shape in shapes.items()}
        self.net: Any = nn.ParameterDict(
            {name: x.to(data.device, self.content.dtype) for name, x in initial.items()}
        )
        vectors = [self.net[name] for name in ("user", "item")]
        maps = [self.net[name] for name in ("content", "user_map", "item_map")]
        self._adagrad = torch.optim.Adagrad(vectors, lr=self._options.embedding_lr)
        self._adam = torch.optim.Adam(maps, lr=self._options.lr, fused=True)
        self.optimisers = (self._adagrad, self._adam)

    def train_epoch(self, epoch: int) -> dict[str, float]:
        """Train for one epoch."""
        total = 0.0
        with seeded(self._seed, 1, epoch, device=self._data.device) as generator:
            for users, items, negatives in self._data.triples(self._options.batch_size, generator):
                loss = self.loss(users, items, negatives)
                total += len(users) * minimise(loss, self._adagrad, self._adam)
        return {"loss": total / self._data.num_pairs}

    def loss(self, users: Tensor, items: Tensor, negatives: Tensor) -> Tensor:
        """Return the loss of a batch of triples (B,)."""
        net, options = self.net, self._options
        # Map each distinct item of the batch once; `inverse`
        # (2, B) expands to positives and negatives.
        distinct, inverse = torch.unique(torch.stack([items, negatives]), return_inverse=True)
        p, q = F.embedding(users, net["user"]), F.embedding(distinct, net["item"])
        # c is the content part x W; normal and counterfactual items share it.
        u, c = p @ net["user_map"], self.content.warm[distinct] @ net["content"]
        normal = torch.cat([q, c], dim=1) @ net["item_map"]
        # The first rows of W_i multiply the item's vector, which is 0 here.
        counterfactual = c @ net["item_map"][q.shape[1] :]
        (normal_pos, normal_neg), (counter_pos, counter_neg) = (
            (u * v[inverse]).sum(dim=2) for v in (normal, counterfactual)
        )
        pairs = (
            (normal_pos, normal_neg),
            (counter_pos, counter_neg),
            (normal_pos, counter_neg),
            (counter_pos, normal_neg),
        )
        ranking = (
            torch.stack([F.softplus(negative - positive) for positive, negative in pairs])
            .sum(dim=0)
            .mean()
        )
        vectors = p.square().sum() + q.square().sum(dim=1)[inverse].sum()
        maps = torch.stack(
            [net[name].square().sum() for name in ("content", "user_map", "item_map")]
        ).sum()
        return (
            ranking
            + (options.embedding_decay * vectors + options.decay * maps) / options.batch_size
        )

    def scorer(self, features: Mapping[str, Tensor], mask: Tensor) -> ScoreBlock:
        """Return a function that scores new items in their counterfactual form."""
        d = self.net["item"].shape[1]
        v = self.content(features, mask) @ self.net["content"] @ self.net["item_map"][d:]
        u = self.net["user"] @ self.net["user_map"]
        return lambda users: u[users] @ v.T
