"""`PatternKernelRidge` against its equation in NumPy, and against refits without rows."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from invmod.regression import PatternKernelRidge
from tests.library.regression_cases import F64, NAMES, hide, problem, small_model
from tests.strategies import NAN, laws, normal, seeded

WIDTH = 0.7


def scaled(x, observed, weights):
    """Rows in units of the weighted mean and the weighted mean square length of observed rows."""
    share = weights * observed / (weights @ observed)
    centred = x - share @ x
    return centred / np.sqrt(share @ (centred**2).sum(axis=1))


def kernel(kind, x, y):
    """One entry at a time, from the formulas of the page."""
    if kind == "linear":
        return np.array([[u @ v for v in y] for u in x])
    if kind == "gaussian":
        return np.array([[np.exp(-WIDTH * ((u - v) ** 2).sum() / 2) for v in y] for u in x])
    lengths = [[np.linalg.norm(u) * np.linalg.norm(v) for v in y] for u in x]
    return np.exp(WIDTH * (np.array([[u @ v for v in y] for u in x]) / lengths - 1))


def reference(kind, x, a, y, mu, ridge, w, pattern, *, intercept):
    """Predictions of all rows from the modalities of a pattern, by one linear system.

    The last row and column of the system belong to the intercept.
    """
    used = [i for i in range(len(y)) if any(a[i, m] for m in pattern)]
    mu = np.array([mu[m] for m in pattern]) / sum(mu[m] for m in pattern)
    k = sum(
        weight * a[:, [m]] * kernel(kind, x[m], x[m]) * a[:, m]
        for weight, m in zip(mu, pattern, strict=True)
    )
    noise = np.array([ridge + mu @ (1 - a[i, pattern]) for i in used]) / w[used]
    n = len(used)
    system, right = np.zeros((n + 1, n + 1)), np.zeros((n + 1, y.shape[1]))
    system[:n, :n] = k[np.ix_(used, used)] + np.diag(noise)
    right[:n] = y[used]
    system[n, n] = 1.0
    if intercept:
        system[n, :n], system[:n, n], system[n, n] = 1.0, 1.0, 0.0
    solution = np.linalg.solve(system, right)
    return k[:, used] @ solution[:n] + solution[n]


@laws
@given(
    seed=st.integers(0, 10_000),
    num_modalities=st.integers(1, 8),
    kind=st.sampled_from(["linear", "gaussian", "angle"]),
    intercept=st.booleans(),
)
def test_predictions_are_those_of_the_equation(seed, num_modalities, kind, intercept):
    g = seeded(seed)
    names = [f"m{m}" for m in range(num_modalities)]
    x = {name: normal(g, 12, 1 + m % 3) + m for m, name in enumerate(names)}
    mask = torch.rand(12, num_modalities, generator=g) < 0.6
    mask[:2] = True
    y, weights = normal(g, 12, 2), torch.rand(12, generator=g, dtype=F64) + 0.5
    mu = torch.rand(num_modalities, generator=g, dtype=F64) + 0.1
    model = PatternKernelRidge(
        names,
        kernel=kind,
        width=WIDTH,
        weights=dict(zip(names, mu.tolist(), strict=True)),
        ridge=0.2,
        intercept=intercept,
        standardize=False,
    )
    model.fit(hide_all(x, mask), y, mask, row_weights=weights)
    a, w = mask.double().numpy(), weights.numpy()
    units = [scaled(x[name].numpy(), a[:, m], w) for m, name in enumerate(names)]
    for pattern in mask.unique(dim=0):
        columns = pattern.nonzero()[:, 0].tolist()
        if not columns:
            continue
        rows = (mask | ~pattern).all(dim=1)
        expected = reference(
            kind, units, a, y.numpy(), mu.numpy(), 0.2, w, columns, intercept=intercept
        )
        got = model({n: v[rows] for n, v in x.items()}, pattern.expand(int(rows.sum()), -1))
        np.testing.assert_allclose(got, expected[rows.numpy()], rtol=1e-7, atol=1e-9)


def hide_all(x, mask):
    return {
        name: torch.where(mask[:, [m]], v, torch.full_like(v, NAN))
        for m, (name, v) in enumerate(x.items())
    }


# --- errors that decide a choice


def without(x, left_out, num_rows):
    """Kernels between the rows that are kept, and those of the left-out rows with them."""
    kept = torch.tensor([i for i in range(num_rows) if i not in set(left_out.tolist())])
    inner = {name: k[kept][:, kept] for name, k in x.items()}
    return kept, inner, {name: k[left_out][:, kept] for name, k in x.items()}


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("intercept", [False, True])
def test_the_error_of_a_choice_is_that_of_refits(grouped, weighted, intercept):
    """The model is fitted again without each row or group, with cells missing."""
    n = 24
    x, y, mask = problem(n)
    k = {name: torch.exp(-0.01 * torch.cdist(v, v).square()) for name, v in x.items()}
    groups = torch.arange(n) % 7 if grouped else torch.arange(n)
    weights = torch.linspace(0.5, 2.0, n, dtype=F64) if weighted else torch.ones(n, dtype=F64)
    options = {"kernel": "precomputed", "intercept": intercept}
    model = small_model(ridge="auto", **options)
    model.fit(k, y, mask, groups=groups if grouped else None, row_weights=weights)
    pattern = torch.tensor([True, False, True])
    model.predict(k, pattern.expand(n, 3))
    choice = model.choices["a", "c"]
    complete = (mask | ~pattern).all(dim=1)
    total = 0.0
    for group in groups.unique():
        left_out = (groups == group).nonzero()[:, 0]
        kept, inner, outer = without(k, left_out, n)
        again = small_model(ridge=choice.ridge, **options)
        again.fit(inner, y[kept], mask[kept], row_weights=weights[kept])
        # A row that was left out predicts nothing for itself: its own pattern decides its kernel.
        predictions = again(outer, mask[left_out] & pattern)
        whole = complete[left_out]
        errors = (y[left_out] - predictions)[whole].square().sum(dim=1)
        total += float((weights[left_out][whole] * errors).sum())
    assert choice.error == pytest.approx(total / float(weights[complete].sum()), rel=1e-8)


@pytest.mark.parametrize("grouped", [False, True])
def test_gcv_decides_only_where_rows_are_left_out_one_by_one(grouped):
    x, y, mask = problem(30)
    groups = torch.arange(30) // 3 if grouped else None
    errors = {}
    for criterion in ("loo", "gcv"):
        model = small_model(ridge="auto", criterion=criterion).fit(x, y, mask, groups=groups)
        model.predict(x, mask)
        errors[criterion] = model.choices[NAMES].error
    assert (errors["gcv"] == errors["loo"]) == grouped


def test_the_error_of_a_validation_set_is_that_of_its_predictions():
    x, y, mask = problem()
    new, truth, new_mask = problem(30, 1)
    model = small_model(ridge="auto")
    results = []
    for value in (0.0, NAN, 1e9):  # hidden cells of the validation set have no part in a choice
        model.fit(x, y, mask, validation=(hide(new, new_mask, value), truth, new_mask))
        model.predict(x, torch.ones_like(mask))
        results.append(model.choices[NAMES])
    assert results[0] == results[1] == results[2]
    complete = new_mask.all(dim=1)
    rows = {name: v[complete] for name, v in new.items()}
    errors = (model.predict(rows) - truth[complete]).square().sum(dim=1)
    assert results[0].error == pytest.approx(float(errors.mean()))
