"""Score new items, which may lack modalities, with a finished run.

    from milk_recsys import load_run
    scorer = load_run("runs/20250101-120000-milk")
    # (2, n); a row of NaN is a missing modality.
    scores = scorer.score([3, 8], {"text": text, "image": image})

Neither the training data nor the split is needed: the folder of a run contains the weights, the
imputed values and the users' names.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from invmod import mask_from_features
from invmod._deprecation import warn_renamed
from milk_recsys.base.checkpoint import load_state
from milk_recsys.base.device import choose_device
from milk_recsys.base.errors import DataError, OptionError
from milk_recsys.base.files import read_json
from milk_recsys.catalogue.tsv import read_names
from milk_recsys.config.method import load
from milk_recsys.config.options import Options, from_json
from milk_recsys.ranking.top import Candidates

__all__ = [
    "Best",
    "OpenedRun",
    "Scorer",
    "ScoringModel",
    "finished_config",
    "load_run",
    "open_run",
    "read_config",
]

ArrayLike = Tensor | npt.NDArray[Any]

CPU_SCORES, GPU_SCORES = 2**21, 2**26  # Number of scores computed at once.
ITEMS_AT_ONCE = 4096  # Number of items encoded at once.
LISTS_AT_ONCE = 4096  # Number of users (or items) whose lists are computed at once.


class Best(NamedTuple):
    """Lists of the best items for users, or of the best users for items.

    Lists are sorted by decreasing score, and by id where scores are equal.

    Attributes:
        rows: (R,) the users (or items) that the lists are for.
        indices: (R, K) the items (or users) in each list: positions of items, or ids of users.
        scores: (R, K), non-increasing along a row.
    """

    rows: Tensor
    indices: Tensor
    scores: Tensor

    @property
    def found(self) -> Tensor:
        """Deprecated: use `indices`."""
        warn_renamed("Best.found", "Best.indices", ends_in="0.3")
        return self.indices


def load_run(
    folder: Path | str, *, device: torch.device | str = "auto", scores_at_once: int | None = None
) -> Scorer:
    """Open a finished run for scoring.

    Arguments:
        folder: the run's folder, the option ``--out`` of `train.py`.
        device: a device of torch, or "auto" for a GPU if there is one.
        scores_at_once: maximum number of scores in memory; None for a default of the device.

    Raises:
        DataError: the folder is absent or contains no finished run, or a file in it is damaged.
    """
    run = open_run(Path(folder), device)
    names = read_names(Path(folder) / "users.tsv", "user", len(run.model.trained_users), [])
    return Scorer(
        run.model, run.dims, names, content_zeros=run.content_zeros, scores_at_once=scores_at_once
    )


class OpenedRun(NamedTuple):
    """A finished run.

    Attributes:
        options: its options.
        model: its model, in the precision of the run.
        dims: modality -> width of its features.
        content_zeros: modalities of which a row of zeros is content, not missing.
    """

    options: Options
    model: ScoringModel
    dims: dict[str, int]
    content_zeros: tuple[str, ...]


def open_run(folder: Path, device: torch.device | str = "auto") -> OpenedRun:
    """Open the model of a finished run; errors are those of `load_run`."""
    options, dims, num_users, content_zeros = finished_config(folder)
    method = options.definition
    if method.scorer is None:
        raise DataError(
            f"{folder}: holds a run of {method.name}, which has no vectors of users and items. "
            "milk_recsys.load opens it with the data it was trained on. KEEP, MILK and its "
            "ablations need no data."
        )
    weights = folder / "model.safetensors"
    tensors, _ = load_state(weights, choose_device(device))
    try:
        model = load(method.scorer)(options, dims, num_users, tensors)
    except (RuntimeError, KeyError) as error:
        raise DataError(f"{weights}: does not fit config.json in its folder ({error}).") from None
    return OpenedRun(options, model, dims, content_zeros)


def finished_config(folder: Path) -> tuple[Options, dict[str, int], int, tuple[str, ...]]:
    """Return `read_config` of a finished run.

    Raises:
        DataError: the folder is absent or contains no finished run.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder. Name the folder of a finished run.")
    if not (folder / "config.json").exists():
        raise DataError(
            f"{folder}: is not the folder of a run: it has no config.json. Name the folder that "
            "was given to train.py as --out."
        )
    if not (folder / "metrics.json").exists():
        raise DataError(
            f"{folder}: the run has not ended. Resume it first: train.py --resume --out {folder}, "
            "with the data it was started with."
        )
    return read_config(folder / "config.json")


