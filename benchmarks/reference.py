"""The published MILK procedure in plain code: the reference for results and for speed.

This file shares no code with the library or the recommender, and does not optimise anything. The
whole catalogue is encoded again for every environment, and its embeddings are fused with the
weights of that environment; negatives are drawn for one triple at a time, by rejection sampling;
evaluation goes user by user. Do not change this code: otherwise later measurements cannot be
compared with earlier ones.

Letters: N items, M modalities, D the embedding dimension, E environments, B triples of a batch.
Features are {name: (N, d_m) float32}, scaled and imputed beforehand. `observed` (N, M) bool says
which cells were not imputed; its columns follow the order of the features.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

Features = Mapping[str, Tensor]


@dataclass(frozen=True)
class ReferenceWeights:
    """Weights of the three terms that are added to the mean risk."""

    penalty_weight: float = 1.0
    alignment_weight: float = 0.05
    regulariser_weight: float = 1e-4


class ReferenceMilk(nn.Module):
    """A table of user vectors, drawn from N(0, 0.1^2), and a linear encoder for each modality.

    The order of the encoders is that of `dims`.
    """

    def __init__(self, num_users: int, dims: Mapping[str, int], embedding_dim: int = 64) -> None:
        super().__init__()
        self.names = tuple(dims)
        self.users = nn.Embedding(num_users, embedding_dim)
        nn.init.normal_(self.users.weight, std=0.1)
        self.encoders = nn.ModuleList(nn.Linear(dim, embedding_dim) for dim in dims.values())

    def encode(self, features: Features) -> list[Tensor]:
        """Encode the whole catalogue in each modality: M tensors (N, D)."""
        return [
            encoder(features[name]) for name, encoder in zip(self.names, self.encoders, strict=True)
        ]


def reference_environments(num_modalities: int, alpha: float, rng: np.random.Generator) -> Tensor:
    """Sample fusion weights by cyclic mixup (Eq. 9 to 11): (M + 1, M).

    The first row is uniform. The others are one Dirichlet draw and its cyclic shifts. Use it with
    alpha of at least 0.1: below, the draw underflows.
    """
    first = rng.dirichlet([alpha] * num_modalities)
    rows = [np.full(num_modalities, 1 / num_modalities)]
    # Over the M shifts each modality has each weight once, so the mean of the shifts is uniform.
    for shift in range(num_modalities):
        rows.append(np.roll(first, shift))
    return torch.tensor(np.stack(rows), dtype=torch.float32)


def reference_fused(encoded: Sequence[Tensor], weights: Tensor) -> Tensor:
    """Fuse the items in one environment: (N, D), the sum of modalities with `weights` (M,)."""
    fused = torch.zeros_like(encoded[0])
    for weight, z in zip(weights, encoded, strict=True):
        fused = fused + weight * z
    return fused


def reference_environment(
    model: ReferenceMilk, features: Features, users: Tensor, pos: Tensor, neg: Tensor, row: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """Compute the BPR risk of a batch of triples (B,) in one environment (Eq. 15).

    Returns:
        the risk, a scalar, and the encoded catalogue that it was computed from.
    """
    encoded = model.encode(features)
    items = reference_fused(encoded, row)
    user, positive, negative = model.users(users), items[pos], items[neg]
    margin = (user * positive).sum(dim=1) - (user * negative).sum(dim=1)
    # -log sigmoid(x) = softplus(-x), without overflow.
    return F.softplus(-margin).mean(), encoded


def reference_risks(
    model: ReferenceMilk,
    features: Features,
    users: Tensor,
    pos: Tensor,
    neg: Tensor,
    weights: Tensor,
) -> Tensor:
    """Compute the BPR risk of a batch of triples in each environment: (E,) from weights (E, M)."""
    passes = [reference_environment(model, features, users, pos, neg, row) for row in weights]
    return torch.stack([risk for risk, _ in passes])


def reference_alignment(encoded: Sequence[Tensor], observed: Tensor, items: Tensor) -> Tensor:
    """Compute the alignment loss (Eq. 6) as a mean over elements: sum_j s_j / (D * sum_j p_j).

    Here j runs over `items`, c_jm is the embedding of item j in modality m, s_j is the sum of
    ||c_jm - c_jm'||^2 over the pairs m < m' of modalities that are observed for item j, and p_j is
    the number of these pairs. The loss is 0 if there are no pairs.
    """
    total = encoded[0].new_zeros(())
    pairs = 0
    for m in range(len(encoded)):
        for other in range(m + 1, len(encoded)):
            both = items[observed[items, m] & observed[items, other]]
            total = total + (encoded[m][both] - encoded[other][both]).pow(2).sum()
            pairs += len(both)
    return total / (max(pairs, 1) * encoded[0].shape[1])


def reference_regulariser(
    model: ReferenceMilk, fused: Tensor, users: Tensor, pos: Tensor, neg: Tensor
) -> Tensor:
    """Compute the mean of |u|^2 + |i|^2 + |j|^2 over the triples (u, i, j) of a batch.

    The items i and j are fused in the first environment, that is with uniform weights.
    """
    parts = (model.users(users), fused[pos], fused[neg])
    return sum((part.pow(2).sum() for part in parts), torch.zeros(())) / len(users)


def reference_loss(
    model: ReferenceMilk,
    features: Features,
    observed: Tensor,
    users: Tensor,
    pos: Tensor,
    neg: Tensor,
    weights: Tensor,
    strengths: ReferenceWeights,
) -> Tensor:
    """Compute the objective of a batch (Eq. 16).

    It is the sum of the mean risk over environments, the biased variance of the risks, the
    alignment loss and the regulariser, the last three multiplied by `strengths`.
    """
    passes = [reference_environment(model, features, users, pos, neg, row) for row in weights]
    risks = torch.stack([risk for risk, _ in passes])
    encoded = passes[0][1]  # Encoders do not depend on the environment: any pass has these values.
    fused = reference_fused(encoded, weights[0])
    return (
        risks.mean()
        + strengths.penalty_weight * (risks - risks.mean()).pow(2).mean()
        + strengths.alignment_weight * reference_alignment(encoded, observed, torch.unique(pos))
        + strengths.regulariser_weight * reference_regulariser(model, fused, users, pos, neg)
    )


def reference_negatives(
    users: Iterable[int], rows: Sequence[set[int]], pool: Sequence[int], rng: random.Random
) -> list[int]:
    """Draw an item of the pool for each user, by rejection until it is not in the user's row."""
    negatives = []
    for user in users:
        item = pool[rng.randrange(len(pool))]
        while item in rows[user]:
            item = pool[rng.randrange(len(pool))]
        negatives.append(item)
    return negatives


