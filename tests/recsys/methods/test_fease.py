"""FEASE's two forms: columns of their least squares problems, and the similarity with masks."""

import numpy as np
import pytest
import torch

from milk_recsys.methods.similarity import shared_similarity
from tests.recsys.methods.tiny_baselines import (
    ITEMS,
    centred_by_hand,
    make,
    make_data,
    matrix,
    new_items,
    scores,
    unit,
)

L2, PRIOR = 1.5, 2.5


def similarity_by_hand(parts, masks, mu):
    """Return H of all items (N, N) from their rows in each modality."""
    numerator = denominator = 0
    for x, known, weight in zip(parts, masks.T, mu, strict=True):
        both = weight * np.outer(known, known)
        numerator = numerator + both * np.maximum(unit(x) @ unit(x).T, 0)
        denominator = denominator + both
    return np.where(denominator > 0, numerator / np.where(denominator > 0, denominator, 1), 0)


def problem():
    """Return the data, new items, R with empty columns of the new ones, H of all, and a fit."""
    data, (new, mask) = make_data(), new_items()
    b = make("fease", data, l2=L2 + PRIOR)
    b.whiten.weights = torch.tensor([0.3, 0.8], dtype=torch.float64)
    parts = [np.concatenate(pair) for pair in centred_by_hand(data, new, mask)]
    masks = np.concatenate([data.mask.numpy(), mask.numpy()])
    h = similarity_by_hand(parts, masks, b.whiten.weights.numpy())
    r = np.concatenate([matrix(data), np.zeros((data.num_users, len(mask)))], axis=1)
    return b, new, mask, r, h


def ease_with_prior(r, h):
    """Return the closed form of min |R - R B|^2 + l |B|^2 + delta |B - H|^2 with diag B = 0."""
    n = r.shape[1]
    p = np.linalg.inv(r.T @ r + (L2 + PRIOR) * np.eye(n))
    ph = p @ h
    return np.eye(n) + PRIOR * ph - p * ((1 + PRIOR * np.diag(ph)) / np.diag(p))


def test_the_closed_form_has_diagonal_0_and_is_stationary_outside_it():
    _, _, _, r, h = problem()
    weights = ease_with_prior(r, h)
    np.testing.assert_allclose(np.diag(weights), 0, atol=1e-12)
    gradient = r.T @ (r @ weights - r) + L2 * weights + PRIOR * (weights - h)
    np.fill_diagonal(gradient, 0)
    np.testing.assert_allclose(gradient, 0, atol=1e-10)


