"""Kernel ridge regression of one pattern, from a Cholesky factorisation.

With the letters of `invmod.regression.leave_one_out`, the fitted values of rows with the kernel k
(N, n) to the training rows are k alpha + b = H Y, where

    H = k Q + (1 - k Q 1) s',      s = Q 1 / (1'Q 1)

and without an intercept H = k Q. Neither alpha nor b depends on H, so the targets Y need not be
known when H is computed.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from invmod._precision import without_autocast
from invmod.regression.patterns import PatternChoice
from invmod.regression.training_rows import Pattern, TrainingRows


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
        self.root, failed = torch.linalg.cholesky_ex(k)
        if failed:
            raise ValueError(
                f"PatternKernelRidge: a kernel of {len(k)} rows is not positive definite in "
                f"{k.dtype} with the ridge {ridge:.3g}. Use a larger ridge or dtype=torch.float64; "
                "a precomputed kernel must be symmetric and positive semi-definite."
            )
        # The share s of each training row in the intercept (n,).
        self.shares: Tensor | None = None
        if intercept:
            sums = torch.cholesky_solve(k.new_ones(len(k), 1), self.root)[:, 0]
            self.shares = sums / sums.sum()

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


class Solution:
    """The regression of one pattern. Coefficients and factor are computed when first needed.

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
        self._coefficients: tuple[Tensor, Tensor] | None = None
        self._factor: Factor | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes for a copy or a pickle, without the factor (n_p, n_p)."""
        return {**self.__dict__, "_factor": None}

    @property
    def has_factor(self) -> bool:
        """Whether the factor (n_p, n_p) is in memory."""
        return self._factor is not None

    def drop_factor(self) -> None:
        """Free the factor, which is computed again when it is needed."""
        self._factor = None

    def values(self, k: Tensor) -> Tensor:
        """Return predictions (N, r) for rows with the kernel k (N, n_p) to the training rows."""
        if self._coefficients is None:
            self._coefficients = self._new_coefficients()
        alpha, b = self._coefficients
        return k @ alpha + b

    def probabilities(self, k: Tensor) -> Tensor:
        """Return the softmax of the predictions, if these are the scores of classes (N, C)."""
        values = self.values(k)
        if self.choice.sharpness is not None:
            return (self.choice.sharpness * values).softmax(dim=1)
        # Without modalities the values are the shares of the classes, or 0 without an intercept.
        return values if self.intercept else values.softmax(dim=1)

    def smoother(self, k: Tensor) -> Tensor:
        """Return H (N, n) on all training rows, with 0 for rows that the pattern does not use."""
        h = k.new_zeros(len(k), len(self.training.targets))
        if not self.pattern:
            return h + self._mean_shares()
        if self._factor is None:
            self._factor = self._new_factor(self.rows)
        return h.index_copy(1, self.rows, self._factor.smoother(k))

    def spread(self, k: Tensor) -> Tensor:
        """Return the kernel (N, n) to all training rows, 0 for rows that the pattern omits."""
        return k.new_zeros(len(k), len(self.training.targets)).index_copy(1, self.rows, k)

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
    def _new_coefficients(self) -> tuple[Tensor, Tensor]:
        """Return alpha (n_p, r) and b (r,); a factor that is computed here is not kept."""
        y = self.training.targets
        with without_autocast(y):
            if not self.pattern:
                # Nothing is known: the best guess is the mean of all targets.
                return y.new_zeros(0, y.shape[1]), self._mean_shares() @ y
            return (self._factor or self._new_factor(self.rows)).fit(y[self.rows])

    @torch.no_grad()
    def _new_factor(self, rows: Tensor) -> Factor:
        training = self.training
        with without_autocast(training.targets):
            k = training.kernel(self.pattern, self.choice.weights, rows)
            return Factor(
                k, self.choice.ridge, training.row_weights[rows], intercept=self.intercept
            )
