"""DropoutNet: two towers reproduce the scores of frozen factors, with input dropout on both sides.

    s_uj = <user(P_u), item([Q_j, x_j])>
    loss = mean over pairs of (s_uj - <P_u, Q_j>)^2

where P_u and Q_j are the frozen factors of user u and item j, x_j is the content of item j, [a, b]
is the concatenation, and `user` and `item` are towers with one hidden tanh layer. The pairs of a
user are the items with the largest <P_u, Q_j> and the same number of random items. In each batch
Q_j is set to 0 for a random share of the pairs, and P_u for an independent share of the same size.

The inputs P and Q are standardised by column and clipped to [-5, 5]; the targets use the unscaled
factors.

References:
    Volkovs, Yu and Poutanen, DropoutNet: addressing cold start in recommender systems, NeurIPS
    2017.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from milk_recsys.base.checkpoint import pack, unpack
from milk_recsys.base.random_state import seeded
from milk_recsys.methods.contract import ScoreBlock
from milk_recsys.methods.dropoutnet import DropoutNetOptions
from milk_recsys.methods.factors import Factors
from milk_recsys.methods.scaling import standardise_nonzero_rows
from milk_recsys.methods.warm import Content, WarmData, minimise

__all__ = ["DropoutNet"]

# Standard deviation of the initial weights of linear layers.
STD = 0.01
# Standardised factors with a smaller magnitude are set to 0.
TINY = 1e-5
BN: dict[str, Any] = {"eps": 1e-3, "momentum": 0.01}


class DropoutNet:
    """The DropoutNet model; the docstring of the module states its equations."""

    def __init__(
        self, data: WarmData, options: DropoutNetOptions, seed: int, factors: Factors
    ) -> None:
        self._data, self._options, self._seed = data, options, seed
        self.content, d, hidden = Content(data), factors.items.shape[1], self._options.hidden
        with seeded(seed, device=data.device):
            self.net: Any = nn.ModuleDict(
                {
                    "user": _tower(d, hidden, d),
                    "item": _tower(d + self.content.warm.shape[1], hidden, d),
                }
            )
            for module in self.net.modules():
                if isinstance(module, nn.Linear):
                    nn.init.trunc_normal_(module.weight, std=STD, a=-2 * STD, b=2 * STD)
                    nn.init.zeros_(module.bias)
        for name, x in zip("PQ", factors, strict=True):
            self.net.register_buffer(name, standardise_nonzero_rows(x, clip=5.0, tiny=TINY))
            self.net.register_buffer(f"target_{name}", x.clone())
        self.net.to(data.device, self.content.dtype)
        self._sgd = torch.optim.SGD(self.net.parameters(), lr=self._options.lr, momentum=0.9)
        self._groups = 0

    def train_epoch(self, epoch: int) -> dict[str, float]:
        """Train for one epoch: every user with a training pair once, in groups of users."""
        options, total, count = self._options, 0.0, 0
        self.net.train()
        with seeded(self._seed, 1, epoch, device=self._data.device) as generator:
            users = self._data.rows.has_pairs.nonzero()[:, 0]
            order = torch.randperm(len(users), generator=generator).to(users.device)
            for group in torch.split(users[order], options.group_size):
                for param_group in self._sgd.param_groups:
                    # The decay counts groups over all epochs,
                    # so `_groups` is part of the saved state.
                    param_group["lr"] = options.lr * 0.1 ** (self._groups // options.decay_groups)
                pairs = self.targets(group, generator)
                order = torch.randperm(len(pairs[0]), generator=generator).to(group.device)
                for batch in torch.split(order, options.batch_size):
                    if len(batch) < 2:  # Batch normalisation needs two rows.
                        continue
                    num_dropped = int(options.dropout * len(batch))
                    # Two independent draws: a pair can lose the
                    # factors of its item, of its user, or of both.
                    dropped_items, dropped_users = (
                        torch.randperm(len(batch), generator=generator)[:num_dropped].to(
                            group.device
                        )
                        for _ in range(2)
                    )
                    loss = self.loss(pairs[0][batch], pairs[1][batch], dropped_items, dropped_users)
                    total += len(batch) * minimise(loss, self._sgd)
                    count += len(batch)
                self._groups += 1
        self.net.eval()
        return {"loss": total / count}

    def targets(self, users: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw the pairs that users (u,) are trained on.

        Each user gets the items with the highest scores of the factors, and the same number of
        items drawn uniformly with replacement.

        Returns:
            Users and items of the T pairs, (T,) each, sorted by user.
        """
        n = self._data.num_items
        count = min(self._options.targets, n)
        best = (self.net.target_P[users] @ self.net.target_Q.T).topk(count, dim=1).indices
        sampled = torch.randint(n, best.shape, generator=generator).to(users.device)
        items = torch.cat([best, sampled], dim=1)
        return users[:, None].expand_as(items).flatten(), items.flatten()

    def loss(
        self, users: Tensor, items: Tensor, dropped_items: Tensor, dropped_users: Tensor
    ) -> Tensor:
        """Return the loss of a batch of pairs (B,).

        Arguments:
            users, items: (B,).
            dropped_items, dropped_users: positions in the batch of the pairs whose item factors, or
                user factors, are set to 0.
        """
        net = self.net
        # Drop the inputs only. The target below is the score of the complete factors.
        p = net.P[users].index_fill(0, dropped_users, 0)
        q = net.Q[items].index_fill(0, dropped_items, 0)
        scores = (
            net["user"](p) * net["item"](torch.cat([q, self.content.warm[items]], dim=1))
        ).sum(dim=1)
        return (scores - (net.target_P[users] * net.target_Q[items]).sum(dim=1)).square().mean()

    def scorer(self, features: Mapping[str, Tensor], mask: Tensor) -> ScoreBlock:
        """Return a function that scores new items: the item tower with item factors of 0."""
        x = self.content(features, mask)
        v = self.net["item"](torch.cat([x.new_zeros(len(x), self.net.Q.shape[1]), x], dim=1))
        return lambda users: self.net["user"](self.net.P[users]) @ v.T

    def state_dict(self) -> dict[str, Tensor]:
        """Return every tensor that later epochs depend on."""
        return pack(self.net, self._sgd, groups=self._groups)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load the tensors that `state_dict` returned."""
        self._groups = unpack(state, self.net, self._sgd)["groups"]


def _tower(width: int, hidden: int, d: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(width, hidden), nn.BatchNorm1d(hidden, **BN), nn.Tanh(), nn.Linear(hidden, d)
    )
