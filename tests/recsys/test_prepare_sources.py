"""Published layouts: RecBole, MovieLens, H&M, Amazon 2018 and 2023, and files of other kinds."""

import gzip
import json

import numpy as np
import polars as pl
import pytest

from milk_recsys import prepare
from milk_recsys.catalogue.dataset import read_dataset
from milk_recsys.catalogue.importers.sources import _clean_title

TITLES = ["red lamp", "blue lamp", "red ball", "blue ball", "green lamp", "green ball"]


def run(source):
    return prepare.run_command(source)


def pairs_of(dataset):
    """Return the pairs as names."""
    return [(dataset.user_names[u], dataset.item_names[i]) for u, i in dataset.interactions]


# --- RecBole --------------------------------------------------------------------------------------


def write_recbole(folder):
    folder.mkdir()
    inter = ["user_id:token\titem_id:token\trating:float\ttimestamp:float"]
    inter += [f"u{k % 4}\t000{k % 6}\t{k % 5 + 1}\t{1.6e9 + 60 * k}" for k in range(20)]
    (folder / "shop.inter").write_text("\n".join(inter) + "\n")
    item = ["item_id:token\ttitle:token_seq\tyear:float\tkind:token\temb:float_seq"]
    item += [
        f'000{k}\t"{title}" {title}\t19{k}0\t{k % 2}\t{f"{k} 1 2" if k != 3 else ""}'
        for k, title in enumerate(TITLES)
    ]
    item.append("0009\tunused\t1990\t1\t1 1 1")
    (folder / "shop.item").write_text("\n".join(item) + "\n")


def test_recbole(tmp_path, capsys):
    write_recbole(tmp_path / "in")
    source = prepare.RecBole(folder=tmp_path / "in", out=tmp_path / "out", text_dim=2, fit_on="all")
    assert run(source) == 0
    dataset = read_dataset(tmp_path / "out")
    assert dataset.modalities == ("emb", "title")
    assert (dataset.num_users, dataset.num_items) == (4, 6)
    assert dataset.times.min() == 1.6e9
    assert dataset.features["emb"].shape == (6, 3)
    assert np.flatnonzero(~dataset.natural_mask[:, 0]).tolist() == [3]
    assert dataset.item_names[0] == '"red lamp" red lamp'
    output = capsys.readouterr().out
    assert "shop.item: left out: year (numbers), kind (text)." in output
    assert "1 row belongs to an item without interactions" in output


def test_columns_of_recbole_may_be_categories(tmp_path, capsys):
    write_recbole(tmp_path / "in")
    given = {"folder": tmp_path / "in", "text_dim": 2, "fit_on": "all"}
    source = prepare.RecBole(**given, out=tmp_path / "out", categories=("kind", "title"))
    assert run(source) == 0
    dataset = read_dataset(tmp_path / "out")
    assert dataset.modalities == ("emb", "kind", "title")
    words = {word for title in TITLES for word in (*title.split(), *f'"{title}"'.split())}
    assert dataset.features["title"].shape == (6, len(words))
    assert dataset.features["kind"].sum(axis=0).tolist() == [3, 3]
    assert run(prepare.RecBole(**given, out=tmp_path / "x", categories=("genre",))) == 2
    assert "shop.item: has no column 'genre'" in capsys.readouterr().err


def test_recbole_files_without_types_or_items_are_refused(tmp_path, capsys):
    write_recbole(tmp_path / "in")
    path = tmp_path / "in/shop.inter"
    path.write_text(path.read_text().replace(":token", "").replace(":float", ""))
    source = prepare.RecBole(folder=tmp_path / "in", out=tmp_path / "out")
    assert run(source) == 2
    assert "the header must name the type of each column" in capsys.readouterr().err
    (tmp_path / "in/shop.item").unlink()
    assert run(source) == 2
    assert "shop.item: no such file" in capsys.readouterr().err


# --- MovieLens ------------------------------------------------------------------------------------

MOVIES = {
    "1": ("Amélie, The (2001)", ["Comedy", "Romance"]),
    "2": ("Good, The Bad and The Ugly, The (1966)", ["Western"]),
    "3": ("unknown", []),
    "4": ("Amélie Returns (1970) (V)", ["Comedy"]),
}
RATINGS = [
    (u, i, 1 + (u + i) % 5, 900_000_000 + 10 * u + i) for u in range(1, 4) for i in range(1, 5)
]


