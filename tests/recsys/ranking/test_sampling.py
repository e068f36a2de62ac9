"""Negatives are drawn uniformly from the items of the pool that a user does not have."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch import Tensor

from milk_recsys.catalogue import user_rows
from milk_recsys.catalogue.dataset import DataError
from milk_recsys.catalogue.user_rows import UserRows, build_user_rows
from milk_recsys.ranking import negatives as sampling
from milk_recsys.ranking.negatives import sample_negatives


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def as_pairs(pairs: list[tuple[int, int]]) -> Tensor:
    return torch.tensor(pairs, dtype=torch.int64).reshape(-1, 2)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Tensor, int, Tensor]:
    """Pairs in any order, repeated or outside the pool; every user lacks at least one pool item."""
    num_users = draw(st.integers(1, 5))
    pool = sorted(draw(st.sets(st.integers(0, 30), min_size=1, max_size=9)))
    pairs: list[tuple[int, int]] = []
    for user in range(num_users):
        left = draw(st.sampled_from(pool))
        allowed = [item for item in range(31) if item != left]
        pairs += [(user, item) for item in draw(st.lists(st.sampled_from(allowed), max_size=12))]
    return as_pairs(draw(st.permutations(pairs))), num_users, torch.tensor(pool)


def complement(pairs: Tensor, user: int, pool: Tensor) -> list[int]:
    had = {item for owner, item in pairs.tolist() if owner == user}
    return [item for item in pool.tolist() if item not in had]


@settings(deadline=None)
@given(cases())
def test_rows_hold_the_pool_items_of_each_user(case: tuple[Tensor, int, Tensor]) -> None:
    pairs, num_users, pool = case
    rows = build_user_rows(pairs, num_users, pool)
    for user in range(num_users):
        row = rows.items[rows.offsets[user] : rows.offsets[user + 1]].tolist()
        lacks = complement(pairs, user, pool)
        assert row == [item for item in pool.tolist() if item not in lacks]
        assert rows.free[user] == len(lacks)


@settings(deadline=None)
@given(cases())
def test_kth_draw_is_the_kth_item_of_the_complement(case: tuple[Tensor, int, Tensor]) -> None:
    """With every possible random number in turn, the draws are the complement in its order."""
    pairs, num_users, pool = case
    rows = build_user_rows(pairs, num_users, pool)
    for user in range(num_users):
        expected = complement(pairs, user, pool)
        numbers = (torch.arange(len(expected), dtype=torch.float64) + 0.5) / len(expected)
        users = torch.full((len(expected),), user)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch, "rand", lambda *args, fixed=numbers, **kwargs: fixed)
            drawn = sample_negatives(users, rows, pool)
        assert drawn.tolist() == expected


@settings(deadline=None)
@given(cases(), st.integers(1, 5), st.integers(0, 2**32))
def test_blocks_arrays_and_bisection_give_the_same_draws(
    case: tuple[Tensor, int, Tensor], at_once: int, seed: int
) -> None:
    pairs, num_users, pool = case
    rows = build_user_rows(pairs, num_users, pool)
    users = torch.randint(num_users, (64,), generator=generator(seed))
    drawn = sample_negatives(users, rows, pool, generator=generator(seed))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(user_rows, "PAIRS_AT_ONCE", at_once)
        patch.setattr(sampling, "KEYS_IN_CACHE", 0)
        other = build_user_rows(pairs.int().numpy(), num_users, pool)
        again = sample_negatives(users, other, pool, generator=generator(seed))
        source = generator(seed)
        parts = [
            sample_negatives(part, other, pool, generator=source) for part in torch.split(users, 13)
        ]
    for name in ("offsets", "free", "keys", "pool"):
        assert torch.equal(getattr(rows, name), getattr(other, name))
    assert rows.longest == other.longest == int(rows.offsets.diff().max())
    assert torch.equal(drawn, again)
    assert torch.equal(drawn, torch.cat(parts))


@settings(deadline=None)
@given(cases(), st.booleans())
def test_pairs_come_back_by_number(case: tuple[Tensor, int, Tensor], narrow: bool) -> None:
    pairs, num_users, pool = case
    only = pool[::2] if narrow else None
    rows = build_user_rows(pairs, num_users, pool, only=only)
    kept = set((pool if only is None else only).tolist())
    expected = sorted({(user, item) for user, item in pairs.tolist() if item in kept})
    assert rows.num_pairs == len(expected)
    numbers = torch.arange(rows.num_pairs, dtype=torch.int32)
    users, items = rows.pairs_at(numbers.flip(0))
    assert users.dtype == items.dtype == torch.int64
    assert list(zip(users.tolist(), items.tolist(), strict=True)) == expected[::-1]


@settings(deadline=None)
@given(cases(), st.integers(0, 2**32))
def test_draws_are_negatives_of_the_pool(case: tuple[Tensor, int, Tensor], seed: int) -> None:
    pairs, num_users, pool = case
    rows = build_user_rows(pairs, num_users, pool)
    users = torch.randint(num_users, (64,), generator=generator(seed))
    drawn = sample_negatives(users, rows, pool, generator=generator(seed))
    for user, item in zip(users.tolist(), drawn.tolist(), strict=True):
        assert item in complement(pairs, user, pool)


@pytest.mark.parametrize("extreme", [0.0, 1 - 2.0**-53])
def test_extreme_uniform_draws_stay_inside(extreme: float, monkeypatch: pytest.MonkeyPatch) -> None:
    pool = torch.arange(1000)
    lengths = range(999)
    pairs = as_pairs([(user, item) for user in range(0, 999, 37) for item in range(user)])
    rows = build_user_rows(pairs, len(lengths), pool)
    monkeypatch.setattr(
        torch, "rand", lambda n, **kwargs: torch.full((n,), extreme, dtype=torch.float64)
    )
    drawn = sample_negatives(torch.arange(0, 999, 37), rows, pool)
    first = torch.arange(0, 999, 37)
    assert torch.equal(drawn, first if extreme == 0.0 else torch.full_like(first, 999))


def test_draws_are_uniform() -> None:
    pool = torch.tensor([1, 2, 4, 5, 8, 9, 12, 20])
    pairs = as_pairs([(0, 1), (0, 4), (0, 5), (0, 20), (1, 2), (2, 3)])
    rows = build_user_rows(pairs, 3, pool)
    for user in range(3):
        users = torch.full((20_000,), user)
        drawn = sample_negatives(users, rows, pool, generator=generator(user))
        counts = [int((drawn == item).sum()) for item in complement(pairs, user, pool)]
        assert sum(counts) == 20_000
        assert chisquare(counts).pvalue > 1e-4


def test_neighbouring_users_draw_independently() -> None:
    """In a batch that alternates two users, all pairs of their draws are equally frequent."""
    pool = torch.arange(4)
    rows = build_user_rows(as_pairs([(0, 0), (1, 3)]), 2, pool)
    drawn = sample_negatives(torch.tensor([0, 1] * 9_000), rows, pool, generator=generator(5))
    first, second = drawn.reshape(-1, 2).T
    counts = torch.bincount((first - 1) * 3 + second, minlength=9)
    assert chisquare(counts.tolist()).pvalue > 1e-4


def test_user_without_a_row_draws_from_the_whole_pool() -> None:
    pool = torch.tensor([3, 6, 7])
    rows = build_user_rows(as_pairs([(1, 3), (1, 5)]), 3, pool)
    for user in (0, 2):
        drawn = sample_negatives(torch.full((200,), user), rows, pool, generator=generator(0))
        assert drawn.unique().tolist() == pool.tolist()


def test_no_pairs_and_no_users() -> None:
    pool = torch.tensor([3, 6])
    rows = build_user_rows(as_pairs([]), 2, pool)
    assert rows.offsets.tolist() == [0, 0, 0]
    assert sample_negatives(torch.tensor([0, 1]), rows, pool).shape == (2,)
    none = sample_negatives(torch.empty(0, dtype=torch.int64), rows, pool)
    assert none.shape == (0,)
    assert none.dtype == torch.int64


def test_generator_reproduces_and_leaves_the_global_one_alone() -> None:
    pool = torch.arange(50)
    rows = build_user_rows(as_pairs([(0, 4), (1, 7)]), 2, pool)
    users = torch.tensor([0, 1] * 100)
    state = torch.get_rng_state()
    first = sample_negatives(users, rows, pool, generator=generator(3))
    again = sample_negatives(users, rows, pool, generator=generator(3))
    other = sample_negatives(users, rows, pool, generator=generator(4))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_without_a_generator_the_global_seed_decides() -> None:
    pool = torch.arange(50)
    rows = build_user_rows(as_pairs([(0, 4)]), 1, pool)
    users = torch.zeros(100, dtype=torch.int64)
    state = torch.get_rng_state()
    try:
        torch.manual_seed(1)
        first = sample_negatives(users, rows, pool)
        torch.manual_seed(1)
        again = sample_negatives(users, rows, pool)
    finally:
        torch.set_rng_state(state)
    assert torch.equal(first, again)


def test_user_with_the_whole_pool_is_named() -> None:
    pool = torch.tensor([2, 5])
    pairs = as_pairs([(0, 2), (3, 5), (3, 2), (3, 9), (4, 2), (4, 5)])
    with pytest.raises(DataError, match=r"user 3 \(and 1 more users\) has all 2 items"):
        build_user_rows(pairs, 5, pool)
    with pytest.raises(DataError, match=r"user 3 has all 2 items .* draw negatives from more"):
        build_user_rows(pairs[:4], 5, pool)


@pytest.mark.parametrize(
    ("pairs", "pool", "message"),
    [
        (torch.zeros(3, dtype=torch.int64), [0, 1], r"`pairs` must have shape \(P, 2\)"),
        (torch.zeros(2, 3, dtype=torch.int64), [0, 1], r"got \(2, 3\)"),
        (as_pairs([]), [], "`pool` must hold at least one item"),
        (as_pairs([]), [[0, 1]], r"shape \(n,\), got \(1, 2\)"),
        (as_pairs([]), [0, 2, 1], "strictly increasing"),
        (as_pairs([]), [0, 1, 1], "strictly increasing"),
        (as_pairs([(0, 1), (4, 1)]), [0, 1], "user ids must lie in 0 to 3, got 0 to 4"),
        (as_pairs([(-1, 1)]), [0, 1], "got -1 to -1"),
    ],
)
def test_bad_rows_are_refused(pairs: Tensor, pool: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_user_rows(pairs, 4, torch.tensor(pool, dtype=torch.int64))


def test_bad_draws_are_refused() -> None:
    pool = torch.tensor([2, 5, 6])
    rows = build_user_rows(as_pairs([(0, 2)]), 1, pool)
    with pytest.raises(ValueError, match=r"`users` must have shape \(B,\), got \(1, 1\)"):
        sample_negatives(torch.zeros(1, 1, dtype=torch.int64), rows, pool)
    with pytest.raises(ValueError, match=r"of shape \(3,\), got \(2,\)"):
        sample_negatives(torch.zeros(1, dtype=torch.int64), rows, pool[:2])


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU on this machine")
def test_cuda_draws_without_reading_a_value_back() -> None:
    pool = torch.tensor([1, 2, 4, 5, 8])
    pairs = as_pairs([(0, 1), (0, 4), (1, 8)])
    rows: UserRows = build_user_rows(pairs, 2, pool).to("cuda")
    users, gpu = torch.tensor([0, 1] * 500), torch.device("cuda")
    gpu_users, gpu_pool = users.to(gpu), pool.to(gpu)
    source = torch.Generator(device=gpu).manual_seed(0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        drawn = sample_negatives(gpu_users, rows, gpu_pool, generator=source)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for user in (0, 1):
        assert drawn[gpu_users == user].unique().tolist() == complement(pairs, user, pool)
    on_cpu = sample_negatives(users, rows.to("cpu"), pool, generator=generator(1))
    assert torch.equal(
        sample_negatives(gpu_users, rows, gpu_pool, generator=generator(1)).cpu(), on_cpu
    )
