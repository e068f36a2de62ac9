"""KEEP: against a rendering of its formulas in NumPy, kernel ridge over users, and its own parts left out."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy import optimize

from milk_recsys.base.errors import DataError
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


def damped(r, power):
    return np.maximum(r.sum(1, keepdims=True), 1) ** -power * r * np.maximum(r.sum(0), 1) ** -power


def keep_by_hand(data, new, observed, b, *, width, ridge, shrinkage, popularity):
    a, s, bt = np.linalg.svd(damped(matrix(data), popularity), full_matrices=False)
    e = bt.T * (s**3 / (s**2 + shrinkage * (s[:50] ** 2).mean()))
    parts, expected = centred_by_hand(data, new, observed), np.zeros((USERS, len(observed)))
    known = data.observed.numpy()
    for c in range(len(observed)):
        have = tuple(np.flatnonzero(observed[c].numpy()).tolist())
        mu = b.net.weights(have).numpy()
        k = np.zeros((data.num_items, data.num_items))
        row = np.zeros(data.num_items)
        for w, m in zip(mu, have, strict=True):
            x, y = unit(parts[m][0]), unit(parts[m][1])[c]
            k += w * np.exp(width * (x @ x.T - 1)) * known[:, [m]] * known[:, m]
            row += w * np.exp(width * (x @ y - 1)) * known[:, m]
        expected[:, c] = a @ (row @ np.linalg.solve(k + ridge * np.eye(len(k)), e))
    return expected


def test_keep():
    data, new, observed = make_data(), *new_items()
    own = {"width": 0.8, "ridge": 0.4, "shrinkage": 0.3, "popularity": 0.25}
    b = make("keep", **own)
    expected = keep_by_hand(data, new, observed, b, **own)
    np.testing.assert_allclose(scores(b, new, observed), expected, rtol=1e-6, atol=1e-8)


def test_keeps_vectors_score_as_kernel_ridge_over_users_does():
    """A (B S^3 / (S^2 + lambda))' is K (K + lambda I)^-1 X, K = X X'."""
    data, b = make_data(), make("keep", shrinkage=0.5, popularity=0.25)
    x = damped(matrix(data), 0.25)
    k = x @ x.T
    strength = 0.5 * (np.linalg.svd(x, compute_uv=False)[:50] ** 2).mean()
    expected = k @ np.linalg.solve(k + strength * np.eye(USERS), x)
    found = b.net.users.weight @ b.net.items.T
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-6)


@pytest.mark.parametrize("shape", [(9, 40), (40, 9), (12, 12)])
def test_singular_vectors_are_exact_at_full_rank_and_near_the_best_at_less(shape):
    rng = np.random.default_rng(1)
    dense = rng.standard_normal(shape) * (rng.random(shape) < 0.5)
    dense[3], dense[:, 2], dense[4] = 0, 0, dense[5]  # an empty row and column, two rows alike
    x = torch.from_numpy(dense).to_sparse_coo()
    s = np.linalg.svd(dense, compute_uv=False)
    torch.manual_seed(0)
    for rank in (min(shape), 4):
        a, found, b = (t.numpy() for t in keep.leading(x, rank))
        assert a.shape == (shape[0], rank)
        assert b.shape == (shape[1], rank)
        assert (np.diff(found) <= 0).all()
        best = np.sqrt((s[rank:] ** 2).sum())
        error = np.linalg.norm(dense - a * found @ b.T)
        assert error == pytest.approx(best, rel=0.05, abs=1e-9)
        sure = found > 1e-6
        assert np.allclose(a[:, sure].T @ a[:, sure], np.eye(sure.sum()), atol=1e-9)
        assert np.allclose(b[:, sure].T @ b[:, sure], np.eye(sure.sum()), atol=1e-9)
    assert np.allclose(keep.leading(x, min(shape))[1].numpy(), s, atol=1e-6)


def test_keep_with_all_items_as_landmarks_is_exact_and_few_are_near(monkeypatch):
    data, new, observed = make_data(2, users=40, items=60), *new_items()
    exact = make("keep", data)
    expected = exact.net.embed_items(new, observed)
    monkeypatch.setattr(keep, "MAX_DIRECT_ITEMS", 50)
    monkeypatch.setattr(keep, "BLOCK", 7)
    errors = []
    for landmarks in (15, 45, 60):
        near = make("keep", data, landmarks=landmarks).net
        assert near.landmarks.tolist() == sorted(set(near.landmarks.tolist()))
        assert len(near.landmarks) == landmarks
        errors.append(float((near.embed_items(new, observed) - expected).norm() / expected.norm()))
    assert 0.3 > errors[0] > errors[1] > 1e-6 > errors[2]
    monkeypatch.setattr(keep, "MAX_DIRECT_ITEMS", 60)
    assert len(make("keep", data, landmarks=15).net.landmarks) == 60  # few enough for all
    monkeypatch.setattr(keep, "JITTER", 0)
    weights, direct = exact.net.solve((0, 1))
    projected = exact.net.solve_projected(
        (0, 1), weights, exact.net.warm_kernel((0, 1), weights, torch.arange(60))
    )
    np.testing.assert_allclose(projected.numpy(), direct.numpy(), rtol=1e-5, atol=1e-7)


def test_keep_without_its_parts():
    data, new, observed = make_data(), *new_items()
    alike = make("keep", fit_weights=False)
    assert alike.net.weights((0, 1)).tolist() == [0.5, 0.5]
    one, each = make("keep", per_pattern=False), make("keep")
    np.testing.assert_allclose(
        scores(one, new, observed)[:, 0], scores(each, new, observed)[:, 0]
    )  # item 0 has both
    net, (weights, map_) = one.net, one.net.solve((0, 1))
    k = net.kernel((0, 1), weights, net.rows(new, observed), observed)
    np.testing.assert_allclose(
        scores(one, new, observed), (net.users.weight @ (k @ map_).T).numpy(), rtol=1e-9
    )
    assert set(net._maps) == {(0, 1)}
    assert data.num_items == len(map_)


def test_keeps_weights_are_least_squares_on_items_that_have_the_whole_pattern():
    data, b = make_data(), make("keep")
    e, columns = b.net.items.numpy(), []
    whole = np.flatnonzero(data.observed.all(dim=1).numpy())
    for x, _ in centred_by_hand(data, *new_items()):
        g = np.maximum(unit(x) @ unit(x)[whole].T, 0)
        g[whole, np.arange(len(whole))] = 0
        for c in range(len(whole)):
            g[np.argsort(-g[:, c])[keep.NEIGHBOURS :], c] = 0
        columns.append((g.T @ e).ravel())
    expected = optimize.nnls(np.stack(columns, 1), e[whole].ravel())[0]
    np.testing.assert_allclose(
        b.net.weights((0, 1)).numpy(), expected / expected.sum(), rtol=1e-6, atol=1e-9
    )
    assert b.net.weights((1,)).tolist() == [1.0]


def test_keep_that_is_not_shrunk_is_finite_where_pairs_repeat_each_other():
    data, new, observed = make_data(), *new_items()
    pairs = torch.cartesian_prod(torch.arange(USERS), torch.tensor([0, 3, 4]))  # of rank 1
    data = dataclasses.replace(data, rows=build_user_rows(pairs, USERS, torch.arange(ITEMS)))
    assert np.isfinite(scores(make("keep", data, shrinkage=0.0), new, observed)).all()


def test_keep_holds_some_patterns(monkeypatch):
    new, observed = new_items()
    b = make("keep")
    expected = scores(b, new, observed)
    monkeypatch.setattr(keep, "CACHED_PATTERNS", 2)
    few = make("keep")
    np.testing.assert_allclose(scores(few, new, observed), expected)
    np.testing.assert_allclose(scores(few, new, observed), expected)
    assert len(few.net._maps) == 2 < len(b.net._maps)


def test_keep_stays_solved_when_it_takes_back_the_same_state_and_only_then():
    new, observed = new_items()
    b, other = make("keep"), make("keep", popularity=0.0)
    expected = scores(other, new, observed)
    before = scores(b, new, observed)
    held = dict(b.net._maps)
    b.net.load_state_dict(b.net.state_dict())
    assert all(b.net._maps[pattern] is solved for pattern, solved in held.items())
    np.testing.assert_array_equal(scores(b, new, observed), before)
    b.net.load_state_dict(other.net.state_dict())
    assert not b.net._maps
    np.testing.assert_allclose(scores(b, new, observed), expected)


def test_keep_refuses_what_would_not_fit(monkeypatch):
    monkeypatch.setattr(keep, "MAX_SCORES", 100)
    with pytest.raises(
        DataError,
        match=r"12 users and 20 training items are too many for 12 .* Choose --rank 3 or less",
    ):
        make("keep")
