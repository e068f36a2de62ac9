"""Laws: folded-in users, parts of scores, saved folders, updates."""

import json
import shutil

import numpy as np
import polars as pl
import pytest
import torch

import milk_recsys
from milk_recsys.base.errors import DataError
from milk_recsys.estimator import user_content
from milk_recsys.methods.keep import model as keep
from milk_recsys.run import begin
from milk_recsys.run.progress import Progress
from milk_recsys.train import run
from tests.recsys.estimator.conftest import GIVEN, ITEMS, NEW, USERS, fit, frame

# Options of each form of KEEP's vectors, and the largest number of users or items of the other.
FORMS = {"items": ({}, 10_000), "users": ({}, 45), "vectors": ({"rank": 45}, 10_000)}


@pytest.fixture(params=FORMS)
def rec(request, shop, monkeypatch):
    options, limit = FORMS[request.param]
    monkeypatch.setattr(keep, "MAX_DIRECT", limit)
    return fit(shop, **options)


def owned(shop, user):
    return [item for u, item in shop.known if u == user]


# --- new customers


def test_a_customer_with_the_items_of_a_user_has_the_lists_of_this_user(rec, shop):
    rec.prepare(shop.new_items)
    for user in ("u0", "u17"):
        customer = rec.fold_in(owned(shop, user))
        expected = rec.recommend(users=[user], k=NEW + ITEMS, include_warm=True)
        found = rec.recommend(users=customer, k=NEW + ITEMS, include_warm=True)
        assert found["item"].to_list() == expected["item"].to_list()
        np.testing.assert_allclose(found["score"], expected["score"], atol=1e-10)


def test_customers_of_a_frame_have_their_names(rec, shop):
    pairs = [("ann", item) for item in owned(shop, "u0")] + [("bob", "i3"), ("bob", "i3")]
    customers = rec.fold_in(pl.DataFrame(frame(pairs)))
    assert customers.names == ("ann", "bob")
    assert customers.offsets.diff().tolist() == [len(owned(shop, "u0")), 1]
    found = rec.recommend(shop.new_items, users=customers, k=2)
    assert found["user"].to_list() == ["ann", "ann", "bob", "bob"]
    seen = {"user": ["bob"], "item": found["item"].to_list()[2:3]}
    assert (
        found["item"][2]
        not in rec.recommend(users=customers, k=9, exclude=seen)
        .filter(pl.col("user") == "bob")["item"]
        .to_list()
    )


def test_unknown_items_are_named(fitted, shop):
    with pytest.raises(DataError, match="fold_in: item: 'x', 'y', 'z' and 1 more not known"):
        fitted.fold_in(["i1", "x", "y", "z", "w"])
    with pytest.raises(DataError, match="at least one item"):
        fitted.fold_in([])
    with pytest.raises(DataError, match="give either items"):
        fitted.fold_in()


def test_customers_without_history_have_features(fitted, shop):
    """The profile is a noisy map of the taste, so that a profile finds the items of its taste."""
    ids = [f"u{u}" for u in range(USERS)]
    customers = fitted.fold_in(features={"profile": (ids, shop.profile)})
    own = fitted._fitted.scorer.user_vectors(torch.arange(USERS))
    by_name = torch.stack([own[fitted.users.index(name)] for name in customers.names])
    new = fitted.prepare(shop.new_items).vectors
    found, expected = customers.vectors @ new.T, by_name @ new.T
    assert np.corrcoef(found.flatten(), expected.flatten())[0, 1] > 0.7
    # A customer about whom nothing is known has the mean vector.
    empty = fitted.fold_in(features={"profile": (["a"], np.full((1, 3), np.nan))})
    users = fitted._fitted.user_content.users
    mean = fitted._fitted.scorer.user_vectors(users).mean(dim=0)
    torch.testing.assert_close(empty.vectors[0], mean, rtol=0, atol=1e-10)
    with pytest.raises(DataError, match="no known items that a score could come from"):
        fitted.explain(empty, "i50")
    with pytest.raises(DataError, match="without features of users"):
        fit(shop).fold_in(features={"profile": (["a"], np.ones((1, 3)))})


# --- explanations


def test_parts_sum_to_the_score(rec, shop):
    found = rec.recommend(shop.new_items, k=NEW, users=["u0", "u5"])
    for user, item, score in found.select("user", "item", "score").iter_rows():
        why = rec.explain(user, item)
        assert why.score == pytest.approx(score, abs=1e-10)
        assert sum(why.by_modality.values()) == pytest.approx(score, abs=1e-10)
        assert sum(why.by_item.values()) == pytest.approx(score, abs=1e-10)
        assert set(why.by_item) == set(owned(shop, user))
        lacks_image = int(item[1:]) % 4 == 0
        assert set(why.by_modality) == {"text"} if lacks_image else {"text", "image"}


