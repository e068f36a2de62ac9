"""Blocks, threads and compiled loops do not change top lists, memory bounds or errors."""

import threading
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from milk_recsys.base.errors import DataError
from milk_recsys.ranking import top as ranking
from milk_recsys.ranking import top_blocks, top_lists
from milk_recsys.ranking.top import Candidates, top_items
from milk_recsys.ranking.top_blocks import Plan, plan_blocks, run_blocks
from milk_recsys.ranking.top_filter import Filter
from milk_recsys.ranking.top_tiles import StoredTiles
from tests.recsys.ranking.test_ranking import cases, check, random_vectors, reference, rows_of


@pytest.fixture(autouse=True)
def restored_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@st.composite
def plans(draw, compiled):
    """Sizes that no default has: one user or one item at a time, uneven spans, more threads."""
    return Plan(
        workers=draw(st.integers(1, 3)),
        compiled=compiled,
        rows=draw(st.integers(1, 6)),
        span=draw(st.integers(1, 45)),
        columns=draw(st.sampled_from([32, 64, 96])),
    )


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kernels", ["numba", "torch"])
@settings(deadline=None, max_examples=120)
@given(data=st.data(), case=cases(), top=st.integers(1, 45), spare=st.integers(0, 3))
def test_any_blocks_and_threads_give_the_lists_of_all_scores(
    dtype, kernels, data, case, top, spare
):
    users, items, exclude = case
    plan = data.draw(plans(kernels == "numba"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(top_lists, "SPARE", spare)
        patch.setattr(ranking, "plan_blocks", lambda *_, **__: plan)
        check(users, items, top, exclude, dtype, Candidates(items, dtype=dtype, kernels=kernels))


@pytest.mark.parametrize("kernels", ["numba", "torch"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("top", [1, 20, 700, 4000])
def test_many_items_with_repeated_vectors(kernels, dtype, top):
    """More than one tile, lists that are cut many times, and rows that float32 cannot decide."""
    users, items = random_vectors(70, 33), random_vectors(3000, 33, seed=1)
    items[1500:2500] = items[:1000]
    items[2500:2600] = items[0]
    rng = np.random.default_rng(top)
    lists = [rng.integers(0, 3000, size) for size in rng.integers(0, 300, 70)]
    lists[3], lists[4] = np.arange(3000), np.arange(1, 3000)
    finder = Candidates(items, dtype=dtype, kernels=kernels)
    check(users, items, top, None, dtype, finder)
    check(users, items, top, rows_of(lists), dtype, finder)


@pytest.mark.parametrize("order", [1, -1])
def test_scores_that_increase_or_decrease_with_the_position(order):
    """In such catalogues a threshold is exceeded by most items, or by none."""
    users = random_vectors(9, 8).abs()
    items = torch.linspace(0, order, 4000)[:, None] * random_vectors(1, 8, seed=1).abs()
    check(users, items, 30, None, finder=Candidates(items, kernels="numba"))


@pytest.mark.parametrize("scale", [1e-320, 1e-160, 1e-30, 1e30, 1e160])
@pytest.mark.parametrize("kernels", ["numba", "torch"])
def test_vectors_of_any_size(kernels, scale):
    users = random_vectors(10, 16).double() * scale
    items = random_vectors(900, 16, seed=1).double()
    items *= torch.exp(4 * random_vectors(900, 1, seed=2).double()) / max(scale, 1e-300)
    check(users, items, 10, finder=Candidates(items, kernels=kernels))


@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("kernels", ["numba", "torch"])
def test_lists_do_not_depend_on_the_number_of_threads(monkeypatch, threads, kernels):
    users, items = random_vectors(1000, 12), random_vectors(700, 12, seed=1)
    users[900:] = users[:100]
    items[350:] = items[:350]
    exclude = rows_of([range(user % 500, 600, 7) for user in range(1000)])
    torch.set_num_threads(1)
    expected = top_items(users, items, 20, exclude=exclude, kernels="torch")
    positions, scores = reference(users[:50], items, 20, (exclude[0][:51], exclude[1]))
    assert np.array_equal(expected.positions[:50], positions)
    assert np.array_equal(expected.scores[:50], scores)
    monkeypatch.setattr(top_blocks, "THREADED_FROM", 0)
    monkeypatch.setattr(top_blocks, "MIN_ROWS", 64)
    torch.set_num_threads(threads)
    best = top_items(users, items, 20, exclude=exclude, kernels=kernels)
    assert torch.equal(best.positions, expected.positions)
    assert torch.equal(best.scores, expected.scores)


@given(
    seed=st.integers(0, 2**32), count=st.integers(1, 200), kept=st.integers(1, 200),
    levels=st.integers(1, 300),
)  # fmt: skip
@settings(deadline=None)
def test_finished_lists_begin_with_the_highest_scores(seed, count, kept, levels):
    from milk_recsys.ranking.top_kernels import finish_lists

    rng = np.random.default_rng(seed)
    values = rng.integers(0, levels, (3, 200)).astype(np.float32)
    columns = np.tile(np.arange(200, dtype=np.int32), (3, 1))
    before = values.copy()
    finish_lists(kept, np.array([0, count, 200]), values, columns)
    for row, n in enumerate((0, count, 200)):
        expected = np.sort(before[row, :n])[::-1][:kept]
        taken = values[row, : min(kept, n)]
        assert np.array_equal(np.sort(taken)[::-1], expected)
        assert np.array_equal(before[row, columns[row, : min(kept, n)]], taken)
        assert len(set(columns[row, : min(kept, n)])) == min(kept, n)
        assert (values[row, n:kept] == -np.inf).all()
        assert (columns[row, n:kept] == 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_both_selections_find_the_same_scores(dtype):
    from milk_recsys.ranking.top_compiled import CompiledTiles

    items, users = random_vectors(777, 5), random_vectors(11, 5, seed=1)
    filter = Filter(items.double(), dtype)
    block = filter.scale_users(users, 0, rows_of([range(user, 777, 2) for user in range(11)]))
    for low, high, kept in ((0, 777, 5), (100, 777, 300), (64, 700, 400), (3, 4, 1)):
        columns, scores = StoredTiles(filter, 96).highest(block, low, high, kept)
        compiled_columns, compiled_scores = CompiledTiles(filter, 64).highest(
            block, low, high, kept
        )
        assert torch.allclose(compiled_scores, scores, rtol=0, atol=float(block.error.max()))
        finite = scores != -torch.inf
        assert torch.equal(compiled_columns[finite], columns[finite])


@given(
    users=st.integers(1, 10**6), items=st.integers(1, 10**9), compiled=st.booleans(),
    held=st.integers(1, 2**28), threads=st.integers(1, 16),
)  # fmt: skip
@settings(deadline=None)
def test_scores_in_memory_are_bounded(users, items, compiled, held, threads):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "get_num_threads", lambda: threads)
        plan = plan_blocks(users, items, on_cpu=True, compiled=compiled, scores_at_once=held)
    assert 1 <= plan.workers <= threads
    assert plan.compiled == compiled
    assert plan.columns % top_blocks.COLUMN_STEP == 0
    # Columns are rounded up to a multiple of COLUMN_STEP, and at least one user is ranked.
    width = plan.columns if compiled else plan.span
    assert plan.workers * plan.rows * (width - top_blocks.COLUMN_STEP) <= held
    assert 1 <= plan.span <= items
    blocks = -(-users // plan.rows)
    assert plan.workers == 1 or blocks >= plan.workers
    # All blocks have nearly the same size: with one user less, they would not suffice.
    assert (plan.rows - 1) * blocks < users


def test_blocks_run_on_threads_of_one_thread_each():
    torch.set_num_threads(2)
    seen, lock = {}, threading.Lock()

    def new_worker():
        def run(start):
            with lock:
                seen[start] = torch.get_num_threads(), threading.get_ident()
            time.sleep(0.01)

        return run

    run_blocks(range(0, 40, 4), 2, new_worker)
    assert sorted(seen) == list(range(0, 40, 4))
    assert {count for count, _ in seen.values()} == {1}
    assert len({ident for _, ident in seen.values()}) == 2
    later = []
    thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert [torch.get_num_threads(), *later] == [2, 2]


@pytest.mark.parametrize("workers", [1, 3])
def test_the_error_of_the_first_block_is_raised(workers):
    done = []

    def new_worker():
        def run(start):
            if start >= 5:
                time.sleep(0.03 if start == 5 else 0)
                raise DataError(f"block {start}")
            done.append(start)

        return run

    with pytest.raises(DataError, match="block 5"):
        run_blocks(range(1000), workers, new_worker)
    assert sorted(done) == list(range(5))


@pytest.mark.parametrize("kernels", ["numba", "torch"])
def test_errors_name_the_first_user_on_any_number_of_threads(monkeypatch, kernels):
    monkeypatch.setattr(
        ranking, "plan_blocks", lambda *_, **__: Plan(3, kernels == "numba", 10, 300, 96)
    )
    users = random_vectors(500, 6)
    users[[77, 78, 300]] = torch.inf
    with pytest.raises(DataError, match="vector of user 77 is not finite"):
        top_items(users, random_vectors(300, 6, seed=1), 5, kernels=kernels)


def test_compiled_loops_are_used_once_they_pay(monkeypatch):
    items, users = random_vectors(100, 4), random_vectors(20, 4, seed=1)
    monkeypatch.setattr(ranking, "COMPILED_FROM", 5000)
    plans_made = []

    def spy(*sizes, **options):
        plans_made.append(plan_blocks(*sizes, **options))
        return plans_made[-1]

    monkeypatch.setattr(ranking, "plan_blocks", spy)
    for kernels in ("auto", "torch", "numba"):
        finder = Candidates(items, kernels=kernels)
        for _ in range(4):
            check(users, items, 5, finder=finder)
    compiled = [plan.compiled for plan in plans_made]
    assert compiled == [False, False, True, True] + [False] * 4 + [True] * 4


def test_without_numba_torch_selects(monkeypatch):
    items, users = random_vectors(100, 4), random_vectors(20, 4, seed=1)
    monkeypatch.setattr(ranking, "find_spec", lambda _: None)
    monkeypatch.setattr(ranking, "COMPILED_FROM", 0)
    finder = Candidates(items)
    check(users, items, 5, finder=finder)
    assert all(isinstance(tiles, StoredTiles) for tiles in finder._tiles)
    with pytest.raises(DataError, match="Numba is not installed"):
        Candidates(items, kernels="numba")


def test_bad_kernels_are_refused():
    with pytest.raises(ValueError, match="`kernels` must be auto, numba or torch, got 'fast'"):
        Candidates(torch.zeros(3, 2), kernels="fast")
    with pytest.raises(DataError, match="it compiles for the CPU"):
        Candidates(torch.zeros(3, 2, device="meta"), kernels="numba")
