"""Lists as frames: the best items of users, and the best users of items."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import polars as pl
import torch
import torch.nn.functional as F
from torch import Tensor

from milk_recsys.run.scorer import Best

__all__ = ["excluded_rows", "frame_of_lists", "renumbered"]


def renumbered(pairs: Tensor, rows: Tensor, count: int) -> Tensor:
    """Return pairs (P, 2) whose first entries are places in `rows` instead of numbers.

    Arguments:
        rows: (R,) numbers from 0 to count - 1, which may repeat; pairs of other numbers are left
            out.
    """
    order = rows.argsort(stable=True)
    starts = F.pad(torch.bincount(rows, minlength=count).cumsum(0), (1, 0))
    times = starts.diff()[pairs[:, 0]]
    first = starts[pairs[:, 0]].repeat_interleave(times)
    begin = (times.cumsum(0) - times).repeat_interleave(times)
    places = order[first + torch.arange(len(first)) - begin]
    return torch.stack([places, pairs[:, 1].repeat_interleave(times)], dim=1)


def excluded_rows(pairs: Tensor, count: int) -> tuple[Tensor, Tensor] | None:
    """Return pairs (P, 2) of rows and columns, from 0 to count - 1, as offsets and columns.

    None if there are no pairs.
    """
    if not len(pairs):
        return None
    joined = torch.unique(pairs.long(), dim=0)
    offsets = F.pad(torch.bincount(joined[:, 0], minlength=count).cumsum(0), (1, 0))
    return offsets, joined[:, 1].contiguous()


def frame_of_lists(
    blocks: Iterable[Best],
    kinds: tuple[str, str],
    owners: Sequence[str],
    listed: Sequence[str],
    known: Tensor | None = None,
) -> pl.DataFrame:
    """Return one row for each entry of the lists, in the order of the ranks.

    Arguments:
        blocks: lists, whose rows and indices are numbers of `owners` and of `listed`.
        kinds: names of the columns of both.
        known: (n,) bool for a column `known` of the listed, or None.
    """
    names = pl.Series(listed, dtype=pl.String)
    named = pl.Series(owners, dtype=pl.String)
    frames = list(_frames(blocks, kinds, named, names, known))
    if frames:
        return pl.concat(frames)
    flag = {} if known is None else {"known": pl.Boolean}
    schema = {kinds[0]: pl.String, "rank": pl.Int32, kinds[1]: pl.String, **flag}
    return pl.DataFrame(schema={**schema, "score": pl.Float32})


def _frames(
    blocks: Iterable[Best],
    kinds: tuple[str, str],
    owners: pl.Series,
    listed: pl.Series,
    known: Tensor | None,
) -> Iterator[pl.DataFrame]:
    for best in blocks:
        count = best.indices.shape[1]
        # A position of -1 ends a list for which too few candidates are left.
        kept = (best.indices >= 0).flatten()
        ranks = torch.arange(1, count + 1, dtype=torch.int32).repeat(len(best.rows))[kept]
        rows = best.rows.repeat_interleave(count)[kept]
        found = best.indices.flatten()[kept]
        columns = {
            kinds[0]: owners.gather(rows.numpy()),
            "rank": ranks.numpy(),
            kinds[1]: listed.gather(found.numpy()),
        }
        if known is not None:
            columns["known"] = known[found].numpy()
        yield pl.DataFrame({**columns, "score": best.scores.flatten()[kept].numpy()})
