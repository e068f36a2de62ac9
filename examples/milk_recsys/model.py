"""MILK: users and encoded items, and the objective of Eq. 16, composed from the parts of invmod."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from invmod import (
    CyclicMixupEnvs,
    MeanImputer,
    ModalityEncoders,
    fuse,
    invariant_objective,
    pairwise_alignment_loss,
    vrex_penalty,
)
from milk_recsys.errors import DataError
from milk_recsys.features import ItemFeatures
from milk_recsys.options import Options

__all__ = ["Batch", "Recommender", "Terms", "batch_objective", "choose_device", "environments"]


def choose_device(device: torch.device | str) -> torch.device:
    """Return the device asked for; "auto" takes a GPU where there is one.

    Raises:
        DataError: a GPU is asked for and torch can use none.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    place = torch.device(device)
    if place.type == "cuda" and not torch.cuda.is_available():
        raise DataError(f"device {place}: this machine has no GPU that torch can use. Use auto or cpu.")
    return place


class Recommender(nn.Module):
    """User embeddings and one linear encoder per modality; a score is an inner product (Eq. 5, 13).

    Arguments:
        dims: modality -> width of its features, in the order of the mask's columns.
        num_users: how many users there are.
        options: widths, scaling, imputation and inference.
    """

    def __init__(self, dims: Mapping[str, int], num_users: int, options: Options) -> None:
        super().__init__()
        self.options = options
        self.modalities = tuple(dims)
        self.users = nn.Embedding(num_users, options.embedding_dim)
        nn.init.normal_(self.users.weight, std=options.user_init_std)
        self.encoders = ModalityEncoders.linear(dims, options.embedding_dim)
        self.imputer = MeanImputer(self.modalities)
        self.register_buffer("trained_users", torch.zeros(num_users, dtype=torch.bool))

    trained_users: Tensor

    @property
    def uniform(self) -> Tensor:
        """The uniform environment, (1, M), in the model's precision."""
        size = len(self.modalities)
        return self.users.weight.new_full((1, size), 1 / size, requires_grad=False)

    def fit_preparation(self, features: ItemFeatures, observed: Tensor, rows: Tensor) -> None:
        """Learn what imputation needs from the observed training rows alone.

        Arguments:
            features: of all items, as stored.
            observed: (num_items, M) bool.
            rows: int64, the warm items.
        """
        some = features.rows(rows)
        if self.options.scale_before_impute:
            some = self._scaled(some)
        self.imputer.fit(some, observed[rows])
        self.imputer.to(self.users.weight.dtype)

    def prepare(self, features: Mapping[str, Tensor], observed: Tensor) -> dict[str, Tensor]:
        """Scale and impute rows of features (N, d), in the order that the options say."""
        features = {name: x.to(self.users.weight.dtype) for name, x in features.items()}
        if self.options.scale_before_impute:
            return self.imputer(self._scaled(features), observed)[0]  # type: ignore[no-any-return]
        return self._scaled(self.imputer(features, observed)[0])

    def _scaled(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Scale rows to unit length, but for those that are nearly 0 and would become noise."""
        if not self.options.scale_features:
            return dict(features)
        dtype = self.users.weight.dtype  # float16 rows overflow in their norms
        scaled = {}
        for name, x in features.items():
            norm = torch.linalg.vector_norm(x.to(dtype), dim=1, keepdim=True)
            scaled[name] = x.to(dtype) / torch.where(norm < self.options.norm_floor, 1.0, norm)
        return scaled

    def embed_items(self, features: Mapping[str, Tensor], observed: Tensor) -> Tensor:
        """Embed items for scoring (Eq. 18): the mean over imputed modalities, or over available ones.

        Arguments:
            features: modality -> (N, d), unscaled; what lies in unobserved rows is not read.
            observed: (N, M) bool.

        Returns:
            (N, D).
        """
        mask = observed if self.options.inference == "available_mean" else None
        return fuse(self.encoders(self.prepare(features, observed)), self.uniform, mask)[0]


class Batch(NamedTuple):
    """Triples of a user, an item they have and one they have not, over the batch's n distinct items.

    Attributes:
        users: (B,) user ids.
        items: (2 B,) positions among the distinct items: of the positives, then of the negatives.
        features: modality -> (n, d) prepared rows of the distinct items.
        observed: (n, M) bool.
    """

    users: Tensor
    items: Tensor
    features: dict[str, Tensor]
    observed: Tensor


class Terms(NamedTuple):
    """A batch's loss and its terms before their weights; all scalars."""

    loss: Tensor
    risk: Tensor
    penalty: Tensor
    alignment: Tensor
    regulariser: Tensor


def environments(num_modalities: int, options: Options) -> CyclicMixupEnvs | None:
    """Return MILK's environments, or None where the model has only the uniform one."""
    if options.model not in ("milk", "envs"):
        return None
    return CyclicMixupEnvs(num_modalities, options.alpha, num_draws=options.num_draws, min_weight=options.min_weight)


def batch_objective(model: Recommender, batch: Batch, weights: Tensor, options: Options) -> Terms:
    r"""Eq. 16 on a batch.

    .. math::
        \mathcal L = \mathbb E_e R_e + \beta \mathrm{Var}_e(R_e) + \lambda \mathcal L_{align} + \mathrm{regulariser}

    Scores are inner products, so environments are fused at the score: E environments cost hardly more than one.

    Arguments:
        weights: (E, M) fusion weights; the uniform row alone for a model without environments.
    """
    z = model.encoders(batch.features)
    u = model.users(batch.users)
    risks = bpr_risks(u, z, batch, weights, options)

    has_envs, aligns = options.model in ("milk", "envs"), options.model in ("milk", "align")
    zero = risks.new_zeros(())
    penalty = vrex_penalty(risks, correction=options.variance_correction) if has_envs else zero
    objective = invariant_objective(
        risks,
        penalty=penalty,
        penalty_weight=options.penalty_weight,
        risk_reduction=options.risk_reduction,
    )
    alignment = _alignment(z, batch, options) if aligns else zero
    regulariser = _regulariser(model, u, z, batch, options)
    loss = objective + options.alignment_weight * alignment + options.regulariser_weight * regulariser
    return Terms(loss, risks.mean(), penalty, alignment, regulariser)


def bpr_risks(u: Tensor, z: Tensor, batch: Batch, weights: Tensor, options: Options) -> Tensor:
    r"""Eq. 15 in every environment, averaged over the batch's triples.

    .. math::
        R_e = \frac{1}{B} \sum_{(i, j, j')} -\ln \sigma(\hat y^e_{ij} - \hat y^e_{ij'}),
        \qquad \hat y^e_{ij} = \sum_m w_{em} \langle u_i, c_{jm} \rangle

    Arguments:
        u: (B, D) users; z: (n, M, D) distinct items; weights: (E, M).

    Returns:
        (E,).
    """
    # An embedding's backward beats that of indexing, and unbind's that of c[0] and c[1].
    c_positive, c_negative = F.embedding(batch.items, z.flatten(1)).view(2, len(u), *z.shape[1:]).unbind(0)
    if options.training_fusion == "imputed":
        margins = fuse(_scores(c_positive - c_negative, u), weights)
    else:
        observed = batch.observed[batch.items].view(2, len(u), -1)
        better = fuse(_scores(c_positive, u), weights, observed[0])
        worse = fuse(_scores(c_negative, u), weights, observed[1])
        margins = better - worse
    return F.softplus(-margins).mean(dim=1)


def _scores(c: Tensor, u: Tensor) -> Tensor:
    """Score every modality: inner products of c (B, M, D) and u (B, D), in float32 or wider."""
    scores = (c * u[:, None, :]).sum(dim=2)
    return scores.to(torch.promote_types(scores.dtype, torch.float32))


def _alignment(z: Tensor, batch: Batch, options: Options) -> Tensor:
    """Eq. 6 over the distinct positive items, between observed modalities."""
    positive = torch.zeros(len(z), dtype=torch.bool, device=z.device)
    positive[batch.items[: len(batch.users)]] = True
    mask = batch.observed & positive[:, None]
    if options.alignment_mask == "complete":
        mask = mask & mask.all(dim=1, keepdim=True)
    if options.alignment_reduction == "item_mean":  # over the positive items, not all rows of z
        return pairwise_alignment_loss(z, mask, reduction="sum") / positive.sum()
    return pairwise_alignment_loss(z, mask, reduction=options.alignment_reduction)


def _regulariser(model: Recommender, u: Tensor, z: Tensor, batch: Batch, options: Options) -> Tensor:
    """Squared norms of the batch's users and uniformly fused items, averaged over triples; or of all parameters."""
    if options.regulariser == "batch":
        mask = batch.observed if options.training_fusion == "available" else None
        squares = fuse(z, model.uniform, mask)[0].square().sum(dim=1)
        copies = torch.bincount(batch.items, minlength=len(z))
        return (u.square().sum() + (copies * squares).sum()) / len(batch.users)
    if options.regulariser == "parameters":
        return torch.stack([p.square().sum() for p in model.parameters()]).sum()
    return u.new_zeros(())
