"""Imputation over a graph of items: its graph, its diffusions, and the regression after it."""

import dataclasses

import numpy as np
import pytest
import torch
from scipy import linalg

from milk_recsys.base.errors import DataError
from milk_recsys.catalogue.user_rows import build_user_rows
from milk_recsys.methods.graph_imputation import DIFFUSIONS, graph
from milk_recsys.methods.warm import WarmData
from tests.recsys.methods.tiny_baselines import (
    DIMS,
    ITEMS,
    USERS,
    make,
    make_data,
    matrix,
    new_items,
    scores,
)

K = 5


def weights_by_hand(diffusion, j, k):
    """Return the weights W (n, n) of a diffusion by dense linear algebra."""
    if diffusion == "neigh_mean":
        return j
    n = len(j)
    h = (j + np.eye(n)) / (j + np.eye(n)).sum(1, keepdims=True)
    w = (
        0.1 * np.linalg.inv(np.eye(n) - 0.9 * h)
        if diffusion == "pagerank"
        else linalg.expm(-5 * (np.eye(n) - h))
    )
    for row in w:
        row[np.argsort(-row)[k:]] = 0
    return w


def fill_by_hand(w, x, known):
    total = w @ known
    filled = np.where(
        known[:, None], x, (w @ (known[:, None] * x)) / np.maximum(total, 1e-300)[:, None]
    )
    return filled, known | (total > 0)


def multi_hop_by_hand(j, x, known, layers):
    adjacency = j - np.eye(len(j))
    root = 1 / np.sqrt(np.maximum(adjacency.sum(1), 1))
    step = root[:, None] * adjacency * root
    value, weight = np.where(known[:, None], x, 0), known.astype(float)
    for _ in range(layers):
        value = np.where(known[:, None], x, step @ value)
        weight = np.where(known, 1, step @ weight)
    return value / np.maximum(weight, 1e-300)[:, None], weight > 0


def neighbours(data, k=K):
    return graph.neighbour_graph(data, k, torch.float64).to_dense().numpy()


def test_an_item_is_joined_to_itself_and_to_the_items_that_share_most_users():
    data = make_data()
    shared = matrix(data).T @ matrix(data)
    np.fill_diagonal(shared, np.inf)
    for row, counts in zip(neighbours(data), shared, strict=True):
        chosen = row > 0
        assert set(row) <= {0, 1}
        assert chosen.sum() == min(K, (counts > 0).sum())
        # No item that was left out shares more users, and none that was chosen shares no user.
        assert counts[chosen].min() >= counts[~chosen].max()
        assert counts[chosen].min() > 0


def test_an_item_without_a_pair_is_joined_to_itself_alone(monkeypatch):
    data = make_data()
    pairs = torch.stack(data.pairs, dim=1)
    pairs = pairs[pairs[:, 1] != 7]
    data = dataclasses.replace(data, rows=build_user_rows(pairs, USERS, torch.arange(ITEMS)))
    j = neighbours(data)
    assert j[7].tolist() == np.eye(ITEMS)[7].tolist()
    assert not j[np.arange(ITEMS) != 7, 7].any()
    monkeypatch.setattr(graph, "BLOCK", 3)
    np.testing.assert_array_equal(neighbours(data), j)


