"""The protocol of an encoder: cells of a table in, feature rows out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

__all__ = ["Arrays", "Encoder", "Rows"]

Rows = npt.NDArray[np.float32]
Arrays = Mapping[str, npt.NDArray[Any]]


class Encoder(Protocol):
    """Turns the cells of an item into a feature row, always in the same way.

    Attributes:
        kind: name of the class of encoders, by which `saved` loads it.
        width: length of a row.
    """

    kind: str

    @property
    def width(self) -> int:
        """Length of a row."""
        ...

    def encode(self, cells: Sequence[Any]) -> Rows:
        """Return the rows (n, width) of n items; a row of zeros says nothing about its item."""
        ...

    def settings(self) -> dict[str, Any]:
        """Return what `saved` writes as JSON."""
        ...

    def arrays(self) -> Arrays:
        """Return what `saved` writes as arrays."""
        ...
