"""A fitted KEEP to which pairs, users and items are added equals KEEP fitted on all of them."""

import dataclasses

import numpy as np
import pytest
import torch

from milk_recsys.base.distributed import World
from milk_recsys.base.errors import DataError
from milk_recsys.catalogue.user_rows import build_user_rows
from milk_recsys.methods.keep import model as keep
from milk_recsys.methods.keep import pair_sums, update
from milk_recsys.methods.keep.model import Keep, KeepLearner
from milk_recsys.methods.keep.pair_sums import StoredPairs
from milk_recsys.methods.keep.update import update_model
from tests.recsys.methods.tiny_baselines import make_data, make_options, new_items

GIVEN = {
    "width": 0.8,
    "ridge": 0.4,
    "shrinkage": 0.3,
    "predicted_popularity": 0.2,
    "fit_weights": False,
}
USERS, ITEMS = 30, 24
# Form of the vectors -> the number of warm items and users above which there are others, options.
FORMS = {
    "items": (10_000, {}),
    "users": (27, {}),
    "vectors": (10, {"rank": 24}),
    "projected": (20, {"landmarks": 9, "neighbours": 4, "rank": 24}),
}
NEAR = {"rtol": 0, "atol": 1e-10}


@pytest.fixture(params=FORMS)
def form(request, monkeypatch):
    """The options of a form; in the form of users there are more items than users."""
    limit, options = FORMS[request.param]
    monkeypatch.setattr(keep, "MAX_DIRECT", limit)
    # The regression is exact up to the limit.
    monkeypatch.setattr(keep, "MAX_ROWS", 20 if request.param == "projected" else 10_000)
    return request.param, {**GIVEN, **options}


def everything(name, seed=1):
    """All users, items and pairs, of which a part is known at first."""
    users, items = (25, 32) if name == "users" else (USERS, ITEMS)
    return make_data(seed, users=users, items=items)


def part(data, num_users, num_items, share=0.7, seed=2):
    """A part of the pairs of the first users and items, and all other pairs (P, 2)."""
    users, items = data.pairs
    kept = torch.rand(len(users), generator=torch.Generator().manual_seed(seed)) < share
    kept &= (users < num_users) & (items < num_items)
    pairs = torch.stack([users, items], dim=1)
    rows = build_user_rows(pairs[kept], num_users, torch.arange(num_items))
    first = dataclasses.replace(
        data,
        num_users=num_users,
        features={name: x[:num_items] for name, x in data.features.items()},
        mask=data.mask[:num_items],
        rows=rows,
    )
    return first, pairs[~kept]


def fitted(data, options):
    return Keep(data, make_options("keep", **options).method, 0)


def content(data, start):
    """The content of the warm items from `start` on."""
    rows = {name: x[start:] for name, x in data.features.items()}
    return {"features": rows, "mask": data.mask[start:]}


def scores_of(model):
    new, mask = new_items()
    with torch.no_grad():
        vectors = model.embed_items(new, mask)
        return model.user_vectors(None) @ vectors.T


def frozen(whole, first, data):
    """KEEP fitted on everything, whose regression has the centres and landmarks of another one."""
    state = dict(whole.net.regression.state_dict())
    own = first.net.regression.state_dict()
    for m, name in enumerate(data.modalities):
        for kind in ("centre", "scale", "kernel", "landmarks"):
            state[f"{kind}_{m}"] = own[f"{kind}_{m}"]
        x = (data.features[name] - own[f"centre_{m}"]) / own[f"scale_{m}"]
        scaled = torch.where(data.mask[:, [m]], x, 0.0)
        state[f"rows_{m}"] = scaled if whole.net.regression.is_exact else data.features[name]
    whole.net.regression.load_state_dict(state)
    return whole


@pytest.mark.parametrize("used", [True, False])
def test_new_pairs_and_users_give_the_fit_on_all(form, used):
    name, options = form
    data = everything(name)
    first, pairs = part(data, data.num_users - 4, data.num_items)
    known = fitted(first, options)
    if used:
        scores_of(known.net)
    whole = fitted(data, options)
    assert update_model(known.net, pairs) == len(pairs)
    torch.testing.assert_close(scores_of(known.net), scores_of(whole.net), **NEAR)
    state, expected = known.net.state_dict(), whole.net.state_dict()
    assert state.keys() == expected.keys()
    for key, x in expected.items():
        torch.testing.assert_close(state[key], x, **NEAR, equal_nan=True, msg=key)


