"""CLCRec: two contrasts, between an item's vector and its content, and between a user and the items they have.

    of each pair (u, i): i and K negatives of u are candidates
    L1: anchor q_i, candidates enc(x); cosines.   L2: anchor p_u, candidates q; inner products, some rows take enc(x)
    loss: share L1 + (1 - share) L2 + w (mean |p_u| + mean |q|) / 2, both softmax cross-entropies at temperature tau

References:
    Wei, Wang, Li, Nie, Li, Li and Chua, Contrastive learning for cold-start recommendation, MM 2021.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from milk_recsys.base.checkpoint import pack, unpack
from milk_recsys.base.random_state import seeded
from milk_recsys.catalogue.user_rows import UserRows
from milk_recsys.methods.clcrec import ClcrecOptions
from milk_recsys.methods.contract import ScoreBlock
from milk_recsys.methods.warm import Content, WarmData

__all__ = ["Clcrec", "distinct_negatives"]

MAX_DENSE_ROWS = 8192  # candidates of a batch up to which a product with all of them costs less than to gather each one's


class Clcrec:
    """The baseline; see the module."""

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
        self._num_negatives = min(self._options.num_negatives, int(data.rows.free.min()))

    def train_epoch(self, epoch: int) -> dict[str, float]:
        """Train for an epoch."""
        total = 0.0
        with seeded(self._seed, 1, epoch, device=self._data.device) as generator:
            for users, items in self._data.shuffled(self._options.batch_size, generator):
                negatives = distinct_negatives(
                    self._data.rows, users, self._num_negatives, generator
                )
                candidates = torch.cat([items[:, None], negatives], dim=1)
                drawn = int(self._options.replaced * candidates.numel())
                replaced = torch.zeros(candidates.numel(), dtype=torch.bool)
                replaced[torch.randint(len(replaced), (drawn,), generator=generator)] = True
                loss = self.loss(
                    users, candidates, replaced.view(candidates.shape).to(candidates.device)
                )
                self._adam.zero_grad()
                loss.backward()
                self._adam.step()
                total += len(users) * loss.item()
        return {"loss": total / self._data.num_pairs}

    def loss(self, users: Tensor, candidates: Tensor, replaced: Tensor) -> Tensor:
        """The loss of a batch.

        Arguments:
            users: (B,); candidates: (B, 1 + K) items, the positive first.
            replaced: (B, 1 + K) bool, rows that take their content in the second contrast.
        """
        options = self._options
        distinct, inverse = torch.unique(candidates, return_inverse=True)
        p, q = self.net["vectors"](users), self.net["vectors"](self._data.num_users + distinct)
        content = self.net["encoder"](self.content.warm[distinct])
        anchors = F.normalize(q, dim=1)[inverse[:, 0]]
        by_content = _candidate_scores(anchors, F.normalize(content, dim=1), inverse)
        by_user = torch.where(
            replaced, _candidate_scores(p, content, inverse), _candidate_scores(p, q, inverse)
        )
        target = torch.zeros_like(users)
        first, second = (F.cross_entropy(s / options.tau, target) for s in (by_content, by_user))
        norms = (p.norm(dim=1).mean() + q.norm(dim=1)[inverse].mean()) / 2
        return (
            options.content_share * first
            + (1 - options.content_share) * second
            + options.norm_weight * norms
        )

    def scorer(self, features: Mapping[str, Tensor], observed: Tensor) -> ScoreBlock:
        """Return what scores new items: <p_u, enc(x)>."""
        v = self.net["encoder"](self.content(features, observed))
        return lambda users: self.net["vectors"](users) @ v.T

    def state_dict(self) -> dict[str, Tensor]:
        """Return everything that a later epoch depends on."""
        return pack(self.net, self._adam)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load the tensors that `state_dict` returned."""
        unpack(state, self.net, self._adam)


def _candidate_scores(anchors: Tensor, rows: Tensor, inverse: Tensor) -> Tensor:
    """Return the inner products of anchors (B, d) with their candidates (B, C), places in rows (n, d)."""
    if len(rows) <= MAX_DENSE_ROWS:
        return (anchors @ rows.T).gather(1, inverse)
    return torch.bmm(F.embedding(inverse, rows), anchors[:, :, None])[:, :, 0]


def distinct_negatives(
    rows: UserRows, users: Tensor, count: int, generator: torch.Generator
) -> Tensor:
    """Draw `count` different items for each user that the user does not have, (B, count), uniformly.

    Places among the items that a user does not have are drawn without replacement: of `free` places, the k-th draw
    takes one of the first free - count + k + 1; where that is taken already, it takes the last of them (Floyd).
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
        columns.append(torch.where(taken.gather(1, draw), end, draw))
        taken.scatter_(1, columns[-1], True)
    chosen = torch.cat(columns, dim=1)
    keys = (users * (rows.pool_size + 1))[:, None] + chosen
    num_owned_before = (
        torch.searchsorted(rows.keys[:-1], keys, right=True) - rows.offsets[users][:, None]
    )
    return rows.pool[chosen + num_owned_before]
