"""Simulated missingness with an exact number of rows or modalities, and its result type."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from invmod._checks import check_count, checked_rows
from invmod.missingness.masks import check_any_mask


@dataclass(frozen=True, eq=False)
class SimulatedMissing:
    """The result of every simulator: the natural mask, the simulated mask and the hidden rates.

    An unavailable cell is False in exactly one of `natural` and `simulated`, which shows why it is
    missing. The result unpacks to ``mask, shortfall``.

    Attributes:
        natural: bool (N, M), the mask passed to the simulator: True where the data have the
            modality.
        simulated: bool (N, M), False in the cells that the simulation hides and True in all others.
        mask: bool (N, M), ``natural & simulated``: the cells that a model may use.
        rows: int64 (n,), the rows that could lose modalities.
        expected_rates: float64 (M,), the exact expected share of each modality's cells that the
            simulation hides, among the naturally available cells in `rows`. This effective rate is
            smaller than the requested one if rows have to keep their last modality. NaN if the
            modality has no such cell.
        rates: float64 (M,), the share of the same cells that this draw hides.
        shortfall: the difference between the requested and the drawn number of rows; 0 for a
            simulator without an exact count.

    Example:
        >>> only_one_modality = torch.ones(2, 1, dtype=torch.bool)
        >>> result = simulate_missing(only_one_modality, 0.5)  # no row may lose its last modality
        >>> result.mask.all(), result.shortfall
        (tensor(True), 1)
        >>> natural = torch.tensor([[True, True], [True, False]])
        >>> result = simulate_k_available(natural, 1)
        >>> result.simulated.sum(dim=1)  # the cell of the second row is missing naturally
        tensor([1, 2])
        >>> result.mask.sum(dim=1), result.expected_rates
        (tensor([1, 1]), tensor([0.2500, 0.5000], dtype=torch.float64))
    """

    natural: Tensor
    simulated: Tensor
    rows: Tensor
    expected_rates: Tensor
    shortfall: int = 0

    @property
    def mask(self) -> Tensor:
        """bool (N, M): ``natural & simulated``."""
        return self.natural & self.simulated

    @property
    def rates(self) -> Tensor:
        """float64 (M,): the hidden share of the naturally available cells in `rows`."""
        available = self.natural[self.rows]
        return mean_over_available((~self.simulated[self.rows]).double(), available)

    def __iter__(self) -> Iterator[Any]:
        yield self.mask
        yield self.shortfall


def mean_over_available(x: Tensor, available: Tensor) -> Tensor:
    """Return the means (M,) of x (n, M) over the available cells; NaN for an empty column."""
    return torch.where(available, x, 0.0).sum(dim=0) / available.sum(dim=0)


def simulate_missing(
    mask: Tensor,
    rate: float,
    *,
    rows: Tensor | None = None,
    num_missing: int = 1,
    generator: torch.Generator | None = None,
) -> SimulatedMissing:
    r"""Hide `num_missing` random modalities in an exact share of the rows, never all of a row.

    Of the n given rows, exactly :math:`\lfloor \mathrm{rate} \cdot n + 1/2 \rfloor` are drawn
    uniformly among those that have more than `num_missing` modalities. Each drawn row loses
    `num_missing` of its modalities, chosen uniformly. If too few rows are eligible, all of them are
    drawn and the difference is returned as the shortfall.

    Arguments:
        mask: bool (N, M), the availability before the simulation.
        rate: share of the rows that lose modalities, in [0, 1].
        rows: int64 (n,), the rows that may lose modalities; all N if None.
        num_missing: number of modalities that a drawn row loses, at least 1.
        generator: source of randomness; None is the global generator.

    Returns:
        `SimulatedMissing`, which unpacks to the new mask (N, M) and the shortfall in rows.

    Raises:
        TypeError: the mask is not bool, rows are not int64 of shape (n,), or `num_missing` is not
            an int.
        ValueError: `rate` outside [0, 1], `num_missing` below 1, rows out of range or given twice.

    References:
        Bai et al., Multimodality Invariant Learning for Multimedia-Based New Item Recommendation,
        SIGIR 2024, section 5.1.1 (one modality of 50% of the test items).

    Example:
        >>> mask, shortfall = simulate_missing(torch.ones(4, 3, dtype=torch.bool), 0.5)
        >>> mask.sum(dim=1).sort().values, shortfall
        (tensor([2, 2, 3, 3]), 0)
    """
    check_any_mask("simulate_missing", mask)
    if not 0 <= rate <= 1:
        raise ValueError(f"simulate_missing: `rate` must lie in [0, 1], got {rate}.")
    num_missing = check_count("simulate_missing", "num_missing", num_missing)
    candidates = checked_rows("simulate_missing", rows, mask.shape[0], mask.device)
    wanted = math.floor(rate * len(candidates) + 0.5)
    available = mask[candidates]
    counts = available.sum(dim=1)
    eligible = candidates[counts > num_missing]
    order = uniform(len(eligible), generator=generator).argsort().to(mask.device)
    drawn = eligible[order[:wanted]]
    simulated = torch.ones_like(mask)
    if len(drawn):
        keys = uniform(len(drawn), mask.shape[1], generator=generator).to(mask.device)
        # The largest of independent uniform keys are a uniform choice without replacement; the key
        # -1 excludes modalities that the row does not have.
        lost = torch.where(mask[drawn], keys, -1.0).topk(num_missing, dim=1).indices
        simulated[drawn[:, None], lost] = False
    # A row with `count` modalities loses a given one with probability num_missing / count if drawn.
    share = len(drawn) / max(len(eligible), 1)
    p_hidden = torch.where(counts > num_missing, share * num_missing / counts.double(), 0.0)
    expected = mean_over_available(p_hidden[:, None], available)
    return SimulatedMissing(mask.clone(), simulated, candidates, expected, wanted - len(drawn))


def simulate_k_available(
    mask: Tensor,
    k: int,
    *,
    rows: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> SimulatedMissing:
    r"""Keep exactly k modalities of every row, chosen uniformly among its available ones.

    .. math::
        P(S_n = S) = \binom{|A_n|}{k}^{-1} \quad\text{for every}\quad S \subseteq A_n, \; |S| = k

    where :math:`A_n` are the modalities that row n has and :math:`S_n` those that it keeps. A row
    that has k or fewer keeps all of them; the rows that have fewer than k are counted in
    `shortfall`. To hide exactly k instead, call ``simulate_missing(mask, 1.0, num_missing=k)``.

    Arguments:
        mask: bool (N, M), the availability before the simulation.
        k: number of modalities that a row keeps, from 1 to M.
        rows: int64 (n,), the rows that may lose modalities; all N if None.
        generator: source of randomness; None is the global generator.

    Returns:
        `SimulatedMissing`, which unpacks to the new mask (N, M) and the number of rows that have
        fewer than k.

    Raises:
        TypeError: the mask is not bool, rows are not int64 of shape (n,), or k is not an int.
        ValueError: k outside [1, M], rows out of range or given twice.

    References:
        Wu and Goodman, Multimodal Generative Models for Scalable Weakly-Supervised Learning,
        NeurIPS 2018, section 2.2 (random subsets of modalities as terms of the training objective).

    Example:
        >>> natural = torch.tensor([[True, True, True], [False, True, True], [True, False, False]])
        >>> mask, shortfall = simulate_k_available(natural, 2)
        >>> mask.sum(dim=1), shortfall
        (tensor([2, 2, 1]), 1)
    """
    check_any_mask("simulate_k_available", mask)
    k = check_count("simulate_k_available", "k", k)
    if k > mask.shape[1]:
        raise ValueError(f"simulate_k_available: `k` must be at most M = {mask.shape[1]}, got {k}.")
    chosen = checked_rows("simulate_k_available", rows, mask.shape[0], mask.device)
    available = mask[chosen]
    keys = uniform(*available.shape, generator=generator).to(mask.device)
    # As in `simulate_missing`, the k largest uniform keys are a uniform choice. A row with fewer
    # than k modalities also selects unavailable cells, which stay unavailable in `mask`.
    selected = torch.where(available, keys, -1.0).topk(k, dim=1).indices
    kept = torch.zeros_like(available).scatter_(1, selected, True)
    simulated = torch.ones_like(mask)
    simulated[chosen] = kept | ~available
    counts = available.sum(dim=1)
    p_hidden = ((counts - k) / counts.clamp(min=1).double()).clamp(min=0.0)
    expected = mean_over_available(p_hidden[:, None], available)
    return SimulatedMissing(mask.clone(), simulated, chosen, expected, int((counts < k).sum()))


def uniform(*shape: int, generator: torch.Generator | None) -> Tensor:
    """Return float64 draws from [0, 1) on the generator's device."""
    device = None if generator is None else generator.device
    return torch.rand(shape, generator=generator, device=device, dtype=torch.float64)