def test_known_items_and_new_customers_are_explained(rec, shop):
    both = rec.recommend(shop.new_items, k=99, users=["u0"], include_warm=True)
    known = both.filter(pl.col("known"))
    why = rec.explain("u0", known["item"][0])
    assert why.score == pytest.approx(known["score"][0], abs=1e-10)
    assert set(why.by_modality) == {"pairs"}
    customer = rec.fold_in(["i3", "i9"])
    expected = rec.recommend(k=1, users=customer)
    why = rec.explain(customer, expected["item"][0])
    assert why.score == pytest.approx(expected["score"][0], abs=1e-10)
    assert set(why.by_item) == {"i3", "i9"}
    assert "by known item: i" in str(why)
    with pytest.raises(DataError, match="'nothing' is neither a known item nor one of"):
        rec.explain("u0", "nothing")


# --- first pairs


def test_first_pairs_change_only_the_items_that_have_them(rec, shop):
    alone = rec.recommend(shop.new_items, k=NEW)
    first = frame([*shop.later[:5], ("stranger", "i50"), ("u1", "i1")])
    mixed = rec.recommend(shop.new_items, k=NEW, first_pairs=first)
    changed = {item for _, item in shop.later[:5]}
    both = alone.join(mixed, on=["user", "item"])
    same = both.filter(~pl.col("item").is_in(list(changed)))
    np.testing.assert_allclose(same["score"], same["score_right"], atol=1e-12)
    # Users do not get what they have already.
    pairs = set(zip(mixed["user"], mixed["item"], strict=True))
    assert not pairs & set(shop.later[:5])
    user, item, score = next(
        row for row in mixed.select("user", "item", "score").iter_rows() if row[1] in changed
    )
    why = rec.explain(user, item)
    assert why.score == pytest.approx(score, abs=1e-10)
    assert "pairs" in why.by_modality


# --- files


def test_a_saved_recommender_gives_the_same_lists_bit_for_bit(rec, shop, tmp_path):
    rec.recommend({"text": shop.new_items["text"]}, k=3)  # Another pattern chooses its options.
    rec.save(tmp_path / "rec")
    again = milk_recsys.load(tmp_path / "rec", device="cpu")
    for options in ({}, {"include_warm": True}, {"users": ["u3"]}):
        first = rec.recommend(shop.new_items, k=NEW, **options)
        assert first.equals(again.recommend(shop.new_items, k=NEW, **options))
    first, second = (r.fold_in(["i3"]).vectors for r in (rec, again))
    assert torch.equal(first, second)
    assert (again.users, again.items, again.metrics) == (rec.users, rec.items, rec.metrics)
    scorer = milk_recsys.load_run(tmp_path / "rec", device="cpu")
    new = {name: x for name, (_, x) in shop.new_items.items()}
    assert torch.equal(scorer.score(None, new), rec._fitted.scorer.score(None, new))
    assert not [
        f for f in (tmp_path / "rec").iterdir() if f.suffix not in (".json", ".tsv", ".safetensors")
    ]
    pairs = {"user": ["u1", "w"], "item": ["i2", "i3"]}
    assert again.update(pairs)["new_users"] == rec.update(pairs)["new_users"] == 1
    assert rec.recommend(shop.new_items).equals(again.recommend(shop.new_items))
    with pytest.raises(DataError, match="never overwritten"):
        rec.save(tmp_path / "rec")


def test_features_of_users_are_saved(fitted, shop, tmp_path):
    fitted.save(tmp_path / "rec")
    again = milk_recsys.load(tmp_path / "rec", device="cpu")
    given = {"profile": (["a", "b"], shop.profile[:2])}
    assert torch.equal(
        fitted.fold_in(features=given).vectors, again.fold_in(features=given).vectors
    )


