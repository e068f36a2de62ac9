"""GAR: adversarial training of a generator of item factors and a recommender.

    D minimises  mean -ln sigma(D(u, Q_i) - (1 - beta) D(u, G(x_i)) - beta D(u, Q_j))
    G minimises  (1 - alpha) mean -ln sigma(D(u, G(x_i)) - D(u, Q_i)) + alpha mean |G(x_i) - Q_i|

each plus l2 / 2 times the sum of squares of its own weight matrices, where the generator G
(Linear-BatchNorm-tanh-dropout-Linear) maps the content x_i of item i to item factors; the
recommender D(u, v) is the inner product of a user tower on P_u and an item tower on v; P_u and Q_i
are the frozen factors of user u and item i; j is a negative; sigma is the logistic function; and
alpha and beta are shares. D learns to score real items above generated ones, G to generate items
that D scores as high.

References:
    Chen, Wang, Huang, Huang, Xu, Lin, He and Li, Generative adversarial framework for cold-start
    item recommendation, SIGIR 2022.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from milk_recsys.base.random_state import seeded
from milk_recsys.methods.contract import ScoreBlock
from milk_recsys.methods.factors import Factors
from milk_recsys.methods.gar import GarOptions
from milk_recsys.methods.warm import Checkpointed, Content, WarmData, bpr_loss, minimise

__all__ = ["Gar"]

BN: dict[str, Any] = {"eps": 1e-3, "momentum": 0.1}


class Gar(Checkpointed):
    """The GAR model; the docstring of the module states its equations."""

    def __init__(self, data: WarmData, options: GarOptions, seed: int, factors: Factors) -> None:
        self._data, self._options, self._seed = data, options, seed
        self.content, d, hidden = Content(data), factors.items.shape[1], self._options.hidden
        with seeded(seed, device=data.device):
            self.net: Any = nn.ModuleDict(
                {
                    "generator": _layers(self.content.warm.shape[1], hidden, d, dropout=0.1),
                    "user": nn.Sequential(_shift_only(d), *_layers(d, hidden, hidden, dropout=0.5)),
                    "item": nn.Sequential(_shift_only(d), *_layers(d, hidden, hidden, dropout=0.5)),
                }
            )
            for name, p in self.net.named_parameters():
                if p.ndim > 1:
                    nn.init.xavier_uniform_(p)
                elif "bias" in name:
                    nn.init.zeros_(p)
        self.net.register_buffer("P", factors.users.clone())
        self.net.register_buffer("Q", factors.items.clone())
        self.net.to(data.device, self.content.dtype)
        self._generator: Any = self.net["generator"]
        # Two optimisers: a step of one network must leave the other one as it is.
        self._towers = nn.ModuleList([self.net["user"], self.net["item"]])
        self._adams = [
            torch.optim.Adam(
                [p for p in part.parameters() if p.requires_grad], lr=self._options.lr, fused=True
            )
            for part in (self._towers, self._generator)
        ]
        self.optimisers = tuple(self._adams)
        self._users = data.rows.has_pairs.nonzero()[:, 0]

    def train_epoch(self, epoch: int) -> dict[str, float]:
        """Train for one epoch, with the same number of triples as training pairs.

        Users are drawn uniformly. Each batch updates the recommender, then the generator.
        """
        totals, count, size = torch.zeros(2, dtype=torch.float64), 0, self._options.batch_size
        with seeded(self._seed, 1, epoch, device=self._data.device) as generator:
            for start in range(0, self._data.num_pairs, size):
                users, items = self._draw(min(size, self._data.num_pairs - start), generator)
                if len(users) < 2:  # Batch normalisation needs two rows.
                    continue
                negatives = self._data.negatives(users, generator)
                recommender = minimise(
                    self.recommender_loss(users, items, negatives), self._adams[0]
                )
                generated = minimise(self.generator_loss(users, items), self._adams[1])
                totals += len(users) * torch.tensor([recommender, generated], dtype=torch.float64)
                count += len(users)
        self.net.eval()
        recommender, generated = (totals / count).tolist()
        return {"loss": recommender + generated, "recommender": recommender, "generator": generated}

    def _draw(self, count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw `count` users uniformly among those with a training pair, and an item of each."""
        chosen = torch.randint(len(self._users), (count,), generator=generator)
        users = self._users[chosen.to(self._data.device)]
        return users, self._data.draw_items(users, generator)

    def generate(self, items: Tensor) -> Tensor:
        """Generate the factors (B, d) of warm items (B,) from their content."""
        distinct, inverse = torch.unique(items, return_inverse=True)
        # The first layer reads the wide content and has no batch statistics, so it runs once per
        # distinct item. The batch normalisation after it must count repeated items, as B rows.
        first, *layers = self._generator
        x: Tensor = first(self.content.warm[distinct])[inverse]
        for layer in layers:
            x = layer(x)
        return x

    def recommender_loss(self, users: Tensor, items: Tensor, negatives: Tensor) -> Tensor:
        """Return the recommender's loss on triples (B,), with the generator in evaluation mode."""
        self._towers.train()
        self._generator.eval()
        with torch.no_grad():
            generated = self.generate(items)
        u = self.net["user"](self.net.P[users])
        # One pass of the item tower, so that real, negative
        # and generated items share batch statistics.
        rows = self.net["item"](torch.cat([self.net.Q[items], self.net.Q[negatives], generated]))
        real, negative, fake = ((u * v).sum(dim=1) for v in rows.chunk(3))
        beta = self._options.real_share
        loss = bpr_loss(real, (1 - beta) * fake + beta * negative)
        return loss + self._options.l2 * _half_squares(self._towers)

    def generator_loss(self, users: Tensor, items: Tensor) -> Tensor:
        """Return the generator's loss on pairs (B,), with the towers in evaluation mode."""
        self._towers.eval()
        self._generator.train()
        generated, alpha = self.generate(items), self._options.similarity_share
        # Only the generated score depends on the generator.
        # Its gradient passes through the item tower.
        with torch.no_grad():
            u, real = self.net["user"](self.net.P[users]), self.net["item"](self.net.Q[items])
        gap = (u * real).sum(dim=1) - (u * self.net["item"](generated)).sum(dim=1)
        distance = (generated - self.net.Q[items]).abs().mean()
        ranking = F.softplus(gap).mean()
        return (
            (1 - alpha) * ranking
            + alpha * distance
            + self._options.l2 * _half_squares(self._generator)
        )

    def scorer(self, features: Mapping[str, Tensor], mask: Tensor) -> ScoreBlock:
        """Return a function that scores new items: the recommender on their generated factors."""
        self.net.eval()
        v = self.net["item"](self._generator(self.content(features, mask)))
        return lambda users: self.net["user"](self.net.P[users]) @ v.T


def _layers(width: int, hidden: int, out: int, *, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(width, hidden),
        nn.BatchNorm1d(hidden, **BN),
        nn.Tanh(),
        nn.Dropout(dropout),
        nn.Linear(hidden, out),
    )


def _shift_only(d: int) -> nn.BatchNorm1d:
    """Return a batch normalisation whose scale is fixed at 1."""
    norm = nn.BatchNorm1d(d, **BN)
    norm.weight.requires_grad_(False)
    return norm


def _half_squares(part: nn.Module) -> Tensor:
    """Return half the sum of squares of the weight matrices of a module."""
    return 0.5 * torch.stack([p.square().sum() for p in part.parameters() if p.ndim > 1]).sum()
