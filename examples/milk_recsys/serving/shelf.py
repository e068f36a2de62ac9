"""The new items that are served: an immutable snapshot, which is exchanged when items change."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from threading import Lock
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from milk_recsys.catalogue.importers.ids import Ids
from milk_recsys.estimator.candidates import NewItems, read_new_items
from milk_recsys.estimator.fitted import Fitted
from milk_recsys.ranking.top_projected import find_basis
from milk_recsys.serving.errors import Conflict, NotFound
from milk_recsys.serving.index import Index

__all__ = ["Shelf", "Snapshot"]


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """The new items at one time. Nothing in it ever changes.

    Attributes:
        items: the items, with features and vectors.
        names: their ids, in the order of the vectors.
        places: id -> place.
        index: their vectors, prepared for lists.
    """

    items: NewItems
    names: tuple[str, ...]
    places: Mapping[str, int]
    index: Index

    @classmethod
    def of(cls, fitted: Fitted, items: NewItems, basis: Tensor | None) -> Snapshot:
        """Prepare items for lists.

        Arguments:
            basis: of a subspace near the items, or None.
        """
        names = tuple(items.ids.names)
        places = MappingProxyType({name: place for place, name in enumerate(names)})
        return cls(items, names, places, Index(items.vectors, fitted.scorer.dtype, basis))


class Shelf:
    """The present snapshot, and its exchange.

    A request takes `snapshot` once and is answered from it, whatever changes meanwhile. Changes
    come one after the other, and wait for each other but not for requests.

    Arguments:
        items: the items at the beginning.
        limit: maximum number of items.
        model_lock: held while the model embeds items; its caches are not made for several threads.
    """

    def __init__(self, fitted: Fitted, items: NewItems, limit: int, model_lock: Lock) -> None:
        self._fitted, self._limit, self._model_lock = fitted, limit, model_lock
        self._change = Lock()
        # Items that are added later are near the same subspace, since they come from content, too.
        self.basis = find_basis(items.vectors)
        self.snapshot = Snapshot.of(fitted, items, self.basis)

    def add(self, features: Mapping[str, Any]) -> tuple[str, ...]:
        """Add items at the end, all of them or none; return their ids.

        Arguments:
            features: modality -> a pair (ids, array), as in `Recommender.prepare`.

        Raises:
            DataError: the features cannot be used.
            Conflict: an item is there already, or there would be too many.
        """
        with self._change:
            before = self.snapshot
            with self._model_lock:
                new = read_new_items(self._fitted, features)
            names = tuple(new.ids.names)
            for name in names:
                if name in before.places:
                    raise Conflict("an item of this name is there already. Withdraw it first.")
                if self._fitted.items.find(name) is not None:
                    raise Conflict("an item of this name is a known item, with a vector already.")
            if len(before.names) + len(names) > self._limit:
                raise Conflict(f"there may be at most {self._limit} new items (--max-items).")
            joined = _joined(before.items, new)
            if self.basis is None:  # It is made once there are enough items.
                self.basis = find_basis(joined.vectors)
            self.snapshot = Snapshot.of(self._fitted, joined, self.basis)
        return names

    def withdraw(self, name: str) -> None:
        """Take an item out; the others keep their order.

        Raises:
            NotFound: there is no such new item.
        """
        with self._change:
            before = self.snapshot
            place = before.places.get(name)
            if place is None:
                raise NotFound("there is no new item of this name.")
            kept = torch.arange(len(before.names))
            kept = kept[kept != place]
            rest = _some(before.items, before.names, kept)
            self.snapshot = Snapshot.of(self._fitted, rest, self.basis)


def _joined(first: NewItems, second: NewItems) -> NewItems:
    """Return the items of both, one after the other."""
    count, added = len(first.mask), len(second.mask)
    features = {}
    for name in first.features.keys() | second.features.keys():
        parts = [
            _rows(items, name, size, second if items is first else first)
            for items, size in ((first, count), (second, added))
        ]
        features[name] = torch.cat(parts)
    return NewItems(
        Ids([*first.ids.names, *second.ids.names]),
        features,
        torch.cat([first.mask, second.mask]),
        torch.cat([first.vectors, second.vectors]),
        torch.cat([first.pairs, second.pairs + torch.tensor([0, count])]),
        torch.cat([first.shares, second.shares]),
        first.version,
    )


def _rows(items: NewItems, name: str, count: int, other: NewItems) -> Tensor:
    """Return the features of a modality, or rows of NaN if none of the items has it."""
    if name in items.features:
        return items.features[name]
    width = other.features[name].shape[1]
    return items.vectors.new_full((count, width), torch.nan)


def _some(items: NewItems, names: Sequence[str], kept: Tensor) -> NewItems:
    """Return some of the items; `kept` are their places, increasing."""
    place = torch.full((len(names),), -1, dtype=torch.int64)
    place[kept] = torch.arange(len(kept))
    pairs = torch.stack([items.pairs[:, 0], place[items.pairs[:, 1]]], dim=1)
    return NewItems(
        Ids([names[k] for k in kept.tolist()]),
        {name: x[kept] for name, x in items.features.items()},
        items.mask[kept],
        items.vectors[kept],
        pairs[pairs[:, 1] >= 0],
        items.shares[kept],
        items.version,
    )
