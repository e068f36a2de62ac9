"""Laws of `PatternKernelRidge`: exact errors of left-out rows, patterns, hidden cells, choices."""

import copy
import itertools
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import nnls
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import Ridge
from torch.autograd import gradcheck

from invmod.missingness import mask_from_features
from invmod.regression import Kernel, PatternKernelRidge
from invmod.regression.arguments import WIDTHS
from invmod.regression.choice import _sum_of, descend
from invmod.regression.kernels import kernel_between
from invmod.regression.least_squares import non_negative_least_squares
from invmod.regression.leave_one_out import Spectrum
from invmod.regression.solving import Factor
from tests.library.regression_cases import F64, NAMES, hide, problem, small_model
from tests.strategies import seeded

# --- errors of left-out rows


@settings(deadline=None)
@given(
    seed=st.integers(0, 10_000),
    n=st.integers(3, 12),
    ridge=st.sampled_from([1e-2, 0.5, 20.0]),
    intercept=st.booleans(),
    weighted=st.booleans(),
)
def test_errors_equal_those_of_refits(seed, n, ridge, intercept, weighted):
    g = seeded(seed)
    x, y = torch.randn(n, 3, generator=g, dtype=F64), torch.randn(n, 2, generator=g, dtype=F64)
    w = torch.rand(n, generator=g, dtype=F64) + 0.5 if weighted else None
    k = kernel_between(Kernel("gaussian", 0.7), x, x)
    k[-1] = k[:, -1] = 0  # a row without any modality of the pattern
    groups = list(torch.randperm(n, generator=g).tensor_split(3))
    spectrum = Spectrum(k, y, w, intercept=intercept)
    for chosen, errors in (
        ([torch.tensor([i]) for i in range(n)], spectrum.errors(ridge)),
        (groups, spectrum.errors(ridge, groups)),
    ):
        for left_out in chosen:
            kept = torch.tensor([i for i in range(n) if i not in left_out.tolist()])
            weights = None if w is None else w[kept]
            alpha, b = Factor(k[kept][:, kept], ridge, weights, intercept=intercept).fit(y[kept])
            expected = y[left_out] - (k[left_out][:, kept] @ alpha + b)
            torch.testing.assert_close(errors[left_out], expected, atol=1e-9, rtol=1e-7)
    alpha, b = Factor(k.clone(), ridge, w, intercept=intercept).fit(y)
    torch.testing.assert_close(spectrum.predictions(k, ridge), k @ alpha + b, atol=1e-9, rtol=1e-7)


def test_gcv_is_the_mean_error_with_a_mean_diagonal():
    x, y, _ = problem(12, hidden=0.0)
    w = torch.linspace(0.5, 2.0, 12, dtype=F64)
    k = kernel_between(Kernel("gaussian", 0.1), x["a"], x["a"])
    for weights in (None, w):
        root = torch.ones(12, dtype=F64) if weights is None else weights.sqrt()
        q = torch.linalg.inv(root[:, None] * k * root + 0.2 * torch.eye(12, dtype=F64))
        c = q - q @ torch.outer(root, root) @ q / (root @ q @ root)
        expected = 12 * (c @ (root[:, None] * y)).square().sum() / c.trace() ** 2
        result = Spectrum(k, y, weights, intercept=True).generalised(0.2)
        torch.testing.assert_close(result, expected)


def test_a_single_row_or_group_has_no_error_of_its_own():
    k, y = torch.ones(1, 1, dtype=F64), torch.ones(1, 1, dtype=F64)
    assert Spectrum(k, y, intercept=True).errors(0.1).isnan().all()
    torch.testing.assert_close(Spectrum(k, y, intercept=False).errors(0.1), y)
    x, y, _ = problem(5, hidden=0.0)
    k = x["a"] @ x["a"].T
    assert Spectrum(k, y, intercept=True).errors(0.1, [torch.arange(5)]).isnan().all()
    model = PatternKernelRidge(["a"]).fit({"a": x["a"][:1]}, y[:1])
    torch.testing.assert_close(model.predict({"a": x["a"]}), y[:1].expand(5, 2))


