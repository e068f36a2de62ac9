"""Score new items with a method that has no vectors: from the scores of its learner.

`Scorer` ranks by inner products of vectors of users and items, which KEEP, MILK and its ablations
have. Every other method returns scores. `LearnerScorer` keeps the scores of the items for all
users, (n, U), in place of the items' vectors; everything else is as in `Scorer`.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from milk_recsys.base.errors import DataError
from milk_recsys.methods.learner import ClosedFormLearner, TrainedLearner
from milk_recsys.run.scorer import LISTS_AT_ONCE, ArrayLike, Best, Scorer

__all__ = ["LearnerScorer", "ScoresModel"]

MAX_SCORES = 2**28  # Number of scores of items for all users that are held, 2 GiB.


class ScoresModel(torch.nn.Module):
    """A learner as the model of a scorer: the "vector" of an item is its score for each user.

    Arguments:
        learner: a fitted closed form, or a trained model.

    Attributes:
        dim: number of users, U.
        trained_users: (U,) bool, the users with a training pair.
        modalities: names, in the order of the columns of masks.
    """

    def __init__(self, learner: ClosedFormLearner | TrainedLearner) -> None:
        super().__init__()
        self.learner = learner
        self.trained_users = learner.trained_users
        self.dim = len(self.trained_users)
        self.modalities = learner.data.modalities

    @torch.no_grad()
    def embed_items(self, features: Mapping[str, Tensor], mask: Tensor) -> Tensor:
        """Return the scores of items for all users, (n, U), in the precision of the run."""
        rows, dtype = {}, self.learner.data.dtype
        for name in self.modalities:
            width = self.learner.data.features[name].shape[1]
            # Rows of an absent modality are never read.
            x = features.get(name, torch.zeros(len(mask), width))
            rows[name] = x.to(mask.device, dtype)
        score = self.learner.model.scorer(rows, mask)
        blocks = torch.split(torch.arange(self.dim, device=mask.device), LISTS_AT_ONCE)
        return torch.cat([score(users) for users in blocks]).T.contiguous()


class LearnerScorer(Scorer):
    """Scores of users for new items by a method without vectors.

    Arguments:
        model: the fitted method.
        dims: modality -> width of its features.
        user_names: one name per user, or None.
        content_zeros: modalities of which a row of zeros is content, not missing.
    """

    def __init__(
        self,
        model: ScoresModel,
        dims: Mapping[str, int],
        user_names: Sequence[str] | None = None,
        *,
        content_zeros: Collection[str] = (),
    ) -> None:
        self.device, self.dtype = model.trained_users.device, model.learner.data.dtype
        self.model, self.dims = model, dict(dims)
        self.content_zeros = frozenset(content_zeros)
        self.modalities, self.num_users = model.modalities, model.dim
        self.user_names = None if user_names is None else tuple(user_names)
        self.trained_users = model.trained_users.cpu()
        self.scores_at_once = None
        if not model.learner.options.definition.independent_scores:
            self.items_at_once = sys.maxsize  # The score of an item depends on the others.

    @override
    def embed(
        self,
        features: Mapping[str, ArrayLike | None],
        *,
        empty_items: Literal["error", "impute"] = "error",
    ) -> Tensor:
        count = max((len(x) for x in features.values() if x is not None), default=0)
        if count * self.num_users > MAX_SCORES:
            raise DataError(
                f"scorer: {self.model.learner.options.run.model} has no vectors, and {count:,} "
                f"items have {count * self.num_users:,} scores for {self.num_users:,} users, of "
                f"which at most {MAX_SCORES:,} are held. Give fewer items at a time."
            )
        return super().embed(features, empty_items=empty_items)

    @override
    def best_items(
        self,
        vectors: Tensor,
        top: int,
        users: Sequence[int] | ArrayLike | None = None,
        *,
        exclude: tuple[Tensor, Tensor] | None = None,
    ) -> Iterator[Best]:
        ids = self._user_ids(users)
        yield from _best(ids, lambda block: self._scores(block, vectors), top, exclude)

    @override
    def best_users(
        self,
        vectors: Tensor,
        top: int,
        users: Sequence[int] | ArrayLike | None = None,
        *,
        exclude: tuple[Tensor, Tensor] | None = None,
    ) -> Iterator[Best]:
        chosen = (
            self.trained_users.nonzero()[:, 0]
            if users is None
            else torch.from_numpy(np.unique(self._user_ids(users).numpy()))
        )
        every = torch.arange(len(vectors))
        columns = chosen.to(vectors.device)

        def scores(block: Tensor) -> Tensor:
            return vectors[block.to(vectors.device)][:, columns].to(self.dtype)

        for best in _best(every, scores, top, exclude):
            places = best.indices
            found = torch.where(places < 0, places, chosen[places.clamp(min=0)])
            yield Best(best.rows, found, best.scores)

    @override
    def products(self, users: Tensor, vectors: Tensor) -> Tensor:
        return vectors[:, users.to(vectors.device)].T


def _best(
    rows: Tensor,
    scores: Any,
    top: int,
    exclude: tuple[Tensor, Tensor] | None,
) -> Iterator[Best]:
    """Yield the lists of rows, block by block, as `ranking.top.top_items` orders them.

    Arguments:
        rows: (R,) what the lists are for.
        scores: maps a block of rows to its scores (r, n).
        exclude: offsets (R + 1,) and columns that are left out of each list.
    """
    if top < 1:
        raise ValueError(f"scorer: `top` must be at least 1, got {top}.")
    for start in range(0, len(rows), LISTS_AT_ONCE):
        block = rows[start : start + LISTS_AT_ONCE]
        values = scores(block).clone()
        if exclude is not None:
            offsets, columns = (x.to(values.device) for x in exclude)
            lengths = offsets.diff()[start : start + len(block)]
            own = torch.arange(len(block), device=values.device).repeat_interleave(lengths)
            first, end = int(offsets[start]), int(offsets[start + len(block)])
            values[own, columns[first:end]] = -torch.inf
        # A stable sort keeps the lower position first where scores are equal.
        ordered, places = values.sort(dim=1, descending=True, stable=True)
        count = min(top, values.shape[1])
        ordered, places = ordered[:, :count].cpu(), places[:, :count].cpu()
        places = places.masked_fill(ordered == -torch.inf, -1)
        yield Best(block, places, ordered)
