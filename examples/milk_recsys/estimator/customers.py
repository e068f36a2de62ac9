"""New customers: from the items that they took, or from their features."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from milk_recsys.base.errors import DataError
from milk_recsys.catalogue.frame_rows import find_ids, is_frame, read_feature_rows
from milk_recsys.catalogue.frames import frame_of
from milk_recsys.catalogue.importers.interactions import read_interactions
from milk_recsys.catalogue.raw.tables import FrameTable
from milk_recsys.estimator.abilities import need
from milk_recsys.estimator.fitted import Fitted

__all__ = ["Customers", "customers_from_features", "customers_from_pairs"]

NAME = "new"  # Name of a customer who is given by a list of items.


@dataclasses.dataclass(frozen=True)
class Customers:
    """Customers who were not in the fit, for the argument `users`.

    Attributes:
        names: their names.
        vectors: (u, D) float64.
        offsets, items: int64 (u + 1,) and (P,), the known items that each of them took.
        version: `Fitted.version` of the vectors.
    """

    names: tuple[str, ...]
    vectors: Tensor
    offsets: Tensor
    items: Tensor
    version: object

    def __len__(self) -> int:
        return len(self.names)


def customers_from_pairs(fitted: Fitted, given: Any) -> Customers:
    """Return one customer for a list of items, or the customers of a frame of pairs.

    Raises:
        DataError: an item is not known, or there is none.
    """
    need(fitted.options.definition, "fold_in", "fold_in")
    advice = "Only items of the fit can be folded in; `update` adds others with their features."
    if is_frame(given):
        found = read_interactions(FrameTable(frame_of(given, "fold_in"), "fold_in"), fitted.rows)
        numbers = torch.from_numpy(
            find_ids(fitted.items, found.items.names, "fold_in: item", advice)
        )
        pairs = torch.from_numpy(found.pairs)
        pairs = torch.unique(torch.stack([pairs[:, 0], numbers[pairs[:, 1]]], dim=1), dim=0)
        names = tuple(found.users.names)
    else:
        numbers = torch.from_numpy(find_ids(fitted.items, given, "fold_in: item", advice))
        pairs = torch.unique(numbers)[:, None]
        pairs = torch.cat([torch.zeros_like(pairs), pairs], dim=1)
        names = (NAME,)
    if not len(pairs):
        raise DataError("fold_in: give at least one item that the customer took.")
    offsets = F.pad(torch.bincount(pairs[:, 0], minlength=len(names)).cumsum(0), (1, 0))
    device = fitted.scorer.device
    vectors = fitted.user_map.vectors(offsets.to(device), pairs[:, 1].to(device))
    return Customers(names, vectors, offsets, pairs[:, 1], fitted.version)


def customers_from_features(fitted: Fitted, features: Mapping[str, Any]) -> Customers:
    """Return customers without history, from the features that `fit` was given for users.

    Raises:
        DataError: the model was fitted without features of users, or a frame cannot be read.
    """
    content = fitted.user_content
    if content is None:
        raise DataError(
            "fold_in: the model was fitted without features of users. Give user_features to fit."
        )
    key, scorer = fitted.rows.user_column, fitted.scorer
    ids, arrays, _ = read_feature_rows(
        features, key, content.dims, content.columns, "fold_in: features"
    )
    rows = {
        name: torch.from_numpy(x).to(scorer.device, torch.float64) for name, x in arrays.items()
    }
    vectors = content.vectors(rows, scorer.user_vectors)
    none = torch.zeros(len(ids) + 1, dtype=torch.int64)
    return Customers(tuple(ids.names), vectors, none, none[:0], fitted.version)
