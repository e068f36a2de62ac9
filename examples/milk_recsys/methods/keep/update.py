"""New pairs, users and warm items in a fitted KEEP, without a fit from the start.

    X = D_u^-b R D_i^-b,     X'X = D_i^-b H D_i^-b,     H = sum_u d_u^-2b r_u r_u'

where r_u is the row of user u of the pairs R, and d_u the number of pairs of u. New pairs change
only the terms of their users in the sum H (n, n), and the counts D_i (`pair_sums.py`). The vectors
of users and warm items follow from X'X as in a fit (`vectors.py`), with the same shrinkage. Where
the vectors have the width of users, H is the same sum over items, and new pairs change the terms of
their items. Singular vectors are computed again by an iteration that starts from those of before.

Rows of new warm items are appended to the regression on content (`PatternKernelRidge.extend`). The
content of the other items, and with it the factors of the patterns, does not change with pairs.

Nothing is chosen again: shrinkage, predicted popularity, widths, and the weights and ridges of the
patterns that were met stay, and so do the means and the scale of the content, and landmarks. Apart
from these, the model is that of a fit on all pairs, up to rounding; with singular vectors up to
their residuals (`ACCURACY` in `linear_algebra.py`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from milk_recsys.base.errors import DataError
from milk_recsys.base.random_state import seeded
from milk_recsys.catalogue.user_rows import build_user_rows
from milk_recsys.methods.keep.content import compared_vectors
from milk_recsys.methods.keep.fitted import KeepModel, item_state
from milk_recsys.methods.keep.pair_sums import PairSums, StoredPairs
from milk_recsys.methods.keep.pairs import DampedPairs
from milk_recsys.methods.keep.vectors import (
    MAX_EXACT,
    ExactVectors,
    SingularVectors,
    UserVectors,
    checked_rank,
    damped,
    item_counts,
)
from milk_recsys.methods.warm import WarmData

__all__ = ["check_arguments", "update_model", "updated_data"]

Vectors = ExactVectors | UserVectors | SingularVectors


@torch.no_grad()
def update_model(
    model: KeepModel,
    pairs: Tensor,
    *,
    features: Mapping[str, Tensor] | None = None,
    mask: Tensor | None = None,
    num_users: int | None = None,
) -> int:
    """Add pairs to a fitted model, which may be of new users and of new warm items.

    If an error is raised, the model is left as it was.

    Arguments:
        model: the model of a single process.
        pairs: int64 (P, 2), numbers of users and of warm items. Users from U on are new, and warm
            items from n on, which are numbered in the order of `features`. Pairs that the model has
            are ignored.
        features: modality -> (w, d_m), the content of the new warm items.
        mask: bool (w, M), the modalities that they have, in the order of ``model.modalities``.
        num_users: the number of users afterwards, if it is more than the pairs show.

    Returns:
        the number of pairs that are new.

    Raises:
        DataError: the vectors would not fit in memory.
        KeyError, TypeError, ValueError: the arguments are not as described.
    """
    total = check_arguments(model, pairs, features, mask, num_users)
    before, added = StoredPairs.of(model), 0 if mask is None else len(mask)
    after, new = before.joined(pairs, total, before.num_items + added)
    if not len(new) and not added and total == before.num_users:
        return 0
    with seeded(0, device=model.counts.device):
        vectors, sums = _vectors(model, before, after, new)
        users, items = vectors(float(model.shrinkage))
    if features is not None and mask is not None:
        names, targets = model.regression.modalities, model.regression.get_buffer("targets")
        model.regression.extend(
            {name: features[name] for name in names if name in features},
            targets.new_zeros(added, targets.shape[1]),
            mask[:, [model.modalities.index(name) for name in names]],
        )
    model.regression.set_targets(compared_vectors(vectors.leading, model.options))
    state = {
        **item_state(items),
        "trained_users": torch.bincount(after.users, minlength=total) > 0,
        "counts": vectors.counts.to(users),
    }
    if isinstance(vectors, SingularVectors):
        own = vectors.x
        state |= {"user_factors": users, "user_offsets": own.offsets, "user_items": own.items}
    else:
        model.users = nn.Embedding.from_pretrained(users)
    for name, x in state.items():
        setattr(model, name, x)
    model.forget()
    model.sums, model.accuracy = sums, vectors.accuracy
    return len(new)


def updated_data(
    data: WarmData,
    pairs: Tensor,
    num_users: int,
    features: Mapping[str, Tensor] | None = None,
    mask: Tensor | None = None,
) -> WarmData:
    """Return the training data with more pairs, users and warm items; see `update_model`.

    Raises:
        DataError: a user has every warm item.
    """
    if features is not None and mask is not None:
        names = data.modalities
        rows = {name: data.features[name] for name in names}
        for m, name in enumerate(names):
            new = features.get(name)
            if new is None:
                new = rows[name].new_full((len(mask), rows[name].shape[1]), torch.nan)
            new = new.to(rows[name]).masked_fill(~mask[:, m, None], torch.nan)
            rows[name] = torch.cat([rows[name], new])
        data = dataclasses.replace(data, features=rows, mask=torch.cat([data.mask, mask]))
    every = torch.arange(data.num_items, device=data.device)
    joined = torch.cat([torch.stack(data.pairs, dim=1), pairs])
    return dataclasses.replace(
        data, num_users=num_users, rows=build_user_rows(joined, num_users, every), blocks=None
    )


def check_arguments(
    model: KeepModel,
    pairs: Tensor,
    features: Mapping[str, Tensor] | None,
    mask: Tensor | None,
    num_users: int | None,
) -> int:
    """Return the number of users after an update; raise if its arguments do not fit the model."""
    if (features is None) != (mask is None):
        raise ValueError("update: give both `features` and `mask` of new warm items, or neither.")
    num_items = len(model.counts)
    if features is not None and mask is not None:
        _check_items(model, features, mask)
        num_items += len(mask)
    if pairs.dtype != torch.int64 or pairs.ndim != 2 or pairs.shape[1] != 2:
        raise TypeError(
            "update: `pairs` must be int64 of shape (P, 2), a user and a warm item each, got "
            f"{pairs.dtype} of shape {tuple(pairs.shape)}."
        )
    if len(pairs) and (int(pairs.min()) < 0 or int(pairs[:, 1].max()) >= num_items):
        raise ValueError(
            f"update: `pairs` must have users from 0 and warm items from 0 to {num_items - 1}, got "
            f"users from {int(pairs[:, 0].min())} and items from {int(pairs[:, 1].min())} to "
            f"{int(pairs[:, 1].max())}. Give `features` and `mask` of new warm items."
        )
    present = max(len(model.trained_users), int(pairs[:, 0].max()) + 1 if len(pairs) else 0)
    if num_users is not None and num_users < present:
        raise ValueError(f"update: `num_users` must be at least {present}, got {num_users}.")
    return present if num_users is None else num_users


def _check_items(model: KeepModel, features: Mapping[str, Tensor], mask: Tensor) -> None:
    """Raise if the content of new warm items does not fit the model."""
    columns = len(model.modalities)
    if mask.dtype != torch.bool or mask.ndim != 2 or mask.shape[1] != columns:
        raise TypeError(
            f"update: `mask` must be bool of shape (w, {columns}), got {mask.dtype} of shape "
            f"{tuple(mask.shape)}."
        )
    names = model.regression.modalities
    widths = {
        name: model.regression.get_buffer(f"rows_{m}").shape[1] for m, name in enumerate(names)
    }
    for name, x in features.items():
        if name not in model.modalities:
            raise KeyError(
                f"update: unknown modality {name!r}. The model was fitted on {model.modalities}."
            )
        if x.ndim != 2 or len(x) != len(mask) or x.shape[1] != widths.get(name, x.shape[1]):
            raise ValueError(
                f"update: modality {name!r} must have shape ({len(mask)}, "
                f"{widths.get(name, 'd')}), got {tuple(x.shape)}."
            )


def _vectors(
    model: KeepModel, before: StoredPairs, after: StoredPairs, new: Tensor
) -> tuple[Vectors, PairSums | None]:
    """Return the vectors of all pairs in the form of the model, and H of those that have it."""
    power, dtype = model.options.popularity, model.counts.dtype
    if "user_items" in model._buffers:
        offsets = F.pad(torch.bincount(after.users, minlength=after.num_users).cumsum(0), (1, 0))
        own = DampedPairs.of(offsets, after.items.int(), after.num_items, power, dtype)
        near = F.normalize(model.get_buffer("items"), dim=0)
        near = F.pad(near[:, near.any(dim=0)], (0, 0, 0, after.num_items - before.num_items))
        rank = checked_rank(model.options.rank, after.num_users, after.num_items)
        return SingularVectors(own, rank, near), None
    by_items = "items" in model._buffers
    width = after.num_items if by_items else after.num_users
    if width * (width + after.num_users) > MAX_EXACT:
        raise DataError(
            f"{after.num_users:,} users and {after.num_items:,} training items are too many to "
            "update this model. Fit it again."
        )
    # Rows are summed over: users if the vectors have the width of items.
    ordered = [(p.users, p.items) if by_items else (p.items, p.users) for p in (before, after)]
    sums = model.sums
    if sums is None:
        sums = PairSums.of(*ordered[1], width, power, dtype)
    else:
        changed = torch.unique(new[:, 0 if by_items else 1])
        sums = sums.updated(*ordered, changed, width, power)
    pairs = after.matrix(dtype)
    numbers = item_counts(pairs if by_items else pairs.t().coalesce())
    scales = numbers.clamp(min=1).to(dtype) ** -power
    products = scales[:, None] * sums.products * scales
    x = damped(pairs, power)
    if by_items:
        return ExactVectors(x, products=products), sums
    return UserVectors(x, products=products), sums
