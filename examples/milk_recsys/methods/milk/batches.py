"""Batches: the rows of items that triples need, each distinct item once, or one row for every place."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from milk_recsys.catalogue.tables import Tables
from milk_recsys.methods.milk.model import Recommender

__all__ = [
    "CompiledGather",
    "PreparedRows",
    "TripleBatch",
    "gather_batch",
    "gather_static",
    "prepared_rows",
]


class TripleBatch(NamedTuple):
    """A part of a batch: b triples of a user, an item they have and one they have not, over rows of items.

    Rows are distinct items, so that each is encoded once (`gather_batch`), or one row for every place, which needs no
    look at the values (`gather_static`). Those of positive items come first.

    Attributes:
        positives: (b,) rows of the positives; negatives: (b,) rows of the negatives.
        features: modality -> (n, d) prepared features of the rows.
        observed: (n, M) bool.
        copies: (n,) how often each row is a positive or a negative.
        shares: (p,) how much each of the p rows of positive items weighs in the alignment: 1 for a distinct item,
            1 / c for one that has c rows. Over all rows and ranks the shares of an item sum to 1.
    """

    positives: Tensor
    negatives: Tensor
    features: dict[str, Tensor]
    observed: Tensor
    copies: Tensor
    shares: Tensor


PreparedRows = Callable[[Tensor], dict[str, Tensor]]


def prepared_rows(model: Recommender, tables: Tables, *, buffer_rows: int = 0) -> PreparedRows:
    """Return what gives prepared rows of items (n,): all scaled and imputed once, or as they are read from files.

    Arguments:
        buffer_rows: where above 0, rows are given in memory that is used again at the next call, room for so many: large
            memory is costly to come by anew in every step.
    """
    features, observed = tables.features, tables.mask
    if features.mapped:
        return lambda items: model.prepare(features.rows(items), observed[items])
    items = features.items
    prepared = model.prepare(features.rows(items), observed[items])
    whole, widths = (
        torch.cat(list(prepared.values()), dim=1),
        [x.shape[1] for x in prepared.values()],
    )
    places = None
    if len(items) < features.num_items:
        places = torch.full((features.num_items,), -1, dtype=torch.int64, device=features.device)
        places[items] = torch.arange(len(items), device=features.device)
    memory = whole.new_zeros(buffer_rows, whole.shape[1])

    def rows(items: Tensor) -> dict[str, Tensor]:  # of all modalities at once
        items = (
            items if places is None else places.index_select(0, items)
        )  # -1, an item left out, raises
        out = memory[: len(items)] if len(items) <= buffer_rows else None
        return dict(
            zip(
                prepared,
                torch.split(torch.index_select(whole, 0, items, out=out), widths, dim=1),
                strict=True,
            )
        )

    return rows


def gather_batch(
    tables: Tables,
    prepared: PreparedRows,
    positives: Tensor,
    negatives: Tensor,
    whole: Tensor | None = None,
) -> TripleBatch:
    """Collect the rows of the distinct items of a part of a batch: each is encoded once.

    Arguments:
        positives, negatives: (b,) item ids.
        whole: the positives of the whole batch, where other ranks have the rest of it.
    """
    items, rows, counts = torch.unique(positives, return_inverse=True, return_counts=True)
    further, others, further_counts = torch.unique(
        negatives, return_inverse=True, return_counts=True
    )
    place = torch.searchsorted(items, further).clamp_(max=max(len(items) - 1, 0))
    known = items[place] == further if len(items) else torch.zeros_like(further, dtype=torch.bool)
    new = known.logical_not()
    copies = torch.cat(
        [counts.index_add(0, place[known], further_counts[known]), further_counts[new]]
    )
    others = torch.where(known, place, new.cumsum(0) + (len(items) - 1))[others]
    shares = torch.ones(len(items))
    if whole is not None:
        shares = _shares(items, counts, whole)
    return _batch(tables, prepared, torch.cat([items, further[new]]), rows, others, copies, shares)


class CompiledGather:
    """`gather_batch` in compiled loops: the same rows, in the order of their first place.

    Arguments:
        num_items: how many items there are.
    """

    def __init__(self, num_items: int) -> None:
        self.place = np.full(num_items, -1, np.int32)

    def __call__(
        self,
        tables: Tables,
        prepared: PreparedRows,
        positives: Tensor,
        negatives: Tensor,
        whole: Tensor | None = None,
    ) -> TripleBatch:
        """Collect the rows; arguments are those of `gather_batch`."""
        from milk_recsys.methods.milk.kernels import find_rows

        size = len(positives)
        rows, others = torch.empty_like(positives), torch.empty_like(positives)
        items, copies = positives.new_empty(2 * size), torch.empty(2 * size, dtype=torch.float64)
        arrays = (
            [x.numpy() for x in (positives, negatives)],
            [x.numpy() for x in (items, rows, others, copies)],
        )
        num_positive, count = find_rows(*arrays[0], self.place, *arrays[1])  # type: ignore[call-arg]
        items, copies, shares = items[:count], copies[:count], torch.ones(num_positive)
        if whole is not None:
            shares = _shares(
                items[:num_positive], torch.bincount(rows, minlength=num_positive), whole
            )
        return _batch(tables, prepared, items, rows, others, copies, shares)


def gather_static(
    tables: Tables,
    prepared: PreparedRows,
    positives: Tensor,
    negatives: Tensor,
    whole: Tensor | None = None,
) -> TripleBatch:
    """Collect one row for every place: more to encode, but shapes do not depend on values, so a GPU never waits.

    Arguments are those of `gather_batch`.
    """
    items = torch.cat([positives, negatives])
    place = torch.arange(len(items), device=items.device)
    rows, others = place[: len(positives)], place[len(positives) :]
    whole = positives if whole is None else whole
    counts = torch.zeros(len(tables.mask), dtype=torch.float64, device=items.device)
    counts.index_add_(0, whole, counts.new_ones(()).expand(len(whole)))
    return _batch(
        tables, prepared, items, rows, others, torch.ones_like(items), 1 / counts[positives]
    )


def _shares(items: Tensor, counts: Tensor, whole: Tensor) -> Tensor:
    """Return which share of its copies in the whole batch is here, for distinct items with their counts here."""
    distinct, all_counts = torch.unique(whole, return_counts=True)
    shares: Tensor = counts / all_counts[torch.searchsorted(distinct, items)].double()
    return shares


def _batch(
    tables: Tables,
    prepared: PreparedRows,
    items: Tensor,
    rows: Tensor,
    others: Tensor,
    copies: Tensor,
    shares: Tensor,
) -> TripleBatch:
    features = prepared(items)
    dtype = next(iter(features.values())).dtype
    copies, shares = copies.to(dtype), shares.to(dtype)
    return TripleBatch(rows, others, features, tables.mask[items], copies, shares)
