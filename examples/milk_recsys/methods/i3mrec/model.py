"""I3-MRec: invariant learning over modalities with an information bottleneck.

    z_m = A_m x_m + c_m,   v_m = z_m / |z_m|;   both 0 where an item lacks modality m
    u_m = mean over k = 0..3 of  N^k [p; z_m], rows at unit length, users' part
    T = tanh(dropout(W mean_m v_m))
    s = <p_u + mean_m u_m, T>
    loss = BPR(T) + sum_e R_e + penalty_weight Var_e R_e
           + contrast_weight sum over ordered pairs (a, b) of masks of InfoNCE(T^a, T^b)
           + bottleneck_weight mean_m CLUB(x_m; T)
           + l2 / 2 (squared norms)

where x_m is the content in modality m; A_m, c_m and W are learned; p are the vectors of the users;
N is the normalised adjacency matrix of users and items; the mean in T runs over the modalities that
an item has, and no gradient flows from T into v_m. R_e is the BPR risk of environment e, in which
an item is represented by v_e alone. A mask a is a nonempty set of modalities; T^a
uses the v_m in a only, and divides their sum by M, the number of all modalities. CLUB is an upper
bound on the mutual information of x_m and T; it needs estimators, networks for Gaussians T | x_m,
which are trained alternately.

A new item is T of the modalities that it has.

References:
    I3-MRec: invariant learning with information bottleneck for incomplete modality recommendation,
    MM 2025.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from invmod import vrex_penalty
from milk_recsys.base.random_state import seeded
from milk_recsys.methods.contract import ScoreBlock
from milk_recsys.methods.graphs import Product, csr_and_transpose, normalised_adjacency
from milk_recsys.methods.i3mrec import I3mrecOptions
from milk_recsys.methods.warm import Checkpointed, Content, WarmData, bpr_loss, minimise

__all__ = ["I3mrec"]

# Number of hops on the graph of users and items.
HOPS = 3
# Hidden width of the estimators, their steps per epoch, and their learning rate.
HIDDEN, ESTIMATOR_STEPS, ESTIMATOR_LR = 32, 10, 1e-4


class I3mrec(Checkpointed):
    """The I3-MRec model; the docstring of the module states its equations."""

    def __init__(self, data: WarmData, options: I3mrecOptions, seed: int) -> None:
        self._data, self._options, self._seed = data, options, seed
        self.content, d = Content(data), options.embedding_dim
        widths = self.content.widths
        with seeded(seed, device=data.device):
            self.net: Any = nn.ModuleDict(
                {
                    "user": nn.Embedding(data.num_users, d),
                    "maps": nn.ModuleList(nn.Linear(width, d) for width in widths),
                    "mix": nn.Linear(d, d, bias=False),
                    "estimators": nn.ModuleList(
                        nn.Sequential(nn.Linear(width, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 2 * d))
                        for width in widths
                    ),
                }
            )
            nn.init.xavier_uniform_(self.net["user"].weight)  # type: ignore[arg-type]
            nn.init.eye_(self.net["mix"].weight)  # type: ignore[arg-type]
        self.net.to(data.device, self.content.dtype)
        self._x = torch.split(self.content.warm, list(widths), dim=1)
        self._adjacency = csr_and_transpose(normalised_adjacency(data, self.content.dtype))
        estimators = set(self.net["estimators"].parameters())
        # The estimators have their own optimiser: they maximise a likelihood, and the model must
        # not lower the bound by making them worse.
        learned = [p for p in self.net.parameters() if p not in estimators]
        self._adams = [
            torch.optim.Adam(learned, lr=self._options.lr, fused=True),
            torch.optim.Adam(
                list(self.net["estimators"].parameters()), lr=ESTIMATOR_LR, fused=True
            ),
        ]
        self.optimisers = tuple(self._adams)
        # All nonempty sets of modalities, 2^M - 1 masks (M,).
        self._masks = [
            torch.tensor(mask, device=data.device)
            for mask in itertools.product([False, True], repeat=len(widths))
            if any(mask)
        ]

    def train_epoch(self, epoch: int) -> dict[str, float]:
        """Train for one epoch, after some steps of the estimators."""
        total, options = 0.0, self._options
        self.net.train()
        with seeded(self._seed, 1, epoch, device=self._data.device) as generator:
            for _ in range(ESTIMATOR_STEPS if options.bottleneck_weight else 0):
                sampled = torch.randperm(self._data.num_items, generator=generator)[
                    : options.batch_size
                ]
                minimise(self.estimator_loss(sampled.to(self._data.device)), self._adams[1])
            for users, items, negatives in self._data.triples(options.batch_size, generator):
                sampled = torch.randperm(len(items), generator=generator)[
                    : options.contrast_items
                ].to(items.device)
                loss = self.loss(users, items, negatives, torch.unique(items[sampled]))
                total += len(users) * minimise(loss, self._adams[0])
        self.net.eval()
        return {"loss": total / self._data.num_pairs}

    def loss(self, users: Tensor, items: Tensor, negatives: Tensor, anchors: Tensor) -> Tensor:
        """Return the loss of a batch of triples.

        Arguments:
            users, items, negatives: (B,).
            anchors: distinct items that are contrasted under the masks.
        """
        options, known = self._options, self._data.mask
        mapped = [
            f(x) * known[:, m, None]
            for m, (f, x) in enumerate(zip(self.net["maps"], self._x, strict=True))
        ]
        single = [F.normalize(z, dim=1) for z in mapped]
        u = self.users(mapped)[users]
        # The losses of T do not change v_m: they see it as a constant, and the risks R_e train it.
        fixed = torch.stack(single, dim=1).detach()
        t = self.fuse(fixed, known)
        loss = bpr_loss((u * t[items]).sum(dim=1), (u * t[negatives]).sum(dim=1))
        risks = []
        for m, v in enumerate(single):
            both_known = known[items, m] & known[negatives, m]
            gap = (u * (v[negatives] - v[items])).sum(dim=1)
            # An environment without a triple has no risk. A risk of 0 would change the variance.
            if both_known.any():
                risks.append((F.softplus(gap) * both_known).sum() / both_known.sum())
        if risks:
            environments = torch.stack(risks)
            loss = loss + environments.sum()
            if len(risks) > 1:
                penalty = vrex_penalty(environments, correction=1)
                loss = loss + options.penalty_weight * penalty
        if options.contrast_weight:
            loss = loss + options.contrast_weight * self.contrast(fixed[anchors], known[anchors])
        if options.bottleneck_weight:
            loss = loss + options.bottleneck_weight * self.bottleneck(t, items)
        squares = (
            self.net["user"](users).square().sum()
            + t[items].square().sum()
            + t[negatives].square().sum()
        ) / 2
        return loss + options.l2 * squares / len(users)

    def users(self, mapped: list[Tensor]) -> Tensor:
        """Return users (U, d): p + mean_m u_m, from the items' z_m (n, d) of each modality."""
        table, propagated = self.net["user"].weight, []
        for z in mapped:
            layers = [F.normalize(torch.cat([table, z]), dim=1)]
            for _ in range(HOPS):
                layers.append(Product.apply(layers[-1], *self._adjacency))
            propagated.append(torch.stack(layers).mean(dim=0)[: len(table)])
        return table + torch.stack(propagated).mean(dim=0)

    def fuse(self, single: Tensor, kept: Tensor, *, divide_by_all: bool = False) -> Tensor:
        """Return T (n, d) of items from their kept modalities.

        Arguments:
            single: (n, M, d), v_m of each modality.
            kept: (n, M) bool.
            divide_by_all: divide the sum of the kept v_m by M instead of by their number.
        """
        weights = kept.to(single.dtype)
        count = (
            single.new_tensor(single.shape[1])
            if divide_by_all
            else weights.sum(dim=1, keepdim=True).clamp(min=1)
        )
        mean = (weights[:, :, None] * single).sum(dim=1) / count
        return torch.tanh(
            self.net["mix"](F.dropout(mean, self._options.dropout, self.net.training))
        )

    def contrast(self, single: Tensor, known: Tensor) -> Tensor:
        """Return the sum of InfoNCE, by cosines, over ordered pairs of masks.

        An item matches itself under the other mask. Items without a modality under one of the two
        masks are left out.
        """
        views = []
        for mask in self._masks:
            kept = known & mask
            # T^a of the items that have a modality in mask a.
            views.append(
                (kept.any(dim=1), F.normalize(self.fuse(single, kept, divide_by_all=True), dim=1))
            )
        total = single.new_zeros(())
        for (has_a, a), (has_b, b) in itertools.permutations(views, 2):
            rows = (has_a & has_b).nonzero()[:, 0]
            if len(rows):
                total = total + F.cross_entropy(
                    a[rows] @ b[rows].T / self._options.tau, torch.arange(len(rows)).to(rows)
                )
        return total

    def bottleneck(self, t: Tensor, items: Tensor) -> Tensor:
        """Return the mean over modalities m of CLUB(x_m; T).

        CLUB is the mean over items of log q(T_i | x_i) minus the mean over all T_j of the batch of
        log q(T_j | x_i), q being the estimator of modality m.
        """
        bounds = []
        for m in range(len(self._x)):
            rows = items[self._data.mask[items, m]]
            mean, precision, _ = self._gaussian(m, rows)
            own_views, all_views = t[rows], t[items]
            # The mean over j of (mean - T_j)^2, expanded to avoid a tensor with an axis for j. The
            # log normalisers of the two log-likelihoods are equal and cancel.
            mean_squared_gap = (
                mean.square() - 2 * mean * all_views.mean(dim=0) + all_views.square().mean(dim=0)
            )
            bounds.append(
                ((mean_squared_gap - (mean - own_views).square()) * precision / 2).sum(dim=1).mean()
                if len(rows)
                else own_views.sum()
            )
        return torch.stack(bounds).mean()

    def estimator_loss(self, items: Tensor) -> Tensor:
        """Return the negative log-likelihood of T given x_m, up to a constant.

        It is a mean over items, summed over modalities.
        """
        with torch.no_grad():
            single = torch.stack(
                [
                    F.normalize(f(x[items]), dim=1)
                    for f, x in zip(self.net["maps"], self._x, strict=True)
                ],
                dim=1,
            )
            t = self.fuse(single, self._data.mask[items])
        losses = []
        for m in range(len(self._x)):
            known = self._data.mask[items, m]
            mean, precision, log_variance = self._gaussian(m, items)
            each = ((mean - t).square() * precision + log_variance).sum(dim=1) / 2
            losses.append((each * known).sum() / known.sum().clamp(min=1))
        return torch.stack(losses).sum()

    def _gaussian(self, m: int, items: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return mean, precision and log-variance (n, d) of T given x_m of items (n,)."""
        mean, log_variance = self.net["estimators"][m](self._x[m][items]).chunk(2, dim=1)
        # tanh bounds the log-variance to [-1, 1], so that the precision stays finite.
        log_variance = torch.tanh(log_variance)
        return mean, (-log_variance).exp(), log_variance

    def scorer(self, features: Mapping[str, Tensor], mask: Tensor) -> ScoreBlock:
        """Return a function that scores new items: T of the modalities that they have."""
        self.net.eval()
        rows = torch.split(self.content(features, mask), list(self.content.widths), dim=1)
        pairs = list(zip(self.net["maps"], rows, self._x, strict=True))
        single = torch.stack([F.normalize(f(x), dim=1) for f, x, _ in pairs], dim=1)
        v = self.fuse(single, mask)
        u = self.users([f(x) * self._data.mask[:, m, None] for m, (f, _, x) in enumerate(pairs)])
        return lambda users: u[users] @ v.T
