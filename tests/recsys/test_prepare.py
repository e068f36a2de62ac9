"""Importers: small files in published formats are read; errors name the place and the remedy."""

import gzip
import json
import struct
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from milk_recsys import prepare
from milk_recsys.catalogue.dataset import read_dataset
from milk_recsys.catalogue.importers import rows as feature_rows
from milk_recsys.catalogue.importers import write
from milk_recsys.catalogue.importers.filled import find_filled
from milk_recsys.catalogue.split import draw_split
from milk_recsys.catalogue.split_file import read_split
from milk_recsys.config.options import DataOptions

WORDS = [
    *("soft", "blue", "cotton", "baby", "blanket", "wooden", "toy", "train"),
    *("bottle", "warm", "milk", "stroller", "wheel", "safe", "gate", "green"),
]


def gz(path, lines):
    path.write_bytes(gzip.compress("".join(f"{line}\n" for line in lines).encode()))
    return path


def codes(count):
    return [f"B{k:09d}" for k in range(count)]


def text_of(k):
    rng = np.random.default_rng(k)
    return " ".join(rng.choice(WORDS, 8))


def write_amazon(folder, *, items=40, users=30):
    """Write files in which every user has 5 items.

    Item 3 has no metadata, item 5 no picture, and the pictures of items 20 and 21 are zeros.
    """
    rng = np.random.default_rng(0)
    reviews = []
    for u in range(users):
        for i in rng.choice(items, 5, replace=False):
            reviews.append(
                {"reviewerID": f"A{u}", "asin": codes(items)[i], "overall": 5.0, "reviewText": "né"}
            )
    reviews.append(reviews[0])  # A second review of the same item by the same user.
    gz(folder / "reviews_Toys_5.json.gz", map(json.dumps, reviews))
    products = [
        {
            "asin": c,
            "title": f"the {text_of(k)}",
            "categories": [["Baby", text_of(k)]],
            "price": 3.5,
        }
        for k, c in enumerate(codes(items))
        if k != 3
    ]
    products[1]["description"] = 'it\'s a "safe" gate'
    products.append({"asin": "B999999999", "title": "of no review"})
    gz(folder / "meta_Toys.json.gz", map(repr, products))  # The published file has Python literals.
    pictures = rng.random((items, 4096)).astype("<f4")
    pictures[[20, 21]] = 0
    records = [
        c.encode() + x.tobytes()
        for k, (c, x) in enumerate(zip(codes(items), pictures, strict=True))
        if k != 5
    ]
    (folder / "image_features_Toys.b").write_bytes(
        b"".join([*records, b"B999999999" + pictures[0].tobytes()])
    )
    return pictures


def amazon(folder, out="out", **values):
    files = {
        "reviews": folder / "reviews_Toys_5.json.gz",
        "metadata": folder / "meta_Toys.json.gz",
        "images": folder / "image_features_Toys.b",
    }
    return prepare.run_command(
        prepare.Amazon(**{**files, "out": folder / out, "text_dim": 6, **values})
    )


def place_of(dataset_folder, code):
    """Return an item's number, found by its title in items.tsv (item 3 has its code instead)."""
    lines = (dataset_folder / "items.tsv").read_text().splitlines()[1:]
    names = [line.split("\t")[1] for line in lines]
    k = int(code[1:])
    return names.index(code if k == 3 else f"the {text_of(k)}")


