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
from milk_recsys.methods.milk.batches import (
    TripleBatch,
    gather_batch,
    gather_static,
    prepared_rows,
)
from milk_recsys.methods.milk.captured import CapturedSteps
from milk_recsys.methods.milk.compiled import CompiledFunction, check_compiler, step_gradients
from milk_recsys.methods.milk.fused import compiles
from milk_recsys.methods.milk.fused_step import FusedStep
from milk_recsys.methods.milk.lazy_adam import LazyAdam
from milk_recsys.methods.milk.model import Recommender, build_model
from milk_recsys.methods.milk.objective import (
    Terms,
    batch_sums,
    coefficients,
    environments,
    objective,
)
from milk_recsys.methods.milk.triples import epoch_triples

__all__ = ["Learner", "check_learner", "milk_learner"]


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
        # Whether this process has the rows of exactly the users whose pairs it has.
        self.owns_users = tables.blocks is not None and own.user_table == "sharded"
        self.seed, self.autocast = options.run.seed, options.run.dtype == "bfloat16"
        by_torch = own.kernels == "compiled"  # torch.compile; `compiled` stands for Numba.
        buffer_rows = 0 if by_torch else 2 * own.batch_size
        self.prepared = prepared_rows(model, tables, buffer_rows=buffer_rows)
        self.device = model.users.weight.device
        self.compiled = compiled = not by_torch and compiles(own, options.run.dtype, self.device)
        self.gather: Callable[..., TripleBatch] = (
            gather_batch if self.device.type == "cpu" else gather_static
        )
        self.lazy = None
        if model.shards is not None:
            self.lazy = model.shards.optimiser  # It makes its steps inside backward.
        elif own.optimiser == "lazy_adam":
            self.lazy = LazyAdam(model.users.weight, own.lr, compiled=compiled)
        self.encoders = list(model.encoders.parameters())
        dense = self.encoders if self.lazy else [model.users.weight, *self.encoders]
        self.adam = torch.optim.Adam(
            dense, lr=own.lr, fused=True, capturable=self.device.type == "cuda"
        )
        # Adam creates its state at the first step. Create it here, so that `load`
        # can fill it before.
        for p in dense:
            zeros = {
                name: torch.zeros_like(p, requires_grad=False) for name in ("exp_avg", "exp_avg_sq")
            }
            self.adam.state[p] = {
                "step": torch.zeros((), dtype=torch.float32, device=p.device),
                **zeros,
            }
        self.gradients: CompiledFunction | None = None
        if by_torch:
            self.gradients = CompiledFunction(
                step_gradients(model, tables, self.prepared, own, self.autocast)
            )
            if isinstance(self.lazy, LazyAdam):
                self.lazy.static = True
                self.lazy.changed_rows = CompiledFunction(self.lazy.changed_rows)
        self.fused = None
        if compiled:
            self.fused = FusedStep(
                model, tables, self.prepared, own, world,
                lazy=self.lazy, adam=self.adam, owns_users=self.owns_users,
            )  # fmt: skip
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
        """Make a training step and add its terms to `totals`; arguments are those of `step_on`."""
        size = len(users) if sizes is None else sum(sizes)
        self.totals += size * self.step_on(users, positives, negatives, weights, sizes)

    def step_on(
        self,
        users: Tensor,
        positives: Tensor,
        negatives: Tensor,
        weights: Tensor,
        sizes: list[int] | None = None,
    ) -> Tensor:
        """Make a training step on a batch.

        Arguments:
            users, positives, negatives: ids of the whole batch (B,), equal on all ranks, of which
                each rank computes its part; or, with `sizes`, of this rank's part alone.
            weights: (E, M) fusion weights.
            sizes: number of triples of each rank.

        Returns:
            the whole batch's `Terms` as one tensor (5,), float64, detached and on the device.
        """
        options, all_users, whole = self.options, users, None
        if self.gradients is not None:
            return self._compiled_step(self.gradients, users, positives, negatives, weights)
        if sizes is None:
            part, sizes = self.world.shard(len(users)), self.world.sizes(len(users))
            whole = None if self.world.size == 1 else positives
            users, positives, negatives = users[part], positives[part], negatives[part]
        else:
            all_users, whole = self._gather_ids(users, positives, sizes)
        if self.fused is not None:
            rows = users if self.model.shards is not None else self._rows(users)
            terms, grad = self.fused(rows, positives, negatives, weights, whole, sum(sizes))
            if grad is not None:
                self._update_users(all_users, grad, sizes)
            if self.lazy:
                self.fused.step_encoders()
            else:
                self.adam.step()
            self._zero_user_grad(all_users)
            return terms
        batch = self.gather(self.tables, self.prepared, positives, negatives, whole)
        u = self._look_up(users)
        for p in self.encoders:
            p.grad = None
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.autocast):
            sums = batch_sums(self.model, u, batch, weights, options)
        # The objective is a function of sums over the whole batch. Its gradient with respect
        # to them gives each rank the coefficients of its own sums, so the total gradient
        # over ranks is exact.
        terms, gradient = self._objective(self.world.sum(sums), sum(sizes))
        sums.backward(gradient)  # type: ignore[no-untyped-call]
        self.world.sum_gradients(self.encoders)
        if self.model.shards is None:
            self._update_users(all_users, u.grad, sizes)
        self.adam.step()
        self._zero_user_grad(all_users)
        return terms.double()

    def _compiled_step(self, gradients: CompiledFunction, users: Tensor, *others: Tensor) -> Tensor:
        """Make a step with gradients of compiled functions; arguments are those of `step_on`."""
        table = self.model.users.weight.detach()
        terms, by_users, *by_encoders = gradients(table, self._rows(users), *others)
        for p, grad in zip(self.encoders, by_encoders, strict=True):
            p.grad = grad
        self._update_users(users, by_users, [len(users)])
        self.adam.step()
        self._zero_user_grad(users)
        return terms

    def _gather_ids(
        self, users: Tensor, positives: Tensor, sizes: list[int]
    ) -> tuple[Tensor, Tensor | None]:
        """Collect the ids of the whole batch that a step needs from all ranks.

        Returns:
            the users whose rows this rank updates, and the positives of the whole batch; None if
            the objective does not need them.
        """
        # A replicated table is updated on every rank. The alignment weights an item by its number
        # of copies in the whole batch.
        needed = [] if self.owns_users else [users]
        needed += [positives] if self.options.aligns else []
        if not needed:
            return users, None
        ids = self.world.all_gather(torch.stack(needed, dim=1).int(), sizes)  # Ids are below 2^31.
        columns = ids.t().contiguous().long()
        return (
            users if self.owns_users else columns[0],
            columns[-1] if self.options.aligns else None,
        )

    def _look_up(self, users: Tensor) -> Tensor:
        """Return the users' rows of the table, (b, D)."""
        if self.model.shards is not None:
            u: Tensor = self.model.shards(users)
            return u
        # A leaf of the graph: ranks exchange the gradient of these rows, not that of a whole table.
        return self.model.users.weight.detach().index_select(0, self._rows(users)).requires_grad_()

    def _rows(self, users: Tensor) -> Tensor:
        """Return the users' rows in this rank's part of the table."""
        return users - self.model.first_user if self.owns_users else users

    def _objective(self, sums: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Return a whole batch's terms (5,), and the gradient of its loss by the sums (E + 3,)."""
        if self.options.regulariser != "parameters":
            return coefficients(sums, size, self.options)
        # The norm of all parameters is not a function of the sums: autograd adds its gradient.
        leaf = sums.detach().requires_grad_()
        terms = objective(leaf, size, self.model, self.options)
        terms.loss.backward()  # type: ignore[no-untyped-call]
        gradient = torch.zeros_like(leaf) if leaf.grad is None else leaf.grad
        return torch.stack(terms).detach(), gradient

    def _update_users(self, users: Tensor, grad: Tensor | None, sizes: list[int]) -> None:
        """Pass the gradient of the looked-up rows to the table's optimiser.

        Arguments:
            users: the users of the whole batch, or of this rank if it has the rows of its users.
            grad: the gradient of the rows that this rank looked up.
            sizes: number of triples of each rank.
        """
        if grad is None:
            raise RuntimeError("Learner: the objective does not depend on the users.")
        if not self.owns_users:
            grad = self.world.all_gather(grad, sizes)
        weight = self.model.users.weight
        if self.lazy:
            self.lazy.update(self._rows(users), grad)
            return
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
        weight.grad.index_add_(0, users, grad)

    def _zero_user_grad(self, users: Tensor) -> None:
        """Set the table's gradient to 0 again."""
        grad = self.model.users.weight.grad
        if grad is None:
            return
        # Only the norm of all parameters gives a gradient to rows that the batch did not look up.
        if self.options.regulariser == "parameters":
            grad.zero_()
        else:
            grad.index_fill_(0, users, 0)

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
        for name, p in self.model.named_parameters():
            state = self.lazy.tensors() if self.lazy else {}
            if p in self.adam.state:
                state = self.adam.state[p]
            tensors |= {f"optimiser.{name}.{key}": value for key, value in state.items()}
        return tensors

    def _sharded(self, names: Iterable[str]) -> list[str]:
        """Return the names of the tensors of which each rank has the rows of some users."""
        if self.user_starts is None:
            return []
        moments = {f"optimiser.users.weight.{key}" for key in ("exp_avg", "exp_avg_sq")}
        return [name for name in names if name in {"users.weight", "model.users.weight", *moments}]


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
