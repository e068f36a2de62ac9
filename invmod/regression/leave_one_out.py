"""Ridge regression with a kernel, and its exact leave-one-out errors, for a grid of ridges.

For n rows with targets Y (n, r), a kernel K (n, n), weights w of rows and a ridge l, let

    Q = (K + l W^-1)^-1,      C = Q - Q 1 1'Q / (1'Q 1),      alpha = C Y

where W = diag(w). The fitted function is f(x) = k(x) alpha + b. The intercept b = 1'Q Y / 1'Q 1 is
not penalised. Without an intercept C is Q, and b is 0. The error of row i, predicted by the fit on
all other rows, needs no second fit:

    y_i - f^(-i)(x_i) = alpha_i / C_ii

and for the rows B of a group, predicted by the fit on the other rows, it is C_BB^-1 alpha_B.
Both include the intercept, which is fitted again without the rows that are left out.

One eigendecomposition of W^1/2 K W^1/2 serves all ridges.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

# C_ii is 0 where the other rows do not determine a prediction, as for a single row with an
# intercept. Such a row has no leave-one-out error.
UNDETERMINED = 1e-12


class Spectrum:
    """The eigendecomposition of a kernel, from which fits with any ridge follow.

    Arguments:
        k: the kernel K (n, n), symmetric and positive semi-definite, n at least 1.
        targets: Y (n, r).
        row_weights: w (n,), above 0; None: all 1.
        intercept: whether the function has an intercept.
    """

    def __init__(
        self, k: Tensor, targets: Tensor, row_weights: Tensor | None = None, *, intercept: bool
    ) -> None:
        self.root = k.new_ones(len(k)) if row_weights is None else row_weights.sqrt()
        values, self.vectors = torch.linalg.eigh(self.root[:, None] * k * self.root)
        # Rounding makes eigenvalues of 0 slightly negative.
        self.values = values.clamp(min=0)
        self.intercept = intercept
        self.targets = targets
        # The targets and the constant 1 in the basis of the eigenvectors.
        self.rotated = self.vectors.T @ (self.root[:, None] * targets)
        self.ones = self.vectors.T @ self.root

    def errors(self, ridge: float, groups: Sequence[Tensor] | None = None) -> Tensor:
        """Return the leave-one-out errors (n, r), or those of leaving out one group at a time.

        Arguments:
            ridge: l, above 0.
            groups: the rows of each group, which cover all rows once; None: every row is a group.

        Returns:
            targets minus predictions; NaN where the other rows determine no prediction.
        """
        alpha, diagonal, means, _ = self._solve(ridge)
        if groups is None:
            determined = diagonal > UNDETERMINED * self.root.square() / ridge
            diagonal = torch.where(determined, diagonal, torch.nan)
            return alpha / diagonal[:, None]
        errors = torch.empty_like(alpha)
        scaled = self.vectors * (self.root[:, None] * (self.values + ridge).rsqrt())
        for rows in groups:
            block = scaled[rows] @ scaled[rows].T - means[rows, None] * means[rows]
            # With a single group nothing is left to fit on, and C is singular.
            errors[rows] = torch.linalg.solve(block, alpha[rows]) if len(groups) > 1 else torch.nan
        return errors

    def generalised(self, ridge: float) -> Tensor:
        """Return the criterion of generalised cross-validation (GCV): n |alpha|^2 / (tr C)^2.

        It is the mean squared leave-one-out error in which each C_ii is replaced by their mean.
        """
        alpha, diagonal, _, _ = self._solve(ridge)
        weighted = (alpha.square().sum(dim=1) / self.root.square()).sum()
        return len(alpha) * weighted / (diagonal / self.root.square()).sum().square()

    def predictions(self, k: Tensor, ridge: float) -> Tensor:
        """Return the predictions (N, r) for rows with the kernel k (N, n) to the training rows."""
        alpha, _, _, b = self._solve(ridge)
        return k @ alpha + b

    @functools.cached_property
    def _squared_vectors(self) -> Tensor:
        squares: Tensor = self.vectors.square()
        return squares

    def _solve(self, ridge: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return alpha (n, r), the diagonal of C (n,), Q 1 / sqrt(1'Q 1) (n,), and b (r,)."""
        inverse = 1 / (self.values + ridge)
        rotated = self.rotated
        diagonal = self.root.square() * (self._squared_vectors @ inverse)
        means, b = torch.zeros_like(diagonal), rotated.new_zeros(rotated.shape[1])
        if self.intercept:
            total = self.ones.square() @ inverse
            b = (self.ones * inverse) @ rotated / total
            rotated = rotated - self.ones[:, None] * b
            means = self.root * (self.vectors @ (self.ones * inverse)) * total.rsqrt()
            diagonal = diagonal - means.square()
        alpha = self.root[:, None] * (self.vectors @ (inverse[:, None] * rotated))
        return alpha, diagonal, means, b
