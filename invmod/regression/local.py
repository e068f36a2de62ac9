r"""The projected regression of one pattern, with a correction by the nearest training rows.

With the letters of `projection.py`, K the kernel of the pattern and R = K - F F' the part of it
that landmarks do not span, the prediction for a row c with its N nearest training rows S is the
posterior mean of a Gaussian process whose covariance is F F', and K itself between c and S:

.. math:: f(c) = (\phi_c - a F_S) \beta + a Y_S

.. math:: a = (r_c - g_c R_{SS}) (I + M R_{SS})^{-1} D_S^{-1},
    \qquad r_c = k(c, S) - \phi_c F_S'

.. math:: M = D_S^{-1} - D_S^{-1} F_S G^{-1} F_S' D_S^{-1},
    \qquad g_c = \phi_c G^{-1} F_S' D_S^{-1}

where M is the block of (F F' + D)^{-1} that belongs to the rows S. It follows from the identity of
Woodbury. If all rows are neighbours, or all are landmarks, it is the exact regression. Without
neighbours a is 0.

References:
    Sang and Huang, A full scale approximation of covariance functions for large spatial data sets,
    Journal of the Royal Statistical Society B 74, 2012.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from invmod.regression.patterns import PatternChoice
from invmod.regression.projection import BLOCK, Projection
from invmod.regression.solving import Fitted, PatternSolution, cholesky_factor
from invmod.regression.training_rows import Pattern, Queries

MAX_KERNEL = 2**25  # Number of kernel entries in memory when neighbours are searched.
MAX_BATCH = 2**24  # Number of entries of a batch of local problems.
MAX_WHITENED = 2**27  # Number of entries of the whitened features that are kept.


class LocalWeights(NamedTuple):
    """The weights of the nearest training rows.

    Attributes:
        near: int64 (N, S), positions among the training rows of the pattern.
        a: (N, S).
    """

    near: Tensor
    a: Tensor


class ProjectedSolution(PatternSolution):
    """The projected regression of one pattern, which has at least one modality.

    Arguments:
        projection: the projected kernels.
        neighbours: number of nearest rows of the correction, or 0.
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
    ) -> None:
        training = projection.training
        super().__init__(training, pattern, rows, choice, intercept=intercept)
        self.projection, self.neighbours = projection, neighbours
        weighted = zip(pattern, choice.weights, strict=True)
        self._active = [(m, weight) for m, weight in weighted if weight > 0]
        noise = training.noise(pattern, choice.weights, training.observed[rows]) + choice.ridge
        self._noise = noise / training.row_weights[rows]  # D (n_p,)
        self._root: Tensor | None = None
        self._white: Tensor | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes for a copy or a pickle, without the whitened features."""
        return {**self.__dict__, "_white": None}

    @property
    @override
    def has_factor(self) -> bool:
        return self._white is not None

    @override
    def drop_factor(self) -> None:
        self._white = None

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
                yield group, 1 / (self.choice.ridge + float(noise))

    def _places(self) -> list[slice]:
        """Return the part of the features that belongs to each active modality."""
        ends = list(
            itertools.accumulate(len(self.projection.landmarks[m]) for m, _ in self._active)
        )
        return [slice(start, end) for start, end in zip([0, *ends], ends, strict=False)]

    def _factor(self) -> Tensor:
        """Return the Cholesky factor of G (L + 1, L + 1); the last row is the intercept's."""
        if self._root is None:
            with torch.no_grad():
                self._root = cholesky_factor(self._system(), self.choice.ridge)
        return self._root

    def _system(self) -> Tensor:
        """Return G, or its lower triangle."""
        system = self._summed_groups() if self.projection.keeps_sums else self._summed_rows()
        system.diagonal()[:-1] += 1
        if not self.intercept:
            system[-1, -1] = 1
        return system

    def _summed_rows(self) -> Tensor:
        """Return F' D^-1 F from one pass over the training rows."""
        size = self._places()[-1].stop + 1
        total = self.training.targets.new_zeros(size, size)
        for block in torch.split(torch.arange(len(self.rows), device=total.device), BLOCK):
            features = self._training_features(block)
            total.addmm_(features.T / self._noise[block], features)
        return total

    def _summed_groups(self) -> Tensor:
        """Return the lower triangle of F' D^-1 F from the sums of groups of training rows."""
        projection, places = self.projection, self._places()
        last = places[-1].stop
        total = self.training.targets.new_zeros(last + 1, last + 1)
        for group, precision in self._groups():
            weights = self.training.row_weights[projection.groups[group]]
            total[last, last] += self.intercept * precision * weights.sum()
            for i, (m, weight) in enumerate(self._active):
                if m not in group:
                    continue
                scale = precision * weight**0.5
                total[last, places[i]] += self.intercept * scale * projection.sums(group, m)
                for j, (k, other) in enumerate(self._active[: i + 1]):
                    if k in group:
                        inner = projection.inner(group, m, k)
                        total[places[i], places[j]] += scale * other**0.5 * inner
        return total

    @override
    @torch.no_grad()
    def fit(self, targets: Tensor) -> Fitted:
        projection, places = self.projection, self._places()
        total = places[-1].stop
        right = targets.new_zeros(total + 1, targets.shape[1])
        for group, precision in self._groups():
            rows = projection.groups[group]
            if self.intercept:
                right[total] += precision * (self.training.row_weights[rows] @ targets[rows])
            for place, (m, weight) in zip(places, self._active, strict=True):
                if m in group:
                    answers = projection.answers(group, m, targets)
                    right[place] += precision * weight**0.5 * answers
        beta = torch.cholesky_solve(right, self._factor())
        return Fitted(beta, beta.new_zeros(beta.shape[1]), targets)

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

    def _local(self, queries: Queries, phi: Tensor) -> LocalWeights:
        """Return the nearest training rows of each query and their weights a."""
        count = min(self.neighbours, len(self.rows) - (queries.positions is not None))
        k, near = self._nearest(queries, count)
        widest = max(phi.shape[1], count, *(x.shape[1] for x in queries.x))
        size = max(1, MAX_BATCH // max(1, count * widest))
        blocks = torch.split(torch.arange(len(phi), device=phi.device), size)
        return LocalWeights(
            near, torch.cat([self._weights(queries.of(b), phi[b], k[b], near[b]) for b in blocks])
        )

    def _nearest(self, queries: Queries, count: int) -> tuple[Tensor, Tensor]:
        """Return the kernels with the nearest training rows, and their positions, both (N, S).

        A row is near if it alone would explain much of the variance of the query:
        k(c, i)^2 / (k(i, i) + D_i).
        """
        training, weights = self.training, self.choice.weights
        variances = self._noise + sum(
            weight * training.observed[self.rows, m] * training.diagonal(m, self.rows)
            for m, weight in zip(self.pattern, weights, strict=True)
        )
        kernels, positions = [], []
        size = max(1, MAX_KERNEL // len(self.rows))
        every = torch.arange(len(queries.observed), device=self.rows.device)
        for block in torch.split(every, size):
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
        r = k - (kernel_features @ phi[:, :-1, None])[:, :, 0]
        first = r - (g[:, None] @ r_ss)[:, 0]
        # With M = T T' the inverse of I + M R is I - T (I + T'RT)^-1 T'R, whose matrix is positive
        # definite. M is singular if the intercept is free and all rows are neighbours.
        tiny = 10 * torch.finfo(m.dtype).eps * m.diagonal(dim1=1, dim2=2).mean(dim=1)
        eye = torch.eye(m.shape[1], dtype=m.dtype, device=m.device)
        t = torch.linalg.cholesky(m + tiny[:, None, None] * eye)
        inner = torch.linalg.cholesky(eye + t.mT @ r_ss @ t)
        second = torch.cholesky_solve((first[:, None] @ t).mT, inner)
        a: Tensor = (first - ((t @ second).mT @ r_ss)[:, 0]) / noise
        return a

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
        beta, _, targets = self.own(fitted)
        phi = self._features(queries)
        if not self.neighbours:
            return phi @ beta
        near, a = self._local(queries, phi)
        return (phi - self._spanned(near, a)) @ beta + self._summed(near, a, targets)

    @override
    def left_out(self, queries: Queries, fitted: Fitted | None = None) -> Tensor:
        if queries.positions is None:
            raise ValueError("left_out: the queries must be training rows.")
        beta, _, targets = self.own(fitted)
        phi = self._features(queries)
        solved = torch.cholesky_solve(phi.T, self._factor()).T
        errors = targets[self.rows[queries.positions]] - phi @ beta
        left = self._noise[queries.positions] - (phi * solved).sum(dim=1)
        local: Tensor | float = 0.0
        if self.neighbours:
            near, a = self._local(queries, phi)
            phi, local = phi - self._spanned(near, a), self._summed(near, a, targets)
        # beta without a row is beta - G^-1 phi e / (D - phi' G^-1 phi), with e its error.
        change = (phi * solved).sum(dim=1) / left
        return phi @ beta - change[:, None] * errors + local

    @override
    def smoother(self, queries: Queries) -> Tensor:
        phi = self._features(queries)
        local = phi.new_zeros(len(phi), len(self.rows))
        if self.neighbours:
            near, a = self._local(queries, phi)
            phi = phi - self._spanned(near, a)
            local = local.scatter(1, near, a)
        return self._spread(torch.cholesky_solve(phi.T, self._factor()).T, local)

    @override
    def left_out_smoother(self, queries: Queries) -> Tensor:
        if queries.positions is None:
            raise ValueError("left_out_smoother: the queries must be training rows.")
        own, phi = queries.positions[:, None], self._features(queries)
        local = phi.new_zeros(len(phi), len(self.rows))
        solved = torch.cholesky_solve(phi.T, self._factor()).T
        left = self._noise[queries.positions] - (phi * solved).sum(dim=1)
        if self.neighbours:
            near, a = self._local(queries, phi)
            phi = phi - self._spanned(near, a)
            local = local.scatter(1, near, a)
        # G^-1 without a row is G^-1 + G^-1 phi phi' G^-1 / (D - phi' G^-1 phi).
        change = (phi * solved).sum(dim=1) / left
        all_of = torch.cholesky_solve(phi.T, self._factor()).T + change[:, None] * solved
        h = self._spread(all_of, local)
        return h.scatter(1, self.rows[own], 0.0)

    def _spread(self, solved: Tensor, local: Tensor) -> Tensor:
        """Return solved F' D^-1 + local, (N, n_p), on all training rows (N, n)."""
        blocks = torch.split(torch.arange(len(self.rows), device=solved.device), BLOCK)
        spread = [solved @ self._training_features(b).T / self._noise[b] for b in blocks]
        h = torch.cat(spread, dim=1) + local
        return h.new_zeros(len(h), len(self.training.targets)).index_copy(1, self.rows, h)

    def _spanned(self, near: Tensor, a: Tensor) -> Tensor:
        """Return a F_S (N, L + 1)."""
        width = self._places()[-1].stop + 1
        return _in_batches(lambda b: a[b, None] @ self._training_features(near[b]), a, width)

    def _summed(self, near: Tensor, a: Tensor, targets: Tensor) -> Tensor:
        """Return a Y_S (N, r)."""
        at, width = self.rows[near], targets.shape[1]
        return _in_batches(lambda b: a[b, None] @ targets[at[b]], a, width)


def _in_batches(rows: Callable[[Tensor], Tensor], a: Tensor, width: int) -> Tensor:
    """Return the rows (N, width) of products with the weights a (N, S), some at a time.

    Arguments:
        rows: returns the rows (B, 1, width) of positions (B,).
    """
    size = max(1, MAX_BATCH // max(1, a.shape[1] * width))
    blocks = torch.split(torch.arange(len(a), device=a.device), size)
    return torch.cat([rows(block)[:, 0] for block in blocks])
