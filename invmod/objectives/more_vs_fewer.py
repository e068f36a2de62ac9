"""Ranking of losses: more modalities should not make a prediction worse."""

from __future__ import annotations

import torch
from torch import Tensor

from invmod._checks import check_floating, describe_type, values_are_known


def more_vs_fewer_loss(
    more: Tensor,
    fewer: Tensor,
    mask_more: Tensor | None = None,
    mask_fewer: Tensor | None = None,
    *,
    detach_fewer: bool = False,
) -> Tensor:
    r"""Amount by which samples are predicted worse with more modalities than with fewer.

    .. math::
        \frac{1}{n} \sum_{i : a_i^+ \neq a_i^-} \max(0, \; l_i^+ - l_i^-), \qquad
        a_i^- \subseteq a_i^+

    where :math:`l_i^+` and :math:`l_i^-` are the losses of sample i under its masks :math:`a_i^+`
    (more modalities) and :math:`a_i^-` (fewer), and n is the number of samples whose masks differ.
    Add it to the mean losses with a weight, 0.1 in the paper:
    :math:`\bar l^+ + \bar l^- + \lambda \, \mathrm{loss}`. It assumes that every modality helps.

    The gradient is 1/n for :math:`l_i^+` and -1/n for :math:`l_i^-` where the order is violated.
    The negative one pays the model for getting *worse* with fewer modalities. Within the sum above
    :math:`l_i^-` keeps the positive coefficient :math:`1 - \lambda` for :math:`\lambda < 1`.
    With a larger weight, or without the term :math:`\bar l^-`, use `detach_fewer`.

    Arguments:
        more: (N,) losses with more modalities, one per sample.
        fewer: (N,) losses of the same samples with fewer modalities.
        mask_more, mask_fewer: bool (N, M), the two masks; give both or neither. Samples whose masks
            are equal do not count. None means that all samples count.
        detach_fewer: treat :math:`l_i^-` as a constant, so that the only way to lower this loss is
            to get better with more modalities.

    Returns:
        a scalar in float32 or wider. Without a sample that counts it is a 0 that is attached to the
        graph and has zero gradient. NaN in a loss that counts gives NaN.

    Raises:
        TypeError: losses are not floating-point tensors, or masks are not two bool tensors.
        ValueError: shapes do not fit, or a modality is available in `mask_fewer` and not in
            `mask_more` (not checked under `torch.compile`).

    References:
        SimMLM: A Simple Framework for Multi-modal Learning with Missing Modality, ICCV 2025
        (arXiv 2507.19264), the more-versus-fewer ranking loss.

    Example:
        >>> more, fewer = torch.tensor([1.0, 3.0]), torch.tensor([2.0, 1.0])
        >>> more_vs_fewer_loss(more, fewer)  # (0 + 2) / 2
        tensor(1.)
        >>> masks = torch.ones(2, 2, dtype=torch.bool), torch.tensor([[True, True], [True, False]])
        >>> more_vs_fewer_loss(more, fewer, *masks)  # only the second sample has fewer modalities
        tensor(2.)
    """
    more, fewer, counts = _checked("more_vs_fewer_loss", more, fewer, mask_more, mask_fewer)
    if detach_fewer:
        fewer = fewer.detach()
    # Select before the difference: NaN in a sample that does not count must not reach a gradient.
    excess = torch.where(counts, more, 0.0) - torch.where(counts, fewer, 0.0)
    return excess.clamp_min(0).sum() / counts.sum().clamp(min=1)


def counter_intuitive_rate(
    more: Tensor,
    fewer: Tensor,
    mask_more: Tensor | None = None,
    mask_fewer: Tensor | None = None,
) -> Tensor:
    r"""Share of samples that are predicted worse with more modalities than with fewer.

    .. math::
        \frac{1}{n} \sum_{i : a_i^+ \neq a_i^-} \mathbf 1 [l_i^+ > l_i^-]

    in the notation of `more_vs_fewer_loss`, of which this is the figure to report.

    Arguments:
        more, fewer: (N,) losses, as in `more_vs_fewer_loss`.
        mask_more, mask_fewer: bool (N, M), as in `more_vs_fewer_loss`.

    Returns:
        a scalar without a gradient. It is NaN if no sample counts, or if a loss that counts is NaN.

    Raises:
        TypeError, ValueError: as in `more_vs_fewer_loss`.

    References:
        SimMLM, ICCV 2025 (arXiv 2507.19264).

    Example:
        >>> counter_intuitive_rate(torch.tensor([1.0, 3.0]), torch.tensor([2.0, 1.0]))
        tensor(0.5000)
    """
    more, fewer, counts = _checked("counter_intuitive_rate", more, fewer, mask_more, mask_fewer)
    excess = (more - fewer).detach()
    # A comparison with NaN is False and would hide it.
    worse = torch.where(excess.isnan(), excess, (more > fewer).to(more.dtype))
    return torch.where(counts, worse, 0.0).sum() / counts.sum()


def _checked(
    function: str,
    more: Tensor,
    fewer: Tensor,
    mask_more: Tensor | None,
    mask_fewer: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the losses in float32 or wider, and bool (N,): the samples that count."""
    for name, losses in (("more", more), ("fewer", fewer)):
        check_floating(function, name, losses)
    if more.ndim != 1 or more.shape != fewer.shape:
        raise ValueError(
            f"{function}: `more` and `fewer` must have shape (N,), one loss per sample, got "
            f"{tuple(more.shape)} and {tuple(fewer.shape)}."
        )
    dtype = torch.promote_types(torch.promote_types(more.dtype, fewer.dtype), torch.float32)
    more, fewer = more.to(dtype), fewer.to(dtype)
    if mask_more is None and mask_fewer is None:
        return more, fewer, torch.ones_like(more, dtype=torch.bool)
    return more, fewer, _differing_rows(function, mask_more, mask_fewer, more.shape[0])


def _differing_rows(
    function: str, mask_more: Tensor | None, mask_fewer: Tensor | None, num_rows: int
) -> Tensor:
    """Check the masks; return bool (N,), True where the two masks of a row differ."""
    if mask_more is None or mask_fewer is None:
        raise TypeError(f"{function}: give both `mask_more` and `mask_fewer`, or neither.")
    for name, mask in (("mask_more", mask_more), ("mask_fewer", mask_fewer)):
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
            raise TypeError(
                f"{function}: `{name}` must be a bool tensor (N, M), got {describe_type(mask)}"
            )
    if mask_more.ndim != 2 or mask_more.shape[0] != num_rows or mask_more.shape != mask_fewer.shape:
        raise ValueError(
            f"{function}: `mask_more` and `mask_fewer` must have shape (N, M) with N = {num_rows}, "
            f"got {tuple(mask_more.shape)} and {tuple(mask_fewer.shape)}."
        )
    if values_are_known(mask_more):
        rows = (mask_fewer & ~mask_more).any(dim=1).nonzero()[:, 0].tolist()
        if rows:
            raise ValueError(
                f"{function}: `mask_fewer` must be a part of `mask_more`, but {len(rows)} rows "
                f"have a modality in `mask_fewer` alone, the first is row {rows[0]}. Use "
                "`mask_fewer & mask_more`."
            )
    return (mask_more != mask_fewer).any(dim=1)
