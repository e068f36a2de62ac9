"""The search for the training rows that are nearest to a row.

A training row i is near to a row c if it alone would explain much of what landmarks leave of c.
With the part R of the kernel that landmarks do not span, and the noise D_i, its relevance is

    R(c, i)^2 / (R(i, i) + D_i),      R(c, i) = k(c, i) - phi(c) F_i'

plus a small share of k(c, i)^2 / (k(i, i) + D_i), which decides if landmarks leave nothing.

All training rows of the pattern are compared. With `probes` only some are: each training row
belongs, in each modality, to the cluster of the landmark with which its kernel is largest. A row
searches the clusters of its nearest landmarks (an inverted file index). In the clusters, rows are
first compared by the whole kernel, which needs no features, and the best of these by their
relevance.

References:
    Jegou, Douze and Schmid, Product quantization for nearest neighbor search, IEEE Transactions on
    Pattern Analysis and Machine Intelligence 33, 2011 (inverted file).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from invmod.regression.projection import Cells, Projection
from invmod.regression.training_rows import Queries

MAX_KERNEL = 2**24  # Number of kernels between queries and training rows that are computed at once.
MAX_ROWS = 2**15  # Number of training rows that are read at once.
SHARE = 1e-4  # Share of the whole kernel in the relevance.
SHORTLIST = 4  # Times as many rows as are wanted that the search in cells compares by relevance.


class Best(NamedTuple):
    """The most relevant training rows that were found so far.

    Attributes:
        relevance: (N, S), -1 where none was found.
        rows: int64 (N, S), positions among the training rows of the pattern.
    """

    relevance: Tensor
    rows: Tensor

    @classmethod
    def none(cls, like: Tensor, num: int, count: int) -> Best:
        """Return an empty result for N queries and S rows."""
        return cls(
            like.new_full((num, count), -1.0),
            torch.zeros(num, count, dtype=torch.int64, device=like.device),
        )

    def add(self, queries: Tensor, relevance: Tensor, rows: Tensor) -> None:
        """Add candidates of some queries.

        Arguments:
            queries: (q,) positions of the queries.
            relevance: (q, s).
            rows: (s,) or (q, s).
        """
        count = self.relevance.shape[1]
        if relevance.shape[1] > count:
            relevance, at = relevance.topk(count, dim=1)
            rows = rows[at] if rows.ndim == 1 else rows.gather(1, at)
        joined = torch.cat([self.relevance[queries], relevance], dim=1)
        every = torch.cat([self.rows[queries], rows.expand(relevance.shape)], dim=1)
        self.relevance[queries], at = joined.topk(count, dim=1)
        self.rows[queries] = every.gather(1, at)


class NearestRows:
    """The search for one pattern.

    Arguments:
        projection: the projected kernels, whose landmarks are the centres of the cells.
        active: positions and weights of the modalities with a weight above 0.
        rows: positions of the training rows of the pattern (n_p,).
        features: maps positions among these rows (...) to their features F (..., L).
        noise: D (n_p,).
        probes: number of clusters that are searched in each modality; None: all rows.
    """

    def __init__(
        self,
        projection: Projection,
        active: Sequence[tuple[int, float]],
        rows: Tensor,
        features: Callable[[Tensor], Tensor],
        noise: Tensor,
        probes: int | None,
    ) -> None:
        self.projection, self.training = projection, projection.training
        self.active, self.rows = active, rows
        self.features, self.probes = features, probes
        self.variances = noise.clone()
        for m, weight in self.active:
            diagonal = self.training.diagonal(m, rows)
            self.variances += weight * self.training.observed[rows, m] * diagonal

    @torch.no_grad()
    def __call__(self, queries: Queries, phi: Tensor, count: int) -> Tensor:
        """Return the positions (N, S) of the S nearest training rows among those of the pattern.

        Arguments:
            phi: features (N, L) of the queries.
        """
        if self.probes is None or not self.active:
            return self._among_all(queries, phi, count)
        short = min(SHORTLIST * count, len(self.rows) - (queries.positions is not None))
        best = self._reranked(queries, phi, self._in_cells(queries, short), count)
        # Cells may have too few rows: some rows have only modalities of weight 0, and are in none.
        few = (best.relevance < 0).any(dim=1).nonzero()[:, 0]
        if len(few):
            best.rows[few] = self._among_all(queries.of(few), phi[few], count)
        return best.rows

    def _relevance(self, k: Tensor, spanned: Tensor, f: Tensor, at: Tensor) -> Tensor:
        """Return the relevance (N, s) of training rows.

        Arguments:
            k: the kernel with the queries (N, s).
            spanned: the part of it that landmarks span, phi F' (N, s).
            f: features (s, L) or (N, s, L) of the rows.
            at: their positions, (s,) or (N, s).
        """
        whole = self.variances[at]
        rest = (whole - f.square().sum(dim=-1)).clamp(min=torch.finfo(k.dtype).tiny)
        return (k - spanned).square() / rest + SHARE * (k.square() / whole)

    # --- all rows

    def _among_all(self, queries: Queries, phi: Tensor, count: int) -> Tensor:
        near = [self.rows.new_empty(0, count)]
        every = torch.arange(len(queries.observed), device=self.rows.device)
        for block in torch.split(every, max(1, MAX_KERNEL // min(len(self.rows), MAX_ROWS))):
            part, best = queries.of(block), Best.none(self.variances, len(block), count)
            own = torch.arange(len(block), device=block.device)
            for at in torch.split(torch.arange(len(self.rows), device=block.device), MAX_ROWS):
                f = self.features(at)
                relevance = self._relevance(self._kernel(part, at), phi[block] @ f.T, f, at)
                best.add(own, _without_own(relevance, part, at), at)
            near.append(best.rows)
        return torch.cat(near)

    def _kernel(self, queries: Queries, at: Tensor) -> Tensor:
        """Return the kernel (N, s) with training rows at some positions (s,)."""
        pattern, weights = tuple(m for m, _ in self.active), [w for _, w in self.active]
        return self.training.kernel_to(pattern, weights, self.rows[at], queries.x, queries.observed)

    # --- rows in cells

    @functools.cached_property
    def _places(self) -> Tensor:
        """Positions (n,) of all training rows among those of the pattern; -1 if they are not."""
        places = self.rows.new_full((len(self.training.targets),), -1)
        places[self.rows] = torch.arange(len(self.rows), device=places.device)
        return places

    def _in_cells(self, queries: Queries, count: int) -> Best:
        """Search the cells of all modalities; each row is compared once by the whole kernel."""
        best = Best.none(self.variances, len(queries.observed), count)
        searched: list[tuple[Cells, Tensor]] = []
        for m, _ in self.active:
            cells, asks = self.projection.cells(m), self._asks(m, queries, count)
            for cell in asks.any(dim=0).nonzero()[:, 0].tolist():
                asking, places = asks[:, cell].nonzero()[:, 0], self._places[cells.rows_of(cell)]
                for at in torch.split(places[places >= 0], MAX_ROWS):
                    for q in torch.split(asking, max(1, MAX_KERNEL // max(1, len(at)))):
                        part = queries.of(q)
                        relevance = self._kernel(part, at).square() / self.variances[at]
                        relevance = _without_own(relevance, part, at)
                        for other, asked in searched:
                            again = asked[q][:, other.numbers[self.rows[at]]]
                            relevance = torch.where(again, -1.0, relevance)
                        best.add(q, relevance, at)
            # The column added is that of rows that lack the modality.
            searched.append((cells, torch.cat([asks, asks.new_zeros(len(asks), 1)], dim=1)))
        return best

    def _reranked(self, queries: Queries, phi: Tensor, found: Best, count: int) -> Best:
        """Return the `count` most relevant ones of the rows that were found."""
        best = Best.none(self.variances, len(phi), count)
        widest = max(phi.shape[1], *(x.shape[1] for x in self.training.x))
        size = max(1, MAX_KERNEL // max(1, found.rows.shape[1] * widest))
        for block in torch.split(torch.arange(len(phi), device=phi.device), size):
            part, at = queries.of(block), found.rows[block]
            f = self.features(at)
            k = self.training.kernel_to_sets(self.active, self.rows[at], part.x, part.observed)
            relevance = self._relevance(k, (f @ phi[block, :, None])[:, :, 0], f, at)
            best.add(block, torch.where(found.relevance[block] < 0, -1.0, relevance), at)
        return best

    def _asks(self, m: int, queries: Queries, count: int) -> Tensor:
        """Return which cells of a modality each query searches, bool (N, L_m).

        They are those of its nearest landmarks: `probes` of them, and more if they have at most
        `count` rows of the pattern. A query without the modality searches none.
        """
        cells = self.projection.cells(m)
        used = self._places[cells.rows] >= 0
        ends = torch.cat([used.new_zeros(1, dtype=torch.int64), used.cumsum(dim=0)])[cells.starts]
        order = self.projection.nearness(m, queries.x[m]).argsort(dim=1, descending=True)
        sizes = ends.diff()[order]
        before = sizes.cumsum(dim=1) - sizes
        first = torch.arange(order.shape[1], device=order.device) < (self.probes or 0)
        asks = torch.zeros_like(first.expand(order.shape)).scatter_(
            1, order, (before <= count) | first
        )
        return asks & queries.observed[:, m, None]


def _without_own(relevance: Tensor, queries: Queries, at: Tensor) -> Tensor:
    """Return relevances (N, s), -1 between a query that is left out and itself."""
    if queries.positions is None:
        return relevance
    return torch.where(queries.positions[:, None] == at, -1.0, relevance)
