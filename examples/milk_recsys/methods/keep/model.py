"""KEEP: kernel regression of items' vectors on content, one for each pattern of modalities. Ours; nothing is imputed.

    X = D_u^-b R D_i^-b = A S B', D the counts of users and items:   users A, warm items E = B S^3 / (S^2 + lambda I)
    k_p(c, i) = sum_(m in p) mu_m exp(gamma (cos(x_cm, x_im) - 1)) a_cm a_im,   sum_(m in p) mu_m = 1
    a new item c that has the modalities p:   v_c = k_p(c, W) (k_p(W, W) + l I)^-1 E;   s = <A_u, v_c>

Both sides are closed forms. A E' is X smoothed by kernel ridge over users, K (K + lambda I)^-1 X with K = X X'. Content
is mapped to E by kernel ridge (a Gaussian process) on rows centred on the observed warm ones. mu >= 0 by least squares,
so that the vectors of a warm item's neighbours give its own.
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

FEW = 10_000  # warm items that all are landmarks: a factorisation costs no more than the projection on fewer
SAMPLED, NEIGHBOURS = 1000, 20  # warm items that mu is fitted on, and how many speak for each
BLOCK = 4096  # rows of a kernel at once
MAPS = 8  # patterns that are held solved
JITTER = 1e-3  # on the diagonal of the kernel between landmarks
STATE_NAMES = ("trained_users", "items", "observed", "sampled", "landmarks")
ITERATIONS = 5  # of the subspace, where not all singular vectors are kept
LEADING = 50  # squared singular values whose mean is the unit of the shrinkage


class Keep:
    """KEEP fitted on the training pairs.

    Raises:
        DataError: the vectors of users and items would not fit.
    """

    def __init__(self, data: WarmData, options: KeepOptions, seed: int) -> None:
        own, rows = options, ContentRows(data, unit=True)
        rank = min(own.rank, data.num_users, data.num_items)
        if rank * (data.num_users + data.num_items) > MAX_SCORES:
            raise DataError(
                f"{data.num_users:,} users and {data.num_items:,} training items are too many for {rank} singular "
                f"vectors each. Choose --rank {MAX_SCORES // (data.num_users + data.num_items)} or less."
            )
        pairs = interactions(data, rows.dtype)
        with seeded(seed, device=data.device) as generator:
            users, items = vectors(pairs, rank, own.popularity, own.shrinkage)
            order = torch.randperm(data.num_items, generator=generator).to(data.device)
        state = {
            "users.weight": users,
            "trained_users": data.rows.offsets.diff() > 0,
            "items": items,
            "observed": data.observed,
            "sampled": order[:SAMPLED],
            "landmarks": order[: own.landmarks if data.num_items > FEW else FEW].sort().values,
        }
        state |= {f"mean_{m}": mean for m, mean in enumerate(rows.means)}
        state |= {f"warm_{m}": x for m, x in enumerate(rows.warm)}
        self.net = KeepModel(data.modalities, own, state)

    def scorer(self, features: Mapping[str, Tensor], observed: Tensor) -> ScoreBlock:
        """Return what scores new items: <A_u, v_c>."""
        v = self.net.embed_items(features, observed)
        return lambda users: self.net.users(users) @ v.T


def vectors(pairs: Tensor, rank: int, popularity: float, shrinkage: float) -> tuple[Tensor, Tensor]:
    """Return A (U, r) and E (n, r) of the sparse R (U, n)."""
    scales = [torch.bincount(at)[at].to(pairs.dtype) ** -popularity for at in pairs.indices()]
    x = torch.sparse_coo_tensor(
        pairs.indices(),
        scales[0] * scales[1],
        pairs.shape,
        is_coalesced=True,
        check_invariants=False,
    )
    a, s, b = leading(x, rank)
    a[torch.bincount(pairs.indices()[0], minlength=len(a)) == 0] = (
        0  # to the last digit, where it is rounding
    )
    squares = s.square()
    shrunk = squares + shrinkage * squares[:LEADING].mean()
    return a, b * (s * squares / shrunk.clamp(min=torch.finfo(s.dtype).tiny))


def leading(x: Tensor, rank: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return the leading singular vectors and values of a sparse x (U, n): (U, r), (r,) descending and (n, r).

    All of them are exact; fewer come from subspace iteration from a random start (Halko, Martinsson and Tropp, Finding
    structure with randomness, SIAM Review 2011).
    """
    if x.shape[0] > x.shape[1]:
        b, s, a = leading(x.T.coalesce(), rank)
        return a, s, b
    xt, y = x.T.coalesce(), torch.eye(rank, dtype=x.dtype, device=x.device)
    if rank < len(x):
        y = torch.randn(len(x), rank, dtype=x.dtype).to(x.device)
        for _ in range(ITERATIONS):
            y = torch.linalg.qr(x @ (xt @ y)).Q.contiguous()  # by rows, as sparse products like it
    z = xt @ y
    squares, turn = torch.linalg.eigh((z.T @ z).double())  # Rayleigh and Ritz; ascending
    s, turn = squares.clamp(min=0).sqrt().flip(0).to(x.dtype), turn.flip(1).to(x.dtype)
    return y @ turn, s, z @ turn / s.clamp(min=float(s[0]) * torch.finfo(s.dtype).eps)


