"""The objective of MILK (Eq. 16), composed from the parts of invmod, and its coefficients."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from invmod import (
    CyclicMixupEnvs,
    DirichletEnvs,
    fuse,
    invariant_objective,
    pairwise_alignment_loss,
    vrex_penalty,
)
from invmod.alignment.pairs import pairs_among
from invmod.environments import FixedEnvs
from invmod.objectives import vrex_coefficients
from milk_recsys.methods.milk import MilkOptions
from milk_recsys.methods.milk.batches import TripleBatch
from milk_recsys.methods.milk.model import Recommender

__all__ = [
    "Terms",
    "alignment_pairs",
    "batch_sums",
    "bpr_losses",
    "coefficients",
    "environments",
    "objective",
    "scores",
]


class Terms(NamedTuple):
    """A batch's loss and its terms before their weights; all scalars."""

    loss: Tensor
    risk: Tensor
    penalty: Tensor
    alignment: Tensor
    regulariser: Tensor


def environments(
    num_modalities: int, options: MilkOptions, seed: int
) -> CyclicMixupEnvs | DirichletEnvs | FixedEnvs | None:
    """Return the generator of MILK's environments (Eq. 9-11), or of a variant of them (Table 4).

    Returns:
        None for a model without environments, which fuses with uniform weights.
    """
    if not options.has_envs:
        return None
    alpha, draws, min_weight = options.alpha, options.num_draws, options.min_weight
    if options.envs == "independent":  # A sample has draws x M rows, as with cyclic shifts.
        return DirichletEnvs(num_modalities, alpha, num_draws=draws, min_weight=min_weight)
    uniform = options.envs != "without_uniform"
    cyclic = CyclicMixupEnvs(
        num_modalities, alpha, num_draws=draws, min_weight=min_weight, include_uniform=uniform
    )
    if options.envs == "fixed":
        return FixedEnvs(cyclic, generator=torch.Generator().manual_seed(seed))
    return cyclic


def batch_sums(
    model: Recommender, u: Tensor, batch: TripleBatch, weights: Tensor, options: MilkOptions
) -> Tensor:
    r"""The sums that determine the objective; sums of micro-batches or ranks add up to the batch's.

    .. math::
        \Big( \sum_b \ell_{1b}, \dots, \sum_b \ell_{Eb}, \quad
        \sum_j \rho_j s_j, \quad \sum_j \rho_j p_j, \quad
        \sum_b \lVert u_b \rVert^2 + \lVert h_b \rVert^2 + \lVert h'_b \rVert^2 \Big)

    where :math:`\ell_{eb}` is the BPR loss of triple b in environment e, :math:`\rho_j` the share
    of row j, :math:`s_j` the sum of squared distances between the aligned modalities of row j,
    :math:`p_j` the number of its pairs (or the divisor of another reduction), and
    :math:`u_b, h_b, h'_b` the user, the positive and the negative item of triple b, both items
    fused with uniform weights.

    Score and fusion are linear, so scores are fused instead of embeddings, and E environments cost
    hardly more than one.

    Arguments:
        u: (b, D) users of the triples.
        weights: (E, M) fusion weights; only the uniform row for a model without environments.

    Returns:
        (E + 3,) in float32 or wider: losses (Eq. 15) by environment; distances of the alignment
        (Eq. 6) and their divisor, 0 for a reduction without one; squared norms of the regulariser.
    """
    z = model.encoders(batch.features)
    losses = bpr_losses(u, z, batch, weights, options)
    zero = losses.new_zeros(())
    distances, pairs = _alignment(z, batch, options) if options.aligns else (zero, zero)
    squares = _squares(model, u, z, batch, options) if options.regulariser == "batch" else zero
    return torch.cat([losses, torch.stack([distances, pairs, squares]).to(losses.dtype)])


