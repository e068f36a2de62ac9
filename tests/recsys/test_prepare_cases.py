"""Raw files as people have them, each with the right reading in an `expected.json`.

The files may not be published, so these tests need the folders named by INVMOD_CASES and
INVMOD_RAW. What is odd in each file is also in a small file that another test writes.
"""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from milk_recsys import prepare
from milk_recsys.catalogue.dataset import read_dataset
from milk_recsys.catalogue.importers.interactions import read_interactions
from milk_recsys.catalogue.importers.row_options import RowOptions
from milk_recsys.catalogue.raw.tables import open_table

pytestmark = pytest.mark.data


class Case:
    """One folder of raw files, and what is read from it."""

    def __init__(self, root, name, out, capsys):
        self.folder, self.out, self.capsys = root / "raw_pack" / name, out, capsys
        self.expected = json.loads((self.folder / "expected.json").read_text())
        self.output = ""

    def path(self, name):
        return self.folder / name

    def prepare(self, kind, **options):
        """Run the command; return the exit status and keep what it printed."""
        options = {
            "out": self.out,
            **({} if kind is prepare.Mmrec else {"fit_on": "all"}),
            **options,
        }
        status = prepare.run_command(kind(**options))
        captured = self.capsys.readouterr()
        self.output = captured.out + captured.err
        return status

    def dataset(self):
        """Return the data set, after a check of the counts and times that all cases state."""
        dataset = read_dataset(self.out, empty_items="drop")
        manifest = json.loads((self.out / "dataset.json").read_text())
        assert dataset.num_users == self.expected["users"]
        items = self.expected.get("items_with_interactions", self.expected.get("items"))
        assert items in (None, dataset.num_items)
        assert manifest["num_interactions"] == self.expected["pairs"]
        if "time_first" in self.expected:
            assert np.load(self.out / "times.npy").min() == self.expected["time_first"]
        return dataset

    def check_rows(self, table, options):
        """Compare the number of rows and the last time of all of them."""
        found = read_interactions(open_table(table), options)
        assert found.rows == self.expected["rows"]
        assert found.times.max() == self.expected["time_last"]

    def missing(self, modality):
        """Return the number of items without a modality."""
        rows = np.load(self.out / f"features/{modality}.npy")
        return int(np.isnan(rows[:, 0]).sum())

    def new_items_are_the_same(self, tables, **options):
        """Encode the same items as new ones; compare all features."""
        given = [str(self.path(name)) for name in tables]
        new = self.out.with_name("new")
        source = prepare.NewItems(run=self.out, table=tuple(given), out=new, **options)
        assert prepare.run_command(source) == 0
        ids = [line.split("\t")[-1] for line in (new / "items.tsv").read_text().splitlines()[1:]]
        header, *lines = (self.out / "items.tsv").read_text().splitlines()
        assert header.split("\t")[-1] in ("id", "name")
        known = [ids.index(line.split("\t")[-1]) for line in lines if line.split("\t")[-1] in ids]
        used = [k for k, line in enumerate(lines) if line.split("\t")[-1] in ids]
        for path in (self.out / "features").glob("*.npy"):
            # In a folder of new items, rows of zeros are missing as well.
            expected = np.nan_to_num(np.load(path)[used])
            again = np.nan_to_num(np.load(new / "features" / path.name)[known])
            np.testing.assert_allclose(again, expected, atol=1e-6, err_msg=path.name)


@pytest.fixture
def case(request, cases_root, tmp_path, capsys):
    return Case(cases_root, request.param, tmp_path / "out", capsys)


def of(name):
    return pytest.mark.parametrize("case", [name], indirect=True)