class KeepModel(nn.Module):
    """What is left when KEEP is solved: it embeds new items with any pattern of modalities, without the training pairs.

    Arguments:
        modalities: the M names.
        own: the method's options.
        state: what `state_dict` of another one gave: ``users.weight`` (U, r), ``trained_users`` (U,), ``items`` (n, r),
            ``observed`` (n, M), ``sampled`` and ``landmarks`` (places of warm items), and of each modality its number's
            ``mean_`` (d_m,) and ``warm_`` (n, d_m), centred rows of length 1.

    Raises:
        KeyError: the state lacks one of these, or has another.
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
        odd = sorted(set(state) ^ {"users.weight", *STATE_NAMES, *of_modalities})
        if odd:
            raise KeyError(f"KeepModel: `state` lacks, or should not have, {', '.join(odd)}.")
        self.modalities, self._own = tuple(modalities), own
        self.users = nn.Embedding.from_pretrained(state["users.weight"])
        for name, x in state.items():
            if name != "users.weight":
                self.register_buffer(name, x)
        self._maps: dict[tuple[int, ...], tuple[Tensor, Tensor]] = {}

    def _apply(self, fn: Any, recurse: bool = True) -> KeepModel:
        self._maps.clear()  # they are of the precision and the device before
        return super()._apply(fn, recurse)

    def load_state_dict(
        self, state_dict: Mapping[str, Tensor], strict: bool = True, assign: bool = False
    ) -> Any:
        """Take back a state; what was solved from the same one stays solved. See `torch.nn.Module.load_state_dict`."""
        held = self.state_dict()
        if any(
            not torch.equal(x.to(held[name]), held[name])
            for name, x in state_dict.items()
            if name in held
        ):
            self._maps.clear()
        return super().load_state_dict(state_dict, strict, assign)

    @property
    def warm(self) -> list[Tensor]:
        """Of each modality (n, d_m)."""
        return [self.get_buffer(f"warm_{m}") for m in range(len(self.modalities))]

    def rows(self, features: Mapping[str, Tensor], observed: Tensor) -> list[Tensor]:
        """Return each modality's rows (N, d_m) of new items, centred and of length 1; 0 where it is missing."""
        found = []
        for m, name in enumerate(self.modalities):
            mean = self.get_buffer(f"mean_{m}")
            x = features.get(name)
            x = mean.expand(len(observed), -1) if x is None else x.to(mean.dtype)
            found.append(centred(x, mean, observed[:, m], unit=True))
        return found

    # --- content ------------------------------------------------------------------------------------------------------

    def weights(self, pattern: tuple[int, ...]) -> Tensor:
        """mu of a pattern's modalities, on items that have them all: what neighbours' vectors say of their own."""
        e, warm = self.items, self.warm
        if not self._own.fit_weights:
            return e.new_full((len(pattern),), 1 / len(pattern))
        products, right = (
            torch.zeros(len(pattern), len(pattern)).double(),
            torch.zeros(len(pattern)).double(),
        )
        whole = self.observed[self.sampled][:, list(pattern)].all(dim=1)
        for few in (self.sampled[whole] if whole.any() else self.sampled).split(100):
            predicted = [
                (similar_to_others(warm[m], few, NEIGHBOURS).T @ e).flatten() for m in pattern
            ]
            columns, target = torch.stack(predicted).double(), e[few].flatten().double()
            products += (columns @ columns.T).cpu()
            right += (columns @ target).cpu()
        weights = torch.from_numpy(nnls(products.numpy(), right.numpy()))
        return (
            weights / weights.sum() if weights.any() else torch.full_like(weights, 1 / len(weights))
        ).to(e)

    def kernel(
        self, pattern: tuple[int, ...], weights: Tensor, rows: Sequence[Tensor], known: Tensor
    ) -> Tensor:
        """k_p between rows, (N, d_m) of each modality, and the landmarks, (N, L)."""
        total = torch.zeros(
            len(known), len(self.landmarks), dtype=self.items.dtype, device=known.device
        )
        for m, weight in zip(pattern, weights.tolist(), strict=True):
            if weight:
                near = rows[m] @ self.warm[m][self.landmarks].T
                near.sub_(1).mul_(self._own.width).exp_().mul_(known[:, m, None]).mul_(
                    self.observed[self.landmarks, m]
                )
                total.add_(near, alpha=weight)
        return total

    def among(self, pattern: tuple[int, ...], weights: Tensor, places: Tensor) -> Tensor:
        """k_p between warm items and the landmarks."""
        return self.kernel(pattern, weights, [x[places] for x in self.warm], self.observed[places])

    def solved(self, pattern: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Return mu of a pattern, and what its kernel with the landmarks is multiplied by, (L, r)."""
        if pattern not in self._maps:
            weights = self.weights(pattern)
            k = self.among(pattern, weights, self.landmarks)
            if len(k) < len(self.items):
                found = self.projected(pattern, weights, k)
            else:
                k.diagonal().add_(self._own.ridge)
                found = torch.cholesky_solve(self.items, torch.linalg.cholesky(k))
            if len(self._maps) == MAPS:
                self._maps.pop(next(iter(self._maps)))
            self._maps[pattern] = weights, found
        return self._maps[pattern]

    def projected(self, pattern: tuple[int, ...], weights: Tensor, k: Tensor) -> Tensor:
        """Ridge on features k L'^-1, k = L L' of landmarks: their inner products are the kernel projected on these."""
        k.diagonal().add_(JITTER)
        root, e = torch.linalg.cholesky(k), self.items
        system = self._own.ridge * torch.eye(len(root), dtype=e.dtype, device=e.device)
        right = torch.zeros(len(root), e.shape[1], dtype=e.dtype, device=e.device)
        for places in torch.arange(len(e), device=e.device).split(BLOCK):
            features = torch.linalg.solve_triangular(
                root, self.among(pattern, weights, places).T, upper=False
            )
            system.addmm_(features, features.T)
            right.addmm_(features, e[places])
        found = torch.cholesky_solve(right, torch.linalg.cholesky(system))
        return torch.linalg.solve_triangular(root.T, found, upper=True)

    def embed_items(self, features: Mapping[str, Tensor], observed: Tensor) -> Tensor:
        """Return the vectors (N, r) of new items, each by the regression of its pattern; 0 for an item without any."""
        rows = self.rows(features, observed)
        found = self.items.new_zeros(len(observed), self.items.shape[1])
        for pattern, items in patterns(observed):
            used = pattern if self._own.per_pattern else tuple(range(len(self.modalities)))
            weights, map_ = self.solved(used)
            for places in items.split(BLOCK):
                found[places] = (
                    self.kernel(used, weights, [x[places] for x in rows], observed[places]) @ map_
                )
        return found


class KeepLearner(ClosedFormLearner):
    """KEEP in a run: its file holds the fitted model, which recommends without the training pairs."""

    def save(self, path: Path, facts: dict[str, Any], *, weights_only: bool = False) -> None:  # noqa: ARG002
        """Write the fitted model."""
        save_state(path, self._ready().net.state_dict(), facts)

    def load(self, path: Path, *, weights_only: bool = False) -> dict[str, Any]:  # noqa: ARG002
        """Take back a file of `save`; return its facts."""
        return self._restore(path, lambda state: self._ready().net.load_state_dict(state))


def keep_learner(
    options: Options, tables: Tables, world: World = SINGLE_PROCESS, factors: Factors | None = None
) -> KeepLearner:
    """Build the learner of KEEP."""
    del world, factors  # it is fitted in one process, from the pairs themselves
    return KeepLearner(WarmData.of_tables(tables, options), options)


def scoring_model(
    options: Options, dims: Mapping[str, int], num_users: int, tensors: Mapping[str, Tensor]
) -> KeepModel:
    """Build the model of a finished run from its tensors.

    Raises:
        KeyError: a tensor is absent, or one too many.
        RuntimeError: the tensors are of other data.
    """
    model = KeepModel(list(dims), options.method, tensors)
    widths = {name: len(model.get_buffer(f"mean_{m}")) for m, name in enumerate(dims)}
    if (model.users.num_embeddings, widths) != (num_users, dict(dims)):
        raise RuntimeError(f"{model.users.num_embeddings} users and widths {widths}")
    return model
