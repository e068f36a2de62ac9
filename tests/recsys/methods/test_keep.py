"""KEEP against its formulas in NumPy and kernel ridge over users, and with parts switched off."""

import dataclasses

import numpy as np
import pytest
import torch

from milk_recsys.base.errors import DataError
from milk_recsys.base.linear_algebra import leading_spectrum, oversampled
from milk_recsys.catalogue.user_rows import build_user_rows
from milk_recsys.methods.closed_form import interactions
from milk_recsys.methods.keep import choice, fitted, left_out, pairs, vectors
from milk_recsys.methods.keep import model as keep
from milk_recsys.methods.keep.pairs import DampedPairs
from milk_recsys.methods.keep.vectors import ExactVectors, SingularVectors, UserVectors, damped
from tests.recsys.methods.tiny_baselines import (
    ITEMS,
    USERS,
    centred_by_hand,
    make,
    make_data,
    matrix,
    new_items,
    scores,
    unit,
)

GIVEN = {"width": 0.8, "ridge": 0.4, "shrinkage": 0.3, "predicted_popularity": 0.2}


def divided_by_counts(r, power):
    """D_u^-power R D_i^-power, with D the numbers of pairs of users and items."""
    return np.maximum(r.sum(1, keepdims=True), 1) ** -power * r * np.maximum(r.sum(0), 1) ** -power


def kernels_by_hand(data, new, mask, weights, widths, have):
    """The kernel of a pattern between warm items, with its noise, and with the new items."""
    known, own = data.mask.numpy(), mask.numpy()
    k, to_new, noise = 0, 0, 0
    parts = centred_by_hand(data, new, mask)
    for m, weight, width in zip(have, weights, widths, strict=True):
        x, y = unit(parts[m][0]), unit(parts[m][1])
        k = k + weight * np.exp(width * (x @ x.T - 1)) * known[:, [m]] * known[:, m]
        to_new = to_new + weight * np.exp(width * (x @ y.T - 1)) * known[:, [m]] * own[:, m]
        noise = noise + weight * ~known[:, m]
    return k + np.diag(noise), to_new


def keep_by_hand(data, new, mask, b, *, shrinkage, exponent, popularity=0.25):
    """The scores of the docstring of `keep.model`, with the options that the model `b` chose."""
    r = matrix(data)
    a, s, bt = np.linalg.svd(divided_by_counts(r, popularity), full_matrices=False)
    e = bt.T * (s**3 / (s**2 + shrinkage * (s[:50] ** 2).mean()))
    log_counts = np.log(np.maximum(r.sum(0), 1))
    expected = np.zeros((USERS, len(mask)))
    names = data.modalities
    for c in range(len(mask)):
        have = np.flatnonzero(mask[c].numpy()).tolist()
        if not have:
            continue
        options = b.net.regression.choices[tuple(names[m] for m in have)]
        widths = [b.net.regression.kernels[names[m]].width for m in have]
        k, to_new = kernels_by_hand(data, new, mask, options.weights, widths, have)
        h = np.linalg.solve(k + options.ridge * np.eye(len(k)), to_new[:, c])
        popular = h @ (log_counts - log_counts.mean())
        expected[:, c] = np.exp(exponent * popular) * (a @ (h @ e))
    return expected


@pytest.mark.parametrize("rank", [None, 12])
def test_scores_equal_the_formulas(rank):
    data, new, mask = make_data(), *new_items()
    b = make("keep", **GIVEN, rank=rank)
    values = scores(b, new, mask)
    expected = keep_by_hand(data, new, mask, b, shrinkage=0.3, exponent=0.2)
    np.testing.assert_allclose(values, expected, rtol=1e-6, atol=1e-8)


def test_scores_with_chosen_options_equal_the_formulas():
    data, new, mask = make_data(), *new_items()
    b = make("keep")
    values = scores(b, new, mask)
    chosen = b.net.chosen
    expected = keep_by_hand(
        data,
        new,
        mask,
        b,
        shrinkage=chosen["shrinkage"],
        exponent=chosen["predicted_popularity"],
    )
    np.testing.assert_allclose(values, expected, rtol=1e-6, atol=1e-8)
    assert chosen["shrinkage"] in choice.SHRINKAGES
    assert chosen["predicted_popularity"] in choice.EXPONENTS
    assert set(chosen["width"]) == set(data.modalities)


