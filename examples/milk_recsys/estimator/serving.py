"""What a fitted recommender answers: lists of items and of users, new customers, explanations."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import polars as pl

from milk_recsys.base.errors import DataError
from milk_recsys.catalogue.frame_rows import texts_of_ids
from milk_recsys.estimator.abilities import need
from milk_recsys.estimator.candidates import Candidates, NewItems, read_new_items
from milk_recsys.estimator.customers import (
    Customers,
    customers_from_features,
    customers_from_pairs,
)
from milk_recsys.estimator.evaluation import evaluate
from milk_recsys.estimator.explanation import Explanation, explain
from milk_recsys.estimator.fitted import Fitted
from milk_recsys.estimator.lists import excluded_rows, frame_of_lists
from milk_recsys.estimator.queries import ListedUsers, excluded_pairs

__all__ = ["Serving"]

Users = Iterable[Any] | Customers | None


class Serving:
    """The part of `Recommender` that only reads the fitted model."""

    _fitted: Fitted | None = None
    _new: NewItems | None = None

    def prepare(self, new_items: Mapping[str, Any], *, first_pairs: Any | None = None) -> NewItems:
        """Read and embed new items once, for several calls of the other methods.

        Arguments:
            new_items: modality -> frame, or a pair (ids, array), as the features of `fit`. An item
                may lack modalities; an absent modality is missing for all of them.
            first_pairs: frame of the pairs that new items have already. Their vectors then come
                from content and pairs together.

        Raises:
            DataError: a frame cannot be read, or an item has no modality.
        """
        self._new = read_new_items(self._ready("prepare"), new_items, first_pairs)
        return self._new

    def recommend(
        self,
        new_items: Mapping[str, Any] | NewItems | None = None,
        k: int = 20,
        *,
        users: Users = None,
        exclude: Any | None = None,
        where: Iterable[Any] | None = None,
        include_warm: bool = False,
        first_pairs: Any | None = None,
    ) -> pl.DataFrame:
        """List the best items of each user.

        Arguments:
            new_items, first_pairs: as in `prepare`, or its result. None: the items of the last
                call, if there was one.
            k: maximum length of a list.
            users: ids, or the result of `fold_in`; None for all users with a training pair.
            exclude: frame of pairs that must not be listed.
            where: ids of the items that may be listed, for example those in stock.
            include_warm: whether known items are candidates, too. The items that a user has are
                left out.

        Returns:
            a frame with the columns of users and items, `rank` from 1 and `score`; with
            `include_warm` also `known`. A list is shorter if fewer candidates are left. Scores
            order the items of one user and have no unit.

        Raises:
            DataError: an id is unknown, a frame cannot be read, or there are no candidates.
            ValueError: k is below 1.
        """
        fitted = self._ready("recommend")
        listed = ListedUsers.of(fitted, users, "recommend")
        items = self._candidates(new_items, first_pairs, include_warm, where)
        excluded = excluded_pairs(fitted, listed, items, exclude)
        blocks = fitted.scorer.best_items(
            items.vectors, k, listed.rows, exclude=excluded_rows(excluded, len(listed.names))
        )
        kinds = (fitted.rows.user_column, fitted.rows.item_column)
        known = items.known >= 0 if include_warm else None
        return frame_of_lists(blocks, kinds, listed.owners(fitted), items.names, known)

    def audience(
        self,
        new_items: Mapping[str, Any] | NewItems | None = None,
        k: int = 20,
        *,
        users: Iterable[Any] | None = None,
        exclude: Any | None = None,
        where: Iterable[Any] | None = None,
        include_warm: bool = False,
        first_pairs: Any | None = None,
    ) -> pl.DataFrame:
        """List the best users of each item; arguments and errors are those of `recommend`.

        Returns:
            a frame with the columns of items and users, `rank` from 1 and `score`. Scores order
            the users of one item.
        """
        fitted = self._ready("audience")
        listed = ListedUsers.of(fitted, users, "audience").sorted()
        items = self._candidates(new_items, first_pairs, include_warm, where)
        excluded = excluded_pairs(fitted, listed, items, exclude).flip(1)
        blocks = fitted.scorer.best_users(
            items.vectors, k, listed.rows, exclude=excluded_rows(excluded, len(items.names))
        )
        kinds = (fitted.rows.item_column, fitted.rows.user_column)
        return frame_of_lists(blocks, kinds, items.names, fitted.users.names)

    def fold_in(
        self, items: Any | None = None, *, features: Mapping[str, Any] | None = None
    ) -> Customers:
        """Return customers who were not in the fit, for the argument `users`.

        Arguments:
            items: ids of the known items that one customer took; or a frame of pairs of several
                customers. The vector is that of a user of the fit with the same pairs.
            features: modality -> frame with the column of users: customers without history, if the
                model was fitted with `user_features`.

        Raises:
            DataError: an item is not known, or neither argument or both are given.
        """
        fitted = self._ready("fold_in")
        if (items is None) == (features is None):
            raise DataError("fold_in: give either items (or pairs), or features of the customers.")
        if features is not None:
            return customers_from_features(fitted, features)
        return customers_from_pairs(fitted, items)

    def explain(
        self, user: Any, item: Any, new_items: Mapping[str, Any] | NewItems | None = None
    ) -> Explanation:
        """Return the parts of the score of an item for a user, which sum to it.

        Arguments:
            user: an id, or the result of `fold_in` for one customer.
            item: id of a new item, or of a known one.
            new_items: as in `recommend`.

        Raises:
            DataError: an id is unknown, or the method cannot explain.
        """
        fitted = self._ready("explain")
        need(fitted.options.definition, "explain", "explain")
        users = ListedUsers.of(fitted, user if isinstance(user, Customers) else [user], "explain")
        if len(users.names) != 1:
            raise DataError(f"explain: give one user, got {len(users.names)}.")
        new = self._new_items(new_items, None)
        return explain(fitted, users.names[0], users.items, texts_of_ids([item], "item")[0], new)

    def evaluate(
        self, pairs: Any, new_items: Mapping[str, Any] | NewItems | None = None
    ) -> dict[str, dict[str, float]]:
        """Measure the lists on pairs that the model has not seen.

        Arguments:
            pairs: frame of held-out pairs, of new items and possibly of known ones.
            new_items: as in `recommend`.

        Returns:
            ``new_only`` and, for KEEP, ``overall``: see `estimator.evaluation.evaluate`.

        Raises:
            DataError: no pair can be ranked, or there are no new items.
        """
        new = self._new_items(new_items, None)
        if new is None:
            raise DataError("evaluate: give `new_items`, modality -> frame.")
        return evaluate(self._ready("evaluate"), pairs, new)

    def parts(
        self, new_items: Mapping[str, Any] | NewItems | None = None
    ) -> tuple[Fitted, NewItems]:
        """Return the fitted model and the new items, for a server.

        Raises:
            DataError: the recommender is not fitted, or there are no new items.
        """
        new = self._new_items(new_items, None)
        if new is None:
            raise DataError("parts: give `new_items`, modality -> frame.")
        return self._ready("parts"), new

    # --- helpers

    def _ready(self, where: str) -> Fitted:
        if self._fitted is None:
            raise DataError(f"{where}: the recommender is not fitted yet. Call fit first.")
        return self._fitted

    def _new_items(
        self, given: Mapping[str, Any] | NewItems | None, first_pairs: Any | None
    ) -> NewItems | None:
        if isinstance(given, NewItems):
            self._ready("new_items").check_version(
                given.version, "new_items: the result of prepare"
            )
            self._new = given
        elif given is not None:
            self.prepare(given, first_pairs=first_pairs)
        elif first_pairs is not None:
            raise DataError("first_pairs: give the new items as well.")
        return self._new

    def _candidates(
        self,
        new_items: Mapping[str, Any] | NewItems | None,
        first_pairs: Any | None,
        include_warm: bool,
        where: Iterable[Any] | None,
    ) -> Candidates:
        new = self._new_items(new_items, first_pairs)
        return Candidates.of(self._ready(""), new, include_warm=include_warm, where=where)
