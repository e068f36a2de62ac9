"""recommend with files of users, of items in stock and of pairs, and with known items."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

import milk_recsys
from milk_recsys.base.errors import DataError
from milk_recsys.config.options import Options
from milk_recsys.recommend import RecommendOptions, main, recommend
from milk_recsys.run import begin
from milk_recsys.run.progress import Progress
from milk_recsys.train import run
from tests.recsys.conftest import _write_dataset
from tests.recsys.test_recommend import some_features, write_items

NEW = 9


@pytest.fixture(scope="module")
def keep_run(tmp_path_factory) -> SimpleNamespace:
    """A run of KEEP on every item, and a folder of new items whose names continue those of it."""
    root = tmp_path_factory.mktemp("keep")
    data = _write_dataset(root / "data", items=40)
    options, dataset = begin.open_run(
        Options.of("keep", data=data, out=root / "run", fit_all=True, compare="none", device="cpu")
    )
    run(options, dataset, Progress(quiet=True))
    features = some_features(NEW)
    features["image"][[2, 5]] = np.nan
    names = [f'item "{40 + k}", né' for k in range(NEW)]
    items = write_items(root / "new", features, names)
    return SimpleNamespace(folder=root / "run", items=items, names=names, features=features)


def tables(keep_run, out, **options):
    """Return both tables of the command."""
    given = {"items": keep_run.items, "device": "cpu", "out": out, **options}
    lines: list[str] = []
    recommend(RecommendOptions(run=keep_run.folder, **given), lines.append)
    return pl.read_parquet(out / "users.parquet"), pl.read_parquet(out / "items.parquet"), lines


def write(path: Path, frame: dict[str, list[str]]) -> Path:
    pl.DataFrame(frame).write_csv(path)
    return path


def named(user: int) -> str:
    return f'user "{user}", né'


def brute_force(rec, scores, excluded, k):
    """Lists (user, item, score) from whole arrays, without any of the code for lists."""
    rows = []
    for place, user in enumerate(rec.users[:28]):
        order = np.argsort(-scores[place].astype(np.float32), kind="stable")
        kept = [i for i in order if (user, scores_items(rec)[i]) not in excluded][:k]
        rows += [(user, scores_items(rec)[i], scores[place, i]) for i in kept]
    return rows


def scores_items(rec):
    return [*rec.new_names, *rec.items]


def test_known_and_new_items_are_listed_as_by_the_estimator_and_by_a_brute_force(
    keep_run, tmp_path
):
    rec = milk_recsys.load(keep_run.folder, device="cpu")
    new = {name: (keep_run.names, x) for name, x in keep_run.features.items()}
    pairs = {"user": [named(3), named(3), named(8)], "item": []}
    pairs["item"] = [keep_run.names[0], rec.items[5], keep_run.names[4]]
    seen = write(tmp_path / "seen.csv", pairs)
    users, items, _ = tables(keep_run, tmp_path / "out", include_warm=True, exclude=seen, top=30)
    assert users.columns == [
        *("user", "user_name", "trained", "rank", "item", "item_name", "known", "score")
    ]
    expected = rec.recommend(new, 30, include_warm=True, exclude=pairs)
    listed = users.filter("trained").select(
        user="user_name", rank="rank", item="item_name", known="known", score="score"
    )
    assert listed.equals(expected)
    audience = rec.audience(new, 30, include_warm=True, exclude=pairs)
    assert items.select(item="item_name", rank="rank", user="user_name", score="score").equals(
        audience
    )
    # The brute force: all scores as one array of inner products in float64.
    from milk_recsys.methods.keep.user_map import warm_vectors

    scorer, fitted = rec._fitted.scorer, rec._fitted
    vectors = np.concatenate(
        [scorer.embed(keep_run.features).numpy(), warm_vectors(scorer.model).numpy()]
    )
    scores = scorer.user_vectors(scorer.trained_users.nonzero()[:, 0]).numpy() @ vectors.T
    excluded = set(zip(pairs["user"], pairs["item"], strict=True))
    offsets, own = fitted.user_map.offsets, fitted.user_map.items
    for user in range(len(offsets) - 1):
        for item in own[offsets[user] : offsets[user + 1]].tolist():
            excluded.add((rec.users[user], rec.items[item]))
    rec.new_names = keep_run.names
    for (user, item, score), row in zip(
        brute_force(rec, scores, excluded, 30), listed.iter_rows(named=True), strict=True
    ):
        assert (user, item) == (row["user"], row["item"])
        assert score == pytest.approx(row["score"], abs=1e-6)


def test_users_and_available_items_in_files(keep_run, tmp_path):
    whole, by_item, _ = tables(keep_run, tmp_path / "whole", top=30)
    users = tmp_path / "users.txt"
    users.write_text("\n".join([named(7), named(29), named(2)]) + "\n", encoding="utf-8")
    stock = write(tmp_path / "stock.csv", {"item": [*keep_run.names[3:6], 'item "7", né']})
    some, audience, lines = tables(keep_run, tmp_path / "some", users=users, available=stock)
    assert some["user"].unique(maintain_order=True).to_list() == [7, 29, 2]
    for user in (7, 2, 29):
        own = whole.filter((pl.col("user") == user) & pl.col("item").is_in([3, 4, 5]))
        assert own["item"].to_list() == some.filter(user=user)["item"].to_list()
    assert set(audience["item"]) == {3, 4, 5}
    assert set(audience["user"]) == {2, 7}  # User 29 has no training pair.
    order = by_item.filter(pl.col("user").is_in([2, 7]) & pl.col("item").is_in([3, 4, 5]))
    assert order["user_name"].to_list() == audience["user_name"].to_list()
    assert lines[-1].startswith("3 users and 3 new items: ")
    # The tables of an earlier call are files of users, items and pairs.
    earlier = tmp_path / "some/users.parquet"
    rest, _, _ = tables(keep_run, tmp_path / "rest", users=earlier, exclude=earlier)
    assert len(rest) == 3 * (NEW - 3)
    assert not set(rest["item"]) & {3, 4, 5}


def test_known_items_alone(keep_run, tmp_path):
    users, items, lines = tables(keep_run, tmp_path / "out", items=None, include_warm=True, top=5)
    assert users["known"].all()
    assert set(items["item"]) == set(range(40)) & set(items["item"])
    assert lines[-1].startswith("30 users and ")
    assert "known items: " in lines[-1]


@pytest.mark.parametrize(
    ("option", "content", "message"),
    [
        ("users", "user\nx\ny\nz", "--users: .*user: 'x' and 'y' and 1 more are not known"),
        ("users", "name,age\nx,3", "user: 'name,age' and 'x,3' are not known"),
        ("available", "item\nlamp", r"item: 'lamp' is not known \(new items are called like"),
        ("available", 'item\n"item ""7"", né"', "has none of the 9 candidates. Give --include"),
        ("exclude", 'user,item\nx,"item ""41"", né"\ny,z', "user: 'x' and 'y' are not known"),
        ("exclude", 'user,item\n"user ""1"", né",z', "item: 'z' is not known"),
        ("exclude", "user,product\na,b", "has no column 'item'; it has user, product"),
        ("users", "user\n", "has no user"),
    ],
)
def test_unknown_names_are_errors(keep_run, tmp_path, option, content, message):
    file = tmp_path / "file.csv"
    file.write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        tables(keep_run, tmp_path / "out", **{option: file})
    assert not (tmp_path / "out").exists()


def test_files_of_stock_and_orders_may_name_others(keep_run, tmp_path):
    stock, orders = tmp_path / "stock.csv", tmp_path / "orders.csv"
    stock.write_text('item\n"item ""41"", né"\n"item ""42"", né"\nsold out\n', encoding="utf-8")
    user, item = '"user ""1"", né"', '"item ""41"", né"'
    rows = ["user,item", f"{user},{item}", f"stranger,{item}", f"{user},x", ""]
    orders.write_text("\n".join(rows), encoding="utf-8")
    users, _, lines = tables(keep_run, tmp_path / "out", available=stock, exclude=orders)
    names = set(users.filter(user_name='user "1", né')["item_name"])
    assert names == {'item "42", né'}
    assert len(set(users["item_name"])) == 2
    notes = [line for line in lines if "left out" in line]
    assert [line.partition("known")[2].rpartition(", ")[2] for line in notes] == [
        "1 of 3; left out.",
        "1 of 2; left out.",
        "1 of 2; left out.",
    ]
    assert "'sold out' is not known" in notes[0]
    assert "'stranger' is not known" in notes[1]


def test_either_new_or_known_items_are_needed(keep_run, capsys):
    assert main(["--run", str(keep_run.folder)]) == 2
    assert "--include-warm for the known items" in capsys.readouterr().err


def test_a_method_without_known_items_says_which_has_them(trained_run, capsys):
    assert main(["--run", str(trained_run.folder), "--include-warm", "--device", "cpu"]) == 2
    assert "Models that can do it: keep" in capsys.readouterr().err


def test_lists_in_blocks_are_the_same(keep_run, tmp_path, monkeypatch):
    whole = tables(keep_run, tmp_path / "whole", include_warm=True)[:2]
    monkeypatch.setattr("milk_recsys.run.scorer.LISTS_AT_ONCE", 7)
    monkeypatch.setattr("milk_recsys.exporting.tables.ROWS_AT_ONCE", 50)
    parts = tables(keep_run, tmp_path / "parts", include_warm=True)[:2]
    assert all(a.equals(b) for a, b in zip(whole, parts, strict=True))


def test_an_article_number_is_never_taken_for_the_number_of_a_row():
    from milk_recsys.estimator.labels import Labels, find_all

    named = Labels("new item", np.arange(3), ["17", "18", "b"])
    with pytest.raises(DataError, match="'1' is not known"):
        find_all(["1"], [named], "x")
    assert find_all(["17", "b"], [named], "x") == [[[0], [2]]]
    rows = Labels("new item", np.array([4, 6]))
    assert find_all(["6"], [rows], "x") == [[[1]]]
    titles = Labels("new item", np.arange(3), ["lamp", "lamp", "b"], ["p1", "p2", "p3"])
    assert find_all(["lamp", "p2", "0"], [titles], "x") == [[[0, 1], [1], [0]]]
    with pytest.raises(DataError, match="'6' is the number of a new and of a known item"):
        find_all(["6"], [rows, Labels("known item", np.array([5, 6]))], "x")