def test_the_report_of_a_choice_is_the_error_of_refits():
    x, y, mask = problem(15, hidden=0.0)
    model = small_model().fit(x, y, mask)
    chosen = small_model(ridge="auto").fit(x, y, mask)
    chosen.predict(x, mask)
    choice = chosen.choices[NAMES]
    errors = []
    units = [(model.get_buffer(f"centre_{m}"), model.get_buffer(f"scale_{m}")) for m in range(3)]
    k = sum(
        kernel_between(Kernel("gaussian", 0.5), *[(v - c) / s] * 2) / 3
        for v, (c, s) in zip(x.values(), units, strict=True)
    )
    for i in range(15):
        kept = torch.tensor([j for j in range(15) if j != i])
        alpha, b = Factor(k[kept][:, kept], choice.ridge, intercept=True).fit(y[kept])
        errors.append((y[i] - k[i, kept] @ alpha - b).square().sum())
    assert choice.error == pytest.approx(float(sum(errors)) / 15, rel=1e-9)


# --- what a prediction depends on


@pytest.mark.parametrize(
    "options", [{}, {"kernel": "angle"}, {"kernel": "linear"}, {"weights": "auto"}]
)
@pytest.mark.parametrize("value", [float("nan"), 1e9])
def test_hidden_cells_change_no_bit(options, value):
    x, y, mask = problem()
    new, _, new_mask = problem(20, 1)
    zeros = small_model(**options).fit(hide(x, mask, 0.0), y, mask)
    other = small_model(**options).fit(hide(x, mask, value), y, mask)
    expected = zeros(hide(new, new_mask, 0.0), new_mask)
    assert torch.equal(other(hide(new, new_mask, value), new_mask), expected)


def test_a_mask_may_be_left_out_or_named():
    x, y, mask = problem()
    nan = hide(x, mask, float("nan"))
    model = small_model().fit(nan, y)
    expected = small_model().fit(x, y, mask).predict(x, mask)
    assert torch.equal(model.predict(nan), expected)
    assert torch.equal(model.predict(nan, dict(zip(NAMES, mask.T, strict=True))), expected)
    assert torch.equal(
        model.predict({"a": x["a"]}),
        model.predict({**x, "b": None}, mask & torch.tensor([1, 0, 0]).bool())
        if mask[:, 0].all()
        else model.predict({"a": x["a"], "b": None, "c": None}),
    )


def test_rows_and_modalities_may_be_permuted():
    x, y, mask = problem()
    order = torch.randperm(40, generator=seeded(3))
    names = ("c", "a", "b")
    model = PatternKernelRidge(NAMES).fit(x, y, mask)
    other = PatternKernelRidge(names).fit(
        {name: x[name][order] for name in names}, y[order], mask[order][:, [2, 0, 1]]
    )
    torch.testing.assert_close(
        other.predict(x, mask[:, [2, 0, 1]]), model.predict(x, mask), atol=1e-7, rtol=1e-6
    )
    assert {name: str(k) for name, k in other.kernels.items()} == {
        name: str(k) for name, k in model.kernels.items()
    }


@pytest.mark.parametrize("kept", [("a",), ("a", "c")])
def test_a_pattern_equals_a_fit_without_the_other_modalities(kept):
    x, y, mask = problem()
    columns = [NAMES.index(name) for name in kept]
    hidden = mask.clone()
    hidden[:, [m for m in range(3) if m not in columns]] = False
    whole = PatternKernelRidge(NAMES).fit(x, y, mask)
    part = PatternKernelRidge(kept).fit({name: x[name] for name in kept}, y, mask[:, columns])
    rows = hidden.any(dim=1)
    torch.testing.assert_close(
        whole.predict(x, hidden)[rows],
        part.predict({n: x[n] for n in kept}, mask[:, columns])[rows],
    )


def test_one_modality_with_a_linear_kernel_is_ridge_regression():
    x, y, _ = problem(30, hidden=0.0)
    model = PatternKernelRidge(["a"], kernel="linear", ridge=0.2, standardize=False)
    model.fit({"a": x["a"]}, y)
    square = (x["a"] - x["a"].mean(dim=0)).square().sum(dim=1).mean()
    expected = Ridge(alpha=float(0.2 * square)).fit(x["a"].numpy(), y.numpy())
    new = problem(7, 5)[0]["a"]
    np.testing.assert_allclose(model.predict({"a": new}), expected.predict(new.numpy()), rtol=1e-9)


