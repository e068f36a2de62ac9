"""Protocols that a method implements.

`Learner` is what the rest of the package calls. Most methods implement `ClosedForm` or
`TrainedModel` instead, and a class of `learner.py` makes a `Learner` of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from milk_recsys.catalogue.features import ItemFeatures
from milk_recsys.ranking.metrics import ScoreBlock

__all__ = ["ClosedForm", "EpochLearner", "Learner", "ScoreBlock", "TrainedModel"]


class Learner(Protocol):
    """A method in a run: MILK, an ablation, KEEP or a baseline.

    The loop, the evaluation and the audit call every method through this protocol. A learner
    receives warm items only; `scorer` alone receives new items, and of them only the features.
    """

    @property
    def num_pairs(self) -> int:
        """The number of training pairs."""
        ...

    @property
    def trained_users(self) -> Tensor:
        """True for each user who has a training pair, (num_users,) bool."""
        ...

    @property
    def user_starts(self) -> Sequence[int] | None:
        """Boundaries of the ranks' shards of users; None if users are not sharded.

        The first user of each rank, in rank order, followed by the number of users.
        """
        ...

    @property
    def chosen(self) -> Mapping[str, Any]:
        """The options that the method chose itself on the training items, for the record."""
        ...

    def prepare(self, after_epoch: Callable[[int, float], None] | None = None) -> None:
        """Fit a closed form, or train the frozen vectors that the method starts from.

        The loop calls it once, before the first epoch.

        Arguments:
            after_epoch: called after each epoch that this preparation takes, with the number of
                epochs so far and the loss of the epoch.
        """
        ...

    def scorer(
        self, features: ItemFeatures, items: Tensor, mask: Tensor, *, max_users: int = 0
    ) -> ScoreBlock:
        """Return a function from user ids (u,) to the scores of the items for these users, (u, C).

        Arguments:
            features: features of all items.
            items: (C,) ids of the items to score.
            mask: (num_items, M) bool, True where a modality may be used.
            max_users: for calls with up to this many users the scores may be written to a buffer
                that the next call overwrites; 0: every call returns a new tensor.
        """
        ...

    def save(self, path: Path, facts: dict[str, Any], *, weights_only: bool = False) -> None:
        """Write the weights, or everything that later epochs depend on, to a file.

        Every rank calls it; rank 0 writes.

        Arguments:
            path: the file.
            facts: values to store with the tensors.
            weights_only: write only the tensors that scoring needs.
        """
        ...

    def load(self, path: Path, *, weights_only: bool = False) -> dict[str, Any]:
        """Load a file that `save` wrote; return its facts."""
        ...


class EpochLearner(Learner, Protocol):
    """A method that is trained by epochs (`Method.loop` is given)."""

    def train_epoch(
        self, epoch: int, on_step: Callable[[], None] = lambda: None
    ) -> dict[str, float]:
        """Train for one epoch.

        All randomness depends only on the seed and the number of the epoch, so that a resumed run
        repeats the one that was interrupted.

        Arguments:
            epoch: number of the epoch, from 0.
            on_step: may be called after each step.

        Returns:
            ``loss`` and its terms, means over the epoch.
        """
        ...


class ClosedForm(Protocol):
    """A model whose constructor ``Name(data, options, seed)`` fits it."""

    def scorer(self, features: Mapping[str, Tensor], mask: Tensor) -> ScoreBlock:
        """Return a function from user ids (u,) to their scores of C new items, (u, C).

        Arguments:
            features: modality -> (C, d_m), as stored; values in unobserved rows are not read.
            mask: (C, M) bool, True where an item has the modality.
        """
        ...


class TrainedModel(ClosedForm, Protocol):
    """A model that is trained by epochs.

    Its constructor is ``Name(data, options, seed)``, or ``Name(data, options, seed, factors)`` if
    the method starts from frozen factors (`Method.needs_factors`).

    Attributes:
        net: module with all tensors of the model, so that the weights of the best epoch can be
            loaded into it.
    """

    net: nn.Module

    def train_epoch(self, epoch: int) -> dict[str, float]:
        """Train for one epoch; return ``loss`` and its terms, means over the epoch."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """Return every tensor that later epochs depend on."""
        ...

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load the tensors that `state_dict` returned."""
        ...