def test_amazon(tmp_path, capsys):
    pictures = write_amazon(tmp_path)
    assert amazon(tmp_path) == 0
    output = capsys.readouterr().out
    out = tmp_path / "out"
    dataset = read_dataset(out)
    assert (dataset.num_users, len(dataset.interactions)) == (30, 150)
    assert dataset.modalities == ("visual", "text")
    assert "1 repeated pair was merged" in output
    visual, natural_mask = dataset.features["visual"], dataset.natural_mask
    for k in (0, 7, 30):
        np.testing.assert_array_equal(visual[place_of(out, codes(40)[k])], pictures[k])
    for k in (5, 20, 21):
        assert not natural_mask[place_of(out, codes(40)[k]), 0]
    assert "2 rows of zeros are written as missing" in output
    assert "1 item has no record in image_features_Toys.b" in output
    assert natural_mask[:, 0].sum() == dataset.num_items - 3
    assert not natural_mask[place_of(out, codes(40)[3]), 1]
    assert dataset.features["text"].shape[1] == 6
    assert dataset.user_names[0] == "A0"
    split, _ = read_split(out / "split.npz", dataset, "ftmt")
    drawn, _ = draw_split(dataset, DataOptions())
    assert np.array_equal(split.test, drawn.test)
    assert np.array_equal(split.mask, drawn.mask)
    assert "--split OUT/split.npz" in output
    assert not list(tmp_path.glob(".*tmp"))


def test_amazon_texts_are_fitted_on_warm_items_only(tmp_path):
    """Changing the words of the new items' metadata changes no feature row of a warm item."""
    write_amazon(tmp_path)
    assert amazon(tmp_path) == 0
    dataset = read_dataset(tmp_path / "out")
    split, _ = read_split(tmp_path / "out" / "split.npz", dataset, "ftmt")
    cold = {dataset.item_names[k] for k in split.cold}
    lines = gzip.decompress((tmp_path / "meta_Toys.json.gz").read_bytes()).decode().splitlines()
    import ast

    products = [ast.literal_eval(line) for line in lines]
    changed = [
        {**p, "categories": [["quite other words entirely"]]} if p["title"] in cold else p
        for p in products
    ]
    gz(tmp_path / "meta_Toys.json.gz", map(repr, changed))
    assert amazon(tmp_path, "again") == 0
    again = read_dataset(tmp_path / "again")
    for rows, same in ((split.warm, True), (split.cold, False)):
        a, b = dataset.features["text"][rows], again.features["text"][rows]
        assert np.array_equal(a, b, equal_nan=True) == same


def test_amazon_metadata_may_be_json(tmp_path):
    write_amazon(tmp_path)
    lines = gzip.decompress((tmp_path / "meta_Toys.json.gz").read_bytes()).decode().splitlines()
    import ast

    assert amazon(tmp_path, "one") == 0
    gz(tmp_path / "meta_Toys.json.gz", (json.dumps(ast.literal_eval(line)) for line in lines))
    assert amazon(tmp_path, "other") == 0
    files = [(tmp_path / o / "features/text.npy").read_bytes() for o in ("one", "other")]
    assert files[0] == files[1]


def break_reviews(folder):
    gz(
        folder / "reviews_Toys_5.json.gz",
        ['{"reviewerID": "A", "asin": "B000000000"}', '{"reviewerID": "A", "as'],
    )


def cut_gzip(folder):
    path = folder / "reviews_Toys_5.json.gz"
    path.write_bytes(path.read_bytes()[:-300])


def no_objects(folder):
    (folder / "meta_Toys.json.gz").write_text("{}")


def no_reviewer(folder):
    gz(folder / "reviews_Toys_5.json.gz", ['{"asin": "B000000000"}'])


def no_asin(folder):
    gz(folder / "meta_Toys.json.gz", ['{"title": "x"}'])


def code_in_metadata(folder):
    gz(folder / "meta_Toys.json.gz", ["__import__('os').system('true')"])


def cut_record(folder):
    path = folder / "image_features_Toys.b"
    path.write_bytes(path.read_bytes()[:-7])


def nan_in_picture(folder):
    (folder / "image_features_Toys.b").write_bytes(
        b"B000000001" + struct.pack("<4096f", *([1.0] * 4095), float("nan"))
    )


def other_category(folder):
    (folder / "image_features_Toys.b").write_bytes(
        b"B999999999" + struct.pack("<4096f", *([1.0] * 4096))
    )


