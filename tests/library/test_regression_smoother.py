"""Laws of `PatternKernelRidge.smoother`, and of options that are set for a pattern."""

import copy
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.autograd import gradcheck

from invmod.regression import PatternKernelRidge
from tests.library.regression_cases import F64, NAMES, hide, problem, small_model
from tests.strategies import NAN, laws, normal, seeded

EXACT = {"rtol": 0, "atol": 1e-10}


def some_problem(seed, num_modalities):
    """A problem of M modalities, some of them missing, with row weights and new rows."""
    g = seeded(seed)
    names = [f"m{m}" for m in range(num_modalities)]
    x = {name: normal(g, 25, 1 + m % 3) for m, name in enumerate(names)}
    mask = torch.rand(25, num_modalities, generator=g) < 0.7
    mask[0] = True
    new = {name: normal(g, 9, v.shape[1]) for name, v in x.items()}
    new_mask = torch.rand(9, num_modalities, generator=g) < 0.6
    new_mask[0], new_mask[1] = True, False
    weights = torch.rand(25, generator=g, dtype=F64) + 0.5
    return names, x, mask, new, new_mask, normal(g, 25, 3), weights


# --- the smoother


@laws
@given(
    seed=st.integers(0, 10_000),
    num_modalities=st.integers(1, 8),
    kernel=st.sampled_from(["linear", "gaussian", "angle"]),
    rows=st.sampled_from(["all", "superset"]),
    intercept=st.booleans(),
    weighted=st.booleans(),
)
def test_a_product_with_the_targets_gives_the_predictions(
    seed, num_modalities, kernel, rows, intercept, weighted
):
    names, x, mask, new, new_mask, y, weights = some_problem(seed, num_modalities)
    model = PatternKernelRidge(
        names,
        kernel=kernel,
        width=0.7,
        weights="equal",
        ridge=0.2,
        rows=rows,
        intercept=intercept,
        standardize=False,
    )
    model.fit(x, y, mask, row_weights=weights if weighted else None)
    h = model.smoother(new, new_mask)
    parts = model.smoother_by_modality(hide(new, new_mask, NAN), new_mask)
    torch.testing.assert_close(parts.sum(dim=0), h, **EXACT)
    for m in range(num_modalities):
        assert parts[m, ~new_mask[:, m]].eq(0).all()
    assert intercept or parts[-1].eq(0).all()
    assert h.shape == (9, 25)
    torch.testing.assert_close(h @ y, model(new, new_mask), **EXACT)
    sums = h.sum(dim=1)
    if intercept:
        torch.testing.assert_close(sums, torch.ones_like(sums), **EXACT)
    # Targets have no part in the matrix once the options are given.
    other = model.fit(x, y.flip(0) ** 2, mask, row_weights=weights if weighted else None)
    assert torch.equal(other.smoother(new, new_mask), h)
    torch.testing.assert_close(h @ (y.flip(0) ** 2), other(new, new_mask), **EXACT)


def test_a_row_without_modalities_has_the_shares_of_the_row_weights():
    x, y, mask = problem()
    weights = torch.linspace(0.5, 2, 40, dtype=F64)
    nothing = torch.zeros(2, 3, dtype=torch.bool)
    new = {name: v[:2] for name, v in x.items()}
    h = small_model().fit(x, y, mask, row_weights=weights).smoother(new, nothing)
    torch.testing.assert_close(h, (weights / weights.sum()).expand(2, 40))
    h = small_model(intercept=False).fit(x, y, mask).smoother(new, nothing)
    assert torch.equal(h, torch.zeros(2, 40, dtype=F64))


def test_columns_of_rows_that_a_pattern_does_not_use_are_0():
    x, y, mask = problem()
    pattern = torch.tensor([True, False, True])
    for rule, used in (("all", mask[:, [0, 2]].any(dim=1)), ("superset", mask[:, [0, 2]].all(1))):
        assert 0 < int(used.sum()) < 40
        h = small_model(rows=rule).fit(x, y, mask).smoother(x, pattern.expand(40, 3))
        assert torch.equal((h != 0).any(dim=0), used)
    rows = torch.tensor([30, 2, 0, 11])
    h = small_model().fit(x, y, mask, rows=rows).smoother(x, mask)
    assert h.shape == (40, 4)  # in the order of `rows`
    torch.testing.assert_close(h @ y[rows], small_model().fit(x, y, mask, rows=rows)(x, mask))


