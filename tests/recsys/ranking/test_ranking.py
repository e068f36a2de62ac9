"""Top items against a stable sort of all scores, with ties, near ties and excluded items."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from milk_recsys.base.errors import DataError
from milk_recsys.ranking import top, top_blocks, top_lists
from milk_recsys.ranking.top import Candidates, best_columns, top_items


def all_scores(users, items, dtype=torch.float32) -> np.ndarray:
    """Compute every score by its definition: pairwise sums of products in float64."""
    terms = users.double().numpy()[:, None] * items.double().numpy()
    while (width := terms.shape[2]) > 1:
        half = width // 2
        middle = terms[:, :, half : width - half]
        terms = np.concatenate([terms[:, :, :half] + terms[:, :, width - half :], middle], axis=2)
    return terms[:, :, 0].astype(str(dtype).removeprefix("torch."))


def reference(
    users, items, top, exclude=None, dtype=torch.float32
) -> tuple[np.ndarray, np.ndarray]:
    scores = all_scores(users, items, dtype)
    for user in range(len(users) if exclude else 0):
        scores[user, exclude[1][exclude[0][user] : exclude[0][user + 1]].numpy()] = -np.inf
    positions = np.argsort(-scores, axis=1, kind="stable")[:, :top]
    best = np.take_along_axis(scores, positions, 1)
    return np.where(best == -np.inf, -1, positions), best


def check(users, items, top, exclude=None, dtype=torch.float32, finder=None) -> None:
    finder = finder or Candidates(items, dtype=dtype)
    best = finder.top(users, top, exclude=exclude)
    positions, scores = reference(users, items, top, exclude, dtype)
    assert best.positions.dtype == torch.int64
    assert best.scores.dtype == dtype
    assert best.positions.shape == positions.shape
    assert np.array_equal(best.scores.numpy(), scores)
    assert np.array_equal(best.positions.numpy(), positions)


def rows_of(lists) -> tuple[torch.Tensor, torch.Tensor]:
    offsets = torch.tensor([0, *(len(row) for row in lists)]).cumsum(0)
    return offsets, torch.tensor([item for row in lists for item in row], dtype=torch.int64)


def random_vectors(*shape, seed=0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# 1e-42 and products with it are below the normal range of float32.
SCALES = [1.0, 0.0, 1e-30, 1e-42, 1e12]


@st.composite
def cases(draw):
    """Vectors of few distinct values, so that ties are common; some or all items are excluded."""
    num_users = draw(st.integers(0, 5))
    num_items = draw(st.integers(0, 40))
    dim = draw(st.integers(1, 5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    level = draw(st.integers(0, 3))
    scales = draw(st.lists(st.sampled_from(SCALES), min_size=2, max_size=2))
    users, items = (
        torch.from_numpy(rng.integers(-level, level + 1, (count, dim)) * scale)
        for count, scale in zip((num_users, num_items), scales, strict=True)
    )
    share = draw(st.sampled_from([None, 0.0, 0.3, 1.0]))
    lists = [
        rng.permutation(num_items)[: rng.binomial(num_items, share or 0)] for _ in range(num_users)
    ]
    return users, items, None if share is None else rows_of(lists)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@settings(deadline=None, max_examples=200)
@given(
    case=cases(),
    top=st.integers(1, 45),
    held=st.one_of(st.none(), st.integers(1, 300)),
    spare=st.integers(0, 3),
)
def test_lists_are_those_of_all_scores(dtype, case, top, held, spare):
    users, items, exclude = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(top_lists, "SPARE", spare)
        check(
            users, items, top, exclude, dtype, Candidates(items, dtype=dtype, scores_at_once=held)
        )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("top", [1, 20, 200, 4999, 5000, 6000])
def test_many_items(dtype, top):
    """More than one tile, groups of every size, and lists as long as all items or longer."""
    users, items = random_vectors(20, 33), random_vectors(5000, 33, seed=1)
    rng = np.random.default_rng(top)
    lists = [rng.integers(0, 5000, size) for size in rng.integers(0, 300, 20)]
    lists[3], lists[4] = np.arange(5000), np.arange(1, 5000)
    best = np.argsort(-all_scores(users, items), axis=1)
    lists[5] = best[5, :2500]
    check(users, items, top, None, dtype)
    check(users, items, top, rows_of(lists), dtype)


@pytest.mark.parametrize(
    ("rows", "span", "columns"), [(1, 5000, 32), (7, 100, 64), (20, 33, 2048), (3, 4999, 2048)]
)
@pytest.mark.parametrize("kernels", ["numba", "torch"])
def test_lists_do_not_depend_on_blocks(monkeypatch, rows, span, columns, kernels):
    """Positions and float64 scores are equal in every bit."""
    users, items = random_vectors(20, 33).double(), random_vectors(5000, 33, seed=1).double()
    items[2000:3000] = items[:1000]
    exclude = rows_of([range(user, 2500, 3) for user in range(20)])
    whole = Candidates(items, dtype=torch.float64, kernels=kernels)
    at_once = whole.top(users, 50, exclude=exclude)
    single_user = whole.top(users[7:8], 50, exclude=(exclude[0][7:9], exclude[1]))
    assert torch.equal(single_user.scores, at_once.scores[7:8])
    for workers in (1, 3):
        plan = top_blocks.Plan(workers, kernels == "numba", rows, span, columns)
        monkeypatch.setattr(top, "plan_blocks", lambda *_, plan=plan, **__: plan)
        parts = Candidates(items, dtype=torch.float64, kernels=kernels)
        for in_parts, whole_part in zip(
            parts.top(users, 50, exclude=exclude), at_once, strict=True
        ):
            assert torch.equal(in_parts, whole_part)


def test_a_reused_buffer_does_not_change_results():
    finder = Candidates(random_vectors(5000, 8))
    large, small = random_vectors(60, 8), random_vectors(9, 8, seed=2)
    check(large, finder.items, 5, rows_of([range(4000)] * 60), finder=finder)
    check(small, finder.items, 5, finder=finder)
    check(large, finder.items, 5, finder=finder)


@pytest.mark.parametrize("copies", [3, 9, 40, 2000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_near_ties_are_ordered_as_in_float64(copies, dtype):
    """Up to thousands of items have scores that a matrix product in float32 cannot distinguish."""
    users = random_vectors(30, 64).double()
    kinds = random_vectors(4000 // copies, 64, seed=1).double()
    items = kinds.repeat(copies, 1)
    items *= 1 + 3e-7 * random_vectors(len(items), 1, seed=2).double()
    plain = (users.float() @ items.float().T).numpy()
    assert (
        np.argsort(-plain, axis=1, kind="stable")[:, :10]
        != reference(users, items, 10, dtype=dtype)[0]
    ).any()
    check(users, items, 10, None, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_zero_vectors(dtype):
    users, items = random_vectors(6, 16), random_vectors(3000, 16, seed=1)
    users[2:4] = 0
    check(users, items, 7, rows_of([[0, 2], [], [0, 2], [], [5], []]), dtype)
    check(users, torch.zeros_like(items), 7, None, dtype)
    best = top_items(-users.abs(), torch.zeros(9, 16), 3)
    assert not torch.signbit(best.scores).any()


@pytest.mark.parametrize("scale", [1e-320, 1e-160, 1e-30, 1e30, 1e160])
def test_vectors_of_any_size(scale):
    """The filter scales vectors, so only the scores have to be within the range of the dtype."""
    users = random_vectors(10, 16).double() * scale
    items = random_vectors(3000, 16, seed=1).double()
    items *= torch.exp(4 * random_vectors(3000, 1, seed=2).double())
    check(users, items / max(scale, 1e-300), 10)
    if scale < 1:
        check(users, items, 10)
        check(users, items * scale, 10, None, torch.float64)


def test_the_filter_uses_float64_if_float32_products_are_less_precise():
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        finder = Candidates(random_vectors(3000, 16))
    finally:
        torch.set_float32_matmul_precision(before)
    assert finder.filter.scaled.dtype == torch.float64
    check(random_vectors(10, 16, seed=1), finder.items, 10, finder=finder)


def test_gradients_are_not_followed():
    users = random_vectors(3, 4).double().requires_grad_()
    items = random_vectors(50, 4).double().requires_grad_()
    assert not top_items(users, items, 5).scores.requires_grad


def test_bad_arguments_are_refused():
    users, items, none = torch.zeros(2, 3), torch.zeros(4, 3), torch.empty(0, dtype=torch.int64)
    with pytest.raises(ValueError, match="`top` must be at least 1, got 0"):
        top_items(users, items, 0)
    with pytest.raises(ValueError, match=r"`users` must have shape \(U, 3\), got \(2, 4\)"):
        top_items(torch.zeros(2, 4), items, 1)
    with pytest.raises(
        ValueError, match=r"`items` must have shape \(C, D\), D at least 1, got \(4, 0\)"
    ):
        top_items(users, items[:, :0], 1)
    with pytest.raises(TypeError, match=r"float32 or torch.float64, got torch.float16"):
        top_items(users, items, 1, dtype=torch.float16)
    with pytest.raises(
        ValueError, match=r"offsets \(3,\) and positions \(P,\), got \(2,\) and \(0,\)"
    ):
        top_items(users, items, 1, exclude=(torch.tensor([0, 0]), none))
    for offsets in ([0, 2, 1], [-1, 0, 1], [0, 1, 3]):
        with pytest.raises(ValueError, match="must increase from 0 to at most 2"):
            top_items(users, items, 1, exclude=(torch.tensor(offsets), torch.tensor([0, 1])))
    for wrong in (-1, 4):
        with pytest.raises(ValueError, match=f"in 0 to 3, got {min(wrong, 1)} to {max(wrong, 1)}"):
            top_items(users, items, 1, exclude=(torch.tensor([0, 1, 2]), torch.tensor([1, wrong])))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_vectors_that_are_not_finite_are_refused(bad):
    vectors = random_vectors(5000, 3)
    broken = vectors.clone()
    broken[4321, 1] = bad
    with pytest.raises(DataError, match="vector of item 4321 is not finite"):
        top_items(vectors, broken, 2)
    with pytest.raises(DataError, match="vector of user 4321 is not finite"):
        top_items(broken, vectors, 2)


def test_scores_that_overflow_are_errors():
    users = torch.ones(3, 4, dtype=torch.float64)
    items = torch.full((9, 4), 1e30, dtype=torch.float64)
    users[1] *= 1e20
    with pytest.raises(DataError, match="vector of user 1 is too large to be multiplied"):
        top_items(users, items, 2)
    check(users, items, 2, None, torch.float64)


@pytest.mark.parametrize("top", [1, 2, 5, 11, 12, 40])
def test_best_columns_of_equal_scores_are_the_lower_ones(top):
    scores = torch.randint(-2, 3, (200, 12), generator=torch.Generator().manual_seed(top)).float()
    columns, values = best_columns(scores, top)
    expected = np.argsort(-scores.numpy(), axis=1, kind="stable")[:, :top]
    assert columns.tolist() == expected.tolist()
    assert values.tolist() == np.take_along_axis(scores.numpy(), expected, 1).tolist()


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_on_a_gpu(dtype):
    users, items = random_vectors(300, 64), random_vectors(5000, 64, seed=1)
    items[1000:4000:2] = items[0]
    exclude = rows_of([range(user, 2500, 3) for user in range(300)])
    for excluded in (None, exclude):
        expected = top_items(users, items, 20, exclude=excluded, dtype=dtype)
        on_gpu = None if excluded is None else tuple(part.cuda() for part in excluded)
        best = top_items(users.cuda(), items.cuda(), 20, exclude=on_gpu, dtype=dtype)
        assert torch.equal(best.positions.cpu(), expected.positions)
        assert torch.equal(best.scores.cpu(), expected.scores)