def test_without_an_intercept_it_is_kernel_ridge_regression():
    x, y, _ = problem(30, hidden=0.0)
    model = small_model(intercept=False).fit(x, y)
    scaled = {
        name: (v - v.mean(dim=0)) / (v - v.mean(dim=0)).square().sum(dim=1).mean().sqrt()
        for name, v in x.items()
    }
    k = sum(kernel_between(Kernel("gaussian", 0.5), v, v) / 3 for v in scaled.values()).numpy()
    expected = KernelRidge(alpha=0.3, kernel="precomputed").fit(k, y.numpy())
    np.testing.assert_allclose(model.predict(x), expected.predict(k), rtol=1e-9)


@pytest.mark.parametrize("kernel", ["linear", "gaussian", "angle", "auto"])
def test_a_constant_modality_changes_nothing(kernel):
    x, y, mask = problem()
    constant = torch.full((40, 2), 7.3, dtype=F64)
    known = torch.rand(40, 1, generator=seeded(8)) > 0.3
    model = PatternKernelRidge(NAMES, kernel=kernel).fit(x, y, mask)
    other = PatternKernelRidge((*NAMES, "d"), kernel=kernel)
    other.fit({**x, "d": constant}, y, torch.cat([mask, known], dim=1))
    torch.testing.assert_close(
        other.predict({**x, "d": constant}, torch.cat([mask, known], dim=1)), model.predict(x, mask)
    )
    assert other.kernels["d"] is None
    assert "none (constant)" in other.summary()


@pytest.mark.slow
@pytest.mark.parametrize("classes", [False, True])
def test_a_row_that_occurs_twice_equals_a_weight_of_two(classes):
    """That holds for units, kernels and choices too, if equal rows are left out together."""
    x, y, mask = problem(30)
    targets = (y[:, 0] > 0).long() if classes else y
    counts = torch.randint(1, 4, (30,), generator=seeded(1))
    repeated = torch.arange(30).repeat_interleave(counts)
    one = PatternKernelRidge(NAMES).fit(x, targets, mask, row_weights=counts)
    two = PatternKernelRidge(NAMES).fit(
        {name: v[repeated] for name, v in x.items()},
        targets[repeated],
        mask[repeated],
        groups=repeated,
    )
    torch.testing.assert_close(two(x, mask), one(x, mask), rtol=1e-7, atol=1e-7)
    assert two.kernels == one.kernels
    for names, choice in one.choices.items():
        assert two.choices[names].weights == pytest.approx(choice.weights)
        assert two.choices[names].ridge == choice.ridge
        assert two.choices[names].error == pytest.approx(choice.error)
    if classes:
        torch.testing.assert_close(
            two.probabilities(x, mask), one.probabilities(x, mask), rtol=1e-6, atol=1e-6
        )
    else:
        h = two.smoother(x, mask)
        sums = torch.zeros(30, 30, dtype=F64).index_add(1, repeated, h)
        torch.testing.assert_close(one.smoother(x, mask), sums, rtol=1e-6, atol=1e-8)


def test_a_weight_of_two_holds_for_precomputed_kernels():
    x, y, mask = problem(20)
    twice = torch.cat([torch.arange(20), torch.arange(5)])
    weights = torch.ones(20)
    weights[:5] = 2
    # A kernel whose diagonal differs between rows, so that the noise of missing cells counts.
    k = {name: 0.01 * v @ v.T for name, v in x.items()}
    one = small_model(kernel="precomputed").fit(k, y, mask, row_weights=weights)
    two = small_model(kernel="precomputed")
    two.fit({name: v[twice][:, twice] for name, v in k.items()}, y[twice], mask[twice])
    torch.testing.assert_close(
        two.predict({name: v[:, twice] for name, v in k.items()}, mask), one.predict(k, mask)
    )


@pytest.mark.parametrize("landmarks", [None, 5])
def test_a_kernel_and_a_ridge_may_be_scaled_together(landmarks):
    """The noise of missing modalities is in the units of the kernel, too."""
    x, y, mask = problem(30)
    k = {name: 0.01 * v @ v.T + 0.1 * torch.eye(30, dtype=F64) for name, v in x.items()}
    options = {"kernel": "precomputed", "landmarks": landmarks}
    one = small_model(ridge=0.3, **options).fit(k, y, mask)
    other = small_model(ridge=3.0, **options).fit({n: 10 * v for n, v in k.items()}, y, mask)
    torch.testing.assert_close(
        other.predict({n: 10 * v for n, v in k.items()}, mask), one.predict(k, mask)
    )


