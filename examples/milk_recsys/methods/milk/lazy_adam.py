"""Adam for an embedding table that updates only the rows that a batch looked up."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["LazyAdam"]


class LazyAdam:
    r"""The update rule of `torch.optim.SparseAdam`, given the looked-up rows and their gradients.

    .. math::
        m_i &\leftarrow \beta_1 m_i + (1 - \beta_1) g_i, \qquad
        v_i \leftarrow \beta_2 v_i + (1 - \beta_2) g_i^2, \\
        w_i &\leftarrow w_i - \eta \frac{\sqrt{1 - \beta_2^t}}{1 - \beta_1^t}
        \frac{m_i}{\sqrt{v_i} + \epsilon}

    only for the rows i of the batch, where w_i is a row of the table, g_i its gradient, m_i and v_i
    its first and second moment, and t the number of steps of the whole table. In rows outside the
    batch, Adam would let the moments decay and would still move the row by the first moment; here
    rows and moments outside the batch do not change. The cost of a step does not depend on N.

    Arguments:
        weight: (N, D), changed in place.
        lr: :math:`\eta`.
        compiled: whether to use a compiled loop (on a CPU, with Numba) or torch operations.

    Attributes:
        exp_avg, exp_avg_sq: (N, D), m and v.
        first_position: (N,) int32, filled with -1: scratch space of compiled loops; None without.
        step: t, a scalar.
        static: whether shapes in a step do not depend on values, as a GPU and a compiler need it.
        changed_rows: computes the new values of rows; `CompiledFunction` may replace it.
    """

    def __init__(
        self,
        weight: Tensor,
        lr: float,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        compiled: bool = False,
    ) -> None:
        self.weight, self.lr, self.betas, self.eps = weight.detach(), lr, betas, eps
        self.exp_avg, self.exp_avg_sq = torch.zeros_like(self.weight), torch.zeros_like(self.weight)
        self.step = torch.zeros((), dtype=torch.float64, device=weight.device)
        self.first_position = np.full(len(weight), -1, np.int32) if compiled else None
        self.static = weight.device.type != "cpu"
        self.changed_rows: Callable[..., tuple[Tensor, ...]] = self._changed_rows

    def tensors(self) -> dict[str, Tensor]:
        """Return the state by name. The tensors are not copies."""
        return {"exp_avg": self.exp_avg, "exp_avg_sq": self.exp_avg_sq, "step": self.step}

    @torch.no_grad()
    def update(self, rows: Tensor, grad: Tensor) -> None:
        """Make a step.

        Arguments:
            rows: (B,) int64, the looked-up rows. The gradients of a repeated row are summed.
            grad: (B, D), not changed.
        """
        self.step += 1
        if self.first_position is not None:
            self._update_compiled(rows, grad, self.first_position)
            return
        tensors = (self.exp_avg, self.exp_avg_sq, self.weight)
        rows, *changed = self.changed_rows(*tensors, self.step, rows, grad)
        for tensor, values in zip(tensors, changed, strict=True):
            tensor.index_copy_(0, rows, values)

    def _changed_rows(
        self,
        exp_avg: Tensor,
        exp_avg_sq: Tensor,
        weight: Tensor,
        t: Tensor,
        rows: Tensor,
        grad: Tensor,
    ) -> tuple[Tensor, ...]:
        """Return rows (B',) and the values after a step of m, v and w there, (B', D) each."""
        beta1, beta2 = self.betas
        rows, grad = (_sum_by_sorted_row if self.static else _sum_by_row)(rows, grad)
        m = exp_avg.index_select(0, rows).lerp_(grad, 1 - beta1)
        v = exp_avg_sq.index_select(0, rows).mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        # The learning rate times both bias corrections, in float64. t stays a tensor, so that a GPU
        # computes it without waiting.
        size = self.lr * torch.sqrt(1 - beta2**t) / (1 - beta1**t)
        change = (m / v.sqrt().add_(self.eps)).mul_(size.to(m.dtype))
        return rows, m, v, weight.index_select(0, rows).sub_(change)

    def _update_compiled(
        self, rows: Tensor, grad: Tensor, first_position: NDArray[np.int32]
    ) -> None:
        from milk_recsys.methods.milk.adam_kernels import sum_repeated_rows

        distinct, sums = np.empty_like(rows.numpy()), np.empty_like(grad.numpy())
        count = sum_repeated_rows(rows.numpy(), grad.numpy(), first_position, distinct, sums)
        self._step_distinct(distinct[:count], sums[:count])

    @torch.no_grad()
    def update_distinct(self, rows: NDArray[np.int64], grad: NDArray[np.floating[Any]]) -> None:
        """Make a step on distinct rows (k,) with gradients (k, D), in a compiled loop."""
        self.step += 1
        self._step_distinct(rows, grad)

    def _step_distinct(self, rows: NDArray[np.int64], grad: NDArray[np.floating[Any]]) -> None:
        from milk_recsys.methods.milk.adam_kernels import step_distinct_rows

        (beta1, beta2), t = self.betas, self.step.item()
        size = self.lr * math.sqrt(1 - beta2**t) / (1 - beta1**t)
        rates = np.array([1 - beta1, 1 - beta2, self.eps, size], grad.dtype)
        moments = self.exp_avg.numpy(), self.exp_avg_sq.numpy()
        step_distinct_rows(self.weight.numpy(), moments[0], moments[1], rows, grad, rates)


def _sum_by_row(rows: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Return the distinct rows, and the sums of their gradients."""
    distinct, index = torch.unique(rows, return_inverse=True)
    return distinct, grad.new_zeros(len(distinct), grad.shape[1]).index_add_(0, index, grad)


def _sum_by_sorted_row(rows: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Return all B rows, sorted, each with the sum of its row.

    The number of distinct rows is a value that the host would have to wait for. Equal rows then
    write the same update.
    """
    rows, order = rows.sort(stable=True)
    # index: the number of the run of equal rows to which each sorted row belongs.
    index = torch.cat([rows.new_zeros(1), (rows[1:] != rows[:-1]).cumsum(0)])
    sums = torch.zeros_like(grad).index_add_(0, index, grad.index_select(0, order))
    return rows, sums.index_select(0, index)
