"""Categories as rows of zeros and ones: one column for each level that occurs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from milk_recsys.catalogue.encoders.contract import Arrays, Rows

__all__ = ["Categories", "fit_categories"]

MAX_LEVELS = 1000


class Categories:
    """Levels to rows with a one in the column of each level.

    A cell is one tuple of levels for each column of the table; unknown levels are left out.

    Arguments:
        levels: for each column of the table, its levels in the order of their columns in a row.
        separator: text between two levels in a cell of a table.
    """

    kind = "categories"

    def __init__(self, levels: Sequence[Sequence[str]], separator: str = "|") -> None:
        self.separator = separator
        self.levels = tuple(tuple(column) for column in levels)
        places = [(k, level) for k, column in enumerate(self.levels) for level in column]
        self._places = {place: number for number, place in enumerate(places)}

    @property
    def width(self) -> int:
        """Number of levels of all columns."""
        return len(self._places)

    def encode(self, cells: Sequence[Sequence[Sequence[str]]]) -> Rows:
        """Return the rows (n, width) of items."""
        rows = np.zeros((len(cells), self.width), dtype=np.float32)
        for row, columns in enumerate(cells):
            for k, levels in enumerate(columns):
                for level in levels:
                    place = self._places.get((k, level))
                    if place is not None:
                        rows[row, place] = 1
        return rows

    def settings(self) -> dict[str, Any]:
        """Return the levels, and what separates them."""
        return {"levels": [list(column) for column in self.levels], "separator": self.separator}

    def arrays(self) -> Arrays:
        """Return nothing."""
        return {}

    @classmethod
    def restore(cls, settings: Mapping[str, Any], _: Arrays) -> Categories:
        """Return the encoder that was saved."""
        return cls(settings["levels"], settings.get("separator", "|"))


def fit_categories(
    cells: Sequence[Sequence[Sequence[str]]], num_columns: int, separator: str = "|"
) -> tuple[Categories, int]:
    """Return an encoder of the levels that occur, and the number of levels left out.

    At most `MAX_LEVELS` of a column are kept, the most frequent ones, in alphabetical order.

    Example:
        >>> encoder, _ = fit_categories([[["red"], ["S", "M"]], [["blue"], []]], 2)
        >>> encoder.levels, encoder.encode([[["red"], ["M", "XL"]]]).tolist()
        ((('blue', 'red'), ('M', 'S')), [[0.0, 1.0, 1.0, 0.0]])
    """
    counts: list[Counter[str]] = [Counter() for _ in range(num_columns)]
    for columns in cells:
        for k, levels in enumerate(columns):
            counts[k].update(set(levels))
    left_out = sum(max(0, len(count) - MAX_LEVELS) for count in counts)
    # Sorted by frequency and then by name, so that the choice does not depend on the rows' order.
    kept = [sorted(count.items(), key=lambda x: (-x[1], x[0]))[:MAX_LEVELS] for count in counts]
    sorted_levels = [sorted(level for level, _ in column) for column in kept]
    return Categories(sorted_levels, separator), left_out
