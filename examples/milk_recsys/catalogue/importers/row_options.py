"""Options that decide which rows of a table of interactions count."""

from __future__ import annotations

import dataclasses
from typing import Literal

from milk_recsys.catalogue.raw.conditions import parse_conditions

__all__ = ["RowOptions"]


@dataclasses.dataclass(frozen=True)
class RowOptions:
    """Which rows of a table of interactions count.

    Attributes:
        user_column, item_column: names of these columns.
        time_column: column of times, or None.
        time_format: format of the times as in `strptime`; None to find it.
        rating_column, min_rating: rows with a lower rating are left out.
        implicit_rating: rating that stands for "none was given"; such rows count.
        where: conditions that rows must meet; see `raw.conditions`.
        empty_ids: how to treat rows without a user or an item.
        id_case: whether upper and lower case of ids differ.
        min_pairs: leave out users and items with fewer distinct pairs, until none is left.
    """

    user_column: str = "user"
    item_column: str = "item"
    time_column: str | None = None
    time_format: str | None = None
    rating_column: str | None = None
    min_rating: float | None = None
    implicit_rating: float | None = None
    where: tuple[str, ...] = ()
    empty_ids: Literal["error", "drop"] = "error"
    id_case: Literal["keep", "upper", "lower"] = "keep"
    min_pairs: int = 1

    @property
    def columns(self) -> list[str]:
        """All columns that are read."""
        further = (self.time_column, self.rating_column)
        given = [self.user_column, self.item_column, *(c for c in further if c is not None)]
        return [*given, *(condition.column for condition in parse_conditions(self.where))]