def test_the_columns_of_new_items_are_those_of_the_whole_problem():
    b, new, mask, r, h = problem()
    expected = ease_with_prior(r, h)[:ITEMS, ITEMS:]
    # The model scores with delta = kappa.
    columns = b.columns(new, mask).numpy() * PRIOR / (L2 + PRIOR)
    np.testing.assert_allclose(columns, expected, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(
        scores(b, new, mask), r[:, :ITEMS] @ b.columns(new, mask).numpy(), rtol=1e-9
    )


def test_columns_do_not_depend_on_the_size_of_blocks(monkeypatch):
    b, new, mask, _, _ = problem()
    expected = b.columns(new, mask)
    monkeypatch.setattr("milk_recsys.methods.fease.model.BLOCK", 2)
    torch.testing.assert_close(b.columns(new, mask), expected, rtol=1e-12, atol=1e-14)


def test_many_items_are_solved_for_by_conjugate_gradients(monkeypatch):
    new, mask = new_items()
    expected = make("fease").columns(new, mask)
    monkeypatch.setattr("milk_recsys.methods.closed_form.MAX_DENSE_ROWS", 0)
    torch.testing.assert_close(make("fease").columns(new, mask), expected, rtol=1e-4, atol=1e-5)


def fitted_u(**options):
    b = make("fease_u", l2=1.5, content_weight=4.0, **options)
    b.weights = torch.tensor([0.3, 0.9], dtype=torch.float64)
    return b


def test_the_columns_of_fease_u_solve_least_squares_on_users_and_features():
    data, (new, mask), b = make_data(), new_items(), fitted_u()
    r, parts = matrix(data), centred_by_hand(data, new, mask)
    for c in range(len(mask)):
        pattern = np.flatnonzero(mask[c].numpy())
        shares = b.weights.numpy()[pattern] / b.weights.numpy()[pattern].sum()
        blocks = [(r, np.zeros(len(r))), (1.5**0.5 * np.eye(ITEMS), np.zeros(ITEMS))]
        for m, share in zip(pattern, shares, strict=True):
            warm, rows = (unit(x) for x in parts[m])
            blocks.append(((4.0 * share) ** 0.5 * warm.T, (4.0 * share) ** 0.5 * rows[c]))
        system, target = (np.concatenate([x[side] for x in blocks]) for side in (0, 1))
        expected = np.linalg.lstsq(system, target, rcond=None)[0]
        np.testing.assert_allclose(b.columns(new, mask)[:, c].numpy(), expected, atol=1e-10)


def test_without_user_rows_fease_u_is_ridge_regression_of_features():
    """With a large l and content weight the rows of users do not matter."""
    data, (new, mask) = make_data(), new_items()
    b = make("fease_u", l2=1e9, content_weight=1e9)
    complete = [0, 3, 4]
    scale = (b.weights / b.weights.sum()).sqrt().numpy()
    warm, rows = (
        np.concatenate(
            [
                s * unit(p[side])
                for s, p in zip(scale, centred_by_hand(data, new, mask), strict=True)
            ],
            axis=1,
        )
        for side in (0, 1)
    )
    expected = warm @ np.linalg.solve(warm.T @ warm + np.eye(warm.shape[1]), rows[complete].T)
    np.testing.assert_allclose(b.columns(new, mask)[:, complete].numpy(), expected, atol=1e-6)


def test_modalities_of_weight_0_count_equally_if_a_new_item_has_no_other():
    new, mask = new_items()
    b = fitted_u()
    only_image = 2
    assert mask[only_image].tolist() == [False, True]
    b.weights = torch.tensor([1.0, 0.0], dtype=torch.float64)
    weighted = b.columns(new, mask)[:, only_image]
    b.weights = torch.tensor([1.0, 1.0], dtype=torch.float64)
    torch.testing.assert_close(weighted, b.columns(new, mask)[:, only_image])
    assert weighted.abs().max() > 0


# --- similarity -----------------------------------------------------------------------------------


def test_similarity_is_normalised_by_the_shared_modalities():
    """An item that lacks a modality keeps its similarity if its modalities agree."""
    rng = np.random.default_rng(0)
    x, y = (torch.from_numpy(unit(np.abs(rng.standard_normal((4, 5))))) for _ in range(2))
    mu, both = torch.tensor([0.2, 0.7], dtype=torch.float64), torch.ones(4, 2, dtype=torch.bool)
    complete = shared_similarity([x, x], both, [y, y], both, mu)
    torch.testing.assert_close(complete, x @ y.T)
    mask = both.clone()
    mask[1, 0] = mask[2, 1] = False
    hidden = [torch.where(mask[:, [m]], y, 0.0) for m in range(2)]
    torch.testing.assert_close(shared_similarity([x, x], both, hidden, mask, mu), complete)
    nothing = torch.zeros_like(mask)
    assert not shared_similarity([x, x], both, [y * 0, y * 0], nothing, mu).any()


@pytest.mark.parametrize("mu", [(1.0, 0.0), (0.0, 0.0)])
def test_a_modality_of_weight_0_counts_where_no_other_is_shared(mu):
    x = torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
    known = torch.tensor([[False, True], [False, True]])
    both = torch.ones(2, 2, dtype=torch.bool)
    similarity = shared_similarity(
        [x * 0, x], known, [x, x], both, torch.tensor(mu, dtype=torch.float64)
    )
    torch.testing.assert_close(similarity, torch.eye(2, dtype=torch.float64))
