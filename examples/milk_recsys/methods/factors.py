"""Matrix factorisation by BPR, which provides the frozen vectors that several baselines start from.

    s_uj = <p_u, q_j>
    loss = mean over triples (u, i, j) of -ln sigma(s_ui - s_uj) + l2 (|p_u|^2 + |q_i|^2 + |q_j|^2)

where p_u and q_j are the vectors of user u and warm item j, i is an item of the user, j a sampled
item that the user does not have, sigma the logistic function, and l2 a weight.

It is trained on the pairs of warm items only. The validation items are new and have no vector here,
so they cannot decide when to stop. Instead, 5% of the training pairs are held out, and the epoch
with the best ranking of these pairs among all warm items is kept.

References:
    Rendle, Freudenthaler, Gantner and Schmidt-Thieme, BPR: Bayesian personalized ranking from
    implicit feedback, UAI 2009.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from milk_recsys.base.checkpoint import pack, unpack
from milk_recsys.base.random_state import seeded
from milk_recsys.methods.factor_options import FactorOptions
from milk_recsys.methods.warm import WarmData, bpr_loss
from milk_recsys.ranking.metrics import mean_metrics, per_user_metrics, positive_ranks

__all__ = ["Factorisation", "Factors"]

# Share of the training pairs that is held out.
HELD_OUT = 0.05
# Evaluate every EVAL_EVERY epochs; stop after PATIENCE evaluations in a row without a gain.
EVAL_EVERY, PATIENCE = 5, 3
# Held-out pairs of at most this many users are ranked, which bounds the time of an evaluation.
MAX_EVAL_USERS = 2000


class Factors(NamedTuple):
    """Vectors of users (U, D) and warm items (n, D).

    The vector of a user or an item without a pair to train on is exactly 0.
    """

    users: Tensor
    items: Tensor


class Factorisation:
    """The matrix factorisation in training.

    Arguments:
        data: the warm items.
        options: options of the factorisation.
        seed: seed of the held-out pairs, the start and the negatives.

    Attributes:
        net: the current vectors, "user" (U, D) and "item" (n, D).
        epoch: number of finished epochs.
        done: True once training has stopped.
        best: best NDCG@20 on the held-out pairs so far.
    """

    def __init__(self, data: WarmData, options: FactorOptions, seed: int) -> None:
        self._data, self._options, self._seed, dtype = data, options, seed, data.dtype
        with seeded(seed, 0, 0, device=data.device) as generator:
            order = torch.randperm(data.num_pairs, generator=generator).to(data.device)
            users, items = (
                torch.empty(n, options.embedding_dim).normal_(std=0.1)
                for n in (data.num_users, data.num_items)
            )
        # The held-out pairs are the first 5% of a random order. Sorting restores the order by user.
        num_held = int(HELD_OUT * len(order))
        held, kept = order[:num_held], order[num_held:]
        self._held, self._kept = data.rows.pairs_at(held.sort().values), kept.sort().values
        self.net: Any = nn.ParameterDict(
            {"user": users.to(data.device, dtype), "item": items.to(data.device, dtype)}
        )
        self._best = {name: p.detach().clone() for name, p in self.net.items()}
        self._adam = torch.optim.Adam(self.net.parameters(), lr=self._options.factor_lr, fused=True)
        # `_num_stale` counts the evaluations in a row without a gain.
        self.epoch, self._num_stale, self.best, self.done = 0, 0, -1.0, False

    def train_epoch(self) -> float:
        """Train for one epoch; return its loss, a mean over triples."""
        total = 0.0
        with seeded(self._seed, 0, 1 + self.epoch, device=self._data.device) as generator:
            order = torch.randperm(len(self._kept), generator=generator).to(self._data.device)
            for pair_numbers in torch.split(self._kept[order], self._options.factor_batch_size):
                users, items = self._data.rows.pairs_at(pair_numbers)
                loss = self._step(users, items, self._data.negatives(users, generator))
                total += len(users) * loss.item()
        self.epoch += 1
        last = self.epoch >= self._options.factor_epochs
        if self.epoch % EVAL_EVERY == 0 or last:
            self._evaluate()
        self.done = self.done or last
        return total / len(self._kept)

    def _step(self, users: Tensor, items: Tensor, negatives: Tensor) -> Tensor:
        user_rows = F.embedding(users, self.net["user"])
        item_rows = F.embedding(torch.stack([items, negatives]), self.net["item"])
        norms = user_rows.square().sum() + item_rows.square().sum()
        # (B, D) times (2, B, D) broadcasts, so that the sum holds both scores of each triple.
        loss = bpr_loss(
            *(user_rows * item_rows).sum(dim=2)
        ) + self._options.factor_l2 * norms / len(users)
        self._adam.zero_grad()
        loss.backward()
        self._adam.step()
        return loss.detach()

    def _evaluate(self) -> None:
        score = self.held_out_ndcg()
        if score > self.best:
            self.best, self._num_stale = score, 0
            for name, p in self.net.items():
                self._best[name].copy_(p.detach())
        else:
            self._num_stale += 1
            self.done = self._num_stale >= PATIENCE

    @torch.no_grad()
    def held_out_ndcg(self) -> float:
        """Return NDCG@20 of the held-out pairs, a mean over users.

        The candidates of a user are all warm items except those in the user's pairs of the training
        part.
        """
        users, items = self._held
        if len(users) == 0:
            return 0.0
        ranked_users = torch.unique(users)[:MAX_EVAL_USERS]
        chosen = torch.isin(users, ranked_users)
        known_users, known_items = self._data.rows.pairs_at(self._kept)
        ranked = torch.isin(known_users, ranked_users)
        known_users, known_items = known_users[ranked], known_items[ranked]

        def score(block: Tensor) -> Tensor:
            scores = self.net["user"][block] @ self.net["item"].T
            in_block = torch.isin(known_users, block)
            # Rank the items that the user was trained on last, below every candidate.
            scores[torch.searchsorted(block, known_users[in_block]), known_items[in_block]] = (
                scores.min() - 1
            )
            return scores

        ranks = positive_ranks(
            score, users[chosen], items[chosen], num_candidates=self._data.num_items
        )
        return float(mean_metrics(per_user_metrics(users[chosen], ranks))["ndcg@20"])

    def result(self) -> Factors:
        """Return the vectors of the best epoch; 0 where there was no pair to train on."""
        users, items = self._data.rows.pairs_at(self._kept)
        vectors = []
        for name, trained in (("user", users), ("item", items)):
            # Users and items without a pair to train on have no meaningful vector. Set it to 0.
            known = torch.zeros(
                len(self._best[name]), dtype=torch.bool, device=trained.device
            ).index_fill_(0, trained, True)
            vectors.append(self._best[name].masked_fill(~known[:, None], 0))
        return Factors(*vectors)

    def state_dict(self) -> dict[str, Tensor]:
        """Return every tensor that later epochs or the result depend on."""
        state = pack(
            self.net, self._adam, epoch=self.epoch, stale=self._num_stale, done=int(self.done)
        )
        best = {f"best.{name}": x for name, x in self._best.items()}
        return state | best | {"score": torch.tensor(self.best, dtype=torch.float64)}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load the tensors that `state_dict` returned."""
        numbers = unpack(state, self.net, self._adam)
        self.epoch = numbers["epoch"]
        self._num_stale = numbers["stale"]
        self.done = bool(numbers["done"])
        self.best = float(state["score"])
        for name, x in self._best.items():
            x.copy_(state[f"best.{name}"])
