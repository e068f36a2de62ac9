"""A training step in compiled loops: the objective of `fused.py`, and the optimisers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from milk_recsys.base.distributed import World
from milk_recsys.catalogue.tables import Tables
from milk_recsys.methods.milk import MilkOptions
from milk_recsys.methods.milk.batches import PreparedRows
from milk_recsys.methods.milk.fused import FusedObjective
from milk_recsys.methods.milk.lazy_adam import LazyAdam
from milk_recsys.methods.milk.model import Recommender

__all__ = ["FusedStep"]


class FusedStep:
    """The steps of a `Learner` in compiled loops, up to the exchange of users' gradients.

    Arguments:
        model, tables, options, world: those of the learner.
        prepared: the prepared features of items.
        lazy: the optimiser of the users; None if `adam` updates them too.
        adam: the optimiser of the encoders, whose state is changed in place.
        owns_users: whether this process has the rows of exactly the users whose pairs it has.
    """

    def __init__(
        self,
        model: Recommender,
        tables: Tables,
        prepared: PreparedRows,
        options: MilkOptions,
        world: World,
        *,
        lazy: LazyAdam | None,
        adam: torch.optim.Adam,
        owns_users: bool,
    ) -> None:
        self.model, self.options, self.world = model, options, world
        self.lazy, self.adam = lazy, adam
        self.objective = FusedObjective(model, tables, prepared, options, world)
        # Whether no other rank has a gradient for the rows of this one.
        self.alone = world.size == 1 or owns_users
        self.row_of_user = np.empty(0, np.int32)
        if lazy is not None and lazy.first_position is not None:
            self.row_of_user = lazy.first_position  # The same kind of scratch space.
        # The encoders' gradients are written in place, so they are set once. The arrays share the
        # memory of the encoders, their gradients and Adam's state.
        self.encoders = []
        objective, encoders = self.objective, list[Any](model.encoders.encoders)
        for encoder, *gradients in zip(
            encoders, objective.by_weights, objective.by_biases, strict=True
        ):
            for p, grad in zip((encoder.weight, encoder.bias), gradients, strict=True):
                p.grad, state = grad, adam.state[p]
                tensors = (p.detach(), state["exp_avg"], state["exp_avg_sq"], grad)
                self.encoders.append((state["step"].numpy(), [x.view(-1).numpy() for x in tensors]))

    @torch.no_grad()
    def __call__(
        self,
        users: Tensor,
        positives: Tensor,
        negatives: Tensor,
        weights: Tensor,
        whole: Tensor | None,
        size: int,
    ) -> tuple[Tensor, Tensor | None]:
        """Compute the gradients of a batch, and update the users if that needs no other rank.

        Arguments:
            users: (b,) rows in this rank's part of the table, or ids for a table of TorchRec.
            positives, negatives, weights: those of a call of `Step`, this rank's part.
            whole: the positives of the whole batch if other ranks have parts of it, else None.
            size: number of triples of the whole batch.

        Returns:
            the whole batch's terms (5,), and the gradient of the rows that were looked up (b, D) if
            it remains to be added to those of other ranks; None if the users are up to date.
        """
        looked_up, shards = None, self.model.shards
        if shards is not None:
            with torch.enable_grad():
                looked_up = shards(users)
            users = torch.unique(users, return_inverse=True)[1]
        scratch = self._scratch(len(users))
        batch = self.objective.group(users, positives, negatives, scratch, whole)
        if looked_up is None:
            u = self.model.users.weight.index_select(0, torch.from_numpy(batch.users))
        else:
            u = looked_up.detach().index_select(0, torch.from_numpy(batch.firsts))
        terms, by_u = self.objective.terms(u, batch, weights, size)
        self.world.sum_gradients(self.model.encoders.parameters())
        if self.options.regulariser == "parameters":
            self._regularise_parameters(terms)
        if self.lazy is not None and shards is None and self.alone:
            self.lazy.update_distinct(batch.users, by_u)
            return terms, None
        # Gradients of equal users are summed, so it does not matter which position has the sum.
        grad = torch.zeros(len(users), u.shape[1], dtype=u.dtype)
        grad[torch.from_numpy(batch.firsts)] = torch.from_numpy(by_u)
        if looked_up is None:
            return terms, grad
        looked_up.backward(grad)
        return terms, None

    @torch.no_grad()
    def step_encoders(self) -> None:
        """Make Adam's step on the encoders."""
        from milk_recsys.methods.milk.adam_kernels import step_dense

        group = self.adam.param_groups[0]
        (beta1, beta2), lr, eps = group["betas"], group["lr"], group["eps"]
        for step, arrays in self.encoders:
            step += 1
            t = float(step)
            size, inverse_root = lr / (1 - beta1**t), 1 / math.sqrt(1 - beta2**t)
            rates = np.array([1 - beta1, 1 - beta2, eps, size, inverse_root], arrays[0].dtype)
            step_dense(arrays[0], arrays[1], arrays[2], arrays[3], rates)

    def _scratch(self, num_users: int) -> NDArray[np.int32]:
        """Return an entry of -1 for each row of the table, or for each user of TorchRec's batch."""
        needed = num_users if self.model.shards is not None else len(self.model.users.weight)
        if len(self.row_of_user) < needed:
            self.row_of_user = np.full(needed, -1, np.int32)
        return self.row_of_user

    def _regularise_parameters(self, terms: Tensor) -> None:
        """Add the squared norm of all parameters to the terms, and its gradient to the others."""
        strength = self.options.regulariser_weight
        users = self.model.users.weight
        if users.grad is None:
            users.grad = torch.zeros_like(users)
        for p in self.model.parameters():
            if p.grad is None:
                raise RuntimeError("FusedStep: a parameter of the model has no gradient.")
            p.grad.add_(p, alpha=2 * strength)
            norm = p.square().sum(dtype=torch.float64)
            terms[4] += norm
            terms[0] += strength * norm