def test_classes_are_indicators():
    x, y, mask = problem()
    labels = (y[:, 0] > 0).long() + (y[:, 0] > 1).long()
    model = PatternKernelRidge(NAMES, kernel="gaussian").fit(x, labels, mask)
    indicators = torch.nn.functional.one_hot(labels).to(F64)
    torch.testing.assert_close(model.smoother(x, mask) @ indicators, model(x, mask), **EXACT)


def test_hidden_cells_change_no_bit_and_nan_comes_out():
    x, y, mask = problem()
    model = small_model().fit(x, y, mask)
    expected = model.smoother(hide(x, mask, 0.0), mask)
    assert torch.equal(model.smoother(hide(x, mask, NAN), mask), expected)
    assert torch.equal(model.smoother(hide(x, mask, NAN)), expected)
    broken = {name: v.clone() for name, v in x.items()}
    broken["a"][0, 0] = NAN
    h = model.smoother(broken, mask)
    assert h[0].isnan().all()
    assert torch.equal(h[1:], expected[1:])
    assert model.smoother({name: v[:0] for name, v in x.items()}, mask[:0]).shape == (0, 40)
    with pytest.raises(RuntimeError, match=r"smoother: not fitted yet"):
        small_model().smoother(x, mask)


def test_gradients_with_respect_to_features():
    x, y, mask = problem(12)
    model = small_model().fit(x, y, mask)
    new = [v[:4].clone().requires_grad_() for v in problem(4, 1)[0].values()]
    known = torch.tensor([[1, 1, 1], [1, 0, 1], [0, 0, 1], [0, 0, 0]]).bool()
    assert gradcheck(lambda *f: model.smoother(dict(zip(NAMES, f, strict=True)), known), new)


def test_the_factor_of_a_pattern_is_kept_if_the_smoother_was_used():
    def factors(model):
        return [s._factor is not None for s in model._solutions.values()]

    x, y, mask = problem()
    whole = torch.ones_like(mask)
    model = small_model().fit(x, y, mask)
    expected = model(x, whole)
    assert factors(model) == [False]
    h = model.smoother(x, whole)
    assert factors(model) == [True]
    assert torch.equal(model.smoother(x, whole), h)
    assert torch.equal(model(x, whole), expected)
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert factors(other) == [False]
        assert torch.equal(other.smoother(x, whole), h)
    assert factors(model.fit(x, y, mask)) == []
    # Predictions after the smoother use its factor, and are the same.
    first = small_model().fit(x, y, mask)
    first.smoother(x, whole)
    assert torch.equal(first(x, whole), expected)


# --- options of a pattern that are given


def test_options_that_are_set_equal_those_of_the_constructor():
    x, y, mask = problem()
    whole = torch.ones_like(mask)
    expected = small_model(weights={"a": 1, "b": 2, "c": 5}, ridge=0.7).fit(x, y, mask)
    model = small_model().fit(x, y, mask)
    before = model(x, mask & torch.tensor([True, True, False]))
    assert model.set_choice({"c": 5, "b": 2, "a": 1}, ridge=0.7) is model
    torch.testing.assert_close(model(x, whole), expected(x, whole), **EXACT)
    torch.testing.assert_close(model.smoother(x, whole), expected.smoother(x, whole), **EXACT)
    # The options of other patterns are those of the constructor.
    assert torch.equal(model(x, mask & torch.tensor([True, True, False])), before)
    choice = model.choices[NAMES]
    assert choice == ((0.125, 0.25, 0.625), 0.7, None, None)
    # A pattern that was solved before is solved again.
    model.set_choice(dict(zip(NAMES, (1, 1, 1), strict=True)), ridge=0.3)
    torch.testing.assert_close(model(x, whole), small_model().fit(x, y, mask)(x, whole), **EXACT)
    assert list(model.choices).count(NAMES) == 1


