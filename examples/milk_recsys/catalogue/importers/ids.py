"""Numbers for ids: names of users and items, and pairs of their numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
import polars as pl

from milk_recsys.catalogue.raw.values import plain_ids
from milk_recsys.catalogue.times import first_times

__all__ = ["Ids", "Numbering", "Pairs", "core", "fold_case", "merge_pairs"]

Pairs = npt.NDArray[np.int64]
Case = Literal["keep", "upper", "lower"]


class Ids:
    """Names of users or items, numbered from 0 in the order of their first appearance.

    Example:
        >>> ids = Ids()
        >>> ids.number("b"), ids.number("a"), ids.number("b"), ids.names
        (0, 1, 0, ['b', 'a'])
    """

    def __init__(self, names: Sequence[str] = ()) -> None:
        self._numbers: dict[str, int] = {}
        for name in names:
            self.number(name)

    def number(self, name: str) -> int:
        """Return the number of a name; a new name is given the next number."""
        return self._numbers.setdefault(name, len(self._numbers))

    def find(self, name: str) -> int | None:
        """Return the number of a name, or None for an unknown name."""
        return self._numbers.get(name)

    @property
    def names(self) -> list[str]:
        """All names, in the order of their numbers."""
        return list(self._numbers)

    def __len__(self) -> int:
        return len(self._numbers)


def fold_case(ids: pl.Series, case: Case) -> pl.Series:
    """Return ids in upper or lower case, or as they are."""
    if case == "keep":
        return ids
    return ids.str.to_uppercase() if case == "upper" else ids.str.to_lowercase()


class Numbering:
    """Numbers for one column of ids, assigned block by block; -1 for an empty cell.

    Each distinct id of a block is looked up once, so the time is linear in the number of rows.
    """

    def __init__(self) -> None:
        self.ids, self.is_text = Ids(), True

    def number(self, ids: pl.Series, *, is_text: bool) -> npt.NDArray[np.int64]:
        """Return the number of each id.

        Arguments:
            is_text: whether the ids were texts in the file, not numbers.
        """
        self.is_text = self.is_text and is_text
        distinct = ids.unique(maintain_order=True)
        places = pl.DataFrame(
            {"id": distinct, "number": [-1 if x is None else self.ids.number(x) for x in distinct]},
            schema={"id": pl.String, "number": pl.Int64},
        )
        joined = pl.DataFrame({"id": ids}).join(
            places, on="id", how="left", maintain_order="left", nulls_equal=True
        )
        return joined["number"].to_numpy()

    def final(self, numbers: npt.NDArray[np.int64]) -> tuple[Ids, npt.NDArray[np.int64]]:
        """Return the ids that occur, and their numbers; texts of whole floats are integers."""
        names = plain_ids(self.ids.names) if self.is_text else self.ids.names
        merged = Ids()
        # The order of first appearance among the rows that count: of several assignments to one
        # place the last one remains, so rows are assigned from the last to the first.
        first = np.full(len(names), -1, dtype=np.int64)
        first[numbers[::-1]] = np.arange(len(numbers), dtype=np.int64)[::-1]
        occurring = np.flatnonzero(first >= 0)
        renumbered = np.full(len(names), -1, dtype=np.int64)
        for old in occurring[np.argsort(first[occurring])].tolist():
            renumbered[old] = merged.number(names[old])
        return merged, renumbered[numbers]


def core(pairs: Pairs, least: int) -> npt.NDArray[np.bool_]:
    """Return which pairs remain after users and items with few distinct pairs are left out.

    Leaving out a user may leave an item with too few, and so on; this ends when none has too few.

    Example:
        >>> core(np.array([[0, 0], [0, 1], [1, 0], [1, 1], [2, 1], [2, 2]]), 2).tolist()
        [True, True, True, True, False, False]
    """
    num_items = int(pairs[:, 1].max()) + 1
    keys, first = np.unique(pairs[:, 0] * num_items + pairs[:, 1], return_inverse=True)
    distinct = np.stack([keys // num_items, keys % num_items], axis=1)
    kept = np.ones(len(distinct), dtype=np.bool_)
    while True:
        enough = kept.copy()
        for column in (0, 1):
            counts = np.bincount(
                distinct[kept, column], minlength=int(distinct[:, column].max()) + 1
            )
            enough &= counts[distinct[:, column]] >= least
        if (enough == kept).all():
            return kept[first]
        kept = enough


def merge_pairs(
    pairs: Pairs, num_items: int, times: npt.NDArray[np.float64] | None
) -> tuple[Pairs, npt.NDArray[np.float64] | None]:
    """Return the distinct pairs, sorted by user, then item, and the first time of each.

    Example:
        >>> pairs = np.array([[1, 0], [0, 1], [1, 0]])
        >>> merge_pairs(pairs, 2, np.array([30.0, 10.0, 20.0]))[1].tolist()
        [10.0, 20.0]
    """
    # One integer per pair sorts much faster than rows of two columns.
    keys = np.unique(pairs[:, 0] * num_items + pairs[:, 1])
    first = None if times is None else first_times(pairs, times, num_items)
    return np.stack([keys // num_items, keys % num_items], axis=1), first
