"""Fusion: the weighted sum over modalities, for every environment at once."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor

from invmod._checks import check_floating, check_z
from invmod.missingness.masks import append_axes, check_mask


def fuse(z: Tensor, weights: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""Fuse modalities with each environment's weights.

    .. math::
        h_{en} = \sum_m w_{em} z_{nm}
        \qquad\text{and with a mask}\qquad
        h_{en} = \Big(\sum_m w_{em}\Big) \frac{\sum_m w_{em} a_{nm} z_{nm}}{\sum_m w_{em} a_{nm}}

    With a mask, what an unavailable cell weighed goes to the available ones in proportion: a row keeps its total
    weight, and an all-True mask equals none. Three documented values:

    * the available weights sum to 0 (a one-hot environment on a missing modality, or weights that underflowed; below
      ``finfo.tiny / finfo.eps``, 1e-31 in float32, counts as 0): the available modalities share the total evenly;
    * nothing is available: 0;
    * what lies in an unavailable cell, NaN included, changes neither the output nor a gradient.

    Fusion is linear, so it commutes with a linear head without a bias: where the score of a model is linear in h, pass
    the scores per modality (N, M) instead of embeddings (N, M, D), and many environments cost about what one does.

    Arguments:
        z: (N, M, ...) what each modality says: embeddings (N, M, D), scores (N, M).
        weights: (E, M), or (N, E, M) where every sample has environments of its own; non-negative; cast to the dtype of
            the computation: that of z, float32 for half precision.
        mask: bool (N, M), True where a cell may be used.

    Returns:
        (E, N, ...) in the dtype of z.

    Raises:
        TypeError: z or weights are not floating-point tensors, or the mask is not bool.
        ValueError: shapes do not fit.

    References:
        Bai et al., SIGIR 2024, Eq. 8, 12 and 18.

    Example:
        >>> z = torch.tensor([[1.0, 3.0], [5.0, 7.0]])
        >>> fuse(z, torch.tensor([[0.5, 0.5], [0.0, 1.0]]))
        tensor([[2., 6.],
                [3., 7.]])
        >>> fuse(z, torch.tensor([[0.5, 0.5], [0.0, 1.0]]), torch.tensor([[True, False], [True, True]]))
        tensor([[1., 6.],
                [1., 7.]])
    """
    _check(z, weights)
    with torch.autocast(device_type=z.device.type, enabled=False):
        if mask is None:
            wide = torch.promote_types(z.dtype, torch.float32)
            return _weighted_sums(weights.to(wide), z.to(wide)).to(z.dtype)
        check_mask("fuse", mask, z.shape[0], z.shape[1])
        return _fuse_available(z, weights, mask)


def _weighted_sums(weights: Tensor, z: Tensor) -> Tensor:
    """Sum over m of weights (E, M) times z (N, M, ...), as one matrix product with M first: (E, N, ...).

    Weights (N, E, M) are one small product for each sample.
    """
    if weights.ndim == 3:
        sums = weights @ rearrange(z, "n m ... -> n m (...)")
        return rearrange(sums, "n e d -> e n d").reshape(weights.shape[1], z.shape[0], *z.shape[2:])
    columns = z.movedim(1, 0).contiguous()
    return (weights @ columns.flatten(1)).view(weights.shape[0], *columns.shape[1:])


def _fuse_available(z: Tensor, weights: Tensor, mask: Tensor) -> Tensor:
    """Fuse what the mask allows: two matrix products, W (a z) and W a, in float32 or wider."""
    wide = torch.promote_types(z.dtype, torch.float32)
    weights, a = weights.to(wide), mask.to(wide)
    z_available = torch.where(append_axes(mask, z), z, 0.0).to(wide)
    weighted = _weighted_sums(weights, z_available)
    available = append_axes(_weighted_sums(weights, a), weighted)
    total = append_axes(
        weights.sum(dim=-1) if weights.ndim == 2 else weights.sum(dim=-1).T, weighted
    )
    mean = z_available.sum(dim=1) / append_axes(a.sum(dim=1).clamp(min=1), z_available[:, 0])
    limits = torch.finfo(wide)
    vanished = available < limits.tiny / limits.eps
    # num / den before * total: neither a value nor a gradient can overflow above the limit.
    proportional = weighted / torch.where(vanished, 1.0, available)
    return (total * torch.where(vanished, mean, proportional)).to(z.dtype)


def _check(z: Tensor, weights: Tensor) -> None:
    check_z("fuse", z)
    check_floating("fuse", "weights", weights)
    fits = weights.ndim == 2 or (weights.ndim == 3 and weights.shape[0] == z.shape[0])
    if not fits or weights.shape[-1] != z.shape[1]:
        raise ValueError(
            f"fuse: `weights` must have shape (E, M), or (N, E, M) with N = {z.shape[0]}, and M = {z.shape[1]} as in "
            f"`z`, got {tuple(weights.shape)}."
        )