def test_a_row_without_any_modality_gets_the_mean_of_the_targets():
    x, y, mask = problem()
    weights = torch.linspace(0.5, 2, 40)
    nothing = torch.zeros(40, 3, dtype=torch.bool)
    model = small_model().fit(x, y, mask, row_weights=weights)
    mean = (weights[:, None] * y).sum(dim=0) / weights.sum()
    torch.testing.assert_close(model.predict(x, nothing), mean.expand(40, 2))
    model = small_model(intercept=False).fit(x, y, mask)
    assert torch.equal(model.predict(x, nothing), torch.zeros(40, 2, dtype=F64))
    assert model.predict(hide(x, mask, 0.0), mask)[:0].shape == (0, 2)
    assert model.predict({name: v[:0] for name, v in x.items()}, mask[:0]).shape == (0, 2)


def test_rows_of_a_pattern_follow_the_rule():
    x, y, mask = problem(400, hidden=0.2)
    only_a = torch.tensor([True, False, False])
    hidden = only_a.expand(400, 3)
    exact = (mask == only_a).all(dim=1)
    assert 0 < int(exact.sum()) < 50
    by_rule = {
        rule: small_model(rows=rule).fit(x, y, mask).predict(x, hidden)
        for rule in ("all", "superset", "exact")
    }
    assert torch.equal(by_rule["exact"], by_rule["superset"])  # fewer than 50 rows
    assert torch.equal(by_rule["all"], by_rule["superset"])  # one modality is all or nothing
    both = torch.tensor([True, True, False])
    hidden = both.expand(400, 3)
    for rule, rows in (
        ("all", mask[:, :2].any(dim=1)),
        ("superset", mask[:, :2].all(dim=1)),
        ("exact", (mask == both).all(dim=1)),
    ):
        used = rows.nonzero()[:, 0]
        model = small_model(rows=rule, kernel="precomputed")
        k = {name: kernel_between(Kernel("gaussian", 0.05), v, v) for name, v in x.items()}
        model.fit(k, y, mask)
        a = mask[used].to(F64)
        kept = k["a"][used][:, used] * a[:, [0]] * a[:, 0]
        kept = (kept + k["b"][used][:, used] * a[:, [1]] * a[:, 1]) / 2
        # The noise of a row that lacks one of the two modalities of weight 1/2.
        kept += torch.diag((2 - a[:, :2].sum(dim=1)) / 2)
        alpha, b = Factor(kept, 0.3, intercept=True).fit(y[used])
        new = (k["a"][:, used] * a[:, 0] + k["b"][:, used] * a[:, 1]) / 2
        torch.testing.assert_close(model.predict(k, hidden), new @ alpha + b)


def test_rows_with_a_part_of_a_pattern_help():
    """15 of 200 rows are complete; the others have one or two of three modalities."""
    errors = {"all": 0.0, "superset": 0.0}
    for seed in range(4):
        x, y, _ = problem(200, seed, hidden=0.0)
        mask = torch.ones(200, 3, dtype=torch.bool)
        mask[15:107, 1:], mask[107:, 0] = False, False
        new, truth, _ = problem(300, seed + 100, hidden=0.0)
        for rule in errors:
            model = PatternKernelRidge(NAMES, rows=rule).fit(x, y, mask)
            errors[rule] += float((model.predict(new) - truth).square().mean())
    assert errors["all"] < 0.6 * errors["superset"]


# --- kernels and choices


def test_kernels_are_those_of_their_formulas():
    x, y = (
        torch.randn(4, 3, generator=seeded(0), dtype=F64),
        torch.randn(5, 3, generator=seeded(1), dtype=F64),
    )
    squares = torch.cdist(x, y).square()
    cosines = torch.nn.functional.cosine_similarity(x[:, None], y[None], dim=2)
    torch.testing.assert_close(kernel_between(Kernel("linear", 0.0), x, y), x @ y.T)
    torch.testing.assert_close(
        kernel_between(Kernel("gaussian", 0.7), x, y), (-0.35 * squares).exp()
    )
    torch.testing.assert_close(
        kernel_between(Kernel("angle", 2.0), x, y), (2 * (cosines - 1)).exp()
    )


@pytest.mark.parametrize("standardize", [True, False])
def test_scaled_rows_have_mean_square_length_1(standardize):
    x, y, mask = problem()
    model = small_model(standardize=standardize).fit(x, y, mask)
    for m in range(3):
        rows = model.get_buffer(f"rows_{m}")[mask[:, m]]
        assert float(rows.square().sum(dim=1).mean()) == pytest.approx(1.0)
        assert rows.mean(dim=0).abs().max() < 1e-12
        if standardize:
            torch.testing.assert_close(
                rows.std(dim=0, correction=0),
                rows.new_full((rows.shape[1],), rows.shape[1] ** -0.5),
            )


