"""Batches: the rows of items that triples need, each distinct item once, or one row for every place."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from milk_recsys.evaluation import Tables
from milk_recsys.model import Batch, Recommender

__all__ = ["PreparedRows", "gather_batch", "gather_static", "prepared_rows"]

PreparedRows = Callable[[Tensor], dict[str, Tensor]]


def prepared_rows(model: Recommender, tables: Tables) -> PreparedRows:
    """Return what gives prepared rows of items (n,): all scaled and imputed once, or as they are read from files."""
    features, observed = tables.features, tables.observed
    if features.mapped:
        return lambda items: model.prepare(features.rows(items), observed[items])
    everything = torch.arange(features.num_items, device=features.device)
    prepared = model.prepare(features.rows(everything), observed)
    return lambda items: {name: x.index_select(0, items) for name, x in prepared.items()}


def gather_batch(
    tables: Tables, prepared: PreparedRows, positives: Tensor, negatives: Tensor, whole: Tensor | None = None
) -> Batch:
    """Collect the rows of the distinct items of a part of a batch: each is encoded once.

    Arguments:
        positives, negatives: (b,) item ids.
        whole: the positives of the whole batch, where other ranks have the rest of it.
    """
    items, index, copies = torch.unique(torch.cat([positives, negatives]), return_inverse=True, return_counts=True)
    leads = torch.zeros(len(items), dtype=torch.bool, device=items.device)
    leads[index[: len(positives)]] = True
    order = leads.logical_not().sort(stable=True).indices  # positive items first
    items, copies = items[order], copies[order]
    index = torch.empty_like(order).index_copy_(0, order, torch.arange(len(order)))[index]
    rows, others = index[: len(positives)], index[len(positives) :]
    shares = torch.ones(int(leads.sum()))
    if whole is not None:
        distinct, counts = torch.unique(whole, return_counts=True)
        counts = counts[torch.searchsorted(distinct, items[: len(shares)])]
        shares = torch.bincount(rows, minlength=len(shares)) / counts.double()
    return _batch(tables, prepared, items, rows, others, copies, shares)


def gather_static(
    tables: Tables, prepared: PreparedRows, positives: Tensor, negatives: Tensor, whole: Tensor | None = None
) -> Batch:
    """Collect one row for every place: more to encode, but shapes do not depend on values, so a GPU never waits.

    Arguments are those of `gather_batch`.
    """
    items = torch.cat([positives, negatives])
    place = torch.arange(len(items), device=items.device)
    rows, others = place[: len(positives)], place[len(positives) :]
    whole = positives if whole is None else whole
    counts = torch.zeros(len(tables.observed), dtype=torch.float64, device=items.device)
    counts.index_add_(0, whole, counts.new_ones(()).expand(len(whole)))
    return _batch(tables, prepared, items, rows, others, torch.ones_like(items), 1 / counts[positives])


def _batch(
    tables: Tables,
    prepared: PreparedRows,
    items: Tensor,
    rows: Tensor,
    others: Tensor,
    copies: Tensor,
    shares: Tensor,
) -> Batch:
    features = prepared(items)
    dtype = next(iter(features.values())).dtype
    return Batch(rows, others, features, tables.observed[items], copies.to(dtype), shares.to(dtype))
