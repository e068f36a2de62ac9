"""Diagnostics of environments: which modality dominates, how often, and the distance to uniform."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from invmod._checks import check_floating, values_are_known


class Dominance(NamedTuple):
    """Result of `dominance`, in float64.

    Attributes:
        share: (M,) share of the rows in which each modality has the largest weight.
        largest: () mean of the largest weight of a row.
        distance: () mean total variation distance between a row and the uniform row.

    Example:
        >>> import torch
        >>> share, largest, distance = dominance(torch.eye(2))
        >>> share, largest.item(), distance.item()
        (tensor([0.5000, 0.5000], dtype=torch.float64), 1.0, 0.5)
    """

    share: Tensor
    largest: Tensor
    distance: Tensor


def dominance(weights: Tensor) -> Dominance:
    r"""Measure how often each modality dominates, and how far the environments are from uniform.

    .. math::
        \mathrm{share}_m &= \frac{1}{R} \sum_r \frac{\mathbf 1 [w_{rm} = \max_j w_{rj}]}
            {\#\{j : w_{rj} = \max_k w_{rk}\}} \\
        \mathrm{largest} &= \frac{1}{R} \sum_r \max_m w_{rm} \\
        \mathrm{distance} &= \frac{1}{R} \sum_r \frac{1}{2} \sum_m \Big| w_{rm} - \frac{1}{M} \Big|

    where :math:`w_{rm}` is the weight of modality m in row r, and R is the number of rows.
    Modalities that tie for the largest weight of a row share its count equally, so the shares sum
    to 1 and a uniform row counts 1/M for each modality. The distance is the total variation
    distance: 0 for uniform rows and :math:`1 - 1/M` for one-hot rows.

    Arguments:
        weights: (..., M), rows on the simplex, such as a large sample of the environments.

    Returns:
        ``Dominance(share, largest, distance)``: (M,), () and (), in float64.

    Raises:
        TypeError: the weights are not floating point.
        ValueError: there is no row or no modality, or a row contains NaN.

    Example:
        >>> import torch
        >>> share, largest, distance = dominance(torch.tensor([[0.75, 0.25], [0.5, 0.5]]))
        >>> share.tolist(), largest.item(), distance.item()
        ([0.75, 0.25], 0.625, 0.125)
    """
    check_floating("dominance", "weights", weights)
    if weights.ndim == 0 or weights.numel() == 0:
        raise ValueError(
            "dominance: `weights` must have shape (..., M) with at least one row, "
            f"got {tuple(weights.shape)}."
        )
    rows = weights.detach().flatten(0, -2) if weights.ndim > 1 else weights.detach()[None]
    largest = rows.amax(dim=1, keepdim=True)
    if values_are_known(largest) and largest.isnan().any():
        raise ValueError("dominance: `weights` contains a row with NaN.")
    # Exact equality: only weights that are equal in their own dtype tie.
    ties = (rows == largest).double()
    share = (ties / ties.sum(dim=1, keepdim=True)).mean(dim=0)
    distance = (rows.double() - 1 / rows.shape[1]).abs().sum(dim=1).mean() / 2
    return Dominance(share, largest.double().mean(), distance)
