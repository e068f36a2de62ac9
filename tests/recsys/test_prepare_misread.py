"""Files that look as if they could be read, and would be misread in silence."""

import json
import zipfile

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from milk_recsys import prepare
from milk_recsys.catalogue.dataset import read_dataset
from milk_recsys.catalogue.raw.tables import open_table, shown_names
from milk_recsys.catalogue.raw.times import Times, day_range
from milk_recsys.catalogue.raw.values import BadCell, numbers

PAIRS = [(f"u{k % 4}", f"p{k % 6}") for k in range(24)]


def write(path, header, rows, separator=","):
    lines = [separator.join(header), *(separator.join(map(str, row)) for row in rows)]
    path.write_text("\n".join(lines) + "\n")
    return path


def table(folder, **values):
    given = {"pairs": folder / "pairs.csv", "out": folder / "out", "fit_on": "all", **values}
    return prepare.run_command(prepare.Table(**given))


@pytest.fixture
def shop(tmp_path):
    """A folder with pairs of four users and six items, and vectors in image.csv."""
    write(tmp_path / "pairs.csv", ("user", "item"), PAIRS)
    rows = [(f"p{k}", k + 0.5, 1.5) for k in range(6)]
    write(tmp_path / "image.csv", ("item", "e0", "e1"), rows)
    return tmp_path


def image(folder, name="image.csv"):
    return (f"image={folder / name}",)


# --- cells ----------------------------------------------------------------------------------------


def test_a_word_among_numbers_is_no_truth_value():
    """`no` is Norwegian, and False among numbers is a mistake."""
    assert numbers(pl.Series(["yes", None, "No"])).to_list() == [1, None, 0]
    for cells, row in ((["1.5", "no", "2"], 1), (["true", "false", "2"], 0)):
        bad = numbers(pl.Series(cells))
        assert isinstance(bad, BadCell)
        assert bad.row == row


def test_columns_of_yes_and_no_are_booleans(shop, capsys):
    rows = [(f"p{k}", "yes" if k % 2 else "no", "no" if k % 2 else "yes") for k in range(6)]
    write(shop / "image.csv", ("item", "warm", "soft"), rows)
    assert table(shop, features=image(shop)) == 0
    assert "warm (booleans), soft (booleans)" in capsys.readouterr().out
    assert read_dataset(shop / "out").features["image"][:2].tolist() == [[0, 1], [1, 0]]


def test_decimal_commas_between_commas_are_no_vectors(shop, capsys):
    rows = [(f"p{k}", f'"{k},5"', f'"{k + 1},25"') for k in range(6)]
    write(shop / "image.csv", ("item", "price", "weight"), rows)
    assert table(shop, features=image(shop)) == 2
    assert "price (numbers with a decimal comma, or pairs of" in capsys.readouterr().err
    write(shop / "image.csv", ("item", "e0", "e1"), rows)
    assert table(shop, features=image(shop)) == 2
    assert "State --decimal , for the first or --decimal ." in capsys.readouterr().err
    assert table(shop, features=image(shop), decimal=",") == 0
    assert read_dataset(shop / "out").features["image"][1].tolist() == [1.5, 2.25]
    columns = ("image=e0",)
    given = {"decimal": ".", "feature_columns": columns, "out": shop / "vectors"}
    assert table(shop, features=image(shop), **given) == 0
    assert read_dataset(shop / "vectors").features["image"][1].tolist() == [1, 5]


def test_numbered_amounts_are_no_feature_vector(shop, capsys):
    rows = [(f"p{k}", k * 10, k * 20, k + 0.5, 1.5) for k in range(6)]
    write(shop / "image.csv", ("item", "sales_2022", "sales_2023", "emb_0", "emb_1"), rows)
    assert table(shop, features=image(shop)) == 0
    assert "left out: sales_2022 (numbers), sales_2023 (numbers)" in capsys.readouterr().out


def test_levels_that_another_sign_separates(shop, capsys):
    rows = [(f"p{k}", f'"red, {"warm" if k % 2 else "soft"}"') for k in range(6)]
    write(shop / "kinds.csv", ("item", "tags"), rows)
    categories = (f"tags={shop / 'kinds.csv'}:tags",)
    assert table(shop, categories=categories) == 0
    note = "tags: 6 of 6 cells of kinds.csv are one level with ',' in it. If it separates levels:"
    assert f"{note} --level-separator ," in capsys.readouterr().out
    assert table(shop, categories=categories, level_separator=",", out=shop / "two") == 0
    assert "are one level with" not in capsys.readouterr().out
    rows = read_dataset(shop / "two").features["tags"]
    assert rows[:2].tolist() == [[1, 1, 0], [1, 0, 1]]  # red, soft, warm
    source = prepare.NewItems(run=shop / "two", table=(str(shop / "kinds.csv"),), out=shop / "new")
    assert prepare.run_command(source) == 0
    assert np.array_equal(np.load(shop / "new/features/tags.npy"), rows)