@of("recbole")
def test_recbole(case):
    assert case.prepare(prepare.RecBole, folder=case.folder, categories=("year", "language")) == 0
    dataset, stated = case.dataset(), case.expected["modalities"]
    case.check_rows(case.path("books.inter"), RowOptions("user_id", "item_id", "timestamp"))
    assert dataset.features["title_emb"].shape[1] == stated["title_emb"]["dim"]
    assert case.missing("title_emb") == stated["title_emb"]["missing_among_items_with_interactions"]
    assert "title: 4 items have no text in books.item." in case.output
    assert case.missing("year") == stated["year"]["missing_among_items_with_interactions"]
    ids = (case.out / "items.tsv").read_text()
    assert f"\t{case.expected['first_item_token']}\n" in ids
    case.new_items_are_the_same(["books.item"])


@of("hm")
def test_hm(case):
    assert case.prepare(prepare.HM, folder=case.folder) == 0
    dataset = case.dataset()
    rows = RowOptions("customer_id", "article_id", "t_dat")
    case.check_rows(case.path("transactions_train.csv"), rows)
    stated = case.expected["modalities"]["detail_desc"]["missing_among_items_with_interactions"]
    assert f"description: {stated} items have no text in articles.csv." in case.output
    assert set(np.unique(dataset.features["categories"])) == {0, 1}
    first, *_ = open_table(case.path("articles.csv")).distinct_ids("article_id")
    assert first == case.expected["first_article_id"]
    case.new_items_are_the_same(["articles.csv"])


@of("amazon2023")
def test_amazon_2023(case):
    category = "Industrial_and_Scientific.jsonl.gz"
    reviews, metadata = case.path(category), case.path(f"meta_{category}")
    assert case.prepare(prepare.Amazon, reviews=reviews, metadata=metadata) == 0
    case.dataset()
    case.check_rows(reviews, RowOptions("user_id", "parent_asin", "timestamp"))
    lacking = case.expected["items_without_metadata"]
    assert f"text: {lacking} items have no text in meta_{category}." in case.output
    case.new_items_are_the_same([metadata.name])
    # Each column by itself, as a user of `prepare table` reads it.
    texts = tuple(f"{name}={metadata}:{name}" for name in case.expected["modalities"])
    columns = {"user_column": "user_id", "item_column": "parent_asin", "time_column": "timestamp"}
    again = case.out.with_name("again")
    assert case.prepare(prepare.Table, pairs=reviews, text=texts, **columns, out=again) == 0
    for name, stated in case.expected["modalities"].items():
        (count,) = stated.values()
        assert f"{name}: {count + lacking} items have no text" in case.output


@of("movielens")
def test_movielens(case):
    assert case.prepare(prepare.MovieLens, folder=case.folder) == 0
    dataset, stated = case.dataset(), case.expected["modalities"]
    frame = open_table(case.path("u.data"))
    assert [int(cell) for cell in frame.dialect.names] == case.expected["first_line"]
    assert dataset.features["genres"].shape[1] == stated["genres"]["dim"]
    assert case.missing("genres") == stated["genres"]["missing"]
    assert "title: 1 item has no text in u.item." in case.output
    assert (~dataset.natural_mask.any(axis=1)).sum() == 1
    assert not any("\ufffd" in name for name in dataset.item_names)
    assert any(not name.isascii() for name in dataset.item_names)


PARQUET = {"item_column": "item_id", "time_column": "ts", "empty_ids": "drop"}


