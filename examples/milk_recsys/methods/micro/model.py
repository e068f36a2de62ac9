"""MICRO: item vectors smoothed over graphs of similar content, one a modality, fused by attention and contrasted.

    graph A_m: of each item the k largest cosines, itself included, as D^-1/2 A D^-1/2;  .9 of the features', .1 learned
    h_m = A_m E;   h = sum_m a_m h_m,  a = softmax over m of w . tanh(W h_m + b)
    users and items of [U; E] take two hops of D^-1 (A + I), mean of the layers;   item = that + h / |h|
    loss: BPR + l2 half squares + contrast_weight sum_m InfoNCE(anchor h_m, positive h)

A new item has no vector E: it is h / |h| of its nearest warm items.

References:
    Zhang, Zhu, Liu, Zhang, Wu and Wang, Latent structure mining with contrastive modality fusion for multimedia
    recommendation, TKDE 2023.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from milk_recsys.base.checkpoint import pack, unpack
from milk_recsys.base.random_state import seeded
from milk_recsys.methods.contract import ScoreBlock
from milk_recsys.methods.graphs import Product, csr_and_transpose
from milk_recsys.methods.micro import MicroOptions
from milk_recsys.methods.warm import Content, WarmData, bpr_loss, nearest

__all__ = ["Micro", "average", "neighbours", "normalised"]

MAX_SIMILARITIES = 2**24  # of a similarity that are held at once
ATTENTION, LEARNED = 64, 64
Edges = tuple[
    Tensor, Tensor
]  # of each row: similarities (n, k), 0 where there is no edge, and places (n, k)


class Micro:
    """The baseline; see the module."""

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
        self._x = torch.split(self.content.warm, list(self.content.widths), dim=1)
        self.fixed = [self._graph(x, data.observed[:, m]) for m, x in enumerate(self._x)]
        self._walk = csr_and_transpose(_walk_matrix(data, self.content.dtype))

    def train_epoch(self, epoch: int) -> dict[str, float]:
        """Train for an epoch of pairs // batch_size + 1 batches, each of distinct users with one pair."""
        options, total = self._options, 0.0
        batches = self._data.num_pairs // options.batch_size + 1
        for group in self._adam.param_groups:
            group["lr"] = options.lr * 0.96 ** (epoch / 50)
        rows = self._data.rows
        active = (rows.offsets.diff() > 0).nonzero()[:, 0]
        with seeded(self._seed, 1, epoch, device=self._data.device) as generator:
            graphs: list[Any] = (
                self._graphs()
            )  # its gradient reaches the maps in the first batch alone
            for batch in range(batches):
                users = active[
                    torch.randperm(len(active), generator=generator)[: options.batch_size].to(
                        active.device
                    )
                ]
                first = rows.offsets[users]
                uniform = torch.rand(len(users), generator=generator, dtype=torch.float64).to(
                    active.device
                )
                items = rows.pairs_at(first + (uniform * (rows.offsets[users + 1] - first)).long())[
                    1
                ]
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
                self._adam.zero_grad()
                loss.backward()
                self._adam.step()
                total += loss.item()
                if batch == 0:
                    graphs = [csr_and_transpose(graph.detach()) for graph in graphs]
        return {"loss": total / batches}

    def loss(
        self, users: Tensor, items: Tensor, negatives: Tensor, graphs: list[Any], anchors: Tensor
    ) -> Tensor:
        """The loss of a batch of triples (B,); `anchors` are the items that are contrasted."""
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
        """Weigh the modalities' views (n, d) of items by attention; return them, and their sum."""
        h = torch.stack(single, dim=1)
        return single, (self.net["query"](h).softmax(dim=1) * h).sum(dim=1)

    def contrast(self, h: Tensor, fused: Tensor, anchors: Tensor) -> Tensor:
        """InfoNCE of single views of some items: the positive is h, the others all h and all other single views."""
        h, fused = F.normalize(h, dim=1), F.normalize(fused, dim=1)
        scores = (h[anchors] / self._options.tau) @ torch.cat([fused, h]).T
        rows = torch.arange(len(anchors), device=anchors.device)
        candidates = scores.index_put((rows, len(h) + anchors), scores.new_tensor(-torch.inf))
        return (candidates.logsumexp(dim=1) - scores[rows, anchors]).mean()

    def _propagate(self, fused: Tensor) -> tuple[Tensor, Tensor]:
        """Two hops over users and items; return users (U, d) and items (n, d)."""
        layers = [torch.cat([self.net["user"].weight, self.net["item"].weight])]
        for _ in range(self._options.layers):
            layers.append(Product.apply(layers[-1], *self._walk))
        u, v = torch.stack(layers).mean(dim=0).split([self._data.num_users, self._data.num_items])
        return u, v + F.normalize(fused, dim=1)

    def _graphs(self) -> list[Tensor]:
        """The graph of each modality, the learned part anew from the maps: sparse (n, n)."""
        share = self._options.fixed_share
        graphs = []
        for m, (x, fixed) in enumerate(zip(self._x, self.fixed, strict=True)):
            learned = self._graph(self.net["maps"][m](x), self._data.observed[:, m])
            graphs.append((share * fixed + (1 - share) * learned).coalesce())
        return graphs

    def _graph(self, x: Tensor, known: Tensor) -> Tensor:
        return normalised_graph(*neighbours(x, x, known, known, self._options.neighbours))

    def scorer(self, features: Mapping[str, Tensor], observed: Tensor) -> ScoreBlock:
        """Return what scores new items: h / |h| of their nearest warm items, on the propagated users."""
        rows = torch.split(self.content(features, observed), list(self.content.widths), dim=1)
        single = []
        for m, (x, y) in enumerate(zip(rows, self._x, strict=True)):
            known, x_known, share = (
                self._data.observed[:, m],
                observed[:, m],
                self._options.fixed_share,
            )
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

    def state_dict(self) -> dict[str, Tensor]:
        """Return everything that a later epoch depends on."""
        return pack(self.net, self._adam)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load the tensors that `state_dict` returned."""
        unpack(state, self.net, self._adam)


def neighbours(x: Tensor, y: Tensor, x_known: Tensor, known: Tensor, k: int) -> Edges:
    """Find the k rows of y (n, F) with the largest cosines for each row of x (c, F).

    A row that is imputed (`here`, `known` False) or 0 has no edge: imputed rows would be one another's neighbours at a
    cosine of 1, and a zero row has no cosine.
    """
    usable = known & (y.detach().abs().amax(dim=1) > 0)
    target, source = F.normalize(x, dim=1), F.normalize(y, dim=1)

    def similarity(part: slice) -> Tensor:
        return (target[part] @ source.T).masked_fill(~usable, -torch.inf)

    values, places = nearest(
        similarity, len(x), min(k, len(y)), block_rows=max(1, MAX_SIMILARITIES // max(1, len(y)))
    )
    edge = torch.isfinite(values) & x_known[:, None] & (x.detach().abs().amax(dim=1) > 0)[:, None]
    return torch.where(edge, values, 0.0), places


def normalised_graph(values: Tensor, places: Tensor) -> Tensor:
    """Return D^-1/2 A D^-1/2 as a sparse (n, n); D the row sums of A; without edges, or below 0, a row gives 0."""
    scale = _inverse_root(values.sum(dim=1))
    rows = torch.arange(len(values), device=values.device)[:, None].expand_as(places)
    cells = torch.stack([rows.flatten(), places.flatten()])
    weights = (scale[:, None] * values * scale[places]).flatten()
    return torch.sparse_coo_tensor(cells, weights, (len(values),) * 2, check_invariants=False)


def average_neighbours(edges: Edges, table: Tensor) -> Tensor:
    """What a new row takes of the table (n, d): its edges, weighted to a sum of 1; 0 without edges."""
    values, places = edges
    total = values.sum(dim=1, keepdim=True)
    return (
        torch.where(total > 0, values / total.clamp(min=1e-12), 0.0)[:, :, None] * table[places]
    ).sum(dim=1)


def _inverse_root(sums: Tensor) -> Tensor:
    return torch.where(sums > 1e-12, sums.clamp(min=1e-12).rsqrt(), 0.0)


def _walk_matrix(data: WarmData, dtype: torch.dtype) -> Tensor:
    """D^-1 (A + I) over users and items, sparse."""
    users, items = data.pairs
    items = items + data.num_users
    size = data.num_users + data.num_items
    itself = torch.arange(size, device=data.device)
    rows, columns = torch.cat([users, items, itself]), torch.cat([items, users, itself])
    weights = 1 / torch.bincount(rows, minlength=size).to(dtype)
    cells = torch.stack([rows, columns])
    return torch.sparse_coo_tensor(
        cells, weights[rows], (size, size), check_invariants=False
    ).coalesce()
