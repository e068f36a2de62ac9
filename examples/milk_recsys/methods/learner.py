"""Learners of the methods whose models are built from the warm items: closed forms, and models trained by epochs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from milk_recsys.base.checkpoint import load_state, save_state
from milk_recsys.base.distributed import SINGLE_PROCESS, World
from milk_recsys.base.errors import DataError
from milk_recsys.catalogue.features import ItemFeatures
from milk_recsys.catalogue.tables import Tables
from milk_recsys.config.method import load
from milk_recsys.config.options import Options
from milk_recsys.methods.contract import Learner, ScoreBlock
from milk_recsys.methods.factors import Factorisation, Factors
from milk_recsys.methods.warm import WarmData

__all__ = ["ClosedFormLearner", "TrainedLearner", "build", "closed_form", "make_learner", "trained"]


def make_learner(
    options: Options, tables: Tables, world: World = SINGLE_PROCESS, factors: Factors | None = None
) -> Learner:
    """Build the learner of the method that the options name."""
    learner: Learner = load(options.card.learner)(options, tables, world, factors)
    return learner


def closed_form(
    options: Options, tables: Tables, world: World = SINGLE_PROCESS, factors: Factors | None = None
) -> ClosedFormLearner:
    """Build the learner of a closed form."""
    del world, factors  # it is fitted in one process, from the pairs themselves
    return ClosedFormLearner(WarmData.of_tables(tables, options), options)


def trained(
    options: Options, tables: Tables, world: World = SINGLE_PROCESS, factors: Factors | None = None
) -> TrainedLearner:
    """Build the learner of a model that is trained by epochs in one process."""
    del world
    return TrainedLearner(WarmData.of_tables(tables, options), options, factors)


def build(data: WarmData, options: Options, factors: Factors | None = None) -> Any:
    """Build the model of a method.

    Arguments:
        factors: the frozen vectors that a method starts from; needed where ``Method.needs_factors``.
    """
    card = options.card
    if card.model is None:
        raise ValueError(f"build: {card.name} names no `model`.")
    make = load(card.model)
    if not card.needs_factors:
        return make(data, options.method, options.run.seed)
    if factors is None:
        raise ValueError(
            f"build: {card.name} needs `factors`. Train a `Factorisation` on the same data first."
        )
    return make(data, options.method, options.run.seed, factors)


class _WarmLearner:
    """What both kinds share: a model built from the warm items, in one process.

    Arguments:
        data: the warm items.
        options: of the run.
    """

    user_starts = None

    def __init__(self, data: WarmData, options: Options) -> None:
        self.data, self.options = data, options
        self.model: Any = None
        self.trained_users = data.rows.offsets.diff() > 0

    @property
    def num_pairs(self) -> int:
        """The number of training pairs."""
        return self.data.num_pairs

    def _ready(self) -> Any:
        if self.model is None:
            raise RuntimeError(
                f"{type(self).__name__}: the model is not there yet. Call `prepare` first."
            )
        return self.model

    @torch.no_grad()
    def scorer(
        self,
        features: ItemFeatures,
        items: Tensor,
        mask: Tensor,
        *,
        max_users: int = 0,  # noqa: ARG002
    ) -> ScoreBlock:
        """Return a function from users (u,) to scores (u, C)."""
        score: ScoreBlock = self._ready().scorer(features.rows(items), mask[items])
        return score

    def _restore(
        self, path: Path, load_tensors: Callable[[dict[str, Tensor]], Any]
    ) -> dict[str, Any]:
        """Hand the tensors of a file to a function; return the file's facts.

        Raises:
            DataError: the tensors do not fit the run.
        """
        state, facts = load_state(path, self.data.device)
        try:
            load_tensors(state)
        except (RuntimeError, KeyError, ValueError) as error:
            raise DataError(
                f"{path}: does not fit the run ({error}). Was it written by another version?"
            ) from None
        return facts


class ClosedFormLearner(_WarmLearner):
    """A closed form in a run: fitted by `prepare`."""

    def prepare(self, after_epoch: Callable[[int, float], None] | None = None) -> None:  # noqa: ARG002
        """Fit the model."""
        if self.model is None:
            self.model = build(self.data, self.options)

    def train_epoch(
        self,
        epoch: int,  # noqa: ARG002
        on_step: Callable[[], None] = lambda: None,  # noqa: ARG002
    ) -> dict[str, float]:
        """Raise: there is nothing to train.

        Raises:
            RuntimeError: always.
        """
        raise RuntimeError(f"{self.options.run.model} is fitted in closed form: it has no epochs.")

    def save(self, path: Path, facts: dict[str, Any], *, weights_only: bool = False) -> None:  # noqa: ARG002
        """Write the facts; the model follows from the data."""
        save_state(path, {}, facts)

    def load(self, path: Path, *, weights_only: bool = False) -> dict[str, Any]:  # noqa: ARG002
        """Return the facts of a file; the model is fitted from the data again."""
        return load_state(path, self.data.device)[1]


class TrainedLearner(_WarmLearner):
    """A model trained by epochs, with the stage that it is in: its factors in training, and then itself.

    Arguments:
        factors: trained already, where another run on the same data has done so; None trains them.

    Attributes:
        stage: "factors" or "model".
    """

    def __init__(self, data: WarmData, options: Options, factors: Factors | None = None) -> None:
        super().__init__(data, options)
        self.factorisation: Factorisation | None = None
        if options.card.needs_factors and factors is None:
            self.factorisation = Factorisation(data, options.method, options.run.seed)
        else:
            self.model = build(data, options, factors)

    @property
    def stage(self) -> str:
        """What is trained now."""
        return "factors" if self.model is None else "model"

    def prepare(self, after_epoch: Callable[[int, float], None] | None = None) -> None:
        """Train the factors to their end, where there are any, and build the model on them."""
        if self.factorisation is None or self.model is not None:
            return
        while not self.factorisation.done:
            loss = self.factorisation.train_epoch()
            if after_epoch:
                after_epoch(self.factorisation.epoch, loss)
        self.model = build(self.data, self.options, self.factorisation.result())
        self.factorisation = None

    def train_epoch(
        self,
        epoch: int,
        on_step: Callable[[], None] = lambda: None,  # noqa: ARG002
    ) -> dict[str, float]:
        """Train the model for an epoch."""
        means: dict[str, float] = self._ready().train_epoch(epoch)
        return means

    # --- files ------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Tensor]:
        """Return the stage and everything that a later epoch depends on."""
        trained_part: Any = self.factorisation if self.model is None else self.model
        return {f"{self.stage}.{name}": x for name, x in trained_part.state_dict().items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take back the tensors of `state_dict`."""
        if any(name.startswith("factors.") for name in state):
            if self.factorisation is None:
                raise ValueError(
                    "TrainedLearner: the state is of the factors, which are trained already."
                )
            self.factorisation.load_state_dict(_strip_prefix(state, "factors."))
            return
        if self.factorisation is not None:  # its frozen factors are in the state
            empty = Factors(*(self.factorisation.net[name].detach() for name in ("user", "item")))
            self.model, self.factorisation = build(self.data, self.options, empty), None
        self._ready().load_state_dict(_strip_prefix(state, "model."))

    def save(self, path: Path, facts: dict[str, Any], *, weights_only: bool = False) -> None:
        """Write the weights, or everything that a later epoch depends on."""
        state = dict(self._ready().net.state_dict()) if weights_only else self.state_dict()
        save_state(path, state, facts)

    def load(self, path: Path, *, weights_only: bool = False) -> dict[str, Any]:
        """Take back a file of `save`; return its facts."""
        load_tensors = (
            (lambda state: self._ready().net.load_state_dict(state))
            if weights_only
            else self.load_state_dict
        )
        return self._restore(path, load_tensors)


def _strip_prefix(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): x for name, x in state.items() if name.startswith(prefix)}
