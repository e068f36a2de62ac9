"""Graphs of users and items, and products with constant sparse matrices."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from milk_recsys.methods.warm import WarmData

__all__ = ["Product", "csr_and_transpose", "ragged_ranges", "sparse_product", "symmetric_walk"]


@contextmanager
def _ignore_beta_warning() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta state")
        yield


class Product(torch.autograd.Function):
    """A x for a constant sparse A, given with its transpose: both in compressed rows, which multiply faster."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, a: Tensor, transposed: Tensor) -> Tensor:  # noqa: D102
        ctx.transposed = transposed
        return a @ x

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # noqa: D102
        return ctx.transposed @ grad, None, None


def sparse_product(a: Tensor, b: Tensor) -> Tensor:
    """Multiply two sparse matrices."""
    with _ignore_beta_warning():
        return torch.sparse.mm(a, b)


def csr_and_transpose(a: Tensor) -> tuple[Tensor, Tensor]:
    """Return a sparse matrix and its transpose in compressed rows."""
    with _ignore_beta_warning():
        return a.coalesce().to_sparse_csr(), a.t().coalesce().to_sparse_csr()


def ragged_ranges(offsets: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return the places from offsets[row] to offsets[row + 1], of one row after another, and where each row's begin."""
    counts = offsets[rows + 1] - offsets[rows]
    starts = counts.cumsum(0) - counts
    first = torch.repeat_interleave(offsets[rows] - starts, counts)
    return first + torch.arange(len(first), device=rows.device), starts


def normalised_adjacency(data: WarmData, dtype: torch.dtype) -> Tensor:
    """D^-1/2 A D^-1/2 over users and items, sparse; A without self-loops."""
    users, items = data.pairs
    size = data.num_users + data.num_items
    rows, columns = (
        torch.cat([users, items + data.num_users]),
        torch.cat([items + data.num_users, users]),
    )
    scale = torch.bincount(rows, minlength=size).to(dtype).clamp(min=1).rsqrt()
    indices = torch.stack([rows, columns])
    return torch.sparse_coo_tensor(
        indices, scale[rows] * scale[columns], (size, size), check_invariants=False
    ).coalesce()
