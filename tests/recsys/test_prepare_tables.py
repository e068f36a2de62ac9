"""`prepare table`: the smallest files that were misread or crashed, and their right reading."""

import gzip
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from milk_recsys import prepare
from milk_recsys.catalogue.dataset import read_dataset
from milk_recsys.catalogue.importers.filled import content_reason, find_filled
from milk_recsys.catalogue.importers.ids import Numbering, core
from milk_recsys.catalogue.split_file import read_split

PAIRS = [("u", "a"), ("u", "b"), ("v", "b"), ("v", "c"), ("w", "a"), ("w", "c")]


def write(path, header, rows, separator=","):
    lines = [separator.join(header), *(separator.join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def table(folder, **values):
    """Run the command on pairs.csv; return the exit status."""
    given = {"pairs": folder / "pairs.csv", "out": folder / "out", **values}
    return prepare.run_command(prepare.Table(**given))


@pytest.fixture
def shop(tmp_path):
    """A folder with pairs.csv of three users and the items a, b, c, and vectors in image.csv."""
    write(tmp_path / "pairs.csv", ("user", "item"), PAIRS)
    write(tmp_path / "image.csv", ("item", "e0", "e1"), [("a", 1, 2), ("b", 3, 4), ("c", 5, 6)])
    return tmp_path


def image(folder):
    return (f"image={folder / 'image.csv'}",)


# --- ids ------------------------------------------------------------------------------------------


def test_ids_that_differ_only_as_text_are_different_users(shop):
    users = [("7", "a"), ("07", "b"), ("007", "a"), ("7", "b"), ("07", "a"), ("007", "c")]
    write(shop / "pairs.csv", ("user", "item"), users)
    assert table(shop, features=image(shop)) == 0
    assert read_dataset(shop / "out").user_names == ("7", "07", "007")


def test_ids_that_are_equal_numbers_are_different_items(shop):
    write(shop / "pairs.csv", ("user", "item"), [("u", "3e0"), ("u", "30e2")])
    write(shop / "image.csv", ("item", "e0", "e1"), [("30e2", 1, 2), ("3e0", 3, 4)])
    assert table(shop, features=image(shop)) == 0
    assert read_dataset(shop / "out").features["image"].tolist() == [[3, 4], [1, 2]]


def test_whole_floats_of_a_column_with_empty_cells_are_integers(shop):
    write(shop / "pairs.csv", ("user", "item"), [("1.0", "12.0"), ("2.0", "7.0")])
    write(shop / "image.csv", ("item", "e0", "e1"), [("12", 1, 2), ("7", 3, 4)])
    assert table(shop, features=image(shop)) == 0
    dataset = read_dataset(shop / "out")
    assert (dataset.user_names, dataset.item_names) == (("1", "2"), ("12", "7"))


def test_white_space_and_marks_around_ids_are_trimmed_alike_in_every_file(shop):
    (shop / "pairs.csv").write_text('\ufeffuser,item\nu,"a "\nv, b\n')
    write(shop / "image.csv", ("item", "e0", "e1"), [("a", 1, 2), (" b ", 3, 4)])
    np.save(shop / "text.npy", np.eye(2, dtype=np.float32))
    (shop / "ids.txt").write_bytes("\ufeffa \r\nb\r\n\r\n".encode())
    features = (*image(shop), f"text={shop / 'text.npy'}")
    assert table(shop, features=features, item_ids=shop / "ids.txt") == 0
    dataset = read_dataset(shop / "out")
    assert dataset.item_names == ("a", "b")
    assert dataset.natural_mask.all()


def test_a_file_none_of_whose_ids_match_is_an_error_that_shows_two_of_each(shop, capsys):
    items = ["0108775015", "0108775016", "0108775017"]
    write(shop / "pairs.csv", ("user", "item"), [("u", item) for item in items])
    rows = [(item.lstrip("0"), 1, 2) for item in items]
    write(shop / "image.csv", ("item", "e0", "e1"), rows)
    assert table(shop, features=image(shop)) == 2
    error = capsys.readouterr().err
    assert "none of its 3 ids is in pairs.csv" in error
    assert "like '108775015' and '108775016'" in error
    assert "like '0108775015' and '0108775016'" in error
    assert "3 match without leading zeros" in error
    assert not (shop / "out").exists()


def test_fewer_than_half_of_the_ids_are_a_warning_with_the_count(shop, capsys):
    rows = [("a", 1, 2), ("B", 3, 4), ("C", 5, 6)]
    write(shop / "image.csv", ("item", "e0", "e1"), rows)
    assert table(shop, features=image(shop)) == 0
    output = capsys.readouterr().out
    assert "warning: image: only 1 of the 3 ids in image.csv are among the 3 items" in output
    assert "3 match if case is ignored: --id-case upper" in output
    assert table(shop, features=image(shop), id_case="upper", out=shop / "upper") == 0
    assert read_dataset(shop / "upper").item_names == ("A", "B", "C")
    assert read_dataset(shop / "upper").natural_mask.all()


def test_empty_ids_are_errors_with_their_line_or_left_out_with_a_count(shop, capsys):
    (shop / "pairs.csv").write_text("user,item\nu,a\n,b\nv,c\n")
    assert table(shop, features=image(shop)) == 2
    assert "pairs.csv, line 3, column 'user': is empty" in capsys.readouterr().err
    assert table(shop, features=image(shop), empty_ids="drop") == 0
    assert "1 row without a user or an item left out" in capsys.readouterr().out
    assert read_dataset(shop / "out").user_names == ("u", "v")
    (shop / "image.csv").write_text("item,e0,e1\na,1,2\n,3,4\n")
    assert table(shop, features=image(shop), empty_ids="drop", out=shop / "other") == 2
    assert "image.csv, line 3, column 'item': is empty" in capsys.readouterr().err


def test_a_user_called_nan_is_noted(shop, capsys):
    write(shop / "pairs.csv", ("user", "item"), [*PAIRS, ("nan", "a"), ("nan", "b"), ("nan", "c")])
    assert table(shop, features=image(shop)) == 0
    assert "3 rows belong to the user 'nan' (33%)" in capsys.readouterr().out
    assert table(shop, features=image(shop), where=("user!=nan",), out=shop / "other") == 0
    assert read_dataset(shop / "other").user_names == ("u", "v", "w")


# --- columns --------------------------------------------------------------------------------------


def test_numbers_separated_by_spaces_are_a_vector_and_a_price_is_no_feature(shop, capsys):
    rows = [("a", 1, "0.1 0.1 0.2"), ("b", 2, "0.2 0.1 0.3"), ("c", 3, "")]
    write(shop / "image.csv", ("item", "price", "emb"), rows, "\t")
    assert table(shop, features=image(shop)) == 0
    rows = np.asarray(read_dataset(shop / "out", empty_items="drop").features["image"])
    np.testing.assert_allclose(rows[:2], [[0.1, 0.1, 0.2], [0.2, 0.1, 0.3]])
    assert np.isnan(rows[2]).all()
    output = capsys.readouterr().out
    assert "image: 3 features from emb (vectors of 3) of image.csv; left out: price" in output


def test_index_columns_are_named_and_never_features(shop, capsys):
    rows = [(0, 0, "a", 1, 2), (1, 1, "b", 3, 4), (2, 2, "c", 5, 6)]
    write(shop / "image.csv", ("", "Unnamed: 0", "item", "p", "q"), rows)
    assert table(shop, features=image(shop)) == 0
    assert read_dataset(shop / "out").features["image"].tolist() == [[1, 2], [3, 4], [5, 6]]
    assert "left out: (no name) (index of the rows), Unnamed: 0 (index" in capsys.readouterr().out


def test_columns_that_the_user_names_are_features(shop, capsys):
    rows = [("a", 9.5, "1 2"), ("b", 8.5, "3 4"), ("c", 7.5, "5 6")]
    write(shop / "image.csv", ("item", "price", "emb"), rows)
    columns = ("image=price,emb",)
    assert table(shop, features=image(shop), feature_columns=columns) == 0
    short = {"feature_columns": ("price", "emb"), "out": shop / "short"}
    assert table(shop, features=image(shop), **short) == 0
    assert read_dataset(shop / "short").fingerprint == read_dataset(shop / "out").fingerprint
    rows = read_dataset(shop / "out").features["image"]
    assert rows.tolist() == [[9.5, 1, 2], [8.5, 3, 4], [7.5, 5, 6]]
    only = table(shop, features=image(shop), feature_columns=("image=price",), out=shop / "price")
    assert only == 0
    assert "warning: image: a single number" in capsys.readouterr().out
    assert table(shop, features=image(shop), feature_columns=("x=price",), out=shop / "x") == 2
    assert "'x' is no modality of --features" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("b,-,4", "line 3, column 'e0': must be a number, got '-'"),
        ("b,,4", "line 3, column 'e0', item 'b': is empty, but other features"),
        ("b,inf,4", "line 3, column 'e0': is an infinity"),
        ("b,1e39,4", "beyond the range of float32"),
        ("a,1,4", "line 3: item 'a' appears twice"),
    ],
)
def test_one_bad_cell_is_an_error_with_its_line(shop, row, message, capsys):
    (shop / "image.csv").write_text(f"item,e0,e1\na,1,2\n{row}\nc,5,6\n")
    assert table(shop, features=image(shop)) == 2
    assert message in capsys.readouterr().err


