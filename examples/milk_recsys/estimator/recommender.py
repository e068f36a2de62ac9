"""The estimator: fit frames, list items and users, fold in customers, explain, update, save."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import polars as pl
import torch

from milk_recsys.base.errors import DataError
from milk_recsys.catalogue.frame_rows import texts_of_ids
from milk_recsys.catalogue.frames import Catalogue
from milk_recsys.catalogue.importers.interactions import RowOptions
from milk_recsys.config.options import Options
from milk_recsys.estimator.abilities import abilities, need
from milk_recsys.estimator.candidates import Candidates, NewItems, read_new_items
from milk_recsys.estimator.customers import (
    Customers,
    customers_from_features,
    customers_from_pairs,
)
from milk_recsys.estimator.explanation import Explanation, explain
from milk_recsys.estimator.files import open_fitted, save_fitted
from milk_recsys.estimator.fitted import Fitted
from milk_recsys.estimator.fitting import fit_catalogue, fit_user_content
from milk_recsys.estimator.lists import excluded_rows, frame_of_lists
from milk_recsys.estimator.queries import ListedUsers, excluded_pairs
from milk_recsys.estimator.updating import update

__all__ = ["Recommender", "load"]

Users = Iterable[Any] | Customers | None


class Recommender:
    """A recommender of new items with missing modalities, on frames in memory.

    Frames are of pandas, polars or Arrow, or mappings of columns. Ids are text, by the rules of
    `Catalogue.from_frames`: 7 and "7" are one user, and "7" and "007" are two.

    Arguments:
        model: name of the method; `abilities` of a fitted recommender lists what it can do.
        fit_all: whether every item is a training item. Otherwise a part of the items is held out,
            as in `train.py`, and `metrics` has their ranking metrics.
        options: further options of train.py, by their names without dashes.

    Attributes:
        metrics: what the fit measured and chose, as metrics.json of a run.
        notes: messages on how the frames were read.

    Raises:
        OptionError: the method has no such option.

    Example:
        >>> pairs = {"user": ["ann", "ann", "bob", "bob"], "item": ["a", "b", "b", "c"]}
        >>> text = (["a", "b", "c"], [[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
        >>> rec = Recommender("keep", device="cpu").fit(pairs, {"text": text})
        >>> new = {"text": (["d", "e"], [[1.0, 0.1], [0.1, 1.0]])}
        >>> rec.recommend(new, k=1)["item"].to_list()
        ['d', 'e']
    """

    def __init__(self, model: str = "keep", *, fit_all: bool = True, **options: Any) -> None:
        self.options = Options.of(model, **{"compare": "none", "fit_all": fit_all, **options})
        need(self.options.definition, "recommend", "Recommender")
        self.metrics: dict[str, Any] = {}
        self.notes: tuple[str, ...] = ()
        self._fitted: Fitted | None = None
        self._new: NewItems | None = None

    @property
    def abilities(self) -> tuple[str, ...]:
        """Names of what the method can do; see `estimator.abilities`."""
        return abilities(self.options.definition)

    @property
    def users(self) -> tuple[str, ...]:
        """Ids of the users."""
        return tuple(self._ready("users").users.names)

    @property
    def items(self) -> tuple[str, ...]:
        """Ids of the known items, with which the model was fitted or updated."""
        return tuple(self._ready("items").items.names)

    def fit(
        self,
        pairs: Any,
        features: Mapping[str, Any],
        *,
        users: str = "user",
        items: str = "item",
        time: str | None = None,
        columns: Mapping[str, tuple[str, ...]] | None = None,
        rows: RowOptions | None = None,
        user_features: Mapping[str, Any] | None = None,
        user_columns: Mapping[str, tuple[str, ...]] | None = None,
        empty_items: Literal["error", "drop"] = "error",
    ) -> Recommender:
        """Fit the method.

        Arguments:
            pairs, features, columns, rows, empty_items: as in `Catalogue.from_frames`.
            users, items, time: names of the columns of `pairs`. Features have the column of items.
                Times are needed for ``split_by="first_seen"``.
            user_features: modality -> frame with the column of users, or a pair (ids, array), for
                `fold_in` of customers without history.
            user_columns: modality -> the columns that are features of users.

        Raises:
            DataError: a frame cannot be read, or the data cannot be used.
            OptionError: options conflict.
        """
        catalogue = Catalogue.from_frames(
            pairs,
            features,
            user=users,
            item=items,
            time=time,
            columns=columns,
            rows=rows,
            empty_items=empty_items,
        )
        own = RowOptions() if rows is None else rows
        own = RowOptions(
            **{**vars(own), "user_column": users, "item_column": items, "min_pairs": 1}
        )
        fitted, metrics, notes = fit_catalogue(catalogue, self.options, own)
        if user_features is not None:
            notes += fit_user_content(fitted, user_features, user_columns or {})
        self._fitted, self._new, self.metrics = fitted, None, metrics
        self.notes = (*catalogue.warnings, *catalogue.notes, *catalogue.dataset.notes, *notes)
        return self

    def prepare(
        self, new_items: Mapping[str, Any], *, first_pairs: Any | None = None
    ) -> NewItems:
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

    def update(
        self, pairs: Any, features: Mapping[str, Any] | None = None
    ) -> dict[str, int]:
        """Add pairs to the model, which may be of new users and of new items.

        The result is that of a fit on all pairs with the chosen options, and the means of the
        content, as they are (`methods.keep.update`).

        Arguments:
            pairs: frame as in `fit`; pairs that are known are ignored.
            features: of the items that are new, as in `fit`.

        Returns:
            numbers of ``new_pairs``, ``new_users`` and ``new_items``.

        Raises:
            DataError: a frame cannot be read, or an item is unknown and has no features.
        """
        result = update(self._ready("update"), pairs, features)
        self._new = None  # Their vectors are those of the model before.
        return result

    def save(self, folder: Path | str) -> None:
        """Write a folder for `load`, which `load_run` and recommend.py open too.

        Raises:
            DataError: the folder exists and is not empty, or cannot be written.
        """
        save_fitted(self._ready("save"), self.metrics, Path(folder))

    # --- helpers

    def _ready(self, where: str) -> Fitted:
        if self._fitted is None:
            raise DataError(f"{where}: the recommender is not fitted yet. Call fit first.")
        return self._fitted

    def _new_items(
        self, given: Mapping[str, Any] | NewItems | None, first_pairs: Any | None
    ) -> NewItems | None:
        if isinstance(given, NewItems):
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


def load(folder: Path | str, *, device: torch.device | str = "auto") -> Recommender:
    """Open a folder that `Recommender.save` wrote, or a finished run of train.py.

    Users and items of a run have the names of its data set if no two are equal, and else their
    numbers. New items are read with the column `item`.

    Raises:
        DataError: the folder is neither, or the method of the run stores no model.
    """
    fitted, metrics = open_fitted(Path(folder), device)
    recommender = Recommender.__new__(Recommender)
    recommender.options, recommender.metrics, recommender.notes = fitted.options, metrics, ()
    recommender._fitted, recommender._new = fitted, None
    return recommender
