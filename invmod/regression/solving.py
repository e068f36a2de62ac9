"""Kernel ridge regression of one pattern, from a Cholesky factorisation.

With the letters of `invmod.regression.leave_one_out`, the fitted values of rows with the kernel k
(N, n) to the training rows are k alpha + b = H Y, where

    H = k Q + (1 - k Q 1) s',      s = Q 1 / (1'Q 1)

and without an intercept H = k Q. Neither alpha nor b depends on H, so the targets Y need not be
known when H is computed.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from invmod._precision import without_autocast
from invmod.regression.patterns import PatternChoice
from invmod.regression.training_rows import Pattern, Queries, TrainingRows


class Factor:
    """The Cholesky factor of K + l W^-1.

    Arguments:
        k: the kernel K (n, n), which is overwritten.
        ridge: l.
        row_weights: w (n,), above 0; None: all 1.
        intercept: whether the function has an intercept.

    Raises:
        ValueError: K + l W^-1 is not positive definite.
    """

    def __init__(
        self, k: Tensor, ridge: float, row_weights: Tensor | None = None, *, intercept: bool
    ) -> None:
        k.diagonal().add_(ridge if row_weights is None else ridge / row_weights)
        self._set_root(cholesky_factor(k, "a kernel", ridge), intercept=intercept)

    def _set_root(self, root: Tensor, *, intercept: bool) -> None:
        self.root = root
        # The share s of each training row in the intercept (n,).
        self.shares: Tensor | None = None
        if intercept:
            sums = torch.cholesky_solve(root.new_ones(len(root), 1), root)[:, 0]
            self.shares = sums / sums.sum()

    def extended(
        self, cross: Tensor, k: Tensor, ridge: float, row_weights: Tensor | None = None
    ) -> Factor:
        r"""Return the factor with w more rows, at :math:`n^2 w` operations.

        .. math:: L_{21} = K_{21} L^{-T}, \qquad L_{22} L_{22}' = K_{22} + l W^{-1} - L_{21} L_{21}'

        Arguments:
            cross: the kernel between the new rows and the present ones (w, n).
            k: the kernel between the new rows (w, w), which is overwritten.
            ridge, row_weights: as in the constructor, of the new rows.

        Raises:
            ValueError: the extended matrix is not positive definite.
        """
        k.diagonal().add_(ridge if row_weights is None else ridge / row_weights)
        below = torch.linalg.solve_triangular(self.root, cross.T, upper=False).T
        corner = cholesky_factor(k - below @ below.T, "a kernel", ridge)
        n, count = len(self.root), len(cross)
        root = self.root.new_zeros(n + count, n + count)
        root[:n, :n], root[n:, :n], root[n:, n:] = self.root, below, corner
        factor = Factor.__new__(Factor)
        factor._set_root(root, intercept=self.shares is not None)
        return factor

    def fit(self, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return the coefficients alpha (n, r) and the intercept b (r,) for targets Y (n, r)."""
        b = targets.new_zeros(targets.shape[1]) if self.shares is None else self.shares @ targets
        return torch.cholesky_solve(targets - b, self.root), b

    def smoother(self, k: Tensor) -> Tensor:
        """Return H (N, n) for rows with the kernel k (N, n) to the training rows."""
        h = torch.cholesky_solve(k.T, self.root).T
        if self.shares is None:
            return h
        return h + (1 - h.sum(dim=1, keepdim=True)) * self.shares

    def leave_one_out(self) -> Tensor:
        """Return H (n, n) with the leave-one-out predictions H Y: -C_ij / C_ii, diagonal 0."""
        c = torch.cholesky_inverse(self.root)
        if self.shares is not None:
            sums = c.sum(dim=1)
            # With a single row C is 0, and its error is undetermined: NaN.
            c -= torch.outer(sums, sums / sums.sum())
        h = c.div_(-c.diagonal().clone()[:, None])
        h.fill_diagonal_(0.0 if len(h) > 1 or self.shares is None else torch.nan)
        return h


def cholesky_factor(system: Tensor, what: str, ridge: float) -> Tensor:
    """Return the lower Cholesky factor of matrices (..., n, n).

    Arguments:
        system: the matrices.
        what: the name of a matrix in an error message.
        ridge: the ridge in an error message.

    Raises:
        ValueError: a matrix is not positive definite.
    """
    root: Tensor
    root, failed = torch.linalg.cholesky_ex(system)
    if failed.any():
        raise ValueError(
            f"PatternKernelRidge: {what} of size {system.shape[-1]} is not positive definite in "
            f"{system.dtype} with the ridge {ridge:.3g}. Use a larger ridge or "
            "dtype=torch.float64; a precomputed kernel must be symmetric and positive "
            "semi-definite."
        )
    return root