def damped_pairs(data, exponent=0.25):
    """X as an operator."""
    return DampedPairs(data.rows, data.num_items, exponent, data.dtype)


def test_vectors_of_warm_items_give_the_scores_of_kernel_ridge_over_users():
    """A E' is K (K + lambda I)^-1 X, K = X X', in all forms."""
    data = make_data()
    x = divided_by_counts(matrix(data), 0.25)
    k = x @ x.T
    strength = 0.5 * (np.linalg.svd(x, compute_uv=False)[:50] ** 2).sum() / min(50, ITEMS)
    expected = k @ np.linalg.solve(k + strength * np.eye(USERS), x)
    for form in (ExactVectors, UserVectors):
        vectors = form(damped(interactions(data, data.dtype), 0.25))
        a, e = vectors(strength / vectors.leading.unit)
        np.testing.assert_allclose((a @ e.to_dense().T).numpy(), expected, atol=1e-6)
    vectors = SingularVectors(damped_pairs(data), min(x.shape))
    factors, e = vectors(strength / vectors.leading.unit)
    a = vectors.x.times_of(torch.arange(USERS), e) * factors
    np.testing.assert_allclose((a @ e.T).numpy(), expected, atol=1e-6)


def test_the_largest_residual_of_the_singular_vectors_is_reported():
    data = make_data(users=70, items=60)
    vectors = SingularVectors(damped_pairs(data), 20)
    x = damped(interactions(data, torch.float64), 0.25).to_dense()
    squares, b = vectors.leading
    residuals = (x.T @ (x @ b) - squares * b).norm(dim=0) / squares
    assert vectors.accuracy["rank"] == 20
    assert vectors.accuracy["residual"] == pytest.approx(float(residuals.max()), rel=1e-3)


def test_all_forms_of_the_vectors_have_the_same_unit_of_the_shrinkage():
    data = make_data(users=70, items=60)
    x = damped(interactions(data, torch.float64), 0.25)
    singular = SingularVectors(damped_pairs(data), 60)
    assert ExactVectors(x).leading.unit == pytest.approx(singular.leading.unit, rel=1e-6)
    assert UserVectors(x).leading.unit == pytest.approx(singular.leading.unit, rel=1e-6)


@pytest.mark.parametrize("shape", [(9, 40), (40, 9), (12, 12)])
def test_leading_spectrum_is_exact_at_full_rank(shape):
    rng = np.random.default_rng(1)
    dense = rng.standard_normal(shape) * (rng.random(shape) < 0.5)
    dense[3], dense[:, 2], dense[4] = 0, 0, dense[5]  # An empty row and column, two equal rows.
    x = torch.from_numpy(dense)
    start = torch.randn(shape[1], oversampled(min(shape), shape[1]), dtype=x.dtype)
    found = leading_spectrum(lambda y: x.T @ (x @ y), start, min(shape))
    s = np.linalg.svd(dense, compute_uv=False)
    np.testing.assert_allclose(found.values.numpy(), s**2, atol=1e-9)
    identity = found.vectors.T @ found.vectors
    torch.testing.assert_close(identity, torch.eye(min(shape), dtype=x.dtype))


def test_leading_spectrum_is_accurate_to_its_residuals():
    """The spectrum is flat, as that of pairs is; the residuals bound the errors of the values."""
    g = torch.Generator().manual_seed(0)
    q = torch.linalg.qr(torch.randn(600, 600, generator=g, dtype=torch.float64)).Q
    values = torch.arange(1, 601, dtype=torch.float64) ** -0.3
    matrix = (q * values) @ q.T
    start = torch.randn(600, oversampled(60, 600), generator=g, dtype=torch.float64)
    calls = []

    def multiply(y):
        calls.append(y.shape)
        return matrix @ y

    found = leading_spectrum(multiply, start, 60)
    errors = (found.values / values[:60] - 1).abs()
    assert len(calls) <= 13
    assert (errors <= found.residuals + 1e-12).all()
    assert errors.max() < 0.005


