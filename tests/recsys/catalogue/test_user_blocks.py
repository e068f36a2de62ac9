"""Users are divided into consecutive blocks with nearly equal numbers of pairs."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from milk_recsys.catalogue.user_blocks import UserBlocks


@given(st.lists(st.integers(0, 50), max_size=40), st.integers(1, 9))
def test_blocks_cover_all_users_and_have_nearly_equal_numbers_of_pairs(counts, num_blocks):
    counts = torch.tensor(counts, dtype=torch.int64)
    starts = UserBlocks.of(counts, num_blocks).starts
    assert starts[0] == 0
    assert starts[-1] == len(counts)
    assert len(starts) == num_blocks + 1
    assert list(starts) == sorted(starts)
    sums = [int(counts[start:end].sum()) for start, end in itertools.pairwise(starts)]
    largest = int(counts.max()) if len(counts) else 0
    assert all(abs(each - sum(sums) / num_blocks) <= largest for each in sums)


@given(st.integers(0, 30), st.integers(1, 9))
def test_users_without_pairs_are_divided_evenly(num_users, num_blocks):
    starts = UserBlocks.of(torch.zeros(num_users, dtype=torch.int64), num_blocks).starts
    sizes = [end - start for start, end in itertools.pairwise(starts)]
    assert max(sizes) - min(sizes) <= 1


@given(st.lists(st.integers(0, 50), max_size=40), st.integers(1, 9), st.integers(1, 5))
def test_processes_have_all_users_in_the_order_of_ranks(counts, num_blocks, world_size):
    blocks = UserBlocks.of(torch.tensor(counts, dtype=torch.int64), num_blocks)
    ends = [blocks.of_rank(rank, world_size) for rank in range(world_size)]
    assert ends[0][0] == 0
    assert ends[-1][1] == len(counts)
    assert all(one[1] == other[0] for one, other in itertools.pairwise(ends))
    if num_blocks == world_size:
        assert [start for start, _ in ends] == list(blocks.starts[:-1])


def test_the_number_of_blocks_is_checked():
    with pytest.raises(ValueError, match="`num_blocks` must be at least 1, got 0"):
        UserBlocks.of(torch.ones(3, dtype=torch.int64), 0)


def test_many_pairs_are_counted_exactly():
    counts = torch.full((4,), 2**40, dtype=torch.int64)
    assert UserBlocks.of(counts, 4).starts == (0, 1, 2, 3, 4)