@of("parquet")
def test_parquet(case, tmp_path):
    parts = tmp_path / "parts"
    parts.mkdir()
    for path in case.folder.glob("part-*.parquet"):
        (parts / path.name).write_bytes(path.read_bytes())
    items = case.path("items.parquet")
    given = {
        "pairs": parts,
        "features": tuple(f"{name}={items}" for name in ("text_emb", "image_emb", "price")),
        "feature_columns": ("price=price",),
        "text": (f"title={items}:title",),
        "categories": (f"language={items}:language", f"authors={items}:authors"),
    }
    assert case.prepare(prepare.Table, **given, **PARQUET | {"empty_ids": "error"}) == 2
    assert "column 'user': is empty" in case.output
    assert case.prepare(prepare.Table, **given, **PARQUET) == 0
    dataset, stated = case.dataset(), case.expected["modalities"]
    case.check_rows(parts, RowOptions("user", "item_id", "ts", empty_ids="drop"))
    assert f"{case.expected['rows_without_user']} rows without a user" in case.output
    text, picture = stated["text_emb"], stated["image_emb"]
    assert dataset.features["text_emb"].shape[1] == text["dim"]
    assert case.missing("text_emb") == text["null_or_empty_among_items_with_interactions"]
    zeros = picture["all_zero_among_items_with_interactions"]
    missing = picture["null_among_items_with_interactions"] + zeros
    assert case.missing("image_emb") == missing
    assert f"image_emb: {zeros} rows of zeros are written as missing" in case.output
    assert case.missing("price") == stated["price"]["missing_among_items_with_interactions"]
    assert "title: 9 items have no text" in case.output
    case.new_items_are_the_same(["items.parquet"])


@of("parquet")
def test_bad_vectors_of_parquet_are_named_one_after_the_other(case, tmp_path):
    frame = pl.read_parquet(case.path("items_bad.parquet"))
    words = {
        "has 31 numbers instead of 32": "31 numbers instead of 32",
        "has an empty place or NaN among its numbers": "a null inside the list",
        "has an infinity": "an infinity",
    }
    bad = case.expected["items_bad.parquet"]
    pairs = tmp_path / "pairs.csv"
    frame.select(user=pl.lit("u"), item_id="item_id").write_csv(pairs)
    for message, key in words.items():
        path = tmp_path / "items.parquet"
        others = [value for name, value in bad.items() if name != key]
        frame.filter(~pl.col("item_id").is_in(others)).write_parquet(path)
        given = {"pairs": pairs, "item_column": "item_id", "features": (f"text={path}",)}
        assert case.prepare(prepare.Table, **given) == 2
        assert f"item '{bad[key]}': {message}" in case.output


@of("csv_european")
def test_csv_european(case):
    articles, orders = case.path("artikel.csv"), case.path("bestellungen.csv")
    columns = {"user_column": "Kunden-Nr.", "item_column": "Artikel-Nr."}
    given = {
        "features": (f"Merkmal={articles}", f"Preis={articles}"),
        "feature_columns": ("Preis=Preis (€)",),
        "text": (f"Beschreibung={articles}:Beschreibung",),
        "item_names": f"{articles}:Titel",
        "time_column": "Bestellt am",
    }
    assert case.prepare(prepare.Table, pairs=orders, **columns, **given) == 0
    dataset, stated = case.dataset(), case.expected["modalities"]
    case.check_rows(orders, RowOptions("Kunden-Nr.", "Artikel-Nr.", "Bestellt am"))
    assert (
        len(open_table(articles).distinct_ids("Artikel-Nr.")) == case.expected["items_in_item_file"]
    )
    assert dataset.features["Merkmal"].shape[1] == stated["Merkmal"]["dim"]
    assert case.missing("Merkmal") == stated["Merkmal"]["missing_among_items_with_interactions"]
    assert "Beschreibung: 29 items have no text in artikel.csv." in case.output
    prices = pl.concat([frame for _, frame in open_table(articles).batches(["Preis (€)"])])
    values = open_table(articles).numbers(prices, "Preis (€)", 0)
    ends = stated["Preis (€)"]
    assert (values.min(), values.max()) == (ends["lowest"], ends["highest"])
    case.new_items_are_the_same(["artikel.csv"])


