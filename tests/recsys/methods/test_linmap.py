"""The linear map from content to donor scores: multi-output ridge regression with an intercept."""

import dataclasses

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from milk_recsys.catalogue.user_rows import build_user_rows
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

OPTIONS = {"ridge": 0.7, "shrinkage": 0.5, "popularity": 0.25}


def donor_by_hand(data):
    """Return D = A S^3 / (S^2 + lambda) B' of the damped pairs: KEEP's scores at full rank."""
    r = matrix(data)
    x = r / np.outer(np.maximum(r.sum(1), 1), np.maximum(r.sum(0), 1)) ** 0.25
    a, s, b = np.linalg.svd(x, full_matrices=False)
    shrinkage = 0.5 * (s[:50] ** 2).mean()
    return a * (s**3 / (s**2 + shrinkage)) @ b


def content_by_hand(data, new, mask):
    scaled = dataclasses.replace(
        data, features={k: torch.from_numpy(unit(x.numpy())) for k, x in data.features.items()}
    )
    return centred_by_hand(
        scaled, {k: torch.from_numpy(unit(x.numpy())) for k, x in new.items()}, mask
    )


def test_the_donor_is_keep_at_full_rank():
    data = make_data()
    found = make("linmap", data, **OPTIONS).donor_scorer()(torch.arange(USERS)).numpy()
    np.testing.assert_allclose(found, donor_by_hand(data), rtol=1e-9, atol=1e-12)


def test_one_map_for_all_patterns_is_ridge_on_scaled_features():
    data, (new, mask), b = make_data(), new_items(), make("linmap", **OPTIONS)
    parts = content_by_hand(data, new, mask)
    warm, rows = (np.concatenate([p[side] for p in parts], axis=1) for side in (0, 1))
    warm *= np.sqrt(2 / data.mask.numpy().sum(1, keepdims=True))
    rows *= np.sqrt(2 / mask.numpy().sum(1, keepdims=True))
    model = Ridge(alpha=0.7).fit(warm, donor_by_hand(data).T)
    np.testing.assert_allclose(scores(b, new, mask), model.predict(rows).T, rtol=1e-8, atol=1e-10)


def test_one_map_per_pattern_is_ridge_on_its_modalities():
    data, (new, mask) = make_data(), new_items()
    b = make("linmap", per_pattern=True, **OPTIONS)
    parts, expected = content_by_hand(data, new, mask), np.zeros((USERS, 5))
    for c in range(5):
        pattern = np.flatnonzero(mask[c].numpy())
        warm, row = (np.concatenate([parts[m][side] for m in pattern], axis=1) for side in (0, 1))
        model = Ridge(alpha=0.7).fit(warm, donor_by_hand(data).T)
        expected[:, c] = model.predict(row[[c]])[0]
    np.testing.assert_allclose(scores(b, new, mask), expected, rtol=1e-8, atol=1e-10)


def test_on_complete_data_both_maps_are_equal():
    data, new = make_data(missing=False), new_items()[0]
    new = {k: x.nan_to_num(0.5) for k, x in new.items()}
    complete = torch.ones(5, 2, dtype=torch.bool)
    one, several = (
        scores(make("linmap", data, per_pattern=p, **OPTIONS), new, complete) for p in (False, True)
    )
    np.testing.assert_allclose(one, several, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("per_pattern", [False, True])
def test_an_item_without_features_gets_the_mean_of_the_donor_scores(per_pattern):
    data, (new, mask) = make_data(), new_items()
    b = make("linmap", per_pattern=per_pattern, **OPTIONS)
    mask = mask.clone()
    mask[1] = False
    found = scores(b, new, mask)
    np.testing.assert_allclose(found[:, 1], donor_by_hand(data).mean(1), rtol=1e-9)
    # The scores of the others do not depend on it.
    np.testing.assert_allclose(found[:, 0], scores(b, new, new_items()[1])[:, 0], rtol=1e-12)


def test_warm_items_without_a_pair_are_targets_of_0():
    data = make_data()
    users, items = data.pairs
    kept = torch.stack([users, items], dim=1)[items != 3]
    data = dataclasses.replace(data, rows=build_user_rows(kept, USERS, torch.arange(ITEMS)))
    b, (new, mask) = make("linmap", data, **OPTIONS), new_items()
    parts = content_by_hand(data, new, mask)
    warm, rows = (np.concatenate([p[side] for p in parts], axis=1) for side in (0, 1))
    warm *= np.sqrt(2 / data.mask.numpy().sum(1, keepdims=True))
    rows *= np.sqrt(2 / mask.numpy().sum(1, keepdims=True))
    donor = donor_by_hand(data)
    np.testing.assert_allclose(donor[:, 3], 0, atol=1e-12)
    expected = Ridge(alpha=0.7).fit(warm, donor.T).predict(rows).T
    np.testing.assert_allclose(scores(b, new, mask), expected, rtol=1e-8, atol=1e-10)
