"""Consecutive blocks divide counts nearly equally."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milk_recsys.base import shares
from milk_recsys.base.shares import equal_shares


@settings(deadline=None)
@given(st.lists(st.integers(0, 30), max_size=40), st.integers(0, 1), st.data())
def test_blocks_have_nearly_equal_sums(counts: list[int], low: int, data: st.DataObject) -> None:
    num_blocks = data.draw(st.integers(1, max(1, len(counts)) if low else 9))
    low = min(low, len(counts))
    starts = equal_shares(np.array(counts, int), num_blocks, min_size=low)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shares, "COUNTS_AT_ONCE", 4)
        in_parts = equal_shares(np.array(counts, int), num_blocks, min_size=low)
    # Elements that count 0 may fall on either side of a boundary.
    ends = np.concatenate([[0], np.cumsum(counts)])
    assert ends[in_parts].tolist() == ends[starts].tolist() or 0 in counts
    largest = max(counts, default=0)
    for each in (starts, in_parts):
        assert len(each) == num_blocks + 1
        assert each[0] == 0
        assert each[-1] == len(counts)
        assert (np.diff(each) >= low).all()
    # A block cannot end within an element, and a small one may need an element nevertheless.
    if low == 0 or num_blocks * largest <= sum(counts):
        for each in (starts, in_parts):
            sizes = np.diff(ends[each])
            assert np.abs(sizes - sum(counts) / num_blocks).max() <= (1 + low) * largest + 1
    # Where blocks may be empty or are large, each ends where it is nearest to its equal share.
    if low == 0 or 2 * num_blocks * largest <= sum(counts):
        wanted = np.array([sum(counts) * block // num_blocks for block in range(num_blocks + 1)])
        nearest = np.abs(ends[:, None] - wanted).min(axis=0)
        for each in (starts, in_parts):
            assert np.abs(ends[each] - wanted).tolist() == nearest.tolist()


@given(st.integers(0, 30), st.integers(1, 9))
def test_elements_that_count_nothing_are_divided_evenly(size: int, num_blocks: int) -> None:
    sizes = np.diff(equal_shares(np.zeros(size, int), num_blocks))
    assert sizes.max() - sizes.min() <= 1


def test_large_counts_are_summed_exactly() -> None:
    assert equal_shares(np.full(4, 2**40), 4).tolist() == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("num_blocks", "min_size"), [(0, 0), (-1, 0), (4, 1), (2, 2), (1, -1)])
def test_impossible_blocks_are_refused(num_blocks: int, min_size: int) -> None:
    with pytest.raises(ValueError, match=f"num_blocks={num_blocks} blocks .* min_size={min_size} "):
        equal_shares(np.ones(3, int), num_blocks, min_size=min_size)