def test_new_warm_items_give_the_fit_on_all_with_the_same_centres(form):
    name, options = form
    data = everything(name)
    first, pairs = part(data, data.num_users - 2, data.num_items - 3)
    known = fitted(first, options)
    scores_of(known.net)
    whole = frozen(fitted(data, options), known, data)
    update_model(known.net, pairs, **content(data, data.num_items - 3))
    torch.testing.assert_close(scores_of(known.net), scores_of(whole.net), **NEAR)
    assert known.net.counts.tolist() == torch.bincount(data.pairs[1]).tolist()


def test_without_frozen_centres_the_error_is_small():
    data = make_data(1, users=80, items=120)
    first, pairs = part(data, 80, 114, share=1.0)
    known, whole = fitted(first, GIVEN), fitted(data, GIVEN)
    update_model(known.net, pairs, **content(data, 114))
    found, expected = scores_of(known.net), scores_of(whole.net)
    error = float((found - expected).norm() / expected.norm())
    assert 1e-6 < error < 0.03


def test_any_order_and_any_number_of_steps_give_the_same(form):
    name, options = form
    data = everything(name)
    first, pairs = part(data, data.num_users - 2, data.num_items - 3)
    once, twice = fitted(first, options), fitted(first, options)
    update_model(once.net, pairs, **content(data, data.num_items - 3))
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(0))
    late = pairs[:, 1] >= data.num_items - 3
    steps = [pairs[order][~late[order]], pairs[order][late[order]]]
    assert update_model(twice.net, steps[0][:5]) == 5
    assert update_model(twice.net, steps[0]) == len(steps[0]) - 5  # Known pairs are ignored.
    scores_of(twice.net)
    update_model(
        twice.net, torch.cat([steps[1], steps[0][:3]]), **content(data, data.num_items - 3)
    )
    torch.testing.assert_close(scores_of(twice.net), scores_of(once.net), **NEAR)


def test_chosen_options_stay():
    data = everything("items")
    first, pairs = part(data, USERS, ITEMS)
    known = fitted(first, {})
    scores_of(known.net)
    chosen = known.net.chosen
    update_model(known.net, pairs)
    assert known.net.chosen == chosen
    scores_of(known.net)
    assert known.net.chosen == chosen


def test_only_the_terms_of_changed_users_are_summed(monkeypatch):
    data = everything("items")
    first, pairs = part(data, USERS, ITEMS)
    known = fitted(first, GIVEN)
    assert update_model(known.net, pairs[:1]) == 1  # The first update sums over all users.
    read = []
    summed = pair_sums.PairSums.of.__func__

    def counting(cls, rows, *others):
        read.append(torch.unique(rows).tolist())
        return summed(cls, rows, *others)

    monkeypatch.setattr(pair_sums.PairSums, "of", classmethod(counting))
    update_model(known.net, pairs[1:3])
    changed = sorted(set(pairs[1:3, 0].tolist()))
    assert read == [changed, changed]


def test_a_model_without_new_pairs_does_not_change():
    data = everything("items")
    first, pairs = part(data, USERS, ITEMS)
    known = fitted(first, GIVEN).net
    before = {name: x.clone() for name, x in known.state_dict().items()}
    stored = StoredPairs.of(known)
    assert update_model(known, torch.stack([stored.users, stored.items], dim=1)) == 0
    assert update_model(known, pairs[:0]) == 0
    assert all(torch.equal(x, before[n]) for n, x in known.state_dict().items())
    update_model(known, pairs[:0], num_users=USERS + 2)
    assert known.trained_users.tolist() == [*before["trained_users"].tolist(), False, False]
    assert not known.user_vectors(torch.tensor([USERS + 1])).any()