class Fitted(NamedTuple):
    """Coefficients of a regression for some targets.

    Attributes:
        coefficients: alpha (n_p, r), or beta of a projected regression.
        intercept: b (r,); 0 for a projected regression, whose beta has it.
        targets: Y (n, r).
    """

    coefficients: Tensor
    intercept: Tensor
    targets: Tensor


class PatternSolution(ABC):
    """The regression of one pattern.

    Arguments:
        training: the training rows.
        pattern: positions of the modalities that are not constant; empty if there are none.
        rows: positions of the training rows of this pattern (n_p,).
        choice: the weights and the ridge.
        intercept: whether the regression has an intercept.
    """

    def __init__(
        self,
        training: TrainingRows,
        pattern: Pattern,
        rows: Tensor,
        choice: PatternChoice,
        *,
        intercept: bool,
    ) -> None:
        self.training = training
        self.pattern = pattern
        self.rows = rows
        self.choice = choice
        self.intercept = intercept
        self._fitted: Fitted | None = None

    @property
    @abstractmethod
    def has_cache(self) -> bool:
        """Whether a factor, or a tensor with a row for each training row, is in memory."""

    @abstractmethod
    def drop_cache(self) -> None:
        """Free it; it is computed again when it is needed."""

    @abstractmethod
    def fit(self, targets: Tensor) -> Fitted:
        """Fit targets (n, r) of all training rows."""

    @abstractmethod
    def values(self, queries: Queries, fitted: Fitted | None = None) -> Tensor:
        """Return predictions (N, r) of the targets that were fitted, by default those of `fit`."""

    @abstractmethod
    def left_out(self, queries: Queries, targets: Tensor | None = None) -> Tensor:
        """Return predictions (N, r) of training rows of the pattern, each without itself.

        Arguments:
            queries: the rows, with their positions.
            targets: Y (n, r), by default those of `fit`.
        """

    @abstractmethod
    def smoother(self, queries: Queries) -> Tensor:
        """Return H (N, n) on all training rows, with 0 for rows that the pattern does not use."""

    @abstractmethod
    def smoother_parts(self, queries: Queries) -> Tensor:
        """Return the parts (N, M + 1, n) of H, of each modality and of the intercept."""

    @staticmethod
    def _alone(queries: Queries) -> Iterator[Tensor]:
        """Yield what is observed (N, M) of each modality alone, and at last nothing."""
        for m in range(queries.observed.shape[1]):
            observed = torch.zeros_like(queries.observed)
            observed[:, m] = queries.observed[:, m]
            yield observed
        yield torch.zeros_like(queries.observed)

    @abstractmethod
    def left_out_smoother(self, queries: Queries) -> Tensor:
        """Return H (N, n) of training rows of the pattern, each without itself."""

    def fitted_or_default(self, fitted: Fitted | None) -> Fitted:
        """Return `fitted`, or the coefficients for the training targets if it is None."""
        if fitted is not None:
            return fitted
        if self._fitted is None:
            with torch.no_grad(), without_autocast(self.training.targets):
                self._fitted = self.fit(self.training.targets)
        return self._fitted

    def probabilities(self, queries: Queries) -> Tensor:
        """Return the softmax of the predictions, if these are the scores of classes (N, C)."""
        values = self.values(queries)
        if self.choice.sharpness is not None:
            return (self.choice.sharpness * values).softmax(dim=1)
        # Without modalities the values are the shares of the classes, or 0 without an intercept.
        return values if self.intercept else values.softmax(dim=1)

    def kernel(self, queries: Queries) -> Tensor:
        """Return the kernel (N, n_p) of rows with the training rows of the pattern."""
        return self.training.kernel_to(
            self.pattern, self.choice.weights, self.rows, queries.x, queries.observed
        )

    def spread_kernel(self, queries: Queries) -> Tensor:
        """Return the kernel (N, n) with all training rows, 0 for rows that the pattern omits."""
        k = self.kernel(queries)
        return k.new_zeros(len(k), len(self.training.targets)).index_copy(1, self.rows, k)


