"""The expected value of each metric if every user's candidates are ranked in a random order."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["chance_metrics"]


def chance_metrics(
    counts: Tensor, num_candidates: int, ks: Sequence[int] = (10, 20)
) -> dict[str, Tensor]:
    """Expected Recall, NDCG, hit rate and MRR at each K of a random order, for every user.

    With n positives of a user among C candidates, every rank r from 0 to C - 1 is a positive's with
    probability n / C, and no positive is among the first r with the probability

        S(r) = prod_{j < r} (C - n - j) / (C - j)

        E[recall@K] = min(K, C) / C
        E[ndcg@K]   = n / C * sum_{r < min(K, C)} 1 / log2(r + 2)
                      / sum_{i < min(n, K)} 1 / log2(i + 2)
        E[hit@K]    = 1 - S(K)
        E[mrr@K]    = sum_{r < K} (S(r) - S(r + 1)) / (r + 1)

    The metrics themselves are those of `ranking.metrics.per_user_metrics`.

    Arguments:
        counts: (n,) int64, the number of positives of each user, from 1 to C.
        num_candidates: C.
        ks: the cut-offs, each at least 1.

    Returns:
        for each metric and K "recall@10" and so on, (n,) float64, on the CPU.

    Raises:
        ValueError: a count is outside 1 to C, or a K is below 1.

    Example:
        >>> chance_metrics(torch.tensor([1, 2]), 4, ks=(2,))["hit@2"]
        tensor([0.5000, 0.8333], dtype=torch.float64)
    """
    if len(counts) and not 1 <= int(counts.min()) <= int(counts.max()) <= num_candidates:
        raise ValueError(
            f"chance_metrics: `counts` must be from 1 to the {num_candidates} candidates, got "
            f"{int(counts.min())} to {int(counts.max())}."
        )
    if any(k < 1 for k in ks):
        raise ValueError(f"chance_metrics: every K must be at least 1, got {tuple(ks)}.")
    n, longest = counts.cpu().double()[:, None], max(ks, default=1)
    ranks = torch.arange(longest, dtype=torch.float64)
    # Beyond the last candidate the numerator is 0 or less, so the denominator does not matter.
    factors = (num_candidates - n - ranks).clamp(min=0) / (num_candidates - ranks).clamp(min=1)
    none_before = torch.cat([torch.ones_like(n), factors.cumprod(dim=1)], dim=1)  # S(0) ... S(K)
    gains = 1 / torch.log2(ranks + 2)
    ideal = gains.cumsum(0)
    columns: dict[str, dict[int, Tensor]] = {"recall": {}, "ndcg": {}, "hit": {}, "mrr": {}}
    for k in ks:
        filled = min(k, num_candidates)
        share = n[:, 0] / num_candidates
        columns["recall"][k] = torch.full_like(share, filled / num_candidates)
        best = ideal[counts.cpu().clamp(max=k) - 1]
        columns["ndcg"][k] = share * gains[:filled].sum() / best
        columns["hit"][k] = 1 - none_before[:, k]
        columns["mrr"][k] = (-none_before.diff(dim=1)[:, :k] / (ranks[:k] + 1)).sum(dim=1)
    return {f"{name}@{k}": values for name, by_k in columns.items() for k, values in by_k.items()}