def test_a_cell_that_stands_for_an_empty_one(shop):
    rows = [("a", "1", "2"), ("b", "-", "-"), ("c", "5", "6")]
    write(shop / "image.csv", ("item", "e0", "e1"), rows)
    assert table(shop, features=image(shop), missing=("-",)) == 0
    dataset = read_dataset(shop / "out", empty_items="drop")
    assert dataset.natural_mask[:, 0].tolist() == [True, False, True]


@pytest.mark.parametrize(
    ("vector", "problem"),
    [
        ([1.0, 2.0], "has 2 numbers instead of 3"),
        ([1.0, None, 3.0], "has an empty place or NaN among its numbers"),
        ([1.0, float("inf"), 3.0], "has an infinity"),
    ],
)
def test_bad_vectors_are_refused_with_the_id_of_the_item(shop, vector, problem, capsys):
    vectors = [[1.0, 2.0, 3.0], None, vector, [0.5, 0.5, 1.0]]
    frame = pl.DataFrame({"item": [*"abcd"], "emb": vectors})
    frame.write_parquet(shop / "emb.parquet")
    assert table(shop, features=(f"image={shop / 'emb.parquet'}",)) == 2
    error = capsys.readouterr().err
    assert f"row 2, column 'emb', item 'c': {problem}" in error