class Solution(PatternSolution):
    """The exact regression. Coefficients and factor are computed when first needed.

    Attributes:
        keeps_factor: whether the factor is kept after a fit, so that rows can be appended to it.
    """

    _factor: Factor | None = None
    keeps_factor = False

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes for a copy or a pickle, without the factor (n_p, n_p)."""
        return {**self.__dict__, "_factor": None}

    @property
    @override
    def has_cache(self) -> bool:
        return self._factor is not None

    @override
    def drop_cache(self) -> None:
        self._factor = None

    @override
    @torch.no_grad()
    def fit(self, targets: Tensor) -> Fitted:
        if not self.pattern:
            # Nothing is known: the best guess is the mean of all targets.
            mean = self._mean_shares() @ targets
            return Fitted(targets.new_zeros(0, targets.shape[1]), mean, targets)
        factor = self._factor or self._new_factor(self.rows)
        if self.keeps_factor:
            self._factor = factor
        return Fitted(*factor.fit(targets[self.rows]), targets)

    def extended(self, training: TrainingRows, rows: Tensor) -> Solution | None:
        """Return the solution with more training rows, whose factor is that of this one extended.

        Arguments:
            training: the training rows, to which others were appended.
            rows: positions of those of this pattern.

        Returns:
            None if there is no factor, or if the pattern uses other rows than before.
        """
        known = len(self.rows)
        if self._factor is None or not torch.equal(rows[:known], self.rows):
            return None
        solution = Solution(training, self.pattern, rows, self.choice, intercept=self.intercept)
        solution._factor, solution.keeps_factor, new = self._factor, True, rows[known:]
        if len(new):
            weights = self.choice.weights
            x = [part[new] for part in training.x]
            observed = training.observed[new]
            solution._factor = self._factor.extended(
                training.kernel_to(self.pattern, weights, self.rows, x, observed),
                training.kernel(self.pattern, weights, new),
                self.choice.ridge,
                training.row_weights[new],
            )
        return solution

    @override
    def values(self, queries: Queries, fitted: Fitted | None = None) -> Tensor:
        alpha, b, _ = self.fitted_or_default(fitted)
        return self.kernel(queries) @ alpha + b

    @override
    def left_out(self, queries: Queries, targets: Tensor | None = None) -> Tensor:
        if queries.positions is None:
            raise ValueError("left_out: the queries must be training rows.")
        y = self.training.targets if targets is None else targets
        return self.leave_one_out(self.rows)[queries.positions] @ y[self.rows]

    @override
    def left_out_smoother(self, queries: Queries) -> Tensor:
        if queries.positions is None:
            raise ValueError("left_out_smoother: the queries must be training rows.")
        h = self.leave_one_out(self.rows)[queries.positions]
        return h.new_zeros(len(h), len(self.training.targets)).index_copy(1, self.rows, h)

    @override
    def smoother(self, queries: Queries) -> Tensor:
        k = self.kernel(queries)
        h = k.new_zeros(len(k), len(self.training.targets))
        if not self.pattern:
            return h + self._mean_shares()
        if self._factor is None:
            self._factor = self._new_factor(self.rows)
        return h.index_copy(1, self.rows, self._factor.smoother(k))

    @override
    def smoother_parts(self, queries: Queries) -> Tensor:
        # H is an affine function of the kernel, which is a sum over modalities.
        parts = [self.smoother(queries._replace(observed=part)) for part in self._alone(queries)]
        return torch.stack([*(part - parts[-1] for part in parts[:-1]), parts[-1]], dim=1)

    def leave_one_out(self, rows: Tensor) -> Tensor:
        """Return H (s, s) of the leave-one-out predictions for some training rows."""
        h = self.training.targets.new_zeros(len(rows), len(rows))
        places = torch.isin(rows, self.rows).nonzero()[:, 0]
        if not self.pattern or not len(places):
            return h
        with without_autocast(h):
            part = self._new_factor(rows[places]).leave_one_out()
        h[places[:, None], places] = part
        return h

    def _mean_shares(self) -> Tensor:
        """Return the share of each training row in the prediction without any modality (n,)."""
        w = self.training.row_weights
        return w / w.sum() if self.intercept else torch.zeros_like(w)

    @torch.no_grad()
    def _new_factor(self, rows: Tensor) -> Factor:
        training = self.training
        with without_autocast(training.targets):
            k = training.kernel(self.pattern, self.choice.weights, rows)
            return Factor(
                k, self.choice.ridge, training.row_weights[rows], intercept=self.intercept
            )