@settings(deadline=None)
@given(seed=st.integers(0, 10_000), m=st.integers(1, 6), deficient=st.booleans())
def test_non_negative_least_squares_agrees_with_scipy(seed, m, deficient):
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(10, m)), rng.normal(size=10)
    if deficient:
        a[:, -1] = a[:, 0]
    x = non_negative_least_squares(torch.tensor(a.T @ a), torch.tensor(a.T @ b))
    assert (x >= 0).all()
    assert np.linalg.norm(a @ x.numpy() - b) == pytest.approx(nnls(a, b)[1], abs=1e-8)


def test_choices_prefer_what_predicts():
    g = seeded(0)
    x = {name: torch.randn(150, 3, generator=g, dtype=F64) for name in NAMES}
    y = x["a"].sum(dim=1) + 0.05 * torch.randn(150, generator=g, dtype=F64)
    model = PatternKernelRidge(NAMES).fit(x, y)
    assert model.predict(x).shape == (150,)
    choice = model.choices[NAMES]
    assert choice.weights[0] > 0.9
    assert sum(choice.weights) == pytest.approx(1.0)
    assert model.kernels["a"].name == "linear"
    smooth = PatternKernelRidge(["a"]).fit({"a": x["a"]}, torch.sin(2 * x["a"].sum(dim=1)))
    assert smooth.kernels["a"].name != "linear"
    assert "a+b+c" in model.summary()


@pytest.mark.parametrize("frequency", [0.3, 1.0, 3.0, 6.0])
def test_no_width_is_clearly_better_than_the_chosen_one(frequency):
    g = seeded(3)
    x = torch.randn(120, 1, generator=g, dtype=F64)
    y = torch.sin(frequency * x[:, 0]) + 0.1 * torch.randn(120, generator=g, dtype=F64)

    def fitted(width):
        model = PatternKernelRidge(["a"], kernel="gaussian", width=width, standardize=False)
        model.fit({"a": x}, y).predict({"a": x})
        return model

    errors = [fitted(width).choices["a",].error for width in WIDTHS]
    assert fitted("auto").choices["a",].error < 1.04 * min(errors)


@given(
    st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=9, unique=True),
    st.integers(0, 8),
    st.integers(0, 8),
)
def test_a_descent_ends_at_the_only_minimum(errors, start, lowest):
    start, lowest = start % len(errors), lowest % len(errors)
    ordered = sorted(errors)
    falling = sorted(ordered[1 : lowest + 1], reverse=True)
    errors = [*falling, ordered[0], *ordered[lowest + 1 :]]
    tried = [start]

    def error(position):
        tried.append(position)
        return errors[position]

    assert descend(range(len(errors)), start, error, errors[start]) == lowest
    assert len(set(tried)) == len(tried)


def test_a_descent_leaves_undetermined_errors_alone():
    assert descend([0, 1, 2], 1, lambda _: float("nan"), 1.0) == 1
    assert descend([0, 1, 2], 1, lambda _: 0.0, float("nan")) == 1


def test_equal_weights_stay_unless_the_evidence_is_strong():
    g = seeded(1)
    signal = torch.randn(150, 1, generator=g, dtype=F64)
    x = {n: signal + 0.5 * torch.randn(150, 1, generator=g, dtype=F64) for n in NAMES}
    model = PatternKernelRidge(NAMES).fit(x, signal[:, 0])
    model.predict(x)
    assert model.choices[NAMES].weights == (1 / 3, 1 / 3, 1 / 3)


