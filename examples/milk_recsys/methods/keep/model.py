"""KEEP: kernel ridge regression of item vectors on content, one for each pattern of modalities.

The method is our own. It is fitted in closed form and imputes nothing.

1. Vectors of users and warm items, whose inner products are the smoothed training pairs (see
   `vectors.py`):

       X = D_u^-b R D_i^-b,     A E' = K (K + lambda I)^-1 X,     K = X X'

   where R (U, n) are the training pairs, D_u and D_i the numbers of pairs of users and items, b the
   popularity exponent and lambda the shrinkage.

2. Kernel between a new item c and a warm item i, for a pattern p of modalities:

       k_p(c, i) = sum_(m in p) mu_m exp(gamma_m (cos(x_cm, x_im) - 1)) a_cm a_im
       sum_(m in p) mu_m = 1

   where x_cm is the feature vector of modality m of item c, centred on the mean of the warm items
   that have it, a_cm is 1 if c has m and else 0, gamma_m is the width and mu_m >= 0 the weight.

3. Vector of a new item c with pattern p, and its score for user u:

       v_c = h_c E,     h_c = k_p(c, W) (k_p(W, W) + N_p + l I)^-1
       s_uc = d_c^c' <A_u, v_c>,     log d_c = mean(log d_W) + h_c (log d_W - mean(log d_W))

   where W are the warm items, l is the ridge penalty, N_p is diagonal with the sum of the weights
   of the modalities that a warm item lacks, d_W are the numbers of pairs of the warm items, and c'
   is the exponent of the predicted popularity. X is damped by the number of an item's pairs, so
   this number must be predicted to rank items by their expected pairs.

Steps 2 and 3 are `invmod.regression.PatternKernelRidge`, which chooses widths, weights and ridges
by leave-one-out errors of the leading vectors E; lambda and c' are chosen in `choice.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from invmod._text import NAMES, decode_text
from invmod.regression import PatternKernelRidge
from invmod.regression.arguments import MAX_ROWS
from milk_recsys.base.checkpoint import save_state
from milk_recsys.base.distributed import SINGLE_PROCESS, World
from milk_recsys.base.errors import DataError
from milk_recsys.base.random_state import seeded
from milk_recsys.catalogue.tables import Tables
from milk_recsys.config.options import Options
from milk_recsys.methods.closed_form import MAX_SCORES, interactions, patterns
from milk_recsys.methods.contract import ScoreBlock
from milk_recsys.methods.factors import Factors
from milk_recsys.methods.keep import KeepOptions
from milk_recsys.methods.keep.choice import EXPONENTS, SHRINKAGES, choose
from milk_recsys.methods.keep.landmarks import projected_coefficients
from milk_recsys.methods.keep.vectors import COMPARED, ExactVectors, SingularVectors, damped
from milk_recsys.methods.learner import ClosedFormLearner
from milk_recsys.methods.warm import WarmData

__all__ = ["Keep", "KeepLearner", "KeepModel", "keep_learner", "scoring_model"]

# Up to this many warm items, all are landmarks: a factorisation of the whole kernel then costs no
# more than a projection on fewer landmarks.
MAX_DIRECT_ITEMS = 10_000
MAX_EXACT = 2**28  # Largest number of entries of vectors without a decomposition: 1 GB.
DEFAULT_RANK = 2048  # Number of singular vectors where they would have more.
MIN_EXACT_SHRINKAGE = 1e-3  # With less, X'X + lambda I is nearly singular in float32.
FIRST_SHRINKAGE = 1.0  # lambda of the vectors E that the regression's options are chosen on.
CHOICE_ROWS = 1000  # Number of warm items that widths, weights and ridges are chosen on.
BLOCK = 4096  # Number of items that are embedded at once.
CACHED_PATTERNS = 8  # Number of patterns whose coefficients stay in memory.
PREFIX = "regression."
STATE_NAMES = ("users.weight", "trained_users", "items", "counts", "exponent", "shrinkage")


class Keep:
    """KEEP fitted on the training pairs.

    Attributes:
        net: the fitted model.
        choice: the shrinkage and the exponent of the predicted popularity.

    Raises:
        DataError: the vectors of users and items would not fit in memory, or no warm item has
            any modality.
    """

    def __init__(self, data: WarmData, options: KeepOptions, seed: int) -> None:
        rank = _rank(data, options)
        pairs = interactions(data, data.dtype)
        with seeded(seed, device=data.device) as generator:
            x = damped(pairs, options.popularity)
            vectors = ExactVectors(x) if rank is None else SingularVectors(x, rank)
            landmarks = _landmarks(data, options, generator)
            first = FIRST_SHRINKAGE if options.shrinkage is None else options.shrinkage
            targets = vectors.leading.first(COMPARED).item_vectors(first)
            regression, columns = _fitted_regression(data, options, targets, landmarks)
            self.choice = choose(
                regression,
                data.mask[landmarks][:, columns],
                pairs.index_select(1, landmarks).coalesce(),
                options.popularity,
                SHRINKAGES if options.shrinkage is None else (options.shrinkage,),
                EXPONENTS
                if options.predicted_popularity is None
                else (options.predicted_popularity,),
                generator,
            )
            users, items = vectors(self.choice.shrinkage)
        state = {
            "users.weight": users,
            "trained_users": data.rows.has_pairs,
            "items": items,
            "counts": torch.bincount(pairs.indices()[1], minlength=data.num_items).to(users),
            "exponent": users.new_tensor(self.choice.exponent),
            "shrinkage": users.new_tensor(self.choice.shrinkage),
        }
        if len(landmarks) < data.num_items:
            state |= {"landmarks": landmarks, "observed": data.mask[:, columns]}
            for m, column in enumerate(columns):
                x = data.features[data.modalities[column]].to(users)
                state[f"warm_{m}"] = torch.where(data.mask[:, column, None], x, 0.0)
        self.net = KeepModel(data.modalities, options, regression, state)

    def scorer(self, features: Mapping[str, Tensor], mask: Tensor) -> ScoreBlock:
        """Return a function from users to their scores of new items, <A_u, v_c>."""
        v = self.net.embed_items(features, mask)
        return lambda users: self.net.users(users) @ v.T


def _rank(data: WarmData, options: KeepOptions) -> int | None:
    """Return the number of singular vectors, or None for vectors without a decomposition.

    Raises:
        DataError: the vectors would not fit in memory.
    """
    both, rank = data.num_users + data.num_items, options.rank
    if rank is None:
        shrinks = options.shrinkage is None or options.shrinkage >= MIN_EXACT_SHRINKAGE
        fits = data.num_items <= MAX_DIRECT_ITEMS and data.num_items * both <= MAX_EXACT
        if shrinks and fits:
            return None
        rank = DEFAULT_RANK
    rank = min(rank, data.num_users, data.num_items)
    if rank * both > MAX_SCORES:
        raise DataError(
            f"{data.num_users:,} users and {data.num_items:,} training items are too many for "
            f"{rank} singular vectors each. Choose --rank {MAX_SCORES // both} or less."
        )
    return rank


def _landmarks(data: WarmData, options: KeepOptions, generator: torch.Generator) -> Tensor:
    """Return the positions of the warm items that span the kernel.

    Raises:
        DataError: there would be too many for the regression.
    """
    count = options.landmarks if data.num_items > MAX_DIRECT_ITEMS else data.num_items
    order = torch.randperm(data.num_items, generator=generator).to(data.device)
    landmarks = order[:count].sort().values
    if len(landmarks) > MAX_ROWS:
        raise DataError(
            f"A kernel of {len(landmarks):,} landmarks does not fit. Choose --landmarks {MAX_ROWS} "
            "or less."
        )
    return landmarks


def _fitted_regression(
    data: WarmData, options: KeepOptions, targets: Tensor, landmarks: Tensor
) -> tuple[PatternKernelRidge, list[int]]:
    """Fit the regression on content to vectors of the landmarks.

    A modality that no landmark has is left out.

    Returns:
        the regression, and the column of `data.mask` of each of its modalities.
    """
    mask = data.mask[landmarks]
    columns: list[int] = mask.any(dim=0).nonzero()[:, 0].tolist()
    if not columns:
        raise DataError("No training item has a feature, so KEEP cannot be fitted.")
    names = [data.modalities[column] for column in columns]
    features = {name: data.features[name][landmarks] for name in names}
    regression = _regression(names, options, data.dtype)
    return regression.fit(features, targets[landmarks], mask[:, columns]), columns


def _regression(
    names: Sequence[str], options: KeepOptions, dtype: torch.dtype
) -> PatternKernelRidge:
    """Return the regression on content, not fitted."""
    return PatternKernelRidge(
        names,
        kernel="angle",
        width="auto" if options.width is None else options.width,
        weights="auto" if options.fit_weights else "equal",
        ridge="auto" if options.ridge is None else options.ridge,
        intercept=False,
        standardize=False,
        choice_rows=CHOICE_ROWS,
        dtype=dtype,
    )


class KeepModel(nn.Module):
    """The fitted KEEP, which embeds new items of any pattern without the training pairs.

    Arguments:
        modalities: names, in the order of the columns of masks.
        own: the method's options.
        regression: the regression on content, fitted on all warm items or on landmarks.
        state: ``users.weight`` (U, r), ``trained_users`` (U,) bool, ``items`` (n, r) the vectors
            E, ``counts`` (n,) numbers of pairs, ``shrinkage`` () and ``exponent`` () of the
            predicted popularity. With landmarks also their positions ``landmarks`` (L,), and of
            the warm items the mask ``observed`` (n, M) and the features ``warm_m`` (n, d_m), for
            the modalities of the regression.

    Raises:
        KeyError: the state lacks a tensor, or has one too many.
    """

    users: nn.Embedding
    trained_users: Tensor
    items: Tensor
    counts: Tensor
    exponent: Tensor
    shrinkage: Tensor
    landmarks: Tensor
    observed: Tensor

    def __init__(
        self,
        modalities: Sequence[str],
        own: Any,
        regression: PatternKernelRidge,
        state: Mapping[str, Tensor],
    ) -> None:
        super().__init__()
        _check_names(state, len(regression.modalities))
        self.modalities, self._own, self.regression = tuple(modalities), own, regression
        self.users = nn.Embedding.from_pretrained(state["users.weight"])
        for name, x in state.items():
            if name != "users.weight":
                self.register_buffer(name, x)
        # Pattern -> coefficients of the projected kernel.
        self._coefficients: dict[tuple[str, ...], Tensor] = {}

    def _apply(self, fn: Any, recurse: bool = True) -> KeepModel:
        self._coefficients.clear()  # `fn` may change the precision or the device.
        super()._apply(fn, recurse)
        # The regression keeps its dtype, so a model of another precision needs another regression.
        dtype = self.items.dtype
        if dtype != self.regression.dtype:
            state = self.regression.state_dict()
            self.regression = _regression(self.regression.modalities, self._own, dtype)
            self.regression.load_state_dict(
                {name: x.to(dtype) if x.is_floating_point() else x for name, x in state.items()}
            )
        return self

    def load_state_dict(
        self, state_dict: Mapping[str, Tensor], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load a state; see `torch.nn.Module.load_state_dict`.

        If the state equals the present one, nothing changes, so that cached regressions remain.
        """
        present = self.state_dict()
        if present.keys() == state_dict.keys() and all(
            _equal(x.to(present[name]), present[name]) for name, x in state_dict.items()
        ):
            return nn.modules.module._IncompatibleKeys([], [])
        self._coefficients.clear()
        return super().load_state_dict(state_dict, strict, assign)

    @property
    def chosen(self) -> dict[str, Any]:
        """The options that were chosen or given; those of the patterns met so far."""
        kernels = {
            name: None if kernel is None else kernel.width
            for name, kernel in self.regression.kernels.items()
        }
        return {
            "shrinkage": float(self.shrinkage),
            "predicted_popularity": float(self.exponent),
            "width": kernels,
            "patterns": {
                "+".join(names): {"weights": list(choice.weights), "ridge": choice.ridge}
                for names, choice in self.regression.choices.items()
            },
        }

    @torch.no_grad()
    def embed_items(self, features: Mapping[str, Tensor], mask: Tensor) -> Tensor:
        """Return the vectors (N, r) of new items, each from the regression of its pattern.

        They include the factor of the predicted popularity, up to a constant that is the same for
        all items. The vector of an item without any modality is 0.
        """
        names = self.regression.modalities
        own = mask[:, [self.modalities.index(name) for name in names]]
        vectors = self.items.new_zeros(len(mask), self.items.shape[1])
        for modalities, items in patterns(own):
            pattern = tuple(names[m] for m in modalities) if self._own.per_pattern else names
            for block in items.split(BLOCK):
                rows = {name: features[name][block] for name in names if name in features}
                vectors[block] = self._vectors(rows, own[block], pattern)
        return vectors

    def _vectors(
        self, rows: Mapping[str, Tensor], mask: Tensor, pattern: tuple[str, ...]
    ) -> Tensor:
        """Return the vectors (N, r) of items by the regression of a pattern."""
        if "landmarks" not in self._buffers:
            h = self.regression.smoother(rows, mask, pattern=pattern)
            vectors, logs = h @ self.items, h @ self._centred_logs()
        else:
            k = self.regression.kernel_matrix(rows, mask, pattern=pattern)
            vectors, logs = (k @ self._projected(pattern)).split([self.items.shape[1], 1], dim=1)
        return vectors * (self.exponent * logs).exp()

    def _centred_logs(self) -> Tensor:
        """Return log d_W - mean(log d_W), (n, 1)."""
        logs = self.counts.clamp(min=1).log()
        return (logs - logs.mean())[:, None]

    def _projected(self, pattern: tuple[str, ...]) -> Tensor:
        """Return the coefficients (L, r + 1) of vectors and log counts, from the cache if there."""
        if pattern not in self._coefficients:
            names = self.regression.modalities

            def kernel(block: Tensor) -> Tensor:
                rows = {name: self.get_buffer(f"warm_{m}")[block] for m, name in enumerate(names)}
                return self.regression.kernel_matrix(rows, self.observed[block], pattern=pattern)

            targets = torch.cat([self.items, self._centred_logs()], dim=1)
            k = kernel(self.landmarks)  # The first kernel of a pattern also chooses its options.
            ridge = self.regression.choices[pattern].ridge
            if len(self._coefficients) == CACHED_PATTERNS:
                self._coefficients.pop(next(iter(self._coefficients)))
            self._coefficients[pattern] = projected_coefficients(kernel, k, targets, ridge)
        return self._coefficients[pattern]


