"""Leading eigenvectors and singular vectors by subspace iteration.

References:
    Halko, Martinsson and Tropp, Finding structure with randomness, SIAM Review 2011, algorithm 4.4.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Leading", "leading_eigenvectors", "leading_spectrum", "oversampled"]

OVERSAMPLING = 16  # Additional directions, which make the iteration converge faster.
EIGEN_ITERATIONS = 8
MARGIN, MAX_ITERATIONS = 50, 12  # The same for `leading_spectrum`, which ends when it is accurate.
ACCURACY = 1e-3
ROWS_AT_ONCE = 2**16  # Number of rows whose residuals are computed at once.


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


class Leading(NamedTuple):
    """The leading eigenvalues and eigenvectors of a symmetric matrix.

    Attributes:
        values: (k,), descending.
        vectors: (n, k).
        residuals: (k,), the lengths of (matrix - value) vector, relative to the largest value. They
            bound the relative errors of the values.
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor


def leading_spectrum(
    multiply: Callable[[Tensor], Tensor],
    start: Tensor,
    count: int,
    importance: Callable[[Tensor], Tensor],
) -> Leading:
    """Return the leading eigenvalues and eigenvectors of a positive semi-definite matrix.

    Subspace iteration on some more vectors than are wanted, until the residual of each times its
    importance is less than `ACCURACY`.

    Arguments:
        multiply: the product of the matrix (n, n) and columns (n, q).
        start: random (n, q), q >= count; `oversampled` returns q.
        count: k.
        importance: maps the values (k,) to the importance of each, at most 1.
    """
    basis = torch.linalg.qr(start).Q
    for _ in range(MAX_ITERATIONS):
        products = multiply(basis)
        # Rayleigh-Ritz: the eigenvectors within the subspace.
        within = (basis.T @ products).double()
        values, rotation = torch.linalg.eigh((within + within.T) / 2)
        values = values.flip(0)[:count].clamp(min=0)
        rotation = rotation.flip(1)[:, :count].to(basis.dtype)
        residuals = _residuals(basis, products, values.to(basis.dtype), rotation)
        values = values.to(basis.dtype)
        if float((residuals * importance(values)).max()) < ACCURACY:
            break
        basis = torch.linalg.qr(products).Q
    return Leading(values, basis @ rotation, residuals)


def oversampled(count: int, size: int) -> int:
    """Return the number of vectors of an iteration for `count` eigenvectors of a matrix."""
    return min(count + MARGIN, size)


def _residuals(basis: Tensor, products: Tensor, values: Tensor, rotation: Tensor) -> Tensor:
    """Return the residuals (k,) of the columns of basis @ rotation."""
    squares = torch.zeros_like(values, dtype=torch.float64)
    for b, p in zip(
        torch.split(basis, ROWS_AT_ONCE), torch.split(products, ROWS_AT_ONCE), strict=True
    ):
        squares += (p @ rotation - (b @ rotation) * values).double().square().sum(dim=0)
    return (squares.sqrt() / values[0].double().clamp(min=torch.finfo(torch.float32).tiny)).to(
        values
    )


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
