"""Covariance alignment: match the second moments of modalities over the samples of a batch."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from invmod._checks import check_choice
from invmod._precision import without_autocast
from invmod.alignment.pairs import modality_pairs, prepare_inputs


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
    r"""Squared difference of the covariances of two modalities, over the samples that have both.

    .. math::
        \ell_{m m'} = \frac{1}{4 D^2} \lVert C_m - C_{m'} \rVert_F^2, \qquad
        C_m = \frac{1}{n - 1} \sum_j b_j (c_{jm} - \bar c_m) (c_{jm} - \bar c_m)^\top, \qquad
        b_j = a_{jm} a_{jm'}, \quad n = \sum_j b_j

    where :math:`c_{jm}` is the row of `z` for sample j and modality m, :math:`a_{jm}` is 1 where
    the mask is True, and :math:`\bar c_m` is the mean over the n samples that have both modalities.

    The loss pulls the distributions of two modalities together, not the two vectors of each sample.
    It is therefore weaker than the other losses. Use it if modalities should share one space but
    carry different information. The covariance needs all samples of a batch: gather the embeddings
    first if a batch is spread over processes.

    Arguments:
        z: (N, M, D) encoded modalities, or (N, V, D) views of a sample.
        mask: bool (N, M), the modalities that were *observed* (not imputed). None means all.
        means: add :math:`\frac{1}{D} \lVert \bar c_m - \bar c_{m'} \rVert^2`, with the same factor
            in both normalisations.
        normalisation: ``"paper"``: :math:`1 / (4 D^2)`. ``"mean"``: :math:`1 / D^2`, which makes
            the loss the mean over the entries of the matrix.
        anchor: compare this modality with each of the others instead of comparing all pairs.
        stop_gradient: detach the anchor, so that it acts as a teacher: the other modalities move
            towards it, and it gets no gradient.
        reduction: ``"sum"``: the sum over pairs of modalities. ``"mean"``: the mean over the pairs
            of modalities that at least two samples have.

    Returns:
        a scalar in float32 or wider. A pair with fewer than two samples has no covariance and is
        left out. If all pairs are left out, the loss is a 0 that is attached to the graph and has
        zero gradient.

    Raises:
        TypeError: z is not floating point, the mask is not bool, or `anchor` is not an int.
        ValueError: shapes do not fit, `anchor` is not the position of a modality, `stop_gradient`
            is given without `anchor`, or `normalisation` or `reduction` is unknown.

    References:
        Sun and Saenko, Deep CORAL: Correlation Alignment for Deep Domain Adaptation, ECCV 2016
        Workshops, Eq. 1 to 3.

    Example:
        >>> z = torch.tensor([[[0.0], [0.0]], [[2.0], [4.0]]])  # variances 2 and 8
        >>> coral_alignment_loss(z), coral_alignment_loss(z, normalisation="mean")
        (tensor(9.), tensor(36.))
    """
    function = "coral_alignment_loss"
    check_choice(function, "normalisation", normalisation, ("paper", "mean"))
    check_choice(function, "reduction", reduction, ("sum", "mean"))
    z, mask = prepare_inputs(function, z, mask, anchor, stop_gradient)
    # Select, then compute: NaN in an unavailable cell would survive a multiplication by 0.
    available = torch.where(mask[..., None], z, 0.0)
    dim = max(z.shape[2], 1)
    scale = 1 / dim**2 / (4 if normalisation == "paper" else 1)
    # Start from a zero that depends on z, so that the result has a graph even without a pair.
    total = (available[:, :, :1] * 0.0).sum()
    num_compared = torch.zeros((), dtype=z.dtype, device=z.device)
    with without_autocast(z):
        for first, second in modality_pairs(z.shape[1], anchor):
            both = mask[:, first] & mask[:, second]
            has_covariance = both.sum() >= 2
            mean_a, covariance_a = _moments(available[:, first], both)
            mean_b, covariance_b = _moments(available[:, second], both)
            loss = scale * (covariance_a - covariance_b).square().sum()
            if means:
                loss = loss + (mean_a - mean_b).square().sum() / dim
            # A branch on the value would wait for the device, so both cases are computed.
            total = total + torch.where(has_covariance, loss, 0.0)
            num_compared = num_compared + has_covariance
    return total if reduction == "sum" else total / num_compared.clamp(min=1)


def _moments(x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean (D,) and covariance (D, D) of x (N, D) over the rows where `rows` (N,) is True.

    The divisors are at least 1: without enough rows the result is finite, and the caller drops it.
    """
    row_weights = rows.to(x.dtype)
    mean = row_weights @ x / row_weights.sum().clamp(min=1)
    deviations = torch.where(rows[:, None], x - mean, 0.0)
    # The mean of large numbers has a large rounding error, so the deviations are centred again.
    rest = deviations.sum(dim=0) / row_weights.sum().clamp(min=1)
    deviations = torch.where(rows[:, None], deviations - rest, 0.0)
    return mean, deviations.T @ deviations / (row_weights.sum() - 1).clamp(min=1)
