"""The training rows of a regression, and the kernels between them and other rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from invmod.regression.kernels import Kernel, kernel_between
from invmod.regression.units import ScaledRows

Pattern = tuple[int, ...]
RowRule = Literal["all", "superset", "exact"]
ROW_RULES: tuple[RowRule, ...] = ("all", "superset", "exact")
# "exact" uses the rows with exactly a pattern if there are this many of them.
MIN_EXACT_ROWS = 50
BLOCK = 8192  # Number of rows that are read at once.


class Queries(NamedTuple):
    """Rows that are predicted.

    Attributes:
        x: centred and scaled rows (N, d_m) of each modality, 0 where missing; for a precomputed
            kernel its values to the training rows (N, n).
        observed: bool (N, M).
        positions: for training rows that are left out, their positions (N,) among the training
            rows of the pattern; else None.
    """

    x: Sequence[Tensor]
    observed: Tensor
    positions: Tensor | None = None

    def of(self, rows: Tensor) -> Queries:
        """Return some of the rows."""
        positions = None if self.positions is None else self.positions[rows]
        return Queries([part[rows] for part in self.x], self.observed[rows], positions)


@dataclass(frozen=True)
class TrainingRows:
    """The training rows.

    Arguments:
        x: centred and scaled rows (n, d_m) of each modality, 0 where missing; or rows that become
            so when they are read. For a precomputed kernel its values between the training rows
            (n, n).
        observed: bool (n, M).
        targets: Y (n, r).
        row_weights: (n,), above 0.
        kernels: the kernel of each modality; None for a modality that is constant, which has no
            part in any kernel.
    """

    x: Sequence[Tensor | ScaledRows]
    observed: Tensor
    targets: Tensor
    row_weights: Tensor
    kernels: Sequence[Kernel | None]

    def used(self, pattern: Pattern, rule: RowRule) -> Tensor:
        """Return the training rows (n_p,) of a pattern; none if the pattern is empty."""
        observed = self.observed[:, list(pattern)]
        any_of = observed.any(dim=1)
        # With an empty pattern `all` is True for every row.
        all_of = observed.all(dim=1) & any_of
        exact = all_of & (self.observed.sum(dim=1) == len(pattern))
        if rule == "exact" and int(exact.sum()) >= MIN_EXACT_ROWS:
            return exact.nonzero()[:, 0]
        chosen = all_of if rule != "all" and all_of.any() else any_of
        return chosen.nonzero()[:, 0]

    def kernel(self, pattern: Pattern, weights: Sequence[float], rows: Tensor) -> Tensor:
        r"""Return the kernel k_p between training rows, with the noise of incomplete ones, (n, n).

        The regression is a sum of functions, one per modality. If a row lacks a modality of the
        pattern, the value of that function is unknown, and its variance is noise of the row:

        .. math:: \frac{1}{w_i} \sum_{m \in p} \mu_m (1 - a_{im}) v_m

        where w are the row weights and :math:`v_m` is the mean of the kernel's diagonal, 1 for all
        but precomputed kernels. The noise stands on the diagonal.
        """
        parts = [self.x[m][rows] for m in range(len(self.x))]
        k = self.kernel_to(pattern, weights, rows, parts, self.observed[rows])
        k.diagonal().add_(
            self.noise(pattern, weights, self.observed[rows]) / self.row_weights[rows]
        )
        return k

    def noise(self, pattern: Pattern, weights: Sequence[float], observed: Tensor) -> Tensor:
        """Return the noise (N,) of rows with the mask (N, M), before the division by weights."""
        # Bools times a number would be float32.
        missing = (~observed).to(self.targets)
        total = missing.new_zeros(len(missing))
        for m, weight in zip(pattern, weights, strict=True):
            total += weight * self._mean_diagonal(m) * missing[:, m]
        return total

    def diagonal(self, m: int, rows: Tensor) -> Tensor:
        """Return the kernel (n,) of each of some training rows with itself, in modality m."""
        kernel = self.kernels[m]
        if kernel is None or kernel.name in ("gaussian", "angle"):
            return self.targets.new_ones(len(rows))
        if kernel.name == "precomputed":
            return self._kernel(m)[rows, rows]
        blocks = torch.split(rows, BLOCK)
        return torch.cat([self.x[m][block].square().sum(dim=1) for block in blocks])

    def kernel_of(self, m: int, x: Tensor, rows: Tensor) -> Tensor:
        """Return the kernel of modality m between rows x (N, d_m) and training rows, (N, n).

        The modality must be observed in all of them, and must not be constant.
        """
        kernel = self.kernels[m]
        if kernel is None:
            raise ValueError("kernel_of: a constant modality has no kernel.")
        if kernel.name == "precomputed":
            return x[:, rows]
        return kernel_between(kernel, x, self.x[m][rows])

    def kernel_to_sets(
        self,
        active: Sequence[tuple[int, float]],
        rows: Tensor,
        x: Sequence[Tensor],
        observed: Tensor,
    ) -> Tensor:
        """Return the kernel k_p between rows and sets of training rows, (B, S).

        Arguments:
            active: positions and weights of the modalities.
            rows: positions (B, S) of the training rows of each set.
            x: the rows (B, d_m) of each modality.
            observed: bool (B, M) of the rows.
        """
        total = self.targets.new_zeros(rows.shape)
        for m, weight in active:
            both = observed[:, m, None] & self.observed[rows, m]
            total = total + weight * both.to(total) * self._kernel_to_sets(m, x[m], rows)
        return total

    def _kernel_to_sets(self, m: int, x: Tensor, rows: Tensor) -> Tensor:
        kernel = self.kernels[m]
        if kernel is None:
            raise ValueError("kernel_to_sets: a constant modality has no kernel.")
        if kernel.name == "precomputed":
            return x.gather(1, rows)
        return kernel_between(kernel, x[:, None], self.x[m][rows])[:, 0]

    def kernel_within(self, m: int, rows: Tensor) -> Tensor:
        """Return the kernel of modality m within sets of training rows: (B, S) to (B, S, S)."""
        kernel = self.kernels[m]
        if kernel is None:
            raise ValueError("kernel_within: a constant modality has no kernel.")
        if kernel.name == "precomputed":
            return self._kernel(m)[rows[:, :, None], rows[:, None]]
        return kernel_between(kernel, self.x[m][rows], self.x[m][rows])

    def _kernel(self, m: int) -> Tensor:
        """Return the precomputed kernel (n, n) of modality m."""
        k = self.x[m]
        if not isinstance(k, Tensor):
            raise TypeError("TrainingRows: a precomputed kernel must be a tensor.")
        return k

    def _mean_diagonal(self, m: int) -> float:
        kernel = self.kernels[m]
        if kernel is None or kernel.name != "precomputed":
            return 1.0
        rows = self.observed[:, m].nonzero()[:, 0]
        weights = self.row_weights[rows]
        return float(weights @ self.diagonal(m, rows) / weights.sum())

    def kernel_to(
        self,
        pattern: Pattern,
        weights: Sequence[float],
        rows: Tensor,
        x: Sequence[Tensor],
        observed: Tensor,
    ) -> Tensor:
        """Return the kernel k_p between other rows and training rows, (N, n).

        Arguments:
            pattern: positions of the modalities.
            weights: mu (P,), one per modality of the pattern.
            rows: positions of the n training rows.
            x: the other rows (N, d_m) of each modality.
            observed: bool (N, M) of the other rows.
        """
        own, other = self.observed[rows].to(self.targets), observed.to(self.targets)
        total = other.new_zeros(len(other), len(own))
        for m, weight in zip(pattern, weights, strict=True):
            if not weight:
                continue
            k = self.kernel_of(m, x[m], rows)
            # Rows are 0 where the modality is missing, so a product with the masks is safe.
            total = torch.addcmul(total, k, (weight * other[:, m, None]) * own[:, m])
        return total