# --- files ----------------------------------------------------------------------------------------


def test_of_two_separators_that_fit_the_one_that_is_rare_in_texts_wins(tmp_path):
    for text in ("u1\tDoe, John\nu2\tRoe, Ann\n", "u1;1,5\nu2;2,5\n"):
        path = tmp_path / "x"
        path.write_text(text)
        assert open_table(path).dialect.separator == text[2]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["xl/workbook.xml"], "is an Excel file. Save the table as CSV or Parquet"),
        (["a.csv"], "is a ZIP archive of 1 file. Unpack it first"),
    ],
)
def test_zip_archives_that_are_no_arrays_are_named(shop, names, message, capsys):
    with zipfile.ZipFile(shop / "image.xlsx", "w") as archive:
        for name in names:
            archive.writestr(name, "item,e0\n")
    assert table(shop, features=image(shop, "image.xlsx")) == 2
    assert message in capsys.readouterr().err


def test_json_in_another_encoding_is_an_error_and_read_if_it_is_named(shop, capsys):
    lines = [json.dumps({"item": f"p{k}", "e": [k, 1]}) for k in range(6)]
    lines[3] = lines[3].replace("p3", "p3é")
    path = shop / "image.jsonl"
    path.write_bytes("\n".join(lines).encode("latin-1"))
    assert table(shop, features=image(shop, path.name)) == 2
    assert "image.jsonl, line 4: is not utf-8 text" in capsys.readouterr().err
    assert table(shop, features=image(shop, path.name), encoding="latin-1") == 0
    assert table(shop, features=image(shop, path.name), encoding="latin-0") == 2
    path.write_text('[{"item": "p0", "e": [1, 2]},\n{"item": "p1\ufffd", "e": [3, 4]}]')
    path.write_bytes(path.read_bytes().replace("\ufffd".encode(), b"\xe9"))
    assert table(shop, features=image(shop, path.name), out=shop / "list") == 2
    assert "image.jsonl, line 2: is not utf-8 text" in capsys.readouterr().err


def test_half_an_emoji_in_json_is_no_crash(shop):
    lines = [
        f'{{"item": "p{k}", "title": "red \\ud83d", "all": ["x", "\\ude00"]}}' for k in range(6)
    ]
    (shop / "text.jsonl").write_text("\n".join(lines))
    assert table(shop, text=(f"title={shop / 'text.jsonl'}:title,all",)) == 0


