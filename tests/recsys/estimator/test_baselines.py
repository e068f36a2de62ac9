"""Methods without vectors: lists from their scores, saved folders, and runs of train.py."""

import numpy as np
import pytest
import torch

import milk_recsys
from milk_recsys.base.errors import DataError
from milk_recsys.config.method import BUILT_IN, find_method
from milk_recsys.config.options import Options
from milk_recsys.run import begin, learner_scorer
from milk_recsys.run.progress import Progress
from milk_recsys.train import run
from tests.recsys.estimator.conftest import NEW, frame

WITHOUT = [name for name in BUILT_IN if find_method(name).scorer is None and name != "gorec"]
SHORT = {"epochs": 2, "factor_epochs": 2, "eval_every": 1}


def short(name):
    """Options by which a method takes no time."""
    method = find_method(name)
    options = {k: v for k, v in SHORT.items() if k in method.fields or method.trains}
    if "factor_epochs" not in method.fields:
        options.pop("factor_epochs", None)
    return {"device": "cpu", **options}


def fitted(name, shop):
    rec = milk_recsys.Recommender(name, **short(name))
    return rec.fit(frame(shop.known), shop.features)


@pytest.mark.parametrize("name", WITHOUT)
def test_every_method_lists_new_items_and_opens_its_saved_folder(name, shop, tmp_path):
    rec = fitted(name, shop)
    assert rec.abilities == ("recommend",)
    lists = rec.recommend(shop.new_items, k=NEW)
    one = lists.filter(lists["user"] == "u3")
    assert one["score"].to_list() == sorted(one["score"], reverse=True)
    assert sorted(one["item"]) == sorted(rec.prepare(shop.new_items).ids.names)
    # The audience of an item has the same scores as the lists of its users.
    audience = rec.audience(k=40)
    joined = lists.join(audience, on=["user", "item"])
    assert len(joined) == len(lists)
    np.testing.assert_array_equal(joined["score"], joined["score_right"])
    rec.save(tmp_path / "saved")
    again = milk_recsys.load(tmp_path / "saved", device="cpu")
    assert again.recommend(shop.new_items, k=NEW).equals(lists)


def test_lists_have_the_scores_of_the_learner_in_the_order_of_the_ranking(shop):
    rec = fitted("ridge", shop)
    new = rec.prepare(shop.new_items)
    learner = rec._fitted.model.learner
    rows = {name: x.float() for name, x in new.features.items()}
    scores = learner.model.scorer(rows, new.mask)(torch.arange(40))
    expected = scores.sort(dim=1, descending=True, stable=True)
    lists = rec.recommend(k=5)
    for user in (0, 7):
        own = lists.filter(lists["user"] == f"u{user}")
        assert own["item"].to_list() == [new.ids.names[k] for k in expected.indices[user][:5]]
        np.testing.assert_array_equal(own["score"], expected.values[user][:5])


def test_excluded_items_are_not_listed_and_short_lists_end(shop):
    rec = fitted("content_knn", shop)
    names = rec.prepare(shop.new_items).ids.names
    seen = {"user": ["u1"] * (NEW - 2), "item": names[: NEW - 2]}
    found = rec.recommend(k=NEW, users=["u1", "u2"], exclude=seen)
    assert sorted(found.filter(found["user"] == "u1")["item"]) == sorted(names[NEW - 2 :])
    assert len(found.filter(found["user"] == "u2")) == NEW
    found = rec.audience(k=40, exclude=seen)
    assert len(found.filter((found["user"] == "u1") & found["item"].is_in(seen["item"]))) == 0


def test_a_run_of_train_opens_with_its_data_set(write_dataset, tmp_path):
    folder = write_dataset(tmp_path / "data", items=120, pairs_per_user=20)
    options = Options.of(
        "clcrec",
        data=folder,
        out=tmp_path / "run",
        setting="ftft",
        compare="none",
        **short("clcrec"),
    )
    options, dataset = begin.open_run(options)
    metrics = run(options, dataset, Progress(quiet=True))
    with pytest.raises(DataError, match=r"its training data are needed\. Pass the folder"):
        milk_recsys.load(tmp_path / "run")
    rec = milk_recsys.load(tmp_path / "run", data=folder, device="cpu")
    assert rec.abilities == ("recommend",)
    # The weights are those of the run: the lists of its test items have the same quality.
    test = np.load(tmp_path / "run/split.npz")["test"]
    names = [f"{item}" for item in test]
    held = [(user, str(item)) for user, item in dataset.interactions.tolist() if item in test]
    pairs = {
        "user": [dataset.user_names[user] for user, _ in held],
        "item": [item for _, item in held],
    }
    found = rec.evaluate(
        pairs, {n: (names, np.asarray(x[test])) for n, x in dataset.features.items()}
    )
    assert found["new_only"]["ndcg@20"] == pytest.approx(metrics["test"]["ndcg@20"], abs=1e-6)
    other = write_dataset(tmp_path / "other", users=20)
    with pytest.raises(DataError, match="is not the data set that the run"):
        milk_recsys.load(tmp_path / "run", data=other, device="cpu")


def test_methods_without_vectors_are_refused_where_vectors_are_needed(shop, monkeypatch):
    rec = fitted("random", shop)
    for call in (
        lambda: rec.fold_in(["i1"]),
        lambda: rec.recommend(shop.new_items, include_warm=True),
        lambda: rec.explain("u1", "i50", shop.new_items),
    ):
        with pytest.raises(DataError, match=r"The model is random, which can: recommend\."):
            call()
    monkeypatch.setattr(learner_scorer, "MAX_SCORES", 100)
    with pytest.raises(DataError, match=r"12 items have 480 scores for 40 users"):
        rec.recommend(shop.new_items)


def test_damaged_training_data_are_an_error(shop, tmp_path):
    from milk_recsys.base.checkpoint import load_state, save_state

    rec = fitted("ridge", shop)
    rec.save(tmp_path / "saved")
    path = tmp_path / "saved" / "warm.safetensors"
    tensors, facts = load_state(path)
    save_state(path, {**tensors, "mask": tensors["mask"][:-1]}, facts)
    with pytest.raises(DataError, match=r"warm\.safetensors: the stored training data are"):
        milk_recsys.load(tmp_path / "saved")