def test_options_that_are_set_are_kept_in_the_state_until_the_next_fit():
    x, y, mask = problem()
    model = PatternKernelRidge(NAMES).fit(x, y, mask)
    model.set_choice({"a": 1, "c": 3}, ridge=0.7)
    hidden = torch.tensor([True, False, True]).expand(40, 3)
    other = PatternKernelRidge(NAMES)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(x, hidden), model(x, hidden))
    assert other.choices == model.choices == {("a", "c"): ((0.25, 0.75), 0.7, None, None)}
    assert model.fit(x, y, mask).choices == {}


def test_a_choice_can_be_handed_over():
    x, y, mask = problem()
    chosen = PatternKernelRidge(NAMES).fit(x, y, mask)
    expected = chosen(x, mask)
    other = PatternKernelRidge(NAMES).fit(x, y, mask)
    for names, choice in chosen.choices.items():
        other.set_choice(dict(zip(names, choice.weights, strict=True)), choice.ridge)
    torch.testing.assert_close(other(x, mask), expected, **EXACT)


@pytest.mark.parametrize("classes", [False, True])
def test_choices_of_another_model_are_set_as_they_are(classes):
    x, y, mask = problem()
    y = (y[:, 0] > 0).long() if classes else y
    chosen = PatternKernelRidge(NAMES).fit(x, y, mask)
    expected = chosen(x, mask)
    other = PatternKernelRidge(NAMES).fit(x, y, mask)
    assert other.set_choices(chosen.choices) is other
    assert other.choices == chosen.choices
    assert list(other.choices) == list(chosen.choices)
    assert torch.equal(other.options.nan_to_num(-1), chosen.options.nan_to_num(-1))
    assert torch.equal(other(x, mask), expected)
    # A pattern that was solved before is solved again.
    names = next(iter(chosen.choices))
    other.set_choices({names: chosen.choices[names]._replace(ridge=1e3)})
    assert not torch.allclose(other(x, mask), expected)


def test_options_are_chosen_on_request_as_for_the_first_row():
    x, y, mask = problem()
    late, early = (PatternKernelRidge(NAMES).fit(x, y, mask) for _ in range(2))
    late(x, mask)
    for names, choice in late.choices.items():
        assert early.choose(names[::-1]) == choice
        assert early.choose(names) == choice
    assert early.choices == late.choices
    with pytest.raises(KeyError, match="choose: `modalities` has modalities"):
        early.choose(["z"])
    constant = PatternKernelRidge((*NAMES, "d")).fit({**x, "d": torch.ones(40, 1)}, y)
    assert list(constant.choices) == []
    constant.choose(["d", "a"])
    assert list(constant.choices) == [("a",)]
    with pytest.raises(ValueError, match="no modality that varies"):
        constant.choose(["d"])


def test_choices_that_do_not_fit_are_refused():
    x, y, _ = problem()
    model = PatternKernelRidge((*NAMES, "d")).fit({**x, "d": torch.ones(40, 1)}, y)
    choice = model.choose(["a"])
    two = choice._replace(weights=(0.5, 0.5))
    before = model.choices
    for choices, error, message in (
        ({("e",): choice}, KeyError, r"set_choices: `choices` has modalities \['e'\]"),
        ({("a",): choice, ("b", "a"): two}, ValueError, r"\('b', 'a'\) must be \('a', 'b'\)"),
        ({("a", "b"): choice}, ValueError, r"with a weight of each, got the weights \(1.0,\)"),
        ({("a", "d"): two}, ValueError, r"must be \('a',\)"),
        ({(): choice}, ValueError, "must be"),
    ):
        with pytest.raises(error, match=message):
            model.set_choices(choices)
        assert model.choices == before


def test_the_sharpness_of_classes_is_fitted_for_the_options_that_are_set():
    x, y, mask = problem()
    labels = (y[:, 0] > 0).long()
    model = small_model().fit(x, labels, mask)
    expected = small_model(ridge=2.0).fit(x, labels, mask)
    model.set_choice(dict.fromkeys(NAMES, 1.0), ridge=2.0)
    whole = torch.ones_like(mask)
    torch.testing.assert_close(model.probabilities(x, whole), expected.probabilities(x, whole))
    assert model.choices[NAMES].sharpness == pytest.approx(expected.choices[NAMES].sharpness)


