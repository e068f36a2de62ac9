"""Rows that are appended to a fitted `PatternKernelRidge` give the fit of all rows."""

import itertools

import pytest
import torch

from invmod.regression import PatternKernelRidge, arguments, projection, solving, training_rows
from tests.library.regression_cases import F64, NAMES, hide, problem, small_model
from tests.strategies import seeded

FIRST, ALL = 40, 60
PATTERNS = [p for size in (1, 2, 3) for p in itertools.combinations(range(3), size)]
NEAR = {"rtol": 0, "atol": 1e-10}
# (landmarks, neighbours, probes)
FORMS = [(None, None, None), (9, None, None), (9, 5, None), (9, 5, 2)]


def queries():
    """Rows of all patterns."""
    x, _, _ = problem(14, seed=5)
    mask = torch.tensor([[m in p for m in range(3)] for p in PATTERNS]).repeat(2, 1)
    return x, mask


def built(form=FORMS[0], **options):
    return small_model(
        **dict(zip(("landmarks", "neighbours", "probes"), form, strict=True)), **options
    )


def rows_of(x, at):
    return {name: v[at] for name, v in x.items()}


def refit(model, build, x, y, mask, weights=None):
    """The fit on all rows, with the units, kernels, landmarks and options of a fitted model."""
    state = dict(model.state_dict())
    for m, name in enumerate(NAMES):
        scaled = (x[name] - state[f"centre_{m}"]) / state[f"scale_{m}"]
        scaled = torch.where(mask[:, [m]], scaled, 0.0)
        state[f"rows_{m}"] = scaled if model.is_exact else x[name]
    state |= {"observed": mask.double(), "targets": y.double()}
    state["row_weights"] = torch.ones(len(mask), dtype=F64) if weights is None else weights
    other = build()
    other.load_state_dict(state)
    return other


def use(model):
    """Make predictions, so that there is something to extend."""
    model(*queries())
    model.smoother(*queries())
    model.leave_one_out(["a", "c"])


def assert_equal(model, other):
    assert model.choices == other.choices
    torch.testing.assert_close(model(*queries()), other(*queries()), **NEAR)
    torch.testing.assert_close(model.smoother(*queries()), other.smoother(*queries()), **NEAR)
    for names in (["a"], ["a", "b", "c"]):
        torch.testing.assert_close(model.leave_one_out(names), other.leave_one_out(names), **NEAR)


def assert_unchanged(model, before):
    after = model.state_dict()
    assert after.keys() == before.keys()
    assert all(x.data_ptr() == before[name].data_ptr() for name, x in after.items())


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("rows", ["all", "superset", "exact"])
@pytest.mark.parametrize("used", [True, False])
def test_appended_rows_give_the_fit_of_all_rows(form, rows, used, monkeypatch):
    monkeypatch.setattr(
        training_rows, "MIN_EXACT_ROWS", 6
    )  # Some patterns get there with new rows.
    x, y, mask = problem(ALL)
    weights = torch.rand(ALL, generator=seeded(1), dtype=F64) + 0.5

    def build():
        return built(form, rows=rows)

    first = torch.arange(FIRST)
    model = build().fit(x, y, mask, rows=first, row_weights=weights)
    if used:
        use(model)
    new = torch.arange(FIRST, ALL)
    assert model.extend(x, y, mask, rows=new, row_weights=weights) is model
    assert_equal(model, refit(model, build, x, y, mask, weights))
    copied = build()
    copied.load_state_dict(model.state_dict())
    assert_equal(copied, model)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("intercept", [True, False])
def test_any_order_and_any_number_of_steps_give_the_same(form, intercept):
    x, y, mask = problem(ALL)
    orders = [torch.arange(FIRST, ALL), FIRST + torch.randperm(20, generator=seeded(3))]
    once, twice, again = (
        built(form, intercept=intercept).fit(x, y, mask, rows=torch.arange(FIRST)) for _ in range(3)
    )
    for model in (once, twice, again):
        use(model)
    once.extend(x, y, mask, rows=orders[0])
    for part in orders[1].split(7):
        twice.extend(x, y, mask, rows=part)
        use(twice)
    for part in orders[0].split(1):
        again.extend(rows_of(x, part), y[part], mask[part])
    for model in (twice, again):
        torch.testing.assert_close(model(*queries()), once(*queries()), **NEAR)
    order = torch.cat([torch.arange(FIRST), orders[1]]).argsort()
    torch.testing.assert_close(
        twice.smoother(*queries())[:, order], once.smoother(*queries()), **NEAR
    )