def no_images(folder):
    (folder / "image_features_Toys.b").unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (break_reviews, "reviews_Toys_5.json.gz, line 2: is neither JSON nor a Python literal"),
        (cut_gzip, "reviews_Toys_5.json.gz: is not a complete gzip file"),
        (no_objects, "meta_Toys.json.gz: has no objects"),
        (no_reviewer, "it has asin. Is it a file of reviews?"),
        (no_asin, "has no 'asin'; it has title. Is it the file of metadata"),
        (code_in_metadata, "line 1: is neither JSON nor a Python literal"),
        (cut_record, "record 40 is cut short"),
        (nan_in_picture, "record 1, item B000000001, has NaN or an infinity"),
        (other_category, "has no record of any of the"),
        (no_images, "image_features_Toys.b: no such file"),
    ],
)
def test_errors_in_amazon_files_name_the_place_and_leave_no_files(
    tmp_path, damage, message, capsys
):
    write_amazon(tmp_path)
    damage(tmp_path)
    assert amazon(tmp_path) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert not list(tmp_path.glob(".*tmp"))


def test_an_encoder_and_its_package_must_exist(tmp_path, capsys, monkeypatch):
    write_amazon(tmp_path)
    assert amazon(tmp_path, encoder=str(tmp_path / "nowhere")) == 2
    assert "is not a folder" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    (tmp_path / "encoder").mkdir()
    assert amazon(tmp_path, encoder=str(tmp_path / "encoder")) == 2
    assert "invmod[text]" in capsys.readouterr().err


def test_a_local_sentence_encoder(tmp_path):
    """A tiny encoder with random weights, loaded from its folder, encodes texts as token means."""
    pytest.importorskip("sentence_transformers", reason="needs the extra `text`")
    transformers = pytest.importorskip("transformers")
    folder = tmp_path / "bert"
    folder.mkdir()
    (folder / "vocab.txt").write_text(
        "\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]) + "\n"
    )
    transformers.BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    sizes = {
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
    }
    transformers.BertModel(
        transformers.BertConfig(vocab_size=5 + len(WORDS), **sizes)
    ).save_pretrained(folder)
    write_amazon(tmp_path)
    assert amazon(tmp_path, encoder=str(folder)) == 0
    assert read_dataset(tmp_path / "out").features["text"].shape[1] == 8
    assert not (tmp_path / "out" / "split.npz").exists()


# --- MMRec ----------------------------------------------------------------------------------------


def write_mmrec(folder, lines=None, *, items=12):
    rng = np.random.default_rng(1)
    folder.mkdir()
    rows = [f"{u}\t{i}\t{(u + i) % 3}\t5.0" for u in range(8) for i in range(u % 3, items, 3)]
    (folder / "baby.inter").write_text(
        "\n".join(["userID\titemID\tx_label\trating", *(lines or rows)]) + "\n"
    )
    image, text = rng.random((items, 5)), rng.random((items, 3)).astype(np.float32)
    np.save(folder / "image_feat.npy", image)
    np.save(folder / "text_feat.npy", text)
    return image, text


def mmrec(folder, **values):
    return prepare.run_command(prepare.Mmrec(folder=folder / "in", out=folder / "out", **values))


def test_mmrec(tmp_path, capsys):
    image, text = write_mmrec(tmp_path / "in")
    assert mmrec(tmp_path) == 0
    dataset = read_dataset(tmp_path / "out")
    assert (dataset.num_users, dataset.num_items, len(dataset.interactions)) == (8, 12, 32)
    np.testing.assert_array_equal(dataset.features["visual"], image.astype(np.float32))
    np.testing.assert_array_equal(dataset.features["text"], text)
    assert [4, 7] in dataset.interactions.tolist()  # A pair is kept whatever its x_label is.
    assert "x_label" in capsys.readouterr().out


