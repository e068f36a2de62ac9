"""Exact scores of lists of items, and the order of equal scores.

A score is the inner product of a user's and an item's vector, computed in float64 by pairwise
summation in one fixed order, and rounded to the dtype of the result.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["best_columns", "best_in_float64", "relative_error", "score_lists", "sort_lists"]

WORK_ARRAY_SIZE = 2**20  # Maximum number of elements of a temporary array other than the scores.


def score_lists(items: Tensor, vectors: Tensor, positions: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the exact scores (R, K) of a list of items for each row.

    Arguments:
        items: (C, D) float64; vectors: (R, D) float64; positions: (R, K) items.
        dtype: dtype of the scores.
    """
    dim = items.shape[1]
    products = items.index_select(0, positions.reshape(-1)).view(*positions.shape, dim)
    products *= vectors[:, None]
    # Pairwise summation by halving: the order of additions depends on the dimension D alone.
    width = dim
    while width > 1:
        half = width // 2
        products[..., :half] += products[..., width - half : width]
        width -= half
    return products[..., 0].to(dtype) + 0.0  # Adding 0.0 turns -0.0 into 0.0.


def relative_error(dim: int, dtype: torch.dtype) -> float:
    """Return a bound of the error of an inner product, relative to the product of the norms."""
    return 1.01 * (2 * dim + 8) * torch.finfo(dtype).eps / 2


def best_in_float64(
    items: Tensor, vectors: Tensor, norms: Tensor, allowed: Tensor, length: int, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Find the best items of each row from a matrix product in float64.

    Arguments:
        items: (C, D) float64; vectors: (R, D) float64.
        norms: (R, 1), norms of the vectors times the largest norm of an item.
        allowed: (R, C) bool, items that may be in the list.
        length: K, at most C.
        dtype: dtype of the scores.

    Returns:
        positions (R, K) and scores (R, K), sorted; -inf where the item is not allowed.
    """
    dim = items.shape[1]
    scores = vectors @ items.T
    error = relative_error(dim, torch.float64) * norms
    error = torch.where(error > 0, error + 4 * dim * torch.finfo(torch.float64).tiny, 0)
    # The score lies between both bounds. For nearly all items they round to the same number,
    # which then is the score. The others are scored exactly if they may reach the last place.
    lower = (scores - error).to(dtype).masked_fill_(~allowed, -torch.inf)
    upper = (scores + error).to(dtype).masked_fill_(~allowed, -torch.inf)
    last = lower.topk(length, dim=1).values[:, -1:]
    row, column = ((lower != upper) & (upper >= last)).nonzero().unbind(1)
    step = max(1, WORK_ARRAY_SIZE // dim)
    for start in range(0, len(row), step):
        r, c = row[start : start + step], column[start : start + step]
        lower[r, c] = score_lists(items, vectors[r], c[:, None], dtype)[:, 0]
    columns, best = best_columns(lower, length)
    return columns, best + 0.0  # Adding 0.0 turns -0.0 into 0.0.


def best_columns(scores: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """Find the highest scores of each row, best first; of equal scores, the lower column first.

    In `torch.topk`, the choice and the order of columns with equal scores are undefined.

    Arguments:
        scores: (R, C), without NaN.
        top: K; at most C columns are returned.

    Returns:
        columns (R, K) and their scores (R, K).

    Example:
        >>> best_columns(torch.tensor([[1.0, 2.0, 2.0, 2.0]]), 2)
        (tensor([[1, 2]]), tensor([[2., 2.]]))
    """
    top = min(top, scores.shape[1])
    values, columns = scores.topk(min(top + 1, scores.shape[1]), dim=1)
    if values.shape[1] > top > 0:
        # If the first score that is not taken equals the last one taken, topk chose arbitrarily.
        tied = (values[:, top] == values[:, top - 1]).nonzero()[:, 0]
        columns = columns[:, :top].contiguous()
        if len(tied):
            columns[tied] = _lowest_columns(scores[tied], values[tied, top - 1 : top], top)
    columns = columns.sort(dim=1).values
    return sort_lists(columns, scores.gather(1, columns), top)


def _lowest_columns(scores: Tensor, last: Tensor, top: int) -> Tensor:
    """Return `top` columns per row: those with scores above `last`, then the lowest equal to it.

    Arguments:
        scores: (R, C); last: (R, 1), the score of the last place.

    Returns:
        (R, top), increasing along a row.
    """
    above, equal = scores > last, scores == last
    wanted = top - above.sum(dim=1, keepdim=True)
    chosen = above | (equal & (equal.cumsum(dim=1) <= wanted))
    return chosen.nonzero()[:, 1].view(len(scores), top)


def sort_lists(columns: Tensor, scores: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """Sort columns by decreasing score, stably for equal scores, and take the first `top`."""
    values, order = scores.sort(dim=1, descending=True, stable=True)
    return columns.gather(1, order[:, :top]), values[:, :top]
