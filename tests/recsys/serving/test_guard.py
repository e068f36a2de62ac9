"""Refused requests: tokens, sizes, unknown names, bad bodies; nothing of a request is logged."""

import logging

import pytest

from tests.recsys.serving.conftest import client_of
from tests.recsys.serving.test_laws import NEW_IDS, features_of, post

TOKEN = "0123456789abcdef"


def test_a_token_is_needed_for_everything_but_the_health(service):
    with client_of(service, token=TOKEN) as client:
        assert client.get("/health").status_code == 200
        for path in ("/openapi.json", "/recommend", "/items/x", "/nowhere"):
            for given in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": TOKEN}):
                answer = client.get(path, headers=given)
                assert answer.status_code == 401
                assert answer.headers["www-authenticate"] == "Bearer"
        right = {"Authorization": f"Bearer {TOKEN}"}
        assert client.get("/openapi.json", headers=right).status_code == 200
        body = {"users": ["u1"]}
        assert client.post("/recommend", json=body, headers=right).status_code == 200


def test_a_large_body_is_refused_before_it_is_read(service):
    with client_of(service, max_bytes=100) as client:
        assert client.post("/recommend", content=b" " * 101).status_code == 413
        pieces = (b"x" * 60 for _ in range(3))  # Without a stated length.
        assert client.post("/recommend", content=pieces).status_code == 413
        assert client.post("/recommend", json={"users": ["u1"]}).status_code == 200


@pytest.mark.parametrize(
    ("path", "body", "status", "detail"),
    [
        ("/recommend", {}, 422, "body.users: Field required"),
        ("/recommend", {"users": []}, 422, "body.users"),
        ("/recommend", {"users": ["u1"], "k": 0}, 422, "body.k"),
        ("/recommend", {"users": ["u1"], "k": 1001}, 422, "body.k"),
        ("/recommend", {"users": ["u1"], "k": 2.5}, 422, "body.k"),
        ("/recommend", {"users": ["u1"] * 1001}, 422, "body.users"),
        ("/recommend", {"users": ["u1"], "top": 3}, 422, "body.top: Extra inputs"),
        ("/recommend", {"users": [7]}, 422, "body.users"),
        ("/recommend", {"users": ["secret"]}, 404, "one of the users is unknown"),
        ("/audience", {"items": ["i50", "secret"]}, 404, "neither new nor known"),
        ("/fold-in", {"items": ["secret"]}, 404, "not a known item"),
        ("/fold-in", {}, 422, "give either items or features"),
        ("/fold-in", {"features": {"profile": [1.0]}}, 422, "body.features"),
        ("/explain", {"user": "u1", "item": "secret"}, 404, "neither new nor known"),
        ("/explain", {"user": "secret", "item": "i50"}, 404, "users is unknown"),
        ("/items", {"items": [{"item": "x", "features": {"smell": [1]}}]}, 422, "body.items"),
        ("/items", {"items": [{"item": "x", "features": {}}]}, 422, ""),
        ("/items", {"items": [{"item": "x", "features": {"text": [0] * 6}}]}, 422, "no modality"),
        ("/items", {"items": [{"item": "x", "features": {"text": [1e308] * 6}}]}, 422, ""),
        ("/items", {"items": [{"item": "i50", "features": {"text": [1] * 6}}]}, 409, "there alrea"),
        ("/items", {"items": [{"item": "i3", "features": {"text": [1] * 6}}]}, 409, "known item"),
        (
            "/items",
            {"items": [{"item": "x", "features": {"text": [1] * 6}}] * 2},
            409,
            "an item is there twice",
        ),
    ],
)
def test_bad_requests(client, path, body, status, detail):
    answer = client.post(path, json=body)
    assert answer.status_code == status, answer.text
    assert detail in answer.json()["detail"]
    assert "secret" not in answer.text
    assert client.get("/health").json()["new_items"] == len(NEW_IDS)


@pytest.mark.parametrize(
    "content", [b"{", b'{"users": ["\\ud800"]}', b'{"users": NaN}', b"\xff", b"[" * 5000]
)
def test_bodies_that_are_no_json(client, content):
    headers = {"content-type": "application/json"}
    answer = client.post("/recommend", content=content, headers=headers)
    assert answer.status_code in (400, 404, 422), answer.text


def test_an_infinite_feature_is_refused(client, shop):
    text = b'{"items": [{"item": "x", "features": {"text": [Infinity, 0, 0, 0, 0, 0]}}]}'
    headers = {"content-type": "application/json"}
    assert client.post("/items", content=text, headers=headers).status_code == 422
    huge = b'{"items": [{"item": "x", "features": {"text": [1e999, 0, 0, 0, 0, 0]}}]}'
    assert client.post("/items", content=huge, headers=headers).status_code == 422


def test_an_unexpected_error_is_answered_and_logged_without_data(service, monkeypatch, caplog):
    def fails(*_):
        raise RuntimeError("secret name of a customer")

    monkeypatch.setattr(service, "recommend", fails)
    with client_of(service) as client, caplog.at_level(logging.DEBUG):
        answer = client.post("/recommend", json={"users": ["u1"]})
    assert answer.status_code == 500
    assert answer.json() == {"detail": "internal error."}
    assert "RuntimeError in" in caplog.text
    assert "secret" not in caplog.text + answer.text


def test_requests_are_not_logged(client, shop, caplog):
    with caplog.at_level(logging.DEBUG, logger="milk_recsys"):
        post(client, "/recommend", users=["u1"])
        client.delete("/items/some secret")
        item = {"item": "x", "features": features_of(shop, "i51")}
        post(client, "/items", 201, items=[item])
    assert [record for record in caplog.records if record.name.startswith("milk_recsys")] == []
