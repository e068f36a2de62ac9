"""Bootstrap resamples and random swaps of units."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

ENTRIES_AT_ONCE = 2**22  # bounds the temporary memory of a block of resamples or swaps


class Resamples:
    """Bootstrap resamples and swaps of U units.

    They are the same for every condition and model, so all comparisons are paired.
    """

    def __init__(self, num_units: int, count: int, seed: int) -> None:
        self.num_units, self.count, self.seed = num_units, count, seed

    def indices(self) -> Iterator[NDArray[np.int64]]:
        """Yield the units (U,) of each bootstrap resample."""
        rng = np.random.default_rng([self.seed, 0])
        for _ in range(self.count):
            yield rng.integers(self.num_units, size=self.num_units)

    def swaps(self) -> Iterator[NDArray[np.bool_]]:
        """Yield bool (U,), True for the units that swap models; each has probability 1/2."""
        for block in self.swap_blocks():
            yield from block

    def swap_blocks(self) -> Iterator[NDArray[np.bool_]]:
        """Yield the same swaps as blocks (b, U) of bounded size."""
        rng = np.random.default_rng([self.seed, 1])
        at_once = max(1, ENTRIES_AT_ONCE // self.num_units)
        for start in range(0, self.count, at_once):
            yield rng.random((min(at_once, self.count - start), self.num_units)) < 0.5

    def swapped_means(self, values: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return the means over units of values (U, ...) with the signs of each swap, (B, ...)."""
        return np.concatenate(
            [(1.0 - 2.0 * swap) @ values / self.num_units for swap in self.swap_blocks()]
        )
