"""Leading eigenvectors and singular vectors by subspace iteration.

References:
    Halko, Martinsson and Tropp, Finding structure with randomness, SIAM Review 2011, algorithm 4.4.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["leading_eigenvectors", "leading_singular_vectors"]

OVERSAMPLING = 16  # Additional directions, which make the iteration converge faster.
EIGEN_ITERATIONS, SINGULAR_ITERATIONS = 8, 5


def leading_eigenvectors(gram: Tensor, count: int) -> Tensor:
    """Return the leading eigenvectors (d, count) of a Gram matrix (d, d), ascending by eigenvalue.

    The start is fixed, so that the result is the same in every run. The result is nearly exact if
    the eigenvalues decay.
    """
    generator = torch.Generator().manual_seed(0)
    size = min(count + OVERSAMPLING, len(gram))
    start = torch.randn(len(gram), size, generator=generator, dtype=gram.dtype).to(gram.device)
    basis = _iterate(lambda q: gram @ q, torch.linalg.qr(start).Q, EIGEN_ITERATIONS)
    # Rayleigh-Ritz: eigenvectors within the subspace. `eigh` orders eigenvalues upwards, so the
    # last columns belong to the largest ones.
    rotation = torch.linalg.eigh(basis.T @ gram @ basis).eigenvectors[:, -count:]
    eigenvectors: Tensor = basis @ rotation
    return eigenvectors


def leading_singular_vectors(x: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the leading singular vectors and values of a sparse matrix.

    At full rank the decomposition is exact. A lower rank uses subspace iteration from a start that
    is drawn from torch's default generator.

    Arguments:
        x: sparse (U, n).
        rank: r, at most min(U, n).

    Returns:
        left vectors (U, r), singular values (r,) in descending order, right vectors (n, r).
    """
    if x.shape[0] > x.shape[1]:
        b, s, a = leading_singular_vectors(x.T.coalesce(), rank)
        return a, s, b
    xt, y = x.T.coalesce(), torch.eye(rank, dtype=x.dtype, device=x.device)
    if rank < len(x):
        start = torch.randn(len(x), rank, dtype=x.dtype).to(x.device)
        # Sparse products are faster on a matrix stored by rows; `qr` stores Q by columns.
        y = _iterate(lambda q: x @ (xt @ q.contiguous()), start, SINGULAR_ITERATIONS).contiguous()
    # Rayleigh-Ritz: diagonalise X X' within the subspace that the columns of y span. The
    # eigenvalues, which `eigh` returns in ascending order, are the squared singular values.
    z = xt @ y
    squares, rotation = torch.linalg.eigh((z.T @ z).double())
    s, rotation = squares.clamp(min=0).sqrt().flip(0).to(x.dtype), rotation.flip(1).to(x.dtype)
    return y @ rotation, s, z @ rotation / s.clamp(min=float(s[0]) * torch.finfo(s.dtype).eps)


def _iterate(multiply: Callable[[Tensor], Tensor], start: Tensor, iterations: int) -> Tensor:
    """Return an orthonormal basis of nearly the dominant subspace of a symmetric matrix.

    Arguments:
        multiply: the product of the matrix and columns.
        start: (d, k).
    """
    basis = start
    for _ in range(iterations):
        basis = torch.linalg.qr(multiply(basis)).Q
    return basis
