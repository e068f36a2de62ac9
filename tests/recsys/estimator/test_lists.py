"""Lists: which users, which items, in which order, and what must not be in them."""

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import torch

from milk_recsys import Recommender
from milk_recsys.base.errors import DataError, OptionError
from tests.recsys.estimator.conftest import GIVEN, ITEMS, NEW, USERS, fit, frame

NEW_IDS = {f"i{i}" for i in range(ITEMS, ITEMS + NEW)}


def lists(found, owner="user", listed="item"):
    """Owner -> its list, in the order of the ranks."""
    found = found.sort(owner, "rank", maintain_order=True)
    return {key[0]: part[listed].to_list() for key, part in found.group_by(owner)}


def scores(fitted, users, features):
    """Scores by the run's own scorer, whose users are numbers."""
    # Features of frames are float32.
    rows = {name: x.astype(np.float32) for name, (_, x) in features.items()}
    return fitted._fitted.scorer.score([fitted.users.index(user) for user in users], rows)


def test_lists_have_the_scores_of_the_scorer(fitted, shop):
    found = fitted.recommend(shop.new_items, k=5)
    assert found.columns == ["user", "rank", "item", "score"]
    expected = scores(fitted, fitted.users, shop.new_items)
    for place, (user, own) in enumerate(
        (user, found.filter(pl.col("user") == user)) for user in fitted.users
    ):
        assert own["rank"].to_list() == [1, 2, 3, 4, 5], user
        best = expected[place].sort(descending=True, stable=True)
        assert own["item"].to_list() == [f"i{ITEMS + i}" for i in best.indices[:5].tolist()]
        np.testing.assert_allclose(own["score"], best.values[:5], rtol=1e-9)


def test_users_are_listed_in_the_given_order_and_may_repeat(fitted, shop):
    found = fitted.recommend(shop.new_items, k=2, users=["u7", "u3", "u7"])
    assert found["user"].to_list() == ["u7"] * 2 + ["u3"] * 2 + ["u7"] * 2
    one = fitted.recommend(shop.new_items, k=2, users=np.array(["u3"]))
    assert found[2:4].equals(one)


def test_audience_is_the_other_side_of_the_same_scores(fitted, shop):
    found = fitted.audience(shop.new_items, k=4)
    assert found.columns == ["item", "rank", "user", "score"]
    expected = scores(fitted, fitted.users, shop.new_items)
    for place, (item, users) in enumerate(lists(found, "item", "user").items()):
        column = int(item[1:]) - ITEMS
        order = expected[:, column].sort(descending=True, stable=True).indices[:4]
        assert users == [fitted.users[u] for u in order.tolist()], place
    some = fitted.audience(shop.new_items, k=2, users=["u9", "u2", "u5", "u9"])
    assert set(some["user"]) <= {"u9", "u2", "u5"}
    seen = {"user": ["u9"], "item": [f"i{ITEMS}"]}
    without = fitted.audience(shop.new_items, k=3, users=["u9", "u2", "u5"], exclude=seen)
    assert sorted(lists(without, "item", "user")[f"i{ITEMS}"]) == ["u2", "u5"]
    assert len(lists(without, "item", "user")[f"i{ITEMS + 1}"]) == 3


@pytest.mark.parametrize("convert", [dict, pd.DataFrame, pl.DataFrame, pa.table])
def test_what_must_not_be_listed_is_not(fitted, shop, convert):
    whole = lists(fitted.recommend(shop.new_items, k=NEW))
    seen = {"user": ["u1", "u1", "u2", "nobody"], "item": ["i51", "i52", "i55", "i51"]}
    found = lists(fitted.recommend(shop.new_items, k=NEW, exclude=convert(seen)))
    for user, own in whole.items():
        gone = {i for u, i in zip(seen["user"], seen["item"], strict=True) if u == user}
        assert found[user] == [item for item in own if item not in gone]
    available = ["i50", "i53", "i60", "gone"]
    found = lists(fitted.recommend(shop.new_items, k=NEW, where=available))
    assert found == {u: [i for i in own if i in available] for u, own in whole.items()}


def test_known_items_are_on_one_list_without_those_that_a_user_has(fitted, shop):
    found = fitted.recommend(shop.new_items, k=ITEMS + NEW, include_warm=True)
    assert found.columns == ["user", "rank", "item", "known", "score"]
    owned = {}
    for user, item in shop.known:
        owned.setdefault(user, set()).add(item)
    every = {f"i{i}" for i in range(ITEMS + NEW)} & (set(fitted.items) | NEW_IDS)
    for user, own in lists(found).items():
        assert set(own) == every - owned[user]
    assert set(found.filter(~pl.col("known"))["item"]) == NEW_IDS
    # New items have the scores that they have without the known ones.
    alone = fitted.recommend(shop.new_items, k=NEW)
    both = alone.join(found, on=["user", "item"])
    assert len(both) == len(alone)
    np.testing.assert_array_equal(both["score"], both["score_right"])
    only_known = fitted.recommend(k=3, include_warm=True, where=fitted.items)
    assert only_known["known"].all()
    audience = fitted.audience(k=USERS, include_warm=True)
    assert {(u, i) for u, i in zip(audience["user"], audience["item"], strict=True)}.isdisjoint(
        shop.known
    )