def test_a_validation_set_or_groups_are_not_fooled_by_leaky_features():
    """Features that were made from the training targets predict these and nothing else."""
    g = seeded(2)
    n = 120
    x = {"clean": torch.randn(2 * n, 2, generator=g, dtype=F64)}
    y = x["clean"].sum(dim=1) + 0.5 * torch.randn(2 * n, generator=g, dtype=F64)
    leaky = y[:, None] + 0.01 * torch.randn(2 * n, 1, generator=g, dtype=F64)
    leaky[n:] = torch.randn(n, 1, generator=g, dtype=F64)
    x["leaky"] = leaky
    train, new = slice(0, n), slice(n + n // 2, None)
    held = slice(n, n + n // 2)
    features = {name: v[train] for name, v in x.items()}
    test = {name: v[new] for name, v in x.items()}
    validation = ({name: v[held] for name, v in x.items()}, y[held], None)
    errors = {}
    for name, options in (("loo", {}), ("validation", {"validation": validation})):
        model = PatternKernelRidge(["clean", "leaky"]).fit(features, y[train], **options)
        errors[name] = float((model.predict(test) - y[new]).square().mean())
    assert errors["validation"] < 0.5 * errors["loo"]
    # Rows in clusters: each row occurs three times, so its copies predict it.
    copies = torch.arange(40).repeat(3)
    noise = torch.randn(40, 5, generator=g, dtype=F64)[copies]
    target = torch.randn(40, generator=g, dtype=F64)[copies]
    ridges = {}
    for name, groups in (("loo", None), ("groups", copies)):
        model = PatternKernelRidge(["x"], kernel="gaussian", width=4.0)
        model.fit({"x": noise}, target, groups=groups).predict({"x": noise})
        ridges[name] = model.choices["x",].ridge
    assert ridges["groups"] > 100 * ridges["loo"]


def test_choices_of_many_rows_are_made_on_a_seeded_sample():
    n, limit = 300, 200
    x = torch.randn(n, 2, generator=seeded(0), dtype=F64)
    y = x.sum(dim=1)
    model = PatternKernelRidge(
        ["x"], kernel="linear", ridge=0.1, weights="equal", standardize=False, choice_rows=limit
    )
    sample = model.fit({"x": x}, y)._comparison.sample
    assert len(sample) == limit
    assert torch.equal(sample, model.fit({"x": x}, y)._comparison.sample)
    torch.testing.assert_close(model.predict({"x": x}), y, atol=1e-2, rtol=1e-2)


# --- classes


@pytest.mark.parametrize("labels", [torch.tensor([7, -2, 3]), torch.tensor([True, False])])
def test_classes_are_those_of_the_targets(labels):
    g = seeded(0)
    index = torch.randint(len(labels), (90,), generator=g)
    x = {
        "a": torch.randn(90, 2, generator=g) + 3 * index[:, None],
        "b": torch.randn(90, 1, generator=g),
    }
    model = PatternKernelRidge(["a", "b"]).fit(x, labels[index])
    assert (model.predict(x) == labels[index]).double().mean() > 0.9
    assert model(x).shape == (90, len(labels))
    probabilities = model.probabilities(x)
    torch.testing.assert_close(probabilities.sum(dim=1), torch.ones(90, dtype=F64))
    nothing = torch.zeros(90, 2, dtype=torch.bool)
    shares = (labels.sort().values == labels[index][:, None]).double().mean(dim=0)
    torch.testing.assert_close(model.probabilities(x, nothing), shares.expand(90, -1))
    uniform = PatternKernelRidge(["a", "b"], intercept=False).fit(x, labels[index])
    torch.testing.assert_close(
        uniform.probabilities(x, nothing), torch.full_like(probabilities, 1 / len(labels))
    )


def test_probabilities_are_calibrated_in_each_pattern():
    g = seeded(3)
    targets = torch.randint(2, (1500,), generator=g)
    x = {name: torch.randn(1500, 1, generator=g) + targets[:, None] for name in ("a", "b")}
    train, new = slice(0, 500), slice(500, None)
    model = PatternKernelRidge(["a", "b"]).fit({n: v[train] for n, v in x.items()}, targets[train])
    for pattern in ((True, True), (True, False), (False, True)):
        mask = torch.tensor(pattern).expand(1000, 2)
        p = model.probabilities({n: v[new] for n, v in x.items()}, mask)[:, 1]
        for low, high in itertools.pairwise((0.0, 0.25, 0.5, 0.75, 1.0)):
            inside = (p >= low) & (p < high)
            if int(inside.sum()) < 30:
                continue
            share, mean = targets[new][inside].double().mean(), p[inside].mean()
            assert abs(share - mean) < 3.5 * (0.25 / int(inside.sum())) ** 0.5 + 0.03


# --- gradients, dtypes, files


@pytest.mark.parametrize("kernel", ["linear", "gaussian", "angle"])
def test_gradients_with_respect_to_features(kernel):
    x, y, mask = problem(12)
    model = small_model(kernel=kernel).fit(x, y, mask)
    new = [v[:4].clone().requires_grad_() for v in problem(4, 1)[0].values()]
    known = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 0, 1], [0, 0, 0]]).bool()
    assert gradcheck(lambda *f: model(dict(zip(NAMES, f, strict=True)), known), new)


