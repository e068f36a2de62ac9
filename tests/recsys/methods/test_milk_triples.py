"""An epoch of blocks of users has every pair once, and the same batches in any number of ranks."""

from __future__ import annotations

import dataclasses
from collections import Counter

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from milk_recsys.base.distributed import SINGLE_PROCESS, World
from milk_recsys.catalogue.user_blocks import UserBlocks, build_user_blocks
from milk_recsys.methods.milk import triples
from milk_recsys.methods.milk.triples import BatchShares, Triples, block_triples

USERS, ITEMS = 23, 17


def make_pairs(seed: int = 0, share: float = 0.4) -> np.ndarray:
    """Sorted pairs; the last item is nobody's, so that every user has a negative."""
    cells = np.random.default_rng(seed).random((USERS, ITEMS - 1)) < share
    return np.argwhere(cells).astype(np.int32)


def make_blocks(pairs: np.ndarray, num_blocks: int, world: World = SINGLE_PROCESS) -> UserBlocks:
    is_warm = np.ones(ITEMS, dtype=np.bool_)
    return build_user_blocks(
        pairs, USERS, torch.arange(ITEMS), num_blocks, is_warm=is_warm, world=world
    )


def steps_of(
    blocks: UserBlocks,
    batch_size: int,
    seed: int = 3,
    epoch: int = 0,
    *,
    shared: int | None = None,
    compiled: bool = False,
) -> list[Triples]:
    chunks = block_triples(blocks, batch_size, seed, epoch, shared=shared, compiled=compiled)
    return [step for chunk in chunks for step in chunk]


def columns(steps: list[Triples]) -> list[Tensor]:
    return [torch.cat(parts) for parts in zip(*(step[:3] for step in steps), strict=True)]


@settings(deadline=None)
@given(st.lists(st.integers(0, 50), min_size=1, max_size=12), st.integers(1, 40))
def test_shares_add_up_to_the_batches_and_to_the_blocks(sizes: list[int], batch_size: int) -> None:
    shares = BatchShares(np.array(sizes), batch_size)
    total = sum(sizes)
    counts = np.diff(shares.ends(0, shares.num_steps + 3), axis=1)
    assert (counts >= 0).all()
    assert counts.sum(axis=0).tolist() == sizes
    full, rest = divmod(total, batch_size)
    assert counts.sum(axis=1).tolist() == [batch_size] * full + [rest] * bool(rest)
    # Each block gives its share of each batch, up to the rounding of two divisions.
    if total:
        shares_of = np.outer(counts.sum(axis=1), np.array(sizes) / total)
        assert np.abs(counts - shares_of).max() < 2
    # The batches of a chunk do not depend on the chunk.
    parts = [shares.ends(first, first + 3) for first in range(0, shares.num_steps, 3)]
    assert (
        np.concatenate([shares.ends(0, 0), *parts]).tolist()
        == shares.ends(0, shares.num_steps).tolist()
    )


@pytest.mark.parametrize(("num_blocks", "batch_size"), [(1, 7), (5, 16), (23, 4), (8, 10_000)])
def test_every_pair_is_drawn_once_in_an_epoch(num_blocks: int, batch_size: int) -> None:
    pairs = make_pairs()
    users, positives, _ = columns(steps_of(make_blocks(pairs, num_blocks), batch_size))
    drawn = Counter(zip(users.tolist(), positives.tolist(), strict=True))
    assert drawn == Counter(map(tuple, pairs.tolist()))


@pytest.mark.parametrize("num_blocks", [1, 6, 23])
def test_no_negative_is_an_item_of_the_user(num_blocks: int) -> None:
    pairs = make_pairs(share=0.8)
    had = {tuple(pair) for pair in pairs.tolist()}
    blocks, found = make_blocks(pairs, num_blocks), set()
    for epoch in range(30):
        users, _, negatives = columns(steps_of(blocks, 32, epoch=epoch))
        found |= set(zip(users.tolist(), negatives.tolist(), strict=True))
    assert not found & had
    # Every negative of a user with a pair is drawn at some time.
    free = {(user, item) for user in range(USERS) for item in range(ITEMS)} - had
    assert found == {(user, item) for user, item in free if user in set(pairs[:, 0].tolist())}


@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.parametrize("batch_size", [4, 37])
@pytest.mark.parametrize("shared", [None, 3])
def test_parts_of_the_processes_are_the_batches_of_one(
    size: int, batch_size: int, shared: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = make_pairs()
    whole = steps_of(make_blocks(pairs, 8), batch_size, shared=shared)
    assert all(step.sizes is None for step in whole)
    # Fewer triples at once change nothing.
    monkeypatch.setattr(triples, "TRIPLES_AT_ONCE", 3 * batch_size)
    parts = [
        steps_of(make_blocks(pairs, 8, World(rank, size)), batch_size, shared=shared, compiled=True)
        for rank in range(size)
    ]
    assert len({len(part) for part in (whole, *parts)}) == 1
    for step, of_ranks in zip(whole, zip(*parts, strict=True), strict=True):
        for name in ("users", "positives", "negatives"):
            joined = torch.cat([getattr(part, name) for part in of_ranks])
            assert torch.equal(joined, getattr(step, name))
        for part in of_ranks:
            assert part.sizes == [len(other.users) for other in of_ranks]
            assert part.batch_size == step.batch_size <= batch_size


def test_blocks_and_epochs_and_seeds_have_their_own_order() -> None:
    pairs = np.stack([np.repeat([0, 1], 12), np.tile(np.arange(12), 2)], axis=1).astype(np.int32)
    blocks = make_blocks(pairs, 2)
    assert blocks.sizes.tolist() == [12, 12]

    def order(block: int, seed: int = 3, epoch: int = 0) -> list[int]:
        users, positives, _ = columns(steps_of(blocks, 5, seed, epoch))
        return positives[users == block].tolist()

    orders = [order(0), order(1), order(0, epoch=1), order(0, seed=4)]
    assert all(sorted(each) == list(range(12)) for each in orders)
    assert len(set(map(tuple, orders))) == 4
    assert order(0) == orders[0]


def test_positions_of_a_pair_are_uniform() -> None:
    """A pair is in each batch of its epoch equally often."""
    blocks = make_blocks(make_pairs(), 4)
    size = blocks.num_pairs // 4
    user, item = (int(x[0]) for x in blocks.rows[0].pairs_at(torch.tensor([2])))
    batches = []
    for epoch in range(400):
        for number, step in enumerate(steps_of(blocks, size, epoch=epoch)):
            if ((step.users == user) & (step.positives == item)).any():
                batches.append(number)
    counts = np.bincount(batches, minlength=4)[:4]
    assert counts.min() > 65  # 100 expected, with a standard deviation below 9


def test_no_pairs_are_no_steps() -> None:
    assert steps_of(make_blocks(np.empty((0, 2), np.int32), 3), 8) == []


def test_a_learner_refuses_the_blocks_of_other_processes() -> None:
    from types import SimpleNamespace

    from milk_recsys.config.options import Options
    from milk_recsys.methods.milk.learner import Learner

    blocks = dataclasses.replace(make_blocks(make_pairs(), 4), world=World(1, 2))
    with pytest.raises(ValueError, match="Build the tables with the same `world`"):
        Learner(None, SimpleNamespace(blocks=blocks), Options.of("milk"), World(0, 2))  # type: ignore[arg-type]