def write_movielens(folder, form):
    folder.mkdir()
    genres = ["unknown", "Comedy", "Romance", "Western"]
    if form == "100k":
        from milk_recsys.catalogue.importers.sources import GENRES

        lines = ["\t".join(map(str, row)) for row in RATINGS]
        (folder / "u.data").write_text("\n".join(lines) + "\n")
        movies = []
        for key, (title, named) in MOVIES.items():
            flags = [str(int(g in (named or ["unknown"]))) for g in GENRES]
            movies.append("|".join([key, title, "", "", "http://x", *flags]))
        text = "\n".join(movies) + "\n\n"
        (folder / "u.item").write_bytes(text.encode("latin-1"))
    elif form == "1m":
        lines = ["::".join(map(str, row)) for row in RATINGS]
        (folder / "ratings.dat").write_text("\n".join(lines) + "\n")
        movies = [f"{k}::{t}::{'|'.join(g or ['unknown'])}" for k, (t, g) in MOVIES.items()]
        (folder / "movies.dat").write_bytes(("\n".join(movies) + "\n").encode("latin-1"))
    else:
        frame = pl.DataFrame(
            RATINGS, schema=["userId", "movieId", "rating", "timestamp"], orient="row"
        )
        frame.write_csv(folder / "ratings.csv")
        rows = [(k, t, "|".join(g or ["(no genres listed)"])) for k, (t, g) in MOVIES.items()]
        table = pl.DataFrame(rows, schema=["movieId", "title", "genres"], orient="row")
        table.write_csv(folder / "movies.csv")
    return genres


@pytest.mark.parametrize("form", ["100k", "1m", "csv"])
def test_movielens(tmp_path, form, capsys):
    write_movielens(tmp_path / "in", form)
    given = {"folder": tmp_path / "in", "text_dim": 2, "fit_on": "all"}
    assert run(prepare.MovieLens(**given, out=tmp_path / "out")) == 0
    dataset = read_dataset(tmp_path / "out", empty_items="drop")
    assert dataset.modalities == ("genres", "title")
    order = [dataset.item_names.index(MOVIES[key][0]) for key in MOVIES]
    assert dataset.features["genres"].shape[1] == 3
    rows = dataset.features["genres"][order]
    assert np.nan_to_num(rows).tolist() == [[1, 1, 0], [0, 0, 1], [0, 0, 0], [1, 0, 0]]
    # The film without genres and title has nothing; the title of another has no word in common.
    assert dataset.natural_mask[order].tolist()[2] == [False, False]
    assert dataset.natural_mask[order, 1].tolist() == [True, False, False, True]
    assert dataset.times.min() >= 900_000_000
    assert "all ratings count" in capsys.readouterr().out
    assert run(prepare.MovieLens(**given, out=tmp_path / "good", min_rating=3)) == 0
    kept = read_dataset(tmp_path / "good", empty_items="drop")
    expected = sum(rating >= 3 and item != 3 for _, item, rating, _ in RATINGS)
    assert len(kept.interactions) == expected


def test_ratings_of_movielens_with_other_columns_are_refused(tmp_path, capsys):
    write_movielens(tmp_path / "in", "100k")
    (tmp_path / "in/u.data").write_text("1\t2\t3\n")
    assert run(prepare.MovieLens(folder=tmp_path / "in", out=tmp_path / "out")) == 2
    assert "u.data: has 3 columns, expected 4" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("title", "clean"),
    [
        ("Toy Story (1995)", "Toy Story"),
        ("Misérables, Les (1995)", "Les Misérables"),
        ("La Dolce Vita (1960) (V)", "La Dolce Vita"),
        ("2001, A Space Odyssey", "2001, A Space Odyssey"),
        ("unknown", ""),
    ],
)
def test_titles_without_year_and_with_the_article_in_front(title, clean):
    assert _clean_title(title) == clean


# --- H&M ------------------------------------------------------------------------------------------


