"""Detection of feature rows that were filled in by the publisher of a data set.

An item without a picture, for example, often has a row of zeros, the mean of the other rows, or the
features of a placeholder picture.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["COPIES_SHARE", "LEAST_COPIES", "content_reason", "find_filled"]

ROWS_AT_ONCE = 8192
# A repeated row counts as filled in if at least this many items, and this share of them, have it.
LEAST_COPIES, COPIES_SHARE = 10, 0.005
# A publisher uses one or two placeholders. More different rows that repeat are content, and so is
# a row that most items have.
MOST_PLACEHOLDERS, MOST_SHARE = 3, 0.5
NARROW = 4  # Rows of fewer numbers, such as a price, repeat by chance.


def find_filled(rows: npt.NDArray[Any]) -> dict[str, npt.NDArray[np.int64]]:
    """Find the rows (n, d) that were probably filled in, by kind; rows of NaN are never among them.

    - ``of zeros``;
    - ``equal to the mean`` of all non-zero rows (rows equal to this mean do not change it);
    - ``repeated``: the same row for at least 10 items and at least 0.5% of them.

    Example:
        >>> x = np.vstack([np.eye(3), np.zeros((1, 3)), np.full((1, 3), 1 / 3)])
        >>> {kind: places.tolist() for kind, places in find_filled(x).items()}
        {'of zeros': [3], 'equal to the mean': [4], 'repeated': []}
    """
    total, count = np.zeros(rows.shape[1]), 0
    digests: list[bytes] = []
    zeros = np.zeros(len(rows), dtype=np.bool_)
    known = np.zeros(len(rows), dtype=np.bool_)
    for start, block in _blocks(rows):
        part = slice(start, start + len(block))
        known[part] = ~np.isnan(block).any(axis=1)
        zeros[part] = (block == 0).all(axis=1)
        nonzero = block[known[part] & ~zeros[part]].astype(np.float64)
        total, count = total + nonzero.sum(axis=0), count + len(nonzero)
        # Digests of 8 bytes find equal rows without holding the rows in memory.
        digests += [hashlib.blake2b(row.tobytes(), digest_size=8).digest() for row in block]
    copies = Counter(d for d, k in zip(digests, known & ~zeros, strict=True) if k)
    least = max(LEAST_COPIES, COPIES_SHARE * len(rows))
    repeated = known & ~zeros & np.array([copies[d] >= least for d in digests], dtype=np.bool_)
    means = np.zeros(len(rows), dtype=np.bool_)
    if count > 1:
        mean = total / count
        # The publisher's mean was rounded, and perhaps summed in another order. Values count as
        # equal if they differ by at most 8 units of rounding, relative to the largest value.
        close = 2 * np.finfo(np.float16 if rows.dtype == np.float16 else np.float32).eps
        for start, block in _blocks(rows):
            near = np.abs(block.astype(np.float64) - mean).max(axis=1) <= 4 * close * max(
                np.abs(mean).max(), 1e-12
            )
            means[start : start + len(block)] = near
        means &= known & ~zeros
        varied = known & ~zeros & ~means
        # If all rows are equal, each of them is the mean, and none was filled in.
        if not varied.any():
            means[:] = False
    return {
        "of zeros": np.flatnonzero(zeros),
        "equal to the mean": np.flatnonzero(means),
        "repeated": np.flatnonzero(repeated & ~means),
    }


def content_reason(rows: npt.NDArray[Any], repeated: npt.NDArray[np.int64]) -> str:
    """Return why rows that repeat are content and not placeholders; "" if they may be either.

    Categories repeat by their nature: one-hot rows, counts, and embeddings of a brand or a genre.

    Arguments:
        rows: (n, d), a row of NaN is missing.
        repeated: the rows that repeat, as `find_filled` returns them.

    Example:
        >>> kinds = np.eye(4)[np.arange(60) % 4]
        >>> content_reason(kinds, find_filled(kinds)["repeated"])
        'all values are whole numbers, as in one-hot rows and counts'
    """
    if rows.shape[1] < NARROW:
        return f"rows of {rows.shape[1]} numbers repeat by chance"
    known = np.zeros(len(rows), dtype=np.bool_)
    whole = True
    for start, block in _blocks(rows):
        part = known[start : start + len(block)]
        part[:] = ~np.isnan(block).any(axis=1)
        whole = whole and bool((block[part] == np.floor(block[part])).all())
    if whole:
        return "all values are whole numbers, as in one-hot rows and counts"
    count = int(known.sum())
    if len(repeated) > MOST_SHARE * count:
        return f"{len(repeated)} of {count} rows repeat, as embeddings of categories do"
    distinct = {row.tobytes() for k in repeated for row in (np.asarray(rows[k]),)}
    if len(distinct) > MOST_PLACEHOLDERS:
        return f"{len(distinct)} different rows repeat, as embeddings of categories do"
    return ""


def _blocks(rows: npt.NDArray[Any]) -> Any:
    for start in range(0, len(rows), ROWS_AT_ONCE):
        yield start, np.asarray(rows[start : start + ROWS_AT_ONCE])
