"""Leading eigenvectors and singular vectors by subspace iteration.

References:
    Halko, Martinsson and Tropp, Finding structure with randomness, SIAM Review 2011, algorithm 4.4.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from milk_recsys.base.distributed import SINGLE_PROCESS, World

__all__ = [
    "Leading",
    "leading_eigenvectors",
    "leading_spectrum",
    "oversampled",
    "with_fixed_signs",
]

OVERSAMPLING = 16  # Additional directions, which make the iteration converge faster.
EIGEN_ITERATIONS = 8
# The same for `leading_spectrum`, which ends when it is accurate: 13 products at most.
MARGIN, DEGREE, MAX_ROUNDS = 50, 4, 4
ACCURACY = 0.02


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
        residuals: (k,), the lengths of (matrix - value) vector, relative to the value, or to a
            thousandth of the largest value if that is more. They bound the errors of the values.
    """

    values: Tensor
    vectors: Tensor
    residuals: Tensor


def leading_spectrum(
    multiply: Callable[[Tensor], Tensor],
    start: Tensor,
    count: int,
    *,
    world: World = SINGLE_PROCESS,
) -> Leading:
    """Return the leading eigenvalues and eigenvectors of a positive semi-definite matrix.

    Subspace iteration on some more vectors than are wanted. Each round multiplies them by a
    polynomial of the matrix that is small up to the smallest of their values, and grows fast from
    there (a Chebyshev filter). It ends when all residuals are at most `ACCURACY`, or after
    `MAX_ROUNDS`.

    Arguments:
        multiply: the product of the matrix (n, n) and columns (n, q).
        start: random (n, q), q >= count; `oversampled` returns q.
        count: k.
        world: the processes that call this function together. They compute the products with the
            same columns, those of rank 0: processes on different machines may round differently.

    References:
        Zhou, Saad, Tiago and Chelikowsky, Self-consistent-field calculations using
        Chebyshev-filtered subspace iteration, Journal of Computational Physics 2006.
    """
    basis = world.broadcast_tensor(torch.linalg.qr(start).Q)
    for number in range(MAX_ROUNDS):
        products = multiply(basis)
        # Rayleigh-Ritz: the eigenvectors within the subspace.
        within = (basis.T @ products).double()
        values, rotation = torch.linalg.eigh((within + within.T) / 2)
        values = world.broadcast_tensor(values.flip(0).clamp(min=0).to(basis))
        rotation = world.broadcast_tensor(rotation.flip(1).to(basis))
        basis, products = basis @ rotation, products @ rotation
        largest = values[0].clamp(min=torch.finfo(values.dtype).tiny)
        lengths = torch.linalg.vector_norm(products - basis * values, dim=0)[:count]
        residuals = lengths / values[:count].clamp(min=float(largest) / 1000)
        if float(world.broadcast_tensor(residuals).max()) <= ACCURACY or number == MAX_ROUNDS - 1:
            break
        smallest = max(float(values[-1]), float(largest) * torch.finfo(values.dtype).eps)
        basis = torch.linalg.qr(_filtered(multiply, basis, products, smallest)).Q
        basis = world.broadcast_tensor(basis)
    return Leading(values[:count], with_fixed_signs(basis[:, :count]), residuals)


def with_fixed_signs(vectors: Tensor) -> Tensor:
    """Return columns (n, k), each with the sign by which its largest entry is positive.

    The sign of an eigenvector is arbitrary, and may change with rounding.
    """
    if not len(vectors):
        return vectors.contiguous()
    largest = vectors.gather(0, vectors.abs().argmax(dim=0, keepdim=True))
    return vectors * torch.where(largest < 0, -1.0, 1.0).to(vectors)


def _filtered(
    multiply: Callable[[Tensor], Tensor], basis: Tensor, products: Tensor, end: float
) -> Tensor:
    """Return T((2 A - end) / end) basis, T the Chebyshev polynomial of degree `DEGREE`.

    Arguments:
        products: A basis.
        end: eigenvalues from 0 to this are mapped to -1 to 1, where T is small.
    """
    centre = end / 2
    before, filtered = basis, products.div_(centre).sub_(basis)
    for _ in range(DEGREE - 1):
        following = multiply(filtered).mul_(2 / centre).sub_(filtered, alpha=2).sub_(before)
        before, filtered = filtered, following
    scaled: Tensor = filtered / torch.linalg.vector_norm(filtered, dim=0)
    return scaled


def oversampled(count: int, size: int) -> int:
    """Return the number of vectors of an iteration for `count` eigenvectors of a matrix."""
    return min(count + MARGIN, size)


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
