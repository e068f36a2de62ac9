"""MILK: users and encoded items, and the objective of Eq. 16, composed from the parts of invmod."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from invmod import (
    CyclicMixupEnvs,
    DirichletEnvs,
    FixedEnvs,
    MeanImputer,
    ModalityEncoders,
    fuse,
    invariant_objective,
    pairwise_alignment_loss,
    vrex_penalty,
)
from milk_recsys.base.device import choose_device
from milk_recsys.catalogue.features import ItemFeatures
from milk_recsys.catalogue.preparation import leading_directions, scale_rows
from milk_recsys.config.options import Options

if TYPE_CHECKING:
    from milk_recsys.methods.milk.sharded_users import ShardedUsers

__all__ = [
    "Batch",
    "Recommender",
    "Terms",
    "alignment_pairs",
    "batch_sums",
    "bpr_losses",
    "environments",
    "objective",
    "scores",
]


class Recommender(nn.Module):
    """User embeddings and one linear encoder per modality; a score is an inner product (Eq. 5, 13).

    Arguments:
        dims: modality -> width of its features, in the order of the mask's columns.
        num_users: how many users there are.
        options: widths, scaling, imputation and inference.
        sharded: whether this rank shall hold its own rows of users only; needs a process group.

    Attributes:
        users: the table, or this rank's rows of it, from user `first_user` on.
    """

    def __init__(self, dims: Mapping[str, int], num_users: int, options: Options, *, sharded: bool = False) -> None:
        super().__init__()
        self.options = options
        self.modalities = tuple(dims)
        self.first_user, self.shards = 0, None
        if sharded:
            self.users = self._shard_users(num_users, options)
        else:
            self.users = nn.Embedding(num_users, options.embedding_dim)
            nn.init.normal_(self.users.weight, std=options.user_init_std)
        most = options.compress or max(dims.values())
        self.encoders = ModalityEncoders.linear({name: min(d, most) for name, d in dims.items()}, options.embedding_dim)
        for index, d in enumerate(dims.values()):  # of modalities that are wider, the directions that are kept
            self.register_buffer(f"basis_{index}", torch.zeros(d, most) if d > most else None)
        self.imputer: Any = MeanImputer(self.modalities)
        self.register_buffer("trained_users", torch.zeros(num_users, dtype=torch.bool))

    trained_users: Tensor
    shards: ShardedUsers | None

    def _shard_users(self, num_users: int, options: Options) -> nn.Embedding:
        """Make a sharded table with the values of a whole one; return this rank's rows, in the same memory."""
        from milk_recsys.methods.milk.sharded_users import ShardedUsers, fill_rows

        fill_rows(torch.empty(0, options.embedding_dim), 0, num_users, std=1.0)  # what nn.Embedding would draw first
        shards = ShardedUsers(
            num_users,
            options.embedding_dim,
            lr=options.lr,
            init_std=options.user_init_std,
            device=choose_device(options.device),
        )
        self.shards, self.first_user = shards, shards.rows[0]
        return nn.Embedding(len(shards.local_weight), options.embedding_dim, _weight=shards.local_weight, _freeze=True)

    @property
    def uniform(self) -> Tensor:
        """The uniform environment, (1, M), in the model's precision."""
        size = len(self.modalities)
        return self.users.weight.new_full((1, size), 1 / size, requires_grad=False)

    def fit_preparation(self, features: ItemFeatures, observed: Tensor, rows: Tensor) -> None:
        """Learn what imputation needs from the observed training rows alone.

        Arguments:
            features: of all items, as stored; read some rows at a time.
            observed: (num_items, M) bool.
            rows: int64, the warm items.
        """
        imputer = MeanImputer(self.modalities)
        for some, block in features.blocks(rows):
            imputer.partial_fit(self.scaled(block) if self.options.scale_before_impute else block, observed[some])
        self.imputer = imputer.to(self.users.weight.dtype)
        for index, name in enumerate(self.modalities):
            basis: Tensor | None = getattr(self, f"basis_{index}")
            if basis is not None:
                gram = torch.zeros(len(basis), len(basis), dtype=torch.float64, device=basis.device)
                for some, block in features.blocks(rows):
                    x = self._filled(block, observed[some])[name].double()
                    gram += x.T @ x
                basis.copy_(leading_directions(gram, basis.shape[1]))

    def prepare(self, features: Mapping[str, Tensor], observed: Tensor) -> dict[str, Tensor]:
        """Scale and impute rows of features (N, d), in the order that the options say, and compress wide ones."""
        filled = self._filled(features, observed)
        bases = (getattr(self, f"basis_{index}") for index in range(len(self.modalities)))
        return {
            name: filled[name] if basis is None else filled[name] @ basis
            for name, basis in zip(self.modalities, bases, strict=True)
        }

    def _filled(self, features: Mapping[str, Tensor], observed: Tensor) -> dict[str, Tensor]:
        features = {name: x.to(self.users.weight.dtype) for name, x in features.items()}
        if self.options.scale_before_impute:
            return self.imputer(self.scaled(features), observed)[0]  # type: ignore[no-any-return]
        return self.scaled(self.imputer(features, observed)[0])

    def scaled(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Scale rows to unit length, but for those that are nearly 0 and would become noise."""
        if not self.options.scale_features:
            return dict(features)
        return scale_rows(features, self.options.norm_floor, self.users.weight.dtype)

    @torch.no_grad()
    def scorer(
        self, features: ItemFeatures, items: Tensor, mask: Tensor, *, most: int = 0
    ) -> Callable[[Tensor], Tensor]:
        """Return what scores items (C,) for users (u,): (u, C); the users' rows must be here.

        Arguments:
            mask: (num_items, M) bool, what may be used of the items.
            most: scores of up to so many users are given in memory that is used again at the next call.
        """
        vectors = torch.cat([self.embed_items(x, mask[some]) for some, x in features.blocks(items)])
        memory = vectors.new_empty(most, len(items))

        def score(users: Tensor) -> Tensor:
            rows = self.users.weight.index_select(0, users - self.first_user)
            return torch.mm(rows, vectors.T, out=memory[: len(users)] if len(users) <= most else None)

        return score

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
    """A part of a batch: b triples of a user, an item they have and one they have not, over rows of items.

    Rows are distinct items, so that each is encoded once (`gather_batch`), or one row for every place, which needs no
    look at the values (`gather_static`). Those of positive items come first.

    Attributes:
        positives: (b,) rows of the positives; negatives: (b,) rows of the negatives.
        features: modality -> (n, d) prepared features of the rows.
        observed: (n, M) bool.
        copies: (n,) how often each row is a positive or a negative.
        shares: (p,) how much each of the p rows of positive items weighs in the alignment: 1 for a distinct item,
            1 / c for one that has c rows. Over all rows and ranks the shares of an item sum to 1.
    """

    positives: Tensor
    negatives: Tensor
    features: dict[str, Tensor]
    observed: Tensor
    copies: Tensor
    shares: Tensor


class Terms(NamedTuple):
    """A batch's loss and its terms before their weights; all scalars."""

    loss: Tensor
    risk: Tensor
    penalty: Tensor
    alignment: Tensor
    regulariser: Tensor


def environments(num_modalities: int, options: Options) -> CyclicMixupEnvs | DirichletEnvs | FixedEnvs | None:
    """Return MILK's environments or a variant of them, or None where the model has only the uniform one."""
    if options.model not in ("milk", "envs"):
        return None
    alpha, draws, least = options.alpha, options.num_draws, options.min_weight
    if options.envs == "independent":  # a sample has draws x M rows, as many as with cyclic shifts
        return DirichletEnvs(num_modalities, alpha, num_draws=draws, min_weight=least)
    uniform = options.envs != "without_uniform"
    cyclic = CyclicMixupEnvs(num_modalities, alpha, num_draws=draws, min_weight=least, include_uniform=uniform)
    if options.envs == "fixed":
        return FixedEnvs(cyclic, generator=torch.Generator().manual_seed(options.seed))
    return cyclic


def batch_sums(model: Recommender, u: Tensor, batch: Batch, weights: Tensor, options: Options) -> Tensor:
    r"""Everything that the objective needs to know of a part of a batch, as sums that add up over parts and ranks.

    .. math::
        \Big( \sum_b \ell_{1b}, \dots, \sum_b \ell_{Eb}, \quad \sum_j \rho_j s_j, \quad \sum_j \rho_j p_j,
        \quad \sum_b \lVert u_b \rVert^2 + \lVert h_b \rVert^2 + \lVert h'_b \rVert^2 \Big)

    Scores are inner products, so environments are fused at the score: E environments cost hardly more than one.

    Arguments:
        u: (b, D) users of the triples.
        weights: (E, M) fusion weights; the uniform row alone for a model without environments.

    Returns:
        (E + 3,) in float32 or wider: losses (Eq. 15) by environment; of the alignment (Eq. 6), distances and what its
        reduction divides them by, which is 0 where it divides by nothing; squares of the regulariser.
    """
    z = model.encoders(batch.features)
    losses = bpr_losses(u, z, batch, weights, options)
    zero = losses.new_zeros(())
    distances, pairs = _alignment(z, batch, options) if options.model in ("milk", "align") else (zero, zero)
    squares = _squares(model, u, z, batch, options) if options.regulariser == "batch" else zero
    return torch.cat([losses, torch.stack([distances, pairs, squares]).to(losses.dtype)])


def objective(sums: Tensor, size: int, model: Recommender, options: Options) -> Terms:
    r"""Eq. 16 from the sums of a whole batch of `size` triples.

    .. math::
        \mathcal L = \mathbb E_e R_e + \beta \mathrm{Var}_e(R_e) + \lambda \mathcal L_{align} + \mathrm{regulariser}
    """
    risks, (distances, pairs, squares) = sums[:-3] / size, sums[-3:]
    zero = risks.new_zeros(())
    has_envs = options.model in ("milk", "envs")
    penalty = vrex_penalty(risks, correction=options.variance_correction) if has_envs else zero
    risk = invariant_objective(
        risks,
        penalty=penalty,
        penalty_weight=options.penalty_weight,
        risk_reduction=options.risk_reduction,
    )
    alignment = distances / torch.where(pairs > 0, pairs, 1.0)
    regulariser = squares / size
    if options.regulariser == "parameters":
        regulariser = torch.stack([p.square().sum() for p in model.parameters()]).sum()
    loss = risk + options.alignment_weight * alignment + options.regulariser_weight * regulariser
    return Terms(loss, risks.mean(), penalty, alignment, regulariser)


def bpr_losses(u: Tensor, z: Tensor, batch: Batch, weights: Tensor, options: Options) -> Tensor:
    r"""Eq. 15 in every environment, summed over the triples.

    .. math::
        \sum_b -\ln \sigma(\hat y^e_{ij} - \hat y^e_{ij'}),
        \qquad \hat y^e_{ij} = \sum_m w_{em} \langle u_i, c_{jm} \rangle

    Arguments:
        u: (b, D) users; z: (n, M, D) rows of items; weights: (E, M).

    Returns:
        (E,).
    """
    if options.training_fusion == "imputed":
        margins = fuse(scores(u, z, batch.positives, batch.negatives), weights)
    else:
        better = fuse(scores(u, z, batch.positives), weights, batch.observed[batch.positives])
        worse = fuse(scores(u, z, batch.negatives), weights, batch.observed[batch.negatives])
        margins = better - worse
    return F.softplus(-margins).sum(dim=1)


def scores(u: Tensor, z: Tensor, rows: Tensor, less: Tensor | None = None) -> Tensor:
    r"""Score items in every modality, less the scores of other items where they are given.

    .. math::
        s_{bm} = \langle u_b, c_{jm} - c_{j'm} \rangle

    Arguments:
        u: (b, D); z: (n, M, D); rows: (b,) rows of z; less: (b,).

    Returns:
        (b, M), in the precision of u, which is float32 under autocast.
    """
    return _Scores.apply(u, z.to(u.dtype), rows, less)  # type: ignore[no-any-return,no-untyped-call]


class _Scores(torch.autograd.Function):
    """The inner products, with a backward that adds up in place what falls on the same row of z."""

    @staticmethod
    def forward(ctx: Any, u: Tensor, z: Tensor, rows: Tensor, less: Tensor | None) -> Tensor:
        flat = z.flatten(1)
        if less is None:
            c = flat.index_select(0, rows)
        else:  # differences of two rows each, in one pass
            one = flat.new_ones(len(rows))
            signs = torch.stack([one, -one], dim=1)
            c = F.embedding_bag(torch.stack([rows, less], dim=1), flat, per_sample_weights=signs, mode="sum")
        c = c.view(len(rows), *z.shape[1:])
        ctx.save_for_backward(u, c, rows, less)
        ctx.num_rows = len(z)
        return (c * u[:, None, :]).sum(dim=2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, None, None]:
        u, c, rows, less = ctx.saved_tensors
        grad_u = (c * grad[:, :, None]).sum(dim=1)
        grad_c = (grad[:, :, None] * u[:, None, :]).flatten(1)
        grad_z = grad_c.new_zeros(ctx.num_rows, grad_c.shape[1]).index_add_(0, rows, grad_c)
        if less is not None:
            grad_z.index_add_(0, less, grad_c.neg_())  # faster than alpha=-1
        return grad_u, grad_z.view(ctx.num_rows, *c.shape[1:]), None, None


def alignment_pairs(batch: Batch, options: Options) -> tuple[Tensor, Tensor]:
    """Return what is aligned, the mask (p, M) of the rows of positive items, and what the reduction divides by."""
    mask = batch.observed[: len(batch.shares)]
    if options.alignment_mask == "complete":
        mask = mask & mask.all(dim=1, keepdim=True)
    match options.alignment_reduction:
        case "sum":
            return mask, batch.shares.new_zeros(())
        case "item_mean":
            return mask, batch.shares.sum()
    n = mask.sum(dim=1)
    pairs = (batch.shares * (n * (n - 1) / 2)).sum()
    return mask, pairs * options.embedding_dim if options.alignment_reduction == "element_mean" else pairs


def _alignment(z: Tensor, batch: Batch, options: Options) -> tuple[Tensor, Tensor]:
    """Eq. 6 over the positive items, between observed modalities: what is summed, and what divides it."""
    mask, pairs = alignment_pairs(batch, options)
    return pairwise_alignment_loss(z[: len(mask)], mask, weights=batch.shares, reduction="sum"), pairs


def _squares(model: Recommender, u: Tensor, z: Tensor, batch: Batch, options: Options) -> Tensor:
    """Squared norms of the users and of the uniformly fused items of all triples."""
    available = options.training_fusion == "available"
    h = fuse(z, model.uniform, batch.observed)[0] if available else z.mean(dim=1)
    return u.square().sum() + (batch.copies @ h.square()).sum()