@of("pandas_dump")
def test_pandas_dump(case):
    items = case.path("items.csv")
    given = {
        "pairs": case.path("clicks.csv"),
        "time_column": "when",
        "empty_ids": "drop",
        "features": (f"vec={items}",),
    }
    assert case.prepare(prepare.Table, **given) == 0
    dataset, stated = case.dataset(), case.expected["modalities"]["vec"]
    assert f"{case.expected['rows_without_user']} rows without a user" in case.output
    case.check_rows(given["pairs"], RowOptions(time_column="when", empty_ids="drop"))
    assert dataset.features["vec"].shape[1] == stated["dim"]
    assert case.missing("vec") == stated["missing_among_items_with_interactions"]
    assert "left out: (no name) (index of the rows), title (text), tags (lists)" in case.output
    first = open_table(items).distinct_ids("item")[0]
    row = dataset.features["vec"][dataset.item_names.index(first)]
    np.testing.assert_allclose(row, case.expected["first_vec"], atol=1e-6)
    case.new_items_are_the_same(["items.csv"])
    given["feature_columns"] = ("vec_long",)
    assert case.prepare(prepare.Table, **given, out=case.out.with_name("x")) == 2
    assert "column 'vec_long': its vectors were cut with ..." in case.output


@of("mmrec")
def test_mmrec(case):
    assert case.prepare(prepare.Mmrec, folder=case.folder) == 0
    case.dataset()
    image, text = case.expected["modalities"]["image"], case.expected["modalities"]["text"]
    assert f"visual: {image['zero_rows']} rows of zeros are written as missing" in case.output
    assert f"visual: {image['placeholder_rows']} rows repeated are written" in case.output
    assert f"text: {text['mean_rows']} rows equal to the mean are written" in case.output
    assert (case.missing("visual"), case.missing("text")) == (image["missing"], text["missing"])
    assert f"{case.expected['items_without_any']} items without any modality" in case.output
    names = pl.read_csv(case.path("i_id_mapping.csv"), separator="\t", infer_schema=False)
    dataset = read_dataset(case.out, empty_items="drop")
    for name, number in names.select(pl.exclude("itemID"), "itemID").iter_rows():
        assert dataset.item_names[int(number)] == name


@of("bookcrossing")
def test_bookcrossing(case):
    books, ratings = case.path("BX-Books.csv"), case.path("BX-Book-Ratings.csv")
    given = {
        "pairs": ratings,
        "user_column": "User-ID",
        "item_column": "ISBN",
        "text": (f"title={books}:Book-Title",),
        "categories": (f"year={books}:Year-Of-Publication", f"author={books}:Book-Author"),
        "missing": ("Year-Of-Publication=0",),
        "item_names": f"{books}:Book-Title",
    }
    assert case.prepare(prepare.Table, **given) == 2
    assert "is not utf-8 text. Name the file's encoding" in case.output
    ratings_of = {"rating_column": "Book-Rating", "min_rating": 5.0, "implicit_rating": 0.0}
    given |= {"encoding": "latin-1", "id_case": "upper", **ratings_of}
    assert case.prepare(prepare.Table, **given) == 0
    dataset, stated = read_dataset(case.out, empty_items="drop"), case.expected
    assert f"{stated['implicit_rows_rating_0']} with 0 (none given) count" in case.output
    assert dataset.num_users == stated["users"]
    assert (dataset.item_counts > 0).sum() == stated["items_with_interactions_and_a_book"]
    assert len(dataset.interactions) == stated["pairs"]
    lost = stated["rows_of_books_not_in_the_book_file"]
    assert f"with {lost} interactions" in case.output
    assert not any("&amp;" in name for name in dataset.item_names)
    ids = [line.split("\t")[2] for line in (case.out / "items.tsv").read_text().splitlines()[1:]]
    assert any(text.endswith("X") for text in ids)
    assert not any(text.endswith("x") for text in ids)
    # Books of the year 0 lack a year, and so do those without a record.
    records = open_table(books, prepare.Table(**given, out=Path()).text_format)
    (_, frame), *_ = records.batches(["ISBN", "Year-Of-Publication"])
    without = set(frame.filter(pl.col("Year-Of-Publication") == "0")["ISBN"]) & set(ids)
    assert case.missing("year") == len(without) + lost