def test_lists_arrays_and_booleans_of_parquet(shop):
    frame = pl.DataFrame(
        {
            "item": pl.Series([*"abc"], dtype=pl.Categorical),
            "emb": pl.Series([[1, 2], None, []], dtype=pl.List(pl.Float32)),
            "fixed": pl.Series([[1, 2], None, [0, 0]], dtype=pl.Array(pl.Float32, 2)),
            "drama": [True, False, True],
            "war": [False, True, True],
        }
    )
    for name, columns in (("emb", ["emb"]), ("fixed", ["fixed"]), ("kind", ["drama", "war"])):
        frame.select("item", *columns).write_parquet(shop / f"{name}.parquet")
    features = tuple(f"{name}={shop / name}.parquet" for name in ("emb", "fixed", "kind"))
    assert table(shop, features=features) == 0
    dataset = read_dataset(shop / "out")
    assert dataset.natural_mask.tolist() == [[True] * 3, [False, False, True], [False, False, True]]
    assert dataset.features["kind"].tolist() == [[1, 0], [0, 1], [1, 1]]


# --- other files ----------------------------------------------------------------------------------


def test_csv_gz_semicolons_and_no_header(shop):
    text = "\n".join(";".join(pair) for pair in PAIRS)
    (shop / "pairs.csv").write_bytes(gzip.compress(text.encode()))
    (shop / "image.csv").write_text("a;1,5;2\nb;3;4\nc;5;6\n")
    columns = {"user_column": "1", "item_column": "2", "feature_item_column": "1"}
    assert table(shop, features=image(shop), header=False, **columns) == 0
    assert read_dataset(shop / "out").features["image"].tolist() == [[1.5, 2], [3, 4], [5, 6]]


