"""The users and the items of lists and exports: a run, a folder of new items, and their labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, cast

import numpy as np
import torch
from torch import Tensor

from milk_recsys.base.errors import DataError
from milk_recsys.catalogue.new_items import Items, read_items
from milk_recsys.catalogue.tsv import read_source_ids
from milk_recsys.estimator.abilities import need
from milk_recsys.estimator.candidates import Candidates, NewItems, read_new_items
from milk_recsys.estimator.files import open_fitted
from milk_recsys.estimator.fitted import Fitted
from milk_recsys.estimator.labels import Labels, labels_of_run
from milk_recsys.methods.keep.fitted import KeepModel
from milk_recsys.methods.keep.user_map import warm_vectors
from milk_recsys.run.scorer import Scorer

__all__ = ["ServedItems", "embed_folder", "open_run_with_items", "read_folder"]

ITEMS_AT_ONCE = 2**14  # Number of items whose features are read at a time.


@dataclasses.dataclass(frozen=True)
class ServedItems:
    """A run, and the items that may be listed: new ones, then known ones.

    Attributes:
        users, new, known: labels. `new` and `known` have no entries if such items are not listed.
        all_known: labels of the known items, whether they are listed or not.
        candidates: vectors of the new and known items.
        notes: messages for the user.
    """

    fitted: Fitted
    users: Labels
    new: Labels
    known: Labels
    all_known: Labels
    candidates: Candidates
    notes: tuple[str, ...]

    @property
    def scorer(self) -> Scorer:
        """The scorer of the run."""
        return self.fitted.scorer

    @property
    def numbers(self) -> list[int]:
        """Number of each candidate: a row of the folder, or an item of the data set."""
        return [*self.new.numbers.tolist(), *self.known.numbers.tolist()]

    @property
    def names(self) -> list[str] | None:
        """Name of each candidate, or None if neither new nor known items have names."""
        if (self.new.names or self.new.ids or self.known.names or self.known.ids) is None:
            return None
        return [*self.new.shown, *self.known.shown]

    @property
    def ids(self) -> list[str] | None:
        """Id of each candidate in the source, or None if they are the names or not known."""
        if self.new.ids is None and self.known.ids is None:
            return None
        return [*(self.new.ids or self.new.shown), *(self.known.ids or self.known.shown)]


def open_run_with_items(
    run: Path,
    items: Path | None,
    *,
    include_warm: bool,
    empty_items: Literal["error", "drop"] = "error",
    device: str = "auto",
    data: Path | None = None,
) -> ServedItems:
    """Open a run, and embed the new items of a folder.

    Arguments:
        items: folder of new items, or None for known items alone.
        include_warm: whether known items are candidates, too.
        data: folder of the data set, which runs of methods without vectors need.

    Raises:
        DataError: the run or the folder cannot be used, or there are no candidates.
    """
    if items is None and not include_warm:
        raise DataError(
            "--items: name a folder of new items, or give --include-warm for the known items."
        )
    fitted, _ = open_fitted(run, device, data)
    users, all_known = labels_of_run(run, fitted)
    if include_warm:
        need(fitted.options.definition, "include_warm", "--include-warm")
    scorer = fitted.scorer
    nothing = np.empty(0, dtype=np.int64)
    new, known = Labels("new item", nothing), Labels("known item", nothing)
    notes: tuple[str, ...] = ()
    blocks = []
    if items is not None:
        found = read_items(
            items, scorer.dims, content_zeros=scorer.content_zeros, empty_items=empty_items
        )
        new, notes = _labels(items, found), found.notes
        blocks.append(embed_folder(scorer, found))
    if include_warm:
        known = all_known
        blocks.append(warm_vectors(cast(KeepModel, scorer.model)))
    number = torch.cat([torch.full((len(new),), -1), torch.arange(len(known))])
    none = torch.empty(0, 2, dtype=torch.int64)
    candidates = Candidates([*new.shown, *known.shown], torch.cat(blocks), number, none)
    return ServedItems(fitted, users, new, known, all_known, candidates, notes)


def read_folder(fitted: Fitted, folder: Path | None) -> tuple[NewItems, tuple[str, ...]]:
    """Read and embed the new items of a folder as the estimator does, and return notes.

    Items are called by their ids in the source, or by their names if no two are equal, or by their
    numbers. None means that there are no new items.

    Raises:
        DataError: the folder cannot be used.
    """
    scorer = fitted.scorer
    if folder is None:
        first = next(iter(scorer.dims))
        empty = np.empty((0, scorer.dims[first]), dtype=np.float32)
        return read_new_items(fitted, {first: (np.empty(0, dtype=str), empty)}), ()
    items = read_items(folder, scorer.dims, content_zeros=scorer.content_zeros)
    labels = _labels(folder, items)
    names = next(
        (
            own
            for own in (labels.ids, labels.names)
            if own is not None and len(set(own)) == len(own)
        ),
        list(map(str, items.ids.tolist())),
    )
    rows = {name: (names, np.asarray(x[items.ids])) for name, x in items.features.items()}
    return read_new_items(fitted, rows), items.notes


def embed_folder(scorer: Scorer, items: Items) -> Tensor:
    """Return the vectors (n, D) of a folder's items.

    Features are read from memory maps in blocks; only the vectors of all items are in memory.
    """
    step = ITEMS_AT_ONCE
    return torch.cat(
        [
            scorer.embed({name: x[rows] for name, x in items.features.items()})
            for rows in np.array_split(items.ids, np.arange(step, len(items.ids), step))
        ]
    )


def _labels(folder: Path, items: Items) -> Labels:
    count = len(next(iter(items.features.values())))
    ids = read_source_ids(folder / "items.tsv", "item", count)

    def kept(labels: Sequence[str] | None) -> list[str] | None:
        return None if labels is None else [labels[number] for number in items.ids.tolist()]

    return Labels("new item", items.ids, kept(items.names), kept(ids))
