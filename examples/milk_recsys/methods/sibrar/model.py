"""SiBraR: one shared network (single branch) encodes every modality of an item.

    h_m = relu(W_m x_m + b_m)
    e_m = g(h_m)
    v = mean of e_m over the sampled modalities m of the item
    s_uj = <p_u, v_j>
    loss of a pair (u, i) and its K negatives j:
        mean over j of -ln sigma(s_ui - s_uj)
        + w (CE(S) + CE(S')),   S_ab = <e_a, e'_b> / tau,   a and b among the 1 + K items

where x_m is a content feature in modality m, or the 0/1 vector of the users who have the item,
which counts as one more modality; W_m and b_m map modality m to the input of the network g, the
branch; p_u is the vector of user u; sigma is the logistic function; e_a and e'_a are the encodings
of item a in its first and its second sampled modality; CE is the mean softmax cross-entropy of the
rows with the diagonal as the target; tau is a temperature and w a weight.

Each item samples two different modalities of those that it has, or one if w = 0. A new item is the
mean of e_m over the content features that it has.

References:
    Ganhör, Moscati, Hausberger, Nawaz and Schedl, A multimodal single-branch embedding network for
    recommendation in cold-start and missing modality scenarios, RecSys 2024.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from invmod import masked_mean
from milk_recsys.base.random_state import seeded
from milk_recsys.methods.contract import ScoreBlock
from milk_recsys.methods.graphs import ragged_ranges
from milk_recsys.methods.sibrar import SibrarOptions
from milk_recsys.methods.warm import Checkpointed, Content, WarmData, bpr_loss, minimise

__all__ = ["Sibrar"]


class Sibrar(Checkpointed):
    """The SiBraR model; the docstring of the module states its equations."""

    def __init__(self, data: WarmData, options: SibrarOptions, seed: int) -> None:
        self._data, self._options, self._seed = data, options, seed
        self.content, width = Content(data), self._options.width
        with seeded(seed, device=data.device):
            self.net: Any = nn.ModuleDict(
                {
                    "user": nn.Embedding(data.num_users, options.embedding_dim),
                    "maps": nn.ModuleList(nn.Linear(dim, width) for dim in self.content.widths),
                    "takers": nn.Linear(data.num_users, width),
                    "branch": _branch(width, options.embedding_dim, self._options.layers),
                }
            )
            nn.init.xavier_normal_(self.net["user"].weight)  # type: ignore[arg-type]
        self.net.to(data.device, self.content.dtype)
        self._x = torch.split(self.content.warm, list(self.content.widths), dim=1)
        users, items = data.pairs
        # The users of each item in CSR layout: those of item j start at _item_users[_offsets[j]].
        self._item_users = users[items.argsort(stable=True)]
        self._offsets = F.pad(torch.bincount(items, minlength=data.num_items).cumsum(0), (1, 0))
        always = torch.ones(len(data.mask), 1, dtype=torch.bool, device=data.device)
        # (n, M + 1). The last column, always True, is the modality "users who have the item".
        self._has = torch.cat([data.mask, always], dim=1)
        self._adam = torch.optim.AdamW(
            self.net.parameters(),
            lr=self._options.lr,
            weight_decay=self._options.weight_decay,
            fused=True,
        )
        self.optimisers = (self._adam,)

    def train_epoch(self, epoch: int) -> dict[str, float]:
        """Train for one epoch."""
        options, total = self._options, 0.0
        self.net.train()
        with seeded(self._seed, 1, epoch, device=self._data.device) as generator:
            for users, items in self._data.shuffled(options.batch_size, generator):
                negatives = self._data.negatives(
                    users.repeat_interleave(options.num_negatives), generator
                )
                items = torch.cat([items[:, None], negatives.view(len(users), -1)], dim=1)
                # Each modality that an item has gets a uniform key, and the largest keys win. This
                # samples modalities uniformly without replacement.
                keys = torch.rand(*items.shape, self._has.shape[1], generator=generator).to(
                    items.device
                )
                drawn = (
                    keys.masked_fill(~self._has[items], -1)
                    .topk(2 if options.contrast_weight else 1, dim=2)
                    .indices
                )
                loss = self.loss(users, items, drawn)
                total += len(users) * minimise(loss, self._adam)
        self.net.eval()
        return {"loss": total / self._data.num_pairs}

    def loss(self, users: Tensor, items: Tensor, drawn: Tensor) -> Tensor:
        """Return the loss of a batch.

        Arguments:
            users: (B,).
            items: (B, 1 + K), the positive first.
            drawn: (B, 1 + K, 1 or 2), sampled modalities of each item; M stands for its users.
        """
        options, net = self._options, self.net
        n, users_index = self._has.shape[0], self._has.shape[1] - 1
        # Encode each distinct (modality, item) once. The key modality * n + item sorts by modality,
        # so that concatenating the modalities' rows below restores the order of `cells`.
        cells, inverse = torch.unique(drawn * n + items[:, :, None], return_inverse=True)
        rows = [cells[cells // n == m] % n for m in range(users_index + 1)]
        pre_activations = [
            f(x[at]) for f, x, at in zip(net["maps"], self._x, rows[:-1], strict=True)
        ]
        # The product of W_m with a 0/1 vector of users is the sum of the users' columns of W_m.
        positions, starts = ragged_ranges(self._offsets, rows[-1])
        # embedding_bag needs one row per user, so W_m is transposed.
        table = net["takers"].weight.T.contiguous()
        pre_activations.append(
            F.embedding_bag(self._item_users[positions], table, starts, mode="sum")
            + net["takers"].bias
        )
        h = torch.cat(pre_activations)[inverse]  # (B, 1 + K, 1 or 2, width)
        # The users of the positive include the user of the pair, which would reveal the pair.
        # Subtract this user's column.
        uses_users = (drawn[:, 0] == users_index).to(h.dtype)[:, :, None]
        positive = h[:, 0] - uses_users * F.embedding(users, table)[:, None]
        h = torch.cat([positive[:, None], h[:, 1:]], dim=1).relu()
        e = net["branch"](h.flatten(0, 2)).view(*h.shape[:3], -1)
        scores = (net["user"](users)[:, None] * e.mean(dim=2)).sum(dim=2)
        loss = bpr_loss(scores[:, :1], scores[:, 1:])
        if drawn.shape[2] == 1:
            return loss
        # S of each pair, (B, 1 + K, 1 + K); its rows and its columns are classified.
        products = e[:, :, 0] @ e[:, :, 1].transpose(1, 2) / options.tau
        diagonal = torch.arange(items.shape[1], device=items.device).expand(items.shape)
        contrast = F.cross_entropy(products.flatten(0, 1), diagonal.flatten())
        contrast = contrast + F.cross_entropy(
            products.transpose(1, 2).flatten(0, 1), diagonal.flatten()
        )
        return loss + options.contrast_weight * contrast

    def scorer(self, features: Mapping[str, Tensor], mask: Tensor) -> ScoreBlock:
        """Return a function that scores new items: means of e_m over their content."""
        self.net.eval()
        rows = torch.split(self.content(features, mask), list(self.content.widths), dim=1)
        encoded = torch.stack(
            [self.net["branch"](f(x).relu()) for f, x in zip(self.net["maps"], rows, strict=True)],
            dim=1,
        )
        # Missing modalities were imputed before encoding; the mean leaves them out.
        v = masked_mean(encoded, mask)
        return lambda users: self.net["user"](users) @ v.T


def _branch(width: int, d: int, layers: int) -> nn.Sequential:
    """Return g: `layers` linear layers, with BatchNorm and ReLU between them."""
    between = [
        (nn.Linear(width, width), nn.BatchNorm1d(width), nn.ReLU()) for _ in range(layers - 1)
    ]
    return nn.Sequential(*(layer for group in between for layer in group), nn.Linear(width, d))