def objective(sums: Tensor, size: int, model: Recommender | None, options: MilkOptions) -> Terms:
    r"""Eq. 16 from the sums of a whole batch of `size` triples.

    .. math::
        \mathcal L = \mathbb E_e R_e + \beta \mathrm{Var}_e(R_e) + \lambda \mathcal L_{align}
        + \gamma \, \Omega

    where :math:`R_e` is the risk (mean loss) in environment e, :math:`\beta` the penalty weight,
    :math:`\lambda` the alignment weight, :math:`\gamma` the regulariser's weight, and
    :math:`\Omega` the mean over triples of squared norms, or the squared norm of all parameters of
    `model`.
    """
    risks, (distances, pairs, squares) = sums[:-3] / size, sums[-3:]
    zero = risks.new_zeros(())
    has_envs = options.has_envs
    penalty = vrex_penalty(risks, correction=options.variance_correction) if has_envs else zero
    risk = invariant_objective(
        risks,
        penalty=penalty,
        penalty_weight=options.penalty_weight,
        risk_reduction=options.risk_reduction,
    )
    # A divisor of 0 is that of reduction "sum", or of a batch without pairs, whose distances are 0.
    alignment = distances / torch.where(pairs > 0, pairs, 1.0)
    regulariser = squares / size
    if options.regulariser == "parameters" and model is not None:
        regulariser = torch.stack([p.square().sum() for p in model.parameters()]).sum()
    loss = risk + options.alignment_weight * alignment + options.regulariser_weight * regulariser
    return Terms(loss, risks.mean(), penalty, alignment, regulariser)


def coefficients(sums: Tensor, size: int, options: MilkOptions) -> tuple[Tensor, Tensor]:
    r"""The terms of `objective`, (5,), and the gradient of its loss by the sums, (E + 3,).

    When each micro-batch or rank backpropagates its own sums with these numbers as coefficients,
    the total gradient is that of the whole batch (see `invmod.risk_coefficients`). The coefficient
    of the distances is the alignment's weight over the number of pairs, that of the squared norms
    the regulariser's weight over the size of the batch. Not for the regulariser "parameters".
    """
    risks, (_, pairs, _) = sums[:-3] / size, sums[-3:]
    # invmod has the gradient of V-REx by the risks in closed form; that of the
    # other terms is constant.
    with torch.no_grad():
        terms = torch.stack(objective(sums, size, None, options))
        by_risks = vrex_coefficients(
            risks,
            penalty_weight=options.penalty_weight if options.has_envs else 0.0,
            correction=options.variance_correction if options.has_envs else 0,
            risk_reduction=options.risk_reduction,
        )
    by_distances = options.alignment_weight / torch.where(pairs > 0, pairs, 1.0)
    by_squares = by_distances.new_full((), options.regulariser_weight / size)
    others = torch.stack([by_distances, torch.zeros_like(by_distances), by_squares])
    return terms, torch.cat([by_risks / size, others])


def bpr_losses(
    u: Tensor, z: Tensor, batch: TripleBatch, weights: Tensor, options: MilkOptions
) -> Tensor:
    r"""Eq. 15 in every environment, summed over the triples.

    .. math::
        \sum_b -\ln \sigma(\hat y^e_{ij} - \hat y^e_{ij'}),
        \qquad \hat y^e_{ij} = \sum_m w_{em} \langle u_i, c_{jm} \rangle

    where triple b has user i, positive item j and negative item j', :math:`u_i` is the user's
    vector, :math:`c_{jm}` the encoded modality m of item j, and :math:`w_{em}` its weight in
    environment e.

    Arguments:
        u: (b, D) users; z: (n, M, D) rows of items; weights: (E, M).

    Returns:
        (E,).
    """
    # Without a mask both items are fused with the same weights, so differences are fused once. With
    # a mask the weights of an item depend on its modalities.
    if options.training_fusion == "imputed":
        margins = fuse(_score_differences(u, z, batch), weights)
    else:
        better = fuse(scores(u, z, batch.positives), weights, batch.mask[batch.positives])
        worse = fuse(scores(u, z, batch.negatives), weights, batch.mask[batch.negatives])
        margins = better - worse
    return F.softplus(-margins).sum(dim=1)  # softplus(-x) = -ln sigmoid(x)


def _score_differences(u: Tensor, z: Tensor, batch: TripleBatch) -> Tensor:
    """Return the scores of the positive items minus those of the negative ones, (b, M)."""
    if not batch.by_position:
        return scores(u, z, batch.positives, batch.negatives)
    # The rows are in the order of the triples, so nothing has to be looked up.
    positives, negatives = z.to(u.dtype).reshape(2, len(u), *z.shape[1:]).unbind(0)
    differences: Tensor = (positives - negatives) * u[:, None, :]
    return differences.sum(dim=2)


