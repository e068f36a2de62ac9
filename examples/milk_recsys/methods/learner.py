"""A baseline in a run: built from tables, after its factors where it needs them; saved and loaded as a whole."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from milk_recsys.base.checkpoint import load_state, save_state
from milk_recsys.base.errors import DataError
from milk_recsys.catalogue.features import ItemFeatures
from milk_recsys.config.method_options import NEEDS_FACTORS
from milk_recsys.config.options import Options
from milk_recsys.methods.aldi import Aldi
from milk_recsys.methods.ccfcrec import Ccfcrec
from milk_recsys.methods.clcrec import Clcrec
from milk_recsys.methods.content_knn import ContentKnn
from milk_recsys.methods.dgmrec import Dgmrec
from milk_recsys.methods.dropoutnet import DropoutNet
from milk_recsys.methods.duif import Duif
from milk_recsys.methods.factors import Factorisation, Factors
from milk_recsys.methods.gar import Gar
from milk_recsys.methods.gorec import Gorec
from milk_recsys.methods.heater import Heater
from milk_recsys.methods.i3mrec import I3mrec
from milk_recsys.methods.keep import Keep
from milk_recsys.methods.knn import Knn
from milk_recsys.methods.marec import Marec
from milk_recsys.methods.micro import Micro
from milk_recsys.methods.mtpr import Mtpr
from milk_recsys.methods.random_order import RandomOrder
from milk_recsys.methods.ridge import Ridge
from milk_recsys.methods.sibrar import Sibrar
from milk_recsys.methods.warm import Baseline, ScoreBlock, WarmData

__all__ = ["CLASSES", "BaselineLearner", "build"]

CLASSES: dict[str, Callable[..., Baseline]] = {
    "duif": Duif,
    "micro": Micro,
    "dropoutnet": DropoutNet,
    "mtpr": Mtpr,
    "heater": Heater,
    "clcrec": Clcrec,
    "ccfcrec": Ccfcrec,
    "gar": Gar,
    "gorec": Gorec,
    "content_knn": ContentKnn,
    "random": RandomOrder,
    "knn": Knn,
    "marec": Marec,
    "ridge": Ridge,
    "sibrar": Sibrar,
    "i3mrec": I3mrec,
    "dgmrec": Dgmrec,
    "aldi": Aldi,
    "keep": Keep,
}


def build(data: WarmData, options: Options, factors: Factors | None = None) -> Baseline:
    """Build the baseline that ``options.model`` names.

    Arguments:
        factors: what a method on frozen factors takes them from; it must be given to those in `NEEDS_FACTORS`.
    """
    make = CLASSES[options.model]
    if options.model not in NEEDS_FACTORS:
        return make(data, options)
    if factors is None:
        raise ValueError(f"build: {options.model} needs `factors`. Train a `Factorisation` on the same data first.")
    return make(data, options, factors)


class BaselineLearner:
    """A baseline with the stage it is in: its factors in training, and then itself.

    Arguments:
        data: the warm items.
        options: of the run.
        factors: trained already, where another run on the same data has done so; None trains them.

    Attributes:
        stage: "factors" or "model".
    """

    def __init__(self, data: WarmData, options: Options, factors: Factors | None = None) -> None:
        self.data, self.options = data, options
        self.factorisation: Factorisation | None = None
        self.baseline: Baseline | None = None
        if options.model in NEEDS_FACTORS and factors is None:
            self.factorisation = Factorisation(data, options)
        else:
            self.baseline = build(data, options, factors)
        self.trained_users = data.rows.offsets.diff() > 0

    @property
    def stage(self) -> str:
        """What is trained now."""
        return "factors" if self.baseline is None else "model"

    def pretrain(self, after_epoch: Callable[[int, float], None] | None = None) -> None:
        """Train the factors to their end, where there are any, and build the baseline on them."""
        if self.factorisation is None or self.baseline is not None:
            return
        while not self.factorisation.done:
            loss = self.factorisation.train_epoch()
            if after_epoch:
                after_epoch(self.factorisation.epoch, loss)
        self.baseline = build(self.data, self.options, self.factorisation.result())
        self.factorisation = None

    def _ready(self) -> Baseline:
        if self.baseline is None:
            raise RuntimeError("BaselineLearner: the factors are not trained yet. Call `pretrain` first.")
        return self.baseline

    def train_epoch(self, epoch: int) -> dict[str, float]:
        """Train the baseline for an epoch."""
        return self._ready().train_epoch(epoch)

    @torch.no_grad()
    def scorer(self, features: ItemFeatures, items: Tensor, mask: Tensor) -> ScoreBlock:
        """Return what scores items (C,) for users; `mask` (num_items, M) says what may be used of them."""
        return self._ready().scorer(features.rows(items), mask[items])

    # --- files --------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Tensor]:
        """Return the stage and everything that a later epoch depends on."""
        part: Any = self.factorisation if self.baseline is None else self.baseline
        return {f"{self.stage}.{name}": x for name, x in part.state_dict().items()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take back what `state_dict` gave."""
        if any(name.startswith("factors.") for name in state):
            if self.factorisation is None:
                raise ValueError("BaselineLearner: the state is of the factors, which are trained already.")
            self.factorisation.load_state_dict(_part(state, "factors."))
            return
        if self.factorisation is not None:  # its frozen factors are in the state
            empty = Factors(*(self.factorisation.net[name].detach() for name in ("user", "item")))
            self.baseline, self.factorisation = build(self.data, self.options, empty), None
        self._ready().load_state_dict(_part(state, "model."))

    def save(self, path: Path, facts: dict[str, Any], *, weights_only: bool = False) -> None:
        """Write the weights, or everything that a later epoch depends on."""
        state = dict(self._ready().net.state_dict()) if weights_only else self.state_dict()
        save_state(path, state, facts)

    def load(self, path: Path, *, weights_only: bool = False) -> dict[str, Any]:
        """Take back what `save` wrote; return its facts."""
        state, facts = load_state(path, self.data.device)
        try:
            self._ready().net.load_state_dict(state) if weights_only else self.load_state_dict(state)
        except (RuntimeError, KeyError, ValueError) as error:
            raise DataError(f"{path}: does not fit the run ({error}). Was it written by another version?") from None
        return facts


def _part(state: dict[str, Tensor], head: str) -> dict[str, Tensor]:
    return {name.removeprefix(head): x for name, x in state.items() if name.startswith(head)}
