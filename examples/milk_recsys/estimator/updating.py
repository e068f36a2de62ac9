"""New pairs in a fitted KEEP, with new users and new items."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from invmod import mask_from_features
from milk_recsys.base.errors import DataError
from milk_recsys.catalogue.frame_rows import read_feature_rows
from milk_recsys.catalogue.frames import frame_of
from milk_recsys.catalogue.importers.ids import Ids
from milk_recsys.catalogue.importers.interactions import read_interactions
from milk_recsys.catalogue.raw.tables import FrameTable
from milk_recsys.estimator.abilities import need
from milk_recsys.estimator.fitted import Fitted
from milk_recsys.methods.keep.fitted import KeepModel
from milk_recsys.methods.keep.update import update_model

__all__ = ["update"]


def update(fitted: Fitted, pairs: Any, features: Mapping[str, Any] | None) -> dict[str, int]:
    """Add pairs to the model. If an error is raised, everything is left as it was.

    Arguments:
        pairs: frame of pairs, read as in `fit`; those that are known are ignored.
        features: of the items that are new, as in `fit`.

    Returns:
        numbers of ``new_pairs``, ``new_users`` and ``new_items``.

    Raises:
        DataError: a frame cannot be read, or a new item has no features.
    """
    need(fitted.options.definition, "update", "update")
    model = cast(KeepModel, fitted.model)
    found = read_interactions(FrameTable(frame_of(pairs, "pairs"), "pairs"), fitted.rows)
    users, items = Ids(fitted.users.names), Ids(fitted.items.names)
    user_numbers = np.array([users.number(name) for name in found.users.names] or [0])
    item_numbers = np.array([items.number(name) for name in found.items.names] or [0])
    new = items.names[len(fitted.items) :]
    rows = mask = None
    if new:
        rows, mask = _content(fitted, new, features)
    numbers = np.stack([user_numbers[found.pairs[:, 0]], item_numbers[found.pairs[:, 1]]], axis=1)
    device = model.counts.device
    fitted.share_choices()
    added = update_model(
        model,
        torch.from_numpy(numbers).to(device),
        features=rows,
        mask=mask,
        num_users=len(users),
    )
    result = {
        "new_pairs": added,
        "new_users": len(users) - len(fitted.users),
        "new_items": len(new),
    }
    fitted.users, fitted.items = users, items
    fitted.facts = {
        **{name: value for name, value in fitted.facts.items() if name != "fingerprint"},
        "users": len(users),
        "items": fitted.facts["items"] + len(new),
        "pairs": fitted.facts["pairs"] + added,
    }
    fitted.changed()
    return result


def _content(
    fitted: Fitted, new: list[str], features: Mapping[str, Any] | None
) -> tuple[dict[str, Tensor], Tensor]:
    """Return the features and the mask (w, M) of the new items."""
    model = cast(KeepModel, fitted.model)
    if features is None:
        raise DataError(
            f"update: {len(new)} items are not known, such as {new[0]!r}. Give their features."
        )
    ids, arrays, _ = read_feature_rows(
        features, fitted.rows.item_column, fitted.dims, fitted.columns, "update: features"
    )
    places = [ids.find(name) for name in new]
    absent = [name for name, place in zip(new, places, strict=True) if place is None]
    if absent:
        raise DataError(
            f"update: {len(absent)} new items have no features, such as {absent[0]!r}. Give them, "
            "or leave out the pairs of these items."
        )
    found = np.array(places, dtype=np.int64)
    rows = {
        name: torch.from_numpy(np.ascontiguousarray(x[found])).to(model.counts)
        for name, x in arrays.items()
    }
    mask = mask_from_features(rows, model.modalities)
    for name in rows.keys() - set(fitted.content_zeros):
        mask[:, model.modalities.index(name)] &= (rows[name] != 0).any(dim=1)
    if not mask.any(dim=1).all():
        empty = new[int(mask.any(dim=1).long().argmin())]
        raise DataError(
            f"update: item {empty!r} has no modality at all. Give it a feature, or leave out its "
            "pairs."
        )
    return rows, mask