def test_features_of_many_users_are_projected_on_some_of_them(shop, monkeypatch, tmp_path):
    monkeypatch.setattr(user_content, "MAX_EXACT_USERS", 20)
    monkeypatch.setattr(user_content, "LANDMARKS", 8)
    ids = [f"u{u}" for u in range(USERS)]
    rec = milk_recsys.Recommender("keep", **GIVEN)
    rec.fit(frame(shop.known), shop.features, user_features={"profile": (ids, shop.profile)})
    assert not rec._fitted.user_content.regression.is_exact
    given = {"profile": (ids, shop.profile)}
    found = rec.fold_in(features=given)
    own = rec._fitted.scorer.user_vectors(torch.arange(USERS))
    expected = torch.stack([own[rec.users.index(name)] for name in found.names])
    new = rec.prepare(shop.new_items).vectors
    pair = np.stack([(found.vectors @ new.T).flatten(), (expected @ new.T).flatten()])
    assert np.corrcoef(pair)[0, 1] > 0.6
    rec.save(tmp_path / "rec")
    again = milk_recsys.load(tmp_path / "rec", device="cpu").fold_in(features=given)
    torch.testing.assert_close(again.vectors, found.vectors, rtol=0, atol=1e-12)


@pytest.mark.parametrize("damage", ["text", "users", "missing"])
def test_damaged_folders_are_refused(fitted, tmp_path, damage):
    fitted.save(tmp_path / "rec")
    path = tmp_path / "rec/recommender.json"
    if damage == "text":
        path.write_text("{")
    elif damage == "users":
        state = json.loads(path.read_text())
        path.write_text(json.dumps({**state, "users": state["users"][:-1]}))
    else:
        (tmp_path / "rec/user_content.safetensors").unlink()
    with pytest.raises(DataError):
        milk_recsys.load(tmp_path / "rec", device="cpu")


def test_runs_of_train_py_are_opened(write_dataset, tmp_path):
    data = write_dataset(tmp_path / "data", users=30, items=60)
    for name in ("users", "items"):
        shutil.copy(data / f"{name}.tsv", tmp_path / f"{name}.tsv")
    parsed, dataset = begin.begin([f"--data={data}", f"--out={tmp_path / 'run'}", "--device=cpu"])
    run(parsed, dataset, Progress(quiet=True))
    rec = milk_recsys.load(tmp_path / "run", device="cpu")
    assert rec.users == dataset.user_names
    split = np.load(tmp_path / "run/split.npz")
    assert rec.items == tuple(dataset.item_names[i] for i in split["warm"])
    test = split["test"]
    new = {n: ([f"{i}" for i in test], np.asarray(x[test])) for n, x in dataset.features.items()}
    found = rec.recommend(new, k=3, users=[dataset.user_names[4]])
    scorer = milk_recsys.load_run(tmp_path / "run", device="cpu")
    expected = scorer.score([4], {n: x for n, (_, x) in new.items()})[0].topk(3)
    assert found["item"].to_list() == [str(test[i]) for i in expected.indices]
    assert rec.fold_in([rec.items[0]]).vectors.isfinite().all()


# --- updates


def test_an_update_equals_a_fit_on_all_pairs(shop, request, monkeypatch):
    """With the same items the content, and so its means, are those of the fit on all pairs."""
    last = {}
    for k, (_, item) in enumerate(shop.known):
        last[item] = k
    held = {k for k in range(0, len(shop.known), 5) if last[shop.known[k][1]] != k}
    some = [pair for k, pair in enumerate(shop.known) if k not in held]
    rec, whole = fit(shop, some), fit(shop)
    if set(rec.items) != set(whole.items):
        pytest.fail("the example must keep all items")
    result = rec.update(frame(shop.known))
    assert result == {"new_pairs": len(held), "new_users": 0, "new_items": 0}
    found, expected = (
        r.recommend(shop.new_items, k=NEW).sort("user", "item") for r in (rec, whole)
    )
    assert found["item"].equals(expected["item"])
    np.testing.assert_allclose(found["score"], expected["score"], atol=1e-10)


def test_new_items_become_known_with_their_features(rec, shop):
    first = frame([*shop.later, ("w", "i50")])
    with pytest.raises(DataError, match=r"such as 'i5.'\. Give their features"):
        rec.update(first)
    part = {name: (ids[:2], x[:2]) for name, (ids, x) in shop.new_items.items()}
    before = rec.recommend(shop.new_items, k=3)
    with pytest.raises(DataError, match="have no features, such as"):
        rec.update(first, part)
    assert before.equals(rec.recommend(shop.new_items, k=3))
    result = rec.update(first, shop.new_items)
    names = {item for _, item in shop.later}
    assert result == {
        "new_pairs": len(set(shop.later)) + 1,
        "new_users": 1,
        "new_items": len(names | {"i50"}),
    }
    assert set(rec.items) >= names
    assert rec.users[-1] == "w"
    # The user who took i50 only now does not get it again, and is explained by it.
    assert "i50" not in rec.recommend(k=99, users=["w"], include_warm=True)["item"].to_list()
    assert set(rec.explain("w", rec.items[0]).by_item) == {"i50"}
