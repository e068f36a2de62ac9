"""Division of elements into consecutive blocks whose sums are nearly equal."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["equal_shares"]

COUNTS_AT_ONCE = 1 << 20  # Number of elements whose running sum is in memory.


def equal_shares(
    counts: npt.NDArray[np.integer[Any]], num_blocks: int, *, min_size: int = 0
) -> npt.NDArray[np.int64]:
    """Divide elements, such as users, into consecutive blocks with nearly equal sums of counts.

    A block ends after the element whose running sum is nearest to the block's equal share. If all
    counts are 0, blocks have nearly equal numbers of elements.

    Arguments:
        counts: (n,) not negative, such as the number of pairs of each user.
        num_blocks: number B of blocks, at least 1.
        min_size: least number of elements of a block, at most n / B.

    Returns:
        (B + 1,) the first element of each block, then n.

    Raises:
        ValueError: the number of blocks or of their elements is impossible.

    Example:
        >>> equal_shares(np.array([2, 2, 3, 0, 3, 2]), 3).tolist()
        [0, 2, 4, 6]
    """
    if num_blocks < 1 or not 0 <= min_size * num_blocks <= len(counts):
        raise ValueError(
            f"equal_shares: {len(counts)} elements cannot be divided into num_blocks={num_blocks} "
            f"blocks of at least min_size={min_size} elements."
        )
    numbers = np.arange(num_blocks + 1)
    if not counts.any():
        return len(counts) * numbers // num_blocks
    # The running sum is computed for some elements at a time, to save memory.
    firsts = np.arange(0, len(counts), COUNTS_AT_ONCE)
    before = np.cumsum([0, *np.add.reduceat(counts, firsts, dtype=np.int64)])

    def nearest(wanted: int) -> int:
        part = min(int(np.searchsorted(before, wanted, side="right")) - 1, len(firsts) - 1)
        own = counts[firsts[part] : firsts[part] + COUNTS_AT_ONCE]
        # ends[i] is the sum of all counts before element firsts[part] + i.
        ends = before[part] + np.concatenate([[0], np.cumsum(own, dtype=np.int64)])
        place = int(np.searchsorted(ends, wanted))
        # The boundary before `place` may be nearer to the wanted sum than the one at it.
        place -= place > 0 and wanted - ends[place - 1] < ends[place] - wanted
        return int(firsts[part]) + place

    total = int(before[-1])
    inner = [nearest(total * block // num_blocks) for block in range(1, num_blocks)]
    starts: npt.NDArray[np.int64] = np.array([0, *inner, len(counts)])
    # An element with a large count can make blocks too small. Move their boundaries.
    least = min_size * numbers
    starts = np.maximum.accumulate(starts - least) + least
    return np.minimum(starts, len(counts) - least[::-1])
