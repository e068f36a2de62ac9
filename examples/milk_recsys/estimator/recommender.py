"""The estimator: fit frames, list items and users, fold in customers, explain, update, save."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from milk_recsys.base.errors import OptionError
from milk_recsys.catalogue.frames import Catalogue
from milk_recsys.catalogue.importers.row_options import RowOptions
from milk_recsys.config.options import Options
from milk_recsys.estimator.abilities import abilities, need
from milk_recsys.estimator.files import open_fitted, save_fitted
from milk_recsys.estimator.fitting import fit_catalogue, fit_user_content
from milk_recsys.estimator.serving import Serving
from milk_recsys.estimator.updating import update

__all__ = ["Recommender", "load"]

FOLDERS = frozenset({"data", "out", "resume", "split"})  # Options that a recommender lacks.


class Recommender(Serving):
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
        DataError: the method comes from another package and has a learner of its own.
        OptionError: the method has no such option, or it is one of folders.

    Example:
        >>> pairs = {"user": ["ann", "ann", "bob", "bob"], "item": ["a", "b", "b", "c"]}
        >>> text = (["a", "b", "c"], [[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
        >>> rec = Recommender("keep", device="cpu").fit(pairs, {"text": text})
        >>> new = {"text": (["d", "e"], [[1.0, 0.1], [0.1, 1.0]])}
        >>> rec.recommend(new, k=1)["item"].to_list()
        ['d', 'e']
    """

    def __init__(self, model: str = "keep", *, fit_all: bool = True, **options: Any) -> None:
        if given := sorted(FOLDERS & options.keys()):
            raise OptionError(
                f"Recommender: {given[0]} is an option of folders, but `fit` gets frames. Use "
                "train.py for a data set in a folder, and milk_recsys.load for its run."
            )
        self.options = Options.of(model, **{"compare": "none", "fit_all": fit_all, **options})
        need(self.options.definition, "recommend", "Recommender")
        self.metrics: dict[str, Any] = {}
        self.notes: tuple[str, ...] = ()

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

    def update(self, pairs: Any, features: Mapping[str, Any] | None = None) -> dict[str, int]:
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


def load(
    folder: Path | str,
    *,
    data: Path | str | None = None,
    device: torch.device | str = "auto",
) -> Recommender:
    """Open a folder that `Recommender.save` wrote, or a finished run of train.py.

    Users and items of a run have the names of its data set if no two are equal, and else their
    numbers. New items are read with the column `item`.

    Arguments:
        folder: the folder.
        data: folder of the data set that a run of train.py was trained on. It is needed if the
            method has no vectors of users and items (`abilities` lacks `vectors`): a closed form is
            then fitted again, and a trained model gets the weights of the run.
        device: a device of torch, or "auto" for a GPU if there is one.

    Raises:
        DataError: the folder is neither, or the data set is needed and is absent or another one.
    """
    fitted, metrics = open_fitted(Path(folder), device, None if data is None else Path(data))
    recommender = Recommender.__new__(Recommender)
    recommender.options, recommender.metrics, recommender.notes = fitted.options, metrics, ()
    recommender._fitted, recommender._new = fitted, None
    return recommender
