"""KEEP against its formulas in NumPy and kernel ridge over users, and with parts switched off."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy import optimize

from milk_recsys.base.errors import DataError
from milk_recsys.base.linear_algebra import leading_singular_vectors
from milk_recsys.catalogue.user_rows import build_user_rows
from milk_recsys.methods.keep import model as keep
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


def divided_by_counts(r, power):
    """D_u^-power R D_i^-power, with D the numbers of pairs of users and items."""
    return np.maximum(r.sum(1, keepdims=True), 1) ** -power * r * np.maximum(r.sum(0), 1) ** -power


def keep_by_hand(data, new, mask, b, *, width, ridge, shrinkage, popularity):
    """The scores of the docstring of `keep.model`, with the weights mu of the model `b`."""
    a, s, bt = np.linalg.svd(divided_by_counts(matrix(data), popularity), full_matrices=False)
    e = bt.T * (s**3 / (s**2 + shrinkage * (s[:50] ** 2).mean()))
    parts, expected = centred_by_hand(data, new, mask), np.zeros((USERS, len(mask)))
    known = data.mask.numpy()
    for c in range(len(mask)):
        have = tuple(np.flatnonzero(mask[c].numpy()).tolist())
        mu = b.net.weights(have).numpy()
        k = np.zeros((data.num_items, data.num_items))
        row = np.zeros(data.num_items)
        for w, m in zip(mu, have, strict=True):
            x, y = unit(parts[m][0]), unit(parts[m][1])[c]
            k += w * np.exp(width * (x @ x.T - 1)) * known[:, [m]] * known[:, m]
            row += w * np.exp(width * (x @ y - 1)) * known[:, m]
        expected[:, c] = a @ (row @ np.linalg.solve(k + ridge * np.eye(len(k)), e))
    return expected


def test_scores_equal_the_formulas():
    data, new, mask = make_data(), *new_items()
    own = {"width": 0.8, "ridge": 0.4, "shrinkage": 0.3, "popularity": 0.25}
    b = make("keep", **own)
    expected = keep_by_hand(data, new, mask, b, **own)
    np.testing.assert_allclose(scores(b, new, mask), expected, rtol=1e-6, atol=1e-8)


def test_vectors_of_warm_items_give_the_scores_of_kernel_ridge_over_users():
    """A (B S^3 / (S^2 + lambda))' is K (K + lambda I)^-1 X, K = X X'."""
    data, b = make_data(), make("keep", shrinkage=0.5, popularity=0.25)
    x = divided_by_counts(matrix(data), 0.25)
    k = x @ x.T
    strength = 0.5 * (np.linalg.svd(x, compute_uv=False)[:50] ** 2).mean()
    expected = k @ np.linalg.solve(k + strength * np.eye(USERS), x)
    scores_of_warm_items = b.net.users.weight @ b.net.items.T
    np.testing.assert_allclose(scores_of_warm_items.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("shape", [(9, 40), (40, 9), (12, 12)])
def test_singular_vectors_are_exact_at_full_rank_and_nearly_optimal_at_a_lower_rank(shape):
    rng = np.random.default_rng(1)
    dense = rng.standard_normal(shape) * (rng.random(shape) < 0.5)
    dense[3], dense[:, 2], dense[4] = 0, 0, dense[5]  # An empty row and column, two equal rows.
    x = torch.from_numpy(dense).to_sparse_coo()
    s = np.linalg.svd(dense, compute_uv=False)
    torch.manual_seed(0)
    for rank in (min(shape), 4):
        a, values, b = (t.numpy() for t in leading_singular_vectors(x, rank))
        assert a.shape == (shape[0], rank)
        assert b.shape == (shape[1], rank)
        assert (np.diff(values) <= 0).all()
        # The best approximation of this rank has the omitted singular values as its error.
        best = np.sqrt((s[rank:] ** 2).sum())
        error = np.linalg.norm(dense - a * values @ b.T)
        assert error == pytest.approx(best, rel=0.05, abs=1e-9)
        positive = values > 1e-6
        identity = np.eye(positive.sum())
        assert np.allclose(a[:, positive].T @ a[:, positive], identity, atol=1e-9)
        assert np.allclose(b[:, positive].T @ b[:, positive], identity, atol=1e-9)
    assert np.allclose(leading_singular_vectors(x, min(shape))[1].numpy(), s, atol=1e-6)


def test_all_items_as_landmarks_are_exact_and_fewer_approximate(monkeypatch):
    data, new, mask = make_data(2, users=40, items=60), *new_items()
    exact = make("keep", data)
    expected = exact.net.embed_items(new, mask)
    monkeypatch.setattr(keep, "MAX_DIRECT_ITEMS", 50)
    monkeypatch.setattr(keep, "BLOCK", 7)
    errors = []
    for landmarks in (15, 45, 60):
        near = make("keep", data, landmarks=landmarks).net
        assert near.landmarks.tolist() == sorted(set(near.landmarks.tolist()))
        assert len(near.landmarks) == landmarks
        errors.append(float((near.embed_items(new, mask) - expected).norm() / expected.norm()))
    assert 0.3 > errors[0] > errors[1] > 1e-6 > errors[2]
    monkeypatch.setattr(keep, "MAX_DIRECT_ITEMS", 60)
    assert len(make("keep", data, landmarks=15).net.landmarks) == 60  # All 60 items are landmarks.
    monkeypatch.setattr(keep, "JITTER", 0)
    weights, direct = exact.net.solve((0, 1))
    projected = exact.net.solve_projected(
        (0, 1), weights, exact.net.warm_kernel((0, 1), weights, torch.arange(60))
    )
    np.testing.assert_allclose(projected.numpy(), direct.numpy(), rtol=1e-5, atol=1e-7)


def test_equal_weights_and_one_regression_for_all_patterns():
    data, new, mask = make_data(), *new_items()
    equal = make("keep", fit_weights=False)
    assert equal.net.weights((0, 1)).tolist() == [0.5, 0.5]
    single, per_pattern = make("keep", per_pattern=False), make("keep")
    # Item 0 has both modalities, for which both models fit the same regression.
    np.testing.assert_allclose(
        scores(single, new, mask)[:, 0], scores(per_pattern, new, mask)[:, 0]
    )
    net, (weights, coefficients) = single.net, single.net.solve((0, 1))
    k = net.kernel((0, 1), weights, net.rows(new, mask), mask)
    np.testing.assert_allclose(
        scores(single, new, mask),
        (net.users.weight @ (k @ coefficients).T).numpy(),
        rtol=1e-9,
    )
    assert set(net._maps) == {(0, 1)}
    assert data.num_items == len(coefficients)


def test_weights_are_least_squares_on_items_that_have_the_whole_pattern():
    data, b = make_data(), make("keep")
    e, columns = b.net.items.numpy(), []
    complete = np.flatnonzero(data.mask.all(dim=1).numpy())
    for x, _ in centred_by_hand(data, *new_items()):
        g = np.maximum(unit(x) @ unit(x)[complete].T, 0)
        g[complete, np.arange(len(complete))] = 0
        for c in range(len(complete)):
            g[np.argsort(-g[:, c])[keep.NEIGHBOURS :], c] = 0
        columns.append((g.T @ e).ravel())
    expected = optimize.nnls(np.stack(columns, 1), e[complete].ravel())[0]
    np.testing.assert_allclose(
        b.net.weights((0, 1)).numpy(), expected / expected.sum(), rtol=1e-6, atol=1e-9
    )
    assert b.net.weights((1,)).tolist() == [1.0]


def test_scores_without_shrinkage_are_finite_for_pairs_of_rank_one():
    data, new, mask = make_data(), *new_items()
    pairs = torch.cartesian_prod(torch.arange(USERS), torch.tensor([0, 3, 4]))
    data = dataclasses.replace(data, rows=build_user_rows(pairs, USERS, torch.arange(ITEMS)))
    assert np.isfinite(scores(make("keep", data, shrinkage=0.0), new, mask)).all()


def test_the_cache_of_regressions_has_a_maximum_size(monkeypatch):
    new, mask = new_items()
    b = make("keep")
    expected = scores(b, new, mask)
    monkeypatch.setattr(keep, "CACHED_PATTERNS", 2)
    small_cache = make("keep")
    np.testing.assert_allclose(scores(small_cache, new, mask), expected)
    np.testing.assert_allclose(scores(small_cache, new, mask), expected)
    assert len(small_cache.net._maps) == 2 < len(b.net._maps)


def test_cached_regressions_survive_loading_the_same_state_and_no_other():
    new, mask = new_items()
    b, other = make("keep"), make("keep", popularity=0.0)
    expected = scores(other, new, mask)
    before = scores(b, new, mask)
    cached = dict(b.net._maps)
    b.net.load_state_dict(b.net.state_dict())
    assert all(b.net._maps[pattern] is regression for pattern, regression in cached.items())
    np.testing.assert_array_equal(scores(b, new, mask), before)
    b.net.load_state_dict(other.net.state_dict())
    assert not b.net._maps
    np.testing.assert_allclose(scores(b, new, mask), expected)


def test_vectors_that_do_not_fit_in_memory_are_an_error(monkeypatch):
    monkeypatch.setattr(keep, "MAX_SCORES", 100)
    with pytest.raises(
        DataError,
        match=r"12 users and 20 training items are too many for 12 .* Choose --rank 3 or less",
    ):
        make("keep")
