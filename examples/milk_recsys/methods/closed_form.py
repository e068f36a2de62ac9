"""Parts shared by the methods that are fitted in closed form.

A closed form scores new items with a matrix T of similarities, and represents a user by the warm
items that the user has:

    s = R T                                      without smoothing
    s = K (K + lambda I)^-1 R T = R Z            with smoothing, K = R R',
                                                 Z = (R'R + lambda I)^-1 R'R T

where R (U, n) is the 0/1 matrix of training pairs, T (n, C) has a column per new item, s (U, C) are
the scores, K is a linear kernel over users, and lambda is the strength of the smoothing. The two
sides of the last line agree because (R R' + lambda I)^-1 R = R (R'R + lambda I)^-1, so the system
is solved on the smaller of its two sides.

Nothing is imputed. Means are over the warm items that have the modality, and the row of an item
that lacks it is 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from invmod.missingness import rows_by_pattern
from invmod.regression.least_squares import non_negative_least_squares
from milk_recsys.base.errors import DataError
from milk_recsys.base.random_state import seeded
from milk_recsys.catalogue.preparation import prepare_scale
from milk_recsys.methods.contract import ScoreBlock
from milk_recsys.methods.graphs import ragged_ranges, sparse_product
from milk_recsys.methods.warm import WarmData

__all__ = [
    "ContentRows",
    "NeighbourScores",
    "Smoother",
    "centred",
    "check_cells",
    "interactions",
    "modality_weights",
    "patterns",
    "similar",
    "similar_to_others",
    "user_profile_scorer",
]

# A system with more rows is solved by conjugate gradients: its factor would take 2.5 GB in float32.
MAX_DENSE_ROWS = 25_000
# Largest number of entries of T: 16 GB in float32.
MAX_SCORES = 2**32
# Modality weights are fitted on this many sampled warm items, which is enough for a few unknowns.
SAMPLED_ITEMS = 400
# Weight of a user-item cell without a training pair in that fit; a cell with a pair has weight 1.
ABSENT_WEIGHT = 0.2


class ContentRows:
    """Content rows for closed forms: centred, and 0 where an item lacks the modality.

    The mean of a modality is taken over the warm items that have it.

    Arguments:
        data: the warm items.
        unit: True: scale the centred rows to length 1. False: scale the rows before centring, by
            the preparation options of the data.

    Attributes:
        means: mean row of each modality, (d_m,).
        warm: rows of the warm items, one tensor (n, d_m) per modality.
    """

    def __init__(self, data: WarmData, *, unit: bool) -> None:
        self._modalities, self._unit, self._preparation = data.modalities, unit, data.preparation
        self.dtype = data.dtype
        self.means = [
            torch.where(known[:, None], x, 0.0).sum(dim=0) / known.sum().clamp(min=1)
            for x, known in zip(self._scaled(data.features).values(), data.mask.T, strict=True)
        ]
        self.warm = self(data.features, data.mask)

    def __call__(self, features: Mapping[str, Tensor], mask: Tensor) -> list[Tensor]:
        """Return the rows of N items, one tensor (N, d_m) per modality."""
        parts = zip(self._scaled(features).values(), self.means, mask.T, strict=True)
        return [centred(x, mean, known, unit=self._unit) for x, mean, known in parts]

    def _scaled(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        rows = {name: features[name].to(self.dtype) for name in self._modalities}
        return rows if self._unit else prepare_scale(rows, self._preparation, self.dtype)


def centred(x: Tensor, mean: Tensor, known: Tensor, *, unit: bool) -> Tensor:
    """Centre rows (N, d), scale them to length 1 if `unit`, and zero rows that are not known."""
    rows = F.normalize(x - mean, dim=1) if unit else x - mean
    return torch.where(known[:, None], rows, 0.0)


def patterns(mask: Tensor) -> Iterator[tuple[tuple[int, ...], Tensor]]:
    """Yield each pattern of observed modalities with its rows, except the empty pattern.

    A pattern is a tuple of the column numbers of the modalities that its items have; the rows are
    the positions of these items in `mask` (N, M).
    """
    for pattern, rows in rows_by_pattern(mask).items():
        if any(pattern):
            yield tuple(m for m, available in enumerate(pattern) if available), rows


def interactions(data: WarmData, dtype: torch.dtype, users: slice = slice(None)) -> Tensor:
    """Return the sparse matrix R (U, n), 1 for each training pair.

    Arguments:
        users: consecutive users of `data.rows`, whose rows are returned.
    """
    start, end, _ = users.indices(len(data.rows.free))
    first, last = data.rows.offsets[start].item(), data.rows.offsets[end].item()
    rows, items = data.rows.pairs_at(torch.arange(first, last, device=data.device))
    size = (end - start, data.num_items)
    ones = torch.ones(len(items), dtype=dtype, device=data.device)
    indices = torch.stack([rows - start, items])
    # The pairs are unique and sorted by user, so the tensor is coalesced without another sort.
    return torch.sparse_coo_tensor(indices, ones, size, check_invariants=False, is_coalesced=True)


# --- neighbours -----------------------------------------------------------------------------------


def similar(warm: Tensor, rows: Tensor, k: int) -> Tensor:
    """Return the cosine similarities max(cos, 0) of unit rows (n, d) and (C, d), (n, C).

    Only the k largest values of each column are kept, the others are 0; k = 0 keeps all.
    """
    return _keep_largest((warm @ rows.T).clamp_(min=0), k)


def similar_to_others(warm: Tensor, sampled: Tensor, k: int) -> Tensor:
    """Return `similar` of unit rows (n, d) and their subset `sampled`, (n, len(sampled)).

    The similarity of a row with itself is set to 0, so that no row is its own neighbour.
    """
    cosines = (warm @ warm[sampled].T).clamp_(min=0)
    cosines[sampled, torch.arange(len(sampled), device=sampled.device)] = 0
    return _keep_largest(cosines, k)


def _keep_largest(similarities: Tensor, k: int) -> Tensor:
    """Set all values except the k largest of each column to 0; k = 0 keeps all."""
    if k == 0 or k >= len(similarities):
        return similarities
    values, rows = similarities.topk(k, dim=0)
    return torch.zeros_like(similarities).scatter_(0, rows, values)


class NeighbourScores:
    """Weighted mean over modalities of the similarities of warm and new items, (n, C).

        T = sum_m mu_m G_m / sum_m mu_m a_m

    where G_m (n, C) are the similarities in modality m (`similar`), a_m (C,) is 1 if the new item
    has the modality and 0 otherwise, and mu_m >= 0 are weights. If a new item has only modalities
    with mu_m = 0, these count equally.

    Arguments:
        data: the warm items.
        k: number of neighbours of each new item per modality; 0: all warm items.
        seed: seed of the sample of items that the weights are fitted on.

    Attributes:
        rows: the content rows.
        weights: mu (M,), see `modality_weights`.
    """

    def __init__(self, data: WarmData, k: int, seed: int) -> None:
        self.rows, self._k = ContentRows(data, unit=True), k
        with seeded(seed, device=data.device) as generator:
            self.weights = modality_weights(data, self.rows, k, generator)

    def __call__(self, features: Mapping[str, Tensor], mask: Tensor) -> Tensor:
        """Return T (n, C) of C new items; the column of an item without any modality is 0."""
        check_cells(len(self.rows.warm[0]), len(mask))
        known = mask.to(self.weights.dtype)
        shares = known * self.weights
        # A new item whose modalities all have weight 0 would divide by 0: weight them equally.
        shares = torch.where(shares.any(dim=1, keepdim=True), shares, known)
        # `tiny` keeps 0 / 0 from giving NaN for an item without any modality; its shares stay 0.
        shares = shares / shares.sum(dim=1, keepdim=True).clamp(min=torch.finfo(shares.dtype).tiny)
        total = shares.new_zeros(len(self.rows.warm[0]), len(mask))
        for share, warm, new in zip(
            shares.T, self.rows.warm, self.rows(features, mask), strict=True
        ):
            total += similar(warm, new, self._k).mul_(share)
        return total


def modality_weights(
    data: WarmData, rows: ContentRows, k: int, generator: torch.Generator
) -> Tensor:
    """Fit the non-negative weights mu (M,) of the modalities by least squares on warm items.

        min over mu >= 0 of  sum_j sum_u w_uj (R_uj - sum_m mu_m (R G_m)_uj)^2

    where j runs over sampled warm items, u over users, R is the matrix of training pairs, G_m are
    the similarities in modality m without those of an item with itself, and w_uj is 1 for a
    training pair and 0.2 otherwise. If all fitted weights are 0, the result is 1 for each modality.
    """
    sampled = torch.randperm(data.num_items, generator=generator)[:SAMPLED_ITEMS].to(data.device)
    pairs = interactions(data, rows.dtype)
    target = pairs.index_select(1, sampled).to_dense()
    # R G_m of the sampled items, (U, samples) for each modality: the score that a user would have
    # if only modality m counted.
    predicted = [torch.sparse.mm(pairs, similar_to_others(x, sampled, k)) for x in rows.warm]
    # Least squares with weights w is ordinary least squares after scaling both sides by sqrt(w).
    # Only the (M, M) normal equations leave the device; the tall system of all cells does not.
    root = torch.where(target > 0, target, ABSENT_WEIGHT**0.5)
    columns = torch.stack([(root * s).flatten() for s in predicted]).double()
    products, right = columns @ columns.T, columns @ (root * target).flatten().double()
    weights = non_negative_least_squares(products, right).to(target)
    return weights if weights.any() else torch.ones_like(weights)


# --- users ----------------------------------------------------------------------------------------


def user_profile_scorer(data: WarmData, z: Tensor) -> ScoreBlock:
    """Return a function from users (u,) to R Z (u, C).

    The score of a user is the sum of the rows of Z (n, C) over the warm items that the user has.
    """

    def score(users: Tensor) -> Tensor:
        # embedding_bag adds up the rows of Z of each user without a dense (u, n) matrix.
        positions, starts = ragged_ranges(data.rows.offsets, users)
        return F.embedding_bag(data.rows.pairs_at(positions)[1], z, starts, mode="sum")

    return score


def check_cells(num_warm: int, num_new: int) -> None:
    """Check that the matrix T (n, C) of warm and new items fits into memory.

    Raises:
        DataError: T would have more than `MAX_SCORES` entries.
    """
    if num_warm * num_new > MAX_SCORES:
        raise DataError(
            f"{num_warm:,} training items times {num_new:,} new items are too many for a closed "
            f"form. Score at most {MAX_SCORES // num_warm:,} new items at once, or train a model "
            f"with vectors (--model milk)."
        )


class Smoother:
    """Kernel ridge regression over users: maps T (n, C) to Z (n, C).

        R Z = K (K + lambda I)^-1 R T,   K = R R'

    where R (U, n) are the training pairs and lambda is the strength. Users with items in common get
    similar scores. The constructor computes one Cholesky factorisation, on the smaller side, of
    users or of warm items. If that side has more than `MAX_DENSE_ROWS` rows, each call uses
    conjugate gradients with sparse products instead, for all columns at once, to a relative
    residual of 1e-5.

    Arguments:
        pairs: R (U, n), sparse.
        strength: lambda, above 0.
    """

    def __init__(self, pairs: Tensor, strength: float) -> None:
        self._pairs, self._pairs_t, self._strength = pairs, pairs.t().coalesce(), strength
        # Factorise R'R + lambda I (n, n) if there are fewer
        # items than users, else R R' + lambda I (U, U).
        self._by_items = pairs.shape[1] <= pairs.shape[0]
        self._factor: Tensor | None = None
        if min(pairs.shape) <= MAX_DENSE_ROWS:
            left, right = (
                (self._pairs_t, self._pairs) if self._by_items else (self._pairs, self._pairs_t)
            )
            gram = sparse_product(left, right).to_dense()
            gram.diagonal().add_(strength)
            self._factor = torch.linalg.cholesky(gram)

    def __call__(self, t: Tensor) -> Tensor:
        """Return Z (n, C)."""
        # Z = (R'R + lambda I)^-1 R'R T = T - lambda (R'R + lambda I)^-1 T needs only a solve with
        # the shifted matrix; on the side of users, Z = R'(R R' + lambda I)^-1 R T.
        if self._factor is None:
            return t - self._strength * conjugate_gradients(self._shifted, t)
        if self._by_items:
            return t - self._strength * torch.cholesky_solve(t, self._factor)
        predicted = torch.sparse.mm(self._pairs, t)
        return torch.sparse.mm(self._pairs_t, torch.cholesky_solve(predicted, self._factor))

    def _shifted(self, t: Tensor) -> Tensor:
        return torch.sparse.mm(self._pairs_t, torch.sparse.mm(self._pairs, t)) + self._strength * t


def conjugate_gradients(
    apply: Callable[[Tensor], Tensor], b: Tensor, *, tol: float = 1e-5, max_iterations: int = 1000
) -> Tensor:
    """Solve A x = b (n, C) for a positive definite matrix A by conjugate gradients.

    Each column is a system of its own, with its own step sizes.

    Arguments:
        apply: function that returns A v (n, C) for v (n, C).
        b: (n, C).
        tol: relative residual |b - A x| / |b| at which a column has converged.
        max_iterations: number of iterations after which the solver fails.

    Raises:
        DataError: a column has not converged after `max_iterations` iterations.
    """
    # `squares` are the squared residuals of the columns, compared with tol^2 |b|^2.
    x, residual, direction = torch.zeros_like(b), b, b
    squares = b.square().sum(dim=0)
    threshold = squares * tol**2
    for _ in range(max_iterations):
        if bool((squares <= threshold).all()):
            return x
        product = apply(direction)
        # Converged columns take steps of 0, since their ratios could be 0 / 0.
        step = torch.where(squares > threshold, squares / (direction * product).sum(dim=0), 0.0)
        x, residual = x + step * direction, residual - step * product
        previous, squares = squares, residual.square().sum(dim=0)
        direction = (
            residual + torch.where(previous > threshold, squares / previous, 0.0) * direction
        )
    raise DataError(
        f"conjugate gradients did not converge in {max_iterations} iterations. Raise --smoothing."
    )