def test_stored_pairs_are_the_pairs_of_the_fit(form):
    name, options = form
    data = everything(name)
    stored = StoredPairs.of(fitted(data, options).net)
    assert [x.tolist() for x in stored[:2]] == [x.tolist() for x in data.pairs]
    assert stored[2:] == (data.num_users, data.num_items)


def test_a_learner_that_is_updated_is_that_of_all_data(tmp_path):
    data = everything("items")
    first, pairs = part(data, USERS - 2, ITEMS - 3)
    options = make_options("keep", **GIVEN)
    learner = KeepLearner(first, options)
    learner.prepare()
    assert learner.update(pairs, **content(data, ITEMS - 3)) == len(pairs)
    assert learner.num_pairs == data.num_pairs
    assert torch.equal(learner.trained_users, data.rows.has_pairs)
    assert [x.tolist() for x in learner.data.pairs] == [x.tolist() for x in data.pairs]
    for name, x in data.features.items():
        assert torch.equal(learner.data.features[name].nan_to_num(7), x.nan_to_num(7))
    scores = scores_of(learner.model.net)
    learner.save(tmp_path / "model.safetensors", {"epoch": 0}, weights_only=True)
    again = KeepLearner(first, options)
    again.prepare()
    again.update(pairs[:, :], **content(data, ITEMS - 3))
    assert again.load(tmp_path / "model.safetensors") == {"epoch": 0}
    torch.testing.assert_close(scores_of(again.model.net), scores)


def test_arguments_that_do_not_fit_are_refused(monkeypatch):
    data = everything("items")
    first, pairs = part(data, USERS - 2, ITEMS - 3)
    learner = KeepLearner(first, make_options("keep", **GIVEN))
    learner.prepare()
    net, new = learner.model.net, content(data, ITEMS - 3)
    before = {name: x.clone() for name, x in net.state_dict().items()}
    wide = {**new["features"], "text": torch.zeros(3, 5)}
    unknown = {**new["features"], "sound": torch.zeros(3, 5)}
    broken = {**new["features"], "text": torch.full((3, 7), torch.nan, dtype=torch.float64)}
    for arguments, error, message in (
        ({}, ValueError, r"warm items from 0 to 20, got .* Give `features` and `mask`"),
        ({"features": new["features"]}, ValueError, "give both `features` and `mask`"),
        ({**new, "mask": new["mask"].long()}, TypeError, r"`mask` must be bool of shape \(w, 2\)"),
        ({**new, "features": wide}, ValueError, r"'text' must have shape \(3, 7\), got \(3, 5\)"),
        ({**new, "features": unknown}, KeyError, "unknown modality 'sound'"),
        ({**new, "features": broken}, ValueError, "'text' has NaN or an infinity"),
        ({**new, "num_users": 3}, ValueError, "`num_users` must be at least 30, got 3"),
    ):
        with pytest.raises(error, match=message):
            learner.update(pairs, **arguments)
    with pytest.raises(TypeError, match="`pairs` must be int64 of shape"):
        learner.update(pairs.int(), **new)
    every = torch.cartesian_prod(torch.tensor([0]), torch.arange(ITEMS - 3))
    with pytest.raises(DataError, match="user 0 has all 21 items"):
        learner.update(every)
    monkeypatch.setattr(update, "MAX_EXACT", 100)
    with pytest.raises(DataError, match=r"too many to update this model\. Fit it again"):
        learner.update(pairs, **new)
    assert all(torch.equal(x, before[n]) for n, x in net.state_dict().items())
    assert learner.data is first
    several = KeepLearner(first, make_options("keep", **GIVEN), World(0, 2))
    with pytest.raises(DataError, match="updated in one process"):
        several.update(pairs, **new)


def test_float32_stays_near_float64():
    data = everything("items")
    first, pairs = part(data, USERS, ITEMS)
    models = []
    for dtype in (torch.float32, torch.float64):
        own = dataclasses.replace(first, dtype=dtype)
        models.append(fitted(own, GIVEN).net)
        for step in pairs.split(7):
            update_model(models[-1], step)
    found, expected = (scores_of(model).numpy() for model in models)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6 * np.abs(expected).max())