def test_mmrec_headers_may_name_types(tmp_path):
    write_mmrec(tmp_path / "in")
    path = tmp_path / "in" / "baby.inter"
    path.write_text(path.read_text().replace("userID\titemID", "userID:token\titemID:token"))
    assert mmrec(tmp_path) == 0


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["0\t1\t0\t5.0", "0\tx\t0\t5.0"], "baby.inter, line 3: must hold whole numbers"),
        (["0\t1"], "line 2: must hold whole numbers"),
        (["0\t1\t3\t5.0"], "line 2: ids start at 0 and x_label is 0, 1 or 2"),
        (["-1\t1\t0\t5.0"], "line 2: ids start at 0"),
        (["0\t12\t0\t5.0"], "has 12 rows, but there is an item 12"),
    ],
)
def test_errors_in_mmrec_files_name_the_line(tmp_path, lines, message, capsys):
    write_mmrec(tmp_path / "in", lines)
    assert mmrec(tmp_path) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_other_broken_mmrec_files(tmp_path, capsys):
    image, _ = write_mmrec(tmp_path / "in")
    np.save(tmp_path / "in" / "image_feat.npy", np.vstack([image, image[:1]]))
    assert mmrec(tmp_path) == 2
    assert "has 12 rows, but there are 13 items" in capsys.readouterr().err
    image[3, 1] = np.inf
    np.save(tmp_path / "in" / "image_feat.npy", image)
    assert mmrec(tmp_path) == 2
    assert "row 3 has an infinity" in capsys.readouterr().err
    # An array of Python objects, which numpy could store only as a pickle.
    with (tmp_path / "in" / "image_feat.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "|O", "fortran_order": False, "shape": (1,)}
        )
    assert mmrec(tmp_path) == 2
    assert "is not an .npy file of numbers" in capsys.readouterr().err
    (tmp_path / "in" / "other.inter").write_text("")
    assert mmrec(tmp_path) == 2
    assert "must hold one .inter file, found 2" in capsys.readouterr().err


def test_an_existing_folder_is_never_overwritten(tmp_path, capsys):
    write_mmrec(tmp_path / "in")
    assert mmrec(tmp_path) == 0
    before = (tmp_path / "out" / "dataset.json").read_bytes()
    assert mmrec(tmp_path) == 2
    assert "is never overwritten" in capsys.readouterr().err
    assert (tmp_path / "out" / "dataset.json").read_bytes() == before


# --- train.txt, val.txt, test.txt -----------------------------------------------------------------


def write_text(folder, **parts):
    folder.mkdir()
    given = {"train": "0 0 1 2\n1 3 4\n\n2 5\n", "val": "0 6\n2 7\n", "test": "1 8 9\n", **parts}
    for name, text in given.items():
        (folder / f"{name}.txt").write_text(text)
    for name, dim in (("image", 4), ("text", 3)):
        np.save(
            folder / f"{name}_feat.npy",
            np.random.default_rng(dim).random((10, dim)).astype(np.float32),
        )


def text(folder, **values):
    return prepare.run_command(prepare.Text(folder=folder / "in", out=folder / "out", **values))


def test_text_keeps_its_split(tmp_path, capsys):
    write_text(tmp_path / "in")
    assert text(tmp_path, expect="baby") == 0
    dataset = read_dataset(tmp_path / "out")
    split, notes = read_split(tmp_path / "out" / "split.npz", dataset, "ftft")
    assert [part.tolist() for part in (split.warm, split.validation, split.test)] == [
        [*range(6)],
        [6, 7],
        [8, 9],
    ]
    assert dataset.interactions.tolist() == [
        [0, 0],
        [0, 1],
        [0, 2],
        [0, 6],
        [1, 3],
        [1, 4],
        [1, 8],
        [1, 9],
        [2, 5],
        [2, 7],
    ]
    assert not notes
    output = capsys.readouterr().out
    assert "train items: 6, but 5,640 in the paper's Table 1 (baby)" in output
    assert "train interactions: 6, but 128,963" in output