@pytest.mark.parametrize("kind", ["npz", "hdf5"])
def test_arrays_with_their_ids_in_one_file(shop, kind, capsys):
    rows = np.arange(8, dtype=np.float16).reshape(4, 2) + 1
    path = shop / f"v.{kind}"
    if kind == "npz":
        np.savez(path, ids=np.array(["c", "a", "x", "b"]), clip=rows, other=rows * 2)
    else:
        h5py = pytest.importorskip("h5py", reason="needs the extra `hdf5`")
        with h5py.File(path, "w") as file:
            file["ids"], file["clip"], file["other"] = ["c", "a", "x", "b"], rows, rows * 2
    assert table(shop, features=(f"image={path}",)) == 2
    assert "several arrays of shape (items, width): clip, other" in capsys.readouterr().err
    assert table(shop, features=(f"image={path}:clip",)) == 0
    dataset = read_dataset(shop / "out")
    assert dataset.features["image"].tolist() == [[3, 4], [7, 8], [1, 2]]
    assert dataset.features["image"].dtype == np.float16


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("image.csv", b"", "image.csv: is empty"),
        ("image.csv", b"item,e0,e1\n", r"image.csv: has no column .* unasked: e0 \(empty\)"),
        ("image.csv", b"PAR1 broken", "image.csv: cannot be read"),
        ("image.csv", b"\x80\x04\x95", "is a pickle"),
        ("image.csv", b"\x93NUMPY broken", "is not an .npy file of numbers"),
        ("image.csv", b"PK\x03\x04 broken", "is not an .npz file"),
        ("ids.txt", b"a\0b", "ids.txt: is a binary file"),
        ("ids.txt", b"a\n\nc\nb\n", "ids.txt, line 2: is empty"),
        ("ids.txt", b"item\na\nb\nc\n", "has 4 ids, but .* has 3 rows.*'item'; a header is no id"),
        ("ids.txt", b"a\nb\na\n", "the id 'a' appears twice"),
    ],
)
def test_broken_files_end_with_one_sentence(shop, name, content, message, capsys):
    np.save(shop / "text.npy", np.eye(3, dtype=np.float32))
    (shop / "ids.txt").write_text("a\nb\nc\n")
    (shop / name).write_bytes(content)
    features = (*image(shop), f"text={shop / 'text.npy'}")
    assert table(shop, features=features, item_ids=shop / "ids.txt") == 2
    error = capsys.readouterr().err
    assert re.search(message, error), error
    assert len(error.splitlines()) == 1


# --- ratings, times, the k-core -------------------------------------------------------------------


def test_ratings(shop, capsys):
    ratings = ["5", "2", "0", "4.5", "3", ""]
    rows = [(*pair, rating) for pair, rating in zip(PAIRS, ratings, strict=True)]
    write(shop / "pairs.csv", ("user", "item", "rating"), rows)
    assert table(shop, features=image(shop)) == 0
    assert "all rows count, whatever their 'rating' (0 to 5) is" in capsys.readouterr().out
    given = {"rating_column": "rating", "min_rating": 3.0}
    assert table(shop, features=image(shop), **given, out=shop / "good") == 0
    output = capsys.readouterr().out
    assert "3 rows with a 'rating' below 3 left out, 1 of them without any" in output
    assert len(read_dataset(shop / "good").interactions) == 3
    given["implicit_rating"] = 0.0
    assert table(shop, features=image(shop), **given, out=shop / "implicit") == 0
    assert len(read_dataset(shop / "implicit").interactions) == 4
    assert table(shop, features=image(shop), min_rating=3.0, out=shop / "x") == 2
    assert "--rating-column and --min-rating belong together" in capsys.readouterr().err


def test_times_are_kept_and_the_first_of_equal_pairs_counts(shop, capsys):
    rows = [("u", "b", 30), ("u", "a", 20), ("u", "b", 10)]
    write(shop / "pairs.csv", ("user", "item", "when"), rows)
    assert table(shop, features=image(shop), time_column="when") == 0
    dataset = read_dataset(shop / "out")
    assert dataset.interactions.tolist() == [[0, 0], [0, 1]]
    assert dataset.times.tolist() == [10, 20]
    output = capsys.readouterr().out
    assert "times in 'when': seconds since 1970 (UTC)" in output
    assert "1 repeated pair was merged; the first time of each is kept" in output


