r"""Sums over training rows from which the projected regression of every pattern is solved.

The kernel of each modality is projected on landmarks of its own (see `landmarks.py`), with the
features :math:`F_m` (n, L_m). For a pattern p with weights :math:`\mu` the regression is that on

.. math:: F = [\sqrt{\mu_m} F_m]_{m \in p},      f(x) = \phi(x) \beta + b

with the noise D_i = (l + noise of the modalities that row i lacks) / w_i of row i:

.. math:: \beta = G^{-1} F' D^{-1} Y,      G = I + F' D^{-1} F

(with an intercept, F has a column of ones, for which the 1 on the diagonal of G is 0). Since D is
the same, up to w, for all rows with the same modalities, the products F_m' W F_k and F_m' W Y are
summed once for each pattern of training rows. A new pattern then costs no pass over the rows,
unless there are too many patterns of training rows for their sums to fit in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from invmod.missingness import rows_by_pattern
from invmod.regression.arguments import MAX_LANDMARKS
from invmod.regression.landmarks import random_pivots
from invmod.regression.solving import cholesky_factor
from invmod.regression.training_rows import Pattern, TrainingRows

SEED = 1  # Seed of the draw of landmarks.
MAX_DRAWN = MAX_LANDMARKS  # Number of rows among which the landmarks of a modality are drawn.
BLOCK = 8192  # Number of rows whose features are computed at once.
MAX_SUMS = 2**28  # Number of entries of the sums over all groups that are kept.


def draw_landmarks(training: TrainingRows, count: int) -> list[Tensor]:
    """Return the positions (L_m,) of the landmarks of each modality; none of a constant one."""
    generator = torch.Generator().manual_seed(SEED)
    drawn = []
    for m in range(len(training.kernels)):
        rows = training.observed[:, m].nonzero()[:, 0]
        if training.kernels[m] is None:
            drawn.append(rows[:0])
            continue
        chosen = torch.randperm(len(rows), generator=generator)[:MAX_DRAWN].sort().values
        rows = rows[chosen.to(rows.device)]
        x, diagonal = training.x[m][rows], training.diagonal(m, rows)

        def columns(at: Tensor, m: int = m, x: Tensor = x, rows: Tensor = rows) -> Tensor:
            return training.kernel_of(m, x, rows[at])

        drawn.append(rows[random_pivots(columns, diagonal, count, generator)])
    return drawn


class Projection:
    """The kernels of all modalities, projected on landmarks.

    Arguments:
        training: the training rows.
        landmarks: positions (L_m,) of the landmarks of each modality.
    """

    def __init__(self, training: TrainingRows, landmarks: Sequence[Tensor]) -> None:
        self.training, self.landmarks = training, landmarks
        self.groups = {
            tuple(m for m, known in enumerate(pattern) if known): rows
            for pattern, rows in rows_by_pattern(training.observed).items()
        }
        self._roots: dict[int, Tensor] = {}
        self._rows: dict[int, Tensor] = {}
        self._products: dict[tuple[Pattern, int, int], Tensor] = {}
        self._feature_sums: dict[tuple[Pattern, int], Tensor] = {}
        self._targets: Tensor | None = None
        self._version = (0, 0)
        self._target_products: dict[tuple[Pattern, int], Tensor] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes for a copy or a pickle, without what is computed from them."""
        empty: dict[str, Any] = {
            "_roots": {},
            "_rows": {},
            "_products": {},
            "_feature_sums": {},
            "_targets": None,
            "_target_products": {},
        }
        return {**self.__dict__, **empty}

    @property
    def keeps_sums(self) -> bool:
        """Whether the sums of all groups fit: with many patterns of rows there are too many."""
        sizes = [len(at) for at in self.landmarks]
        return sum(sum(sizes[m] for m in group) ** 2 for group in self.groups) <= MAX_SUMS

    def features(self, m: int, x: Tensor, observed: Tensor) -> Tensor:
        """Return the features (N, L_m) of rows of modality number m, 0 where it is missing.

        Arguments:
            x: centred and scaled rows (N, d_m).
            observed: bool (N,).
        """
        k = self.training.kernel_of(m, x, self.landmarks[m])
        features = torch.linalg.solve_triangular(self._root(m), k.T, upper=False).T
        return torch.where(observed[:, None], features, 0.0)

    def _root(self, m: int) -> Tensor:
        """Return C of modality number m (L_m, L_m)."""
        if m not in self._roots:
            at = self.landmarks[m]
            k = self.training.kernel_of(m, self.training.x[m][at], at)
            # In float64, so that near duplicates among the landmarks do no harm.
            root = cholesky_factor(k.to(torch.float64), "a kernel between landmarks", 0.0)
            self._roots[m] = root.to(k.dtype)
        return self._roots[m]

    def rows(self, m: int) -> Tensor:
        """Return the features F_m (n, L_m) of the training rows."""
        if m not in self._rows:
            x, observed = self.training.x[m], self.training.observed[:, m]
            blocks = torch.split(torch.arange(len(x), device=x.device), BLOCK)
            self._rows[m] = torch.cat([self.features(m, x[b], observed[b]) for b in blocks])
        return self._rows[m]

    def feature_products(self, group: Pattern, m: int, k: int) -> Tensor:
        """Return F_m' W F_k (L_m, L_k), summed over the training rows of a group."""
        if (group, m, k) not in self._products:
            rows = self.groups[group]
            self._products[group, m, k] = self._weighted(rows, m).T @ self.rows(k)[rows]
        return self._products[group, m, k]

    def feature_sums(self, group: Pattern, m: int) -> Tensor:
        """Return F_m' W 1 (L_m,), summed over the training rows of a group."""
        if (group, m) not in self._feature_sums:
            self._feature_sums[group, m] = self._weighted(self.groups[group], m).sum(dim=0)
        return self._feature_sums[group, m]

    def target_products(self, group: Pattern, m: int, targets: Tensor) -> Tensor:
        """Return F_m' W Y (L_m, r), summed over the training rows of a group.

        Arguments:
            targets: Y (n, r). The sums of the last targets are kept if they fit in memory.
        """
        version = (id(targets), targets._version)
        if self._targets is not targets or self._version != version:
            self._targets, self._version = targets, version
            self._target_products.clear()
        if (group, m) in self._target_products:
            return self._target_products[group, m]
        rows = self.groups[group]
        products = self._weighted(rows, m).T @ targets[rows]
        landmarks = sum(len(self.landmarks[k]) for each in self.groups for k in each)
        if landmarks * targets.shape[1] <= MAX_SUMS:
            self._target_products[group, m] = products
        return products

    def _weighted(self, rows: Tensor, m: int) -> Tensor:
        return self.training.row_weights[rows, None] * self.rows(m)[rows]