class ScoringModel(Protocol):
    """A trained model, an `nn.Module` that makes vectors of users and of items.

    Attributes:
        dim: width of the vectors, D.
        trained_users: (U,) bool, the users with a training pair.
        modalities: names, in the order of the columns of masks.
    """

    dim: int
    trained_users: Tensor
    modalities: tuple[str, ...]

    def double(self) -> Any:
        """Return the model in float64."""
        ...

    def user_vectors(self, users: Tensor | None) -> Tensor:
        """Return the vectors (u, D) of users; None for all, without a copy if they are a table."""
        ...

    def embed_items(self, features: Mapping[str, Tensor], mask: Tensor) -> Tensor:
        """Return the vectors (N, D) of items."""
        ...


class Scorer:
    """Scores of users for new items.

    Scores are computed in float64 and rounded to the precision of the run, so that a score does not
    depend on the other items of a call. (In a run in float64 nothing is rounded, and the last
    digits of the result of `score` may vary.) Lists are exact, as in `ranking.top`: they never
    vary.

    Arguments:
        model: a trained model, which is converted to float64.
        dims: modality -> width of its features.
        user_names: one name per user, or None.
        content_zeros: modalities of which a row of zeros is content, not missing.
        scores_at_once: maximum number of scores in memory; None for a default of the device.

    Attributes:
        modalities: the M names.
        dims: modality -> width of its features.
        num_users: users are the ids from 0 to num_users - 1.
        user_names: one name per user, or None if the training data had none.
        trained_users: (num_users,) bool. The vector of a user without a training pair is random or
            0, and the user's scores are meaningless.
        dtype: dtype of the scores, float64 for a run in float64, else float32.
    """

    items_at_once = ITEMS_AT_ONCE

    def __init__(
        self,
        model: ScoringModel,
        dims: Mapping[str, int],
        user_names: Sequence[str] | None = None,
        *,
        content_zeros: Collection[str] = (),
        scores_at_once: int | None = None,
    ) -> None:
        # The dtype of the run; the conversion to float64 follows.
        self.device = model.trained_users.device
        self.dtype = model.user_vectors(torch.zeros(1, dtype=torch.int64, device=self.device)).dtype
        self.model = model.double().eval().requires_grad_(False)
        self.dims = dict(dims)
        self.content_zeros = frozenset(content_zeros)
        self.modalities = model.modalities
        self.num_users = len(model.trained_users)
        self.user_names = None if user_names is None else tuple(user_names)
        self.trained_users = model.trained_users.cpu()
        self.scores_at_once = scores_at_once

    def score(
        self,
        users: Sequence[int] | ArrayLike | None,
        features: Mapping[str, ArrayLike | None],
        *,
        empty_items: Literal["error", "impute"] = "error",
    ) -> Tensor:
        """Score every given item for every given user.

        Arguments:
            users: ids (U,), in any order; ids may repeat. None for all users.
            features: modality -> (n, d), as in the training data, unscaled. A row of NaN is
                missing, and so is a row of zeros unless the training data say that zeros are
                content. A modality that is absent or None is missing for all items.
            empty_items: whether an item without any modality is an error, or is scored by imputed
                values alone ("impute"). In that case all such items have the same score.

        Returns:
            (U, n) tensor on the CPU; higher is better. Scores are inner products, not
            probabilities. They rank items for one user, and are not comparable between users.

        Raises:
            KeyError: a modality is unknown.
            TypeError: features are not numbers, or users are not integers.
            ValueError: a row has some NaN but not only NaN, or an infinity; a width is wrong;
                numbers of items differ; no modality is given; an item has no modality; or a user is
                out of range.
        """
        chosen = self._user_ids(users)
        vectors = self.embed(features, empty_items=empty_items)
        scores = torch.empty(len(chosen), len(vectors), dtype=self.dtype)
        for block, part in self._blocks(chosen, len(vectors)):
            scores[part] = self._scores(block, vectors).cpu()
        return scores

    @torch.no_grad()
    def embed(
        self,
        features: Mapping[str, ArrayLike | None],
        *,
        empty_items: Literal["error", "impute"] = "error",
    ) -> Tensor:
        """Embed items for `best_items` and `best_users`; arguments and errors are those of `score`.

        Returns:
            (n, D) float64, on the scorer's device.
        """
        given = {name: self._rows(name, x) for name, x in features.items() if x is not None}
        if not given:
            raise ValueError(
                f"scorer: `features` gives no modality. Give at least one of {self.modalities}."
            )
        # A row of NaN is missing, and so is a modality that is not given.
        mask = mask_from_features(given, self.modalities)
        for name in given.keys() - self.content_zeros:
            mask[:, self.modalities.index(name)] &= (given[name] != 0).any(dim=1)
        empty = ~mask.any(dim=1)
        if empty_items == "error" and empty.any():
            raise ValueError(
                f"scorer: item {int(empty.nonzero()[0])} has no modality at all "
                f"({int(empty.sum())} such items). Leave such items out, or use "
                'empty_items="impute" to score them by imputed values alone.'
            )
        vectors = torch.empty(len(mask), self.model.dim, dtype=torch.float64, device=self.device)
        for start in range(0, len(mask), self.items_at_once):
            rows = slice(start, start + self.items_at_once)
            block = {name: x[rows].to(self.device) for name, x in given.items()}
            vectors[rows] = self.model.embed_items(block, mask[rows].to(self.device))
        # Finite features may overflow in the encoder; such an item could not be ranked.
        finite = torch.isfinite(vectors).all(dim=1)
        if not finite.all():
            raise DataError(
                f"scorer: the features of item {int(finite.long().argmin())} are too large: the "
                "item's vector is not finite."
            )
        return vectors

    def best_items(
        self,
        vectors: Tensor,
        top: int,
        users: Sequence[int] | ArrayLike | None = None,
        *,
        exclude: tuple[Tensor, Tensor] | None = None,
    ) -> Iterator[Best]:
        """Find the best items of each user, block by block, in bounded memory.

        Arguments:
            vectors: (n, D), from `embed`.
            top: the length of a list, at most n.
            users: ids (U,), or vectors (U, D) of users; None for all.
            exclude: items that must not be in a user's list, as in `ranking.top.top_items`.

        Yields:
            `Best` for a block of users, in the given order, with positions of items; on the CPU.
            Vectors of users are numbered from 0. A position of -1 ends a list for which too few
            items are left.
        """
        _check_top(top)
        given = users if isinstance(users, Tensor) and users.ndim == 2 else None
        ids = self._user_ids(users) if given is None else torch.arange(len(given))
        items = Candidates(vectors, dtype=self.dtype, scores_at_once=self.scores_at_once)
        for start in range(0, len(ids), LISTS_AT_ONCE):
            block = ids[start : start + LISTS_AT_ONCE]
            rows = self.user_vectors(block) if given is None else given[block].to(vectors)
            part = _excluded(exclude, start, len(block), vectors.device)
            best = items.top(rows, top, exclude=part)
            yield Best(block, best.positions.cpu(), best.scores.cpu())

    def best_users(
        self,
        vectors: Tensor,
        top: int,
        users: Sequence[int] | ArrayLike | None = None,
        *,
        exclude: tuple[Tensor, Tensor] | None = None,
    ) -> Iterator[Best]:
        """Find the best users of each item, block by block, in bounded memory.

        Arguments:
            vectors: (n, D), from `embed`.
            top: the length of a list, at most the number of candidates.
            users: the candidates, ids (U,), of which repeated ones count once; None for the users
                with a training pair.
            exclude: users that must not be in an item's list, as positions among the candidates,
                which are ordered by id; see `ranking.top.top_items`.

        Yields:
            `Best` for a block of items, in order, with ids of users; on the CPU. An id of -1 ends a
            list for which too few users are left.
        """
        _check_top(top)
        chosen = (
            self.trained_users.nonzero()[:, 0]
            if users is None
            else torch.from_numpy(np.unique(self._user_ids(users).numpy()))
        )
        if len(vectors) == 0:
            return
        candidates = Candidates(
            self.user_vectors(chosen), dtype=self.dtype, scores_at_once=self.scores_at_once
        )
        for start in range(0, len(vectors), LISTS_AT_ONCE):
            block = vectors[start : start + LISTS_AT_ONCE]
            part = _excluded(exclude, start, len(block), vectors.device)
            best = candidates.top(block, top, exclude=part)
            rows, places = torch.arange(start, start + len(block)), best.positions.cpu()
            found = torch.where(places < 0, places, chosen[places.clamp(min=0)])
            yield Best(rows, found, best.scores.cpu())

    def products(self, users: Tensor, vectors: Tensor) -> Tensor:
        """Return the scores (u, n) of users for items from `embed`, in float64, on the device.

        Arguments:
            users: int64 (u,), ids.
            vectors: (n, D).
        """
        return self.user_vectors(users) @ vectors.T

    def _scores(self, users: Tensor, vectors: Tensor) -> Tensor:
        """Return the scores (u, n) of a block of users, rounded to `dtype`, on the device."""
        return self.products(users, vectors).to(self.dtype)

    @torch.no_grad()
    def user_vectors(self, users: Tensor) -> Tensor:
        """Return the vectors (u, D) of users on the device, after a check that they are finite.

        Arguments:
            users: int64 (u,), ids.
        """
        every = len(users) == self.num_users and torch.equal(users, torch.arange(len(users)))
        vectors: Tensor = self.model.user_vectors(None if every else users.to(self.device))
        finite = torch.isfinite(vectors).all(dim=1)
        if not finite.all():
            raise DataError(
                f"scorer: the vector of user {int(users[finite.long().argmin()])} is not finite."
            )
        return vectors

    def _blocks(self, users: Tensor, num_items: int) -> Iterator[tuple[Tensor, slice]]:
        """Yield blocks of users and their slices, so that a block's scores fit in memory."""
        held = self.scores_at_once or (CPU_SCORES if self.device.type == "cpu" else GPU_SCORES)
        step = max(1, held // max(1, num_items))
        for start in range(0, len(users), step):
            part = slice(start, start + step)
            yield users[part], part

    def _user_ids(self, users: Sequence[int] | ArrayLike | None) -> Tensor:
        """Return user ids as checked int64 (U,) on the CPU."""
        if users is None:
            return torch.arange(self.num_users)
        ids = np.asarray(users.cpu() if isinstance(users, Tensor) else users)
        if ids.ndim != 1:
            raise ValueError(
                f"scorer: `users` must be ids of shape (U,), got the shape {ids.shape}."
            )
        if ids.size and ids.dtype.kind not in "iu":
            raise TypeError(f"scorer: `users` must be whole numbers, got {ids.dtype}.")
        if ids.size and not 0 <= int(ids.min()) <= int(ids.max()) < self.num_users:
            wrong = next(int(i) for i in ids if not 0 <= i < self.num_users)
            raise ValueError(
                f"scorer: user {wrong} is out of range: ids go from 0 to {self.num_users - 1}."
            )
        return torch.from_numpy(ids.astype(np.int64))

    def _rows(self, name: str, x: ArrayLike) -> Tensor:
        """Return a modality's features as a tensor (n, d), after a check of its width."""
        if name not in self.dims:
            raise KeyError(
                f"scorer: unknown modality {name!r}. The run was trained on {self.modalities}."
            )
        if not isinstance(x, Tensor):
            array = np.asarray(x)
            if array.dtype.kind not in "fiu" or array.dtype.itemsize > 8:
                raise TypeError(
                    f"scorer: modality {name!r} must be numbers (float16, float32, float64), got "
                    f"{array.dtype}."
                )
            # torch.from_numpy rejects foreign byte orders and negative strides, and warns of
            # read-only memory: copy such arrays.
            x = torch.from_numpy(np.require(array, array.dtype.newbyteorder("="), ["C", "W"]))
        if x.ndim != 2 or x.shape[1] != self.dims[name]:
            raise ValueError(
                f"scorer: modality {name!r} must have shape (n, {self.dims[name]}), as in "
                f"training, got {tuple(x.shape)}."
            )
        return x.detach()


def _excluded(
    exclude: tuple[Tensor, Tensor] | None, start: int, count: int, device: torch.device
) -> tuple[Tensor, Tensor] | None:
    """Return the part of `exclude` that belongs to a block of lists."""
    if exclude is None:
        return None
    offsets = exclude[0][start : start + count + 1]
    positions = exclude[1][int(offsets[0]) : int(offsets[-1])]
    return (offsets - offsets[0]).to(device), positions.to(device)


def _check_top(top: int) -> None:
    if top < 1:
        raise ValueError(f"scorer: `top` must be at least 1, got {top}.")


def read_config(path: Path) -> tuple[Options, dict[str, int], int, tuple[str, ...]]:
    """Return a run's options, modalities with their widths, number of users, content zeros."""
    try:
        values = read_json(path)
        facts = values.pop("dataset")
        dims = {name: int(dim) for name, dim in facts["modalities"].items()}
        zeros = tuple(map(str, facts.get("content_zeros", ())))
        return from_json(values), dims, int(facts["users"]), zeros
    except OptionError as error:  # For example, the method is of a package that is not installed.
        raise DataError(f"{path}: {error}") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path}: is not the config of a run ({error!r:.200}).") from None