# --- the smallest inputs --------------------------------------------------------------------------


def test_three_users_of_one_number(cases_root, tmp_path):
    small = cases_root / "small"
    given = {"pairs": small / "two_users.csv", "out": tmp_path / "out"}
    assert prepare.run_command(prepare.Table(**given, features=(f"x={small / 'f.csv'}",))) == 0
    assert read_dataset(tmp_path / "out").user_names == ("7", "07", "007")


def test_a_vector_beside_a_price(cases_root, tmp_path):
    small = cases_root / "small"
    (tmp_path / "pairs.csv").write_text("user,item\nu,a\nv,b\n")
    given = {"pairs": tmp_path / "pairs.csv", "out": tmp_path / "out"}
    assert prepare.run_command(prepare.Table(**given, features=(f"x={small / 'emb.tsv'}",))) == 0
    rows = read_dataset(tmp_path / "out").features["x"]
    np.testing.assert_allclose(rows, [[0.1, 0.1, 0.2], [0.2, 0.1, 0.3]], rtol=1e-6)


# --- raw files of two of the data sets ------------------------------------------------------------


@pytest.mark.slow
def test_online_retail_is_the_data_set_that_was_made_from_it(raw_root, data_root, tmp_path):
    sales = raw_root / "online_retail_raw/online_retail.csv.gz"
    source = prepare.Table(
        pairs=sales,
        user_column="CustomerID",
        item_column="StockCode",
        time_column="InvoiceDate",
        where=("Quantity>0", "UnitPrice>0", "InvoiceNo!~^C", "StockCode~^[0-9]{5}[A-Za-z]*$"),
        empty_ids="drop",
        min_pairs=5,
        repeated_items="first",
        features=(f"price={sales}",),
        feature_columns=("UnitPrice",),
        keep_filled=True,
        out=tmp_path / "out",
    )
    assert prepare.run_command(source) == 0
    made, given = read_dataset(tmp_path / "out"), read_dataset(data_root / "online_retail_t")
    assert (made.num_users, made.num_items) == (given.num_users, given.num_items)

    def pairs(dataset):
        return {
            (dataset.user_names[u].removesuffix(".0"), dataset.item_names[i].split()[0]): time
            for (u, i), time in zip(np.asarray(dataset.interactions), dataset.times, strict=True)
        }

    assert pairs(made) == pairs(given)


@pytest.mark.slow
def test_movielens_100k_is_the_data_set_that_was_made_from_it(raw_root, data_root, tmp_path):
    folder = raw_root / "ml100k_raw"
    assert prepare.run_command(prepare.MovieLens(folder=folder, out=tmp_path, fit_on="all")) == 0
    made = read_dataset(tmp_path, empty_items="drop")
    given = read_dataset(data_root / "ml100k_t", empty_items="drop")
    lines = (tmp_path / "items.tsv").read_text().splitlines()[1:]
    item = np.array([int(line.split("\t")[2]) - 1 for line in lines])
    user = np.array([int(name) - 1 for name in made.user_names])

    def sorted_pairs(dataset, pairs):
        return sorted(zip(map(tuple, pairs.tolist()), dataset.times, strict=True))

    pairs = np.asarray(made.interactions)
    renamed = np.stack([user[pairs[:, 0]], item[pairs[:, 1]]], axis=1)
    assert sorted_pairs(made, renamed) == sorted_pairs(given, np.asarray(given.interactions))
    genres = np.asarray(given.features["genres"], dtype=np.float32)[item]
    np.testing.assert_array_equal(np.isnan(made.features["genres"][:, 0]), np.isnan(genres[:, 0]))
    # The columns are the same genres in another order.
    columns = [
        sorted(map(tuple, np.nan_to_num(rows).T.tolist()))
        for rows in (genres, made.features["genres"])
    ]
    assert columns[0] == columns[1]
