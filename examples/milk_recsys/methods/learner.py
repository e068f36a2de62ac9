"""Learners for models that are built from the warm items.

`ClosedFormLearner` runs a `ClosedForm`, `TrainedLearner` a `TrainedModel` (see `contract.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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

__all__ = [
    "ClosedFormLearner",
    "TrainedLearner",
    "build",
    "closed_form",
    "make_learner",
    "restored",
    "trained",
]


def make_learner(
    options: Options, tables: Tables, world: World = SINGLE_PROCESS, factors: Factors | None = None
) -> Learner:
    """Build the learner of the method that the options select."""
    learner: Learner = load(options.definition.learner)(options, tables, world, factors)
    return learner


def closed_form(
    options: Options, tables: Tables, world: World = SINGLE_PROCESS, factors: Factors | None = None
) -> ClosedFormLearner:
    """Build the learner of a method that is fitted in closed form."""
    del world, factors  # A closed form is fitted in one process and needs no factors.
    return ClosedFormLearner(WarmData.of_tables(tables, options), options)


def trained(
    options: Options, tables: Tables, world: World = SINGLE_PROCESS, factors: Factors | None = None
) -> TrainedLearner:
    """Build the learner of a method that is trained by epochs, in one process."""
    del world
    return TrainedLearner(WarmData.of_tables(tables, options), options, factors)


def restored(data: WarmData, options: Options, weights: Path) -> ClosedFormLearner | TrainedLearner:
    """Return the learner of a finished run: fitted again, or with the weights of its best epoch.

    Arguments:
        weights: the file model.safetensors of the run.

    Raises:
        DataError: the file is damaged, or does not fit the data and the options.
    """
    if not options.definition.trains:
        closed = ClosedFormLearner(data, options)
        closed.prepare()
        return closed
    learner = TrainedLearner(data, options)
    learner.build_on_placeholders()
    learner.load(weights, weights_only=True)
    learner.model.net.eval()
    return learner


def build(data: WarmData, options: Options, factors: Factors | None = None) -> Any:
    """Build the model of the method that the options select.

    Arguments:
        data: the warm items.
        options: options of the run.
        factors: frozen vectors that the model starts from; required if ``Method.needs_factors``.

    Raises:
        ValueError: the method declares no model, or the factors are missing.
    """
    method = options.definition
    if method.model is None:
        raise ValueError(
            f"build: the method {method.name} declares no `model`. Call `make_learner` instead."
        )
    make = load(method.model)
    if not method.needs_factors:
        return make(data, options.method, options.run.seed)
    if factors is None:
        raise ValueError(
            f"build: {method.name} needs `factors`. Train a `Factorisation` on the same data first."
        )
    return make(data, options.method, options.run.seed, factors)


class _WarmLearner:
    """Common part of both learners: a model built from the warm items, in one process.

    Arguments:
        data: the warm items.
        options: options of the run.
    """

    def __init__(self, data: WarmData, options: Options) -> None:
        self.data, self.options = data, options
        self.model: Any = None
        self.trained_users = data.trained_users

    @property
    def user_starts(self) -> Sequence[int] | None:
        """None: users are not divided over processes."""
        return None

    @property
    def chosen(self) -> Mapping[str, Any]:
        """The options that the method chose itself; most methods choose none."""
        return {}

    @property
    def num_pairs(self) -> int:
        """The number of training pairs."""
        return self.data.num_pairs

    def _ready(self) -> Any:
        if self.model is None:
            raise RuntimeError(
                f"{type(self).__name__}: the model is not built yet. Call `prepare` first."
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
        """Return a function from user ids (u,) to the scores of the items, (u, C)."""
        return self._score_block(features, items, mask)

    def _score_block(self, features: ItemFeatures, items: Tensor, mask: Tensor) -> ScoreBlock:
        """Return the result of `scorer`."""
        score: ScoreBlock = self._ready().scorer(features.rows(items), mask[items])
        return score

    def _restore(
        self,
        path: Path,
        load_tensors: Callable[[dict[str, Tensor]], Any],
        rows: Mapping[str, slice] | None = None,
    ) -> dict[str, Any]:
        """Pass the tensors of a file to `load_tensors`; return the file's facts.

        Arguments:
            rows: the rows of tensors that are read, as in `load_state`.

        Raises:
            DataError: `load_tensors` rejects the tensors.
        """
        state, facts = load_state(path, self.data.device, rows)
        try:
            load_tensors(state)
        except (RuntimeError, KeyError, ValueError) as error:
            raise DataError(
                f"{path}: does not fit the run ({error}). Was it written by another version?"
            ) from None
        return facts


class ClosedFormLearner(_WarmLearner):
    """Learner of a closed form, which `prepare` fits."""

    def prepare(self, after_epoch: Callable[[int, float], None] | None = None) -> None:  # noqa: ARG002
        """Fit the model."""
        if self.model is None:
            self.model = build(self.data, self.options)

    def save(self, path: Path, facts: dict[str, Any], *, weights_only: bool = False) -> None:  # noqa: ARG002
        """Write only the facts: the model is fitted again when it is needed."""
        save_state(path, {}, facts)

    def load(self, path: Path, *, weights_only: bool = False) -> dict[str, Any]:  # noqa: ARG002
        """Return the facts of a file; `prepare` fits the model from the data again."""
        return load_state(path, self.data.device)[1]


class TrainedLearner(_WarmLearner):
    """Learner of a model that is trained by epochs.

    A method that needs frozen factors has two stages: first `prepare` trains the factors, then the
    model is built on them and trained. A saved file holds the tensors of the current stage.

    Arguments:
        data: the warm items.
        options: options of the run.
        factors: factors that another run trained on the same data; None: `prepare` trains them if
            the method needs any.
    """

    def __init__(self, data: WarmData, options: Options, factors: Factors | None = None) -> None:
        super().__init__(data, options)
        # The factorisation exists only while it trains, and the model only after it.
        self.factorisation: Factorisation | None = None
        if options.definition.needs_factors and factors is None:
            self.factorisation = Factorisation(data, options.method, options.run.seed)
        else:
            self.model = build(data, options, factors)

    @property
    def stage(self) -> str:
        """The part that is in training, "factors" or "model"."""
        return "factors" if self.model is None else "model"

    def prepare(self, after_epoch: Callable[[int, float], None] | None = None) -> None:
        """Train the factors, if the method needs any, and build the model on them."""
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
        """Train the model for one epoch."""
        means: dict[str, float] = self._ready().train_epoch(epoch)
        return means

    # --- files ------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Tensor]:
        """Return every tensor that later epochs depend on, named "<stage>.<tensor>"."""
        trained_part: Any = self.factorisation if self.model is None else self.model
        return {f"{self.stage}.{name}": x for name, x in trained_part.state_dict().items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Load the tensors that `state_dict` returned.

        Raises:
            ValueError: the state is of the factors, but the model is built already.
        """
        if any(name.startswith("factors.") for name in state):
            if self.factorisation is None:
                raise ValueError(
                    "TrainedLearner: the state is of factors in training, but this learner has its "
                    "factors already. Load the state into a learner built without `factors`."
                )
            self.factorisation.load_state_dict(_strip_prefix(state, "factors."))
            return
        self.build_on_placeholders()
        self._ready().load_state_dict(_strip_prefix(state, "model."))

    def build_on_placeholders(self) -> None:
        """Build the model, if it waits for its factors, on vectors of the right shape.

        A state that is loaded next overwrites them: the frozen factors are among its tensors.
        """
        if self.factorisation is not None:
            placeholders = Factors(
                *(self.factorisation.net[name].detach() for name in ("user", "item"))
            )
            self.model, self.factorisation = build(self.data, self.options, placeholders), None

    def save(self, path: Path, facts: dict[str, Any], *, weights_only: bool = False) -> None:
        """Write the weights, or everything that later epochs depend on, to a file."""
        state = dict(self._ready().net.state_dict()) if weights_only else self.state_dict()
        save_state(path, state, facts)

    def load(self, path: Path, *, weights_only: bool = False) -> dict[str, Any]:
        """Load a file that `save` wrote; return its facts."""
        # The weights alone are loaded into the network; a full state also restores the optimiser.
        load_tensors = (
            (lambda state: self._ready().net.load_state_dict(state))
            if weights_only
            else self.load_state_dict
        )
        return self._restore(path, load_tensors)


def _strip_prefix(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names start with the prefix, named without it."""
    return {name.removeprefix(prefix): x for name, x in state.items() if name.startswith(prefix)}