def _check_names(state: Mapping[str, Tensor], num_modalities: int) -> None:
    """Raise unless the state has the tensors of `KeepModel` for the regression's modalities."""
    needed = set(STATE_NAMES)
    if "landmarks" in state:
        needed |= {"landmarks", "observed", *(f"warm_{m}" for m in range(num_modalities))}
    if mismatch := sorted(set(state) ^ needed):
        raise KeyError(f"the model lacks, or should not have, {', '.join(mismatch)}")


def _equal(x: Tensor, y: Tensor) -> bool:
    """Return whether two tensors are equal; NaN stands for an option that was not compared."""
    return x.shape == y.shape and bool(((x == y) | ((x != x) & (y != y))).all())


class KeepLearner(ClosedFormLearner):
    """The learner of KEEP, whose file contains the fitted model and can score without the pairs."""

    @property
    def chosen(self) -> dict[str, Any]:
        """The options that were chosen on the training items."""
        return {} if self.model is None else dict(self.model.net.chosen)

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
    others = {name: x for name, x in tensors.items() if not name.startswith(PREFIX)}
    if PREFIX + NAMES not in tensors:
        raise KeyError(f"the model has no tensor {PREFIX + NAMES}")
    fitted = {k.removeprefix(PREFIX): x for k, x in tensors.items() if k.startswith(PREFIX)}
    names = [str(name) for name in decode_text(fitted[NAMES]) or ()]
    _check_names(others, len(names))
    regression = _regression(names, options.method, others["items"].dtype)
    regression.load_state_dict(fitted)
    model = KeepModel(list(dims), options.method, regression, others)
    widths = {name: regression.get_buffer(f"rows_{m}").shape[1] for m, name in enumerate(names)}
    if model.users.num_embeddings != num_users or not widths.items() <= dict(dims).items():
        raise RuntimeError(f"{model.users.num_embeddings} users and widths {widths}")
    return model
