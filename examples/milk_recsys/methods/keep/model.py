"""KEEP: kernel ridge regression of item vectors on content, one for each pattern of modalities.

The method is our own. It is fitted in closed form and imputes nothing.

1. Vectors of users and warm items, from a singular value decomposition:

       X = D_u^-b R D_i^-b = A S B',     users A,     warm items E = B S^3 / (S^2 + lambda I)

   where R (U, n) are the training pairs, D_u and D_i the numbers of pairs of users and items, b the
   popularity exponent and lambda the shrinkage. A E' is X smoothed by kernel ridge regression over
   users: K (K + lambda I)^-1 X with K = X X'.

2. Kernel between a new item c and a warm item i, for a pattern p of modalities:

       k_p(c, i) = sum_(m in p) mu_m exp(gamma (cos(x_cm, x_im) - 1)) a_cm a_im
       sum_(m in p) mu_m = 1

   where x_cm is the feature vector of modality m of item c, centred on the mean of the warm items
   that have it, a_cm is 1 if c has m and else 0, and gamma is the width. The weights mu >= 0 are
   fitted by least squares, to predict a warm item's vector from those of its nearest neighbours in
   modality m.

3. Vector of a new item c with pattern p, and its score for user u:

       v_c = k_p(c, W) (k_p(W, W) + l I)^-1 E,     s_uc = <A_u, v_c>

   where W are the warm items and l is the ridge penalty.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from milk_recsys.base.checkpoint import save_state
from milk_recsys.base.distributed import SINGLE_PROCESS, World
from milk_recsys.base.errors import DataError
from milk_recsys.base.linear_algebra import leading_singular_vectors
from milk_recsys.base.random_state import seeded
from milk_recsys.catalogue.tables import Tables
from milk_recsys.config.options import Options
from milk_recsys.methods.closed_form import (
    MAX_SCORES,
    ContentRows,
    centred,
    interactions,
    nnls,
    patterns,
    similar_to_others,
)
from milk_recsys.methods.contract import ScoreBlock
from milk_recsys.methods.factors import Factors
from milk_recsys.methods.keep import KeepOptions
from milk_recsys.methods.learner import ClosedFormLearner
from milk_recsys.methods.warm import WarmData

__all__ = ["Keep", "KeepLearner", "KeepModel", "keep_learner", "scoring_model"]

# Up to this many warm items, all are landmarks: a factorisation of the whole kernel then costs no
# more than a projection on fewer landmarks.
MAX_DIRECT_ITEMS = 10_000
SAMPLED, NEIGHBOURS = 1000, 20  # Warm items on which mu is fitted; nearest neighbours of each.
BLOCK = 4096  # Number of kernel rows that are computed at once.
CACHED_PATTERNS = 8  # Number of patterns whose regression stays in memory.
JITTER = 1e-3  # Added to the diagonal of the kernel between landmarks, so that it is definite.
STATE_NAMES = ("trained_users", "items", "observed", "sampled", "landmarks")
LEADING = 50  # Number of squared singular values whose mean is the unit of the shrinkage.


class Keep:
    """KEEP fitted on the training pairs.

    Raises:
        DataError: the vectors of users and items would not fit in memory.
    """

    def __init__(self, data: WarmData, options: KeepOptions, seed: int) -> None:
        own, rows = options, ContentRows(data, unit=True)
        rank = min(own.rank, data.num_users, data.num_items)
        if rank * (data.num_users + data.num_items) > MAX_SCORES:
            raise DataError(
                f"{data.num_users:,} users and {data.num_items:,} training items are too many for "
                f"{rank} singular vectors each. Choose --rank "
                f"{MAX_SCORES // (data.num_users + data.num_items)} or less."
            )
        pairs = interactions(data, rows.dtype)
        with seeded(seed, device=data.device) as generator:
            users, items = vectors(pairs, rank, own.popularity, own.shrinkage)
            order = torch.randperm(data.num_items, generator=generator).to(data.device)
        state = {
            "users.weight": users,
            "trained_users": data.rows.has_pairs,
            "items": items,
            "observed": data.mask,
            "sampled": order[:SAMPLED],
            "landmarks": order[
                : own.landmarks if data.num_items > MAX_DIRECT_ITEMS else MAX_DIRECT_ITEMS
            ]
            .sort()
            .values,
        }
        state |= {f"mean_{m}": mean for m, mean in enumerate(rows.means)}
        state |= {f"warm_{m}": x for m, x in enumerate(rows.warm)}
        self.net = KeepModel(data.modalities, own, state)

    def scorer(self, features: Mapping[str, Tensor], mask: Tensor) -> ScoreBlock:
        """Return a function from users to their scores of new items, <A_u, v_c>."""
        v = self.net.embed_items(features, mask)
        return lambda users: self.net.users(users) @ v.T


def vectors(pairs: Tensor, rank: int, popularity: float, shrinkage: float) -> tuple[Tensor, Tensor]:
    """Return the vectors A (U, r) of users and E (n, r) of items from the sparse pairs R (U, n)."""
    # For each pair, the number of pairs of its user and of its item, to the power -b.
    scales = [torch.bincount(at)[at].to(pairs.dtype) ** -popularity for at in pairs.indices()]
    x = torch.sparse_coo_tensor(
        pairs.indices(),
        scales[0] * scales[1],
        pairs.shape,
        is_coalesced=True,
        check_invariants=False,
    )
    a, s, b = leading_singular_vectors(x, rank)
    # Rows of users without pairs are 0 up to rounding; make them exactly 0.
    a[torch.bincount(pairs.indices()[0], minlength=len(a)) == 0] = 0
    squares = s.square()
    shrunk = squares + shrinkage * squares[:LEADING].mean()
    return a, b * (s * squares / shrunk.clamp(min=torch.finfo(s.dtype).tiny))


class KeepModel(nn.Module):
    """The fitted KEEP, which embeds new items of any pattern without the training pairs.

    Arguments:
        modalities: the M names.
        own: the method's options.
        state: tensors as in `state_dict`: ``users.weight`` (U, r), ``trained_users`` (U,) bool,
            ``items`` (n, r) the vectors E, ``observed`` (n, M) bool, ``sampled`` and ``landmarks``
            (positions of warm items), and for modality number m ``mean_m`` (d_m,) and ``warm_m``
            (n, d_m), the warm items' centred rows of length 1.

    Raises:
        KeyError: the state lacks a tensor, or has one too many.
    """

    users: nn.Embedding
    trained_users: Tensor
    items: Tensor
    observed: Tensor
    sampled: Tensor
    landmarks: Tensor

    def __init__(self, modalities: Sequence[str], own: Any, state: Mapping[str, Tensor]) -> None:
        super().__init__()
        of_modalities = {f"{part}_{m}" for part in ("mean", "warm") for m in range(len(modalities))}
        mismatch = sorted(set(state) ^ {"users.weight", *STATE_NAMES, *of_modalities})
        if mismatch:
            raise KeyError(f"KeepModel: `state` lacks, or should not have, {', '.join(mismatch)}.")
        self.modalities, self._own = tuple(modalities), own
        self.users = nn.Embedding.from_pretrained(state["users.weight"])
        for name, x in state.items():
            if name != "users.weight":
                self.register_buffer(name, x)
        # Pattern -> the weights and the coefficients that `solve` returned.
        self._maps: dict[tuple[int, ...], tuple[Tensor, Tensor]] = {}

    def _apply(self, fn: Any, recurse: bool = True) -> KeepModel:
        self._maps.clear()  # `fn` may change the precision or the device.
        return super()._apply(fn, recurse)

    def load_state_dict(
        self, state_dict: Mapping[str, Tensor], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load a state; see `torch.nn.Module.load_state_dict`.

        Cached regressions remain valid if the state equals the present one.
        """
        present = self.state_dict()
        if any(
            not torch.equal(x.to(present[name]), present[name])
            for name, x in state_dict.items()
            if name in present
        ):
            self._maps.clear()
        return super().load_state_dict(state_dict, strict, assign)

    @property
    def warm(self) -> list[Tensor]:
        """Centred rows (n, d_m) of the warm items, one tensor per modality."""
        return [self.get_buffer(f"warm_{m}") for m in range(len(self.modalities))]

    def rows(self, features: Mapping[str, Tensor], mask: Tensor) -> list[Tensor]:
        """Return the new items' centred rows (N, d_m), one tensor per modality.

        They have length 1, or are 0 where the modality is missing.
        """
        rows = []
        for m, name in enumerate(self.modalities):
            mean = self.get_buffer(f"mean_{m}")
            x = features.get(name)
            x = mean.expand(len(mask), -1) if x is None else x.to(mean.dtype)
            rows.append(centred(x, mean, mask[:, m], unit=True))
        return rows

    # --- content ----------------------------------------------------------------------------------

    def weights(self, pattern: tuple[int, ...]) -> Tensor:
        """Return the weights mu of a pattern's modalities, non-negative and with sum 1.

        They are fitted on sampled warm items that have all of these modalities (on all sampled
        items if none has), by least squares: a weighted sum over modalities of the vectors of the
        nearest neighbours has to predict the item's own vector.
        """
        e, warm = self.items, self.warm
        if not self._own.fit_weights:
            return e.new_full((len(pattern),), 1 / len(pattern))
        # The normal equations of the least squares problem, added up over blocks of items.
        products = torch.zeros(len(pattern), len(pattern)).double()
        right = torch.zeros(len(pattern)).double()
        complete = self.observed[self.sampled][:, list(pattern)].all(dim=1)
        for block in (self.sampled[complete] if complete.any() else self.sampled).split(100):
            predicted = [
                (similar_to_others(warm[m], block, NEIGHBOURS).T @ e).flatten() for m in pattern
            ]
            columns, target = torch.stack(predicted).double(), e[block].flatten().double()
            products += (columns @ columns.T).cpu()
            right += (columns @ target).cpu()
        weights = torch.from_numpy(nnls(products.numpy(), right.numpy()))
        return (
            weights / weights.sum() if weights.any() else torch.full_like(weights, 1 / len(weights))
        ).to(e)

    def kernel(
        self, pattern: tuple[int, ...], weights: Tensor, rows: Sequence[Tensor], mask: Tensor
    ) -> Tensor:
        """Return the kernel k_p between items and the landmarks, (N, L).

        Arguments:
            rows: the items' centred rows (N, d_m), one tensor per modality.
            mask: (N, M) bool.
        """
        total = torch.zeros(
            len(mask), len(self.landmarks), dtype=self.items.dtype, device=mask.device
        )
        for m, weight in zip(pattern, weights.tolist(), strict=True):
            if weight:
                # Rows have length 1, so that their inner products are cosines.
                k = rows[m] @ self.warm[m][self.landmarks].T
                k.sub_(1).mul_(self._own.width).exp_().mul_(mask[:, m, None]).mul_(
                    self.observed[self.landmarks, m]
                )
                total.add_(k, alpha=weight)
        return total

    def warm_kernel(self, pattern: tuple[int, ...], weights: Tensor, positions: Tensor) -> Tensor:
        """Return the kernel k_p between warm items at `positions` (N,) and landmarks, (N, L)."""
        rows = [x[positions] for x in self.warm]
        return self.kernel(pattern, weights, rows, self.observed[positions])

    def solve(self, pattern: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Fit the regression of a pattern, or return it from the cache.

        Returns:
            the weights mu, and the coefficients (L, r) by which the kernel with the landmarks is
            multiplied to give item vectors.
        """
        if pattern not in self._maps:
            weights = self.weights(pattern)
            k = self.warm_kernel(pattern, weights, self.landmarks)
            if len(k) < len(self.items):
                coefficients = self.solve_projected(pattern, weights, k)
            else:
                k.diagonal().add_(self._own.ridge)
                coefficients = torch.cholesky_solve(self.items, torch.linalg.cholesky(k))
            if len(self._maps) == CACHED_PATTERNS:
                self._maps.pop(next(iter(self._maps)))
            self._maps[pattern] = weights, coefficients
        return self._maps[pattern]

    def solve_projected(self, pattern: tuple[int, ...], weights: Tensor, k: Tensor) -> Tensor:
        """Return the coefficients (L, r) of the regression with the projected kernel.

        It is ridge regression on the L features k_p(i, landmarks) C'^-1 of each warm item i, where
        k = C C' (Cholesky) is the kernel (L, L) between landmarks. Inner products of these features
        are the projected kernel (the Nystroem approximation).
        """
        k.diagonal().add_(JITTER)
        root, e = torch.linalg.cholesky(k), self.items
        system = self._own.ridge * torch.eye(len(root), dtype=e.dtype, device=e.device)
        right = torch.zeros(len(root), e.shape[1], dtype=e.dtype, device=e.device)
        # Add up the normal equations over blocks, so that the (n, L) features are
        # never held at once.
        for block in torch.arange(len(e), device=e.device).split(BLOCK):
            features = torch.linalg.solve_triangular(
                root, self.warm_kernel(pattern, weights, block).T, upper=False
            )
            system.addmm_(features, features.T)
            right.addmm_(features, e[block])
        # C'^-1 turns coefficients of the features into coefficients of the kernel.
        coefficients = torch.cholesky_solve(right, torch.linalg.cholesky(system))
        return torch.linalg.solve_triangular(root.T, coefficients, upper=True)

    def embed_items(self, features: Mapping[str, Tensor], mask: Tensor) -> Tensor:
        """Return the vectors (N, r) of new items, each from the regression of its pattern.

        The vector of an item without any modality is 0.
        """
        rows = self.rows(features, mask)
        vectors = self.items.new_zeros(len(mask), self.items.shape[1])
        for pattern, items in patterns(mask):
            used = pattern if self._own.per_pattern else tuple(range(len(self.modalities)))
            weights, coefficients = self.solve(used)
            for block in items.split(BLOCK):
                k = self.kernel(used, weights, [x[block] for x in rows], mask[block])
                vectors[block] = k @ coefficients
        return vectors


class KeepLearner(ClosedFormLearner):
    """The learner of KEEP, whose file contains the fitted model and can score without the pairs."""

    def save(self, path: Path, facts: dict[str, Any], *, weights_only: bool = False) -> None:  # noqa: ARG002
        """Write the fitted model."""
        save_state(path, self._ready().net.state_dict(), facts)

    def load(self, path: Path, *, weights_only: bool = False) -> dict[str, Any]:  # noqa: ARG002
        """Load a file that `save` wrote, and return its facts."""
        return self._restore(path, lambda state: self._ready().net.load_state_dict(state))


def keep_learner(
    options: Options, tables: Tables, world: World = SINGLE_PROCESS, factors: Factors | None = None
) -> KeepLearner:
    """Build the learner of KEEP, which is fitted in one process and needs no frozen vectors."""
    del world, factors
    return KeepLearner(WarmData.of_tables(tables, options), options)


def scoring_model(
    options: Options, dims: Mapping[str, int], num_users: int, tensors: Mapping[str, Tensor]
) -> KeepModel:
    """Build the model of a finished run from its tensors.

    Raises:
        KeyError: a tensor is absent, or there is one too many.
        RuntimeError: the numbers of users or the widths differ from those of the data.
    """
    model = KeepModel(list(dims), options.method, tensors)
    widths = {name: len(model.get_buffer(f"mean_{m}")) for m, name in enumerate(dims)}
    if (model.users.num_embeddings, widths) != (num_users, dict(dims)):
        raise RuntimeError(f"{model.users.num_embeddings} users and widths {widths}")
    return model
