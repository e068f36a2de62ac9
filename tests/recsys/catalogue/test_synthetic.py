"""The embedded data set has the properties that its description states."""

import time

import numpy as np

from milk_recsys.catalogue.synthetic import SHARED_DIM, embedded_dataset


def test_equal_seeds_give_equal_data():
    first, second = embedded_dataset(), embedded_dataset(0)
    assert np.array_equal(first.interactions, second.interactions)
    for name in first.modalities:
        assert np.array_equal(first.features[name], second.features[name])
    assert not np.array_equal(first.interactions, embedded_dataset(1).interactions)


def test_global_random_state_is_untouched():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    embedded_dataset()
    assert np.array_equal(before, np.random.get_state()[1])  # noqa: NPY002


def test_shapes_types_and_ranges():
    data = embedded_dataset()
    assert data.modalities == ("text", "image", "audio")
    assert [data.features[name].shape for name in data.modalities] == [
        (600, 96),
        (600, 64),
        (600, 32),
    ]
    assert {values.dtype for values in data.features.values()} == {np.dtype(np.float32)}
    assert all(np.isfinite(values).all() for values in data.features.values())
    assert data.natural_mask.shape == (600, 3)
    assert data.natural_mask.all()
    pairs = data.interactions
    assert pairs.dtype == np.int64
    assert 15_000 < len(pairs) < 25_000
    keys = pairs[:, 0] * data.num_items + pairs[:, 1]
    assert (np.diff(keys) > 0).all()
    assert pairs.min() >= 0
    assert (pairs.max(axis=0) < (data.num_users, data.num_items)).all()
    activity = np.bincount(pairs[:, 0], minlength=data.num_users)
    assert activity.min() >= 5
    assert activity.max() <= 120


def test_popularity_is_long_tailed():
    data = embedded_dataset()
    popularity = np.sort(np.bincount(data.interactions[:, 1], minlength=data.num_items))[::-1]
    assert popularity[:60].sum() > 0.3 * popularity.sum()
    assert popularity[0] > 5 * np.median(popularity)


def test_modalities_share_semantics_and_are_unequally_informative():
    """Ridge regression from features to taste vectors explains text best and audio least.

    An item's taste vector is the mean, over its users, of the singular vectors of the pairs.
    """
    data = embedded_dataset()
    matrix = np.zeros((data.num_users, data.num_items))
    matrix[tuple(data.interactions.T)] = 1.0
    matrix -= matrix.mean(axis=0)
    taste = np.linalg.svd(matrix, full_matrices=False)[2][:SHARED_DIM].T
    train, test = np.arange(0, 450), np.arange(450, 600)
    explained = []
    for name in data.modalities:
        x = data.features[name].astype(np.float64)
        weights = np.linalg.solve(
            x[train].T @ x[train] + 10.0 * np.eye(x.shape[1]), x[train].T @ taste[train]
        )
        error = ((taste[test] - x[test] @ weights) ** 2).sum()
        explained.append(1 - error / (taste[test] ** 2).sum())
    text, image, audio = explained
    assert text > image > audio > 0


def test_generation_takes_less_than_a_second():
    start = time.perf_counter()
    embedded_dataset()
    assert time.perf_counter() - start < 1.0