def test_pairs_are_multiplied_block_by_block(monkeypatch):
    data = make_data(users=40, items=25)
    x = torch.from_numpy(divided_by_counts(matrix(data), 0.3))
    y = torch.randn(25, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for size in (7, 1000):
        monkeypatch.setattr(pairs, "MAX_PRODUCTS", 3 * size)
        monkeypatch.setattr(pairs, "PAIRS_AT_ONCE", size)
        operator = damped_pairs(data, 0.3)
        torch.testing.assert_close(operator.times_of(torch.arange(40), y), x @ y)
        torch.testing.assert_close(operator.times_of(torch.arange(5, 11), y), (x @ y)[5:11])
        for _ in range(2):  # The blocks of the second time were sorted in the first.
            torch.testing.assert_close(operator.gram_times(y), x.T @ x @ y)
        users, items = torch.tensor([3, 0, 39, 3]), torch.tensor([4, 24, 0])
        torch.testing.assert_close(operator.times_of(users, y), (x @ y)[users])
        found, part = operator.users_of(items)
        r = torch.from_numpy(matrix(data))[:, items]
        assert torch.equal(found, r.any(dim=1).nonzero()[:, 0])
        assert torch.equal(part.to_dense(), r[found].to(part.dtype))
        assert torch.equal(operator.counts.to(r), torch.from_numpy(matrix(data)).sum(dim=0))


# --- choice of the options ------------------------------------------------------------------------


def left_out_by_hand(data, b, names, shift, item):
    """Scores (U,) of a warm item, refitted without its pairs and without its content."""
    others = [j for j in range(data.num_items) if j != item]
    x = divided_by_counts(matrix(data), 0.25)[:, others]
    smoothing = np.linalg.solve(x.T @ x + shift * np.eye(len(others)), x.T @ x)
    have = [data.modalities.index(name) for name in names]
    options = b.net.regression.choices[tuple(names)]
    widths = [b.net.regression.kernels[name].width for name in names]
    warm = {name: torch.nan_to_num(x) for name, x in data.features.items()}
    k, to_all = kernels_by_hand(data, warm, data.mask, options.weights, widths, have)
    k = k[np.ix_(others, others)] + options.ridge * np.eye(len(others))
    return x @ (smoothing @ np.linalg.solve(k, to_all[others, item]))


@pytest.mark.parametrize("names", [("text",), ("text", "image")])
def test_left_out_weights_equal_refits_without_the_item(names):
    data, b = make_data(), make("keep", **GIVEN)
    x = damped(interactions(data, data.dtype), 0.25)
    products, items = (x.to_dense().T @ x.to_dense()), torch.arange(ITEMS)
    y = b.net.regression.leave_one_out_smoother(names, items).T
    for shift in (0.1, 2.0):
        z = left_out.left_out_weights(y, products, shift)
        for item in (1, 7, 18):  # Items with both modalities.
            expected = left_out_by_hand(data, b, names, shift, item)
            np.testing.assert_allclose((x.to_dense() @ z)[:, item].numpy(), expected, atol=1e-9)


def test_the_pairs_of_an_item_do_not_change_its_own_score():
    """The options are compared on items as if they were new."""
    data, b = make_data(), make("keep", **GIVEN)
    y = b.net.regression.leave_one_out_smoother(["text"], torch.arange(ITEMS)).T
    x = damped(interactions(data, data.dtype), 0.25).to_dense()
    changed = x.clone()
    changed[:, 3] = x[:, 3].flip(0)
    for item, same in ((3, True), (4, False)):
        one, other = (
            (each @ left_out.left_out_weights(y, each.T @ each, 0.5))[:, item]
            for each in (x, changed)
        )
        assert torch.allclose(one, other, atol=1e-12) == same


def test_each_item_draws_one_of_its_patterns():
    data, b = make_data(), make("keep", **GIVEN)
    items = torch.randperm(ITEMS, generator=torch.Generator().manual_seed(0))
    y = left_out.leave_one_out_weights(
        b.net.regression, data.mask, items, torch.Generator().manual_seed(1)
    )
    all_of = {
        names: b.net.regression.leave_one_out_smoother(names, items).T
        for names in (("text",), ("image",), ("text", "image"))
    }
    drawn = [
        [names for names, h in all_of.items() if torch.equal(y[:, j], h[:, j])]
        for j in range(ITEMS)
    ]
    assert all(len(names) == 1 for names in drawn)
    assert len({names[0] for names in drawn}) == 3
    for item, names in zip(items.tolist(), drawn, strict=True):
        if not data.mask[item, 1]:
            assert names == [("text",)]


def test_the_best_values_are_chosen_if_they_are_clearly_better_than_the_defaults():
    g = torch.Generator().manual_seed(0)
    base = torch.rand(50, generator=g)
    noise = 0.1 * torch.randn(50, generator=g)
    noise -= noise.mean()
    values = {(1.0, 0.125): base, (4.0, 0.125): base + 0.2 + noise, (4.0, 0.5): base - 0.1}
    assert choice.better_than_default(values) == (4.0, 0.125)
    values[4.0, 0.125] = base + 0.005 + noise  # The standard error is 0.014.
    assert choice.better_than_default(values) == (1.0, 0.125)
    # The defaults are the nearest values that are compared.
    del values[1.0, 0.125]
    assert choice.better_than_default(dict.fromkeys(values, base)) == (4.0, 0.125)


def test_the_chosen_values_have_the_best_lists(monkeypatch):
    monkeypatch.setattr(left_out, "MIN_LENGTH", 5)
    b, data = make("keep", **GIVEN), make_data()
    known = interactions(data, torch.float64)

    def chosen(shrinkages, exponents):
        g = torch.Generator().manual_seed(2)
        scored = left_out.left_out_exactly(b.net.regression, data.mask, known, 0.25, g)
        return choice.choose(scored, shrinkages, exponents)

    grid = [(s, c) for s in choice.SHRINKAGES for c in choice.EXPONENTS]
    ndcg = {(s, c): chosen((s, s), (c,)).ndcg for s, c in grid}
    default = ndcg[1.0, 0.125]
    best = chosen(choice.SHRINKAGES, choice.EXPONENTS)
    assert best.ndcg == ndcg[best.shrinkage, best.exponent] >= default
    assert min(ndcg.values()) < default


def test_lists_are_scored_like_test_lists():
    known = torch.tensor([[1, 0, 1, 0], [0, 1, 0, 0]], dtype=torch.float64).to_sparse_coo()
    values = torch.tensor([[3.0, 1.0, 2.0, 0.0], [1.0, 2.0, 3.0, 0.0]], dtype=torch.float64)
    second = 1 / np.log2(3)
    assert choice.list_ndcg(values, choice.pairs_of_lists(known, 4), 4).tolist() == pytest.approx(
        [1, second]
    )


def test_given_options_are_not_compared():
    b = make("keep", **GIVEN)
    assert b.choice == choice.PairChoice(0.3, 0.2, None)
    assert {kernel.width for kernel in b.net.regression.kernels.values()} == {0.8}


@pytest.mark.parametrize("neighbours", [1, ITEMS])
@pytest.mark.parametrize("form", ["users", "vectors"])
def test_left_out_scores_are_those_of_refits(monkeypatch, neighbours, form):
    """If all warm items are neighbours, the projected regression is exact."""
    monkeypatch.setattr(keep, "MAX_DIRECT", 10)
    monkeypatch.setattr(keep, "MAX_ROWS", 10)
    data = make_data()
    b = make("keep", **GIVEN, landmarks=4, neighbours=neighbours)
    known, g = interactions(data, data.dtype), torch.Generator().manual_seed(0)
    if form == "users":
        v = UserVectors(damped(known, 0.25))
        scored = left_out.left_out_by_users(b.net.regression, data.mask, known, v, g)
    else:
        v = SingularVectors(damped_pairs(data), min(USERS, ITEMS))
        scored = left_out.left_out_by_vectors(b.net.regression, data.mask, v, g)
    drawn, g = {}, torch.Generator().manual_seed(0)
    items = left_out.drawn_items(data.mask, ITEMS, g)
    for names, own in left_out.drawn_patterns_of(data.modalities, data.mask[items], g):
        drawn |= dict.fromkeys(items[own].tolist(), tuple(names))
    # All users have one of the items, so all are scored.
    assert torch.equal(scored.pairs.to_dense(), known.to_dense()[:, items])
    assert len(set(drawn.values())) == 3
    for shift in (0.1, 2.0):
        found = scored.scores(shift).numpy()
        errors = [
            np.abs(found[:, place] - left_out_by_hand(data, b, drawn[item], shift, item)).max()
            for place, item in enumerate(items.tolist())
        ]
        assert (max(errors) < 1e-7) == (neighbours == ITEMS)
        assert max(errors) < 0.5
    exact = make("keep", **GIVEN)
    direct = left_out.left_out_exactly(
        exact.net.regression, data.mask, known, 0.25, torch.Generator().manual_seed(0)
    )
    assert scored.unit == pytest.approx(direct.unit)
    assert torch.allclose(scored.popularity, direct.popularity) == (neighbours == ITEMS)


@pytest.mark.parametrize("limit", [10, 15])
def test_options_are_chosen_with_landmarks_too(monkeypatch, limit):
    monkeypatch.setattr(keep, "MAX_DIRECT", limit)  # 12 users and 20 items
    monkeypatch.setattr(keep, "MAX_ROWS", limit)
    monkeypatch.setattr(left_out, "MIN_LENGTH", 5)
    b = make("keep", landmarks=15, neighbours=4)
    assert b.choice.ndcg is not None
    assert not b.net.regression.is_exact
    singular = limit == 10  # Else vectors have the width of users.
    assert ("items" in b.net.state_dict()) == singular
    assert set(b.net.accuracy) == ({"rank", "residual"} if singular else set())
    assert singular == (b.net.chosen.get("rank") == 12)
    with pytest.raises(DataError, match="--landmarks must be at most 20,000, got 20,001"):
        make("keep", landmarks=20_001)
    given = make("keep", landmarks=15, neighbours=4, shrinkage=2.0, predicted_popularity=0.5)
    assert given.choice == choice.PairChoice(2.0, 0.5, None)


# --- parts ----------------------------------------------------------------------------------------


def test_with_fewer_users_than_items_vectors_have_the_width_of_users(monkeypatch, tmp_path):
    new, mask = new_items()
    monkeypatch.setattr(keep, "MAX_DIRECT", 15)
    monkeypatch.setattr(keep, "MAX_ROWS", 15)
    b = make("keep", **GIVEN, landmarks=4, neighbours=ITEMS)
    assert b.net.users.weight.shape == (USERS, USERS)
    assert "items" not in b.net.state_dict()
    monkeypatch.setattr(fitted, "MAX_WEIGHTS", 3 * ITEMS)  # blocks of three new items
    expected = scores(make("keep", **GIVEN), new, mask)
    np.testing.assert_allclose(scores(b, new, mask), expected, rtol=1e-6, atol=1e-9)
    again = make("keep", **GIVEN, landmarks=4, neighbours=ITEMS)
    again.net.load_state_dict(b.net.state_dict())
    np.testing.assert_array_equal(scores(again, new, mask), scores(b, new, mask))
    state = dict(b.net.state_dict())
    del state["item_values"]
    with pytest.raises(KeyError, match="item_values"):
        fitted.check_names({n: x for n, x in state.items() if not n.startswith("regression")})


def test_all_items_as_neighbours_are_exact_and_fewer_approximate(monkeypatch):
    data, new, mask = make_data(2, users=40, items=60, missing=False), *new_items()
    options = {**GIVEN, "width": 4.0, "fit_weights": False, "rank": 40}
    exact = make("keep", data, **options)
    every = torch.arange(40)
    expected = exact.net.user_vectors(every) @ exact.net.embed_items(new, mask).T
    monkeypatch.setattr(keep, "MAX_DIRECT", 50)
    monkeypatch.setattr(keep, "MAX_ROWS", 50)
    monkeypatch.setattr(fitted, "BLOCK", 7)

    def error(landmarks, neighbours):
        b = make("keep", data, **options, landmarks=landmarks, neighbours=neighbours)
        assert not b.net.regression.is_exact
        scores = b.net.user_vectors(every) @ b.net.embed_items(new, mask).T
        return float((scores - expected).norm() / expected.norm())

    by_neighbours = [error(5, count) for count in (2, 20, 60)]
    assert 0.5 > by_neighbours[0] > by_neighbours[1] > 1e-6 > by_neighbours[2]
    by_landmarks = [error(count, 2) for count in (5, 40)]
    assert by_landmarks[0] > by_landmarks[1]


def test_equal_weights_and_one_regression_for_all_patterns():
    new, mask = new_items()
    equal = make("keep", fit_weights=False)
    scores(equal, new, mask)
    assert equal.net.regression.choices["text", "image"].weights == (0.5, 0.5)
    single = make("keep", per_pattern=False, **GIVEN)
    per_pattern = make("keep", **GIVEN)
    # Item 0 has both modalities, for which both models fit the same regression.
    np.testing.assert_allclose(
        scores(single, new, mask)[:, 0], scores(per_pattern, new, mask)[:, 0]
    )
    both = single.net.regression
    h = both.smoother(new, mask, pattern=("text", "image"))
    logs = single.net.counts.clamp(min=1).log()
    vectors = (h @ single.net.items) * (0.2 * (h @ (logs - logs.mean())))[:, None].exp()
    np.testing.assert_allclose(
        scores(single, new, mask), (single.net.users.weight @ vectors.T).numpy(), rtol=1e-9
    )
    assert set(both.choices) == {("text", "image")}


def test_a_modality_that_no_warm_item_has_is_left_out():
    data, new, mask = make_data(), *new_items()
    without = torch.tensor([True, False]).expand_as(data.mask)
    data = dataclasses.replace(
        data,
        mask=without,
        features=data.features | {"image": torch.full_like(data.features["image"], torch.nan)},
    )
    b = make("keep", data, **GIVEN)
    assert b.net.regression.modalities == ("text",)
    values = scores(b, new, mask)
    assert np.isfinite(values).all()
    assert (values[:, (~mask[:, 0]).numpy()] == 0).all()


def test_scores_without_shrinkage_are_finite_for_pairs_of_rank_one():
    data, new, mask = make_data(), *new_items()
    pairs = torch.cartesian_prod(torch.arange(USERS), torch.tensor([0, 3, 4]))
    data = dataclasses.replace(data, rows=build_user_rows(pairs, USERS, torch.arange(ITEMS)))
    assert np.isfinite(scores(make("keep", data, shrinkage=0.0), new, mask)).all()
    assert np.isfinite(scores(make("keep", data), new, mask)).all()


def test_cached_regressions_survive_loading_the_same_state_and_no_other():
    new, mask = new_items()
    b, other = make("keep", **GIVEN), make("keep", **GIVEN, popularity=0.0)
    expected = scores(other, new, mask)
    before = scores(b, new, mask)
    cached = dict(b.net.regression._solutions)
    b.net.load_state_dict(b.net.state_dict())
    assert all(b.net.regression._solutions[p] is solution for p, solution in cached.items())
    np.testing.assert_array_equal(scores(b, new, mask), before)
    b.net.load_state_dict(other.net.state_dict())
    assert not b.net.regression._solutions
    np.testing.assert_allclose(scores(b, new, mask), expected)


def test_vectors_that_do_not_fit_in_memory_are_an_error(monkeypatch):
    monkeypatch.setattr(vectors, "MAX_VECTORS", 100)
    monkeypatch.setattr(keep, "MAX_EXACT", 100)
    assert make("keep").net.dim == 5
    with pytest.raises(
        DataError, match=r"20 training items are too many for 7 .* --rank 5 or less"
    ):
        make("keep", rank=7)


def test_no_features_at_all_are_an_error():
    data = make_data()
    data = dataclasses.replace(data, mask=torch.zeros_like(data.mask))
    with pytest.raises(DataError, match="No training item has a feature"):
        make("keep", data)
