"""Fusion without environments or parameters: the masked mean and the product of experts."""

from __future__ import annotations

from typing import NamedTuple

import torch
from einops import reduce
from torch import Tensor

from invmod._checks import check_floating, check_z
from invmod.missingness.masks import append_axes, check_mask


def check_z_and_mask(
    function: str, z: Tensor, mask: Tensor | None, ndim: int | None = None
) -> Tensor:
    """Check z (N, M, ...) and the mask; return the mask (N, M), all True for None."""
    check_z(function, z, ndim=ndim)
    if mask is None:
        return torch.ones(z.shape[:2], dtype=torch.bool, device=z.device)
    check_mask(function, mask, z.shape[0], z.shape[1])
    return mask


def available_cells(
    function: str, z: Tensor, mask: Tensor | None, sizes: tuple[int, ...] | None = None
) -> tuple[Tensor, Tensor]:
    """Check z (N, M, D), with M and D in `sizes` if they are given, and the mask.

    Returns:
        z in float32 or wider, with 0 in the unavailable cells, and the mask (N, M).
    """
    mask = check_z_and_mask(function, z, mask, ndim=3)
    if sizes is not None and z.shape[1:] != sizes:
        raise ValueError(
            f"{function}: `z` must have shape (N, {sizes[0]}, {sizes[1]}), got {tuple(z.shape)}."
        )
    wide = torch.promote_types(z.dtype, torch.float32)
    return torch.where(mask[..., None], z, 0.0).to(wide), mask


def masked_mean(z: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""Fuse by the mean of the available modalities.

    .. math::
        h_n = \frac{\sum_m a_{nm} z_{nm}}{\sum_m a_{nm}}

    where :math:`z_{nm}` is the row of `z` for sample n and modality m, and :math:`a_{nm}` is 1
    where the mask is True. `invmod.fuse` with one uniform environment gives the same numbers with
    an additional axis E = 1. The content of an unavailable cell, NaN included, changes neither the
    output nor the gradient of z; the encoder that made z needs the mask too. NaN in an available
    cell comes out as NaN.

    Arguments:
        z: (N, M, ...), for example embeddings (N, M, D) or scores (N, M).
        mask: bool (N, M), True where a cell may be used. None means all.

    Returns:
        (N, ...) in the dtype of z, computed in float32 or wider; 0 where nothing is available.

    Raises:
        TypeError: z is not floating point, or the mask is not bool.
        ValueError: shapes do not fit.

    Example:
        >>> z = torch.tensor([[1.0, 3.0], [5.0, float("nan")]])
        >>> masked_mean(z, torch.tensor([[True, True], [True, False]]))
        tensor([2., 5.])
    """
    mask = check_z_and_mask("masked_mean", z, mask)
    available = torch.where(append_axes(mask, z), z, 0.0).to(
        torch.promote_types(z.dtype, torch.float32)
    )
    total = reduce(available, "n m ... -> n ...", "sum")
    count = reduce(mask, "n m -> n", "sum").clamp(min=1).to(total.dtype)
    return (total / append_axes(count, total)).to(z.dtype)


class Gaussian(NamedTuple):
    """Mean and log variance of a diagonal Gaussian, the result of `product_of_experts`.

    Example:
        >>> fused = product_of_experts(torch.zeros(1, 1, 2), torch.zeros(1, 1, 2))
        >>> fused.mean.shape, fused.log_variance.exp()
        (torch.Size([1, 2]), tensor([[0.5000, 0.5000]]))
    """

    mean: Tensor
    log_variance: Tensor


def product_of_experts(
    mean: Tensor, log_variance: Tensor, mask: Tensor | None = None, *, prior: bool = True
) -> Gaussian:
    r"""Fuse one diagonal Gaussian per modality by the product of their densities.

    .. math::
        \frac{1}{\sigma_n^2} = [1 +] \sum_m \frac{a_{nm}}{\sigma_{nm}^2}, \qquad
        \mu_n = \sigma_n^2 \sum_m \frac{a_{nm} \, \mu_{nm}}{\sigma_{nm}^2}

    where :math:`\mu_{nm}` and :math:`\sigma_{nm}^2` are the mean and variance of modality m for
    sample n, :math:`a_{nm}` is 1 where the mask is True, and the 1 in brackets is added if there is
    a standard normal prior. The operations are elementwise. A modality with a smaller variance has
    a larger weight, and every further modality lowers the variance of the result. With equal
    variances and without a prior the mean is `invmod.masked_mean`.

    Arguments:
        mean, log_variance: (N, M, D), :math:`\mu` and :math:`\log \sigma^2`.
        mask: bool (N, M), True where a cell may be used. None means all.
        prior: also multiply by a standard normal, so that the result is proper without modalities.

    Returns:
        ``Gaussian(mean, log_variance)``, each (N, D) in the dtype of `mean`, computed in float32 or
        wider. If nothing is available, the result is the prior (0 and 0). Without a prior it is
        the flat, improper Gaussian with mean 0 and log variance inf.

    Raises:
        TypeError: an input is not floating point, or the mask is not bool.
        ValueError: shapes do not fit.

    References:
        Hinton, Training Products of Experts by Minimizing Contrastive Divergence, 2002; Wu and
        Goodman, Multimodal Generative Models for Scalable Weakly-Supervised Learning,
        NeurIPS 2018, section 2.2.

    Example:
        >>> mean = torch.tensor([[[0.0], [3.0]]])
        >>> log_variance = torch.tensor([[[2.0], [1.0]]]).log()
        >>> fused = product_of_experts(mean, log_variance, prior=False)
        >>> fused.mean, fused.log_variance.exp()
        (tensor([[2.]]), tensor([[0.6667]]))
    """
    function = "product_of_experts"
    mask = check_z_and_mask(function, mean, mask, ndim=3)
    check_floating(function, "log_variance", log_variance)
    if log_variance.shape != mean.shape:
        raise ValueError(
            f"{function}: `log_variance` must have the shape {tuple(mean.shape)} of `mean`, "
            f"got {tuple(log_variance.shape)}."
        )
    wide = torch.promote_types(torch.promote_types(mean.dtype, log_variance.dtype), torch.float32)
    cells = mask[..., None]
    # Work with log precisions: the weights of the mean are their softmax, which cannot overflow.
    # An unavailable expert has precision 0, hence log precision -inf.
    log_precision = torch.where(cells, -log_variance.to(wide), -torch.inf)
    means = torch.where(cells, mean, 0.0).to(wide)
    if prior:
        # The prior is one more expert with mean 0 and log precision 0.
        log_precision = torch.cat([log_precision, torch.zeros_like(log_precision[:, :1])], dim=1)
        means = torch.cat([means, torch.zeros_like(means[:, :1])], dim=1)
    any_expert = torch.ones_like(cells[:, 0]) if prior else cells.any(dim=1)
    # The softmax of a column of -inf has a NaN gradient, so columns without experts are set to 0.
    safe = torch.where(any_expert[:, None], log_precision, 0.0)
    fused = reduce(safe.softmax(dim=1) * means, "n m d -> n d", "sum")
    log_total = torch.where(any_expert, -safe.logsumexp(dim=1), torch.inf)
    return Gaussian(fused.to(mean.dtype), log_total.to(mean.dtype))