def test_a_constant_modality_has_no_weight():
    x, y, _ = problem()
    model = PatternKernelRidge((*NAMES, "d")).fit({**x, "d": torch.ones(40, 1)}, y)
    model.set_choice({"a": 1, "b": 3, "d": 4}, ridge=0.1)
    assert model.choices == {("a", "b"): ((0.25, 0.75), 0.1, None, None)}
    with pytest.raises(ValueError, match="above 0 for a modality that is not constant"):
        model.set_choice({"d": 1}, ridge=0.1)
    with pytest.raises(ValueError, match="above 0 for a modality that is not constant"):
        model.set_choice({"a": 0, "d": 1}, ridge=0.1)


@pytest.mark.parametrize(
    ("weights", "ridge", "error", "message"),
    [
        ({"e": 1}, 0.1, KeyError, r"set_choice: `weights` has modalities \['e'\]"),
        ({"a": -1}, 0.1, ValueError, "not negative and not all 0, got {'a': -1.0}"),
        ({"a": 0}, 0.1, ValueError, "not all 0"),
        ({}, 0.1, ValueError, "not all 0"),
        ({"a": NAN}, 0.1, ValueError, "must be finite"),
        ((1, 2, 3), 0.1, TypeError, "must be a mapping of modality names to weights, got tuple"),
        ({"a": 1}, 0, ValueError, "`ridge` must be finite and above 0, got 0"),
        ({"a": 1}, "auto", TypeError, "`ridge` must be a number, got 'auto'"),
    ],
)
def test_invalid_options_are_rejected_and_change_nothing(weights, ridge, error, message):
    x, y, mask = problem()
    model = small_model().fit(x, y, mask)
    before = model.set_choice({"a": 1}, ridge=0.4).choices
    with pytest.raises(error, match=message):
        model.set_choice(weights, ridge)
    assert model.choices == before
    with pytest.raises(RuntimeError, match="set_choice: not fitted yet"):
        small_model().set_choice({"a": 1}, ridge=0.1)


# --- precision


def test_float32_leaves_out_ridges_below_its_rounding_error():
    x = normal(seeded(0), 700, 2)
    y = x.sum(dim=1)
    options = {"kernel": "gaussian", "width": 0.1, "standardize": False}
    ridges = {}
    for dtype in (torch.float32, F64):
        model = PatternKernelRidge(["a"], dtype=dtype, **options).fit({"a": x}, y)
        torch.testing.assert_close(model.predict({"a": x}), y.to(dtype), atol=0.05, rtol=0)
        ridges[dtype] = model.choices["a",].ridge
    assert ridges[F64] < 1e-4 < ridges[torch.float32]
    model = PatternKernelRidge(["a"], dtype=torch.float32, ridge=1e-9, **options)
    with pytest.raises(ValueError, match=r"not positive definite in torch.float32 with the ridge"):
        model.fit({"a": x}, y).predict({"a": x})


def test_float32_choices_are_the_same_after_loading():
    x, y, mask = problem()
    model = PatternKernelRidge(NAMES, dtype=torch.float32).fit(x, y, mask)
    expected = model(x, mask)
    other = PatternKernelRidge(NAMES, dtype=torch.float32)
    other.load_state_dict(model.state_dict())
    assert torch.equal(other(x, mask), expected)
    assert other.choices == model.choices


# --- the kernel, one pattern for all rows, and leave-one-out


