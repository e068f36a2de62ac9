"""The contract between a method and the rest of the package: `Learner`, and the two shapes that most methods have."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor, nn

from milk_recsys.catalogue.features import ItemFeatures

__all__ = ["ClosedForm", "Learner", "ScoreBlock", "TrainedModel"]

ScoreBlock = Callable[[Tensor], Tensor]
"""From users (u,) to their scores of the items (u, C)."""


class Learner(Protocol):
    """A method in a run: MILK, an ablation, KEEP or a baseline. The loop, the evaluation and the audit take no other.

    It never sees an item that is not warm except in `scorer`, and there only the item's features.
    """

    @property
    def num_pairs(self) -> int:
        """The number of training pairs."""
        ...

    @property
    def trained_users(self) -> Tensor:
        """Which users have a training pair, (num_users,) bool."""
        ...

    @property
    def user_starts(self) -> Sequence[int] | None:
        """The first user of each rank and the number of users, where users are sharded over ranks; else None."""
        ...

    def prepare(self, after_epoch: Callable[[int, float], None] | None = None) -> None:
        """Do what comes before the first epoch: fit a closed form, or train the frozen vectors to start from.

        Arguments:
            after_epoch: called with the number of epochs and the loss after each epoch of this.
        """
        ...

    def train_epoch(
        self, epoch: int, on_step: Callable[[], None] = lambda: None
    ) -> dict[str, float]:
        """Train for an epoch; all randomness depends on the seed and the number of the epoch alone.

        A method that is fitted in closed form is never asked to (`Method.loop` is None).

        Returns:
            ``loss`` and its terms, means over the epoch.
        """
        ...

    def scorer(
        self, features: ItemFeatures, items: Tensor, mask: Tensor, *, max_users: int = 0
    ) -> ScoreBlock:
        """Return a function from users (u,) to their scores of the items (u, C).

        Arguments:
            items: (C,) ids.
            mask: (num_items, M) bool, the modalities that may be used.
            max_users: scores of up to this many users may lie in memory that the next call uses again.
        """
        ...

    def save(self, path: Path, facts: dict[str, Any], *, weights_only: bool = False) -> None:
        """Write the weights, or everything that a later epoch depends on. Every rank calls it; rank 0 writes."""
        ...

    def load(self, path: Path, *, weights_only: bool = False) -> dict[str, Any]:
        """Take back a file of `save`; return its facts."""
        ...


class ClosedForm(Protocol):
    """A model that is fitted when it is built, as ``Name(data, options, seed)``."""

    def scorer(self, features: Mapping[str, Tensor], observed: Tensor) -> ScoreBlock:
        """Return a function from users (u,) to their scores of new items (u, C).

        Arguments:
            features: modality -> (C, d_m), as stored; values in unobserved rows are not read.
            observed: (C, M) bool.
        """
        ...


class TrainedModel(ClosedForm, Protocol):
    """A model that is trained by epochs; built as ``Name(data, options, seed)``, some with factors besides.

    Attributes:
        net: all its tensors, so that weights of another epoch can be put into it.
    """

    net: nn.Module

    def train_epoch(self, epoch: int) -> dict[str, float]:
        """Train for an epoch; return ``loss`` and its terms, means over the epoch."""
        ...

    def state_dict(self) -> dict[str, Tensor]:
        """Return everything that a later epoch depends on."""
        ...

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Take back the tensors of `state_dict`."""
        ...
