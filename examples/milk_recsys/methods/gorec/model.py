"""GoRec: a conditional variational autoencoder of item factors given content.

    posterior  N(mu, sigma^2)      from [x_j, Q_j]
    prior      N(mu_p, sigma_p^2)  from x_j
    decoded_j = decoder([dropout(x_j), z_j]),   z_j = mu + sigma eps,   eps ~ N(0, 1)
    loss = mean over items and dimensions of (decoded_j - Q_j)^2
           + w_u ln (mean over pairs a, b of exp(-2 |a - b|^2)) + w_kl KL(posterior, prior)

where x_j is the content of item j at unit length, Q_j are its frozen factors, [a, b] is the
concatenation, the pairs a, b are latent means mu of two items of the batch at unit length, and w_u
and w_kl are weights.

A new item has no Q_j. It uses the mean factors of the warm items in the cluster of its content
instead, and z = mu.

References:
    Bai, Hou, Wu, Yang, Zhang, Hong and Wang, GoRec: a generative cold-start recommendation
    framework, MM 2023.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.cluster import KMeans
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from milk_recsys.base.random_state import seeded
from milk_recsys.methods.contract import ScoreBlock
from milk_recsys.methods.factors import Factors
from milk_recsys.methods.gorec import GorecOptions
from milk_recsys.methods.warm import Checkpointed, Content, WarmData, minimise

__all__ = ["Gorec", "cluster_means"]


class Gorec(Checkpointed):
    """The GoRec model; the docstring of the module states its equations."""

    def __init__(self, data: WarmData, options: GorecOptions, seed: int, factors: Factors) -> None:
        self._data, self._options, self._seed = data, options, seed
        self.content, d = Content(data), factors.items.shape[1]
        self.x = F.normalize(self.content.warm, dim=1)
        width = self.x.shape[1]
        with seeded(seed, device=data.device):
            self.net: Any = nn.ModuleDict(
                {
                    "encoder": _hidden(width + d, d),
                    "posterior": nn.Linear(d, 2 * d),
                    "prior": nn.Linear(width, 2 * d),
                    "decoder": _hidden(width + d, d),
                    "head": nn.Sequential(nn.Linear(d, d), nn.Linear(d, d)),
                }
            )
        centres, means = cluster_means(self.x, factors.items, self._options.cluster_items, seed)
        for name, x in (
            ("P", factors.users),
            ("Q", factors.items),
            ("centres", centres),
            ("means", means),
        ):
            self.net.register_buffer(name, x.clone())
        self.net.to(data.device, self.content.dtype)
        self._adam = torch.optim.Adam(self.net.parameters(), lr=self._options.lr, fused=True)
        self.optimisers = (self._adam,)

    def train_epoch(self, epoch: int) -> dict[str, float]:
        """Train for one epoch: every warm item once."""
        total, count = 0.0, 0
        self.net.train()
        with seeded(self._seed, 1, epoch, device=self._data.device) as generator:
            order = torch.randperm(self._data.num_items, generator=generator).to(self._data.device)
            for items in torch.split(order, self._options.batch_size):
                if len(items) < 2:  # Batch normalisation needs two rows.
                    continue
                noise = torch.randn(len(items), self.net.Q.shape[1], generator=generator)
                loss = self.loss(items, noise.to(self.x))
                total += len(items) * minimise(loss, self._adam)
                count += len(items)
        self.net.eval()
        return {"loss": total / count}

    def loss(self, items: Tensor, noise: Tensor) -> Tensor:
        """Return the loss of a batch of items (B,) with the noise eps (B, d)."""
        options, x, q = self._options, self.x[items], self.net.Q[items]
        mu, log_variance = self._posterior(x, q)
        prior_mu, prior_log_variance = self.net["prior"](x).chunk(2, dim=1)
        decoded = self._decode(
            F.dropout(x, options.dropout, self.net.training), mu + (log_variance / 2).exp() * noise
        )
        ratio = log_variance - prior_log_variance
        # KL divergence of two diagonal Gaussians in closed form, summed over the dimensions.
        kl = ((mu - prior_mu).square() * (-prior_log_variance).exp() + ratio.exp() - 1 - ratio).sum(
            dim=1
        ) / 2
        # Uniformity: small when the latent means spread evenly over the unit sphere.
        uniformity = (-2 * torch.pdist(F.normalize(mu, dim=1)).square()).exp().mean().log()
        return (
            F.mse_loss(decoded, q)
            + options.uniformity_weight * uniformity
            + options.kl_weight * kl.mean()
        )

    def _posterior(self, x: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
        mu, log_variance = self.net["posterior"](
            self.net["encoder"](torch.cat([x, q], dim=1))
        ).chunk(2, dim=1)
        return mu, log_variance

    def _decode(self, x: Tensor, z: Tensor) -> Tensor:
        decoded: Tensor = self.net["head"](self.net["decoder"](torch.cat([x, z], dim=1)))
        return decoded

    def scorer(self, features: Mapping[str, Tensor], mask: Tensor) -> ScoreBlock:
        """Return a function that scores new items: inner products of P and the decoded factors."""
        x = F.normalize(self.content(features, mask), dim=1)
        # A new item belongs to the cluster with the nearest centre.
        cluster = torch.cdist(x, self.net.centres).argmin(dim=1)
        v = self._decode(x, self._posterior(x, self.net.means[cluster])[0])
        return lambda users: self.net.P[users] @ v.T


def _hidden(width: int, d: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(width, d, bias=False), nn.BatchNorm1d(d), nn.Tanh())


def cluster_means(x: Tensor, q: Tensor, size: int, seed: int) -> tuple[Tensor, Tensor]:
    """Cluster warm items by content.

    Arguments:
        x: (n, F), content.
        q: (n, D), factors of the same items.
        size: average number of items in a cluster.
        seed: seed of the initial centres.

    Returns:
        Centres (K, F) and mean factors (K, D) of the nonempty clusters.
    """
    count = max(1, len(x) // size)
    # One thread fixes the order of the sums, so that the same data always give the same centres.
    with threadpool_limits(1), warnings.catch_warnings():
        # Fewer distinct rows than clusters leave some clusters empty, which are removed below.
        warnings.filterwarnings("ignore", "Number of distinct clusters")
        kmeans = KMeans(count, n_init=1, random_state=seed % 2**32).fit(x.cpu().numpy())
    labels = torch.from_numpy(kmeans.labels_).long().to(x.device)
    nonempty = torch.unique(labels)
    means = torch.zeros(count, q.shape[1], dtype=q.dtype, device=q.device).index_add_(0, labels, q)
    means /= torch.bincount(labels, minlength=count).clamp(min=1)[:, None]
    return torch.from_numpy(kmeans.cluster_centers_).to(x)[nonempty], means[nonempty]
