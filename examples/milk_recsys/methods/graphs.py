"""The graph of users and items, and products with constant sparse matrices."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from milk_recsys.methods.warm import WarmData

__all__ = [
    "Product",
    "csr_and_transpose",
    "normalised_adjacency",
    "ragged_ranges",
    "sparse_product",
]


@contextmanager
def _ignore_beta_warning() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta state")
        yield


class Product(torch.autograd.Function):
    """The product A x of a constant sparse matrix A with x (n, d), differentiable in x.

    The caller passes A and its transpose, both in CSR layout, whose products are faster than those
    of the COO layout. The gradient with respect to x is A^T grad; with the stored transpose it is
    one CSR product too.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, a: Tensor, transposed: Tensor) -> Tensor:  # noqa: D102
        ctx.transposed = transposed
        return a @ x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # noqa: D102
        return ctx.transposed @ grad, None, None


def sparse_product(a: Tensor, b: Tensor) -> Tensor:
    """Return the sparse product of two sparse matrices."""
    with _ignore_beta_warning():
        return torch.sparse.mm(a, b)


def csr_and_transpose(a: Tensor) -> tuple[Tensor, Tensor]:
    """Return a sparse matrix and its transpose, both in CSR layout."""
    with _ignore_beta_warning():
        return a.coalesce().to_sparse_csr(), a.t().coalesce().to_sparse_csr()


def ragged_ranges(offsets: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Concatenate the ranges offsets[row] .. offsets[row + 1] - 1 of the given rows.

    Arguments:
        offsets: (R + 1,) CSR offsets of all rows.
        rows: (r,) row numbers, in any order.

    Returns:
        The concatenated positions, and the start (r,) of each row's range within them.
    """
    counts = offsets[rows + 1] - offsets[rows]
    starts = counts.cumsum(0) - counts
    # Output position p of a row stands for offsets[row] + (p - start of the row), so adding the
    # constant offsets[row] - start to 0, 1, 2, ... fills all ranges without a loop.
    first = torch.repeat_interleave(offsets[rows] - starts, counts)
    return first + torch.arange(len(first), device=rows.device), starts


def normalised_adjacency(data: WarmData, dtype: torch.dtype) -> Tensor:
    """Return D^-1/2 A D^-1/2, sparse, (U + n, U + n).

    A is the adjacency matrix of users (first) and warm items, without self-loops; D holds its row
    sums. A node without an edge has a zero row.
    """
    users, items = data.pairs
    size = data.num_users + data.num_items
    rows = torch.cat([users, items + data.num_users])
    columns = torch.cat([items + data.num_users, users])
    # clamp(min=1) avoids 1 / 0 for nodes without an edge; their rows have no entry to be scaled.
    scale = torch.bincount(rows, minlength=size).to(dtype).clamp(min=1).rsqrt()
    indices = torch.stack([rows, columns])
    return torch.sparse_coo_tensor(
        indices, scale[rows] * scale[columns], (size, size), check_invariants=False
    ).coalesce()