def test_hm(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    ids = [f"01107{k}001" for k in range(6)]
    articles = {
        "article_id": ids,
        "product_code": [text[:6] for text in ids],
        "prod_name": TITLES,
        "colour_group_code": ["09", "10"] * 3,
        "colour_group_name": ["Black", "White"] * 3,
        "index_name": ["Men", "Women", "Men"] * 2,
        "detail_desc": ['Soft, "warm" lamp', "", *TITLES[2:]],
    }
    pl.DataFrame(articles).write_csv(folder / "articles.csv", quote_style="necessary")
    days = [f"2018-09-2{k % 9 + 1}" for k in range(24)]
    rows = {
        "t_dat": [*days, days[0]],
        "customer_id": [f"c{k % 5}" for k in [*range(24), 0]],
        "article_id": [ids[k % 6] for k in [*range(24), 0]],
        "price": [0.0169] * 25,
    }
    pl.DataFrame(rows).write_csv(folder / "transactions_train.csv")
    assert run(prepare.HM(folder=folder, out=tmp_path / "out", text_dim=2, fit_on="all")) == 0
    dataset = read_dataset(tmp_path / "out")
    assert dataset.modalities == ("categories", "name", "description")
    assert dataset.features["categories"].shape[1] == 4
    assert (~dataset.natural_mask[:, 2]).sum() == 1
    assert dataset.times.min() == 1537488000  # 2018-09-21, midnight UTC
    assert (tmp_path / "out/items.tsv").read_text().splitlines()[1] == f"0\t{TITLES[0]}\t{ids[0]}"


# --- Amazon 2018 and 2023 -------------------------------------------------------------------------


def write_lines(path, records):
    data = "\n".join(json.dumps(record) for record in records).encode() + b"\n\n"
    # The metadata of 2023 are several gzip members one after the other.
    halves = data[: len(data) // 2], data[len(data) // 2 :]
    path.write_bytes(b"".join(map(gzip.compress, halves)) if path.suffix == ".gz" else data)
    return path


def test_amazon_2023_groups_variants_by_their_parent(tmp_path):
    reviews = [
        {
            "user_id": f"A{k % 5}",
            "asin": f"V{k}",
            "parent_asin": f"P{k % 6}",
            "rating": 1.0 + k % 5,
            "timestamp": 1647731906778 + k,
        }
        for k in range(30)
    ]
    metadata = [
        {
            "parent_asin": f"P{k}",
            "title": title,
            "store": None,
            "description": [],
            "features": [title],
            "details": {"Rank": {"Toys": k}},
            "price": "from 12.99" if k else None,
            "images": [{"hi_res": None}],
        }
        for k, title in enumerate(TITLES[:5])
    ]
    files = {
        "reviews": write_lines(tmp_path / "Toys.jsonl.gz", reviews),
        "metadata": write_lines(tmp_path / "meta_Toys.jsonl.gz", metadata),
    }
    given = {**files, "text_dim": 2, "fit_on": "all"}
    assert run(prepare.Amazon(**given, out=tmp_path / "out")) == 0
    dataset = read_dataset(tmp_path / "out", empty_items="drop")
    assert (dataset.num_users, dataset.num_items) == (5, 6)
    assert np.flatnonzero(~dataset.natural_mask[:, 0]).tolist() == [5]  # No metadata.
    assert dataset.times.min() == 1647731906.778
    assert run(prepare.Amazon(**given, out=tmp_path / "good", min_rating=4)) == 0
    assert read_dataset(tmp_path / "good", empty_items="drop").num_users < 5


def test_amazon_2018_and_unpacked_files(tmp_path):
    reviews = [
        {"reviewerID": f"A{k % 5}", "asin": f"B{k % 6}", "overall": 5.0, "unixReviewTime": 10 + k}
        for k in range(30)
    ]
    metadata = [
        {"asin": f"B{k}", "title": title, "category": ["Toys"], "feature": [], "brand": "Acme"}
        for k, title in enumerate([*TITLES, TITLES[0]])
    ]
    metadata[-1]["asin"] = "B0"  # Some products are in the metadata twice.
    files = {
        "reviews": write_lines(tmp_path / "Toys.json", reviews),
        "metadata": write_lines(tmp_path / "meta_Toys.json", metadata),
    }
    assert run(prepare.Amazon(**files, out=tmp_path / "out", text_dim=2, fit_on="all")) == 0
    dataset = read_dataset(tmp_path / "out")
    assert (dataset.num_items, dataset.natural_mask.all()) == (6, True)
    assert dataset.times.min() == 10


# --- MMRec's names and times ----------------------------------------------------------------------


def test_mmrec_with_names_and_times(tmp_path):
    folder = tmp_path / "in"
    folder.mkdir()
    rows = [f"{u}\t{i}\t5.0\t{1.6e9 + u + i:.0f}\t0" for u in range(4) for i in range(6)]
    header = "userID\titemID\trating\ttimestamp\tx_label"
    (folder / "toys.inter").write_text("\n".join([header, *rows]) + "\n")
    rng = np.random.default_rng(0)
    np.save(folder / "image_feat.npy", rng.standard_normal((6, 4)))
    np.save(folder / "text_feat.npy", rng.standard_normal((6, 3)))
    for name, key, count in (("u", "user_id\tuserID", 4), ("i", "asin\titemID", 6)):
        lines = [f"{name}-{k}\t{k}" for k in reversed(range(count))]
        (folder / f"{name}_id_mapping.csv").write_text("\n".join([key, *lines]) + "\n")
    assert run(prepare.Mmrec(folder=folder, out=tmp_path / "out")) == 0
    features = np.load(folder / "image_feat.npy")
    features[3, 1] = 1e300
    np.save(folder / "image_feat.npy", features)
    assert run(prepare.Mmrec(folder=folder, out=tmp_path / "large")) == 2
    data = (folder / "image_feat.npy").read_bytes()
    (folder / "image_feat.npy").write_bytes(data[:20] + b"(" + data[21:])
    assert run(prepare.Mmrec(folder=folder, out=tmp_path / "damaged")) == 2
    dataset = read_dataset(tmp_path / "out")
    assert dataset.item_names == ("i-0", "i-1", "i-2", "i-3", "i-4", "i-5")
    assert dataset.user_names == ("u-0", "u-1", "u-2", "u-3")
    assert dataset.times.tolist() == [1.6e9 + u + i for u in range(4) for i in range(6)]


# --- tables of shops ------------------------------------------------------------------------------


def test_a_european_shop(tmp_path):
    """Semicolons, decimal commas, cells over several lines, trailing blanks, `k. A.`, 23:52."""
    items = ["\ufeffArtikel-Nr.;Titel;Preis (€);Merkmal 1;Merkmal 2"]
    items += [
        f'00{k}{" " * (k % 3)};"{title},\n""{title}""";1.034,5{k};{f"-0,0{k}48;1,5" if k else ";"}'
        for k, title in enumerate([*TITLES[:5], "k. A."])
    ]
    (tmp_path / "artikel.csv").write_bytes("\r\n".join(items).encode() + b"\r\n\r\n")
    lines = ["\ufeffKunden-Nr.;Artikel-Nr.;Bestellt am;Menge"]
    lines += [f"K{k % 4};00{k % 6};0{k % 8 + 1}.02.2023 23:52;1" for k in range(24)]
    (tmp_path / "orders.csv").write_bytes("\r\n".join(lines).encode() + b"\r\n")
    articles = tmp_path / "artikel.csv"
    source = prepare.Table(
        pairs=tmp_path / "orders.csv",
        user_column="Kunden-Nr.",
        item_column="Artikel-Nr.",
        time_column="Bestellt am",
        features=(f"merkmal={articles}", f"preis={articles}"),
        feature_columns=("preis=Preis (€)",),
        text=(f"titel={articles}:Titel",),
        text_dim=2,
        fit_on="all",
        out=tmp_path / "out",
    )
    assert run(source) == 0
    dataset = read_dataset(tmp_path / "out")
    assert dataset.item_names == ("000", "001", "002", "003", "004", "005")
    rows = dataset.features["merkmal"]
    np.testing.assert_allclose(rows[1], [-0.0148, 1.5], rtol=1e-6)
    assert np.flatnonzero(~dataset.natural_mask[:, 0]).tolist() == [0]
    np.testing.assert_allclose(dataset.features["preis"][:2, 0], [1034.50, 1034.51], rtol=1e-6)
    assert dataset.times.min() == 1675295520  # The first of February, not the second of January.


def test_an_online_shop_with_cancellations_and_a_core(tmp_path, capsys):
    """Customer ids are floats as text, empty in many rows; some rows are no purchase."""
    rng = np.random.default_rng(0)
    rows = []
    for k in range(400):
        customer = f"{rng.integers(1, 25)}.0" if k % 5 else ""
        code = "POST" if k % 40 == 3 else f"{rng.integers(10000, 10030)}A"
        amount = -1 if k % 17 == 0 else 2
        rows.append((f"{'C' if amount < 0 else ''}{k}", code, amount, customer, "red lamp"))
    header = ("InvoiceNo", "StockCode", "Quantity", "CustomerID", "Description")
    pl.DataFrame(rows, schema=header, orient="row").write_csv(tmp_path / "retail.csv")
    sales = tmp_path / "retail.csv"
    np.savez(
        tmp_path / "image.npz",
        ids=[f"{k}A" for k in range(10000, 10030)],
        image=rng.standard_normal((30, 4)),
    )
    source = prepare.Table(
        pairs=sales,
        user_column="CustomerID",
        item_column="StockCode",
        where=("Quantity>0", "InvoiceNo!~^C", "StockCode~^[0-9]{5}[A-Za-z]*$"),
        empty_ids="drop",
        min_pairs=3,
        features=(f"image={tmp_path / 'image.npz'}",),
        out=tmp_path / "out",
    )
    assert run(source) == 0
    dataset = read_dataset(tmp_path / "out")
    expected = {
        (user.removesuffix(".0"), code)
        for invoice, code, amount, user, _ in rows
        if user and amount > 0 and code != "POST"
    }
    while True:
        users = [u for u, _ in expected]
        items = [i for _, i in expected]
        kept = {(u, i) for u, i in expected if users.count(u) >= 3 and items.count(i) >= 3}
        if kept == expected:
            break
        expected = kept
    assert set(pairs_of(dataset)) == expected
    output = capsys.readouterr().out
    assert "rows without a user or an item left out" in output
    assert "of users and items with fewer than 3 distinct pairs" in output