def test_the_core_leaves_users_and_items_with_enough_pairs():
    rng = np.random.default_rng(0)
    pairs = rng.integers(0, 30, (300, 2))
    kept = core(pairs, 5)
    # The same by definition: leave out one user or item at a time.
    rest = {tuple(p) for p in pairs.tolist()}
    while True:
        for column in (0, 1):
            counts = np.bincount([p[column] for p in rest], minlength=30)
            rest = {p for p in rest if counts[p[column]] >= 5}
        if all(
            np.bincount([p[c] for p in rest], minlength=30)[[p[c] for p in rest]].min() >= 5
            for c in (0, 1)
        ):
            break
    assert {tuple(p) for p in pairs[kept].tolist()} == rest
    assert 0 < len(rest) < len({tuple(p) for p in pairs.tolist()})


def test_numbers_of_ids_are_assigned_once_for_each_id_of_a_block(monkeypatch):
    """The number of look-ups in Python grows with distinct ids, not with rows."""
    numbering, calls = Numbering(), []
    original = numbering.ids.number
    monkeypatch.setattr(numbering.ids, "number", lambda name: calls.append(name) or original(name))
    ids = pl.Series(["b", "a", "b"] * 10_000)
    assert numbering.number(ids, is_text=True)[:3].tolist() == [0, 1, 0]
    assert calls == ["b", "a"]


# --- rows that repeat -----------------------------------------------------------------------------


def many_items(folder, rows):
    """Write pairs of all items and their features as Parquet."""
    count = len(rows)
    names = [f"i{k}" for k in range(count)]
    users = [f"u{k % 7}" for k in range(count)]
    pl.DataFrame({"user": users, "item": names}).write_csv(folder / "pairs.csv")
    frame = pl.DataFrame({"item": names}).with_columns(pl.Series("image", rows.tolist()))
    frame.write_parquet(folder / "image.parquet")
    return (f"image={folder / 'image.parquet'}",)


def test_one_hot_rows_are_content_and_not_placeholders(tmp_path, capsys):
    features = many_items(tmp_path, np.eye(5)[np.arange(200) % 3])
    assert table(tmp_path, features=features) == 0
    assert read_dataset(tmp_path / "out").natural_mask.all()
    output = capsys.readouterr().out
    assert "image: 200 rows repeat and are kept as content: all values are whole numbers" in output
    other = tmp_path / "other"
    given = {"features": features, "filled": ("image=missing",), "out": other}
    assert table(tmp_path, **given) == 2  # Nothing would be left.
    assert "no interactions remain" in capsys.readouterr().err


def test_embeddings_of_brands_are_content_and_one_placeholder_is_not():
    rng = np.random.default_rng(0)
    brands = rng.standard_normal((12, 6))[np.arange(400) % 12]
    found = find_filled(brands)["repeated"]
    assert "400 of 400 rows repeat" in content_reason(brands, found)
    some = rng.standard_normal((400, 6))
    some[:60] = brands[:5].repeat(12, axis=0)
    assert content_reason(some, find_filled(some)["repeated"]).startswith("5 different rows repeat")
    pictures = rng.standard_normal((400, 6))
    pictures[:12] = pictures[0]
    assert content_reason(pictures, find_filled(pictures)["repeated"]) == ""


def test_zeros_that_are_kept_are_content_for_training_too(tmp_path, capsys):
    rows = np.random.default_rng(0).standard_normal((40, 5))
    rows[[3, 9]] = 0
    features = many_items(tmp_path, rows)
    assert table(tmp_path, features=features) == 0
    mask = read_dataset(tmp_path / "out", empty_items="drop").natural_mask
    assert np.flatnonzero(~mask[:, 0]).tolist() == [3, 9]
    other = tmp_path / "other"
    assert table(tmp_path, features=features, filled=("image=keep",), out=other) == 0
    dataset = read_dataset(other)
    assert dataset.natural_mask.all()
    assert dataset.content_zeros == ("image",)
    manifest = json.loads((other / "dataset.json").read_text())
    assert manifest["modalities"]["image"]["zeros"] == "content"


# --- texts and categories -------------------------------------------------------------------------

WORDS = ["red", "blue", "green", "soft", "warm", "wooden", "toy", "train", "ball", "gate", "lamp"]