@pytest.mark.parametrize("scaling", [True, False])
def test_rows_that_keep_the_units_give_a_fit_from_the_start(scaling):
    """The second half repeats the first one, so centres and scales stay."""
    x, y, mask = problem(FIRST)
    half = torch.arange(FIRST)
    double = {name: torch.cat([v, v]) for name, v in x.items()}
    model = small_model(standardize=scaling).fit(x, y, mask)
    use(model)
    model.extend(double, torch.cat([y, -y]), mask.repeat(2, 1), rows=FIRST + half)
    fitted = small_model(standardize=scaling).fit(double, torch.cat([y, -y]), mask.repeat(2, 1))
    use(fitted)
    assert_equal(model, fitted)


def test_chosen_options_are_kept_and_new_patterns_choose_on_all_rows():
    x, y, mask = problem(ALL)
    model = PatternKernelRidge(NAMES).fit(x, y, mask, rows=torch.arange(FIRST))
    model.choose(NAMES)
    chosen, kernels = model.choices, model.kernels
    model.extend(x, y, mask, rows=torch.arange(FIRST, ALL))
    assert (model.choices, model.kernels) == (chosen, kernels)
    other = refit(model, lambda: PatternKernelRidge(NAMES), x, y, mask)
    assert_equal(model, other)
    assert len(model.choices) == len(PATTERNS)


@pytest.mark.parametrize("form", FORMS)
def test_classes(form):
    x, y, mask = problem(ALL)
    labels = torch.bucketize(y[:, 0].contiguous(), torch.tensor([-1.0, 1.0], dtype=F64))
    model = built(form).fit(x, labels, mask, rows=torch.arange(FIRST))
    expected = model.probabilities(*queries())
    model.extend(x, labels.to(torch.uint8), mask, rows=torch.arange(FIRST, ALL))
    other = refit(model, lambda: built(form), x, labels, mask)
    torch.testing.assert_close(model.probabilities(*queries()), other.probabilities(*queries()))
    assert not torch.allclose(model.probabilities(*queries()), expected)
    before = model.state_dict()
    with pytest.raises(ValueError, match=r"has the classes \[7\], which `fit` has not seen"):
        model.extend(x, torch.full((ALL,), 7), mask)
    with pytest.raises(
        TypeError, match="`targets` must be classes, integers or bools, as in `fit`"
    ):
        model.extend(x, y[:, 0], mask)
    with pytest.raises(TypeError, match="set_targets: `targets` must be classes"):
        model.set_targets(y[:, 0])
    assert_unchanged(model, before)
    model.set_targets(2 - torch.cat([labels[:FIRST], labels[FIRST:]]))
    torch.testing.assert_close(model(*queries()), other(*queries()).flip(1), **NEAR)


@pytest.mark.parametrize("form", FORMS)
def test_targets_that_are_replaced_are_those_of_a_fit(form):
    x, y, mask = problem(ALL)
    model, other = (built(form).fit(x, y, mask) for _ in range(2))
    use(model)
    model.extend(x, y, mask, rows=torch.arange(5)).set_targets(torch.cat([3 * y, y[:5]])[:, :1])
    other.extend(x, y, mask, rows=torch.arange(5))
    wanted = other.with_targets(torch.cat([3 * y, y[:5]])[:, :1])
    torch.testing.assert_close(model(*queries()), wanted(*queries()), **NEAR)
    model.extend(x, y[:, 0:1], mask, rows=torch.tensor([7]))
    assert model.targets.shape == (ALL + 6, 1)


def counted_factors(monkeypatch):
    """Return the list of sizes of the matrices that are factorised from now on."""
    sizes, factor = [], solving.cholesky_factor

    def counting(system, *arguments):
        sizes.append(len(system))
        return factor(system, *arguments)

    monkeypatch.setattr(solving, "cholesky_factor", counting)
    return sizes


def test_factors_in_memory_are_extended_and_not_computed_again(monkeypatch):
    x, y, mask = problem(ALL)
    whole = torch.ones_like(mask)
    model = small_model().fit(x, y, whole, rows=torch.arange(FIRST))
    model.smoother(x, whole)
    sizes = counted_factors(monkeypatch)
    for part in torch.arange(FIRST, ALL).split(10):
        model.extend(x, y, whole, rows=part)
        model(x, whole)
        model.smoother(x, whole)
    model.set_targets(-y)
    model(x, whole)
    assert sizes == [10, 10]
    # Without a factor in memory the pattern is solved, and from then on its factor is kept.
    other = small_model().fit(x, y, whole, rows=torch.arange(FIRST))
    other(x, whole)
    sizes.clear()
    for part in torch.arange(FIRST, ALL).split(10):
        other.extend(x, y, whole, rows=part)
        other(x, whole)
    assert sizes == [FIRST + 10, 10]
    # The next fit starts from the beginning.
    sizes.clear()
    other.fit(x, y, whole)
    for _ in range(2):
        other(x, whole)
        other._solutions.clear()
    assert sizes == [ALL, ALL]


