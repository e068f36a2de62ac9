"""The answers of the server, from one snapshot each; no HTTP here."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from threading import Lock
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from milk_recsys.estimator.abilities import abilities, need
from milk_recsys.estimator.candidates import NewItems
from milk_recsys.estimator.customers import customers_from_features, customers_from_pairs
from milk_recsys.estimator.explanation import Explanation, explain
from milk_recsys.estimator.fitted import Fitted
from milk_recsys.estimator.recommender import Recommender
from milk_recsys.methods.keep.fitted import KeepModel
from milk_recsys.methods.keep.user_map import warm_vectors
from milk_recsys.ranking.top import Top
from milk_recsys.ranking.top_projected import find_basis
from milk_recsys.serving.errors import Conflict, NotFound
from milk_recsys.serving.index import Index
from milk_recsys.serving.shelf import Shelf

__all__ = ["Entry", "Selection", "Service"]


class Entry(NamedTuple):
    """An entry of a list.

    Attributes:
        name: an item, or a user.
        known: whether it is a known item.
    """

    name: str
    score: float
    known: bool


class Selection(NamedTuple):
    """Which items may be in lists.

    Attributes:
        k: maximum length of a list.
        available: ids of the items that may be listed, or None for all.
        include_warm: whether known items are listed, too.
    """

    k: int
    available: Collection[str] | None = None
    include_warm: bool = False


class _Listed(NamedTuple):
    """Users or customers: vectors (u, D), and the known items that each of them has."""

    vectors: Tensor
    owned: list[Tensor]


class Service:
    """What the server answers. All methods may be called by several threads at once.

    Arguments:
        fitted: the model.
        items: the new items at the beginning.
        max_items: maximum number of new items.

    Raises:
        DataError: the method has no vectors.
    """

    def __init__(self, fitted: Fitted, items: NewItems, max_items: int = 1_000_000) -> None:
        need(fitted.options.definition, "vectors", "serve")
        self.fitted, self.scorer = fitted, fitted.scorer
        self.abilities = frozenset(abilities(fitted.options.definition))
        self._model_lock = Lock()
        self.shelf = Shelf(fitted, items, max_items, self._model_lock)
        self._item_names = tuple(fitted.items.names)
        self._trained = self.scorer.trained_users.nonzero()[:, 0]
        names = fitted.users.names
        self._trained_names = tuple(names[number] for number in self._trained.tolist())
        place = torch.full((self.scorer.num_users,), -1, dtype=torch.int64)
        place[self._trained] = torch.arange(len(self._trained))
        self._place_of_user = place
        trained = self.scorer.user_vectors(self._trained).double()
        self._users = Index(trained, self.scorer.dtype, self.shelf.basis)
        self._known: Index | None = None
        if "include_warm" in self.abilities:
            self._warm = warm_vectors(cast(KeepModel, self.scorer.model))
            self._known = Index(self._warm, self.scorer.dtype, find_basis(self._warm))
            user_map = fitted.user_map
            self._offsets, self._items = user_map.offsets.cpu(), user_map.items.cpu().long()

    @classmethod
    def of(
        cls, recommender: Recommender, new_items: Mapping[str, Any] | NewItems | None = None
    ) -> Service:
        """Return a service of a fitted recommender, which must not be updated while it is served.

        Arguments:
            new_items: as in `Recommender.recommend`; None for the items of the last call.

        Raises:
            DataError: the recommender is not fitted, or there are no new items.
        """
        fitted, new = recommender.parts(new_items)
        return cls(fitted, new)

    # --- lists of items

    def recommend(
        self,
        users: Sequence[str],
        selection: Selection,
        exclude: Mapping[str, Sequence[str]] | None = None,
    ) -> list[list[Entry]]:
        """Return the list of each user.

        Arguments:
            exclude: user -> items that must not be in the user's list; unknown ones are ignored.

        Raises:
            NotFound: a user is unknown.
            Conflict: a user has no training pair.
        """
        numbers = self._numbers(users)
        given = exclude or {}
        listed = _Listed(self.scorer.user_vectors(numbers), self._owned(numbers))
        return self._lists(listed, selection, [given.get(user, ()) for user in users])

    def fold_in(
        self,
        items: Sequence[str] | None,
        features: Mapping[str, Sequence[float]] | None,
        selection: Selection,
        exclude: Sequence[str] = (),
    ) -> list[Entry]:
        """Return the list of a new customer, from known items or from features of the customer.

        Raises:
            NotFound: an item is unknown.
            DataError: the features cannot be used.
        """
        with self._model_lock:
            if features is not None:
                rows = {name: (["new"], [list(row)]) for name, row in features.items()}
                customer = customers_from_features(self.fitted, rows)
            else:
                if any(self.fitted.items.find(name) is None for name in items or ()):
                    raise NotFound("one of the items is not a known item.")
                customer = customers_from_pairs(self.fitted, items)
        listed = _Listed(customer.vectors, [customer.items])
        return self._lists(listed, selection, [exclude])[0]

    def _lists(
        self, listed: _Listed, selection: Selection, excluded: Sequence[Sequence[str]]
    ) -> list[list[Entry]]:
        snapshot, k = self.shelf.snapshot, selection.k
        hidden = _hidden(snapshot.places, len(snapshot.names), selection.available)
        positions = [_joined(hidden, _places(own, snapshot.places)) for own in excluded]
        new = snapshot.index.top(listed.vectors, k, positions)
        entries = _entries(new, snapshot.names, known=False)
        if not selection.include_warm or self._known is None:
            return entries
        warm = self.fitted.items
        hidden = torch.empty(0, dtype=torch.int64)
        if selection.available is not None:
            found = (warm.find(name) for name in selection.available)
            hidden = _others([place for place in found if place is not None], len(warm))
        positions = [
            torch.cat([hidden, owned, _places(own, warm)])
            for owned, own in zip(listed.owned, excluded, strict=True)
        ]
        known = self._known.top(listed.vectors, k, positions)
        both = zip(entries, _entries(known, self._item_names, known=True), strict=True)
        # The sort is stable: of equal scores the new item comes first, as in `Recommender`.
        return [sorted([*a, *b], key=lambda entry: -entry.score)[:k] for a, b in both]

    # --- lists of users

    def audience(
        self,
        items: Sequence[str],
        k: int,
        users: Collection[str] | None = None,
        exclude: Mapping[str, Sequence[str]] | None = None,
    ) -> list[list[Entry]]:
        """Return the best users of each new or known item, among those with a training pair.

        Arguments:
            users: who may be listed; None for all. Unknown ones are ignored, as in `exclude`.
            exclude: item -> users that must not be in its list.

        Raises:
            NotFound: an item is unknown.
        """
        snapshot, given = self.shelf.snapshot, exclude or {}
        hidden = torch.empty(0, dtype=torch.int64)
        if users is not None:
            hidden = _others(self._places_of_users(users), len(self._trained))
        rows, excluded = [], []
        for name in items:
            place = snapshot.places.get(name)
            positions = [hidden, torch.tensor(self._places_of_users(given.get(name, ())))]
            if place is not None:
                rows.append(snapshot.items.vectors[place])
            else:
                number = self.fitted.items.find(name)
                if number is None or self._known is None:
                    raise NotFound("one of the items is neither new nor known.")
                rows.append(self._warm[number])
                positions.append(self._owners(number))
            excluded.append(torch.cat([x.long() for x in positions]))
        found = self._users.top(torch.stack(rows), k, excluded)
        return _entries(found, self._trained_names, known=False)

    # --- explanations and items

    def explain(self, user: str, item: str) -> Explanation:
        """Return the parts of the score of an item for a user.

        Raises:
            NotFound: the user or the item is unknown.
            Conflict: the user has no training pair.
        """
        numbers = self._numbers([user])
        snapshot = self.shelf.snapshot
        if item not in snapshot.places and self.fitted.items.find(item) is None:
            raise NotFound("the item is neither new nor known.")
        with self._model_lock:
            return explain(self.fitted, user, self._owned(numbers)[0], item, snapshot.items)

    def add(self, items: Mapping[str, Mapping[str, Sequence[float]]]) -> tuple[str, ...]:
        """Add new items: name -> modality -> features; return their names. See `Shelf.add`."""
        rows: dict[str, tuple[list[str], list[list[float]]]] = {}
        for name, features in items.items():
            for modality, row in features.items():
                ids, values = rows.setdefault(modality, ([], []))
                ids.append(name)
                values.append(list(row))
        return self.shelf.add(rows)

    # --- helpers

    def _numbers(self, users: Sequence[str]) -> Tensor:
        found = [self.fitted.users.find(name) for name in users]
        if None in found:
            raise NotFound("one of the users is unknown. Use fold-in for a new customer.")
        numbers = torch.tensor(found, dtype=torch.int64)
        if not bool(self.scorer.trained_users[numbers].all()):
            raise Conflict("one of the users has no training pair, so nothing is known of them.")
        return numbers

    def _owned(self, numbers: Tensor) -> list[Tensor]:
        """Return the known items that each user has."""
        if self._known is None:
            return [torch.empty(0, dtype=torch.int64) for _ in numbers]
        starts = self._offsets
        return [self._items[int(starts[n]) : int(starts[n + 1])] for n in numbers.tolist()]

    def _owners(self, item: int) -> Tensor:
        """Return the places of the users who have a known item."""
        at = (self._items == item).nonzero()[:, 0]
        owners = torch.searchsorted(self._offsets, at, right=True) - 1
        return self._place_of_user[owners]

    def _places_of_users(self, users: Collection[str]) -> list[int]:
        found = (self.fitted.users.find(name) for name in users)
        places = (int(self._place_of_user[number]) for number in found if number is not None)
        return [place for place in places if place >= 0]


def _places(names: Sequence[str], known: Any) -> Tensor:
    """Return the places of names in a mapping or in `Ids`; unknown ones are left out."""
    find = known.get if isinstance(known, Mapping) else known.find
    return torch.tensor([p for name in names if (p := find(name)) is not None], dtype=torch.int64)


def _hidden(places: Mapping[str, int], count: int, available: Collection[str] | None) -> Tensor:
    """Return the places of the items that are not available."""
    if available is None:
        return torch.empty(0, dtype=torch.int64)
    return _others([places[name] for name in available if name in places], count)


def _others(places: Sequence[int], count: int) -> Tensor:
    """Return the places from 0 to count - 1 that are not given."""
    kept = torch.ones(count, dtype=torch.bool)
    kept[torch.tensor(places, dtype=torch.int64)] = False
    return kept.nonzero()[:, 0]


def _joined(first: Tensor, second: Tensor) -> Tensor:
    return torch.cat([first, second]) if len(second) else first


def _entries(found: Top, names: Sequence[str], *, known: bool) -> list[list[Entry]]:
    """Return lists with names; a position of -1 ends a list."""
    return [
        [
            Entry(names[place], score, known)
            for place, score in zip(places, scores, strict=True)
            if place >= 0
        ]
        for places, scores in zip(found.positions.tolist(), found.scores.tolist(), strict=True)
    ]
