"""One walk from a shop's tables to lists: prepare, train, prepare items, recommend."""

import polars as pl

from milk_recsys import prepare, train
from milk_recsys.__main__ import main
from tests.recsys.test_prepare_items import texts_of, write_shop


def test_from_raw_tables_to_lists_with_names(tmp_path):
    options = write_shop(tmp_path)
    products = pl.read_parquet(tmp_path / "products.parquet")
    products.with_columns(title="a " + pl.col("title")).write_parquet(tmp_path / "products.parquet")
    assert (
        prepare.run_command(
            prepare.Table(**options, item_names=f"{options['pairs'].parent}/products.parquet:title")
        )
        == 0
    )
    words = ["--data", str(tmp_path / "data"), "--out", str(tmp_path / "run"), "--fit-all"]
    assert train.main([*words, "--device", "cpu", "--empty-items", "drop"]) == 0
    new = pl.DataFrame(
        {
            "item": ["007", "008", "009"],
            "title": texts_of(3, seed=5),
            "brand": ["Acme", "Olm", "Zeta"],
        }
    )
    new.write_csv(tmp_path / "new.csv")
    run, items = str(tmp_path / "run"), str(tmp_path / "new")
    table = str(tmp_path / "new.csv")
    assert main(["prepare", "items", "--run", run, "--table", table, "--out", items]) == 0
    (tmp_path / "stock.txt").write_text("008\n009\np0\np1\np2\n")
    pl.DataFrame({"user": ["u1"], "item": ["008"]}).write_csv(tmp_path / "today.csv")
    files = ["--available", str(tmp_path / "stock.txt"), "--exclude", str(tmp_path / "today.csv")]
    lists = ["recommend", "--run", run, "--items", items, "--include-warm", *files]
    assert main([*lists, "--device", "cpu"]) == 0
    users = pl.read_parquet(tmp_path / "run/recommendations/users.parquet")
    assert set(users["item_id"]) <= {"008", "009", "p0", "p1", "p2"}
    assert {"008", "009"} <= set(users["item_id"])
    assert "008" not in users.filter(user_name="u1")["item_id"].to_list()
    known = dict(zip(products["item"], products["title"], strict=True))
    for row in users.filter("known").iter_rows(named=True):
        assert row["item_name"] == "a " + known[row["item_id"]]