def reference_rows(pairs: np.ndarray, num_users: int) -> list[set[int]]:
    """Collect the set of items of each user, from pairs (user, item) of shape (P, 2)."""
    rows: list[set[int]] = [set() for _ in range(num_users)]
    for user, item in pairs.tolist():
        rows[user].add(item)
    return rows


def reference_epoch(
    model: ReferenceMilk,
    optimiser: torch.optim.Optimizer,
    features: Features,
    observed: Tensor,
    pairs: np.ndarray,
    rows: Sequence[set[int]],
    pool: Sequence[int],
    *,
    alpha: float = 1.0,
    strengths: ReferenceWeights = ReferenceWeights(),
    batch_size: int = 2048,
    seed: int = 0,
) -> float:
    """Train for one epoch over the training pairs (P, 2), and return its mean loss.

    Every epoch shuffles the pairs and draws one new negative for each pair. The last batch is used
    even if it is smaller. Environments are sampled for each batch.
    """
    rng, negative_rng = np.random.default_rng(seed), random.Random(seed)
    pairs = pairs[rng.permutation(len(pairs))]
    total = 0.0
    for start in range(0, len(pairs), batch_size):
        batch = pairs[start : start + batch_size]
        negatives = reference_negatives(batch[:, 0].tolist(), rows, pool, negative_rng)
        users, pos = torch.from_numpy(batch[:, 0]), torch.from_numpy(batch[:, 1])
        weights = reference_environments(len(model.names), alpha, rng)
        loss = reference_loss(
            model, features, observed, users, pos, torch.tensor(negatives), weights, strengths
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        total += loss.item() * len(batch)
    return total / len(pairs)


def reference_evaluate(
    model: ReferenceMilk,
    features: Features,
    positives: Mapping[int, set[int]],
    candidates: Sequence[int],
    ks: Sequence[int] = (10, 20),
) -> dict[str, float]:
    """Compute Recall, NDCG, hit rate and MRR at each K, as means over the users of `positives`.

    `positives` maps a user to a set of item ids, all of which are candidates. The embeddings of an
    item in its modalities are averaged (Eq. 18), and all candidates are ranked.
    """
    sums = {f"{name}@{k}": 0.0 for name in ("recall", "ndcg", "hit", "mrr") for k in ks}
    with torch.no_grad():
        encoded = model.encode(features)
        uniform = torch.full((len(encoded),), 1 / len(encoded))
        items = reference_fused(encoded, uniform)[torch.tensor(candidates)]
        for user, liked in positives.items():
            scores = items @ model.users.weight[user]
            order = torch.argsort(scores, descending=True, stable=True).tolist()
            ranking = [candidates[place] for place in order]
            for k in ks:
                for name, value in reference_metrics(ranking, liked, k).items():
                    sums[name] += value
    return {"users": len(positives), **{name: s / len(positives) for name, s in sums.items()}}


def reference_metrics(ranking: Sequence[int], liked: set[int], k: int) -> dict[str, float]:
    """Compute the metrics of one user at one K, from the candidates, best first."""
    # DCG of binary relevance; the ideal ranking has all positives of the user first.
    hits = [item in liked for item in ranking[:k]]
    dcg = sum(1 / math.log2(place + 2) for place, hit in enumerate(hits) if hit)
    ideal = sum(1 / math.log2(place + 2) for place in range(min(k, len(liked))))
    return {
        f"recall@{k}": sum(hits) / len(liked),
        f"ndcg@{k}": dcg / ideal,
        f"hit@{k}": float(any(hits)),
        f"mrr@{k}": 1 / (hits.index(True) + 1) if any(hits) else 0.0,
    }
