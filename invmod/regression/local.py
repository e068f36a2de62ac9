r"""The projected regression of one pattern, with a correction by the nearest training rows.

With the letters of `projection.py`, K the kernel of the pattern and R = K - F F' the part of it
that landmarks do not span, the prediction for a row c with its N nearest training rows S is the
posterior mean of a Gaussian process whose covariance is F F', and K itself between c and S:

.. math:: f(c) = (\phi_c - a F_S) \beta + a Y_S

.. math:: a = (r_c - g_c R_{SS}) (I + M R_{SS})^{-1} D_S^{-1},
    \qquad r_c = k(c, S) - \phi_c F_S'

.. math:: M = D_S^{-1} - D_S^{-1} F_S S^{-1} F_S' D_S^{-1},
    \qquad g_c = \phi_c S^{-1} F_S' D_S^{-1}

where M is the block of (F F' + D)^{-1} that belongs to the rows S. It follows from the identity of
Woodbury. If all rows are neighbours, or all are landmarks, it is the exact regression. Without
neighbours a is 0.

References:
    Sang and Huang, A full scale approximation of covariance functions for large spatial data sets,
    Journal of the Royal Statistical Society B 74, 2012.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from invmod.regression.patterns import PatternChoice
from invmod.regression.projection import BLOCK, Projection
from invmod.regression.training_rows import Pattern

MAX_KERNEL = 2**25  # Number of kernel entries in memory when neighbours are searched.
MAX_BATCH = 2**24  # Number of entries of a batch of local problems.
MAX_WHITENED = 2**27  # Number of entries of the whitened features that are kept.


class Queries(NamedTuple):
    """Rows that are predicted.

    Attributes:
        x: centred and scaled rows (N, d_m) of each modality.
        observed: bool (N, M).
        positions: (N,), if the rows are training rows that are left out: their positions among
            the training rows of the pattern.
    """

    x: list[Tensor]
    observed: Tensor
    positions: Tensor | None = None

    def of(self, rows: Tensor) -> Queries:
        """Return some of the rows."""
        positions = None if self.positions is None else self.positions[rows]
        return Queries([part[rows] for part in self.x], self.observed[rows], positions)


class LocalWeights(NamedTuple):
    """The weights of the nearest training rows.

    Attributes:
        near: int64 (N, S), positions among the training rows of the pattern.
        a: (N, S).
    """

    near: Tensor
    a: Tensor


class ProjectedSolution:
    """The projected regression of one pattern.

    Arguments:
        projection: the projected kernels.
        pattern: positions of the modalities, at least one; none of them is constant.
        rows: positions of the training rows of this pattern (n_p,).
        choice: the weights and the ridge.
        intercept: whether the regression has an intercept.
        neighbours: number of nearest rows of the correction, or 0.
    """

    def __init__(
        self,
        projection: Projection,
        pattern: Pattern,
        rows: Tensor,
        choice: PatternChoice,
        *,
        intercept: bool,
        neighbours: int,
    ) -> None:
        self.projection, self.pattern, self.rows, self.choice = projection, pattern, rows, choice
        self.intercept, self.neighbours = intercept, neighbours
        training = projection.training
        weighted = zip(pattern, choice.weights, strict=True)
        self._active = [(m, weight) for m, weight in weighted if weight > 0]
        noise = training.noise(pattern, choice.weights, training.observed[rows]) + choice.ridge
        self._noise = noise / training.row_weights[rows]  # D (n_p,)
        self._system: tuple[Tensor, Tensor] | None = None
        self._white: Tensor | None = None

    # --- the global part

    def _solved(self) -> tuple[Tensor, Tensor]:
        """Return the Cholesky factor of S and beta; the last entry belongs to the intercept."""
        if self._system is None:
            with torch.no_grad():
                self._system = self._new_system()
        return self._system

    def _new_system(self) -> tuple[Tensor, Tensor]:
        projection, training = self.projection, self.projection.training
        sizes = [len(projection.landmarks[m]) for m, _ in self._active]
        starts = [sum(sizes[:i]) for i in range(len(sizes))]
        total = sum(sizes)
        system = training.targets.new_zeros(total + 1, total + 1)
        right = training.targets.new_zeros(total + 1, training.targets.shape[1])
        used = torch.zeros(len(training.targets), dtype=torch.bool, device=system.device)
        used[self.rows] = True
        places = [slice(start, start + size) for start, size in zip(starts, sizes, strict=True)]
        for group, rows in projection.groups.items():
            if not used[rows[0]]:
                continue  # The rows of a pattern are whole groups.
            noise = training.noise(self.pattern, self.choice.weights, training.observed[rows[:1]])
            precision = 1 / (self.choice.ridge + float(noise))
            totals = precision * projection.totals(group)
            system[total, total] += totals[0]
            right[total] += totals[1:]
            for i, (m, weight) in enumerate(self._active):
                if m not in group:
                    continue
                sums = precision * weight**0.5 * projection.sums(group, m)
                system[total, places[i]] += sums[:, 0]
                right[places[i]] += sums[:, 1:]
                for j, (k, other) in enumerate(self._active[: i + 1]):
                    if k in group:
                        scale = precision * (weight * other) ** 0.5
                        system[places[i], places[j]] += scale * projection.inner(group, m, k)
        system.diagonal()[:total] += 1
        if not self.intercept:
            system[total], right[total] = 0, 0
            system[total, total] = 1
        root = torch.linalg.cholesky(system)  # Only the lower triangle is read.
        return root, torch.cholesky_solve(right, root)

    def _features(self, queries: Queries) -> Tensor:
        """Return phi (N, L + 1), the last column for the intercept."""
        parts = [
            weight**0.5 * self.projection.features(m, queries.x[m], queries.observed[:, m])
            for m, weight in self._active
        ]
        return self._joined(parts)

    def _training_features(self, near: Tensor) -> Tensor:
        """Return F (..., L + 1) of training rows of the pattern."""
        at = self.rows[near]
        return self._joined([w**0.5 * self.projection.rows(m)[at] for m, w in self._active])

    def _joined(self, parts: list[Tensor]) -> Tensor:
        last = parts[0].new_full((*parts[0].shape[:-1], 1), float(self.intercept))
        return torch.cat([*parts, last], dim=-1)

    def _whitened(self, near: Tensor, features: Tensor) -> Tensor:
        """Return D^-1 F C^-T (..., L + 1) of training rows with the features F."""
        if self._white is not None:
            return self._white[near]
        root = self._solved()[0]
        size = len(self.rows) * len(root)
        if size <= MAX_WHITENED:
            with torch.no_grad():
                blocks = torch.arange(len(self.rows), device=near.device).split(BLOCK)
                self._white = torch.cat(
                    [self._whiten(b, self._training_features(b)) for b in blocks]
                )
            return self._white[near]
        return self._whiten(near, features)

    def _whiten(self, near: Tensor, features: Tensor) -> Tensor:
        rows = features.reshape(-1, features.shape[-1]) / self._noise[near].reshape(-1, 1)
        root = self._solved()[0]
        return torch.linalg.solve_triangular(root, rows.T, upper=False).T.reshape(features.shape)

    # --- the local part

    def _local(self, queries: Queries, phi: Tensor) -> LocalWeights:
        """Return the nearest training rows of each query and their weights a."""
        count = min(self.neighbours, len(self.rows) - (queries.positions is not None))
        k, near = self._nearest(queries, count)
        widest = max(phi.shape[1], count, *(x.shape[1] for x in queries.x))
        size = max(1, MAX_BATCH // max(1, count * widest))
        blocks = torch.arange(len(phi), device=phi.device).split(size)
        return LocalWeights(
            near, torch.cat([self._weights(queries.of(b), phi[b], k[b], near[b]) for b in blocks])
        )

    def _nearest(self, queries: Queries, count: int) -> tuple[Tensor, Tensor]:
        """Return the kernels with the nearest training rows, and their positions, both (N, S).

        A row is near if it alone would explain much of the variance of the query:
        k(c, i)^2 / (k(i, i) + D_i).
        """
        training, weights = self.projection.training, self.choice.weights
        variances = self._noise + sum(
            weight * training.observed[self.rows, m] * training.diagonal(m, self.rows)
            for m, weight in zip(self.pattern, weights, strict=True)
        )
        kernels, positions = [], []
        size = max(1, MAX_KERNEL // len(self.rows))
        for block in torch.arange(len(queries.observed), device=self.rows.device).split(size):
            part = queries.of(block)
            k = training.kernel_to(self.pattern, weights, self.rows, part.x, part.observed)
            relevance = k.detach().square() / variances
            if part.positions is not None:
                relevance[torch.arange(len(block), device=block.device), part.positions] = -1
            near = relevance.topk(count, dim=1).indices
            kernels.append(k.gather(1, near))
            positions.append(near)
        return torch.cat(kernels), torch.cat(positions)

    def _weights(self, queries: Queries, phi: Tensor, k: Tensor, near: Tensor) -> Tensor:
        """Return a (B, S) of a batch of queries with the features phi and the kernels k."""
        noise, features = self._noise[near], self._training_features(near)
        white = self._whitened(near, features)
        psi = torch.linalg.solve_triangular(self._solved()[0], phi.T, upper=False).T
        g = (white @ psi[:, :, None])[:, :, 0]
        m = torch.diag_embed(1 / noise) - white @ white.mT
        if queries.positions is not None:
            own = self._noise[queries.positions]
            left = own - psi.square().sum(dim=1)
            m = m - g[:, :, None] * g[:, None] / left[:, None, None]
            g = g * (own / left)[:, None]
        kernel_features = features[..., :-1]
        r_ss = self._kernel_among(near) - kernel_features @ kernel_features.mT
        r = k - (kernel_features @ phi[:, :-1, None])[:, :, 0]
        first = r - (g[:, None] @ r_ss)[:, 0]
        # With M = T T' the inverse of I + M R is I - T (I + T'RT)^-1 T'R, whose matrix is positive
        # definite. M is singular if the intercept is free and all rows are neighbours.
        tiny = 10 * torch.finfo(m.dtype).eps * m.diagonal(dim1=1, dim2=2).mean(dim=1)
        eye = torch.eye(m.shape[1], dtype=m.dtype, device=m.device)
        t = torch.linalg.cholesky(m + tiny[:, None, None] * eye)
        inner = torch.linalg.cholesky(eye + t.mT @ r_ss @ t)
        second = torch.cholesky_solve((first[:, None] @ t).mT, inner)
        return (first - ((t @ second).mT @ r_ss)[:, 0]) / noise

    def _kernel_among(self, near: Tensor) -> Tensor:
        """Return the kernel (B, S, S) between the neighbours of each query."""
        training, at = self.projection.training, self.rows[near]
        total = self._noise.new_zeros(*near.shape, near.shape[1])
        for m, weight in self._active:
            own = training.observed[at, m].to(total)
            k = training.kernel_within(m, at)
            total = total + weight * (own[:, :, None] * k * own[:, None])
        return total

    # --- predictions

    def values(self, queries: Queries) -> Tensor:
        """Return predictions (N, r)."""
        phi, beta = self._features(queries), self._solved()[1]
        if not self.neighbours:
            return phi @ beta
        near, a = self._local(queries, phi)
        phi = phi - self._spanned(near, a)
        local = (a[:, None] @ self.projection.training.targets[self.rows[near]])[:, 0]
        return phi @ beta + local

    def left_out(self, queries: Queries) -> Tensor:
        """Return predictions (N, r) of training rows, each without itself."""
        if queries.positions is None:
            raise ValueError("left_out: the queries must be training rows.")
        phi, (root, beta) = self._features(queries), self._solved()
        solved = torch.cholesky_solve(phi.T, root).T
        own = self._noise[queries.positions]
        targets = self.projection.training.targets
        errors = targets[self.rows[queries.positions]] - phi @ beta
        errors = errors / (own - (phi * solved).sum(dim=1))[:, None]
        local = 0.0
        if self.neighbours:
            near, a = self._local(queries, phi)
            phi = phi - self._spanned(near, a)
            local = (a[:, None] @ targets[self.rows[near]])[:, 0]
        return phi @ beta - (phi * solved).sum(dim=1, keepdim=True) * errors + local

    def smoother(self, queries: Queries) -> Tensor:
        """Return H (N, n) on all training rows, 0 for rows that the pattern does not use."""
        phi, training = self._features(queries), self.projection.training
        local = phi.new_zeros(len(phi), len(self.rows))
        if self.neighbours:
            near, a = self._local(queries, phi)
            phi = phi - self._spanned(near, a)
            local = local.scatter(1, near, a)
        solved = torch.cholesky_solve(phi.T, self._solved()[0]).T
        blocks = torch.arange(len(self.rows), device=phi.device).split(BLOCK)
        spread = [solved @ self._training_features(b).T / self._noise[b] for b in blocks]
        h = torch.cat(spread, dim=1) + local
        return h.new_zeros(len(h), len(training.targets)).index_copy(1, self.rows, h)

    def _spanned(self, near: Tensor, a: Tensor) -> Tensor:
        """Return a F_S (N, L + 1), in batches."""
        width = sum(len(self.projection.landmarks[m]) for m, _ in self._active) + 1
        size = max(1, MAX_BATCH // max(1, near.shape[1] * width))
        blocks = torch.arange(len(a), device=a.device).split(size)
        return torch.cat([(a[b, None] @ self._training_features(near[b]))[:, 0] for b in blocks])