def test_text_files_that_share_items_do_not_split_the_items(tmp_path, capsys):
    write_text(tmp_path / "in", test="1 8 2\n")
    assert text(tmp_path) == 2
    assert (
        "item 2 is in train.txt and in test.txt (1 such items), so these files do not split"
        in capsys.readouterr().err
    )
    assert text(tmp_path, split="draw") == 0
    assert not (tmp_path / "out" / "split.npz").exists()


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"train": "0 1\n1 x\n"}, "train.txt, line 2: must be whole numbers"),
        ({"val": "0 1.5\n"}, "val.txt, line 1: must be whole numbers"),
        ({"test": "0 -3\n"}, "test.txt, line 1: ids start at 0"),
        ({"test": "0 10\n"}, "has 10 rows, but there is an item 10"),
        ({"train": "", "val": "", "test": ""}, "there are no interactions at all"),
    ],
)
def test_errors_in_text_files_name_the_line(tmp_path, parts, message, capsys):
    write_text(tmp_path / "in", **parts)
    assert text(tmp_path) == 2
    assert message in capsys.readouterr().err


def test_text_needs_its_files(tmp_path, capsys):
    write_text(tmp_path / "in")
    (tmp_path / "in" / "val.txt").unlink()
    assert text(tmp_path) == 2
    assert "val.txt: no such file" in capsys.readouterr().err


# --- tables ---------------------------------------------------------------------------------------


def write_tables(folder):
    pairs = pl.DataFrame(
        {
            "who": ["ann", "bob", "ann", "cy"],
            "sku": ["x-1", "x-1", "y 2", "z"],
            "price": [1, 2, 3, 4],
        }
    )
    pairs.write_csv(folder / "pairs.csv")
    pairs.write_parquet(folder / "pairs.parquet")
    image = pl.DataFrame(
        {
            "sku": ["z", "x-1", "other"],
            "a": [1.0, 2.0, 9.0],
            "b": [3, 4, 9],
            "note": ["p", "q", "r"],
        }
    )
    image.write_parquet(folder / "image.parquet")
    np.save(folder / "text.npy", np.array([[0, 1], [2, 3], [4, 5], [6, 9]], np.float16))
    (folder / "ids.txt").write_text("nothing\nz\ny 2\nx-1\n")


def table(folder, pairs="pairs.csv", features=None, **values):
    usual = (f"image={folder / 'image.parquet'}", f"text={folder / 'text.npy'}")
    given = usual if features is None else features
    fixed = {
        "pairs": folder / pairs,
        "features": given,
        "user_column": "who",
        "item_column": "sku",
        "item_ids": folder / "ids.txt",
        "out": folder / "out",
    }
    return prepare.run_command(prepare.Table(**{**fixed, **values}))


@pytest.mark.parametrize("pairs", ["pairs.csv", "pairs.parquet"])
def test_tables(tmp_path, pairs, capsys):
    write_tables(tmp_path)
    assert table(tmp_path, pairs) == 0
    dataset = read_dataset(tmp_path / "out")
    assert dataset.user_names == ("ann", "bob", "cy")
    assert dataset.item_names == ("x-1", "y 2", "z")
    assert dataset.interactions.tolist() == [[0, 0], [0, 1], [1, 0], [2, 2]]
    np.testing.assert_array_equal(dataset.features["image"], [[2, 4], [np.nan, np.nan], [1, 3]])
    np.testing.assert_array_equal(dataset.features["text"], [[6, 9], [4, 5], [2, 3]])
    assert dataset.features["text"].dtype == np.float16
    output = capsys.readouterr().out
    assert "image: 2 features from a (numbers), b (numbers) of image.parquet" in output
    assert "left out: note (text)" in output
    assert "image: 1 row belongs to an item without interactions and is left out" in output


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"user_column": "user"}, "has no column 'user'; it has who, sku, price"),
        ({"item_ids": None}, "need --item-ids"),
        ({"features": ("image",)}, "--features must be NAME=FILE"),
        ({"features": ("image=a.csv", " image=b.csv")}, "each name once"),
        ({"features": ()}, "at least one modality is needed"),
        ({"filled": ("image=yes",)}, "--filled must be NAME=keep or NAME=missing"),
        ({"filled": ("picture=keep",)}, "--filled: 'picture' is no modality"),
        ({"text": ("image=image.parquet:note",)}, "the modality 'image' is given twice"),
        ({"text": ("note=image.parquet",)}, "--text note=image.parquet: name the columns"),
        ({"features": ("image=nowhere.csv",)}, "nowhere.csv: no such file"),
        ({"pairs": "ids.json"}, "no such file"),
    ],
)
def test_bad_table_options_are_errors(tmp_path, values, message, capsys):
    write_tables(tmp_path)
    assert table(tmp_path, **values) == 2
    assert message in capsys.readouterr().err


