"""Linear fusion: the weighted sum over modalities, for all environments at once (MILK, Eq. 12)."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

from invmod._checks import check_floating, check_z
from invmod._precision import without_autocast
from invmod.missingness.masks import append_axes, check_mask


def fuse(z: Tensor, weights: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""Fuse modalities with the weights of each environment.

    .. math::
        h_{en} = \sum_m w_{em} z_{nm}
        \qquad\text{and with a mask}\qquad
        h_{en} = \Big(\sum_m w_{em}\Big) \frac{\sum_m w_{em} a_{nm} z_{nm}}{\sum_m w_{em} a_{nm}}

    where :math:`z_{nm}` is the embedding (or score) of sample n and modality m, :math:`w_{em}` is
    the weight of modality m in environment e, and :math:`a_{nm}` is 1 where the mask is True.

    With a mask, the weight of the unavailable cells is distributed over the available ones in
    proportion to their weights. The total weight of a row stays the same, and an all-True mask
    gives the same result as no mask. Special cases:

    * If the available weights sum to 0, the available modalities share the total weight evenly.
      This happens for a one-hot environment on a missing modality and for weights that underflowed.
      Sums below ``finfo.tiny / finfo.eps`` (1e-31 in float32) count as 0.
    * If nothing is available, the result is 0.
    * The content of an unavailable cell, NaN included, changes neither the output nor the gradient
      of z and of the weights. NaN in an available cell comes out as NaN.

    The mask protects z, not the encoder that made it: an encoder that receives NaN multiplies it by
    the gradient 0 of its output, so give it the mask as well (`ModalityEncoders` takes one).

    Fusion is linear, so it commutes with a linear head without a bias. If the score of a model is
    linear in h, pass the scores per modality (N, M) instead of embeddings (N, M, D): many
    environments then cost about as much as one.

    Arguments:
        z: (N, M, ...), for example embeddings (N, M, D) or scores (N, M).
        weights: (E, M), or (N, E, M) if every sample has its own environments; non-negative. They
            are cast to the dtype of the computation: that of z, or float32 for half precision.
        mask: bool (N, M), True where a cell may be used. None means all.

    Returns:
        (E, N, ...) in the dtype of z.

    Raises:
        TypeError: z or weights are not floating-point tensors, or the mask is not bool.
        ValueError: shapes do not fit.

    References:
        Bai et al., SIGIR 2024, Eq. 8, 12 and 18.

    Example:
        >>> z = torch.tensor([[1.0, 3.0], [5.0, 7.0]])
        >>> weights = torch.tensor([[0.5, 0.5], [0.0, 1.0]])
        >>> fuse(z, weights)
        tensor([[2., 6.],
                [3., 7.]])
        >>> fuse(z, weights, torch.tensor([[True, False], [True, True]]))
        tensor([[1., 6.],
                [1., 7.]])
    """
    _check(z, weights)
    with without_autocast(z):
        if mask is None:
            wide = torch.promote_types(z.dtype, torch.float32)
            return _weighted_sums(weights.to(wide), z.to(wide)).to(z.dtype)
        check_mask("fuse", mask, z.shape[0], z.shape[1])
        return _fuse_available(z, weights, mask)


def _weighted_sums(weights: Tensor, z: Tensor) -> Tensor:
    """Return the sum over m of weights (E, M) times z (N, M, ...): (E, N, ...).

    Moving the axis M to the front makes this one matrix product, (E, M) by (M, N * ...). For
    weights (N, E, M) it is one small product per sample.
    """
    if weights.ndim == 3:
        sums = weights @ rearrange(z, "n m ... -> n m (...)")
        return rearrange(sums, "n e d -> e n d").reshape(weights.shape[1], z.shape[0], *z.shape[2:])
    columns = z.movedim(1, 0).contiguous()
    return (weights @ columns.flatten(1)).view(weights.shape[0], *columns.shape[1:])


def _fuse_available(z: Tensor, weights: Tensor, mask: Tensor) -> Tensor:
    """Fuse the available cells with two matrix products, W (a z) and W a, in float32 or wider.

    The division cannot overflow: sums of weights below tiny / eps take the even mean instead.
    """
    wide = torch.promote_types(z.dtype, torch.float32)
    weights, a = weights.to(wide), mask.to(wide)
    # Select before the product: NaN in a masked cell would survive a multiplication by 0.
    z_available = torch.where(append_axes(mask, z), z, 0.0).to(wide)
    weighted = _weighted_sums(weights, z_available)
    available = append_axes(_weighted_sums(weights, a), weighted)
    # Per environment (E, 1, ...), or per environment and sample (E, N, 1, ...).
    total = append_axes(
        weights.sum(dim=-1) if weights.ndim == 2 else weights.sum(dim=-1).T, weighted
    )
    mean = z_available.sum(dim=1) / append_axes(a.sum(dim=1).clamp(min=1), z_available[:, 0])
    # A subnormal sum of weights would give infinite gradients, so it counts as 0.
    finfo = torch.finfo(wide)
    vanished = available < finfo.tiny / finfo.eps
    # Divide before multiplying by the total, so that neither values nor gradients overflow. The
    # inner `where` keeps the unused division by 0 out of the gradient.
    proportional = weighted / torch.where(vanished, 1.0, available)
    return (total * torch.where(vanished, mean, proportional)).to(z.dtype)


def _check(z: Tensor, weights: Tensor) -> None:
    """Raise unless z is (N, M, ...) and the weights are (E, M) or (N, E, M), all floating point."""
    check_z("fuse", z)
    check_floating("fuse", "weights", weights)
    fits = weights.ndim == 2 or (weights.ndim == 3 and weights.shape[0] == z.shape[0])
    if not fits or weights.shape[-1] != z.shape[1]:
        raise ValueError(
            f"fuse: `weights` must have shape (E, M), or (N, E, M) with N = {z.shape[0]}, and "
            f"M = {z.shape[1]} as in `z`, got {tuple(weights.shape)}."
        )
