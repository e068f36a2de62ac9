"""MICRO: item vectors smoothed over a graph of similar content per modality, fused by attention.

    S_m = share N(x_m) + (1 - share) N(x_m W_m + c_m),   N(x) = D^-1/2 A D^-1/2
    h_m = S_m E
    h = sum_m a_m h_m,   a = softmax over m of w . tanh(W h_m + b)
    [u; v] = mean over the layers of  L^k [U; E],  k = 0, 1, ...,   L = D^-1 (B + I)
    s_uj = <u, v_j + h_j / |h_j|>
    loss = BPR + l2 / 2 (squared norms of users and items)
           + contrast_weight sum_m InfoNCE(anchor h_m, positive h)

where U and E are the vectors of users and warm items; x_m is the content in modality m; W_m, c_m,
W, w and b are learned; A holds the k largest cosines of each row of x, including the one of an item
with itself; B is the adjacency matrix of users and items; and D holds the row sums of A or of B +
I. The fixed share of the graph S_m uses the content itself, the rest a learned map of the content.

A new item has no vector E and no edge in B. Its vector is h / |h|, where h_m is a weighted mean of
E over its nearest warm items.

References:
    Zhang, Zhu, Liu, Zhang, Wu and Wang, Latent structure mining with contrastive modality fusion
    for multimedia recommendation, TKDE 2023.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from milk_recsys.base.random_state import seeded
from milk_recsys.methods.contract import ScoreBlock
from milk_recsys.methods.graphs import Product, csr_and_transpose
from milk_recsys.methods.micro import MicroOptions
from milk_recsys.methods.warm import Checkpointed, Content, WarmData, bpr_loss, minimise, nearest

__all__ = ["Micro", "average_neighbours", "neighbours", "normalised_graph"]

# Similarities are computed in blocks of at most this many values, which bounds the memory.
MAX_SIMILARITIES = 2**24
# Widths of the attention layer and of the learned maps of content.
ATTENTION, LEARNED = 64, 64
Edges = tuple[Tensor, Tensor]
"""Edges of each row: similarities (n, k), 0 where there is no edge, and column indices (n, k)."""


class Micro(Checkpointed):
    """The MICRO model; the docstring of the module states its equations."""

    def __init__(self, data: WarmData, options: MicroOptions, seed: int) -> None:
        self._data, self._options, self._seed = data, options, seed
        self.content, d = Content(data), options.embedding_dim
        with seeded(seed, device=data.device):
            self.net: Any = nn.ModuleDict(
                {
                    "user": nn.Embedding(data.num_users, d),
                    "item": nn.Embedding(data.num_items, d),
                    "maps": nn.ModuleList(
                        nn.Linear(width, LEARNED) for width in self.content.widths
                    ),
                    "query": nn.Sequential(
                        nn.Linear(d, ATTENTION), nn.Tanh(), nn.Linear(ATTENTION, 1, bias=False)
                    ),
                }
            )
            nn.init.xavier_uniform_(self.net["user"].weight)  # type: ignore[arg-type]
            nn.init.xavier_uniform_(self.net["item"].weight)  # type: ignore[arg-type]
        self.net.to(data.device, self.content.dtype)
        self._adam = torch.optim.Adam(self.net.parameters(), lr=self._options.lr)
        self.optimisers = (self._adam,)
        self._x = torch.split(self.content.warm, list(self.content.widths), dim=1)
        self.fixed = [self._graph(x, data.mask[:, m]) for m, x in enumerate(self._x)]
        self._walk = csr_and_transpose(_random_walk_matrix(data, self.content.dtype))

    def train_epoch(self, epoch: int) -> dict[str, float]:
        """Train for one epoch of (number of pairs // batch_size) + 1 batches.

        A batch has distinct users, with one training pair each.
        """
        options, total = self._options, 0.0
        batches = self._data.num_pairs // options.batch_size + 1
        for group in self._adam.param_groups:
            group["lr"] = options.lr * 0.96 ** (epoch / 50)
        active = self._data.rows.has_pairs.nonzero()[:, 0]
        with seeded(self._seed, 1, epoch, device=self._data.device) as generator:
            # The graphs are built once per epoch. Their gradient reaches the learned maps only in
            # the first batch; after it they are constants.
            graphs: list[Any] = self._graphs()
            for batch in range(batches):
                users = active[
                    torch.randperm(len(active), generator=generator)[: options.batch_size].to(
                        active.device
                    )
                ]
                items = self._data.draw_items(users, generator)
                anchors = torch.randperm(self._data.num_items, generator=generator)[
                    : options.contrast_items
                ]
                loss = self.loss(
                    users,
                    items,
                    self._data.negatives(users, generator),
                    graphs,
                    anchors.to(active.device),
                )
                total += minimise(loss, self._adam)
                if batch == 0:
                    graphs = [csr_and_transpose(graph.detach()) for graph in graphs]
        return {"loss": total / batches}

    def loss(
        self, users: Tensor, items: Tensor, negatives: Tensor, graphs: list[Any], anchors: Tensor
    ) -> Tensor:
        """Return the loss of a batch of triples.

        Arguments:
            users, items, negatives: (B,).
            graphs: S_m of each modality, a sparse tensor or the pair of `csr_and_transpose`.
            anchors: items that are contrasted.
        """
        options, table = self._options, self.net["item"].weight
        single, fused = self.fuse(
            [
                Product.apply(table, *g) if isinstance(g, tuple) else torch.sparse.mm(g, table)
                for g in graphs
            ]
        )
        u, v = self._propagate(fused)
        u, v, w = u[users], v[items], v[negatives]
        squares = (u.square() + v.square() + w.square()).sum() / 2 / len(users)
        contrast = torch.stack([self.contrast(h, fused, anchors) for h in single]).sum()
        ranking = bpr_loss((u * v).sum(dim=1), (u * w).sum(dim=1))
        return ranking + options.l2 * squares + options.contrast_weight * contrast

    def fuse(self, single: list[Tensor]) -> tuple[list[Tensor], Tensor]:
        """Fuse the modalities' h_m (n, d) by attention; return h_m, and h (n, d)."""
        h = torch.stack(single, dim=1)
        return single, (self.net["query"](h).softmax(dim=1) * h).sum(dim=1)

    def contrast(self, h: Tensor, fused: Tensor, anchors: Tensor) -> Tensor:
        """Return the InfoNCE loss of a modality's h_m (n, d) against the fused h (n, d).

        The positive of an anchor is its own row of h. The negatives are all other rows of h, and
        all rows of h_m except the anchor itself.
        """
        h, fused = F.normalize(h, dim=1), F.normalize(fused, dim=1)
        scores = (h[anchors] / self._options.tau) @ torch.cat([fused, h]).T
        rows = torch.arange(len(anchors), device=anchors.device)
        # Columns 0 to n - 1 are rows of h, columns n to 2 n - 1 rows of h_m. Remove the anchor's
        # own row of h_m, whose cosine with itself is 1.
        candidates = scores.index_put((rows, len(h) + anchors), scores.new_tensor(-torch.inf))
        return (candidates.logsumexp(dim=1) - scores[rows, anchors]).mean()

    def _propagate(self, fused: Tensor) -> tuple[Tensor, Tensor]:
        """Propagate the vectors over the graph; return users (U, d) and items (n, d)."""
        layers = [torch.cat([self.net["user"].weight, self.net["item"].weight])]
        for _ in range(self._options.layers):
            layers.append(Product.apply(layers[-1], *self._walk))
        u, v = torch.stack(layers).mean(dim=0).split([self._data.num_users, self._data.num_items])
        return u, v + F.normalize(fused, dim=1)

    def _graphs(self) -> list[Tensor]:
        """Return S_m of each modality, sparse (n, n), with the current learned maps."""
        share = self._options.fixed_share
        graphs = []
        for m, (x, fixed) in enumerate(zip(self._x, self.fixed, strict=True)):
            learned = self._graph(self.net["maps"][m](x), self._data.mask[:, m])
            graphs.append((share * fixed + (1 - share) * learned).coalesce())
        return graphs

    def _graph(self, x: Tensor, known: Tensor) -> Tensor:
        """Return N(x), sparse (n, n)."""
        return normalised_graph(*neighbours(x, x, known, known, self._options.neighbours))

    def scorer(self, features: Mapping[str, Tensor], mask: Tensor) -> ScoreBlock:
        """Return a function that scores new items: h / |h| of their nearest warm items."""
        rows = torch.split(self.content(features, mask), list(self.content.widths), dim=1)
        single = []
        for m, (x, y) in enumerate(zip(rows, self._x, strict=True)):
            known = self._data.mask[:, m]
            x_known = mask[:, m]
            share = self._options.fixed_share
            # A new item has no row sum in D, so its neighbours are averaged instead of normalised
            # on both sides. The fixed and the learned graph are mixed as in S_m.
            weights = [
                average_neighbours(
                    neighbours(a, b, x_known, known, self._options.neighbours),
                    self.net["item"].weight,
                )
                for a, b in ((x, y), (self.net["maps"][m](x), self.net["maps"][m](y)))
            ]
            single.append(share * weights[0] + (1 - share) * weights[1])
        v = F.normalize(self.fuse(single)[1], dim=1)
        fused = self.fuse(
            [torch.sparse.mm(graph, self.net["item"].weight) for graph in self._graphs()]
        )[1]
        u = self._propagate(fused)[0]
        return lambda users: u[users] @ v.T


def neighbours(x: Tensor, y: Tensor, x_known: Tensor, known: Tensor, k: int) -> Edges:
    """Find for each row of x (c, F) the k rows of y (n, F) with the largest cosines.

    An imputed row has no edge: all imputed rows are equal, so they would be neighbours of each
    other with a cosine of 1. A zero row has no edge either, since its cosine is undefined.

    Arguments:
        x_known: (c,) bool, False where a row of x is imputed.
        known: (n,) bool, False where a row of y is imputed.
    """
    usable = known & (y.detach().abs().amax(dim=1) > 0)
    target, source = F.normalize(x, dim=1), F.normalize(y, dim=1)

    def similarity(part: slice) -> Tensor:
        return (target[part] @ source.T).masked_fill(~usable, -torch.inf)

    values, columns = nearest(
        similarity, len(x), min(k, len(y)), block_rows=max(1, MAX_SIMILARITIES // max(1, len(y)))
    )
    # Fewer than k usable rows leave values of -inf, which are no edges.
    edge = torch.isfinite(values) & x_known[:, None] & (x.detach().abs().amax(dim=1) > 0)[:, None]
    return torch.where(edge, values, 0.0), columns


def normalised_graph(values: Tensor, columns: Tensor) -> Tensor:
    """Return D^-1/2 A D^-1/2 as a sparse matrix (n, n).

    A holds the edges, and D its row sums. A row whose sum is not positive becomes 0.
    """
    scale = _inverse_root(values.sum(dim=1))
    rows = torch.arange(len(values), device=values.device)[:, None].expand_as(columns)
    indices = torch.stack([rows.flatten(), columns.flatten()])
    weights = (scale[:, None] * values * scale[columns]).flatten()
    return torch.sparse_coo_tensor(indices, weights, (len(values),) * 2, check_invariants=False)


def average_neighbours(edges: Edges, table: Tensor) -> Tensor:
    """Return for each row the mean of the table (n, d) over its edges, weighted by similarity.

    The weights of a row are divided by their sum. A row without edges is 0.
    """
    values, columns = edges
    total = values.sum(dim=1, keepdim=True)
    return (
        torch.where(total > 0, values / total.clamp(min=1e-12), 0.0)[:, :, None] * table[columns]
    ).sum(dim=1)


def _inverse_root(sums: Tensor) -> Tensor:
    # Rows without edges, and rows with negative cosines only, would give inf or NaN.
    return torch.where(sums > 1e-12, sums.clamp(min=1e-12).rsqrt(), 0.0)


def _random_walk_matrix(data: WarmData, dtype: torch.dtype) -> Tensor:
    """Return D^-1 (B + I) over users and items, sparse, D the row sums of B + I."""
    users, items = data.pairs
    items = items + data.num_users
    size = data.num_users + data.num_items
    itself = torch.arange(size, device=data.device)
    rows, columns = torch.cat([users, items, itself]), torch.cat([items, users, itself])
    weights = 1 / torch.bincount(rows, minlength=size).to(dtype)
    indices = torch.stack([rows, columns])
    return torch.sparse_coo_tensor(
        indices, weights[rows], (size, size), check_invariants=False
    ).coalesce()
