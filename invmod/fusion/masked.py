"""Fusion that needs neither environments nor parameters: the mean of what is there, and the product of experts."""

from __future__ import annotations

from typing import NamedTuple

import torch
from einops import reduce
from torch import Tensor

from invmod._checks import check_floating, check_z
from invmod.missingness.masks import append_axes, check_mask


def checked_z(function: str, z: Tensor, mask: Tensor | None, ndim: int | None = None) -> Tensor:
    """Return the mask (N, M), after checking it and z (N, M, ...)."""
    check_z(function, z, ndim=ndim)
    if mask is None:
        return torch.ones(z.shape[:2], dtype=torch.bool, device=z.device)
    check_mask(function, mask, z.shape[0], z.shape[1])
    return mask


def masked_mean(z: Tensor, mask: Tensor | None = None) -> Tensor:
    r"""Fuse by the mean of the modalities that are there.

    .. math::
        h_n = \frac{\sum_m a_{nm} z_{nm}}{\sum_m a_{nm}}

    `invmod.fuse` with one uniform environment gives the same numbers in an axis of its own. What lies in an unavailable
    cell, NaN included, changes neither the output nor a gradient.

    Arguments:
        z: (N, M, ...) what each modality says.
        mask: bool (N, M), True where a cell may be used; all where None.

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
    mask = checked_z("masked_mean", z, mask)
    available = torch.where(append_axes(mask, z), z, 0.0).to(
        torch.promote_types(z.dtype, torch.float32)
    )
    total = reduce(available, "n m ... -> n ...", "sum")
    count = reduce(mask, "n m -> n", "sum").clamp(min=1).to(total.dtype)
    return (total / append_axes(count, total)).to(z.dtype)


class Gaussian(NamedTuple):
    """What `product_of_experts` returns: a mean and a log variance.

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
    r"""Fuse Gaussian beliefs, one of each modality, by the product of their densities.

    .. math::
        \frac{1}{\sigma_n^2} = [1 +] \sum_m \frac{a_{nm}}{\sigma_{nm}^2}, \qquad
        \mu_n = \sigma_n^2 \sum_m \frac{a_{nm} \, \mu_{nm}}{\sigma_{nm}^2}

    with the 1 where there is a standard normal prior. A modality that is sure counts more, entry by entry, and one more
    modality makes the result surer. With equal variances and without a prior the mean is `invmod.masked_mean`.

    Arguments:
        mean, log_variance: (N, M, D), :math:`\mu` and :math:`\log \sigma^2`.
        mask: bool (N, M), True where a cell may be used; all where None.
        prior: multiply by a standard normal as well, so that a sample with nothing has a belief.

    Returns:
        ``Gaussian(mean, log_variance)``, each (N, D) in the dtype of `mean`, computed in float32 or wider. Where
        nothing is available: the prior, 0 and 0; without a prior the flat belief, mean 0 and log variance inf.

    Raises:
        TypeError: an input is not floating point, or the mask is not bool.
        ValueError: shapes do not fit.

    References:
        Hinton, Training Products of Experts by Minimizing Contrastive Divergence, 2002; Wu and Goodman, Multimodal
        Generative Models for Scalable Weakly-Supervised Learning, NeurIPS 2018, section 2.2.

    Example:
        >>> mean, log_variance = torch.tensor([[[0.0], [3.0]]]), torch.tensor([[[2.0], [1.0]]]).log()
        >>> fused = product_of_experts(mean, log_variance, prior=False)
        >>> fused.mean, fused.log_variance.exp()
        (tensor([[2.]]), tensor([[0.6667]]))
    """
    function = "product_of_experts"
    mask = checked_z(function, mean, mask, ndim=3)
    check_floating(function, "log_variance", log_variance)
    if log_variance.shape != mean.shape:
        raise ValueError(
            f"{function}: `log_variance` must have the shape {tuple(mean.shape)} of `mean`, "
            f"got {tuple(log_variance.shape)}."
        )
    wide = torch.promote_types(torch.promote_types(mean.dtype, log_variance.dtype), torch.float32)
    cells = mask[..., None]
    log_precision = torch.where(cells, -log_variance.to(wide), -torch.inf)
    means = torch.where(cells, mean, 0.0).to(wide)
    if prior:
        log_precision = torch.cat([log_precision, torch.zeros_like(log_precision[:, :1])], dim=1)
        means = torch.cat([means, torch.zeros_like(means[:, :1])], dim=1)
    some = torch.ones_like(cells[:, 0]) if prior else cells.any(dim=1)
    safe = torch.where(
        some[:, None], log_precision, 0.0
    )  # where nothing is there, no gradient of -inf
    fused = reduce(safe.softmax(dim=1) * means, "n m d -> n d", "sum")
    log_total = torch.where(some, -safe.logsumexp(dim=1), torch.inf)
    return Gaussian(fused.to(mean.dtype), log_total.to(mean.dtype))
