"""Batches: the item rows of a batch of triples.

`gather_batch` makes one row per distinct item; `gather_static` makes one row per position of the
batch. Steps in compiled loops use `fused.Grouped` instead.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from milk_recsys.catalogue.tables import Tables
from milk_recsys.methods.milk.model import Recommender

__all__ = [
    "PreparedRows",
    "TripleBatch",
    "gather_batch",
    "gather_static",
    "item_shares",
    "prepared_rows",
]


class TripleBatch(NamedTuple):
    """A batch, or a rank's part of one: b triples (user, positive item, negative item).

    Triples refer to items by row. There is either one row per distinct item, so that each item is
    encoded once (`gather_batch`), or one row per position, so that shapes do not depend on values
    (`gather_static`). The p rows of positive items come before the rows of other items.

    Attributes:
        positives: (b,) rows of the positive items.
        negatives: (b,) rows of the negative items.
        features: modality -> (n, d) prepared features of the rows.
        mask: (n, M) bool.
        copies: (n,) number of positions of the batch that refer to each row.
        shares: (p,) weight of each row of a positive item in the alignment: the share of the item's
            positive occurrences in the whole batch for which the row stands (1 / c if the item has
            c rows). The shares of an item sum to 1 over all rows and ranks.
        by_position: whether there is one row per position: rows 0 to b - 1 are the positive items
            of the triples, and rows b to 2 b - 1 their negative items.
    """

    positives: Tensor
    negatives: Tensor
    features: dict[str, Tensor]
    mask: Tensor
    copies: Tensor
    shares: Tensor
    by_position: bool = False


PreparedRows = Callable[[Tensor], dict[str, Tensor]]


def prepared_rows(model: Recommender, tables: Tables, *, buffer_rows: int = 0) -> PreparedRows:
    """Return a function from item ids (n,) to their prepared (scaled and imputed) features.

    Features in memory are prepared once for all items; memory-mapped features at every call.

    Arguments:
        buffer_rows: size of a buffer, in rows, that every call with at most that many items
            overwrites and returns; 0 for none. It saves an allocation in every step.
    """
    features, mask = tables.features, tables.mask
    if features.mapped:
        return lambda items: model.prepare(features.rows(items), mask[items])
    # Preparation does not depend on anything that is trained, so once is enough.
    items = features.items
    prepared = model.prepare(features.rows(items), mask[items])
    whole = torch.cat(list(prepared.values()), dim=1)
    widths = [x.shape[1] for x in prepared.values()]
    row_of_item = None
    if len(items) < features.num_items:
        # An item without features keeps row -1, which index_select below rejects with an error.
        row_of_item = torch.full(
            (features.num_items,), -1, dtype=torch.int64, device=features.device
        )
        row_of_item[items] = torch.arange(len(items), device=features.device)
    buffer = whole.new_zeros(buffer_rows, whole.shape[1])

    def rows(items: Tensor) -> dict[str, Tensor]:
        items = items if row_of_item is None else row_of_item.index_select(0, items)
        out = buffer[: len(items)] if len(items) <= buffer_rows else None
        # One index_select over the concatenated modalities is faster than one per modality.
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
    """Collect one row per distinct item of a batch, or of a rank's part of it.

    Arguments:
        positives, negatives: (b,) item ids.
        whole: the positives of the whole batch if other ranks have parts of it, else None.
    """
    items, rows, counts = torch.unique(positives, return_inverse=True, return_counts=True)
    negative_items, negative_rows, negative_counts = torch.unique(
        negatives, return_inverse=True, return_counts=True
    )
    # Negative items that are also positives share their row; the others get rows after those of the
    # positives. `items` is sorted, so a binary search finds the row of an item that is in it.
    row = torch.searchsorted(items, negative_items).clamp_(max=max(len(items) - 1, 0))
    shared = (
        items[row] == negative_items
        if len(items)
        else torch.zeros_like(negative_items, dtype=torch.bool)
    )
    new = shared.logical_not()
    # A shared row is referred to by its positives and its negatives.
    copies = torch.cat(
        [counts.index_add(0, row[shared], negative_counts[shared]), negative_counts[new]]
    )
    negative_rows = torch.where(shared, row, new.cumsum(0) + (len(items) - 1))[negative_rows]
    shares = torch.ones(len(items))
    if whole is not None:
        shares = item_shares(items, counts, whole)
    items = torch.cat([items, negative_items[new]])
    return _batch(tables, prepared, items, rows, negative_rows, copies, shares)


def gather_static(
    tables: Tables,
    prepared: PreparedRows,
    positives: Tensor,
    negatives: Tensor,
    whole: Tensor | None = None,
) -> TripleBatch:
    """Collect one row per position of the batch, without looking for equal items.

    More rows are encoded than by `gather_batch`, but shapes do not depend on values, so that the
    host does not have to wait for the GPU. Arguments are those of `gather_batch`.
    """
    items = torch.cat([positives, negatives])
    position = torch.arange(len(items), device=items.device)
    rows, negative_rows = position[: len(positives)], position[len(positives) :]
    # Each of an item's c rows has the share 1 / c. `index_add_` counts without the wait for the
    # host that `bincount` has.
    whole = positives if whole is None else whole
    counts = torch.zeros(len(tables.mask), dtype=torch.float64, device=items.device)
    counts.index_add_(0, whole, counts.new_ones(()).expand(len(whole)))
    copies, shares = torch.ones_like(items), 1 / counts[positives]
    batch = _batch(tables, prepared, items, rows, negative_rows, copies, shares)
    return batch._replace(by_position=True)


def item_shares(items: Tensor, counts: Tensor, whole: Tensor) -> Tensor:
    """Return the share of each distinct item's copies in the whole batch that this rank has.

    Arguments:
        items: (p,) the rank's distinct positive items; counts: (p,) their number of copies here.
        whole: (B,) the positives of the whole batch.
    """
    distinct, all_counts = torch.unique(whole, return_counts=True)
    shares: Tensor = counts / all_counts[torch.searchsorted(distinct, items)].double()
    return shares


def _batch(
    tables: Tables,
    prepared: PreparedRows,
    items: Tensor,
    rows: Tensor,
    negative_rows: Tensor,
    copies: Tensor,
    shares: Tensor,
) -> TripleBatch:
    features = prepared(items)
    dtype = next(iter(features.values())).dtype
    copies, shares = copies.to(dtype), shares.to(dtype)
    return TripleBatch(rows, negative_rows, features, tables.mask[items], copies, shares)