def test_damaged_texts_of_arrow_files_are_one_sentence(shop, capsys):
    good = pa.array([f"p{k}" for k in range(6)])
    offsets, data = good.buffers()[1:]
    damaged = pa.StringArray.from_buffers(6, offsets, pa.py_buffer(b"\xff" + data.to_pybytes()[1:]))
    batch = pa.record_batch({"item": damaged, "e": [[1.0, 2.0]] * 6})
    with pa.OSFile(str(shop / "x.arrow"), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as out:
        out.write(batch)
    assert table(shop, features=image(shop, "x.arrow")) == 2
    error = capsys.readouterr().err
    assert "x.arrow: cannot be read" in error
    assert len(error.splitlines()) == 1


def test_names_of_columns_are_shown_on_one_line():
    assert shown_names(["a", "", "two\nlines", "x" * 90]) == f"a, (no name), two lines, {'x' * 60}"
    assert shown_names(["c"] * 41).endswith(", ...")


def test_ids_of_rows_without_an_array_are_refused(shop, capsys):
    (shop / "ids.txt").write_text("a\n")
    assert table(shop, features=image(shop), item_ids=shop / "ids.txt") == 2
    assert "--item-ids names the rows of an array, but no file" in capsys.readouterr().err


# --- rows and ids ---------------------------------------------------------------------------------


def test_a_loss_of_some_ids_that_has_a_cause_is_a_warning(shop, capsys):
    pairs = [(user, f"00{k}" if k % 3 == 0 else f"9{k}") for k, (user, _) in enumerate(PAIRS)]
    write(shop / "pairs.csv", ("user", "item"), pairs)
    ids = {item.lstrip("0") or "0" for _, item in pairs}
    write(
        shop / "image.csv", ("item", "e0", "e1"), [(i, 1.5, k) for k, i in enumerate(sorted(ids))]
    )
    assert table(shop, features=image(shop)) == 0
    output = capsys.readouterr().out
    assert "warning: image: only 16 of the 24 ids in image.csv" in output
    assert "match without leading zeros" in output


def test_ids_of_which_some_are_floats_are_a_warning(shop, capsys):
    rows = [("p0.0" if k == 0 else f"p{k}", k, 1.5) for k in range(6)]
    write(shop / "image.csv", ("item", "e0", "e1"), rows)
    assert table(shop, features=image(shop)) == 0
    assert "6 match without `.0`" in capsys.readouterr().out


def test_cancellations_are_noted_with_the_condition_that_leaves_them_out(shop, capsys):
    rows = [(*pair, -1 if k % 8 == 0 else 2, "x" if k else "y") for k, pair in enumerate(PAIRS)]
    write(shop / "pairs.csv", ("user", "item", "Quantity", "Country"), rows)
    assert table(shop, features=image(shop)) == 0
    output = capsys.readouterr().out
    assert "3 rows with a negative 'Quantity' count as well" in output
    assert "pairs.csv: left out: Quantity (numbers), Country (text)." in output
    assert table(shop, features=image(shop), where=("Country=x",), out=shop / "x") == 0
    assert "2 rows with a negative" in capsys.readouterr().out
    assert table(shop, features=image(shop), where=("Quantity>0",), out=shop / "other") == 0
    output = capsys.readouterr().out
    assert "negative" not in output
    assert "pairs.csv: left out: Country (text)." in output


def test_columns_of_a_table_of_texts_that_nothing_uses_are_named(shop, capsys):
    rows = [(f"p{k}", "red lamp", 1, "Acme", 9.5) for k in range(6)]
    write(shop / "products.csv", ("item", "title", "e0", "brand", "price"), rows)
    products = shop / "products.csv"
    given = {"text": (f"title={products}:title",), "item_names": f"{products}:brand"}
    assert table(shop, features=image(shop), **given) == 0
    assert "products.csv: left out: e0 (numbers), price (numbers)." in capsys.readouterr().out


def test_conditions_compare_numbers_in_columns_of_numbers(shop):
    frame = pl.DataFrame(PAIRS, schema=["user", "item"], orient="row")
    frame.with_columns(kind=pl.Series([1.0, 2.0, None] * 8)).write_parquet(shop / "pairs.parquet")
    for k, (where, count) in enumerate((("kind=1", 8), ("kind!=1", 16), ("kind=one", 0))):
        given = {"pairs": shop / "pairs.parquet", "where": (where,), "out": shop / str(k)}
        assert table(shop, features=image(shop), **given) == (0 if count else 2)
        if count:
            text = json.loads((shop / str(k) / "dataset.json").read_text())
            expected = {
                p for p, n in zip(PAIRS, [1, 2, 0] * 8, strict=True) if (n == 1) == (k == 0)
            }
            assert text["num_interactions"] == len(expected)


def test_the_range_of_the_times_is_shown_and_mixed_units_are_refused(shop, capsys):
    rows = [(*pair, 1_600_000_000 + 86_400 * k) for k, pair in enumerate(PAIRS)]
    write(shop / "pairs.csv", ("user", "item", "when"), rows)
    assert table(shop, features=image(shop), time_column="when") == 0
    assert "(UTC), from 2020-09-13 to 2020-10-06." in capsys.readouterr().out
    clock = Times()
    assert clock.seconds(pl.Series([1e9])).to_list() == [1e9]
    assert clock.seconds(pl.Series([1e9, 1e12])).row == 1
    assert day_range(np.array([0, 1e12])) == "from 0 to 1e+12 seconds"


def test_a_fit_that_loses_most_texts_is_a_warning_with_the_way_out(shop, capsys):
    rows = [(f"p{k}", "red lamp" if k < 2 else f"unlike{k}") for k in range(6)]
    write(shop / "products.csv", ("item", "title"), rows)
    assert table(shop, features=image(shop), text=(f"title={shop / 'products.csv'}:title",)) == 0
    assert "warning: title: 4 texts have no word" in capsys.readouterr().out
