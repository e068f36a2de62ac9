"""CCFCRec: contrasts an item's content with the vectors of items that share users with it.

For each training pair (u, i):

    l(p) = -ln e(q_i, I_p) / (e(q_i, I_p) + sum over negatives n of p of e(q_i, I_n))
    e(a, b) = exp(cos(a, b) / tau)
    contrast = (mean over positives p of l(p)) + l(i)
    ranking = softplus(<I_i, U_k> - <I_i, U_u>) + softplus(<q_i, U_k> - <q_i, U_u>)
    loss = mean over pairs of  share contrast + (1 - share) ranking

where q_i is the encoded content of item i (one linear map per modality, then
Linear-LeakyReLU-Linear); I and U are the vectors of items and users; the positives p are random
items of user u; the negatives n, drawn for each positive, are items that u does not have; k is a
random user who does not have i; tau is a temperature; and share is a weight.

References:
    Zhou, Zhang and Yang, Contrastive collaborative filtering for cold-start item recommendation,
    WWW 2023.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from milk_recsys.base.random_state import seeded
from milk_recsys.catalogue.user_rows import build_user_rows
from milk_recsys.methods.ccfcrec import CcfcrecOptions
from milk_recsys.methods.contract import ScoreBlock
from milk_recsys.methods.warm import Checkpointed, Content, WarmData, minimise
from milk_recsys.ranking.negatives import sample_negatives

__all__ = ["Ccfcrec"]


class Ccfcrec(Checkpointed):
    """The CCFCRec model; the docstring of the module states its equations."""

    def __init__(self, data: WarmData, options: CcfcrecOptions, seed: int) -> None:
        self._data, self._options, self._seed = data, options, seed
        self.content, d = Content(data), options.embedding_dim
        with seeded(seed, device=data.device):
            self.net: Any = nn.ModuleDict(
                {
                    "user": nn.Embedding(data.num_users, d),
                    "item": nn.Embedding(data.num_items, d),
                    "maps": nn.ModuleList(
                        nn.Linear(width, d, bias=False) for width in self.content.widths
                    ),
                    "head": nn.Sequential(
                        nn.Linear(d * len(self.content.widths), d),
                        nn.LeakyReLU(0.01),
                        nn.Linear(d, d),
                    ),
                }
            )
            for p in self.net.parameters():
                if p.ndim > 1:
                    nn.init.xavier_normal_(p)
                else:
                    nn.init.zeros_(p)
        self.net.to(data.device, self.content.dtype)
        self._adam = torch.optim.Adam(
            self.net.parameters(),
            lr=self._options.lr,
            weight_decay=self._options.weight_decay,
            fused=True,
        )
        self.optimisers = (self._adam,)
        users, items = data.pairs
        everyone = torch.arange(data.num_users, device=data.device)
        # The training pairs by item, to draw users who do not have an item.
        self._item_users = build_user_rows(
            torch.stack([items, users], dim=1), data.num_items, everyone
        )

    def train_epoch(self, epoch: int) -> dict[str, float]:
        """Train for one epoch."""
        total, options = 0.0, self._options
        with seeded(self._seed, 1, epoch, device=self._data.device) as generator:
            for users, items in self._data.shuffled(options.batch_size, generator):
                other_users = sample_negatives(
                    items, self._item_users, self._item_users.pool, generator=generator
                )
                # Items that the users have, drawn with replacement.
                repeated = users.repeat_interleave(options.num_positives)
                positives = self._data.draw_items(repeated, generator)
                positives = positives.view(len(users), options.num_positives)
                # n negatives for each of the p positives, and n for the item itself.
                repeated = users.repeat_interleave(
                    (options.num_positives + 1) * options.num_negatives
                )
                negatives = self._data.negatives(repeated, generator)
                negatives = negatives.view(
                    len(users), options.num_positives + 1, options.num_negatives
                )
                loss = self.loss(users, items, other_users, positives, negatives)
                total += len(users) * minimise(loss, self._adam)
        return {"loss": total / self._data.num_pairs}

    def loss(
        self,
        users: Tensor,
        items: Tensor,
        other_users: Tensor,
        positives: Tensor,
        negatives: Tensor,
    ) -> Tensor:
        """Return the loss of a batch of training pairs.

        Arguments:
            users, items: (B,), the training pairs.
            other_users: (B,), users who do not have the item.
            positives: (B, p), items of the user.
            negatives: (B, p + 1, n), items that the user does not have: n for each positive, and
                the last n for the item itself.
        """
        options, table = self._options, self.net["item"].weight
        distinct, inverse = torch.unique(items, return_inverse=True)
        content = self.embed(self.content.warm[distinct])
        # One matrix product gives the cosines with all items, (B, n). Gathering a vector for each
        # anchor and negative would take more memory.
        cosines = F.normalize(content, dim=1) @ F.normalize(table, dim=1).T
        cosines = cosines[inverse] / options.tau
        # Column k of `anchors` is a positive, with the n negatives of row k of `negatives`.
        anchors = torch.cat([positives, items[:, None]], dim=1)
        scores = cosines.gather(1, torch.cat([anchors, negatives.flatten(1)], dim=1))
        positive_logits, negative_logits = scores.split(
            [anchors.shape[1], negatives[0].numel()], dim=1
        )
        logits = torch.cat(
            [positive_logits[:, :, None], negative_logits.view(negatives.shape)], dim=2
        )
        # -ln of a softmax is logsumexp minus the logit of the positive.
        losses = logits.logsumexp(dim=2) - positive_logits
        contrast = losses[:, :-1].mean(dim=1) + losses[:, -1]
        u, k = self.net["user"](users), self.net["user"](other_users)
        # Both rankings have the same form, once with the
        # item vector and once with its encoded content.
        ranking = torch.stack(
            [F.softplus((v * (k - u)).sum(dim=1)) for v in (table[items], content[inverse])]
        ).sum(dim=0)
        return (options.contrast_share * contrast + (1 - options.contrast_share) * ranking).mean()

    def embed(self, x: Tensor) -> Tensor:
        """Encode content (n, F) to q (n, d)."""
        parts = torch.split(x, list(self.content.widths), dim=1)
        mapped = [layer(part) for layer, part in zip(self.net["maps"], parts, strict=True)]
        encoded: Tensor = self.net["head"](torch.cat(mapped, dim=1))
        return encoded

    def scorer(self, features: Mapping[str, Tensor], mask: Tensor) -> ScoreBlock:
        """Return a function that scores new items: <q_c, U_u>, q_c their encoded content."""
        v = self.embed(self.content(features, mask))
        return lambda users: self.net["user"](users) @ v.T
