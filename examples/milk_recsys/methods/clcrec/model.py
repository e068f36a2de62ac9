"""CLCRec: contrasts items with their content, and users with their items.

For each training pair (u, i) the candidates are i and K negatives of u:

    L1 = CE over the candidates j of cos(q_i, enc(x_j)) / tau
    L2 = CE over the candidates j of <p_u, v_j> / tau
    v_j = enc(x_j) for random candidates, q_j for the others
    loss = mean over pairs of share L1 + (1 - share) L2 + w (mean |p_u| + mean |q_j|) / 2

where p_u, q_j and x_j are the vector of user u, and the vector and the content of item j; enc is
the encoder of content; CE is the softmax cross-entropy with i as the target; tau is a temperature;
and share and w are weights.

References:
    Wei, Wang, Li, Nie, Li, Li and Chua, Contrastive learning for cold-start recommendation, MM
    2021.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from milk_recsys.base.random_state import seeded
from milk_recsys.catalogue.user_rows import UserRows
from milk_recsys.methods.clcrec import ClcrecOptions
from milk_recsys.methods.contract import ScoreBlock
from milk_recsys.methods.warm import Checkpointed, Content, WarmData, minimise
from milk_recsys.ranking.negatives import count_before

__all__ = ["Clcrec", "distinct_negatives"]

# Up to this number of distinct candidates, one matrix product with all of them is faster than
# gathering the candidates of each row.
MAX_DENSE_ROWS = 8192


class Clcrec(Checkpointed):
    """The CLCRec model; the docstring of the module states its equations."""

    def __init__(self, data: WarmData, options: ClcrecOptions, seed: int) -> None:
        self._data, self._options, self._seed = data, options, seed
        self.content, d = Content(data), options.embedding_dim
        with seeded(seed, device=data.device):
            self.net: Any = nn.ModuleDict(
                {
                    "vectors": nn.Embedding(data.num_users + data.num_items, d),
                    "encoder": nn.Sequential(
                        nn.Linear(self.content.warm.shape[1], self._options.hidden),
                        nn.LeakyReLU(0.01),
                        nn.Linear(self._options.hidden, d),
                    ),
                }
            )
            nn.init.xavier_normal_(self.net["vectors"].weight)  # type: ignore[arg-type]
        self.net.to(data.device, self.content.dtype)
        self._adam = torch.optim.Adam(self.net.parameters(), lr=self._options.lr, fused=True)
        self.optimisers = (self._adam,)
        # Negatives are distinct, so there can be no more
        # than the items that the busiest user lacks.
        self._num_negatives = min(self._options.num_negatives, int(data.rows.free.min()))

    def train_epoch(self, epoch: int) -> dict[str, float]:
        """Train for one epoch."""
        total = 0.0
        with seeded(self._seed, 1, epoch, device=self._data.device) as generator:
            for users, items in self._data.shuffled(self._options.batch_size, generator):
                negatives = distinct_negatives(
                    self._data.rows, users, self._num_negatives, generator
                )
                candidates = torch.cat([items[:, None], negatives], dim=1)
                drawn = int(self._options.replaced * candidates.numel())
                # Positions are drawn with replacement, so the share
                # of replaced candidates is at most `replaced`.
                replaced = torch.zeros(candidates.numel(), dtype=torch.bool)
                replaced[torch.randint(len(replaced), (drawn,), generator=generator)] = True
                loss = self.loss(
                    users, candidates, replaced.view(candidates.shape).to(candidates.device)
                )
                total += len(users) * minimise(loss, self._adam)
        return {"loss": total / self._data.num_pairs}

    def loss(self, users: Tensor, candidates: Tensor, replaced: Tensor) -> Tensor:
        """Return the loss of a batch.

        Arguments:
            users: (B,).
            candidates: (B, 1 + K), items, the positive first.
            replaced: (B, 1 + K) bool, True where L2 uses the encoded content instead of the vector.
        """
        options = self._options
        # Embed and encode each distinct candidate once; `inverse` (B, 1 + K) are its row numbers.
        distinct, inverse = torch.unique(candidates, return_inverse=True)
        p, q = self.net["vectors"](users), self.net["vectors"](self._data.num_users + distinct)
        content = self.net["encoder"](self.content.warm[distinct])
        anchors = F.normalize(q, dim=1)[inverse[:, 0]]
        by_content = _candidate_scores(anchors, F.normalize(content, dim=1), inverse)
        by_user = torch.where(
            replaced, _candidate_scores(p, content, inverse), _candidate_scores(p, q, inverse)
        )
        # The positive is candidate 0.
        target = torch.zeros_like(users)
        first, second = (F.cross_entropy(s / options.tau, target) for s in (by_content, by_user))
        norms = (p.norm(dim=1).mean() + q.norm(dim=1)[inverse].mean()) / 2
        return (
            options.content_share * first
            + (1 - options.content_share) * second
            + options.norm_weight * norms
        )

    def scorer(self, features: Mapping[str, Tensor], mask: Tensor) -> ScoreBlock:
        """Return a function that scores new items: <p_u, enc(x)>."""
        v = self.net["encoder"](self.content(features, mask))
        return lambda users: self.net["vectors"](users) @ v.T


def _candidate_scores(anchors: Tensor, rows: Tensor, positions: Tensor) -> Tensor:
    """Return the inner products of anchors with their candidates, (B, C).

    Arguments:
        anchors: (B, d).
        rows: (n, d), the vectors of all distinct candidates.
        positions: (B, C), row numbers of the candidates of each anchor.
    """
    if len(rows) <= MAX_DENSE_ROWS:
        return (anchors @ rows.T).gather(1, positions)
    return torch.bmm(F.embedding(positions, rows), anchors[:, :, None])[:, :, 0]


def distinct_negatives(
    rows: UserRows, users: Tensor, count: int, generator: torch.Generator
) -> Tensor:
    """Draw for each user (B,) `count` different items that the user does not have, (B, count).

    Every set of `count` such items is equally likely. Floyd's algorithm draws from `free` positions
    without replacement: draw number k (from 0) takes a uniform position up to last = free - count +
    k; if this position is taken already, it takes `last` itself, which no earlier draw could take.

    Arguments:
        rows: the training pairs.
        users: (B,).
        count: number of items per user, at most `rows.free` of each user.
        generator: source of randomness.
    """
    free = rows.free[users]
    uniform = torch.rand(len(users), count, generator=generator, dtype=torch.float64).to(
        users.device
    )
    last = free[:, None] - count + torch.arange(count, device=users.device)
    drawn = (uniform * (last + 1)).long()
    taken = torch.zeros(len(users), rows.pool_size, dtype=torch.bool, device=users.device)
    columns = []
    for draw, end in zip(drawn.t()[:, :, None], last.t()[:, :, None], strict=True):
        # One draw of all users per iteration, (B, 1).
        columns.append(torch.where(taken.gather(1, draw), end, draw))
        taken.scatter_(1, columns[-1], True)
    chosen = torch.cat(columns, dim=1)
    # `chosen` counts only items that the user does not have; add the user's own items before it.
    num_owned_before = count_before(chosen.flatten(), users.repeat_interleave(count), rows)
    return rows.pool[chosen + num_owned_before.view_as(chosen)]
