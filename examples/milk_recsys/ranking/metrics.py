"""Ranks of positives among all candidates, and each user's Recall, NDCG, hit rate and MRR."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

__all__ = ["NonFiniteScores", "ScoreBlock", "mean_metrics", "per_user_metrics", "positive_ranks"]

ScoreBlock = Callable[[Tensor], Tensor]
"""Function from user ids (u,) to the scores of C items for these users, (u, C)."""
CPU_COMPARED = 2**18  # Number of scores compared at once on a CPU, to fit its cache.


class NonFiniteScores(ValueError):
    """Scores contain NaN or infinity, and cannot be ranked."""


def positive_ranks(
    score_block: ScoreBlock,
    users: Tensor,
    items: Tensor,
    *,
    num_candidates: int,
    max_elements: int = 2**18,
) -> Tensor:
    """Rank each positive pair among all candidates of its user; the best candidate has rank 0.

    rank = #{c : s_c > s_p} + #{c < p : s_c = s_p}

    where s_c is the user's score of candidate c and p the positive. Of candidates with equal
    scores, the lower position always ranks first. A rank does not depend on which other positives
    are given.

    Arguments:
        score_block: takes u distinct user ids (u,), increasing, and returns their scores of all
            candidates, (u, C).
        users: (P,) int64 user ids, in any order. Only users that occur here are scored. P may be 0.
        items: (P,) int64, each positive's position among the C candidates.
        num_candidates: C.
        max_elements: approximate maximum number of scores in memory (at least one row of C), and
            maximum number compared at once. The default fits a CPU's cache when C is small. If
            fewer than some 200 rows of C fit, raise it, because matrix products of few rows are
            slow. Use a much larger value on a GPU.

    Returns:
        (P,) int64 ranks in 0 to C - 1, in the order of `users`, on its device.

    Raises:
        NonFiniteScores: scores contain NaN or infinity.
        ValueError: scores have another shape, a position is outside 0 to C - 1, or the shapes of
            `users` and `items` differ.

    Example:
        >>> scores = torch.tensor([[0.1, 0.9, 0.5], [0.7, 0.7, 0.2]])
        >>> users, items = torch.tensor([1, 0, 1]), torch.tensor([1, 2, 0])
        >>> positive_ranks(lambda block: scores[block], users, items, num_candidates=3).tolist()
        [1, 1, 0]
    """
    _check_positives(users, items, num_candidates)
    step = max(1, max_elements // max(1, num_candidates))
    compared_rows = (
        max(1, min(max_elements, CPU_COMPARED) // max(1, num_candidates))
        if users.device.type == "cpu"
        else step
    )
    order = torch.argsort(users, stable=True)
    sorted_items = items[order]
    distinct, row, counts = torch.unique_consecutive(
        users[order], return_inverse=True, return_counts=True
    )
    after = counts.cumsum(0)
    ends = [0, *after.tolist()]
    # The first positive of each user is compared with the user's row of scores in place. Only
    # users' further positives need a copy of a row.
    first_of_user = torch.ones_like(row, dtype=torch.bool)
    torch.ne(row[1:], row[:-1], out=first_of_user[1:])
    firsts, further = after - counts, (~first_of_user).nonzero()[:, 0]
    ranks = torch.empty_like(items)
    buffers: list[Tensor] = []
    for first in range(0, len(distinct), step):
        block = distinct[first : first + step]
        scores = _checked_scores(score_block(block), block, num_candidates)
        if not buffers:
            size = min(compared_rows, len(users))
            buffers = [scores.new_empty(size, num_candidates) for _ in range(2)]
        begin, end = ends[first], ends[first + len(block)]
        block_firsts = firsts[first : first + len(block)]
        block_further = further[begin - first : end - first - len(block)]
        for rows, part in zip(
            _parts(scores, compared_rows), _parts(block_firsts, compared_rows), strict=True
        ):
            ranks[order[part]] = _ranks(rows, None, sorted_items[part], buffers)
        for part in _parts(block_further, compared_rows):
            ranks[order[part]] = _ranks(scores, row[part] - first, sorted_items[part], buffers)
    return ranks


def per_user_metrics(
    users: Tensor, ranks: Tensor, ks: Sequence[int] = (10, 20)
) -> dict[str, Tensor]:
    """Recall, NDCG, hit rate and MRR at each K, for every user with a given positive.

    With n the number of positives of a user, and r their ranks (from 0):

        recall@K = #{r < K} / n
        ndcg@K   = sum_{r < K} 1 / log2(r + 2)  /  sum_{i < min(n, K)} 1 / log2(i + 2)
        hit@K    = 1 if any r < K, else 0
        mrr@K    = 1 / (min r + 1) if min r < K, else 0

    Arguments:
        users: (P,) int64 user ids, in any order. P may be 0.
        ranks: (P,) int64, from `positive_ranks`; the ranks of one user are distinct.
        ks: the cut-offs, each at least 1.

    Returns:
        "users" (n,), the distinct user ids, increasing, and for each metric and K "recall@10" and
        so on, (n,) float64. All are on the CPU, where sums have one fixed order. Without any
        positive, all have length 0.

    Raises:
        ValueError: the shapes differ, or a K is below 1.

    Example:
        >>> metrics = per_user_metrics(torch.tensor([7, 7, 3]), torch.tensor([0, 5, 2]), ks=(3,))
        >>> metrics["users"].tolist(), metrics["recall@3"].tolist(), metrics["ndcg@3"][0].item()
        ([3, 7], [1.0, 0.5], 0.5)
    """
    if users.ndim != 1 or users.shape != ranks.shape:
        raise ValueError(
            "per_user_metrics: `users` and `ranks` must have the same shape (P,), "
            f"got {tuple(users.shape)} and {tuple(ranks.shape)}."
        )
    if any(k < 1 for k in ks):
        raise ValueError(f"per_user_metrics: every K must be at least 1, got {tuple(ks)}.")
    ranks = ranks.cpu()
    distinct, row, counts = torch.unique(users.cpu(), return_inverse=True, return_counts=True)

    def sum_by_user(values: Tensor) -> Tensor:
        return torch.zeros(len(distinct), dtype=torch.float64).index_add_(0, row, values)

    best = torch.full_like(distinct, torch.iinfo(torch.int64).max)
    best = best.scatter_reduce_(0, row, ranks, "amin")
    gains = 1 / torch.log2(ranks.double() + 2)
    columns: dict[str, dict[int, Tensor]] = {"recall": {}, "ndcg": {}, "hit": {}, "mrr": {}}
    for k in ks:
        within = ranks < k
        # ideal[i]: DCG of a list whose first i + 1 items are all positives.
        ideal = (1 / torch.log2(torch.arange(k, dtype=torch.float64) + 2)).cumsum(0)
        columns["recall"][k] = sum_by_user(within.double()) / counts
        columns["ndcg"][k] = sum_by_user(gains * within) / ideal[counts.clamp(max=k) - 1]
        columns["hit"][k] = (best < k).double()
        columns["mrr"][k] = torch.where(best < k, 1 / (best.double() + 1), 0.0)
    named = {f"{name}@{k}": values for name, by_k in columns.items() for k, values in by_k.items()}
    return {"users": distinct, **named}


def mean_metrics(per_user: Mapping[str, Tensor]) -> dict[str, float]:
    """Mean of each metric over users, preceded by "users", the number of users.

    A mean over no user is NaN. Leave such a group out of a report.

    Example:
        >>> mean_metrics({"users": torch.tensor([3, 7]), "hit@3": torch.tensor([1.0, 0.0])})
        {'users': 2, 'hit@3': 0.5}
    """
    means = {name: values.mean().item() for name, values in per_user.items() if name != "users"}
    return {"users": len(per_user["users"]), **means}


def _ranks(scores: Tensor, row: Tensor | None, items: Tensor, buffers: list[Tensor]) -> Tensor:
    """Rank candidates among all candidates of a row of scores.

    Arguments:
        scores: (R, C); row: (p,) row of each candidate, or None for one candidate in each row.
        items: (p,) candidates.
        buffers: two tensors of at least (p, C), in the dtype of the scores, to overwrite.

    Returns:
        (p,) ranks.
    """
    rivals, flags = (buffer[: len(items)] for buffer in buffers)
    if row is None:
        rivals = scores
    else:
        torch.index_select(scores, 0, row, out=rivals)
    own = rivals.gather(1, items[:, None])
    # Comparisons are written as 0 and 1 into a reused buffer of the scores' dtype. On a CPU this is
    # several times faster than allocating and summing tensors of bools.
    ranks = torch.gt(rivals, own, out=flags).sum(dim=1).long()
    tied = (torch.eq(rivals, own, out=flags).sum(dim=1) > 1).nonzero()[:, 0]
    if len(tied):
        ahead = torch.arange(scores.shape[1], device=scores.device) < items[tied, None]
        ranks[tied] += (flags[tied].bool() & ahead).sum(dim=1)
    return ranks


def _parts(x: Tensor, size: int) -> list[Tensor]:
    """Split into parts of `size` rows; unlike `torch.split`, no rows give no part."""
    return [x[start : start + size] for start in range(0, len(x), size)]


def _checked_scores(scores: Tensor, block: Tensor, num_candidates: int) -> Tensor:
    if scores.shape != (len(block), num_candidates):
        raise ValueError(
            f"positive_ranks: `score_block` must return shape ({len(block)}, {num_candidates}) "
            f"for {len(block)} users, got {tuple(scores.shape)}."
        )
    # If any score is NaN, aminmax returns NaN twice. It is several times faster than isfinite.
    low, high = scores.aminmax()
    if not bool(torch.isfinite(low) & torch.isfinite(high)):
        user = int(block[~torch.isfinite(scores).all(dim=1)][0])
        raise NonFiniteScores(
            f"positive_ranks: scores must be finite, but those of user {user} hold NaN or "
            "infinity. The model has probably diverged: lower the learning rate or the weights of "
            "its penalties."
        )
    # `_ranks` counts candidates in this dtype: float32 represents all integers up to 2^24.
    counting = torch.float32 if num_candidates <= 2**24 else torch.float64
    return scores.detach().to(torch.promote_types(scores.dtype, counting))


def _check_positives(users: Tensor, items: Tensor, num_candidates: int) -> None:
    if users.ndim != 1 or users.shape != items.shape:
        raise ValueError(
            "positive_ranks: `users` and `items` must have the same shape (P,), "
            f"got {tuple(users.shape)} and {tuple(items.shape)}."
        )
    if not len(items):
        return
    smallest, largest = torch.stack(torch.aminmax(items)).tolist()
    if not 0 <= smallest <= largest < num_candidates:
        raise ValueError(
            f"positive_ranks: `items` must be positions in 0 to {num_candidates - 1}, "
            f"got {smallest} to {largest}. Map item ids to candidates first."
        )
