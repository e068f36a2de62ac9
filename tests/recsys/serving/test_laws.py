"""Answers of the server: those of the estimator, bit for bit, also while items change."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import polars as pl
import pytest
import torch

from milk_recsys.ranking.top import top_items
from milk_recsys.serving.index import Index
from tests.recsys.estimator.conftest import ITEMS, NEW, USERS

NEW_IDS = [f"i{i}" for i in range(ITEMS, ITEMS + NEW)]


def post(client, path, status=200, **body):
    answer = client.post(path, json=body)
    assert answer.status_code == status, answer.text
    return answer.json()


def entries(lists, owner="user", listed="items", name="item"):
    """(owner, listed, score) of each entry."""
    return [
        (own[owner], entry[name], entry["score"]) for own in lists["lists"] for entry in own[listed]
    ]


def rows(frame, owner="user", listed="item"):
    return list(frame.select(owner, listed, "score").iter_rows())


def test_lists_are_those_of_the_estimator(client, fitted, shop):
    users = list(fitted.users)
    found = post(client, "/recommend", users=users, k=5)
    assert entries(found) == rows(fitted.recommend(shop.new_items, 5, users=users))
    # Known and new items, without pairs that must not be listed, of some items.
    available = ["i50", "i53", "i60", "i1", "i2", "i3", "nothing"]
    excluded = {"u1": ["i50", "i1"], "u2": ["i53"], "nobody": ["i50"]}
    pairs = [(user, item) for user, items in excluded.items() for item in items]
    frame = {"user": [u for u, _ in pairs], "item": [i for _, i in pairs]}
    given = {"users": users, "available": available, "exclude": excluded}
    found = post(client, "/recommend", include_warm=True, k=4, **given)
    expected = fitted.recommend(
        shop.new_items, 4, users=users, exclude=frame, where=available, include_warm=True
    )
    assert entries(found) == rows(expected)
    known = [entry["known"] for own in found["lists"] for entry in own["items"]]
    assert known == expected["known"].to_list()
    whole = post(client, "/recommend", users=users, k=ITEMS + NEW, include_warm=True)
    expected = fitted.recommend(shop.new_items, ITEMS + NEW, users=users, include_warm=True)
    assert entries(whole) == rows(expected)


def test_audiences_are_those_of_the_estimator(client, fitted, shop):
    found = post(client, "/audience", items=NEW_IDS, k=6)
    expected = fitted.audience(shop.new_items, 6)
    assert entries(found, "item", "users", "user") == rows(expected, "item", "user")
    items, users = ["i3", "i51"], ["u1", "u5", "u9", "u11", "nobody"]
    found = post(client, "/audience", items=items, users=users, exclude={"i51": ["u9"]})
    expected = fitted.audience(
        shop.new_items,
        users=users[:4],
        where=items,
        include_warm=True,
        exclude={"user": ["u9"], "item": ["i51"]},
    )
    for item in items:
        own = [row for row in entries(found, "item", "users", "user") if row[0] == item]
        assert own == rows(expected.filter(item=item), "item", "user")


def test_new_customers_and_explanations_are_those_of_the_estimator(client, fitted, shop):
    customer = fitted.fold_in(["i7", "i9"])
    found = post(client, "/fold-in", items=["i9", "i7"], k=8, include_warm=True)
    expected = fitted.recommend(shop.new_items, 8, users=customer, include_warm=True)
    assert [(e["item"], e["score"]) for e in found["items"]] == list(
        expected.select("item", "score").iter_rows()
    )
    profile = shop.profile[3].tolist()
    stranger = fitted.fold_in(features={"profile": (["new"], shop.profile[3:4])})
    found = post(client, "/fold-in", features={"profile": profile}, exclude=["i55"], k=NEW)
    expected = fitted.recommend(shop.new_items, NEW, users=stranger).filter(pl.col("item") != "i55")
    assert [e["item"] for e in found["items"]] == expected["item"].to_list()
    for item in ("i52", "i4"):
        found = post(client, "/explain", user="u3", item=item)
        why = fitted.explain("u3", item, shop.new_items)
        assert found["score"] == why.score
        assert {p["name"]: p["part"] for p in found["by_modality"]} == why.by_modality
        assert {p["name"]: p["part"] for p in found["by_item"]} == why.by_item


def features_of(shop, item):
    """The features of an item in a request; modalities that it lacks are absent."""
    place = int(item[1:])
    return {
        name: x[place].tolist() for name, x in shop.rows.items() if not np.isnan(x[place]).any()
    }


def test_adding_and_withdrawing_gives_the_former_lists(client, fitted, shop):
    users = list(fitted.users)
    before = post(client, "/recommend", users=users, k=NEW)
    twin = {"item": "twin", "features": features_of(shop, "i52")}
    only_text = {"item": "only text", "features": {"text": shop.rows["text"][53].tolist()}}
    added = post(client, "/items", 201, items=[twin, only_text])
    assert added == {"added": ["twin", "only text"], "new_items": NEW + 2}
    during = post(client, "/recommend", users=users, k=NEW + 2)
    scores = {(user, item): score for user, item, score in entries(during)}
    for user in users:
        # An item with the same features has the same score, and comes after the first one.
        assert scores[user, "twin"] == pytest.approx(scores[user, "i52"], abs=1e-12)
    kept = [entry for entry in entries(during) if entry[1] not in ("twin", "only text")]
    assert kept == entries(before)
    for name in ("twin", "only text"):
        assert client.delete(f"/items/{name}").status_code == 204
        assert client.delete(f"/items/{name}").status_code == 404
    assert post(client, "/recommend", users=users, k=NEW) == before
    assert client.get("/health").json()["new_items"] == NEW
    # An item that was there from the beginning can be withdrawn, too.
    assert client.delete("/items/i55").status_code == 204
    after = post(client, "/recommend", users=users, k=NEW)
    assert entries(after) == [entry for entry in entries(before) if entry[1] != "i55"]


def test_a_service_without_items_lists_those_that_are_added(fitted, shop):
    from milk_recsys.exporting.catalogue import read_folder
    from milk_recsys.serving.service import Service
    from tests.recsys.serving.conftest import client_of

    empty = Service(fitted._fitted, read_folder(fitted._fitted, None)[0], max_items=NEW)
    with client_of(empty) as client:
        assert post(client, "/recommend", users=["u1"]) == {"lists": [{"user": "u1", "items": []}]}
        items = [{"item": item, "features": features_of(shop, item)} for item in NEW_IDS]
        post(client, "/items", 201, items=items)
        found = post(client, "/recommend", users=list(fitted.users), k=5)
        assert entries(found) == rows(fitted.recommend(shop.new_items, 5, users=fitted.users))
        more = {"item": "more", "features": features_of(shop, "i52")}
        assert "--max-items" in post(client, "/items", 409, items=[more])["detail"]


def test_every_list_is_of_one_snapshot_while_items_change(client, fitted, shop):
    """Threads read while another adds and withdraws two items together with one call each."""
    pair = [{"item": f"pair {k}", "features": features_of(shop, "i52")} for k in range(2)]
    users = list(fitted.users)[:8]
    plain = entries(post(client, "/recommend", users=users, k=NEW))

    def read(_):
        return [entries(post(client, "/recommend", users=users, k=NEW + 2)) for _ in range(15)]

    with ThreadPoolExecutor(5) as pool:
        readers = [pool.submit(read, k) for k in range(4)]
        for _ in range(6):
            post(client, "/items", 201, items=pair)
            for item in pair:
                assert client.delete(f"/items/{item['item']}").status_code == 204
        found = [lists for reader in readers for lists in reader.result()]
    seen = set()
    for lists in found:
        own = {item for _, item, _ in lists if item.startswith("pair")}
        seen.add(len(own))
        # Both items, or what is left between the two withdrawals, or none.
        assert own in ({"pair 0", "pair 1"}, {"pair 1"}, set())
        assert [row for row in lists if row[1] not in own] == plain
    assert seen


@pytest.mark.parametrize("count", [1, 3, 200])
def test_an_index_answers_waiting_calls_together_and_exactly(count):
    rng = torch.Generator().manual_seed(count)
    rows_ = torch.randn(count, 5, generator=rng, dtype=torch.float64)
    rows_[count // 2] = rows_[0]  # Equal scores.
    index = Index(rows_, torch.float32)
    calls = [torch.randn(n % 4, 5, generator=rng, dtype=torch.float64) for n in range(40)]
    excluded = [
        [torch.randperm(count, generator=rng)[: (n + u) % 3] for u in range(len(call))]
        for n, call in enumerate(calls)
    ]

    def ask(n):
        return index.top(calls[n], 1 + n % 7, excluded[n])

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(ask, range(40)))
    for n, (call, answer) in enumerate(zip(calls, answers, strict=True)):
        if not len(call):
            continue
        offsets = torch.tensor([0, *(len(x) for x in excluded[n])]).cumsum(0)
        expected = top_items(
            call, rows_, 1 + n % 7, exclude=(offsets, torch.cat(excluded[n]).long())
        )
        assert torch.equal(answer.positions, expected.positions)
        assert torch.equal(answer.scores, expected.scores)


def test_one_bad_vector_does_not_disturb_the_other_calls():
    from milk_recsys.base.errors import DataError

    index = Index(torch.eye(3, dtype=torch.float64), torch.float64)
    none = [torch.empty(0, dtype=torch.int64)]
    bad = torch.full((1, 3), torch.nan, dtype=torch.float64)
    with ThreadPoolExecutor(8) as pool:
        futures = [
            pool.submit(index.top, bad if n % 3 == 0 else torch.eye(3)[:1].double(), 1, none)
            for n in range(30)
        ]
    for n, future in enumerate(futures):
        if n % 3 == 0:
            with pytest.raises(DataError, match="not finite"):
                future.result()
        else:
            assert future.result().positions.tolist() == [[0]]


def test_a_trained_method_serves_lists_alone(trained_run):
    from milk_recsys.estimator.files import open_fitted
    from milk_recsys.exporting.catalogue import read_folder
    from milk_recsys.serving.service import Service
    from tests.recsys.serving.conftest import client_of

    fitted, _ = open_fitted(trained_run.folder, "cpu")
    items, _ = read_folder(fitted, trained_run.data)
    with client_of(Service(fitted, items)) as client:
        found = post(client, "/recommend", users=['user "3", né'], k=3)
        assert len(found["lists"][0]["items"]) == 3
        paths = json.loads(client.get("/openapi.json").text)["paths"]
        assert set(paths) == {"/health", "/recommend", "/audience", "/items", "/items/{name}"}
        assert client.post("/fold-in", json={"items": ["a"]}).status_code == 404
        refused = post(client, "/recommend", 422, users=['user "3", né'], include_warm=True)
        assert "include_warm" in refused["detail"]
        assert post(client, "/recommend", 409, users=['user "29", né'])["detail"]
    assert USERS == 40