def test_sums_get_the_new_rows_only(monkeypatch):
    x, y, mask = problem(ALL)
    model = small_model(landmarks=9).fit(x, y, mask, rows=torch.arange(FIRST))
    use(model)
    read = []
    blocks = projection.Projection._blocks

    def counting(self, group, first):
        for rows, *others in blocks(self, group, first):
            read.extend(rows.tolist())
            yield rows, *others

    monkeypatch.setattr(projection.Projection, "_blocks", counting)
    model.extend(x, y, mask, rows=torch.arange(FIRST, ALL))
    model(*queries())
    assert set(read) == set(range(FIRST, ALL)) - set((~mask.any(dim=1)).nonzero()[:, 0].tolist())


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("value", [torch.nan, 1e9])
def test_hidden_cells_and_absent_modalities(form, value):
    x, y, mask = problem(ALL)
    mask[FIRST:, 1] = False
    models = [built(form).fit(x, y, mask, rows=torch.arange(FIRST)) for _ in range(3)]
    new = torch.arange(FIRST, ALL)
    models[0].extend(x, y, mask, rows=new)
    models[1].extend(hide(x, mask, value), y, mask, rows=new)
    absent = {**rows_of(x, new), "b": None}
    models[2].extend(absent, y[new], mask[new])
    for model in models[1:]:
        assert torch.equal(model(*queries()), models[0](*queries()))


def test_no_rows_change_nothing():
    x, y, mask = problem(ALL)
    model = small_model().fit(x, y, mask)
    before = model(*queries())
    model.extend(x, y, mask, rows=torch.arange(0))
    assert torch.equal(model(*queries()), before)


def test_the_dtype_and_the_groups_of_the_first_rows_are_kept():
    x, y, mask = problem(ALL)
    half = {name: v.half() for name, v in x.items()}
    model = small_model(landmarks=8).fit(half, y, mask, groups=torch.arange(ALL) // 2)
    model.extend({name: v.float() for name, v in rows_of(half, slice(5)).items()}, y[:5], mask[:5])
    assert model.rows_0.dtype == torch.float16
    assert torch.equal(model.rows_0[ALL:], half["a"][:5])
    assert model.groups.tolist() == [*(torch.arange(ALL) // 2).tolist(), *range(30, 35)]
    mask[0] = True
    with pytest.raises(ValueError, match=r"of 'a' is too large for torch\.float16"):
        model.extend({name: 1e6 * v for name, v in x.items()}, y, mask)


def test_calls_that_do_not_fit_are_refused(monkeypatch):
    x, y, mask = problem(ALL)
    with pytest.raises(RuntimeError, match="extend: not fitted yet"):
        small_model().extend(x, y, mask)
    with pytest.raises(RuntimeError, match="set_targets: not fitted yet"):
        small_model().set_targets(y)
    model = small_model().fit(x, y, mask)
    before = model.state_dict()
    for features, targets, error, message in (
        ({**x, "z": x["a"]}, y, KeyError, "extend: `features` has modalities"),
        ({"a": None}, y, ValueError, "extend: `features` has no modality"),
        ({**x, "b": x["a"]}, y, ValueError, "feature of 'b' must have 3 entries in each row as in"),
        (x, y[:, 0], ValueError, r"`targets` must have the shape \(N, 2\) as in `fit`"),
        (x, y[:5], ValueError, "`targets` must have shape"),
        (x, y.long()[:, 0], TypeError, "`targets` must be floating point, as in `fit`"),
        (x, torch.full_like(y, torch.nan), ValueError, "`targets` must be finite"),
    ):
        with pytest.raises(error, match=message):
            model.extend(features, targets, torch.ones_like(mask) if "b" in features else None)
    for targets, error, message in (
        (y[:5], ValueError, "set_targets: `targets` must have shape"),
        (torch.full_like(y, torch.nan), ValueError, "set_targets: `targets` must be finite"),
    ):
        with pytest.raises(error, match=message):
            model.set_targets(targets)
    monkeypatch.setattr(arguments, "MAX_ROWS", 2 * ALL - 1)
    with pytest.raises(ValueError, match="extend: a kernel of 120 training rows does not fit"):
        model.extend(x, y, mask)
    assert_unchanged(model, before)
    k = PatternKernelRidge(["k"], kernel="precomputed", ridge=0.5).fit({"k": torch.eye(4)}, y[:4])
    with pytest.raises(ValueError, match="no rows can be appended to a precomputed kernel"):
        k.extend({"k": torch.eye(4)}, y[:4])
