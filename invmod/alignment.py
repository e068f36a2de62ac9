"""Alignment: draw what two modalities of one sample say towards each other, where both are there."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from invmod.missingness import check_mask

Reduction = Literal["none", "sum", "item_mean", "mean", "element_mean"]


def pairwise_alignment_loss(z: Tensor, mask: Tensor | None = None, *, reduction: Reduction = "mean") -> Tensor:
    r"""Squared distances between all pairs of available modalities.

    .. math::
        s_j = \sum_{m < m'} a_{jm} a_{jm'} \lVert c_{jm} - c_{jm'} \rVert^2
            = n_j \sum_m a_{jm} \lVert c_{jm} - \bar c_j \rVert^2,
        \qquad
        p_j = \sum_{m < m'} a_{jm} a_{jm'} = n_j (n_j - 1) / 2

    with :math:`n_j` available modalities and :math:`\bar c_j` their mean: O(M), not O(M^2).

    Arguments:
        z: (N, M, D) encoded modalities.
        mask: bool (N, M), the modalities that were *observed* (not imputed); all where None.
        reduction: ``"none"``: s (N,). ``"sum"``: :math:`\sum_j s_j`, Eq. 6 to the letter. ``"item_mean"``:
            :math:`\sum_j s_j / N`. ``"mean"``: :math:`\sum_j s_j / \sum_j p_j`. ``"element_mean"``: ``"mean"`` / D, the
            scale of the authors' released code at two modalities.

    Returns:
        a scalar, or (N,) for ``"none"``, in float32 or wider. Without an available pair (no rows, one modality) it is
        a 0 that is attached to the graph, with zero gradient.

    Raises:
        TypeError: z is not floating point, or the mask is not bool.
        ValueError: shapes do not fit, or an unknown reduction.

    References:
        Bai et al., SIGIR 2024, Eq. 6.

    Example:
        >>> z = torch.tensor([[[0.0, 0.0], [3.0, 4.0]], [[1.0, 1.0], [1.0, 2.0]]])
        >>> pairwise_alignment_loss(z, reduction="none")
        tensor([25.,  1.])
        >>> pairwise_alignment_loss(z)
        tensor(13.)
        >>> pairwise_alignment_loss(z, torch.tensor([[True, False], [True, True]]))
        tensor(1.)
    """
    if not z.is_floating_point():
        raise TypeError(f"pairwise_alignment_loss: `z` must be floating point, got {z.dtype}.")
    if z.ndim != 3 or z.shape[1] == 0:
        raise ValueError(f"pairwise_alignment_loss: `z` must have shape (N, M, D) with M >= 1, got {tuple(z.shape)}.")
    if mask is None:
        mask = torch.ones(z.shape[:2], dtype=torch.bool, device=z.device)
    check_mask("pairwise_alignment_loss", mask, z.shape[0], z.shape[1])

    s, n = _scatter(z.to(torch.promote_types(z.dtype, torch.float32)), mask)
    pairs = (n * (n - 1) / 2).sum()

    match reduction:
        case "none":
            return s
        case "sum":
            return s.sum()
        case "item_mean":
            return s.sum() / max(z.shape[0], 1)
        case "mean":
            return s.sum() / pairs.clamp(min=1)
        case "element_mean":
            return s.sum() / (pairs.clamp(min=1) * max(z.shape[2], 1))
        case _:
            raise ValueError(
                "pairwise_alignment_loss: `reduction` must be one of 'none', 'sum', 'item_mean', "
                f"'mean', 'element_mean', got {reduction!r}."
            )


def _scatter(z: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    r"""Return s (N,) and n (N,), modality by modality with a running mean, as Welford does for a variance.

    .. math::
        \delta = c_m - \bar c, \quad n' = n + a_m, \quad
        S' = S + a_m \frac{n}{n'} \lVert \delta \rVert^2, \quad \bar c' = \bar c + \frac{a_m}{n'} \delta,
        \qquad s = n S

    Nothing cancels, and a pass over (N, D) per modality is all it takes: at two modalities this is one difference.
    """
    (first, *others), (a, *masks) = z.unbind(1), mask.unbind(1)
    mean = torch.where(a[:, None], first, 0.0)
    n = a.to(z.dtype)
    # One modality has no pair: a 0 that is attached to the graph, whatever z holds (0 * inf would be NaN).
    scatter = torch.zeros_like(n) if others else torch.where(torch.zeros_like(a)[:, None], mean, 0.0).sum(dim=1)
    for index, (c, a_m) in enumerate(zip(others, masks, strict=True)):
        c = torch.where(a_m[:, None], c, mean)  # no difference where there is nothing
        before, n = n, n + a_m
        scatter = scatter + before / n.clamp(min=1) * F.mse_loss(c, mean, reduction="none").sum(dim=1)
        if index < len(others) - 1:
            mean = mean + (c - mean) / n.clamp(min=1)[:, None]
    return n * scatter, n
