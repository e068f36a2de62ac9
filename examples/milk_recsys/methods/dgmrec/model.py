"""DGMRec: splits each modality of an item into a shared and a specific part.

    [U; E] = mean over k = 0..3 of  N^k [ids of users; ids of items]       LightGCN
    g_m = sigmoid(W tanh(A_m x_m)),   q_m = sigmoid(B_m x_m)              shared, specific part
    f_m = mean over the item's users of tanh(C_m u)                       taste
    gt_m = S_m^L (f_m g_m),   qt_m = S_m^L (f_m q_m)
    v = E + (mean_m gt_m + sum_m qt_m) / (M + 1)                          item; a user likewise
    s = <user, item>
    loss = BPR + c (sum of the contrasts) + t sum_m |trans_m(other gt) - gt_m|^2 + squared norms

where x_m is the content in modality m; W, A_m, B_m and C_m are linear layers; u is the vector of a
user; N is the normalised adjacency matrix of users and items; S_m is the normalised graph that
joins each item to its k nearest items by content in modality m; L is the number of hops; the
products f_m g_m and f_m q_m are elementwise; trans_m is a network; and c and t are weights. The
gt_m and qt_m of a user are means over the user's items.

If an item lacks modality m, gt_m is translated from the modalities that it has, and qt_m is 0. A
new item has no E and no f_m: its gt_m and qt_m are means over its nearest warm items.

References:
    DGMRec: disentangling and generating modalities for recommendation in missing modality
    scenarios, SIGIR 2025.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from milk_recsys.base.random_state import seeded
from milk_recsys.methods.closed_form import interactions
from milk_recsys.methods.contract import ScoreBlock
from milk_recsys.methods.dgmrec import DgmrecOptions
from milk_recsys.methods.graphs import Product, csr_and_transpose, normalised_adjacency
from milk_recsys.methods.micro.model import average_neighbours, neighbours, normalised_graph
from milk_recsys.methods.warm import Checkpointed, Content, WarmData, bpr_loss, minimise

__all__ = ["Dgmrec"]

# Number of hops on the graph of users and items.
HOPS = 3


class Dgmrec(Checkpointed):
    """The DGMRec model; the docstring of the module states its equations."""

    def __init__(self, data: WarmData, options: DgmrecOptions, seed: int) -> None:
        self._data, self._options, self._seed = data, options, seed
        self.content, d = Content(data), options.embedding_dim
        widths = self.content.widths
        with seeded(seed, device=data.device):
            self.net: Any = nn.ModuleDict(
                {
                    "user": nn.Embedding(data.num_users, d),
                    "item": nn.Embedding(data.num_items, d),
                    "maps": nn.ModuleList(nn.Linear(width, d) for width in widths),
                    "shared": nn.Linear(d, d),
                    "own": nn.ModuleList(nn.Linear(width, d) for width in widths),
                    "taste": nn.ModuleList(nn.Linear(d, d) for _ in widths),
                    "translate": nn.ModuleList(
                        nn.Sequential(nn.Linear(d, d), nn.Tanh(), nn.Linear(d, d)) for _ in widths
                    ),
                }
            )
            for name in ("user", "item"):
                nn.init.xavier_uniform_(self.net[name].weight)  # type: ignore[arg-type]
        self.net.to(data.device, self.content.dtype)
        self._x = torch.split(self.content.warm, list(widths), dim=1)
        k = self._options.neighbours
        self.graphs = [
            csr_and_transpose(
                _with_loops(normalised_graph(*neighbours(x, x, known, known, k)), known)
            )
            for x, known in zip(self._x, data.mask.T, strict=True)
        ]
        self._adjacency = csr_and_transpose(normalised_adjacency(data, self.content.dtype))
        pairs = interactions(data, self.content.dtype)
        # Row-normalised R averages over the items of a
        # user, and its transpose over the users of an item.
        self._user_means, self._item_means = (
            csr_and_transpose(_row_normalised(x)) for x in (pairs, pairs.t().coalesce())
        )
        self._adam = torch.optim.Adam(self.net.parameters(), lr=self._options.lr, fused=True)
        self.optimisers = (self._adam,)

    def train_epoch(self, epoch: int) -> dict[str, float]:
        """Train for one epoch."""
        total, options = 0.0, self._options
        for group in self._adam.param_groups:
            group["lr"] = options.lr * 0.96 ** (epoch / 50)
        with seeded(self._seed, 1, epoch, device=self._data.device) as generator:
            for users, items, negatives in self._data.triples(options.batch_size, generator):
                contrasted = torch.randperm(len(users), generator=generator)[
                    : options.contrast_pairs
                ].to(users.device)
                loss = self.loss(users, items, negatives, contrasted)
                total += len(users) * minimise(loss, self._adam)
        return {"loss": total / self._data.num_pairs}

    def loss(self, users: Tensor, items: Tensor, negatives: Tensor, contrasted: Tensor) -> Tensor:
        """Return the loss of a batch of triples.

        Arguments:
            users, items, negatives: (B,).
            contrasted: positions in the batch of the pairs that are contrasted.
        """
        options, net = self._options, self.net
        ids_u, ids_i = self._ids()
        general, shared, specific = self._items()
        shared_u, specific_u = (
            [Product.apply(x, *self._user_means) for x in part] for part in (shared, specific)
        )
        # The content part of users and items is added to their vectors from LightGCN.
        fused_i, fused_u = _fused(shared, specific), _fused(shared_u, specific_u)
        u, v = ids_u + fused_u, ids_i + fused_i
        loss = bpr_loss((u[users] * v[items]).sum(dim=1), (u[users] * v[negatives]).sum(dim=1))
        # In a contrast of users alone, or of items alone, a repeated row would be its own negative.
        distinct_users = torch.unique(users[contrasted])
        distinct_items = torch.unique(items[contrasted])
        # The general parts of two modalities are contrasted on items that have every modality.
        complete = distinct_items[self._data.mask[distinct_items].all(dim=1)]
        contrasts = []
        for m, (a, p) in enumerate(zip(general, shared_u, strict=True)):
            for b, q in zip(general[:m], shared_u[:m], strict=True):
                contrasts += [
                    _info_nce(a[complete], b[complete], options.tau_general),
                    _info_nce(p[distinct_users], q[distinct_users], options.tau_general),
                ]
        all_u, all_i = torch.stack(shared_u).sum(dim=0), torch.stack(shared).sum(dim=0)
        contrasted_sides = [(ids_u, ids_i), (all_u, all_i), *zip(specific_u, specific, strict=True)]
        contrasts += [
            _info_nce(a[users[contrasted]], b[items[contrasted]], options.tau)
            for a, b in contrasted_sides
        ]
        contrasts += [
            _info_nce(ids_i[distinct_items], all_i[distinct_items], options.tau),
            _info_nce(ids_u[distinct_users], all_u[distinct_users], options.tau),
        ]
        loss = loss + options.contrast_weight * torch.stack(contrasts).sum()
        # Only complete items have a target for the translation. The target is detached, so that the
        # translation learns to match the shared part and not the reverse.
        translated = [
            (self._translated(m, shared, self._data.mask) - x.detach())[complete]
            for m, x in enumerate(shared)
        ]
        if len(translated) > 1:
            loss = loss + options.translation_weight * torch.stack(
                [x.square().sum() for x in translated]
            ).sum() / max(1, translated[0].numel())
        rows = (users, items, negatives)
        ids = torch.stack(
            [
                net[n].weight[r].square().sum()
                for n, r in zip(("user", "item", "item"), rows, strict=True)
            ]
        )
        fused = torch.stack(
            [x[r].square().sum() for x, r in zip((fused_u, fused_i, fused_i), rows, strict=True)]
        )
        return loss + (options.l2 * ids.sum() + options.fused_l2 * fused.sum()) / 2 / len(users)

    def _ids(self) -> tuple[Tensor, Tensor]:
        """Return [U; E]: users (U, d) and items (n, d) after LightGCN on their vectors."""
        layers = [torch.cat([self.net["user"].weight, self.net["item"].weight])]
        for _ in range(HOPS):
            layers.append(Product.apply(layers[-1], *self._adjacency))
        return torch.stack(layers).mean(dim=0).split([self._data.num_users, self._data.num_items])

    def _filtered(self) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Return g, f g and f q of the warm items, one (n, d) per modality; 0 where missing."""
        net = self.net
        general: list[Tensor] = []
        shared: list[Tensor] = []
        specific: list[Tensor] = []
        for m, x in enumerate(self._x):
            known = self._data.mask[:, m, None]
            taste = Product.apply(
                torch.tanh(net["taste"][m](net["user"].weight)), *self._item_means
            )
            general.append(known * torch.sigmoid(net["shared"](torch.tanh(net["maps"][m](x)))))
            shared.append(taste * general[-1])
            specific.append(taste * known * torch.sigmoid(net["own"][m](x)))
        return general, shared, specific

    def _items(self) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
        """Return g, gt and qt of the warm items, one (n, d) per modality.

        Missing gt are translated from the other modalities.
        """
        general, shared, specific = self._filtered()
        for _ in range(self._options.layers):
            shared, specific = (
                [Product.apply(x, *graph) for x, graph in zip(part, self.graphs, strict=True)]
                for part in (shared, specific)
            )
        return general, self._filled(shared, self._data.mask), specific

    def _filled(self, shared: list[Tensor], known: Tensor) -> list[Tensor]:
        """Return gt per modality, translated from the other modalities where it is missing."""
        return [
            torch.where(known[:, m, None], x, self._translated(m, shared, known))
            for m, x in enumerate(shared)
        ]

    def _translated(self, m: int, shared: list[Tensor], known: Tensor) -> Tensor:
        """Return trans_m of the mean of the other modalities' gt that an item has, (n, d)."""
        others = [o for o in range(len(shared)) if o != m]
        if not others:
            return torch.zeros_like(shared[m])
        # Mean over the other modalities that the item has; 0 if it has none.
        weights = known[:, others].to(shared[m].dtype)
        mean = torch.einsum("nm,mnd->nd", weights, torch.stack([shared[o] for o in others]))
        return self.net["translate"][m](mean / weights.sum(dim=1, keepdim=True).clamp(min=1))

    def scorer(self, features: Mapping[str, Tensor], mask: Tensor) -> ScoreBlock:
        """Return a function that scores new items by gt and qt of their nearest warm items."""
        rows = torch.split(self.content(features, mask), list(self.content.widths), dim=1)
        _, shared, specific = self._items()
        users = self._ids()[0] + _fused(
            *(
                [torch.sparse.mm(self._user_means[0], x) for x in part]
                for part in (shared, specific)
            )
        )
        neighbour_means: tuple[list[Tensor], list[Tensor]] = ([], [])
        for m, (x, y) in enumerate(zip(rows, self._x, strict=True)):
            # A new item has no users and hence no taste. It
            # averages gt and qt of warm items, which have both.
            edges = neighbours(x, y, mask[:, m], self._data.mask[:, m], self._options.neighbours)
            for part, means in zip((shared, specific), neighbour_means, strict=True):
                means.append(average_neighbours(edges, part[m]))
        v = _fused(self._filled(neighbour_means[0], mask), neighbour_means[1])
        return lambda block: users[block] @ v.T