def test_empty_cells_and_repeated_items_are_errors(tmp_path, capsys):
    write_tables(tmp_path)
    (tmp_path / "pairs.csv").write_text("who,sku\nann,x-1\n,z\n")
    assert table(tmp_path) == 2
    assert "pairs.csv, line 3, column 'who': is empty" in capsys.readouterr().err
    write_tables(tmp_path)
    pl.DataFrame({"sku": ["z", "z"], "a": [1.0, 2.0]}).write_parquet(tmp_path / "image.parquet")
    assert table(tmp_path) == 2
    assert "item 'z' appears twice" in capsys.readouterr().err


# --- rows that were filled in ---------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_filled_rows_are_found_by_kind(dtype):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((400, 6)).astype(dtype)
    x[[3, 50]] = 0
    x[100:112] = [1, 2, 3, 4, 5, 6]  # The features of a placeholder picture.
    x[200] = np.nan
    fill = [7, 300]
    kept = np.setdiff1d(np.arange(400), [3, 50, 200, *fill])
    x[fill] = x[kept].astype(np.float64).mean(axis=0).astype(dtype)
    rows = {kind: places.tolist() for kind, places in find_filled(x).items()}
    assert rows == {
        "of zeros": [3, 50],
        "equal to the mean": fill,
        "repeated": list(range(100, 112)),
    }


def test_nine_equal_rows_are_no_placeholder_and_distinct_rows_are_not_filled():
    x = np.random.default_rng(0).standard_normal((400, 6)).astype(np.float32)
    x[:9] = x[0]
    assert not any(len(places) for places in find_filled(x).values())


def test_filled_rows_may_be_kept(tmp_path, capsys):
    image, _ = write_mmrec(tmp_path / "in")
    image[4] = 0
    np.save(tmp_path / "in" / "image_feat.npy", image)
    assert mmrec(tmp_path, keep_filled=True) == 0
    assert "left as they are (--keep-filled)" in capsys.readouterr().out
    assert read_dataset(tmp_path / "out").natural_mask.all()


def test_features_larger_than_a_block_are_read_in_blocks(tmp_path, monkeypatch):
    """At most one block of rows is read from a file at a time."""
    for module in (write, feature_rows, sys.modules["milk_recsys.catalogue.importers.filled"]):
        monkeypatch.setattr(module, "ROWS_AT_ONCE", 5)
    image, text_rows = write_mmrec(tmp_path / "in", items=23)
    sizes = []
    real = np.asarray

    def counted(x, *args, **kwargs):
        if isinstance(x, np.memmap):
            sizes.append(len(x))
        return real(x, *args, **kwargs)

    monkeypatch.setattr(feature_rows.np, "asarray", counted)
    assert mmrec(tmp_path) == 0
    monkeypatch.undo()
    assert max(size for size in sizes if size <= 23) <= 5 or 23 not in sizes
    dataset = read_dataset(tmp_path / "out")
    np.testing.assert_array_equal(dataset.features["visual"], image.astype(np.float32))
    np.testing.assert_array_equal(dataset.features["text"], text_rows)


def test_the_command_line(tmp_path, capsys):
    write_mmrec(tmp_path / "in")
    words = ["mmrec", "--folder", str(tmp_path / "in"), "--out", str(tmp_path / "out")]
    assert prepare.main(words) == 0
    assert "8 users, 12 items, 32 pairs" in capsys.readouterr().out
    assert Path(tmp_path / "out" / "dataset.json").exists()