def scores(u: Tensor, z: Tensor, rows: Tensor, less: Tensor | None = None) -> Tensor:
    r"""Score items in every modality, minus the scores of other items if `less` is given.

    .. math::
        s_{bm} = \langle u_b, c_{jm} - c_{j'm} \rangle

    where j is the item ``rows[b]``, j' the item ``less[b]``, and c their rows of `z`.

    Arguments:
        u: (b, D); z: (n, M, D); rows: (b,) rows of z; less: (b,).

    Returns:
        (b, M), in the precision of u, which is float32 under autocast.
    """
    return _Scores.apply(u, z.to(u.dtype), rows, less)  # type: ignore[no-any-return,no-untyped-call]


class _Scores(torch.autograd.Function):
    """Inner products, with a backward that adds the gradients of equal rows of z in place.

    Autograd would create a gradient of the size of z for each of the two look-ups, and add them.
    """

    @staticmethod
    def forward(ctx: Any, u: Tensor, z: Tensor, rows: Tensor, less: Tensor | None) -> Tensor:
        flat = z.flatten(1)
        if less is None:
            c = flat.index_select(0, rows)
        else:
            # A "bag" of two rows with weights 1 and -1 is their difference, computed in one pass.
            ones = flat.new_ones(len(rows))
            signs = torch.stack([ones, -ones], dim=1)
            c = F.embedding_bag(
                torch.stack([rows, less], dim=1), flat, per_sample_weights=signs, mode="sum"
            )
        c = c.view(len(rows), *z.shape[1:])
        ctx.save_for_backward(u, c, rows, less)
        ctx.num_rows = len(z)
        return (c * u[:, None, :]).sum(dim=2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        u, c, rows, less = ctx.saved_tensors
        grad_u = (c * grad[:, :, None]).sum(dim=1)
        grad_c = (grad[:, :, None] * u[:, None, :]).flatten(1)
        grad_z = grad_c.new_zeros(ctx.num_rows, grad_c.shape[1]).index_add_(0, rows, grad_c)
        if less is not None:
            grad_z.index_add_(0, less, grad_c.neg_())  # Negating first is faster than alpha=-1.
        return grad_u, grad_z.view(ctx.num_rows, *c.shape[1:]), None, None


def alignment_pairs(batch: TripleBatch, options: MilkOptions) -> tuple[Tensor, Tensor]:
    """Return the alignment's mask (p, M), for the rows of positive items, and its divisor.

    The divisor is the one of `options.alignment_reduction`, summed over the rows; 0 for "sum".
    """
    mask = batch.mask[: len(batch.shares)]
    if options.alignment_mask == "complete":
        mask = mask & mask.all(dim=1, keepdim=True)
    match options.alignment_reduction:
        case "sum":
            return mask, batch.shares.new_zeros(())
        case "item_mean":
            return mask, batch.shares.sum()
    pairs = (batch.shares * pairs_among(mask.sum(dim=1))).sum()
    if options.alignment_reduction == "element_mean":
        pairs = pairs * options.embedding_dim
    return mask, pairs


def _alignment(z: Tensor, batch: TripleBatch, options: MilkOptions) -> tuple[Tensor, Tensor]:
    """Return Eq. 6 summed over the positive items, between observed modalities, and its divisor."""
    mask, pairs = alignment_pairs(batch, options)
    loss = pairwise_alignment_loss(z[: len(mask)], mask, weights=batch.shares, reduction="sum")
    return loss, pairs


def _squares(
    model: Recommender, u: Tensor, z: Tensor, batch: TripleBatch, options: MilkOptions
) -> Tensor:
    """Return the sum of squared norms of all triples' users and uniformly fused items."""
    available = options.training_fusion == "available"
    # Without a mask, fusion by the uniform row is the mean, which costs less than a product.
    h = fuse(z, model.uniform, batch.mask)[0] if available else z.mean(dim=1)
    return u.square().sum() + (batch.copies @ h.square()).sum()