def _fused(shared: list[Tensor], specific: list[Tensor]) -> Tensor:
    """Return (mean_m gt_m + sum_m qt_m) / (M + 1)."""
    return (torch.stack(shared).mean(dim=0) + torch.stack(specific).sum(dim=0)) / (len(shared) + 1)


def _info_nce(a: Tensor, b: Tensor, tau: float) -> Tensor:
    """Return the InfoNCE loss of rows a and b (n, d), by cosines: row k of a and of b match."""
    if not len(a):
        return a.sum()
    products = F.normalize(a, dim=1) @ F.normalize(b, dim=1).T / tau
    return F.cross_entropy(products, torch.arange(len(a), device=a.device))


def _row_normalised(pairs: Tensor) -> Tensor:
    """Scale the rows of a sparse 0/1 matrix to a sum of 1; its product then takes means."""
    counts = torch.bincount(pairs.indices()[0], minlength=len(pairs)).to(pairs.dtype)
    values = 1 / counts[pairs.indices()[0]]
    return torch.sparse_coo_tensor(
        pairs.indices(), values, pairs.shape, check_invariants=False, is_coalesced=True
    )


def _with_loops(graph: Tensor, known: Tensor) -> Tensor:
    """Add an edge from each item without the modality to itself, which keeps its row as it is."""
    missing = (~known).nonzero()[:, 0]
    ones = torch.ones(len(missing), dtype=graph.dtype, device=graph.device)
    loops = torch.sparse_coo_tensor(
        torch.stack([missing, missing]), ones, graph.shape, check_invariants=False
    )
    return (graph + loops).coalesce()
