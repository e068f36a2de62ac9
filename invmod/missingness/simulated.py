"""Simulated missingness: hide modalities of rows that have them."""

from __future__ import annotations

import math
from numbers import Integral
from typing import NamedTuple

import torch
from torch import Tensor

from invmod.missingness.masks import check_any_mask, checked_rows


class SimulatedMissing(NamedTuple):
    """What `simulate_missing` returns: the new mask, and by how many rows it fell short of the rate.

    Example:
        >>> only_one_modality = torch.ones(2, 1, dtype=torch.bool)
        >>> result = simulate_missing(only_one_modality, 0.5)  # no row may lose its last modality
        >>> result.mask.all(), result.shortfall
        (tensor(True), 1)
    """

    mask: Tensor
    shortfall: int


def simulate_missing(
    mask: Tensor,
    rate: float,
    *,
    rows: Tensor | None = None,
    num_missing: int = 1,
    generator: torch.Generator | None = None,
) -> SimulatedMissing:
    r"""Hide `num_missing` random modalities of an exact share of the rows, and never all of a row.

    Of the n given rows, exactly :math:`\lfloor \mathrm{rate} \cdot n + 1/2 \rfloor` are drawn uniformly among those
    that have more than `num_missing` modalities; each loses `num_missing` of its own, chosen uniformly. Where too few
    rows are eligible all of them lose, and the difference is returned.

    Arguments:
        mask: bool (N, M), what is available before.
        rate: share of the rows that lose something, in [0, 1].
        rows: int64 (n,), the rows that may lose; all N where None.
        num_missing: how many modalities a drawn row loses, at least 1.
        generator: source of randomness; the global one where None.

    Returns:
        `SimulatedMissing(mask, shortfall)`: a new mask (N, M) and the number of rows missing to the exact share.

    Raises:
        TypeError: the mask is not bool, rows are not int64 of shape (n,), or `num_missing` is not an int.
        ValueError: `rate` outside [0, 1], `num_missing` below 1, rows out of range or given twice.

    References:
        Bai et al., Multimodality Invariant Learning for Multimedia-Based New Item Recommendation, SIGIR 2024,
        section 5.1.1 (one modality of 50% of the test items).

    Example:
        >>> mask, shortfall = simulate_missing(torch.ones(4, 3, dtype=torch.bool), 0.5)
        >>> mask.sum(dim=1).sort().values, shortfall
        (tensor([2, 2, 3, 3]), 0)
    """
    check_any_mask("simulate_missing", mask)
    if not 0 <= rate <= 1:
        raise ValueError(f"simulate_missing: `rate` must lie in [0, 1], got {rate}.")
    if isinstance(num_missing, bool) or not isinstance(num_missing, (int, Integral)):
        raise TypeError(f"simulate_missing: `num_missing` must be an int, got {num_missing!r}.")
    if num_missing < 1:
        raise ValueError(f"simulate_missing: `num_missing` must be at least 1, got {num_missing}.")
    candidates = checked_rows("simulate_missing", rows, mask.shape[0], mask.device)
    wanted = math.floor(rate * len(candidates) + 0.5)
    eligible = candidates[mask[candidates].sum(dim=1) > num_missing]
    order = _random(len(eligible), generator=generator).argsort().to(mask.device)
    drawn = eligible[order[:wanted]]
    new = mask.clone()
    if len(drawn):
        keys = _random(len(drawn), mask.shape[1], generator=generator).to(mask.device)
        lost = torch.where(mask[drawn], keys, -1.0).topk(num_missing, dim=1).indices
        new[drawn[:, None], lost] = False
    return SimulatedMissing(new, wanted - len(drawn))


def _random(*shape: int, generator: torch.Generator | None) -> Tensor:
    device = None if generator is None else generator.device
    return torch.rand(shape, generator=generator, device=device, dtype=torch.float64)
