r"""The projected regression of one pattern, with a correction by the nearest training rows.

With the letters of `projection.py`, K the kernel of the pattern and R = K - F F' the part of it
that landmarks do not span, let S be the N training rows that are nearest to a row c. F_S and Y_S
are their features and targets. D is the noise of rows, including V, the mean of R_ii over rows with
the same modalities. The prediction for c is the posterior mean of a Gaussian process whose
covariance is F F' + V, and K itself within c and S:

.. math:: f(c) = (\phi_c - a F_S) \beta + a Y_S

.. math:: a = (r_c - g_c R) (I + M R)^{-1} D_S^{-1},
    \qquad r_c = k(c, S) - \phi_c F_S', \qquad R = K_{SS} - F_S F_S' - V

.. math:: M = D_S^{-1} - D_S^{-1} F_S G^{-1} F_S' D_S^{-1},
    \qquad g_c = \phi_c G^{-1} F_S' D_S^{-1}

where M is the block of (F F' + D)^{-1} that belongs to the rows S. Features have a column for the
intercept in all but r_c and R. The weights a follow from the Woodbury identity. If all rows are
neighbours, or if the landmarks span K, the regression is exact. Without neighbours a is 0. Without
V the regression would be sure of what rows that are far away do not tell; its errors then grow as
the ridge becomes small.

A training row i is left out by a change of rank one. With the leverage h_i = phi_i G^-1 phi_i', and
u = D_S^-1 F_S G^-1 phi_i',

.. math:: M^{(-i)} = M - \frac{u u'}{D_i - h_i}, \quad g_i^{(-i)} = \frac{D_i \, u'}{D_i - h_i},
    \quad \beta^{(-i)} = \beta - G^{-1} \phi_i' \, \frac{y_i - \phi_i \beta}{D_i - h_i}

References:
    Snelson and Ghahramani, Local and global sparse Gaussian process approximations, AISTATS 2007.
    Sang and Huang, A full scale approximation of covariance functions for large spatial data sets,
    Journal of the Royal Statistical Society B 74, 2012.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from invmod.regression.nearest import NearestRows
from invmod.regression.patterns import PatternChoice
from invmod.regression.projection import Projection
from invmod.regression.solving import Fitted, PatternSolution, cholesky_factor
from invmod.regression.training_rows import BLOCK, Pattern, Queries

MAX_BATCH = 2**24  # Number of entries of a batch of local problems.
MAX_WHITENED = 2**26  # Number of entries of the whitened features of a pattern that are kept.


class Local(NamedTuple):
    """The local part of predictions.

    Attributes:
        near: int64 (N, S), positions among the training rows of the pattern.
        a: the weights (N, S) of their residuals Y_S - F_S beta.
        spanned: a F_S (N, L + 1).
    """

    near: Tensor
    a: Tensor
    spanned: Tensor


class ProjectedSolution(PatternSolution):
    """The projected regression of one pattern, which has at least one modality.

    Arguments:
        projection: the projected kernels.
        neighbours: number of nearest rows of the correction, or 0.
        probes: as in `NearestRows`.
        others: as in `PatternSolution`.
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
        probes: int | None,
    ) -> None:
        training = projection.training
        super().__init__(training, pattern, rows, choice, intercept=intercept)
        self.projection, self.neighbours = projection, neighbours
        weighted = zip(pattern, choice.weights, strict=True)
        self._active = [(m, weight) for m, weight in weighted if weight > 0]
        noise = training.noise(pattern, choice.weights, training.observed[rows]) + choice.ridge
        noise = noise / training.row_weights[rows]
        self._nearest = NearestRows(
            projection, self._active, rows, self._kernel_features, noise, probes
        )
        # The mean variance V (n_p,) that landmarks do not explain, and D (n_p,).
        unexplained = noise.new_zeros(len(training.targets))
        for group, at in projection.groups.items():
            unexplained[at] = self._unexplained(group)
        self._unspanned = unexplained[rows] / training.row_weights[rows]
        self._noise = noise + self._unspanned
        self._root: Tensor | None = None
        self._white: Tensor | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes for a copy or a pickle, without factor and whitened features."""
        return {**self.__dict__, "_root": None, "_white": None}

    @property
    @override
    def has_cache(self) -> bool:
        return self._root is not None

    @override
    def drop_cache(self) -> None:
        self._root = self._white = None

    # --- the global part

    def _groups(self) -> Iterator[tuple[Pattern, float]]:
        """Yield the groups of training rows of this pattern, with 1 / D of a row of weight 1."""
        training = self.training
        used = torch.zeros(len(training.targets), dtype=torch.bool, device=self.rows.device)
        used[self.rows] = True
        for group, rows in self.projection.groups.items():
            if used[rows[0]]:  # The rows of a pattern are whole groups.
                noise = training.noise(
                    self.pattern, self.choice.weights, training.observed[rows[:1]]
                )
                yield group, 1 / (self.choice.ridge + float(noise) + self._unexplained(group))

    def _unexplained(self, group: Pattern) -> float:
        """Return the mean variance of rows of a group that landmarks do not explain."""
        return sum(w * self.projection.unexplained(group, m) for m, w in self._active if m in group)

    @property
    def _modalities(self) -> list[int]:
        """Positions of the modalities with a weight above 0."""
        return [m for m, _ in self._active]

    @property
    def _size(self) -> int:
        """Number of features, L, without that of the intercept."""
        return sum(len(self.projection.landmarks[m]) for m, _ in self._active)

    def _factor(self) -> Tensor:
        """Return the Cholesky factor of G (L + 1, L + 1); the last row is the intercept's."""
        if self._root is None:
            with torch.no_grad():
                self._root = cholesky_factor(
                    self._system(), "a projected kernel", self.choice.ridge
                )
        return self._root

    def _system(self) -> Tensor:
        """Return G (L + 1, L + 1)."""
        system = self._summed_groups() if self.projection.keeps_sums else self._summed_rows()
        system.diagonal()[:-1] += 1
        if not self.intercept:
            system[-1, -1] = 1
        return system

    def _summed_rows(self) -> Tensor:
        """Return F' D^-1 F from one pass over the training rows."""
        total = self.training.targets.new_zeros(self._size + 1, self._size + 1)
        for block in torch.split(torch.arange(len(self.rows), device=total.device), BLOCK):
            features = self._training_features(block)
            total.addmm_(features.T / self._noise[block], features)
        return total

    def _summed_groups(self) -> Tensor:
        """Return F' D^-1 F from the sums of groups of training rows."""
        projection, last = self.projection, self._size
        total = self.training.targets.new_zeros(last + 1, last + 1)
        for group, precision in self._groups():
            at, roots, own = self._shared(group)
            sums = projection.sums(group)
            total[at[:, None], at] += (
                precision * torch.outer(roots, roots) * sums.products[own][:, own]
            )
            if self.intercept:
                row = precision * roots * sums.features[own]
                total[last, at] += row
                total[at, last] += row
                weights = self.training.row_weights[projection.groups[group]]
                total[last, last] += precision * weights.sum()
        return total

    def _shared(self, group: Pattern) -> tuple[Tensor, Tensor, Tensor]:
        """Return how features of a group of rows enter the regression.

        Returns:
            their positions (s,) among the features of the regression, the roots (s,) of their
            weights, and their positions (s,) among the features of the group.
        """
        slices = self.projection.slices
        of_group = dict(zip(group, slices(group), strict=True))
        # A group may have modalities of weight 0 alone.
        at, roots, own = [torch.arange(0)], [torch.zeros(0, dtype=torch.float64)], [torch.arange(0)]
        for (m, weight), part in zip(self._active, slices(self._modalities), strict=True):
            if m in of_group:
                at.append(torch.arange(part.start, part.stop))
                roots.append(torch.full(at[-1].shape, weight**0.5, dtype=torch.float64))
                own.append(torch.arange(of_group[m].start, of_group[m].stop))
        device = self._noise.device
        return (
            torch.cat(at).to(device),
            torch.cat(roots).to(self._noise),
            torch.cat(own).to(device),
        )

    @override
    @torch.no_grad()
    def fit(self, targets: Tensor) -> Fitted:
        projection, last = self.projection, self._size
        right = targets.new_zeros(last + 1, targets.shape[1])
        for group, precision in self._groups():
            at, roots, own = self._shared(group)
            right[at] += precision * roots[:, None] * projection.target_sums(group, targets)[own]
            if self.intercept:
                rows = projection.groups[group]
                right[last] += precision * (self.training.row_weights[rows] @ targets[rows])
        beta = torch.cholesky_solve(right, self._factor())
        return Fitted(beta, beta.new_zeros(beta.shape[1]), targets)

    def _features(self, queries: Queries) -> Tensor:
        """Return phi (N, L + 1), the last column for the intercept."""
        if queries.positions is not None:
            return self._training_features(queries.positions)
        parts = [
            weight**0.5 * self.projection.features(m, queries.x[m], queries.observed[:, m])
            for m, weight in self._active
        ]
        return self._joined(parts, queries.observed.shape[:1])

    def _training_features(self, near: Tensor) -> Tensor:
        """Return F (..., L + 1) of training rows of the pattern."""
        return self._joined([self._kernel_features(near)], near.shape)

    def _kernel_features(self, near: Tensor) -> Tensor:
        """Return F (..., L) of training rows of the pattern, without that of the intercept."""
        at = self.rows[near]
        parts = [weight**0.5 * self.projection.features_at(m, at) for m, weight in self._active]
        none = self.training.targets.new_zeros(*near.shape, 0)
        return torch.cat([none, *parts], dim=-1)

    def _joined(self, parts: list[Tensor], shape: torch.Size) -> Tensor:
        last = self._noise.new_full((*shape, 1), float(self.intercept))
        return torch.cat([*parts, last], dim=-1)

    def _whitened(self, near: Tensor, features: Tensor) -> Tensor:
        """Return D^-1 F C^-T (..., L + 1) of training rows with the features F."""
        if self._white is not None:
            return self._white[near]
        root = self._factor()
        size = len(self.rows) * len(root)
        if size <= MAX_WHITENED:
            with torch.no_grad():
                blocks = torch.split(torch.arange(len(self.rows), device=near.device), BLOCK)
                self._white = torch.cat(
                    [self._whiten(b, self._training_features(b)) for b in blocks]
                )
            return self._white[near]
        return self._whiten(near, features)

    def _whiten(self, near: Tensor, features: Tensor) -> Tensor:
        rows = features.reshape(-1, features.shape[-1]) / self._noise[near].reshape(-1, 1)
        white: Tensor = torch.linalg.solve_triangular(self._factor(), rows.T, upper=False).T
        return white.reshape(features.shape)

    # --- the local part

    def _near(self, queries: Queries, phi: Tensor) -> Tensor:
        """Return the neighbours (N, S) of rows with the features phi (N, L + 1)."""
        count = min(self.neighbours, len(self.rows) - (queries.positions is not None))
        return self._nearest(queries, phi[:, :-1], count)

    def _local(self, queries: Queries, phi: Tensor, near: Tensor | None = None) -> Local:
        """Return the local part of the predictions of rows with the features phi (N, L + 1).

        Arguments:
            near: (N, S) the neighbours, if they are not those of `_near`.
        """
        near = self._near(queries, phi) if near is None else near
        count = near.shape[1]
        widest = max(phi.shape[1], count, *(x.shape[1] for x in self.training.x))
        size = max(1, MAX_BATCH // max(1, count * widest))
        blocks = torch.split(torch.arange(len(phi), device=phi.device), size)
        parts = [self._batch(queries.of(b), phi[b], near[b]) for b in blocks]
        return Local(near, *(torch.cat(part) for part in zip(*parts, strict=True)))

    def _batch(self, queries: Queries, phi: Tensor, near: Tensor) -> tuple[Tensor, Tensor]:
        """Return a (B, S) and a F_S (B, L + 1) of a batch of queries with the features phi."""
        noise, features = self._noise[near], self._training_features(near)
        white = self._whitened(near, features)
        psi = torch.linalg.solve_triangular(self._factor(), phi.T, upper=False).T
        g = (white @ psi[:, :, None])[:, :, 0]
        m = torch.diag_embed(1 / noise) - white @ white.mT
        if queries.positions is not None:
            own = self._noise[queries.positions]
            left = own - psi.square().sum(dim=1)
            m = m - g[:, :, None] * g[:, None] / left[:, None, None]
            g = g * (own / left)[:, None]
        kernel_features = features[..., :-1]
        r_ss = self._kernel_among(near) - kernel_features @ kernel_features.mT
        # The noise has the mean of this variance already.
        r_ss.diagonal(dim1=1, dim2=2).sub_(self._unspanned[near])
        k = self.training.kernel_to_sets(self._active, self.rows[near], queries.x, queries.observed)
        r = k - (kernel_features @ phi[:, :-1, None])[:, :, 0]
        first = r - (g[:, None] @ r_ss)[:, 0]
        # With M = T T' the inverse of I + M R is I - T (I + T'RT)^-1 T'R, whose matrix is positive
        # definite. M is singular if the intercept is free and all rows are neighbours; its
        # rounding errors are relative to the terms 1 / D.
        tiny = 10 * torch.finfo(m.dtype).eps / noise.amin(dim=1)
        eye = torch.eye(m.shape[1], dtype=m.dtype, device=m.device)
        ridge = self.choice.ridge
        t = cholesky_factor(m + tiny[:, None, None] * eye, "a local kernel", ridge)
        inner = cholesky_factor(eye + t.mT @ r_ss @ t, "a local kernel", ridge)
        second = torch.cholesky_solve((first[:, None] @ t).mT, inner)
        a = (first - ((t @ second).mT @ r_ss)[:, 0]) / noise
        return a, (a[:, None] @ features)[:, 0]

    def _kernel_among(self, near: Tensor) -> Tensor:
        """Return the kernel (B, S, S) between the neighbours of each query."""
        training, at = self.training, self.rows[near]
        total = self._noise.new_zeros(*near.shape, near.shape[1])
        for m, weight in self._active:
            own = training.observed[at, m].to(total)
            k = training.kernel_within(m, at)
            total = total + weight * (own[:, :, None] * k * own[:, None])
        return total

    # --- predictions

    @override
    def values(self, queries: Queries, fitted: Fitted | None = None) -> Tensor:
        beta, _, targets = self.fitted_or_default(fitted)
        phi = self._features(queries)
        if not self.neighbours:
            return phi @ beta
        local = self._local(queries, phi)
        return (phi - local.spanned) @ beta + self._summed(local, targets)

    @override
    def left_out(self, queries: Queries, targets: Tensor | None = None) -> Tensor:
        beta, _, y = self.fitted_or_default(None if targets is None else self.fit(targets))
        every = torch.arange(len(queries.observed), device=y.device)
        values = [y.new_empty(0, y.shape[1])]
        for block in torch.split(every, BLOCK):
            phi, solved, left = self._leverage(part := queries.of(block))
            errors = y[self.rows[part.positions]] - phi @ beta
            local: Tensor | float = 0.0
            if self.neighbours:
                weights = self._local(part, phi)
                phi, local = phi - weights.spanned, self._summed(weights, y)
            change = (phi * solved).sum(dim=1) / left
            values.append(phi @ beta - change[:, None] * errors + local)
        return torch.cat(values)

    @override
    def smoother(self, queries: Queries) -> Tensor:
        phi = self._features(queries)
        local = self._local(queries, phi) if self.neighbours else None
        if local is not None:
            phi = phi - local.spanned
        return self._spread(torch.cholesky_solve(phi.T, self._factor()).T, local)

    @override
    def smoother_parts(self, queries: Queries) -> Tensor:
        # For fixed neighbours the weights are linear in the features phi and in the kernel.
        near = self._near(queries, self._features(queries)) if self.neighbours else None
        parts = []
        for m, observed in enumerate(self._alone(queries)):
            part = queries._replace(observed=observed)
            phi = self._features(part)
            if m < len(self.training.x):
                phi = torch.cat([phi[:, :-1], torch.zeros_like(phi[:, -1:])], dim=1)
            local = None if near is None else self._local(part, phi, near)
            if local is not None:
                phi = phi - local.spanned
            parts.append(self._spread(torch.cholesky_solve(phi.T, self._factor()).T, local))
        return torch.stack(parts, dim=1)

    @override
    def left_out_smoother(self, queries: Queries) -> Tensor:
        phi, solved, left = self._leverage(queries)
        local = self._local(queries, phi) if self.neighbours else None
        if local is not None:
            phi = phi - local.spanned
        # G^-1 without a row is G^-1 + G^-1 phi phi' G^-1 / (D - h).
        change = (phi * solved).sum(dim=1) / left
        all_of = torch.cholesky_solve(phi.T, self._factor()).T + change[:, None] * solved
        h = self._spread(all_of, local)
        return h.scatter_(1, self.rows[queries.positions][:, None], 0.0)

    def _leverage(self, queries: Queries) -> tuple[Tensor, Tensor, Tensor]:
        """Return phi (N, L + 1), phi G^-1 and D - h (N,) of training rows."""
        if queries.positions is None:
            raise ValueError("left_out: the queries must be training rows.")
        phi = self._features(queries)
        solved = torch.cholesky_solve(phi.T, self._factor()).T
        return phi, solved, self._noise[queries.positions] - (phi * solved).sum(dim=1)

    def _spread(self, solved: Tensor, local: Local | None) -> Tensor:
        """Return solved F' D^-1 + a, on all training rows (N, n)."""
        blocks = torch.split(torch.arange(len(self.rows), device=solved.device), BLOCK)
        h = torch.cat(
            [solved @ self._training_features(b).T / self._noise[b] for b in blocks], dim=1
        )
        if local is not None:
            h = h.scatter_add(1, local.near, local.a)
        return h.new_zeros(len(h), len(self.training.targets)).index_copy(1, self.rows, h)

    def _summed(self, local: Local, targets: Tensor) -> Tensor:
        """Return a Y_S (N, r), some rows at a time."""
        at, a = self.rows[local.near], local.a
        size = max(1, MAX_BATCH // max(1, a.shape[1] * targets.shape[1]))
        blocks = torch.split(torch.arange(len(a), device=a.device), size)
        return torch.cat([(a[b, None] @ targets[at[b]])[:, 0] for b in blocks])
