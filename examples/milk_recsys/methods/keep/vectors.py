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

With several processes each has the vectors A of consecutive users, and all have E. Sums over users
are those of all processes: X'X (n, n), or its products with n x r matrices. The last form is for
few users, so that K (U, U) is gathered, and all processes have all pairs.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from milk_recsys.base.distributed import SINGLE_PROCESS, World
from milk_recsys.base.errors import DataError
from milk_recsys.base.linear_algebra import (
    leading_eigenvectors,
    leading_spectrum,
    oversampled,
    with_fixed_signs,
)
from milk_recsys.methods.graphs import sparse_product
from milk_recsys.methods.keep.pairs import DampedPairs

COMPARED = 64  # Number of leading eigenvectors that the exact form computes.
MIN_SHRINKAGE = 1e-3  # With less, X'X + lambda I is nearly singular in float32.
MAX_EXACT = 2**28  # Largest number of entries of vectors without a decomposition: 1 GB.
MAX_VECTORS = 2**27  # Largest number of entries of the singular vectors of the warm items.
DEFAULT_RANK = 2048  # Number of singular vectors where they would have more.
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


def checked_rank(rank: int | None, num_users: int, num_items: int) -> int:
    """Return the number of singular vectors.

    Arguments:
        rank: the option, or None.

    Raises:
        DataError: they would not fit in memory.
    """
    largest = MAX_VECTORS // num_items
    rank = min(rank or min(DEFAULT_RANK, largest), num_users, num_items)
    if not 0 < rank <= largest:
        raise DataError(
            f"{num_items:,} training items are too many for {rank} singular vectors. Choose "
            f"--rank {largest} or less."
        )
    return rank


def damped(pairs: Tensor, exponent: float, counts: Tensor | None = None) -> Tensor:
    """Return X (U, n), sparse: the pairs R divided by the counts of users and items.

    Arguments:
        pairs: R (U, n), sparse.
        exponent: b.
        counts: the numbers of pairs of the items (n,); None: those of R.
    """
    users, items = pairs.indices()
    if counts is None:
        counts = item_counts(pairs)
    # For each pair, the number of pairs of its user and of its item, to the power -b.
    scales = [
        number.to(pairs.dtype) ** -exponent
        for number in (torch.bincount(users)[users], counts[items])
    ]
    return torch.sparse_coo_tensor(
        pairs.indices(),
        scales[0] * scales[1],
        pairs.shape,
        is_coalesced=True,
        check_invariants=False,
    )


def item_counts(pairs: Tensor) -> Tensor:
    """Return the numbers of pairs of the items (n,) in R (U, n), sparse."""
    return torch.bincount(pairs.indices()[1], minlength=pairs.shape[1])


def gram(x: Tensor) -> Tensor:
    """Return X'X (n, n), dense, of a sparse X (U, n)."""
    dense: Tensor = sparse_product(x.t().coalesce(), x).to_dense()
    return dense


def spectrum(products: Tensor, count: int) -> Spectrum:
    """Return the `count` leading eigenvectors of X'X (n, n)."""
    b = with_fixed_signs(leading_eigenvectors(products, min(count, len(products))).flip(1))
    return Spectrum((b * (products @ b)).sum(dim=0).clamp(min=0), b)


def inverse(products: Tensor, shift: float) -> Tensor:
    """Return P = (X'X + lambda I)^-1 (n, n)."""
    shifted = products.clone()
    shifted.diagonal().add_(shift)
    p: Tensor = torch.cholesky_inverse(torch.linalg.cholesky(shifted))
    return p


EXACT: Mapping[str, float] = {}  # Forms without a decomposition are exact.


class ExactVectors:
    """The form of width n, without a decomposition: A = X, E = I - lambda P.

    Arguments:
        x: X (U, n), sparse; the rows of the users of this process.
        world: the processes, which have the other rows.
        products: X'X (n, n), if it is known.

    Attributes:
        x: X.
        counts: the numbers of pairs of the items (n,).
        leading: the leading eigenvectors of X'X.
    """

    accuracy = EXACT

    def __init__(
        self, x: Tensor, world: World = SINGLE_PROCESS, products: Tensor | None = None
    ) -> None:
        self.x, self._products = x, world.sum(gram(x)) if products is None else products
        self.counts = world.sum(item_counts(x))
        num_users = int(world.sum(torch.tensor(x.shape[0], device=x.device)))
        self.leading = spectrum(self._products, min(COMPARED, num_users, x.shape[1]))

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
        world: the processes. Each computes the products of its users with all users.
        starts: the first user of each process, then the number of users.
        products: K (U, U), if it is known.

    Attributes:
        x: X.
        products: K (U, U).
        counts: the numbers of pairs of the items (n,).
        leading: the leading eigenvectors of X'X.
    """

    accuracy = EXACT

    def __init__(
        self,
        x: Tensor,
        world: World = SINGLE_PROCESS,
        starts: Sequence[int] | None = None,
        products: Tensor | None = None,
    ) -> None:
        starts = (0, x.shape[0]) if starts is None else starts
        self.x, self.counts = x, item_counts(x)
        self._own = slice(*starts[world.rank : world.rank + 2])
        if products is None:
            sizes = [end - start for start, end in itertools.pairwise(starts)]
            users = torch.arange(x.shape[0], device=x.device)[self._own]
            own = sparse_product(x.index_select(0, users), x.t().coalesce()).to_dense()
            products = world.all_gather(own, sizes)
        self.products = products
        squares, a = spectrum(self.products, min(COMPARED, *x.shape))
        tiny = torch.finfo(squares.dtype).tiny
        b = torch.sparse.mm(x.t().coalesce(), a) / squares.clamp(min=tiny).sqrt()
        self.leading = Spectrum(squares, b)

    def __call__(self, shrinkage: float) -> tuple[Tensor, Tensor]:
        """Return A (U, U) and E (n, U), sparse; `shrinkage` is above 0, in units of the leading.

        With several processes A has the rows of the users of this process.
        """
        shift = shrinkage * self.leading.unit
        users = inverse(self.products, shift).mul_(-shift)
        users.diagonal().add_(1)
        return users[self._own].contiguous(), self.x.t().coalesce()


class SingularVectors:
    """The form of width r, from the singular value decomposition.

    The vector of a user is a sum over the items of the user's pairs, A_u = x_u B S^-1, so that
    nothing is held for the users.

    Arguments:
        x: X (U, n).
        rank: r, at most min(U, n).
        near: columns (n, k) that span nearly the same as the vectors of X'X, if any are known. The
            iteration then ends sooner.

    Attributes:
        x: X.
        counts: the numbers of pairs of the items (n,).
        leading: S^2 and B.
        accuracy: ``rank``, the number of columns of B, and ``residual``, the largest relative
            residual |X'X b - S^2 b| / S^2 of a column b, as in `linear_algebra.Leading`.
    """

    def __init__(self, x: DampedPairs, rank: int, near: Tensor | None = None) -> None:
        self.x, self.counts, n = x, x.counts, x.shape[1]
        # Drawn on the CPU from torch's default generator.
        start = torch.randn(n, oversampled(rank, n), dtype=x.item_scales.dtype)
        if near is not None:
            start[:, : near.shape[1]] = near[:, : start.shape[1]].to(start)
        found = leading_spectrum(x.gram_times, start.to(x.items.device), rank, world=x.world)
        self.leading = Spectrum(found.values, found.vectors)
        residual = float(x.world.broadcast_tensor(found.residuals).max())
        self.accuracy = {"rank": rank, "residual": residual}

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