@pytest.mark.parametrize("diffusion", ["neigh_mean", "pagerank", "heat"])
@pytest.mark.parametrize("k", [K, ITEMS])
def test_diffusions_match_dense_linear_algebra(diffusion, k, monkeypatch):
    monkeypatch.setattr(graph, "TOLERANCE", 1e-13)
    monkeypatch.setattr(graph, "BLOCK", 3)
    data = make_data()
    j = graph.neighbour_graph(data, K, torch.float64)
    rows = torch.tensor([0, 5, 6, 19])
    w = graph.diffusion_weights(j, rows, diffusion, k).to_dense().numpy()
    expected = weights_by_hand(diffusion, j.to_dense().numpy(), k)[rows]
    # Sums, because equal weights at the end of the k largest may be chosen in another order.
    np.testing.assert_allclose(np.sort(w), np.sort(expected), rtol=1e-9, atol=1e-12)
    if k == ITEMS:
        np.testing.assert_allclose(w, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("diffusion", DIFFUSIONS)
def test_missing_rows_are_means_over_the_graph(diffusion, monkeypatch):
    monkeypatch.setattr(graph, "TOLERANCE", 1e-13)
    data = make_data()
    b = make("graph_imputation", data, diffusion=diffusion, neighbours=ITEMS, layers=2)
    j = neighbours(data, ITEMS)
    for m, (x, known) in enumerate(zip(b.rows.warm, data.mask.numpy().T, strict=True)):
        filled, usable = (
            multi_hop_by_hand(j, x.numpy(), known, 2)
            if diffusion == "multi_hop"
            else fill_by_hand(weights_by_hand(diffusion, j, ITEMS), x.numpy(), known)
        )
        np.testing.assert_allclose(b.filled[m].numpy(), filled, rtol=1e-8, atol=1e-12)
        np.testing.assert_array_equal(b.usable[:, m].numpy(), usable)
        np.testing.assert_array_equal(b.filled[m].numpy()[known], x.numpy()[known])


def two_groups():
    """Return data of two groups of users and items, each with an image of its own.

    Item 0 of the first group and item 9 of the second lack the image, and item 10 has no pair.
    """
    generator = np.random.default_rng(0)
    users, items = 12, 11
    group = np.repeat([0, 1, 2], [5, 5, 1])
    takes = np.array([[u % 2 == group[i] for i in range(items)] for u in range(users)])
    takes &= generator.random(takes.shape) < 0.9
    image = np.array([[1.0, 2.0, 0.0, 1.0], [-3.0, 0.5, 1.0, 2.0], [7.0, 7.0, 7.0, 7.0]])[group]
    text = np.eye(7)[group] + 0.1 * generator.standard_normal((items, 7))
    mask = torch.ones(items, 2, dtype=torch.bool)
    mask[[0, 9, 10], 1] = False
    features = {"text": torch.from_numpy(text), "image": torch.from_numpy(image)}
    features["image"][~mask[:, 1]] = torch.nan
    rows = build_user_rows(torch.from_numpy(np.argwhere(takes)), users, torch.arange(items))
    return WarmData(tuple(DIMS), users, features, mask, rows, dtype=torch.float64)


@pytest.mark.parametrize("diffusion", DIFFUSIONS)
def test_an_item_whose_neighbours_have_one_row_receives_this_row(diffusion):
    data = two_groups()
    b = make("graph_imputation", data, diffusion=diffusion, neighbours=4)
    image = b.filled[1]
    torch.testing.assert_close(image[0], image[1])
    torch.testing.assert_close(image[9], image[8])
    assert not torch.allclose(image[0], image[9])
    # An item without a pair cannot be filled: it stays at the mean, and no other takes its row.
    assert not image[10].any()
    assert b.usable[:, 1].tolist() == [True] * 10 + [False]


def test_a_new_item_is_filled_from_its_nearest_items_in_the_modalities_that_it_has():
    data = two_groups()
    b = make("graph_imputation", data, neighbours=4)
    new = {
        "text": torch.tensor([[1.0, 0, 0, 0, 0, 0, 0], [0, 1.0, 0, 0, 0, 0, 0]]).double(),
        "image": torch.full((2, 4), torch.nan, dtype=torch.float64),
    }
    mask = torch.tensor([[True, False], [True, False]])
    image = b.fill_new(new, mask)[1]
    torch.testing.assert_close(image, b.filled[1][[1, 8]])
    nothing = torch.zeros_like(mask)
    assert not torch.cat(b.fill_new(new, nothing), dim=1).any()
    assert not b.columns(new, nothing).any()


def test_a_nearest_item_that_could_not_be_filled_does_not_count():
    b = make("graph_imputation", two_groups(), neighbours=4)
    text = torch.zeros(1, 7, dtype=torch.float64)
    # Item 10, which has no image and no pair, is the nearest; the next ones are of the first group.
    text[0, [2, 0]] = torch.tensor([1.0, 0.8], dtype=torch.float64)
    new = {"text": text, "image": torch.full((1, 4), torch.nan, dtype=torch.float64)}
    mask = torch.tensor([[True, False]])
    nearest, _ = b._nearest(b.rows(new, mask), mask)
    assert nearest[0, 0] == 10
    assert set(nearest[0, 1:].tolist()) < set(range(5))
    torch.testing.assert_close(b.fill_new(new, mask)[1], b.filled[1][[1]])


@pytest.mark.parametrize("smoothing", [0.0, 2.0])
def test_the_scores_are_one_ridge_regression_on_filled_rows(smoothing):
    data, (new, mask) = make_data(), new_items()
    b = make("graph_imputation", data, ridge=0.7, smoothing=smoothing, neighbours=K)
    warm = torch.cat(b.filled, dim=1).numpy()
    rows = torch.cat(b.fill_new(new, mask), dim=1).numpy()
    r = matrix(data)
    weights = np.linalg.solve(warm.T @ warm + 0.7 * np.eye(warm.shape[1]), warm.T @ r.T)
    expected = (rows @ weights).T
    if smoothing:
        k = r @ r.T
        expected = k @ np.linalg.solve(k + smoothing * np.eye(USERS), expected)
    np.testing.assert_allclose(scores(b, new, mask), expected, rtol=1e-8, atol=1e-10)


def test_a_filled_new_item_is_the_weighted_mean_of_its_nearest_warm_items(monkeypatch):
    monkeypatch.setattr("milk_recsys.methods.graph_imputation.model.BLOCK", 1)
    data, (new, mask) = make_data(), new_items()
    b = make("graph_imputation", data, neighbours=K)
    item = 1  # It has a text alone.
    row = torch.nn.functional.normalize(b.rows(new, mask)[0], dim=1)[item].numpy()
    warm = torch.nn.functional.normalize(b.rows.warm[0], dim=1).numpy()
    similarity = np.maximum(warm @ row, 0)
    similarity[np.argsort(-similarity)[K:]] = 0
    expected = similarity @ b.filled[1].numpy() / similarity.sum()
    np.testing.assert_allclose(b.fill_new(new, mask)[1][item].numpy(), expected, rtol=1e-9)


def test_on_complete_data_nothing_is_filled():
    data = make_data(missing=False)
    b = make("graph_imputation", data, neighbours=K)
    assert b.usable.all()
    for x, rows in zip(b.filled, b.rows.warm, strict=True):
        assert x is rows


def test_diffusion_by_walks_is_refused_on_large_sets(monkeypatch):
    monkeypatch.setattr(graph, "MAX_WALK_ITEMS", ITEMS - 1)
    with pytest.raises(DataError, match=r"--diffusion heat .* Choose neigh_mean or multi_hop"):
        make("graph_imputation", diffusion="heat")
    make("graph_imputation", diffusion="multi_hop")
