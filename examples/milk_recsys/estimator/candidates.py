"""Candidates of lists: new items from frames, known items, and pairs that must not be listed."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from invmod import mask_from_features
from milk_recsys.base.errors import DataError
from milk_recsys.catalogue.frame_rows import read_feature_rows, texts_of_ids
from milk_recsys.catalogue.frames import frame_of
from milk_recsys.catalogue.importers.ids import Ids
from milk_recsys.catalogue.importers.interactions import read_interactions
from milk_recsys.catalogue.importers.row_options import RowOptions
from milk_recsys.catalogue.raw.tables import FrameTable
from milk_recsys.estimator.abilities import need
from milk_recsys.estimator.fitted import Fitted
from milk_recsys.methods.keep.first_pairs import vectors_with_pairs
from milk_recsys.methods.keep.fitted import KeepModel
from milk_recsys.methods.keep.user_map import warm_vectors

__all__ = ["Candidates", "NewItems", "named_pairs", "read_new_items"]


@dataclasses.dataclass(frozen=True)
class NewItems:
    """New items, read once and embedded.

    Attributes:
        ids: their ids.
        features: modality -> (n, d_m) float64, on the device of the model.
        mask: bool (n, M), the modalities that they have.
        vectors: (n, D) float64.
        pairs: int64 (P, 2), first pairs: a user of the model and an item, from 0 to n - 1.
        shares: (n,) the share of the content in each vector; the rest comes from first pairs.
        version: `Fitted.version` of the vectors.
    """

    ids: Ids
    features: dict[str, Tensor]
    mask: Tensor
    vectors: Tensor
    pairs: Tensor
    shares: Tensor
    version: object


def read_new_items(
    fitted: Fitted, features: Mapping[str, Any], first_pairs: Any | None = None
) -> NewItems:
    """Read and embed new items.

    Arguments:
        features: modality -> a frame with the column of items, or a pair (ids, array).
        first_pairs: frame of the pairs that some of the new items have already. Pairs of other
            items, or of users who are not known, are not used.

    Raises:
        DataError: the frames cannot be read, or an item has no modality.
    """
    key, scorer = fitted.rows.item_column, fitted.scorer
    ids, arrays, _ = read_feature_rows(features, key, fitted.dims, fitted.columns)
    rows = {
        name: torch.from_numpy(x).to(scorer.device, torch.float64) for name, x in arrays.items()
    }
    mask = mask_from_features(rows, scorer.modalities)
    for name in rows.keys() - scorer.content_zeros:
        mask[:, scorer.modalities.index(name)] &= (rows[name] != 0).any(dim=1)
    if len(ids) and not mask.any(dim=1).all():
        empty = ids.names[int(mask.any(dim=1).long().argmin())]
        raise DataError(f"new_items: item {empty!r} has no modality at all. Leave it out.")
    none = torch.empty(0, 2, dtype=torch.int64, device=scorer.device)
    if first_pairs is None:
        vectors = scorer.embed(rows)
        return NewItems(
            ids, rows, mask, vectors, none, vectors.new_ones(len(vectors)), fitted.version
        )
    need(fitted.options.definition, "first_pairs", "recommend")
    pairs = named_pairs(first_pairs, fitted.rows, "first_pairs", fitted.users, ids).to(none.device)
    vectors, shares = vectors_with_pairs(fitted.user_map, rows, mask, pairs)
    return NewItems(ids, rows, mask, vectors, pairs, shares, fitted.version)


def named_pairs(given: Any, rows: RowOptions, what: str, users: Ids, items: Ids) -> Tensor:
    """Return the distinct pairs (P, 2) of a frame as numbers of users and items.

    Pairs of unknown users or items are left out.
    """
    plain = RowOptions(
        user_column=rows.user_column,
        item_column=rows.item_column,
        empty_ids=rows.empty_ids,
        id_case=rows.id_case,
    )
    found = read_interactions(FrameTable(frame_of(given, what), what), plain)
    maps = [
        np.array([-1 if (n := known.find(name)) is None else n for name in ids.names] or [0])
        for known, ids in ((users, found.users), (items, found.items))
    ]
    numbers = np.stack([maps[k][found.pairs[:, k]] for k in range(2)], axis=1)
    return torch.from_numpy(np.unique(numbers[(numbers >= 0).all(axis=1)], axis=0)).long()


@dataclasses.dataclass(frozen=True)
class Candidates:
    """The items that may be listed.

    Attributes:
        names: ids of the n items, of which the new ones come first.
        vectors: (n, D).
        known: (n,) numbers among the training items, -1 for a new item.
        first: int64 (P, 2), pairs of users and candidates that the new items have already.
    """

    names: list[str]
    vectors: Tensor
    known: Tensor
    first: Tensor

    @classmethod
    def of(
        cls,
        fitted: Fitted,
        new: NewItems | None,
        *,
        include_warm: bool,
        where: Iterable[Any] | None,
    ) -> Candidates:
        """Join new and known items, and keep those of `where`.

        Raises:
            DataError: there are no candidates, or a new item is known and both are listed.
        """
        if new is None and not include_warm:
            raise DataError(
                "recommend: give `new_items`, modality -> frame, or include_warm=True for the "
                "known items."
            )
        names, blocks = ([], []) if new is None else (new.ids.names, [new.vectors])
        known = [-1 if (k := fitted.items.find(name)) is None else k for name in names]
        if include_warm:
            need(fitted.options.definition, "include_warm", "recommend")
            if max(known, default=-1) >= 0:
                twice = next(name for name, k in zip(names, known, strict=True) if k >= 0)
                raise DataError(
                    f"new_items: item {twice!r} is a known item, which include_warm lists already. "
                    "Leave it out."
                )
            names = [*names, *fitted.items.names]
            known += range(len(fitted.items))
            blocks.append(warm_vectors(cast(KeepModel, fitted.scorer.model)))
        first = torch.empty(0, 2, dtype=torch.int64) if new is None else new.pairs.cpu()
        joined = cls(names, torch.cat(blocks), torch.tensor(known, dtype=torch.int64), first)
        if where is None:
            return joined
        allowed = set(texts_of_ids(where, "where"))
        kept = [k for k, name in enumerate(names) if name in allowed]
        if not kept:
            raise DataError(f"where: has none of the {len(names)} candidates.")
        return joined.only(torch.tensor(kept, dtype=torch.int64))

    def only(self, kept: Tensor) -> Candidates:
        """Return some of the candidates.

        Arguments:
            kept: int64 (k,) their places, increasing.
        """
        place = torch.full((len(self.names),), -1, dtype=torch.int64)
        place[kept] = torch.arange(len(kept))
        first = torch.stack([self.first[:, 0], place[self.first[:, 1]]], dim=1)
        return Candidates(
            [self.names[k] for k in kept.tolist()],
            self.vectors[kept.to(self.vectors.device)],
            self.known[kept],
            first[first[:, 1] >= 0],
        )

    @property
    def ids(self) -> Ids:
        """Ids of the candidates."""
        return Ids(self.names)

    def owned(self, offsets: Tensor, items: Tensor) -> Tensor:
        """Return the pairs (P, 2) of users and the candidates that they have.

        Arguments:
            offsets, items: (U + 1,) and (P,), the known items of each user.
        """
        offsets, items = offsets.cpu(), items.cpu().long()
        count = int(items.max()) + 1 if len(items) else 0
        place = torch.full((max(count, int(self.known.max()) + 1, 1),), -1, dtype=torch.int64)
        is_known = (self.known >= 0).nonzero()[:, 0]
        place[self.known[is_known]] = is_known
        users = torch.arange(len(offsets) - 1).repeat_interleave(offsets.diff())
        pairs = torch.stack([users, place[items]], dim=1)
        return pairs[pairs[:, 1] >= 0]