def write_products(folder, count=60):
    """Write products.jsonl with titles, tags and prices, and pairs.csv."""
    rng = np.random.default_rng(0)
    lines = [
        {
            "item": f"p{k}",
            "title": " ".join(rng.choice(WORDS, 4)) if k % 10 else None,
            "tags": rng.choice(WORDS[:5], k % 3).tolist(),
            "brand": "Acme &amp; Co" if k % 2 else "Zeta",
            "price": 3.5 + k,
        }
        for k in range(count)
    ]
    (folder / "products.jsonl").write_text("\n".join(map(json.dumps, lines)) + "\n")
    pairs = [(f"u{k % 11}", f"p{k % count}") for k in range(4 * count)]
    write(folder / "pairs.csv", ("user", "item"), pairs)
    return lines


def test_texts_and_categories_of_json_lines(tmp_path, capsys):
    lines = write_products(tmp_path)
    products = tmp_path / "products.jsonl"
    given = {
        "text": (f"title={products}:title",),
        "categories": (f"kind={products}:tags,brand",),
        "item_names": f"{products}:title",
        "text_dim": 5,
    }
    assert table(tmp_path, **given) == 0
    out = tmp_path / "out"
    dataset = read_dataset(out)
    assert dataset.modalities == ("kind", "title")
    names = (out / "items.tsv").read_text().splitlines()
    assert names[0] == "item\tname\tid"
    assert names[2] == f"1\t{lines[1]['title']}\tp1"
    kind = dataset.features["kind"]
    assert kind.shape[1] == len({t for line in lines for t in line["tags"]}) + 2
    assert kind[5].sum() == len(set(lines[5]["tags"])) + 1
    assert dataset.natural_mask[:, 1].sum() == 54
    assert "title: 6 items have no text in products.jsonl" in capsys.readouterr().out
    # The split belongs to the data set as it was written.
    split, _ = read_split(out / "split.npz", dataset, "ftmt")
    assert not (split.mask & ~dataset.natural_mask).any()


def test_a_split_fits_a_data_set_in_which_a_new_text_has_no_known_word(tmp_path):
    write_products(tmp_path)
    products = tmp_path / "products.jsonl"
    lines = products.read_text().splitlines()
    given = {"text": (f"title={products}:title",), "categories": (f"b={products}:brand",)}
    assert table(tmp_path, **given, text_dim=5) == 0
    split, _ = read_split(tmp_path / "out/split.npz", read_dataset(tmp_path / "out"), "ftmt")
    changed = [k for k in split.test if k % 10][:2]
    for k in changed:
        lines[k] = json.dumps(json.loads(lines[k]) | {"title": f"zzz{k}"})
    products.write_text("\n".join(lines) + "\n")
    assert table(tmp_path, **given, text_dim=5, out=tmp_path / "again") == 0
    dataset = read_dataset(tmp_path / "again")
    assert not dataset.natural_mask[changed, 1].any()
    again, _ = read_split(tmp_path / "again/split.npz", dataset, "ftmt")
    assert again.test.tolist() == split.test.tolist()
    assert again.mask[changed].any(axis=1).all()


def test_an_item_may_have_several_rows_of_text_if_the_first_counts(shop, capsys):
    rows = [(*pair, f"red lamp {k}") for k, pair in enumerate(PAIRS)]
    write(shop / "pairs.csv", ("user", "item", "about"), rows)
    given = {"text": (f"about={shop / 'pairs.csv'}:about",), "text_dim": 2, "fit_on": "all"}
    assert table(shop, **given) == 2
    assert "line 4: item 'b' appears twice" in capsys.readouterr().err
    assert table(shop, **given, repeated_items="first") == 0
    assert not (shop / "out/split.npz").exists()


# --- the command line -----------------------------------------------------------------------------


def test_the_options_of_the_command_line(shop):
    command = Path(prepare.__file__)
    words = [
        *("table", "--pairs", shop / "pairs.csv", "--features", f"image={shop / 'image.csv'}"),
        *("--missing=-", "--where", "user!=w", "item~^[abc]$", "--out", shop / "out"),
    ]
    done = subprocess.run(
        [sys.executable, command, *map(str, words)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "2 users, 3 items, 4 pairs; missing: image 0" in done.stdout
