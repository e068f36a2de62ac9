"""A training step of MILK on a batch: its gradients, and the optimisers.

The gradients come from autograd on the parts of invmod, from the same parts compiled by
`torch.compile` (--kernels compiled), or from compiled loops (--kernels auto or numba).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from milk_recsys.base.distributed import World
from milk_recsys.catalogue.tables import Tables
from milk_recsys.config.options import Options
from milk_recsys.methods.milk import MilkOptions
from milk_recsys.methods.milk.batches import (
    TripleBatch,
    gather_batch,
    gather_static,
    prepared_rows,
)
from milk_recsys.methods.milk.compiled import CompiledFunction, step_gradients
from milk_recsys.methods.milk.fused import compiles
from milk_recsys.methods.milk.fused_step import FusedStep
from milk_recsys.methods.milk.lazy_adam import LazyAdam
from milk_recsys.methods.milk.model import Recommender
from milk_recsys.methods.milk.objective import batch_sums, coefficients, objective

__all__ = ["Step"]


class Step:
    """A training step on a batch, which changes the model and the optimisers' states.

    Arguments:
        model: changed in place.
        tables: the training data.
        options: the objective, the optimiser and the precision.
        world: the processes that share each batch.

    Attributes:
        compiled: whether steps run in compiled loops.
        owns_users: whether this process has the rows of exactly the users whose pairs it has.
    """

    def __init__(self, model: Recommender, tables: Tables, options: Options, world: World) -> None:
        own: MilkOptions = options.method
        self.model, self.tables, self.options, self.world = model, tables, own, world
        self.owns_users = tables.blocks is not None and own.user_table == "sharded"
        self.autocast = options.run.dtype == "bfloat16"
        by_torch = own.kernels == "compiled"  # torch.compile; `compiled` stands for Numba.
        # A batch has at most all pairs, however large the option is.
        batch = min(own.batch_size, tables.num_pairs)
        buffer_rows = 0 if by_torch else 2 * batch
        self.prepared = prepared_rows(model, tables, buffer_rows=buffer_rows)
        device = model.users.weight.device
        self.compiled = compiled = not by_torch and compiles(own, options.run.dtype, device)
        self.gather: Callable[..., TripleBatch] = (
            gather_batch if device.type == "cpu" else gather_static
        )
        self.lazy = None
        if model.shards is not None:
            self.lazy = model.shards.optimiser  # It makes its steps inside backward.
        elif own.optimiser == "lazy_adam":
            self.lazy = LazyAdam(model.users.weight, own.lr, compiled=compiled)
        self.encoders = list(model.encoders.parameters())
        dense = self.encoders if self.lazy else [model.users.weight, *self.encoders]
        self.adam = _adam(dense, own.lr, device)
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

    def state(self) -> dict[str, Tensor]:
        """Return the tensors of the optimisers' states by name. They are not copies."""
        tensors: dict[str, Tensor] = {}
        for name, p in self.model.named_parameters():
            state = self.lazy.tensors() if self.lazy else {}
            if p in self.adam.state:
                state = self.adam.state[p]
            tensors |= {f"{name}.{key}": value for key, value in state.items()}
        return tensors

    def __call__(
        self,
        users: Tensor,
        positives: Tensor,
        negatives: Tensor,
        weights: Tensor,
        sizes: list[int] | None = None,
    ) -> Tensor:
        """Make a step.

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
        with torch.autocast(users.device.type, torch.bfloat16, enabled=self.autocast):
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
        """Make a step with gradients of compiled functions; arguments are those of a call."""
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
            raise RuntimeError("Step: the objective does not depend on the users.")
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


def _adam(parameters: Sequence[Tensor], lr: float, device: torch.device) -> torch.optim.Adam:
    """Return an optimiser whose state is there before its first step, so that it can be loaded."""
    adam = torch.optim.Adam([*parameters], lr=lr, fused=True, capturable=device.type == "cuda")
    for p in parameters:
        moments = {
            key: torch.zeros_like(p, requires_grad=False) for key in ("exp_avg", "exp_avg_sq")
        }
        step = torch.zeros((), dtype=torch.float32, device=p.device)
        adam.state[p] = {"step": step, **moments}
    return adam
