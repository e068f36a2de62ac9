"""The sums of a batch and their gradient in closed form, in matrix products and compiled loops.

`objective.batch_sums` computes the same sums from parts of invmod; tests compare the two.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from milk_recsys.base.errors import DataError
from milk_recsys.methods.milk import MilkOptions
from milk_recsys.methods.milk.batches import TripleBatch
from milk_recsys.methods.milk.model import Recommender
from milk_recsys.methods.milk.objective import alignment_pairs

__all__ = ["compiles", "fused_sums"]


def compiles(options: MilkOptions, dtype: str, device: torch.device) -> bool:
    """Return whether steps run in compiled loops.

    They do on a CPU where Numba is installed, except with --kernels torch, with
    --training-fusion available and with --dtype bfloat16.

    Raises:
        DataError: the options require compiled loops (--kernels numba), which cannot be used.
    """
    if options.kernels == "torch":
        return False
    problems = {
        "Numba is not installed (pip install 'invmod[fast]')": find_spec("numba") is None,
        f"it compiles for the CPU, and the device is {device.type}": device.type != "cpu",
        f"it does not support --training-fusion {options.training_fusion}": options.training_fusion
        != "imputed",
        "it does not support --dtype bfloat16": dtype == "bfloat16",
    }
    obstacles = [problem for problem, holds in problems.items() if holds]
    if obstacles and options.kernels == "numba":
        raise DataError(f"--kernels numba cannot be used: {obstacles[0]}. Use auto or torch.")
    return not obstacles


def fused_sums(
    model: Recommender, u: Tensor, batch: TripleBatch, weights: Tensor, options: MilkOptions
) -> Tensor:
    """Return `objective.batch_sums` of the same arguments, (E + 3,), in float64."""
    parameters = [p for encoder in model.encoders.encoders for p in (encoder.weight, encoder.bias)]
    return _SumsFunction.apply(u, batch, weights, options, *parameters)  # type: ignore[no-any-return,no-untyped-call]


class _SumsFunction(torch.autograd.Function):
    """The sums as one autograd function, with one pass over the rows each way.

    Autograd over separate operations would read and write the encoded rows once per operation.
    """

    @staticmethod
    def forward(
        ctx: Any,
        u: Tensor,
        batch: TripleBatch,
        weights: Tensor,
        options: MilkOptions,
        *parameters: Tensor,
    ) -> Tensor:
        from milk_recsys.methods.milk.kernels import forward_sums

        features = list(batch.features.values())
        c = u.new_empty(len(batch.mask), len(features), u.shape[1])
        for m, x in enumerate(features):
            torch.addmm(parameters[2 * m + 1], x, parameters[2 * m].t(), out=c[:, m])
        # Arrays without rows stand for terms that the objective does not have.
        mask, pairs = batch.mask[:0], 0.0
        if options.aligns:
            mask, divisor = alignment_pairs(batch, options)
            pairs = float(divisor)
        copies = batch.copies if options.regulariser == "batch" else batch.copies[:0]
        scores = u.new_empty(len(u), len(features))
        inputs = (u.detach(), c, batch.positives, batch.negatives, mask, batch.shares, copies)
        arrays = [x.numpy() for x in inputs]
        distances, squares = forward_sums(*arrays, scores.numpy())  # type: ignore[call-arg]
        # Fusion and score are linear, so scores (b, M) are fused instead of embeddings (Eq. 12-13).
        margins = weights @ scores.t()
        losses = F.softplus(-margins).sum(dim=1, dtype=torch.float64)
        ctx.arrays = arrays
        ctx.features = features
        ctx.c = c
        ctx.margins = margins
        ctx.weights = weights
        return torch.cat([losses, torch.tensor([distances, pairs, squares], dtype=torch.float64)])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        from milk_recsys.methods.milk.kernels import backward_sums

        by_c, by_losses = torch.empty_like(ctx.c), grad[:-3].to(ctx.c.dtype)
        by_u = by_c.new_empty(ctx.arrays[0].shape)
        by_bias = torch.zeros(by_c.shape[1:], dtype=torch.float64)
        # The derivative of softplus(-x) is -sigmoid(-x).
        by_score = (torch.sigmoid(-ctx.margins) * -by_losses[:, None]).t() @ ctx.weights
        # grad ends with distances, pairs, squares. The number of pairs is a constant.
        by_sums = grad[-3::2].to(by_c.dtype)
        outputs = by_u.numpy(), by_c.numpy(), by_bias.numpy()
        backward_sums(*ctx.arrays, by_score.numpy(), by_sums.numpy(), *outputs)  # type: ignore[call-arg]
        biases = by_bias.to(by_c.dtype)
        by_parameters = [
            g for m, x in enumerate(ctx.features) for g in (by_c[:, m].t() @ x, biases[m])
        ]
        return by_u, None, None, None, *by_parameters
