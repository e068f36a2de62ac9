"""Vectors of users and warm items, whose inner products are the smoothed pairs.

    X = D_u^-b R D_i^-b,     A E' = K (K + lambda I)^-1 X,     K = X X'

where R (U, n) are the training pairs, D_u and D_i the numbers of pairs of users and items, b the
popularity exponent and lambda the shrinkage. With X = A_r S B_r' (singular value decomposition at
rank r) there are three forms with the same products:

    vectors of width r:      A = A_r,    E = B_r S^3 / (S^2 + lambda)
    vectors of width n:      A = X,      E = T = X'X (X'X + lambda I)^-1 = I - lambda P,
                                         P = (X'X + lambda I)^-1
    vectors of width U:      A = K (K + lambda I)^-1 = I - lambda (K + lambda I)^-1,    E = X'

At full rank the products are equal, since K (K + lambda I)^-1 X = X X'X (X'X + lambda I)^-1. The
other forms need one Cholesky factorisation, the first an eigendecomposition, which costs about ten
times as much.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from milk_recsys.base.linear_algebra import leading_eigenvectors, leading_spectrum, oversampled
from milk_recsys.methods.graphs import sparse_product
from milk_recsys.methods.keep.pairs import DampedPairs

COMPARED = 64  # Number of leading eigenvectors that the exact form computes.
MIN_SHRINKAGE = 1e-3  # With less, X'X + lambda I is nearly singular in float32.
LEADING = 50  # Number of squared singular values whose mean is the unit of the shrinkage.


class Spectrum(NamedTuple):
    """The leading eigenvalues and eigenvectors of X'X.

    Attributes:
        squares: (k,), descending: the squared singular values of X.
        b: (n, k).
    """

    squares: Tensor
    b: Tensor

    @property
    def unit(self) -> float:
        """Mean of the 50 largest squared singular values, the unit of the shrinkage."""
        return float(self.squares[:LEADING].mean())

    def first(self, count: int) -> Spectrum:
        """Return the `count` largest eigenvalues and their vectors."""
        return Spectrum(self.squares[:count], self.b[:, :count])

    def item_vectors(self, shrinkage: float) -> Tensor:
        """Return B S^3 / (S^2 + lambda), (n, k); `shrinkage` is lambda in units of `unit`."""
        shrunk = self.squares + shrinkage * self.unit
        tiny = torch.finfo(shrunk.dtype).tiny
        return self.b * (self.squares.clamp(min=0) ** 1.5 / shrunk.clamp(min=tiny))


def damped(pairs: Tensor, exponent: float) -> Tensor:
    """Return X (U, n), sparse: the pairs R divided by the counts of users and items."""
    # For each pair, the number of pairs of its user and of its item, to the power -b.
    scales = [torch.bincount(at)[at].to(pairs.dtype) ** -exponent for at in pairs.indices()]
    return torch.sparse_coo_tensor(
        pairs.indices(),
        scales[0] * scales[1],
        pairs.shape,
        is_coalesced=True,
        check_invariants=False,
    )


def gram(x: Tensor) -> Tensor:
    """Return X'X (n, n), dense, of a sparse X (U, n)."""
    dense: Tensor = sparse_product(x.t().coalesce(), x).to_dense()
    return dense


def spectrum(products: Tensor, count: int) -> Spectrum:
    """Return the `count` leading eigenvectors of X'X (n, n)."""
    b = leading_eigenvectors(products, min(count, len(products))).flip(1)
    return Spectrum((b * (products @ b)).sum(dim=0).clamp(min=0), b)


def inverse(products: Tensor, shift: float) -> Tensor:
    """Return P = (X'X + lambda I)^-1 (n, n)."""
    shifted = products.clone()
    shifted.diagonal().add_(shift)
    p: Tensor = torch.cholesky_inverse(torch.linalg.cholesky(shifted))
    return p


class ExactVectors:
    """The form of width n, without a decomposition: A = X, E = I - lambda P.

    Arguments:
        x: X (U, n), sparse.

    Attributes:
        x: X.
        leading: the leading eigenvectors of X'X.
    """

    def __init__(self, x: Tensor) -> None:
        self.x, self._products = x, gram(x)
        self.leading = spectrum(self._products, min(COMPARED, *x.shape))

    def __call__(self, shrinkage: float) -> tuple[Tensor, Tensor]:
        """Return A (U, n) and E (n, n); `shrinkage` is above 0, in units of `leading.unit`."""
        shift = shrinkage * self.leading.unit
        smoothed = inverse(self._products, shift).mul_(-shift)
        smoothed.diagonal().add_(1)
        return self.x.to_dense(), smoothed


class UserVectors:
    """The form of width U, without a decomposition: A = K (K + lambda I)^-1, E = X'.

    Arguments:
        x: X (U, n), sparse.

    Attributes:
        x: X.
        products: K (U, U).
        leading: the leading eigenvectors of X'X.
    """

    def __init__(self, x: Tensor) -> None:
        self.x, self.products = x, gram(x.t().coalesce())
        squares, a = spectrum(self.products, min(COMPARED, *x.shape))
        tiny = torch.finfo(squares.dtype).tiny
        b = torch.sparse.mm(x.t().coalesce(), a) / squares.clamp(min=tiny).sqrt()
        self.leading = Spectrum(squares, b)

    def __call__(self, shrinkage: float) -> tuple[Tensor, Tensor]:
        """Return A (U, U) and E (n, U), sparse; `shrinkage` is above 0, in units of the leading."""
        shift = shrinkage * self.leading.unit
        users = inverse(self.products, shift).mul_(-shift)
        users.diagonal().add_(1)
        return users, self.x.t().coalesce()


class SingularVectors:
    """The form of width r, from the singular value decomposition.

    The vector of a user is a sum over the items of the user's pairs, A_u = x_u B S^-1, so that
    nothing is held for the users.

    Arguments:
        x: X (U, n).
        rank: r, at most min(U, n).

    Attributes:
        x: X.
        leading: S^2 and B.
    """

    def __init__(self, x: DampedPairs, rank: int) -> None:
        self.x, n = x, x.shape[1]
        # Drawn on the CPU from torch's default generator.
        start = torch.randn(n, oversampled(rank, n), dtype=x.item_scales.dtype)
        found = leading_spectrum(x.gram_times, start.to(x.items.device), rank)
        self.leading = Spectrum(found.values, found.vectors)

    def __call__(self, shrinkage: float) -> tuple[Tensor, Tensor]:
        """Return factors c (r,), with A_u = (x_u E) c, and E (n, r).

        Arguments:
            shrinkage: lambda in units of `leading.unit`.
        """
        squares = self.leading.squares
        shift = shrinkage * self.leading.unit
        # B S^-1 = E (S^2 + lambda) / S^4. Directions without any pairs have the factor 0.
        known = squares > float(squares[0]) * (10 * torch.finfo(squares.dtype).eps)
        factors = torch.where(known, (squares + shift) / torch.where(known, squares, 1).square(), 0)
        return factors, self.leading.item_vectors(shrinkage)
