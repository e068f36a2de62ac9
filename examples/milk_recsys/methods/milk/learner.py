"""A model that learns: one step on a batch, on one process or many, and everything that a later step depends on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor

from milk_recsys.base.checkpoint import Rows, Streamed, load_into, save_state
from milk_recsys.base.distributed import ALONE, World
from milk_recsys.base.errors import DataError
from milk_recsys.catalogue.tables import Tables
from milk_recsys.config.method_options import BASELINES
from milk_recsys.config.options import OptionError, Options
from milk_recsys.methods.milk.batches import CompiledGather, gather_batch, gather_static, prepared_rows
from milk_recsys.methods.milk.captured import CapturedStep
from milk_recsys.methods.milk.fused import compiles, fused_sums, objective_gradient
from milk_recsys.methods.milk.lazy_adam import LazyAdam
from milk_recsys.methods.milk.model import Batch, Recommender, batch_sums, objective

__all__ = ["Learner", "check_learner"]


def check_learner(options: Options, device: torch.device, world: World) -> None:
    """Raise what would keep a `Learner` from working, before anything is written.

    Raises:
        DataError: compiled loops, or TorchRec, are asked for and cannot be had.
        OptionError: the options do not go with the number of processes.
    """
    if options.model in BASELINES:
        if world.size > 1:
            raise OptionError(f"--model {options.model} trains in one process; start it without torchrun.")
        return
    compiles(options, device)
    if world.size > 1 and options.regulariser == "parameters":
        raise OptionError("--regulariser parameters works in one process only; batch and none work in several.")
    if options.user_table == "sharded":
        if not dist.is_initialized():
            raise OptionError("--user-table sharded spreads the table over processes: start with torchrun.")
        if find_spec("torchrec") is None:
            raise DataError("--user-table sharded needs TorchRec, which is not installed. Run `make distributed`.")


class Learner:
    """A model with its optimisers.

    Arguments:
        model: changed in place.
        tables: what it learns from.
        options: the objective, the optimiser and the precision.
        world: the processes that share a batch; all have the same weights.
    """

    def __init__(self, model: Recommender, tables: Tables, options: Options, world: World = ALONE) -> None:
        self.model, self.tables, self.options, self.world = model, tables, options, world
        self.prepared = prepared_rows(model, tables, most=2 * options.batch_size)
        self.device = model.users.weight.device
        compiled = compiles(options, self.device)
        self.sums = fused_sums if compiled else batch_sums
        self.gather: Callable[..., Batch] = gather_batch if self.device.type == "cpu" else gather_static
        if compiled:
            self.gather = CompiledGather(tables.features.num_items)
        self.lazy = None
        if model.shards is not None:
            self.lazy = model.shards.optimiser  # works in backward
        elif options.optimiser == "lazy_adam":
            self.lazy = LazyAdam(model.users.weight, options.lr, compiled=compiled)
        self.encoders = list(model.encoders.parameters())
        dense = self.encoders if self.lazy else [model.users.weight, *self.encoders]
        self.adam = torch.optim.Adam(dense, lr=options.lr, fused=True, capturable=self.device.type == "cuda")
        for p in dense:  # what Adam makes at its first step, so that a checkpoint has somewhere to go
            zeros = {name: torch.zeros_like(p, requires_grad=False) for name in ("exp_avg", "exp_avg_sq")}
            self.adam.state[p] = {"step": torch.zeros((), dtype=torch.float32, device=p.device), **zeros}
        captures = self.device.type == "cuda" and world.size == 1 and not tables.features.mapped
        self.step: Callable[..., Tensor] = CapturedStep(self.step_on) if captures else self.step_on

    def step_on(self, users: Tensor, positives: Tensor, negatives: Tensor, weights: Tensor) -> Tensor:
        """Learn from a batch.

        Arguments:
            users, positives, negatives: (B,) ids, the whole batch on every rank; each learns from its part.
            weights: (E, M) fusion weights.

        Returns:
            the whole batch's `Terms` as one tensor (5,), float64, detached and on the device.
        """
        part, size, options = self.world.part(len(users)), len(users), self.options
        whole = None if self.world.size == 1 else positives
        batch = self.gather(self.tables, self.prepared, positives[part], negatives[part], whole)
        u = self._look_up(users[part])
        for p in self.encoders:
            p.grad = None
        with torch.autocast(self.device.type, torch.bfloat16, enabled=options.dtype == "bfloat16"):
            sums = self.sums(self.model, u, batch, weights, options)
        terms, gradient = self._objective(self.world.sum(sums), size)
        sums.backward(gradient)  # type: ignore[no-untyped-call]
        self.world.sum_gradients(self.encoders)
        if self.model.shards is None:
            self._update_users(users, u)
        self.adam.step()
        self._forget(users)
        return terms.double()

    def _look_up(self, users: Tensor) -> Tensor:
        """Return rows of the table (b, D); leaves, since ranks exchange their gradient, not that of a table."""
        if self.model.shards is not None:
            found: Tensor = self.model.shards(users)
            return found
        return self.model.users.weight.detach().index_select(0, users).requires_grad_()

    def _objective(self, sums: Tensor, size: int) -> tuple[Tensor, Tensor]:
        """Return the terms (5,) of a whole batch and the gradient by its sums, with which each rank goes on."""
        if self.options.regulariser != "parameters":
            return objective_gradient(sums, size, self.options)
        leaf = sums.detach().requires_grad_()
        terms = objective(leaf, size, self.model, self.options)
        terms.loss.backward()  # type: ignore[no-untyped-call]
        return torch.stack(terms).detach(), leaf.grad if leaf.grad is not None else torch.zeros_like(leaf)

    def _update_users(self, users: Tensor, u: Tensor) -> None:
        """Hand the gradient of the looked-up rows to the optimiser of the table."""
        if u.grad is None:
            raise RuntimeError("Learner: the objective does not depend on the users.")
        grad, weight = self.world.join(u.grad, self.world.sizes(len(users))), self.model.users.weight
        if self.lazy:
            self.lazy.update(users, grad)
            return
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
        weight.grad.index_add_(0, users, grad)

    def _forget(self, users: Tensor) -> None:
        """Set the table's gradient back to 0, only where it is not, if nothing but look-ups has made it."""
        grad = self.model.users.weight.grad
        if grad is not None:
            grad.index_fill_(0, users, 0) if self.options.regulariser != "parameters" else grad.zero_()

    # --- files --------------------------------------------------------------------------------------------------------

    def save(self, path: Path, facts: dict[str, Any], *, weights_only: bool = False) -> None:
        """Write the model's weights, or everything that a later step depends on. Every rank calls it; rank 0 writes."""
        tensors: dict[str, Tensor | Streamed] = {**self._tensors(weights_only)}
        for name, key in self._sharded(tensors).items():
            shards, local = self.model.shards, tensors[name]
            if shards is not None:
                shape = (shards.num_users, *local.shape[1:])
                tensors[name] = Streamed(shape, local.dtype, shards.stream_rows(key))
        if self.world.writes:
            save_state(path, tensors, facts)
            return
        for name in sorted(tensors):  # as rank 0 writes them, those of one dtype by name
            part = tensors[name]
            for _ in part.blocks if isinstance(part, Streamed) else ():
                pass

    def load(self, path: Path, *, weights_only: bool = False) -> dict[str, Any]:
        """Take back what `save` wrote, on however many ranks; return its facts."""
        tensors: dict[str, Tensor | Rows] = {**self._tensors(weights_only)}
        for name in self._sharded(tensors):
            tensors[name] = Rows(cast(Tensor, tensors[name]), self.model.first_user)
        return load_into(path, tensors)

    def _tensors(self, weights_only: bool) -> dict[str, Tensor]:
        """Return tensors by name, not copies."""
        weights = self.model.state_dict()
        if weights_only:
            return weights
        found = {f"model.{name}": tensor for name, tensor in weights.items()}
        for name, p in self.model.named_parameters():
            state = self.adam.state[p] if p in self.adam.state else self.lazy.tensors() if self.lazy else {}
            found |= {f"optimiser.{name}.{key}": value for key, value in state.items()}
        return found

    def _sharded(self, names: Iterable[str]) -> dict[str, str]:
        """Return which tensors are this rank's rows of a sharded one, and what `ShardedUsers` calls them."""
        if self.model.shards is None:
            return {}
        known = {
            "users.weight": "weight",
            "model.users.weight": "weight",
            **{f"optimiser.users.weight.{key}": key for key in ("exp_avg", "exp_avg_sq")},
        }
        return {name: known[name] for name in names if name in known}
