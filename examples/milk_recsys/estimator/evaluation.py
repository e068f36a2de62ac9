"""Quality of the lists on pairs that were held out: of new items alone, and of all items."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from milk_recsys.base.errors import DataError
from milk_recsys.estimator.abilities import abilities
from milk_recsys.estimator.candidates import Candidates, NewItems, named_pairs
from milk_recsys.estimator.fitted import Fitted
from milk_recsys.estimator.queries import ListedUsers, excluded_pairs
from milk_recsys.ranking.metrics import mean_metrics, per_user_metrics, positive_ranks

__all__ = ["evaluate"]

MAX_SCORES = 2**22  # Number of scores in memory.
TOP = 20  # Length of the lists in which new items are counted.


def evaluate(fitted: Fitted, pairs: Any, new: NewItems) -> dict[str, dict[str, float]]:
    """Rank held-out pairs of users with a training pair; pairs of other users are left out.

    Arguments:
        pairs: frame of held-out pairs, of new items and possibly of known ones. Pairs that the
            model was fitted with are left out.

    Returns:
        ``new_only``: metrics of the pairs of new items, ranked among the new items; and for a
        method that can list known items ``overall``: metrics of all pairs, ranked among new and
        known items without those that a user has, with ``share_of_new``, the mean share of new
        items in the first 20 places.

    Raises:
        DataError: no pair can be ranked.
    """
    sections = {"new_only": _section(fitted, pairs, new, include_warm=False)}
    if "include_warm" in abilities(fitted.options.definition):
        sections["overall"] = _section(fitted, pairs, new, include_warm=True)
    return sections


def _section(fitted: Fitted, pairs: Any, new: NewItems, *, include_warm: bool) -> dict[str, float]:
    items = Candidates.of(fitted, new, include_warm=include_warm, where=None)
    users = ListedUsers.of(fitted, None, "evaluate")
    place = torch.full((len(fitted.users),), -1, dtype=torch.int64)
    place[users.rows] = torch.arange(len(users.rows))
    held = named_pairs(pairs, fitted.rows, "evaluate: pairs", fitted.users, items.ids)
    held = torch.stack([place[held[:, 0]], held[:, 1]], dim=1)
    excluded = excluded_pairs(fitted, users, items, None)
    known = torch.isin(_keys(held, len(items.names)), _keys(excluded, len(items.names)))
    held = held[(held[:, 0] >= 0) & ~known]
    if not len(held):
        raise DataError(
            "evaluate: none of the pairs is of a user with a training pair and of a candidate."
        )
    shares: list[Tensor] = []

    def score(block: Tensor) -> Tensor:
        """Return scores (u, C), of which those of excluded items are below all others."""
        scores = fitted.scorer.products(users.rows[block], items.vectors)
        own = torch.isin(excluded[:, 0], block)
        rows = torch.searchsorted(block, excluded[own, 0])
        lowest = float(scores.min()) - 1
        scores[rows.to(scores.device), excluded[own, 1].to(scores.device)] = lowest
        best = scores.topk(min(TOP, scores.shape[1]), dim=1).indices.cpu()
        shares.append((items.known[best] < 0).double().mean(dim=1))
        return scores.cpu()

    ranks = positive_ranks(
        score, held[:, 0], held[:, 1], num_candidates=len(items.names), max_elements=MAX_SCORES
    )
    found: dict[str, float] = mean_metrics(per_user_metrics(held[:, 0], ranks))
    if include_warm:
        found["share_of_new"] = float(torch.cat(shares).mean())
    return found


def _keys(pairs: Tensor, count: int) -> Tensor:
    """Return one number for each pair."""
    return pairs[:, 0] * count + pairs[:, 1]
