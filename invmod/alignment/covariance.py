"""Covariances of the modalities, over the samples of a batch."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from invmod.alignment.pairs import checked, pairs


def coral_alignment_loss(
    z: Tensor,
    mask: Tensor | None = None,
    *,
    means: bool = False,
    normalisation: Literal["paper", "mean"] = "paper",
    anchor: int | None = None,
    stop_gradient: bool = False,
    reduction: Literal["sum", "mean"] = "mean",
) -> Tensor:
    r"""Squared differences between the covariances of modalities, each pair over the samples that have both.

    .. math::
        \ell_{m m'} = \frac{1}{4 D^2} \lVert C_m - C_{m'} \rVert_F^2, \qquad
        C_m = \frac{1}{n - 1} \sum_j b_j (c_{jm} - \bar c_m) (c_{jm} - \bar c_m)^\top, \qquad
        b_j = a_{jm} a_{jm'}, \quad n = \sum_j b_j

    The distributions of two modalities are drawn together, not the two sides of each sample: weaker than the other
    losses, and right where modalities should live in one space but say different things. It needs the samples of a
    batch together: gather embeddings before, where a batch is spread over processes.

    Arguments:
        z: (N, M, D) encoded modalities, or (N, V, D) views of a sample.
        mask: bool (N, M), the modalities that were *observed* (not imputed); all where None.
        means: add :math:`\frac{1}{D} \lVert \bar c_m - \bar c_{m'} \rVert^2`, the same in both normalisations.
        normalisation: ``"paper"``: :math:`1 / (4 D^2)`. ``"mean"``: :math:`1 / D^2`, the mean over entries.
        anchor: compare this modality with each of the others, not all pairs.
        stop_gradient: hold the anchor fixed: it is a teacher, which is not drawn to the others.
        reduction: ``"sum"``: over pairs of modalities. ``"mean"``: over those that at least two samples have both of.

    Returns:
        a scalar in float32 or wider. A pair with fewer than two samples has no covariance and does not count; without
        any pair that does the loss is a 0 that is attached to the graph, with zero gradient.

    Raises:
        TypeError: z is not floating point, the mask is not bool, or `anchor` is not an int.
        ValueError: shapes do not fit, an anchor outside the modalities, a stop without an anchor, or an unknown
            normalisation or reduction.

    References:
        Sun and Saenko, Deep CORAL: Correlation Alignment for Deep Domain Adaptation, ECCV 2016 Workshops, Eq. 1 to 3.

    Example:
        >>> z = torch.tensor([[[0.0], [0.0]], [[2.0], [4.0]]])  # variances 2 and 8
        >>> coral_alignment_loss(z), coral_alignment_loss(z, normalisation="mean")
        (tensor(9.), tensor(36.))
    """
    function = "coral_alignment_loss"
    if normalisation not in ("paper", "mean"):
        raise ValueError(
            f"{function}: `normalisation` must be 'paper' or 'mean', got {normalisation!r}."
        )
    if reduction not in ("sum", "mean"):
        raise ValueError(f"{function}: `reduction` must be 'sum' or 'mean', got {reduction!r}.")
    z, mask = checked(function, z, mask, anchor, stop_gradient)
    available = torch.where(mask[..., None], z, 0.0)
    dim = max(z.shape[2], 1)
    scale = 1 / dim**2 / (4 if normalisation == "paper" else 1)
    total = (available[:, :, :1] * 0.0).sum()
    count = torch.zeros((), dtype=z.dtype, device=z.device)
    with torch.autocast(device_type=z.device.type, enabled=False):
        for first, second in pairs(z.shape[1], anchor):
            both = mask[:, first] & mask[:, second]
            enough = both.sum() >= 2
            mean_a, covariance_a = _moments(available[:, first], both)
            mean_b, covariance_b = _moments(available[:, second], both)
            loss = scale * (covariance_a - covariance_b).square().sum()
            if means:
                loss = loss + (mean_a - mean_b).square().sum() / dim
            total = total + torch.where(enough, loss, 0.0)
            count = count + enough
    return total if reduction == "sum" else total / count.clamp(min=1)


def _moments(x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean (D,) and covariance (D, D) over the rows (N,) bool of x (N, D)."""
    share = rows.to(x.dtype)
    mean = share @ x / share.sum().clamp(min=1)
    deviations = torch.where(rows[:, None], x - mean, 0.0)
    return mean, deviations.T @ deviations / (share.sum() - 1).clamp(min=1)
