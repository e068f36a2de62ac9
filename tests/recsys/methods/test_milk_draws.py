"""Draws of negatives: own and shared ones against a reference with sets, and their distribution."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from milk_recsys.catalogue.user_rows import UserRows, build_user_rows
from milk_recsys.methods.milk.draws import SharedItems, draw_shared, draw_triples
from milk_recsys.methods.milk.triples import whole_triples
from milk_recsys.ranking import negatives as module
from milk_recsys.ranking.negatives import ATTEMPTS, sample_shared_negatives

USERS = 7


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def make_rows(seed: int, share: float, pool_size: int = 11) -> UserRows:
    """Pairs of random users with a pool of every third item; nobody has the pool's last item."""
    rng = np.random.default_rng(seed)
    pairs = np.argwhere(rng.random((USERS, pool_size - 1)) < share) * [1, 3]
    return build_user_rows(torch.from_numpy(pairs), USERS, 3 * torch.arange(pool_size))


def reference(user: int, uniform: float, slots: list[int], had: set[int], pool: list[int]) -> int:
    """Return a shared negative by its definition, in plain Python."""
    for _ in range(ATTEMPTS):
        slot = int(uniform * len(slots))
        uniform = uniform * len(slots) - slot
        if slots[slot] not in had:
            return slots[slot]
    candidates = [item for item in slots if item not in had]
    candidates = candidates or [item for item in pool if item not in had]
    return candidates[int(uniform * len(candidates))]


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**32),
    share=st.sampled_from([0.0, 0.3, 0.9, 1.0]),
    size=st.integers(0, 5),
    batch_size=st.integers(1, 30),
)
def test_compiled_draws_and_torch_draws_equal_the_definition(
    seed: int, share: float, size: int, batch_size: int
) -> None:
    rows = make_rows(seed, share)
    chosen = torch.randperm(rows.num_pairs, generator=generator(seed))
    batches = torch.arange(len(chosen)) // batch_size
    num_batches = -(-len(chosen) // batch_size)
    places = draw_shared(num_batches, size, rows.pool, generator(seed + 1))
    shared = SharedItems(places, batches) if size else None
    plain, compiled = (
        draw_triples(rows, chosen, generator(seed), shared=shared, compiled=compiled)
        for compiled in (False, True)
    )
    for ours, theirs in zip(plain, compiled, strict=True):
        assert torch.equal(ours, theirs)
    if shared is None:
        return
    users, _, drawn = (x.tolist() for x in plain)
    uniforms = torch.rand(len(chosen), generator=generator(seed), dtype=torch.float64).tolist()
    had: dict[int, set[int]] = {user: set() for user in range(USERS)}
    for user, item in zip(*(x.tolist() for x in rows.pairs_at(chosen)), strict=True):
        had[user].add(item)
    slots = rows.pool[places].tolist()
    assert drawn == [
        reference(user, uniform, slots[batch], had[user], rows.pool.tolist())
        for user, uniform, batch in zip(users, uniforms, batches.tolist(), strict=True)
    ]


def test_a_shared_negative_is_uniform_among_the_items_the_user_does_not_have() -> None:
    """Also if most of the shared items are the user's, and if all of them are."""
    pool = torch.arange(6)
    pairs = torch.tensor([[0, 0], [0, 1], [0, 2], [1, 0], [1, 1]])
    rows = build_user_rows(pairs, 2, pool)
    places = torch.tensor([[0, 1, 2, 3, 4], [0, 1, 1, 0, 0]])
    users = torch.tensor([0, 1]).repeat_interleave(30_000)
    drawn = sample_shared_negatives(users, rows, places, users, generator=generator(0))
    counts = Counter(zip(users.tolist(), drawn.tolist(), strict=True))
    # User 0 has three of the five items. User 1 has all of them, and draws from the pool.
    expected = {(0, 3): 15_000, (0, 4): 15_000} | {(1, item): 7_500 for item in (2, 3, 4, 5)}
    assert counts.keys() == expected.keys()
    for cell, count in expected.items():
        assert abs(counts[cell] - count) < 450  # Five standard deviations.


def test_every_negative_is_uniform_over_draws_of_the_shared_items() -> None:
    rows = make_rows(1, 0.6)
    num_batches = 40_000
    places = draw_shared(num_batches, 2, rows.pool, generator(1))
    user = int(rows.free.argmin())
    users = torch.full((num_batches,), user)
    batches = torch.arange(num_batches)
    drawn = sample_shared_negatives(users, rows, places, batches, generator=generator(2))
    counts = torch.unique(drawn, return_counts=True)[1]
    free = int(rows.free[user])
    assert len(counts) == free
    assert (counts - num_batches / free).abs().max() < 5 * (num_batches / free) ** 0.5


def test_draws_in_small_parts_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = make_rows(2, 0.9)
    users = torch.arange(USERS).repeat(20)
    places = draw_shared(1, 4, rows.pool, generator(0))
    arguments = (users, rows, places, torch.zeros_like(users))
    whole = sample_shared_negatives(*arguments, generator=generator(3))
    monkeypatch.setattr(module, "CELLS_AT_ONCE", 9)
    assert torch.equal(whole, sample_shared_negatives(*arguments, generator=generator(3)))


@pytest.mark.parametrize("compiled", [False, True])
def test_a_batch_has_at_most_n_shared_negatives(compiled: bool) -> None:
    rng = np.random.default_rng(0)
    pairs = torch.from_numpy(np.argwhere(rng.random((50, 200)) < 0.2))
    pool = torch.arange(200)
    rows = build_user_rows(pairs, 50, pool)
    tables = SimpleNamespace(rows=rows, num_pairs=rows.num_pairs, device=pool.device, pool=pool)

    def epoch(seed: int, shared: int | None) -> list[tuple[Tensor, ...]]:
        chunks = whole_triples(
            tables,  # type: ignore[arg-type]
            128,
            generator(seed),
            shared=shared,
            compiled=compiled,
        )
        return [step[:3] for chunk in chunks for step in chunk]

    had = set(map(tuple, pairs.tolist()))
    for users, _, negatives in epoch(0, 40):
        assert len(torch.unique(negatives)) <= 40
        assert not had & set(zip(users.tolist(), negatives.tolist(), strict=True))
    own = [len(torch.unique(negatives)) for _, _, negatives in epoch(0, None)]
    assert min(own[:-1]) > 60
    # An epoch depends on the seed alone, so that a resumed run repeats it.
    for step, again in zip(epoch(5, 40), epoch(5, 40), strict=True):
        assert all(torch.equal(x, y) for x, y in zip(step, again, strict=True))
