"""Training of MILK: steps on batches, on one process or several, and the checkpointed state."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from importlib.util import find_spec
from itertools import starmap
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor

from milk_recsys.base.checkpoint import Destination, Streamed, load_into, save_state_of_ranks
from milk_recsys.base.distributed import SINGLE_PROCESS, World, stream_rows
from milk_recsys.base.errors import DataError
from milk_recsys.base.random_state import epoch_seed
from milk_recsys.catalogue.features import ItemFeatures
from milk_recsys.catalogue.tables import Tables
from milk_recsys.config.options import OptionError, Options
from milk_recsys.methods.contract import ScoreBlock
from milk_recsys.methods.factors import Factors
from milk_recsys.methods.milk import MilkOptions
from milk_recsys.methods.milk.captured import CapturedSteps
from milk_recsys.methods.milk.compiled import check_compiler
from milk_recsys.methods.milk.fused import compiles
from milk_recsys.methods.milk.model import Recommender, build_model
from milk_recsys.methods.milk.objective import (
    Terms,
    environments,
)
from milk_recsys.methods.milk.step import Step
from milk_recsys.methods.milk.triples import epoch_triples

__all__ = ["Learner", "check_learner", "milk_learner"]


class Learner:
    """A model with its optimisers.

    Arguments:
        model: changed in place.
        tables: the training data.
        options: the objective, the optimiser and the precision.
        world: the processes that share each batch. All of them have the same weights.

    Raises:
        ValueError: the tables have blocks of users for other processes.
    """

    def __init__(
        self, model: Recommender, tables: Tables, options: Options, world: World = SINGLE_PROCESS
    ) -> None:
        own: MilkOptions = options.method
        if tables.blocks is not None and tables.blocks.world != world:
            raise ValueError(
                f"Learner: the tables have the blocks of {tables.blocks.world}, and `world` is "
                f"{world}. Build the tables with the same `world`."
            )
        self.model, self.tables, self.options, self.world = model, tables, own, world
        self.seed = options.run.seed
        self.step_on = step = Step(model, tables, options, world)
        self.compiled, self.owns_users = step.compiled, step.owns_users
        self.device = model.users.weight.device
        # Reads of mapped files cannot be captured. Steps on several ranks are not captured either.
        captures = self.device.type == "cuda" and world.size == 1 and not tables.features.mapped
        self.steps: Callable[[Iterable[tuple[Any, ...]]], Iterator[None]] = (
            CapturedSteps(self.add_step) if captures else partial(starmap, self.add_step)
        )
        # Sums of the terms over the triples of an epoch; a graph adds to this address.
        self.totals = torch.zeros(len(Terms._fields), dtype=torch.float64, device=self.device)

    # --- the protocol of `methods/contract.py` ----------------------------------------------------

    @property
    def num_pairs(self) -> int:
        """The number of training pairs."""
        return self.tables.num_pairs

    @property
    def trained_users(self) -> Tensor:
        """Mask of the users with a training pair, (num_users,) bool."""
        return self.model.trained_users

    @property
    def chosen(self) -> dict[str, Any]:
        """No option is chosen on the training items."""
        return {}

    @property
    def user_starts(self) -> Sequence[int] | None:
        """The first user of each rank, then the number of users; None without a sharded table."""
        if self.model.shards is not None:
            return self.model.shards.starts
        blocks = self.tables.blocks
        return None if blocks is None or not self.owns_users else blocks.user_starts

    def prepare(self, after_epoch: Callable[[int, float], None] | None = None) -> None:
        """Do nothing: MILK starts from random vectors."""

    def scorer(
        self, features: ItemFeatures, items: Tensor, mask: Tensor, *, max_users: int = 0
    ) -> ScoreBlock:
        """Return a function from users (u,) to scores (u, C); see `Recommender.scorer`."""
        return self.model.scorer(features, items, mask, max_users=max_users)

    def train_epoch(
        self, epoch: int, on_step: Callable[[], None] = lambda: None
    ) -> dict[str, float]:
        """Train on every pair once, each with a newly sampled negative item.

        The last batch may be smaller than the others.

        Returns:
            means over triples of the loss and its terms.
        """
        self.model.train()
        sums = self.epoch_sums(epoch, on_step)
        self.model.eval()
        return dict(zip(Terms._fields, (sums / self.num_pairs).tolist(), strict=True))

    def epoch_sums(self, epoch: int, on_step: Callable[[], None]) -> Tensor:
        """Make the steps of an epoch, without waiting for a GPU.

        Returns:
            sums of the terms over triples, (5,), float64.
        """
        # Random numbers depend on the seed and the epoch alone, so that a resumed run repeats them.
        host = torch.Generator().manual_seed(epoch_seed(self.seed, epoch))
        self.totals.zero_()
        size = self.options.batch_size
        chunks = epoch_triples(
            self.tables,
            size,
            self.seed,
            epoch,
            host,
            shared=self.options.shared_negatives,
            compiled=self.compiled,
        )
        for chunk in chunks:
            weights = self.epoch_weights(len(chunk), host)
            for _ in self.steps(
                (*ids, row) if sizes is None else (*ids, row, sizes)
                for (*ids, sizes), row in zip(chunk, weights, strict=True)
            ):
                on_step()
        return self.totals.clone()

    def epoch_weights(self, steps: int, generator: torch.Generator) -> Tensor:
        """Draw the environments of all steps at once, because a call of `sample` costs some 65 us.

        Returns:
            (steps, E, M) fusion weights; only the uniform row for a model without environments.
        """
        envs = environments(len(self.tables.modalities), self.options, self.seed)
        uniform = self.model.uniform
        if envs is None:
            return uniform.expand(steps, *uniform.shape)
        weights = envs.sample((steps,), generator=generator, dtype=uniform.dtype)
        if uniform.device.type == "cpu":
            return weights
        return weights.pin_memory().to(uniform.device, non_blocking=True)

    # --- a step -----------------------------------------------------------------------------------

    def add_step(
        self,
        users: Tensor,
        positives: Tensor,
        negatives: Tensor,
        weights: Tensor,
        sizes: list[int] | None = None,
    ) -> None:
        """Make a training step and add its terms to `totals`; arguments are those of `Step`."""
        size = len(users) if sizes is None else sum(sizes)
        self.totals += size * self.step_on(users, positives, negatives, weights, sizes)

    # --- files ------------------------------------------------------------------------------------

    def save(self, path: Path, facts: dict[str, Any], *, weights_only: bool = False) -> None:
        """Write the state that later steps depend on, or the weights alone.

        Every rank must call it; rank 0 writes.
        """
        tensors: dict[str, Tensor | Streamed] = {**self._tensors(weights_only)}
        for name in self._sharded(tensors):
            local, starts = cast(Tensor, tensors[name]), self.user_starts or ()
            shape = (len(self.trained_users), *local.shape[1:])
            rows = stream_rows(local.detach(), starts, self.world.rank)
            tensors[name] = Streamed(shape, local.dtype, rows)
        save_state_of_ranks(path, tensors, facts, self.world)

    def load(self, path: Path, *, weights_only: bool = False) -> dict[str, Any]:
        """Load the state that `save` wrote, on any number of ranks, and return its facts."""
        tensors: dict[str, Tensor | Destination] = {**self._tensors(weights_only)}
        for name in self._sharded(tensors):
            tensors[name] = Destination(cast(Tensor, tensors[name]), self.model.first_user)
        # Files of older versions have no names of modalities.
        names = [name for name in tensors if name.endswith("modality_names")]
        return load_into(path, tensors, optional=names)

    def _tensors(self, weights_only: bool) -> dict[str, Tensor]:
        """Return the tensors of a file by name. They are not copies."""
        weights = self.model.state_dict()
        if weights_only:
            return weights
        tensors = {f"model.{name}": tensor for name, tensor in weights.items()}
        state = self.step_on.state()
        return tensors | {f"optimiser.{name}": tensor for name, tensor in state.items()}

    def _sharded(self, names: Iterable[str]) -> list[str]:
        """Return the names of the tensors of which each rank has the rows of some users."""
        if self.user_starts is None:
            return []
        moments = {f"optimiser.users.weight.{key}" for key in ("exp_avg", "exp_avg_sq")}
        return [name for name in names if name in {"users.weight", "model.users.weight", *moments}]


def check_learner(options: Options, device: torch.device, world: World) -> None:
    """Check, before any file is written, that a `Learner` can run with the options.

    Raises:
        DataError: the options require compiled loops or TorchRec, which are not available.
        OptionError: the options do not support this number of processes.
    """
    own: MilkOptions = options.method
    if own.kernels == "compiled":
        check_compiler(own, device, world)
    else:
        compiles(own, options.run.dtype, device)
    if world.size > 1 and own.regulariser == "parameters":
        raise OptionError(
            "--regulariser parameters works in one process only; batch and none work in several."
        )
    # With blocks of users, each process has the rows of its own users, and needs no TorchRec.
    if own.user_table == "sharded" and own.user_blocks is None:
        if not dist.is_initialized():
            raise OptionError(
                "--user-table sharded spreads the table over processes. Start with torchrun, or "
                "give --user-blocks."
            )
        if find_spec("torchrec") is None:
            raise DataError(
                "--user-table sharded needs TorchRec, which is not installed. "
                "Run `make distributed`, or give --user-blocks, with which it is not needed."
            )


def milk_learner(
    options: Options, tables: Tables, world: World = SINGLE_PROCESS, factors: Factors | None = None
) -> Learner:
    """Build the learner of MILK or an ablation, on the training view of the tables.

    Arguments:
        factors: frozen vectors from which other methods start; not used here.
    """
    del factors
    view = tables.training_view()
    return Learner(build_model(options, view), view, options, world)
