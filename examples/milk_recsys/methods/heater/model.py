"""Heater: a mixture of experts maps content to item factors, which replace them in random pairs.

    c_j = tanh(sum_e g_e tanh(W_e x_j + b_e)),   g = tanh(G x_j + b)
    s_uj = <user(P_u), item(q_j)>,   q_j = c_j for a random share of the pairs, Q_j for the others
    loss = mean over pairs of (s_uj - y_uj)^2 + w mean over pairs of |c_j - Q_j|^2 + l2 sum of
    squares

where x_j is the content of item j, W_e and b_e belong to expert e, and g_e is the gate of expert e;
P_u and Q_j are the frozen factors of user u and item j; `user` and `item` are towers
Linear-BatchNorm-tanh-Linear; y_uj is 1 for a training pair and 0 for a negative; w and l2 are
weights; and the sum of squares runs over all weights and biases of linear layers.

The factors and the content are standardised by column. P and the content are clipped to [-5, 5], Q
to [-1, 1].

References:
    Zhu, Sun, Wu and Caverlee, Recommendation for new users and new items via randomized training
    and mixture-of-experts transformation, SIGIR 2020.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from milk_recsys.base.random_state import seeded
from milk_recsys.methods.contract import ScoreBlock
from milk_recsys.methods.factors import Factors
from milk_recsys.methods.heater import HeaterOptions
from milk_recsys.methods.scaling import Columns, standardise_nonzero_rows
from milk_recsys.methods.warm import Checkpointed, Content, WarmData, minimise

__all__ = ["Heater"]

# Standard deviation of the initial weights of linear layers.
STD = 0.01
BN: dict[str, Any] = {"eps": 1e-3, "momentum": 0.1}


class Heater(Checkpointed):
    """The Heater model; the docstring of the module states its equations."""

    def __init__(self, data: WarmData, options: HeaterOptions, seed: int, factors: Factors) -> None:
        self._data, self._options, self._seed = data, options, seed
        self.content, d = Content(data), factors.items.shape[1]
        self.columns = Columns(self.content.warm, clip=5.0)
        self.x = self.columns(self.content.warm)
        width, experts = self.x.shape[1], self._options.experts
        with seeded(seed, device=data.device):
            self.net: Any = nn.ModuleDict(
                {
                    "experts": nn.Linear(width, experts * d),
                    "gate": nn.Linear(width, experts),
                    "user": _tower(d),
                    "item": _tower(d),
                }
            )
            for module in self.net.modules():
                if isinstance(module, nn.Linear):
                    nn.init.trunc_normal_(module.weight, std=STD, a=-2 * STD, b=2 * STD)
                    nn.init.zeros_(module.bias)
        self.net.register_buffer("P", standardise_nonzero_rows(factors.users, clip=5.0))
        self.net.register_buffer("Q", standardise_nonzero_rows(factors.items, clip=1.0))
        self.net.to(data.device, self.content.dtype)
        self._sgd = torch.optim.SGD(self.net.parameters(), lr=self._options.lr, momentum=0.9)
        self.optimisers = (self._sgd,)

    def train_epoch(self, epoch: int) -> dict[str, float]:
        """Train for one epoch: every training pair once, and its negatives."""
        options, total, count = self._options, 0.0, 0
        for group in self._sgd.param_groups:
            group["lr"] = options.lr * options.lr_decay ** (epoch // options.decay_epochs)
        self.net.train()
        with seeded(self._seed, 1, epoch, device=self._data.device) as generator:
            users, items = self._data.pairs
            # The pairs of the epoch: all training pairs, then `num_negatives` negatives of each.
            # They are shuffled together, so that a batch has both kinds.
            repeated = users.repeat(options.num_negatives)
            items = torch.cat([items, self._data.negatives(repeated, generator)])
            labels = (torch.arange(len(items), device=items.device) < len(users)).to(self.x.dtype)
            users = torch.cat([users, repeated])
            order = torch.randperm(len(users), generator=generator).to(users.device)
            for batch in torch.split(order, options.batch_size):
                if len(batch) < 2:  # Batch normalisation needs two rows.
                    continue
                replaced = torch.randperm(len(batch), generator=generator).to(users.device)
                loss = self.loss(
                    users[batch],
                    items[batch],
                    labels[batch],
                    replaced[: int(options.dropout * len(batch))],
                )
                total += len(batch) * minimise(loss, self._sgd)
                count += len(batch)
        self.net.eval()
        return {"loss": total / max(1, count)}

    def loss(self, users: Tensor, items: Tensor, labels: Tensor, replaced: Tensor) -> Tensor:
        """Return the loss of a batch of pairs (B,).

        Arguments:
            users, items: (B,).
            labels: (B,), 1 for training pairs and 0 for negatives.
            replaced: positions in the batch of the pairs whose item vector is the encoded content.
        """
        options = self._options
        # Encode each distinct item of the batch once.
        distinct, inverse = torch.unique(items, return_inverse=True)
        c = self.embed(self.x[distinct])[inverse]
        q = self.net.Q[items].index_copy(0, replaced, c[replaced])
        scores = (self.net["user"](self.net.P[users]) * self.net["item"](q)).sum(dim=1)
        # The distance covers all pairs, not only those whose item vector is replaced.
        distance = (c - self.net.Q[items]).square().sum(dim=1).mean()
        squares = torch.stack([p.square().sum() for p in self._linear_parameters()]).sum()
        return (
            (scores - labels).square().mean()
            + options.similarity_weight * distance
            + options.l2 * squares
        )

    def embed(self, x: Tensor) -> Tensor:
        """Encode content (n, F) to c (n, d) by the mixture of experts."""
        # One linear layer holds all experts, (n, experts * d), viewed as (n, experts, d).
        experts = torch.tanh(self.net["experts"](x)).view(len(x), self._options.experts, -1)
        gates = torch.tanh(self.net["gate"](x))
        return torch.tanh((gates[:, :, None] * experts).sum(dim=1))

    def _linear_parameters(self) -> list[nn.Parameter]:
        return [p for m in self.net.modules() if isinstance(m, nn.Linear) for p in m.parameters()]

    def scorer(self, features: Mapping[str, Tensor], mask: Tensor) -> ScoreBlock:
        """Return a function that scores new items: the item tower on their encoded content."""
        v = self.net["item"](self.embed(self.columns(self.content(features, mask))))
        return lambda users: self.net["user"](self.net.P[users]) @ v.T


def _tower(d: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(d, d), nn.BatchNorm1d(d, **BN), nn.Tanh(), nn.Linear(d, d))
