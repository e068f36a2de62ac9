"""Laws of `PatternKernelRidge` with landmarks and neighbours."""

import copy
import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from invmod.regression import (
    PatternKernelRidge,
    arguments,
    local,
    nearest,
    predictions,
    projection,
    training_rows,
    units,
)
from invmod.regression.landmarks import random_pivots
from invmod.regression.training_rows import Queries
from tests.library.regression_cases import F64, NAMES, hide, problem, small_model
from tests.strategies import laws, seeded

NUM_ROWS = 60
PATTERNS = [p for size in (1, 2, 3) for p in itertools.combinations(range(3), size)]


def new_rows(n=9, seed=5):
    """New rows, three of each of three patterns."""
    x, _, _ = problem(n, seed)
    mask = torch.tensor([[True, True, True], [True, False, False], [False, True, True]])
    return x, mask.repeat(n // 3, 1)


def both(counts, seed=0, **options):
    """Return the exact and the projected model, fitted on the same rows."""
    x, y, mask = problem(NUM_ROWS, seed)
    weights = torch.rand(NUM_ROWS, generator=seeded(1), dtype=F64) + 0.5
    landmarks, neighbours = counts
    near = small_model(landmarks=landmarks, neighbours=neighbours, **options)
    exact = small_model(**options)
    return [model.fit(x, y, mask, row_weights=weights) for model in (exact, near)]


# --- landmarks ------------------------------------------------------------------------------------


def test_landmarks_reproduce_their_rows_and_differ():
    x = torch.randn(50, 2, generator=seeded(0), dtype=F64)
    k = (-torch.cdist(x, x).square() / 2).exp()
    chosen = random_pivots(lambda at: k[:, at], k.diagonal().clone(), 12, seeded(1))
    assert len(set(chosen.tolist())) == len(chosen) == 12
    again = random_pivots(lambda at: k[:, at], k.diagonal().clone(), 12, seeded(1))
    assert torch.equal(chosen, again)
    projected = k[:, chosen] @ torch.linalg.solve(k[chosen][:, chosen], k[chosen])
    torch.testing.assert_close(projected[chosen], k[chosen])


def test_landmarks_end_where_rows_are_spanned():
    x = torch.randn(30, 4, generator=seeded(0), dtype=F64)
    k = x @ x.T
    chosen = random_pivots(lambda at: k[:, at], k.diagonal().clone(), 30, seeded(2))
    assert len(chosen) == 4
    none = random_pivots(lambda at: k[:, at] * 0, k.diagonal() * 0, 5, seeded(0))
    assert none.tolist() == []


def test_copies_of_a_row_are_spanned_by_one():
    """A block has four candidates, but only one row is left after the first landmark."""
    x = torch.tensor([[1.0, 0.0]] * 39 + [[0.0, 0.1]], dtype=F64)
    k = x @ x.T
    chosen = random_pivots(lambda at: k[:, at], k.diagonal().clone(), 40, seeded(0))
    assert len(chosen) == 2
    assert chosen[1] == 39


def test_landmarks_are_drawn_by_their_errors():
    """Three copies of one row and one other row: the first landmark is one of the copies in 3/4."""
    x = torch.tensor([[1.0, 0.0]] * 3 + [[0.0, 1.0]], dtype=F64)
    k = x @ x.T
    g = seeded(0)
    drawn = [random_pivots(lambda at: k[:, at], k.diagonal().clone(), 2, g) for _ in range(400)]
    assert all(len(each) == 2 and (each == 3).sum() == 1 for each in drawn)
    share = sum(int(each[0] == 3) for each in drawn) / 400
    assert share == pytest.approx(0.25, abs=0.08)


def test_the_error_of_landmarks_is_near_that_of_the_best_rank():
    x = torch.randn(300, 3, generator=seeded(4), dtype=F64)
    k = (-torch.cdist(x, x).square() / 4).exp()
    chosen = random_pivots(lambda at: k[:, at], k.diagonal().clone(), 40, seeded(3))
    left = (k - k[:, chosen] @ torch.linalg.solve(k[chosen][:, chosen], k[chosen])).trace()
    best = torch.linalg.eigvalsh(k)[: 300 - 40].sum()
    assert best < left < 4 * best


# --- predictions ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kernel", ["gaussian", "angle", "linear"])
@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("counts", [(59, None), (59, 7), (6, 60), (6, 1000)])
def test_all_rows_as_landmarks_or_as_neighbours_are_exact(kernel, intercept, counts):
    exact, near = both(counts, kernel=kernel, intercept=intercept)
    x, mask = new_rows()
    # No modality is observed in more than 59 rows, so with 59 landmarks all rows are landmarks.
    options = {"rtol": 0, "atol": 1e-8}
    torch.testing.assert_close(near(x, mask), exact(x, mask), **options)
    torch.testing.assert_close(near.smoother(x, mask), exact.smoother(x, mask), **options)
    for pattern in PATTERNS:
        names = [NAMES[m] for m in pattern]
        expected, found = (model.leave_one_out(names) for model in (exact, near))
        torch.testing.assert_close(found, expected, **options)


def test_errors_fall_with_landmarks_and_with_neighbours():
    x, mask = new_rows(60)

    def error(counts):
        exact, near = both(counts, width=0.2)
        return float((near(x, mask) - exact(x, mask)).norm())

    by_landmarks = [error((count, None)) for count in (4, 16, 48)]
    by_neighbours = [error((4, count)) for count in (4, 16, 58)]
    assert by_landmarks == sorted(by_landmarks, reverse=True)
    assert by_landmarks[0] > by_neighbours[0] > 1.5 * by_neighbours[1] > 3 * by_neighbours[2]


@pytest.mark.parametrize("counts", [(8, None), (8, 5)])
@pytest.mark.parametrize("rows", ["all", "superset", "exact"])
def test_predictions_are_those_of_the_smoother(counts, rows, monkeypatch):
    monkeypatch.setattr(training_rows, "MIN_EXACT_ROWS", 5)
    _, near = both(counts, rows=rows)
    x, mask = new_rows()
    h = near.smoother(x, mask)
    torch.testing.assert_close(h @ near._training.targets, near(x, mask))
    torch.testing.assert_close(h.sum(dim=1), torch.ones(9, dtype=F64))
    complete = near._training.observed.all(dim=1)
    assert h[0, ~complete].eq(0).all() == (rows != "all")
    other = torch.randn(NUM_ROWS, 3, generator=seeded(8), dtype=F64)
    predictor = near.with_targets(other)
    torch.testing.assert_close(predictor(x, mask), h @ other)
    torch.testing.assert_close(predictor(x, mask), h @ other)
    parts = near.smoother_by_modality(x, mask)
    torch.testing.assert_close(parts.sum(dim=0), h, rtol=0, atol=1e-10)
    assert all(parts[m, ~mask[:, m]].eq(0).all() for m in range(len(NAMES)))
    forced = near.smoother(x, mask, pattern=["a", "b"])
    torch.testing.assert_close(predictor(x, mask, pattern=["a", "b"]), forced @ other)
    torch.testing.assert_close(near(x, mask, pattern=["a", "b"]), forced @ near._training.targets)


@pytest.mark.parametrize("counts", [(8, None), (8, 5), (None, None)])
@pytest.mark.parametrize("names", [["a"], ["a", "c"]])
def test_left_out_weights_are_those_of_left_out_predictions(counts, names):
    _, near = both(counts)
    targets = near._training.targets
    h = near.leave_one_out_smoother(names, from_all=True)
    used = near._solution([name in names for name in NAMES]).rows
    assert h.diagonal().eq(0).all()
    torch.testing.assert_close((h @ targets)[used], near.leave_one_out(names))
    unused = torch.ones(NUM_ROWS, dtype=torch.bool)
    unused[used] = False
    assert h[unused].eq(0).all()
    some = torch.tensor([5, 0, 17])
    torch.testing.assert_close(near.leave_one_out_smoother(names, some, from_all=True), h[some])


@pytest.mark.parametrize("counts", [(8, None), (8, 5), (None, None)])
def test_leaving_out_a_row_equals_a_row_that_hardly_counts(counts):
    _, near = both(counts)
    left_out = near.leave_one_out(["a", "b"], torch.tensor([0, 3]))
    x, _, mask = problem(NUM_ROWS)
    for place, row in enumerate((0, 3)):
        without = copy.deepcopy(near)
        without.row_weights[row] = 1e-9
        without._state_changed()
        one = {name: v[[row]] for name, v in x.items()}
        expected = without(one, mask[[row]], pattern=["a", "b"])[0]
        torch.testing.assert_close(left_out[place], expected, rtol=0, atol=1e-6)


def test_landmarks_that_are_set_are_used_and_stored():
    x, y, mask = problem(NUM_ROWS)
    new, own = new_rows()
    drawn, other = (small_model(landmarks=9).fit(x, y, mask) for _ in range(2))
    expected = drawn(new, own)
    every = {name: mask[:, m].nonzero()[:, 0] for m, name in enumerate(NAMES)}
    # With all rows as landmarks the regression is exact.
    assert other.set_landmarks(every) is other
    torch.testing.assert_close(other(new, own), small_model().fit(x, y, mask)(new, own))
    assert {name: at.tolist() for name, at in other.landmark_rows.items()} == {
        name: at.tolist() for name, at in every.items()
    }
    copied = small_model(landmarks=9)
    copied.load_state_dict(other.state_dict())
    assert torch.equal(copied(new, own), other(new, own))
    assert torch.equal(other.set_landmarks(drawn.landmark_rows)(new, own), expected)
    some = drawn.landmark_rows["b"].flip(0)
    other.set_landmarks({"b": some})
    torch.testing.assert_close(other(new, own), expected)
    assert torch.equal(other.landmark_rows["a"], drawn.landmark_rows["a"])


def test_landmarks_that_do_not_fit_are_refused():
    x, y, mask = problem(NUM_ROWS)
    mask = torch.where(mask.any(dim=1, keepdim=True), mask, True)
    mask[3, 1] = False
    model = small_model(landmarks=9).fit(x, y, mask)
    before = model.landmark_rows
    with pytest.raises(KeyError, match="set_landmarks: `rows` has modalities"):
        model.set_landmarks({"z": torch.tensor([1])})
    for rows in (torch.tensor([3]), torch.tensor([], dtype=torch.int64)):
        with pytest.raises(ValueError, match="must have training rows with the modality 'b'"):
            model.set_landmarks({"a": before["a"][:2], "b": rows})
    with pytest.raises(ValueError, match="set_landmarks: `rows`"):
        model.set_landmarks({"a": torch.tensor([1, 1])})
    assert all(torch.equal(at, before[name]) for name, at in model.landmark_rows.items())
    exact = small_model().fit(x, y, mask)
    assert exact.landmark_rows == {}
    with pytest.raises(ValueError, match="the regressions are exact"):
        exact.set_landmarks(before)


def test_batches_change_nothing(monkeypatch):
    _, near = both((8, 5))
    x, mask = new_rows()
    expected, left = near(x, mask), near.leave_one_out(["a"])
    for name, value in (("MAX_BATCH", 200), ("MAX_WHITENED", 10), ("BLOCK", 7)):
        monkeypatch.setattr(local, name, value)
    for module in (projection, predictions):
        monkeypatch.setattr(module, "BLOCK", 7)
    monkeypatch.setattr(nearest, "MAX_KERNEL", 70)
    monkeypatch.setattr(nearest, "MAX_ROWS", 9)
    monkeypatch.setattr(arguments, "MAX_CHECKED", 5)
    _, again = both((8, 5))
    torch.testing.assert_close(again(x, mask), expected)
    torch.testing.assert_close(again.leave_one_out(["a"]), left)


def test_features_that_are_computed_again_change_nothing(monkeypatch):
    _, near = both((8, 5))
    x, mask = new_rows()
    expected, left = near(x, mask), near.leave_one_out(["a"])
    assert near._projection._features
    monkeypatch.setattr(projection, "MAX_FEATURES", 0)
    _, again = both((8, 5))
    torch.testing.assert_close(again(x, mask), expected)
    torch.testing.assert_close(again.leave_one_out(["a"]), left)
    assert not again._projection._features


def test_rows_stay_as_they_were_given():
    """Features in half precision, perhaps in a file, are neither copied nor converted."""
    x, y, mask = problem(NUM_ROWS)
    half = {name: v.half() for name, v in x.items()}
    whole = {name: v.double() for name, v in half.items()}
    near = [
        small_model(landmarks=8, neighbours=5).fit(features, y, mask) for features in (half, whole)
    ]
    assert near[0].rows_0.data_ptr() == half["a"].data_ptr()
    assert near[0].rows_0.dtype == torch.float16
    queries, of = new_rows()
    assert torch.equal(near[0](queries, of), near[1](queries, of))


def test_units_do_not_depend_on_the_blocks_of_columns(monkeypatch):
    x, _, _ = problem(20)
    rows, weights = torch.arange(3, 17), torch.rand(14, generator=seeded(0), dtype=F64)
    for standardize in (True, False):
        whole = units.fitted_units(x["c"], rows, weights, standardize=standardize)
        monkeypatch.setattr(units, "MAX_COLUMNS", 20)
        by_column = units.fitted_units(x["c"], rows, weights, standardize=standardize)
        monkeypatch.undo()
        torch.testing.assert_close(by_column, whole)
        shares = weights / weights.sum()
        scaled = whole.apply(x["c"][rows], torch.ones(14, dtype=torch.bool))
        assert float(shares @ scaled.square().sum(dim=1)) == pytest.approx(1)
        torch.testing.assert_close(shares @ scaled, torch.zeros(4, dtype=F64))


@pytest.mark.parametrize("landmarks", [None, 8])
def test_a_modality_without_entries_has_no_part(landmarks):
    x, y, mask = problem(NUM_ROWS)
    model = small_model(landmarks=landmarks, kernel={"a": "gaussian", "b": "linear", "c": "linear"})
    model = model.fit({**x, "c": torch.zeros(NUM_ROWS, 0, dtype=F64)}, y, mask)
    queries, of = new_rows()
    assert model({**queries, "c": torch.zeros(9, 0, dtype=F64)}, of).isfinite().all()


# --- cells of landmarks ---------------------------------------------------------------------------


@laws
@given(st.integers(0, 100), st.sampled_from(["all", "superset", "exact"]), st.booleans())
def test_all_cells_have_the_nearest_rows(seed, rows, from_training):
    """With a shortlist of all rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nearest, "SHORTLIST", 100)
        check_cells(seed, rows, from_training)


def check_cells(seed, rows, from_training):
    near, all_cells = (
        small_model(rows=rows, landmarks=8, neighbours=5, probes=probes).fit(*problem(50, seed))
        for probes in (None, 8)
    )
    if from_training:
        assert torch.equal(near.leave_one_out(["a", "c"]), all_cells.leave_one_out(["a", "c"]))
    x, mask = new_rows(9, seed)
    torch.testing.assert_close(all_cells(x, mask), near(x, mask))


def test_more_cells_come_nearer_to_the_search_among_all_rows():
    x = {"a": torch.randn(2000, 3, generator=seeded(0), dtype=F64)}
    new = {"a": torch.randn(200, 3, generator=seeded(1), dtype=F64)}
    y = torch.sin(3 * x["a"]).sum(dim=1)

    def predictions(probes):
        model = small_model(
            modalities=["a"], width=9.0, ridge=0.01, landmarks=64, neighbours=8, probes=probes
        )
        return model.fit(x, y).predict(new)

    among_all = predictions(None)
    gaps = [float((predictions(probes) - among_all).abs().mean()) for probes in (1, 4, 64)]
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[1] < 0.05 * float(among_all.std())


def test_cells_with_few_rows_are_searched_further():
    """A row asks for more neighbours than the cell of its nearest landmark has."""
    x, y, mask = problem(NUM_ROWS)
    near, cells = (
        small_model(landmarks=30, neighbours=40, probes=probes).fit(x, y, mask)
        for probes in (None, 1)
    )
    queries, of = new_rows()
    assert cells(queries, of).isfinite().all()
    for model in (near, cells):
        solution = model._solution([True, True, True])
        rows, observed = model._scaled_rows("test", queries, of)
        asked = Queries(rows, observed).of(torch.arange(3))
        found = solution._nearest(asked, solution._features(asked)[:, :-1], 40)
        assert all(len(set(row)) == 40 for row in found.tolist())


def test_rows_without_any_weighted_modality_are_found():
    """All rows are wanted, also those that only have a modality of weight 0."""
    x, y, mask = problem(NUM_ROWS, hidden=0.7)
    weights = {"a": 1.0, "b": 1.0, "c": 0.0}
    exact = small_model(weights=weights).fit(x, y, mask)
    near = small_model(weights=weights, landmarks=8, neighbours=NUM_ROWS, probes=1).fit(x, y, mask)
    queries, of = new_rows()
    torch.testing.assert_close(near(queries, of), exact(queries, of))


def test_probes_need_neighbours():
    with pytest.raises(ValueError, match="`probes` needs `neighbours`"):
        PatternKernelRidge(["a"], landmarks=8, probes=2)


@pytest.mark.parametrize("intercept", [True, False])
def test_one_pass_over_the_rows_equals_the_sums_of_groups(monkeypatch, intercept):
    x, mask = new_rows()
    _, near = both((8, 5), intercept=intercept)
    expected = near(x, mask)
    assert near._projection._sums
    monkeypatch.setattr(projection, "MAX_SUMS", 0)
    _, again = both((8, 5), intercept=intercept)
    torch.testing.assert_close(again(x, mask), expected)
    assert not again._projection._sums


def test_a_copy_computes_its_sums_itself():
    x, mask = new_rows()
    _, near = both((8, 5))
    expected = near(x, mask)
    twin = copy.deepcopy(near)
    assert near._projection._features
    assert not twin._projection._features
    torch.testing.assert_close(twin(x, mask), expected)


@laws
@given(st.integers(0, 100), st.sampled_from([(5, None), (5, 4)]), st.sampled_from([7.0, torch.nan]))
def test_hidden_cells_change_no_bit(seed, counts, value):
    x, y, mask = problem(30, seed)
    new, new_mask = new_rows()
    options = {"landmarks": counts[0], "neighbours": counts[1]}
    model = small_model(**options).fit(x, y, mask)
    expected = model(new, new_mask)
    hidden = small_model(**options).fit(hide(x, mask, value), y, mask)
    assert torch.equal(hidden(hide(new, new_mask, value), new_mask), expected)


def test_a_precomputed_kernel_and_classes():
    x = torch.randn(40, 3, generator=seeded(0), dtype=F64)
    classes = (x[:, 0] > 0).long()
    k = (-torch.cdist(x, x).square() / 2).exp()
    options = {"kernel": "precomputed", "ridge": 0.1, "standardize": False}
    exact = PatternKernelRidge(["k"], **options).fit({"k": k}, classes)
    near = PatternKernelRidge(["k"], **options, landmarks=5, neighbours=40).fit({"k": k}, classes)
    assert len(near.landmarks_0) == 5
    torch.testing.assert_close(near({"k": k}), exact({"k": k}))
    torch.testing.assert_close(near.probabilities({"k": k}), exact.probabilities({"k": k}))
    assert torch.equal(near.predict({"k": k}), exact.predict({"k": k}))


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("neighbours", [1, 10])
def test_a_pattern_with_few_training_rows(count, neighbours):
    g = seeded(0)
    x = {n: torch.randn(30, 2, generator=g, dtype=F64) for n in ("a", "b")}
    mask = torch.ones(30, 2, dtype=torch.bool)
    mask[count:, 1] = False
    y = torch.randn(30, 2, generator=g, dtype=F64)
    options = {"kernel": "gaussian", "width": 0.5, "ridge": 0.3, "standardize": False}
    options["weights"] = "equal"
    near = PatternKernelRidge(["a", "b"], **options, landmarks=20, neighbours=neighbours)
    exact = PatternKernelRidge(["a", "b"], **options).fit(x, y, mask)
    near.fit(x, y, mask)
    torch.testing.assert_close(near({"b": x["b"]}), exact({"b": x["b"]}))
    if count > 1:
        torch.testing.assert_close(near.leave_one_out(["b"]), exact.leave_one_out(["b"]))
        found = near.leave_one_out_smoother(["b"], from_all=True)
        expected = exact.leave_one_out_smoother(["b"], from_all=True)
        torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("counts", [(8, None), (8, 5)])
def test_a_modality_of_weight_0_and_a_constant_one(counts):
    exact, near = both((8, 60), weights={"a": 1, "b": 0, "c": 1})
    x, mask = new_rows()
    torch.testing.assert_close(near(x, mask), exact(x, mask))
    only = {"b": x["b"]}
    torch.testing.assert_close(near(only), exact(only))
    x, y, mask = problem(NUM_ROWS)
    x["b"] = torch.ones_like(x["b"])
    landmarks, neighbours = counts
    near = small_model(landmarks=landmarks, neighbours=neighbours).fit(x, y, mask)
    assert len(near.landmarks_1) == 0
    mean = near._training.targets.mean(dim=0)
    torch.testing.assert_close(near({"b": x["b"][:1]})[0], mean)


def test_nan_in_an_available_cell_comes_out():
    _, near = both((8, 5))
    x, mask = new_rows()
    expected = near(x, mask)
    x["a"][0, 0] = torch.nan
    found = near(x, mask)
    assert found[0].isnan().all()
    torch.testing.assert_close(found[1:], expected[1:])


def test_targets_that_change_are_fitted_again():
    _, near = both((8, 5))
    x, mask = new_rows()
    targets = torch.randn(NUM_ROWS, 2, generator=seeded(9), dtype=F64)
    predictor = near.with_targets(targets)
    before, left = predictor(x, mask), near.leave_one_out(["a"], targets=targets)
    targets += 1
    # With an intercept, 1 more in all targets is 1 more in all predictions.
    torch.testing.assert_close(near.leave_one_out(["a"], targets=targets), left + 1)
    torch.testing.assert_close(predictor(x, mask), before)
    near.fit(*problem(NUM_ROWS))
    with pytest.raises(RuntimeError, match="Call it again"):
        predictor(x, mask)


def test_autocast_changes_nothing():
    _, near = both((8, 5), dtype=torch.float32)
    _, other = both((8, 5), dtype=torch.float32)
    x, mask = new_rows()
    targets = torch.randn(NUM_ROWS, 2, generator=seeded(9))
    expected = near.leave_one_out(["a"], targets=targets), near(x, mask)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = other.leave_one_out(["a"], targets=targets), other(x, mask)
        predicted = other.with_targets(targets)(x, mask)
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a, b)
    torch.testing.assert_close(predicted, near.with_targets(targets)(x, mask))


def test_an_indefinite_kernel_is_reported():
    k = torch.eye(30, dtype=F64) - 0.9
    options = {"kernel": "precomputed", "ridge": 0.01, "standardize": False}
    near = PatternKernelRidge(["k"], **options, landmarks=5, neighbours=10)
    with pytest.raises(ValueError, match="must be symmetric and positive semi-definite"):
        near.fit({"k": k}, torch.arange(30.0, dtype=F64)).predict({"k": k})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_gpu_gives_the_same_predictions():
    _, near = both((8, 5))
    x, mask = new_rows()
    expected = near(x, mask), near.leave_one_out(["a"])
    near = near.cuda()
    found = near({n: v.cuda() for n, v in x.items()}, mask.cuda()), near.leave_one_out(["a"])
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a.cpu(), b)


def test_float32_agrees_with_float64():
    exact, near = both((20, 10), dtype=torch.float32)
    _, double = both((20, 10))
    for m in range(3):
        setattr(near, f"landmarks_{m}", double.get_buffer(f"landmarks_{m}"))
    near._state_changed()
    x, mask = new_rows()
    torch.testing.assert_close(near(x, mask).double(), double(x, mask), rtol=1e-3, atol=1e-3)
    assert near(x, mask).dtype == exact(x, mask).dtype == torch.float32


def test_gradients_reach_the_features():
    _, near = both((8, 5))
    x, mask = new_rows(3)

    def values(a):
        return near({**x, "a": a}, mask)

    assert torch.autograd.gradcheck(values, x["a"].clone().requires_grad_(), atol=1e-6)


def test_a_fitted_model_can_be_stored(tmp_path):
    _, near = both((8, 5))
    x, mask = new_rows()
    near.save(tmp_path / "model.safetensors")
    loaded = small_model(landmarks=8, neighbours=5).load(tmp_path / "model.safetensors")
    assert torch.equal(loaded(x, mask), near(x, mask))


def test_few_rows_are_exact_and_many_are_refused_without_landmarks(monkeypatch):
    exact, near = both((NUM_ROWS, 5))
    x, mask = new_rows()
    assert torch.equal(exact(x, mask), near(x, mask))
    monkeypatch.setattr("invmod.regression.arguments.MAX_ROWS", NUM_ROWS - 1)
    with pytest.raises(ValueError, match="Approximate it with `landmarks` and `neighbours`"):
        both((NUM_ROWS, 5))
    x, y, mask = problem(NUM_ROWS)
    small_model(landmarks=5).fit(x, y, mask)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"landmarks": 0}, ValueError, "`landmarks` must be at least 1"),
        ({"landmarks": 2.0}, TypeError, "`landmarks` must be an int"),
        ({"landmarks": 20_001}, ValueError, "`landmarks` must be at most 20,000, got 20,001"),
        ({"neighbours": 5}, ValueError, "`neighbours` needs `landmarks`, got neighbours=5"),
        ({"landmarks": 5, "neighbours": 0}, ValueError, "`neighbours` must be at least 1"),
    ],
)
def test_invalid_counts_are_rejected(options, error, message):
    with pytest.raises(error, match=message):
        small_model(**options)


def test_calls_are_checked():
    exact, near = both((8, 5))
    with pytest.raises(ValueError, match="with landmarks, `from_all` must be True"):
        near.leave_one_out_smoother(["a"])
    for model in (exact, near):
        lacking = (~model._training.observed[:, 0]).nonzero()[0]
        with pytest.raises(ValueError, match="`rows` has training rows that"):
            model.leave_one_out(["a"], lacking)
        with pytest.raises(ValueError, match=r"must have shape \(60, r\)"):
            model.with_targets(torch.zeros(5, 2))
        with pytest.raises(ValueError, match="no modality that varies"):
            model.leave_one_out([])
        with pytest.raises(KeyError, match="'z'"):
            model.leave_one_out(["z"])