@laws
@given(
    seed=st.integers(0, 10_000),
    num_modalities=st.integers(1, 4),
    intercept=st.booleans(),
    weighted=st.booleans(),
)
def test_leave_one_out_weights_give_the_predictions_of_refits(
    seed, num_modalities, intercept, weighted
):
    names, x, mask, _, _, y, weights = some_problem(seed, num_modalities)
    pattern = names[: 1 + seed % num_modalities]
    fixed = {"kernel": "angle", "width": 0.7, "weights": "equal", "ridge": 0.2}
    fixed |= {"intercept": intercept, "standardize": False}
    row_weights = weights if weighted else None
    model = PatternKernelRidge(names, **fixed).fit(x, y, mask, row_weights=row_weights)
    h = model.leave_one_out_smoother(pattern)
    used = mask[:, : len(pattern)].any(dim=1)
    assert (h.diagonal() == 0).all()
    assert (h[~used] == 0).all()
    assert (h[:, ~used] == 0).all()
    if intercept:
        torch.testing.assert_close(h[used].sum(dim=1), torch.ones(int(used.sum()), dtype=F64))
    # Units of the features are those of all rows in both, so only the coefficients are refitted.
    i = int(used.nonzero()[seed % int(used.sum()), 0])
    others = torch.cat([torch.arange(i), torch.arange(i + 1, 25)])
    k = model._training.kernel(
        tuple(range(len(pattern))), [1 / len(pattern)] * len(pattern), others
    )
    left = others[used[others]]
    places = used[others].nonzero()[:, 0]
    system = k[places][:, places] + torch.diag(0.2 / model.row_weights[left])
    row = model.kernel_matrix(x, mask, pattern=pattern)[i, left]
    b = torch.zeros(3, dtype=F64)
    if intercept:
        ones = torch.linalg.solve(system, torch.ones(len(left), dtype=F64))
        b = ones @ y[left] / ones.sum()
    expected = row @ torch.linalg.solve(system, y[left] - b) + b
    torch.testing.assert_close((h @ y)[i], expected, rtol=1e-7, atol=1e-9)


def test_leave_one_out_weights_of_some_rows_ignore_the_others():
    x, y, mask = problem(40, 0)
    rows = torch.tensor([30, 2, 11, 5, 17])
    model = small_model(standardize=False).fit(x, y, mask)
    h = model.leave_one_out_smoother(NAMES, rows)
    assert h.shape == (5, 5)
    order = torch.tensor([4, 0, 2, 1, 3])
    torch.testing.assert_close(
        model.leave_one_out_smoother(NAMES, rows[order]), h[order][:, order], **EXACT
    )
    assert not torch.allclose(h, model.leave_one_out_smoother(NAMES)[rows][:, rows])
    alone = model.leave_one_out_smoother(NAMES, rows[:1])
    assert alone.isnan().all()  # With an intercept a single row has no prediction.
    with pytest.raises(KeyError, match="touch"):
        model.leave_one_out_smoother(["touch"])
    with pytest.raises(ValueError, match="leave_one_out_smoother"):
        model.leave_one_out_smoother(NAMES, torch.tensor([40]))


def test_a_pattern_may_be_the_same_for_all_rows():
    x, y, mask = problem(40, 1)
    model = small_model(standardize=False).fit(x, y, mask)
    h = model.smoother(x, mask, pattern=NAMES)
    whole = mask.all(dim=1)
    assert 0 < int(whole.sum()) < 40
    torch.testing.assert_close(h[whole], model.smoother(x, mask)[whole], **EXACT)
    assert not torch.allclose(h[~whole], model.smoother(x, mask)[~whole])
    # It is the kernel of the whole pattern with 0 where a row lacks a modality.
    k = model.kernel_matrix(x, mask, pattern=NAMES)
    parts = [
        model.choices[tuple(NAMES)].weights[m]
        * model.kernel_matrix(x, mask, pattern=[name])
        * mask[:, m, None]
        for m, name in enumerate(NAMES)
    ]
    torch.testing.assert_close(k, torch.stack(parts).sum(dim=0), **EXACT)


def test_only_the_last_patterns_keep_their_factors():
    names = [f"m{m}" for m in range(4)]
    g = seeded(0)
    x = {name: normal(g, 20, 2) for name in names}
    model = PatternKernelRidge(
        names, kernel="linear", weights="equal", ridge=1.0, standardize=False
    ).fit(x, normal(g, 20))
    masks = torch.cartesian_prod(*[torch.tensor([False, True])] * 4)[1:]
    one = {name: v[:1] for name, v in x.items()}
    first = [model.smoother(one, mask[None]) for mask in masks]
    with_factor = [p for p, each in model._solutions.items() if each.has_cache]
    assert with_factor == [tuple(mask.nonzero()[:, 0].tolist()) for mask in masks[-8:]]
    for mask, h in zip(masks, first, strict=True):
        assert torch.equal(model.smoother(one, mask[None]), h)
