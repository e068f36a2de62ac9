r"""Sums over training rows from which the projected regression of every pattern is solved.

The kernel of each modality is projected on landmarks of its own (see `landmarks.py`), with the
features :math:`F_m` (n, L_m). For a pattern p with weights :math:`\mu` the regression is that on

.. math:: F = [\sqrt{\mu_m} F_m]_{m \in p},      f(x) = \phi(x) \beta + b

with the noise D_i = (l + noise of the modalities that row i lacks) / w_i of row i:

.. math:: \beta = G^{-1} F' D^{-1} Y,      G = I + F' D^{-1} F

(with an intercept, F has a column of ones, for which the 1 on the diagonal of G is 0). Since D is
the same, up to w, for all rows with the same modalities, the products F' W F and F' W Y are summed
once for each pattern of training rows. A new pattern then costs no pass over the rows, unless there
are too many patterns of training rows for their sums to fit in memory.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from invmod.missingness import rows_by_pattern
from invmod.regression.arguments import MAX_LANDMARKS
from invmod.regression.landmarks import random_pivots
from invmod.regression.solving import cholesky_factor
from invmod.regression.training_rows import BLOCK, Pattern, TrainingRows

SEED = 1  # Seed of the draw of landmarks.
MAX_DRAWN = MAX_LANDMARKS  # Number of rows among which the landmarks of a modality are drawn.
MAX_ESTIMATE = 2048  # Number of rows on which a mean variance is estimated.
MAX_SUMS = 2**28  # Number of entries of the sums over all groups that are kept.
MAX_FEATURES = 2**28  # Number of entries of the features of all training rows that are kept.


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


class Sums(NamedTuple):
    """Sums over a group of training rows with the features F (n_g, L_g) of all its modalities.

    Attributes:
        products: F' W F (L_g, L_g).
        features: F' W 1 (L_g,).
    """

    products: Tensor
    features: Tensor


class Cells(NamedTuple):
    """The cells of the landmarks of a modality.

    Attributes:
        rows: positions (n_m,) of the training rows that have the modality, cell by cell.
        starts: (L_m + 1,), where each cell begins.
        numbers: (n,), the cell of each training row; L_m for rows that lack the modality.
    """

    rows: Tensor
    starts: Tensor
    numbers: Tensor

    def rows_of(self, cell: int) -> Tensor:
        """Return the positions of the rows of a cell."""
        start, end = self.starts[cell : cell + 2].tolist()
        return self.rows[start:end]


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
        self._features: dict[int, Tensor] = {}
        self._unexplained: dict[tuple[Pattern, int], float] = {}
        self._cells: dict[int, Cells] = {}
        self._sums: dict[Pattern, Sums] = {}
        self._targets: Tensor | None = None
        self._version = (0, 0)
        self._target_sums: dict[Pattern, Tensor] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes for a copy or a pickle, without what is computed from them."""
        empty: dict[str, Any] = {
            "_roots": {},
            "_features": {},
            "_unexplained": {},
            "_cells": {},
            "_sums": {},
            "_targets": None,
            "_target_sums": {},
        }
        return {**self.__dict__, **empty}

    @torch.no_grad()
    def extended(self, training: TrainingRows) -> Projection:
        """Return the projection on the same landmarks, of more training rows.

        Features, cells and sums are kept, and those of the new rows are added.

        Arguments:
            training: the training rows, to which others were appended. The targets of the first
                ones may have changed.
        """
        projection, first = Projection(training, self.landmarks), len(self.training.targets)
        new = torch.arange(first, len(training.targets), device=training.targets.device)
        projection._roots = self._roots
        target_sums = self._sums_of_own_targets(training.targets[:first])
        if target_sums:
            projection._targets = training.targets
            projection._version = (id(training.targets), training.targets._version)
        if not len(new):
            projection._features, projection._unexplained = self._features, self._unexplained
            projection._cells, projection._sums = self._cells, self._sums
            projection._target_sums = target_sums
            return projection
        if projection._keeps_features:
            projection._features = {
                m: torch.cat([f, projection._computed(m, new)]) for m, f in self._features.items()
            }
        for m, cells in self._cells.items():
            added = new[training.observed[new, m]]
            numbers = torch.cat([cells.numbers, torch.full_like(new, len(self.landmarks[m]))])
            numbers[added] = projection._nearest_landmarks(m, added)
            projection._cells[m] = self._cells_of(m, numbers)
        for group, sums in self._sums.items():
            part = projection._summed(group, first)
            projection._sums[group] = Sums(*(a + b for a, b in zip(sums, part, strict=True)))
        for group, total in target_sums.items():
            summed = projection._summed_targets(group, training.targets, first)
            projection._target_sums[group] = total + summed
        return projection

    def _sums_of_own_targets(self, targets: Tensor) -> dict[Pattern, Tensor]:
        """Return the sums F' W Y that are kept, if they are of these targets of all rows."""
        own = self.training.targets
        kept = self._targets is own and self._version == (id(own), own._version)
        return self._target_sums if kept and torch.equal(targets, own) else {}

    @property
    def keeps_sums(self) -> bool:
        """Whether the sums of all groups fit: with many patterns of rows there are too many."""
        return sum(self._width(group) ** 2 for group in self.groups) <= MAX_SUMS

    def _width(self, group: Pattern) -> int:
        """Return L_g, the number of features of all modalities of a group."""
        return sum(len(self.landmarks[m]) for m in group)

    def slices(self, modalities: Sequence[int]) -> list[slice]:
        """Return the part of the joined features that belongs to each of some modalities."""
        ends = [0, *itertools.accumulate(len(self.landmarks[m]) for m in modalities)]
        return [slice(start, end) for start, end in itertools.pairwise(ends)]

    # --- features

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

    def features_at(self, m: int, rows: Tensor) -> Tensor:
        """Return the features (..., L_m) of training rows at some positions.

        Those of all rows are kept if they fit in memory, and computed again otherwise.
        """
        if not self._keeps_features:
            features = self._computed(m, rows.reshape(-1))
            return features.reshape(*rows.shape, features.shape[1])
        if m not in self._features:
            every = torch.arange(len(self.training.targets), device=rows.device)
            self._features[m] = self._computed(m, every)
        return self._features[m][rows]

    @property
    def _keeps_features(self) -> bool:
        width = self._width(tuple(range(len(self.landmarks))))
        return len(self.training.targets) * width <= MAX_FEATURES

    def _computed(self, m: int, rows: Tensor) -> Tensor:
        """Return the features (n, L_m) of training rows, some rows at a time."""
        x, observed = self.training.x[m], self.training.observed[:, m]
        blocks = torch.split(rows, BLOCK)
        return torch.cat([self.features(m, x[block], observed[block]) for block in blocks])

    def unexplained(self, group: Pattern, m: int) -> float:
        """Return the mean of K_ii - (F F')_ii in a modality, over rows of a group that have it.

        With many rows it is estimated on `MAX_ESTIMATE` of them.
        """
        if (group, m) not in self._unexplained:
            rows = self.groups[group]
            rows = rows[:: max(1, len(rows) // MAX_ESTIMATE)]
            explained = self.features_at(m, rows).square().sum(dim=1)
            variance = (self.training.diagonal(m, rows) - explained).clamp(min=0).mean()
            self._unexplained[group, m] = float(variance)
        return self._unexplained[group, m]

    # --- cells of landmarks

    def nearness(self, m: int, x: Tensor) -> Tensor:
        """Return how much of the variance of rows x (N, d_m) each landmark explains, (N, L_m)."""
        at = self.landmarks[m]
        k = self.training.kernel_of(m, x, at)
        return k.square() / self.training.diagonal(m, at)

    def cells(self, m: int) -> Cells:
        """Return the cells of modality number m: each row belongs to its nearest landmark."""
        if m not in self._cells:
            rows = self.training.observed[:, m].nonzero()[:, 0]
            numbers = rows.new_full((len(self.training.targets),), len(self.landmarks[m]))
            numbers[rows] = self._nearest_landmarks(m, rows)
            self._cells[m] = self._cells_of(m, numbers)
        return self._cells[m]

    def _nearest_landmarks(self, m: int, rows: Tensor) -> Tensor:
        """Return the number (n,) of the nearest landmark of each of some training rows."""
        blocks = torch.split(rows, BLOCK)
        nearest = [self.nearness(m, self.training.x[m][block]).argmax(dim=1) for block in blocks]
        return torch.cat(nearest)

    def _cells_of(self, m: int, numbers: Tensor) -> Cells:
        """Return the cells of modality number m from the number (n,) of the cell of each row."""
        count = len(self.landmarks[m])
        cell, order = numbers.sort(stable=True)
        starts = torch.searchsorted(cell, torch.arange(count + 1, device=cell.device))
        return Cells(order[: int(starts[-1])], starts, numbers)

    # --- sums

    def _blocks(self, group: Pattern, first: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield rows of a group in blocks: positions (b,), F (b, L_g), and W F (b, L_g).

        Arguments:
            first: the first training row that is read.
        """
        rows = self.groups[group]
        for block in torch.split(rows[torch.searchsorted(rows, first) :], BLOCK):
            f = torch.cat([self.features_at(m, block) for m in group], dim=1)
            yield block, f, self.training.row_weights[block, None] * f

    def sums(self, group: Pattern) -> Sums:
        """Return the sums over the training rows of a group, which are kept."""
        if group not in self._sums:
            self._sums[group] = self._summed(group, 0)
        return self._sums[group]

    def _summed(self, group: Pattern, first: int) -> Sums:
        """Return the sums over the training rows of a group from the row `first` on."""
        dtype, width = self.training.targets.dtype, self._width(group)
        # Block by block in float64: rounding errors of a long sum would add up.
        products = self.training.targets.new_zeros(width, width, dtype=torch.float64)
        features = products.new_zeros(width)
        for _, f, weighted in self._blocks(group, first):
            products += weighted.T @ f
            features += weighted.sum(dim=0)
        return Sums(products.to(dtype), features.to(dtype))

    def target_sums(self, group: Pattern, targets: Tensor) -> Tensor:
        """Return F' W Y (L_g, r), summed over the training rows of a group.

        Arguments:
            targets: Y (n, r). The sums of the last targets are kept if they fit in memory.
        """
        version = (id(targets), targets._version)
        if self._targets is not targets or self._version != version:
            self._targets, self._version = targets, version
            self._target_sums.clear()
        if group in self._target_sums:
            return self._target_sums[group]
        sums = self._summed_targets(group, targets, 0)
        if sum(map(self._width, self.groups)) * targets.shape[1] <= MAX_SUMS:
            self._target_sums[group] = sums
        return sums

    def _summed_targets(self, group: Pattern, targets: Tensor, first: int) -> Tensor:
        """Return F' W Y (L_g, r) over the training rows of a group from the row `first` on."""
        total = targets.new_zeros(self._width(group), targets.shape[1], dtype=torch.float64)
        for rows, _, weighted in self._blocks(group, first):
            total += weighted.T @ targets[rows]
        return total.to(targets.dtype)