def test_float32_agrees_with_float64():
    x, y, mask = problem()
    wide = small_model().fit(x, y, mask).predict(x, mask)
    narrow = small_model(dtype=torch.float32).fit(x, y, mask).predict(x, mask)
    assert narrow.dtype == torch.float32
    torch.testing.assert_close(narrow.double(), wide, atol=1e-4, rtol=1e-4)


def test_nan_in_an_available_cell_comes_out():
    x, y, mask = problem()
    model = small_model(weights={"a": 0.0, "b": 1.0, "c": 1.0}).fit(x, y, mask)
    broken = {name: v.clone() for name, v in x.items()}
    broken["a"][0, 0] = float("nan")
    result = model.predict(broken, mask)
    assert result[0].isnan().all()
    assert torch.equal(result[1:], model.predict(x, mask)[1:])
    classes = small_model().fit(x, (y[:, 0] > 0).long(), mask)
    for method in (classes.predict, classes.probabilities):
        with pytest.raises(ValueError, match=r"1 rows have NaN or an infinity.*the first is row 0"):
            method(broken, mask)


@pytest.mark.parametrize("how", ["file", "state", "copy", "pickle"])
def test_a_fitted_model_can_be_stored(tmp_path, how):
    x, y, mask = problem()
    validation = ({"a": x["a"]}, y, torch.tensor([True, False, False]).expand(40, 3))
    model = PatternKernelRidge(NAMES).fit(
        x, y, mask, groups=torch.arange(40) // 2, validation=validation
    )
    expected = model.predict(x, mask)
    other = PatternKernelRidge(NAMES)
    if how == "file":
        pytest.importorskip("safetensors")
        model.save(tmp_path / "model.safetensors")
        other.load(tmp_path / "model.safetensors")
    elif how == "state":
        other.load_state_dict(model.state_dict())
    else:
        other = copy.deepcopy(model) if how == "copy" else pickle.loads(pickle.dumps(model))
    assert other.choices == model.choices
    assert torch.equal(other.predict(x, mask), expected)
    hidden = mask.clone()
    hidden[:, 0] = False  # patterns that were not met before
    assert torch.equal(other.predict(x, hidden), model.predict(x, hidden))


def test_loading_and_fitting_forget_the_former_regressions():
    x, y, mask = problem()
    model = small_model().fit(x, y, mask)
    before = model.predict(x, mask)
    assert torch.equal(
        model.fit(x, 2 * y, mask).predict(x, mask),
        small_model().fit(x, 2 * y, mask).predict(x, mask),
    )
    model.load_state_dict(small_model().fit(x, y, mask).state_dict())
    assert torch.equal(model.predict(x, mask), before)
    assert model.double().predict(x, mask).equal(before)


def test_images_and_integers_are_features_too():
    g = seeded(0)
    x = {
        "image": torch.randint(9, (30, 2, 3, 3), generator=g),
        "n": torch.randn(30, 1, generator=g),
    }
    y = x["image"].flatten(1).double().sum(dim=1)
    flat = {"image": x["image"].flatten(1).double(), "n": x["n"]}
    mask = torch.ones(30, 2, dtype=torch.bool)
    options = {"kernel": "linear", "ridge": 0.1}
    one = PatternKernelRidge(["image", "n"], **options).fit(x, y, mask)
    two = PatternKernelRidge(["image", "n"], **options).fit(flat, y, mask)
    torch.testing.assert_close(one.predict(x, mask), two.predict(flat, mask))


