"""What closed forms share: content without imputation, and users as the items that they have.

    T (n, C): what each warm item says for each new one;   R (U, n): the training pairs
    s = R T;   smoothed s = K (K + lambda I)^-1 R T, K = R R', which is R Z with Z = (R'R + lambda I)^-1 R'R T

Nothing of a modality that is missing is read: means are over the warm items that have it, and rows without it are 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy import optimize  # type: ignore[import-untyped]
from torch import Tensor

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

MAX_DENSE_ROWS = 25_000  # rows of a system that is factorised: 2.5 GB in float32
MAX_SCORES = 2**32  # of what the warm items say for the new ones: 16 GB in float32
SAMPLED_ITEMS, ABSENT_WEIGHT = (
    400,
    0.2,
)  # warm items that weights are fitted on; what a pair that is not there counts


class ContentRows:
    """Content as closed forms read it: centred on the warm rows that have the modality, 0 where it is missing.

    Arguments:
        unit: scale the centred rows to length 1; else rows are scaled before they are centred, as the options say.

    Attributes:
        warm: of each modality (n, d_m).
    """

    def __init__(self, data: WarmData, *, unit: bool) -> None:
        self._modalities, self._unit, self._preparation = data.modalities, unit, data.preparation
        self.dtype = data.dtype
        self.means = [
            torch.where(known[:, None], x, 0.0).sum(dim=0) / known.sum().clamp(min=1)
            for x, known in zip(self._scaled(data.features).values(), data.observed.T, strict=True)
        ]
        self.warm = self(data.features, data.observed)

    def __call__(self, features: Mapping[str, Tensor], observed: Tensor) -> list[Tensor]:
        """Return the rows of each modality, (N, d_m)."""
        parts = zip(self._scaled(features).values(), self.means, observed.T, strict=True)
        return [centred(x, mean, known, unit=self._unit) for x, mean, known in parts]

    def _scaled(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        rows = {name: features[name].to(self.dtype) for name in self._modalities}
        return rows if self._unit else prepare_scale(rows, self._preparation, self.dtype)


def centred(x: Tensor, mean: Tensor, known: Tensor, *, unit: bool) -> Tensor:
    """Centre rows (N, d) and, as asked for, scale them to length 1; 0 where they are not known."""
    rows = F.normalize(x - mean, dim=1) if unit else x - mean
    return torch.where(known[:, None], rows, 0.0)


def patterns(observed: Tensor) -> Iterator[tuple[tuple[int, ...], Tensor]]:
    """Yield each pattern of modalities that occurs, as the places of those there, and its rows; not the empty one."""
    distinct, inverse = torch.unique(observed, dim=0, return_inverse=True)
    for number, pattern in enumerate(distinct):
        if pattern.any():
            yield tuple(pattern.nonzero()[:, 0].tolist()), (inverse == number).nonzero()[:, 0]


def interactions(data: WarmData, dtype: torch.dtype) -> Tensor:
    """Return R (U, n), sparse: 1 for a training pair."""
    users, items = data.pairs
    size, ones = (
        (data.num_users, data.num_items),
        torch.ones(data.num_pairs, dtype=dtype, device=data.device),
    )
    cells = torch.stack([users, items])
    return torch.sparse_coo_tensor(cells, ones, size, check_invariants=False, is_coalesced=True)


# --- neighbours -----------------------------------------------------------------------------------


def similar(warm: Tensor, rows: Tensor, k: int) -> Tensor:
    """Return max(cos, 0) of unit rows (n, d) and (C, d) as (n, C): the k largest of a column, or all where k is 0."""
    return _keep_largest((warm @ rows.T).clamp_(min=0), k)


def similar_to_others(warm: Tensor, sampled: Tensor, k: int) -> Tensor:
    """Return `similar` of unit rows (n, d) and those at the places `few`, none of them its own neighbour."""
    cosines = (warm @ warm[sampled].T).clamp_(min=0)
    cosines[sampled, torch.arange(len(sampled), device=sampled.device)] = 0
    return _keep_largest(cosines, k)


def _keep_largest(cells: Tensor, k: int) -> Tensor:
    """Keep the k largest of each column, the others 0; all where k is 0."""
    if k == 0 or k >= len(cells):
        return cells
    values, places = cells.topk(k, dim=0)
    return torch.zeros_like(cells).scatter_(0, places, values)


class NeighbourScores:
    """T = sum_m mu_m G_m / sum_m mu_m a_m (n, C): what each warm item says for a new one, as near as its content is.

    Where a new item has only modalities with mu = 0, they count alike.

    Arguments:
        k: neighbours of each new item and modality; 0: all warm items.

    Attributes:
        weights: mu (M,), see `modality_weights`.
    """

    def __init__(self, data: WarmData, k: int, seed: int) -> None:
        self.rows, self._k = ContentRows(data, unit=True), k
        with seeded(seed, device=data.device) as generator:
            self.weights = modality_weights(data, self.rows, k, generator)

    def __call__(self, features: Mapping[str, Tensor], observed: Tensor) -> Tensor:
        """Return (n, C); 0 for an item without any modality."""
        check_cells(len(self.rows.warm[0]), len(observed))
        known = observed.to(self.weights.dtype)
        shares = known * self.weights
        shares = torch.where(shares.any(dim=1, keepdim=True), shares, known)
        shares = shares / shares.sum(dim=1, keepdim=True).clamp(min=torch.finfo(shares.dtype).tiny)
        total = shares.new_zeros(len(self.rows.warm[0]), len(observed))
        for share, warm, new in zip(
            shares.T, self.rows.warm, self.rows(features, observed), strict=True
        ):
            total += similar(warm, new, self._k).mul_(share)
        return total


def modality_weights(
    data: WarmData, rows: ContentRows, k: int, generator: torch.Generator
) -> Tensor:
    """Fit mu >= 0: what each modality's neighbours say of a warm item's own pairs.

    min over mu of sum_j sum_u w_uj (R_uj - sum_m mu_m (R G_m)_uj)^2, w 1 on pairs and .2 elsewhere, over sampled warm
    items j, none of them its own neighbour. Equal weights where nothing says anything.
    """
    sampled = torch.randperm(data.num_items, generator=generator)[:SAMPLED_ITEMS].to(data.device)
    pairs = interactions(data, rows.dtype)
    target = pairs.index_select(1, sampled).to_dense()
    predicted = [torch.sparse.mm(pairs, similar_to_others(x, sampled, k)) for x in rows.warm]
    root = torch.where(target > 0, target, ABSENT_WEIGHT**0.5)
    columns = torch.stack([(root * s).flatten() for s in predicted]).double()
    solution = nnls(
        (columns @ columns.T).cpu().numpy(),
        (columns @ (root * target).flatten().double()).cpu().numpy(),
    )
    weights = torch.from_numpy(solution).to(target)
    return weights if weights.any() else torch.ones_like(weights)


def nnls(
    products: npt.NDArray[np.float64], right: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """Minimise x'Px - 2 r'x over x >= 0, P = A'A and r = A'b of a tall A that is not held."""
    values, vectors = np.linalg.eigh(products)
    nonzero = values > max(values[-1], 0) * 1e-12
    root = np.sqrt(values[nonzero])
    if not nonzero.any():
        return np.zeros(len(right))
    return np.asarray(
        optimize.nnls(
            root[:, None] * vectors[:, nonzero].T, (vectors[:, nonzero].T @ right) / root
        )[0]
    )


# --- users ----------------------------------------------------------------------------------------


def user_profile_scorer(data: WarmData, z: Tensor) -> ScoreBlock:
    """Return what scores (u, C): the sum of the rows (n, C) of the items that a user has."""

    def score(users: Tensor) -> Tensor:
        places, starts = ragged_ranges(data.rows.offsets, users)
        return F.embedding_bag(data.rows.pairs_at(places)[1], z, starts, mode="sum")

    return score


def check_cells(num_warm: int, num_new: int) -> None:
    """Refuse more new items at once than fit beside the warm ones.

    Raises:
        DataError: what the warm items say for the new ones would not fit.
    """
    if num_warm * num_new > MAX_SCORES:
        raise DataError(
            f"{num_warm:,} training items times {num_new:,} new ones are too many for a closed form. Score at most "
            f"{MAX_SCORES // num_warm:,} new items at once, or train a model with vectors (--model milk)."
        )


class Smoother:
    """T -> Z with R Z = K (K + lambda I)^-1 R T, K = R R': what users with items in common say, by kernel ridge.

    One Cholesky factorisation on the smaller side, of users or of warm items. Where that has more than `DENSE` rows,
    conjugate gradients on the sparse matrix, all columns at once, to a relative residual of 1e-5.
    """

    def __init__(self, pairs: Tensor, strength: float) -> None:
        self._pairs, self._pairs_t, self._strength = pairs, pairs.t().coalesce(), strength
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
        """Smooth (n, C)."""
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
    """Solve A x = b (n, C) for a positive definite A that is given as what it makes of (n, C); each column by itself.

    Raises:
        DataError: no convergence.
    """
    x, residual, direction = torch.zeros_like(b), b, b
    squares = b.square().sum(dim=0)
    threshold = squares * tol**2
    for _ in range(max_iterations):
        if bool((squares <= threshold).all()):
            return x
        product = apply(direction)
        step = torch.where(squares > threshold, squares / (direction * product).sum(dim=0), 0.0)
        x, residual = x + step * direction, residual - step * product
        previous, squares = squares, residual.square().sum(dim=0)
        direction = (
            residual + torch.where(previous > threshold, squares / previous, 0.0) * direction
        )
    raise DataError(
        f"conjugate gradients did not converge in {max_iterations} steps. Raise --smoothing."
    )
