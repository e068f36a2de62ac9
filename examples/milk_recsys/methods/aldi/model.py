"""ALDI: a student network on content is distilled from a teacher, the frozen factors.

    teacher  t_uj = <P_u, Q_j>
    student  s_uj = <user(P_u), g_j>,  g_j = item(x_j)
    loss of a triple (u, i, j):
        softplus(s_uj - s_ui)
        + alpha BCE(s_ui - s_uj, sigmoid(t_ui - t_uj))          ranking
        + beta  BCE(c_i(g), sigmoid(c_i(Q)))                    identification
        + gamma (|t_ui - s_ui| + |t_uj - s_uj|)                 rating
        + l2 / 2 (sum of squares of the weight matrices)
    c_i(v) = |v_i|^2 - mean over the negatives j of the batch of <v_i, v_j>

where P_u and Q_j are the frozen factors of user u and item j, x_j is the content of item j, i is an
item of the user and j a negative; `user` and `item` are networks Linear-BatchNorm-tanh-Linear; and
BCE(a, b) is the binary cross-entropy of the logit a for the target b.

References:
    Huang, Wang, Huang, Zheng, Chen and Chen, Aligning distillation for cold-start item
    recommendation, SIGIR 2023.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from milk_recsys.base.random_state import seeded
from milk_recsys.methods.aldi import AldiOptions
from milk_recsys.methods.contract import ScoreBlock
from milk_recsys.methods.factors import Factors
from milk_recsys.methods.warm import Checkpointed, Content, WarmData, bpr_loss, minimise

__all__ = ["Aldi"]


class Aldi(Checkpointed):
    """The ALDI model; the docstring of the module states its equations."""

    def __init__(self, data: WarmData, options: AldiOptions, seed: int, factors: Factors) -> None:
        self._data, self._options, self._seed = data, options, seed
        self.content, d, hidden = Content(data), factors.items.shape[1], self._options.hidden
        with seeded(seed, device=data.device):
            self.net: Any = nn.ModuleDict(
                {
                    "user": _tower(d, hidden, d),
                    "item": _tower(self.content.warm.shape[1], hidden, d),
                }
            )
            for p in self.net.parameters():
                if p.ndim > 1:
                    nn.init.xavier_uniform_(p)
        self.net.register_buffer("P", factors.users.clone())
        self.net.register_buffer("Q", factors.items.clone())
        self.net.to(data.device, self.content.dtype)
        self._adam = torch.optim.Adam(self.net.parameters(), lr=self._options.lr, fused=True)
        self.optimisers = (self._adam,)

    def train_epoch(self, epoch: int) -> dict[str, float]:
        """Train for one epoch."""
        total, count = 0.0, 0
        self.net.train()
        with seeded(self._seed, 1, epoch, device=self._data.device) as generator:
            for users, items, negatives in self._data.triples(self._options.batch_size, generator):
                if len(users) < 2:  # Batch normalisation needs two rows.
                    continue
                loss = self.loss(users, items, negatives)
                total += len(users) * minimise(loss, self._adam)
                count += len(users)
        self.net.eval()
        return {"loss": total / max(1, count)}

    def loss(self, users: Tensor, items: Tensor, negatives: Tensor) -> Tensor:
        """Return the loss of a batch of triples (B,)."""
        options, net = self._options, self.net
        # One pass over positives and negatives, so that batch normalisation sees both together.
        rows = torch.cat([items, negatives])
        u, (g_i, g_j) = net["user"](net.P[users]), net["item"](self.content.warm[rows]).chunk(2)
        p, q_i, q_j = net.P[users], net.Q[items], net.Q[negatives]
        # Scores of the student (s) and the teacher (t) for the positive i and the negative j.
        s_i, s_j, t_i, t_j = (
            (a * b).sum(dim=1) for a, b in ((u, g_i), (u, g_j), (p, q_i), (p, q_j))
        )
        # The teacher gives soft targets: its probabilities, not 0 or 1.
        ranking = F.binary_cross_entropy_with_logits(s_i - s_j, (t_i - t_j).sigmoid())
        identification = F.binary_cross_entropy_with_logits(
            _identification_logits(g_i, g_j), _identification_logits(q_i, q_j).sigmoid()
        )
        rating = (t_i - s_i).abs().mean() + (t_j - s_j).abs().mean()
        kernels = torch.stack([x.square().sum() for x in net.parameters() if x.ndim > 1]).sum() / 2
        distilled = (
            options.ranking_weight * ranking + options.identification_weight * identification
        )
        return (
            bpr_loss(s_i, s_j) + distilled + options.rating_weight * rating + options.l2 * kernels
        )

    def scorer(self, features: Mapping[str, Tensor], mask: Tensor) -> ScoreBlock:
        """Return a function that scores new items: the student network on their content."""
        self.net.eval()
        v = self.net["item"](self.content(features, mask))
        return lambda users: self.net["user"](self.net.P[users]) @ v.T


def _identification_logits(positives: Tensor, negatives: Tensor) -> Tensor:
    """Return c_i (B,) of the module's docstring for positives and negatives (B, d)."""
    return positives.square().sum(dim=1) - positives @ negatives.mean(dim=0)


def _tower(width: int, hidden: int, d: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(width, hidden), nn.BatchNorm1d(hidden), nn.Tanh(), nn.Linear(hidden, d)
    )
