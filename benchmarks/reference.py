"""The published MILK procedure, written out plainly: the yardstick for results and for speed.

Nothing here is shared with the library or the example, and nothing is clever. For every environment
the whole catalogue is encoded anew and its embeddings are fused with that environment's weights;
negatives are drawn one triple at a time, with rejection; evaluation goes user by user. The code
stays as it is, so that later measurements mean the same as earlier ones.

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
    """The strengths of the three terms beside the mean risk."""

    penalty_weight: float = 1.0
    alignment_weight: float = 0.05
    regulariser_weight: float = 1e-4


class ReferenceMilk(nn.Module):
    """A table of users, N(0, .1^2), and a linear encoder for each modality, in the order given."""

    def __init__(self, num_users: int, dims: Mapping[str, int], embedding_dim: int = 64) -> None:
        super().__init__()
        self.names = tuple(dims)
        self.users = nn.Embedding(num_users, embedding_dim)
        nn.init.normal_(self.users.weight, std=0.1)
        self.encoders = nn.ModuleList(nn.Linear(dim, embedding_dim) for dim in dims.values())

    def encode(self, features: Features) -> list[Tensor]:
        """The whole catalogue in each modality: M tensors (N, D)."""
        return [
            encoder(features[name]) for name, encoder in zip(self.names, self.encoders, strict=True)
        ]


def reference_environments(num_modalities: int, alpha: float, rng: np.random.Generator) -> Tensor:
    """Cyclic mixup (Eq. 9 to 11): uniform weights, a Dirichlet draw, its cyclic shifts; (M + 1, M).

    Meant for alpha of .1 and above; the draw underflows below.
    """
    first = rng.dirichlet([alpha] * num_modalities)
    rows = [np.full(num_modalities, 1 / num_modalities)]
    for shift in range(num_modalities):
        rows.append(np.roll(first, shift))
    return torch.tensor(np.stack(rows), dtype=torch.float32)


def reference_fused(encoded: Sequence[Tensor], weights: Tensor) -> Tensor:
    """Items in one environment, the weighted sum of their modalities: (N, D) from weights (M,)."""
    fused = torch.zeros_like(encoded[0])
    for weight, z in zip(weights, encoded, strict=True):
        fused = fused + weight * z
    return fused


def reference_environment(
    model: ReferenceMilk, features: Features, users: Tensor, pos: Tensor, neg: Tensor, row: Tensor
) -> tuple[Tensor, list[Tensor]]:
    """BPR risk of a batch of triples (B,) in one environment, and the encoded catalogue behind it."""
    encoded = model.encode(features)
    items = reference_fused(encoded, row)
    user, liked, other = model.users(users), items[pos], items[neg]
    margin = (user * liked).sum(dim=1) - (user * other).sum(dim=1)
    return F.softplus(-margin).mean(), encoded


def reference_risks(
    model: ReferenceMilk,
    features: Features,
    users: Tensor,
    pos: Tensor,
    neg: Tensor,
    weights: Tensor,
) -> Tensor:
    """BPR risk of a batch of triples in each environment, weights (E, M): (E,)."""
    passes = [reference_environment(model, features, users, pos, neg, row) for row in weights]
    return torch.stack([risk for risk, _ in passes])


def reference_alignment(encoded: Sequence[Tensor], observed: Tensor, items: Tensor) -> Tensor:
    """Eq. 6 as an element mean over `items`: sum_j s_j / (D * sum_j p_j); 0 without any pair.

    s_j sums ||c_jm - c_jm'||^2 over the pairs m < m' of modalities observed for item j, and p_j
    counts those pairs.
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
    """TripleBatch mean of |u|^2 + |i|^2 + |j|^2, with the items fused in the first environment."""
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
    """The objective of a batch (Eq. 16): mean risk, biased variance, alignment, regulariser."""
    passes = [reference_environment(model, features, users, pos, neg, row) for row in weights]
    risks = torch.stack([risk for risk, _ in passes])
    encoded = passes[0][1]  # the first environment's catalogue also serves the other two terms
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
    """An item of the pool for each user, drawn again until the user's row does not have it."""
    negatives = []
    for user in users:
        item = pool[rng.randrange(len(pool))]
        while item in rows[user]:
            item = pool[rng.randrange(len(pool))]
        negatives.append(item)
    return negatives


def reference_rows(pairs: np.ndarray, num_users: int) -> list[set[int]]:
    """The items of each user, from pairs (P, 2)."""
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
    """One epoch over the training pairs (P, 2), with one fresh negative each; its mean loss.

    Pairs are shuffled, the last and smaller batch is kept, environments are drawn for each batch.
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
    """Mean Recall, NDCG, hit rate and MRR at each K over the users of `positives`, one by one.

    `positives` maps a user to a set of item ids, all of them candidates. The modalities of an item
    are averaged (Eq. 18), and every candidate is ranked.
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
    """The metrics of one user at one K, from the candidates in order, best first."""
    hits = [item in liked for item in ranking[:k]]
    dcg = sum(1 / math.log2(place + 2) for place, hit in enumerate(hits) if hit)
    ideal = sum(1 / math.log2(place + 2) for place in range(min(k, len(liked))))
    return {
        f"recall@{k}": sum(hits) / len(liked),
        f"ndcg@{k}": dcg / ideal,
        f"hit@{k}": float(any(hits)),
        f"mrr@{k}": 1 / (hits.index(True) + 1) if any(hits) else 0.0,
    }