def test_scores_of_known_and_new_items_are_on_one_scale(fitted, shop):
    """An item with the content of a known one, whose kernel it fills, has nearly its score."""
    model = fit(shop, ridge=1e-9, width=4.0)
    ids = [f"i{i}" for i in range(4)]
    twins = {name: ([f"twin of {i}" for i in ids], x[:4]) for name, (_, x) in shop.features.items()}
    known = model.recommend(k=ITEMS, include_warm=True, where=ids)
    new = model.recommend(twins, k=3)
    joined = known.with_columns(item="twin of " + pl.col("item")).join(new, on=["user", "item"])
    assert len(joined) > USERS
    np.testing.assert_allclose(joined["score"], joined["score_right"], atol=1e-5)


def test_new_items_are_kept_for_the_next_call_until_the_model_changes(shop):
    rec = fit(shop)
    with pytest.raises(DataError, match="give `new_items`"):
        rec.recommend()
    prepared = rec.prepare(shop.new_items)
    first = rec.recommend(k=3)
    assert first.equals(rec.recommend(shop.new_items, k=3))
    assert first.equals(rec.recommend(prepared, k=3))
    rec.update({"user": ["u1"], "item": [rec.items[0]]})
    with pytest.raises(DataError, match="give `new_items`"):
        rec.recommend()
    with pytest.raises(DataError, match="before the update"):
        rec.recommend(prepared)


def test_ids_are_text_as_in_catalogue_from_frames():
    pairs = {"user": [7, 7, 8, 8], "item": ["007", "7", "7", "x"]}
    text = (["007", "7", "x"], np.eye(3))
    rec = Recommender("keep", **GIVEN).fit(pairs, {"text": text})
    new = {"text": (["n"], np.ones((1, 3)))}
    assert rec.recommend(new, users=[7.0])["user"].to_list() == ["7"]
    assert rec.recommend(new, users=["7 "])["user"].to_list() == ["7"]
    owned = rec.recommend(users=[8], include_warm=True, new_items=new)["item"].to_list()
    assert set(owned) == {"n", "007"}
    with pytest.raises(DataError, match=r"'9' not known. Known ids are like '7' and '8'. Use fold"):
        rec.recommend(new, users=[9])


def test_mistakes_are_named(fitted, shop):
    for arguments, message in (
        ({"users": "u1"}, "must be a list of ids, got str"),
        ({"users": ["u1", "nobody"]}, "'nobody' not known"),
        ({"where": ["nothing"]}, "where: has none of the 12 candidates"),
        ({"new_items": {"sound": (["a"], np.ones((1, 2)))}}, "unknown modality 'sound'"),
        ({"new_items": {"text": (["a"], np.ones((1, 2)))}}, "has 2 features, but the model was"),
        ({"new_items": {"text": (["a"], np.full((1, 6), np.nan))}}, "'a' has no modality at all"),
        ({"new_items": {}}, "must map modalities to frames"),
        ({"new_items": {"text": {"id": ["a"]}}}, "has no column 'item'"),
    ):
        given = {"new_items": shop.new_items, **arguments}
        with pytest.raises(DataError, match=message):
            fitted.recommend(**given)
    with pytest.raises(ValueError, match="`top` must be at least 1"):
        fitted.recommend(shop.new_items, k=0)
    twice = {name: (ids[:1], x[:1]) for name, (ids, x) in shop.features.items()}
    with pytest.raises(DataError, match="is a known item, which include_warm lists already"):
        fitted.recommend(twice, include_warm=True)
    with pytest.raises(DataError, match="not fitted yet"):
        Recommender("keep").recommend(shop.new_items)
    with pytest.raises(OptionError, match="data is an option of folders"):
        Recommender("keep", data="shop")
    with pytest.raises(OptionError, match="has no option --speed"):
        Recommender("keep", speed=1)


def test_other_methods_recommend_and_say_what_they_cannot(shop):
    milk = Recommender("milk", epochs=2, device="cpu", kernels="torch", preset="recommended")
    milk.fit(frame(shop.known), shop.features)
    assert milk.abilities == ("recommend", "vectors", "user_features")
    assert len(milk.recommend(shop.new_items, k=3)) == 3 * USERS
    for call in (
        lambda: milk.fold_in(["i1"]),
        lambda: milk.explain("u1", "i50"),
        lambda: milk.recommend(include_warm=True),
        lambda: milk.update({"user": ["u1"], "item": ["i1"]}),
        lambda: milk.recommend(shop.new_items, first_pairs=frame(shop.later)),
    ):
        with pytest.raises(DataError, match=r"The model is milk, .* Models that can do it: keep"):
            call()


def test_held_out_items_are_measured(shop):
    rec = fit(shop, fit_all=False, split_seed=1)
    assert 0 < rec.metrics["test"]["ndcg@20"] <= 1
    assert len(rec.items) < len({item for _, item in shop.known})
    when = np.random.default_rng(0).permutation(len(shop.known))
    timed = frame(shop.known) | {"when": when + 1000 * (when > 100)}
    options = {**GIVEN, "fit_all": False, "split_by": "first_seen"}
    by_time = Recommender("keep", **options).fit(timed, shop.features, time="when")
    assert any(note.startswith("cut at ") for note in by_time.notes)
    assert by_time.metrics["test"]["untrained_users"] == 0
    assert torch.is_tensor(rec._fitted.scorer.trained_users)
