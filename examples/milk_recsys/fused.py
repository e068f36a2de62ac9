"""The sums of a batch and their gradient in closed form: `model.batch_sums` in a third of its passes over memory.

`batch_sums` is what it must equal, and says what it means; tests hold the two together.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from milk_recsys.model import Batch, Recommender, alignment_pairs
from milk_recsys.options import Options

__all__ = ["can_fuse", "fused_sums"]


def can_fuse(options: Options) -> bool:
    """Whether the closed form covers the options: all but a fusion of available modalities, and autocast."""
    return options.training_fusion == "imputed" and options.dtype != "bfloat16"


def fused_sums(model: Recommender, u: Tensor, batch: Batch, weights: Tensor, options: Options) -> Tensor:
    """Return `batch_sums` of the same arguments, (E + 3,)."""
    parameters = [p for encoder in model.encoders.encoders for p in (encoder.weight, encoder.bias)]
    return _Sums.apply(u, batch, weights, options, *parameters)  # type: ignore[no-any-return,no-untyped-call]


class _Sums(torch.autograd.Function):
    r"""With c = W x + b (n, M, D), and u (b, D):

    .. math::
        s_{bm} = \langle u_b, c_{jm} - c_{j'm} \rangle, \quad
        \ell_{eb} = \ln(1 + e^{-(W s)_{eb}}), \quad
        d_j = \rho_j n_j \sum_m a_{jm} \lVert c_{jm} - \bar c_j \rVert^2, \quad
        q = \sum_b \lVert u_b \rVert^2 + \sum_j k_j \lVert h_j \rVert^2, \quad h_j = \tfrac 1 M \sum_m c_{jm}

    with k the copies of a row, a the mask of the alignment, n its sum and :math:`\bar c` the mean of what it allows.
    """

    @staticmethod
    def forward(ctx: Any, u: Tensor, batch: Batch, weights: Tensor, options: Options, *parameters: Tensor) -> Tensor:
        features, size = list(batch.features.values()), u.shape[1]
        c = u.new_empty(len(batch.observed), len(features), size)
        for m, x in enumerate(features):
            torch.addmm(parameters[2 * m + 1], x, parameters[2 * m].t(), out=c[:, m])
        flat, pairs = c.flatten(1), torch.stack([batch.positives, batch.negatives], dim=1)
        one = u.new_ones(len(pairs))
        signs = torch.stack([one, -one], dim=1)
        difference = F.embedding_bag(pairs, flat, per_sample_weights=signs, mode="sum").view(len(u), -1, size)
        margins = weights @ (difference * u[:, None]).sum(dim=2).t()
        losses = F.softplus(-margins).sum(dim=1)

        zero = u.new_zeros(())
        deviation, scale, distances, divisor = u.new_empty(0), zero, zero, zero
        if options.model in ("milk", "align"):
            mask, divisor = alignment_pairs(batch, options)
            deviation, scale, distances = _scatter(c[: len(mask)], mask, batch.shares)
        h, squares = u.new_empty(0), zero
        if options.regulariser == "batch":
            h = c.mean(dim=1)
            squares = u.square().sum() + batch.copies @ _squared_norms(h)
        ctx.save_for_backward(u, difference, margins, weights, deviation, scale, h, batch.copies, *features)
        ctx.rows = batch.positives, batch.negatives
        return torch.cat([losses, torch.stack([distances, divisor, squares]).to(losses.dtype)])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        u, difference, margins, weights, deviation, scale, h, copies, *features = ctx.saved_tensors
        losses, (distances, _, squares) = grad[:-3], grad[-3:]
        by_score = (torch.sigmoid(-margins) * -losses[:, None]).t() @ weights
        by_u = (difference * by_score[:, :, None]).sum(dim=1)
        by_c = u.new_empty(len(copies), *difference.shape[1:])
        if len(h):
            by_u.add_(u * (2 * squares))
            by_c.copy_((h * (copies * (2 * squares / len(features)))[:, None])[:, None])
        else:
            by_c.zero_()
        if len(deviation):
            by_c[: len(deviation)].addcmul_(deviation, (scale * (2 * distances))[:, None, None])
        flat, (positives, negatives) = by_c.flatten(1), ctx.rows
        by_difference = torch.mul(by_score[:, :, None], u[:, None], out=difference).flatten(1)
        flat.index_add_(0, positives, by_difference).index_add_(0, negatives, by_difference.neg_())
        by_bias = by_c.sum(dim=0)
        by_parameters = [g for m, x in enumerate(features) for g in (by_c[:, m].t() @ x, by_bias[m])]
        return by_u, None, None, None, *by_parameters


def _scatter(c: Tensor, mask: Tensor, shares: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the deviations from the mean of what the mask allows (p, M, D), their weights (p,), and the distances."""
    a = mask.to(c.dtype)
    n = a.sum(dim=1)
    mean = (c * (a / n.clamp(min=1)[:, None])[:, :, None]).sum(dim=1)
    deviation = (c - mean[:, None]).mul_(a[:, :, None])
    scale = shares * n
    return deviation, scale, scale @ _squared_norms(deviation.flatten(1))


def _squared_norms(x: Tensor) -> Tensor:
    return (x * x).sum(dim=1)