# --- errors


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"kernel": "cubic"}, ValueError, "`kernel` must be 'auto', 'linear'"),
        ({"kernel": {"a": "linear"}}, KeyError, "`kernel` lacks the modalities"),
        ({"width": {"a": 1.0, "b": 1.0, "d": 1.0}}, KeyError, "that are not among"),
        ({"width": 0.0}, ValueError, "`width` must be finite and above 0, got 0.0"),
        ({"width": "wide"}, TypeError, "`width` must be a number or 'auto'"),
        ({"ridge": -1}, ValueError, "`ridge` must be finite and above 0, got -1"),
        ({"ridge": True}, TypeError, "`ridge` must be a number or 'auto', got True"),
        ({"weights": "free"}, ValueError, "`weights` must be 'auto' or 'equal'"),
        ({"weights": dict.fromkeys(NAMES, 0.0)}, ValueError, "not negative and not all 0"),
        ({"rows": "some"}, ValueError, "`rows` must be 'all', 'superset' or 'exact'"),
        ({"dtype": torch.float16}, TypeError, "`dtype` must be torch.float64 or torch.float32"),
        ({"criterion": "aic"}, ValueError, "`criterion` must be 'loo' or 'gcv'"),
    ],
)
def test_invalid_options_are_rejected(options, error, message):
    with pytest.raises(error, match=message):
        PatternKernelRidge(NAMES, **options)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"targets": torch.ones(39)}, ValueError, r"`targets` must have shape \(N,\) or \(N, r\)"),
        ({"targets": torch.ones(40, 2).long()}, ValueError, "since integers and bools are classes"),
        ({"targets": torch.full((40,), float("nan"))}, ValueError, "`targets` must be finite"),
        ({"targets": [1.0] * 40}, TypeError, "`targets` must be a tensor"),
        ({"groups": torch.ones(40)}, TypeError, "`groups` must be a tensor of integers"),
        ({"groups": torch.ones(3).long()}, ValueError, r"`groups` must have shape \(N,\)"),
        ({"row_weights": torch.zeros(40)}, ValueError, "finite and above 0. Leave rows out"),
        ({"row_weights": torch.ones(3)}, ValueError, r"`row_weights` must have shape"),
        ({"mask": torch.zeros(40, 3).bool()}, ValueError, "'a' is observed in none"),
        (
            {"validation": ({"a": torch.ones(2, 2)}, torch.ones(3), None)},
            ValueError,
            "`validation`: ",
        ),
    ],
)
def test_invalid_rows_are_rejected_and_leave_the_model_as_it_was(changes, error, message):
    x, y, mask = problem()
    model = small_model().fit(x, y, mask)
    before = model.predict(x, mask)
    with pytest.raises(error, match=message):
        model.fit(x, **{"targets": y, "mask": mask, **changes})
    assert torch.equal(model.predict(x, mask), before)


def test_calls_are_checked():
    x, y, mask = problem()
    with pytest.raises(RuntimeError, match="not fitted yet"):
        PatternKernelRidge(NAMES).predict(x, mask)
    with pytest.raises(RuntimeError, match="not fitted yet"):
        _ = PatternKernelRidge(NAMES).choices
    model = small_model().fit(x, y, mask)
    with pytest.raises(ValueError, match="'a' must have 2 entries in each row as in `fit`, got 3"):
        model.predict({**x, "a": torch.ones(40, 3)}, mask)
    with pytest.raises(TypeError, match="were floating point, which have no probabilities"):
        model.probabilities(x, mask)
    with pytest.raises(ValueError, match="20,001 training rows does not fit; at most 20,000"):
        small_model().fit(
            {name: torch.zeros(20_001, 1) for name in NAMES}, torch.zeros(20_001),
            torch.ones(20_001, 3).bool(),
        )  # fmt: skip
    with pytest.raises(ValueError, match="`rows` cannot be given with a precomputed kernel"):
        small_model(kernel="precomputed").fit(x, y, mask, rows=torch.arange(3))
    with pytest.raises(ValueError, match="NaN or an infinity in a row that the mask marks"):
        small_model().fit(hide(x, mask, float("nan")), y, torch.ones(40, 3).bool())


def test_rows_choose_the_training_rows():
    x, y, mask = problem()
    rows = torch.arange(5, 30)
    model = small_model().fit(x, y, mask, rows=rows)
    other = small_model().fit({n: v[rows] for n, v in x.items()}, y[rows], mask[rows])
    assert torch.equal(model.predict(x, mask), other.predict(x, mask))
    assert mask_from_features(x, NAMES).all()


@pytest.mark.parametrize("chosen", [[True, False, True], [True] * 3, [False] * 3])
def test_a_sum_that_does_not_wait_equals_the_sum_of_the_chosen_entries(chosen):
    """Entries that do not count may be NaN, as the error of a row without a prediction is."""
    chosen = torch.tensor(chosen)
    x = torch.where(chosen, torch.tensor([1.5, 2.0, -4.0], dtype=torch.float64), torch.nan)
    sums = [_sum_of(x, chosen, waits=waits) for waits in (True, False)]
    assert sums[0] == sums[1]
