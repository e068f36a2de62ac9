"""The command `invmod`: its two subcommands, their files, errors and exit status."""

import itertools
import json
import os
import re
import shlex
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import sklearn.metrics
import torch
from hypothesis import given
from hypothesis import strategies as st

import invmod
from invmod.cli import main
from invmod.cli.arrays import labels
from invmod.cli.errors import UsageError
from invmod.cli.gate import gate_bounds
from invmod.cli.grouping import grouped
from invmod.cli.metrics import METRICS
from invmod.cli.missing_page import missing_page
from invmod.cli.tables import read_columns as read_with_absent
from invmod.missingness import (
    mcar_test,
    missingness_summary,
    pattern_name,
    plot_missingness,
)
from invmod.missingness.summary_text import shown_name
from invmod.robustness import RobustnessReport
from tests.library.test_robustness_page import DAY, NASTY, Page, in_chromium, needs_chromium
from tests.strategies import NAN, generators, laws

ROOT = Path(invmod.__file__).parents[1]
MODEL = """\
import numpy as np


def predict(features, mask):
    votes = np.stack([np.nan_to_num(x).mean(axis=1) for x in features.values()], axis=1)
    return (np.where(mask, votes, 0).sum(axis=1) > 0).astype(int)


def text_only(features, mask):
    return (np.nan_to_num(features["text"]).mean(axis=1) > 0).astype(int)


def fails(features, mask):
    raise RuntimeError("no weights")


def wrong_length(features, mask):
    return np.zeros(3)


def leaves(features, mask):
    raise SystemExit(0)


def a_label(features, mask):
    return np.array(["cat"] * 80)


def broken_metric(predictions, targets):
    raise OSError("no table")


def errors(predictions, targets):
    return float((predictions != targets).mean())


class Shop:
    both = {"votes": predict, "text only": text_only}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working folder with a module of models and a file of test data."""
    rng = np.random.default_rng(0)
    targets = rng.integers(0, 2, 80)
    signal = (2.0 * targets - 1)[:, None]
    features = {
        name: signal + noise * rng.normal(size=(80, 3))
        for name, noise in (("text", 0.6), ("image", 1.2), ("audio", 1.8))
    }
    np.savez(tmp_path / "test.npz", targets=targets, **features)
    (tmp_path / "shop_models.py").write_text(MODEL, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "shop_models", raising=False)
    yield tmp_path
    sys.modules.pop("shop_models", None)


@pytest.fixture
def table(tmp_path):
    """A table with missing numbers, vectors of columns and text."""
    frame = pl.DataFrame(
        {
            "id": [1, 2, 3, 4, 5, 6],
            "age": [1.0, None, 3.0, NAN, 5.0, 6.0],
            "img_0": [0.1, None, 0.3, None, 0.5, 0.6],
            "img_1": [0.1, None, None, None, 0.5, 0.6],
            "note": ["a", "", None, "b", "  ", "c"],
        }
    )
    frame.write_parquet(tmp_path / "table.parquet")
    frame.with_columns(pl.col("age").fill_nan(None)).write_csv(tmp_path / "table.csv")
    return tmp_path


def read_columns(path, missing_values):
    return read_with_absent(path, missing_values)[0]


def report(*words):
    return main(["report", *words, "--resamples", "20"])


GOOD = ("shop_models:predict", "--data", "test.npz", "--metric", "accuracy", "--rates", "")
DEAD = ("shop_models:text_only", *GOOD[1:])


# --- missing


@pytest.mark.parametrize("file", ["table.parquet", "table.csv"])
def test_missing_counts_nulls_nan_and_blank_text(table, capsys, file):
    status = main(
        ["missing", str(table / file), "--exclude", "id", "--modality", "image=img_*",
         "--json", str(table / "out.json")]
    )  # fmt: skip
    assert status == 0
    figures = json.loads((table / "out.json").read_text(encoding="utf-8"))
    assert figures["format"] == "invmod missingness summary"
    assert figures["modalities"] == ["age", "image", "note"]
    assert figures["missing"] == [2, 2, 3]
    assert figures["partial"] == [0, 1, 0]
    assert figures["both_missing"] == [[2, 2, 1], [2, 2, 1], [1, 1, 3]]
    assert figures["mcar_test"]["method"] == "permutation"
    out = capsys.readouterr().out
    assert out.startswith(f"{table / file}: 6 rows, 3 modalities; 33.3% of the rows are complete")
    assert re.search(r"age, image +2 +0.7 +1.00 +45.00", out)
    assert "Permutation test" in out


def test_missing_reads_vectors_in_parquet(tmp_path, capsys):
    pl.DataFrame(
        {
            "vector": [[1.0, 2.0], None, [], [None, None], [3.0, None]],
            "array": pl.Series([[1.0], [NAN], [3.0], None, [5.0]], dtype=pl.Array(pl.Float32, 1)),
            "tokens": [[1, 2, 3], [4], None, [], [5, 6]],
            "words": [["a"], [], None, ["b", "c"], ["d"]],
            "names": [[None, "a"], None, [None, "b"], [None, "c"], [None, "d"]],
            "flag": [True, None, False, True, None],
            "day": pl.Series(["2020-01-01", None, None, None, None]).str.to_date(),
            "level": pl.Series([1, None, 2, 3, 4], dtype=pl.Int8),
        }
    ).write_parquet(tmp_path / "x.parquet")
    columns = read_columns(str(tmp_path / "x.parquet"), [])
    summary = missingness_summary(columns, list(columns))
    assert dict(zip(summary.modalities, summary.missing, strict=True)) == {
        "vector": 3, "array": 2, "tokens": 2, "words": 2, "names": 1, "flag": 2,
        "day": 4, "level": 1,
    }  # fmt: skip
    assert summary.partial == (1, 0, 0, 0, 0, 0, 0, 0)
    assert columns["vector"].shape == (5, 2)
    assert main(["missing", str(tmp_path / "x.parquet")]) == 0
    assert "vector" in capsys.readouterr().out


def test_missing_reads_the_file_of_the_report_with_its_mask(tmp_path):
    mask = np.array([[True, False], [False, True], [True, True]])
    np.savez(
        tmp_path / "test.npz", text=np.array([[1.0], [2.0], [3.0]]), words=np.array([1, 2, 3]),
        targets=np.zeros(3), mask=mask,
    )  # fmt: skip
    assert main(["missing", str(tmp_path / "test.npz"), "--json", str(tmp_path / "a.json")]) == 0
    figures = json.loads((tmp_path / "a.json").read_text(encoding="utf-8"))
    assert figures["modalities"] == ["text", "words"]
    assert figures["missing"] == [1, 1]
    np.savez(tmp_path / "bad.npz", text=np.zeros(3), mask=mask)
    assert main(["missing", str(tmp_path / "bad.npz")]) == 2


def test_missing_reads_a_folder_and_values_that_mean_missing(tmp_path):
    np.save(tmp_path / "a.npy", np.array([1, -1, 3]))
    np.save(tmp_path / "b.npy", np.array(["x", "NA", ""]))
    columns = read_columns(str(tmp_path), ["-1", "NA"])
    assert missingness_summary(columns, ["a", "b"]).missing == (1, 2)
    (tmp_path / "t.csv").write_text("a,b\n1,x\n-1,NA\n2.5,y\n", encoding="utf-8")
    columns = read_columns(str(tmp_path / "t.csv"), ["-1", "NA"])
    assert missingness_summary(columns, ["a", "b"]).missing == (1, 1)
    assert columns["a"].dtype == np.float64
    words = ["missing", str(tmp_path / "t.csv"), "--missing-value", "-1", "--missing-value", "NA"]
    assert main([*words, "--json", str(tmp_path / "out.json")]) == 0
    assert json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))["missing"] == [1, 1]
    pl.DataFrame({"a": [1, -1], "b": ["NA", "x"]}).write_parquet(tmp_path / "t.parquet")
    columns = read_columns(str(tmp_path / "t.parquet"), ["-1", "NA"])
    assert missingness_summary(columns, ["a", "b"]).missing == (1, 1)


def test_missing_values_are_lists_and_a_note_names_those_that_occur_nowhere(tmp_path, capsys):
    text = 'a,b,c\n1,x,"NA,-9"\n-9,NA,y\n-9.0,y,"no, or unknown"\n'
    (tmp_path / "t.csv").write_text(text, encoding="utf-8")
    columns, absent = read_with_absent(str(tmp_path / "t.csv"), ["NA, -9", "no, or unknown", "zzz"])
    assert missingness_summary(columns, list(columns)).missing == (2, 1, 1)
    assert columns["a"].dtype == np.float64
    assert absent == ["zzz"]
    with pytest.raises(UsageError, match=re.escape("""Write '"NA,-9"' or '"NA","-9"'.""")):
        read_columns(str(tmp_path / "t.csv"), ["NA,-9"])
    columns = read_columns(str(tmp_path / "t.csv"), ['"NA,-9"'])
    assert missingness_summary(columns, list(columns)).missing == (0, 0, 1)
    words = ["missing", str(tmp_path / "t.csv"), "--missing-value=-9,zzz"]
    assert main(words) == 0
    printed = capsys.readouterr()
    assert printed.err.count("note:") == 1
    assert "--missing-value zzz occurs in no column of" in printed.err
    (tmp_path / "u.csv").write_text("a,b\n1,x\n-9.0, NA\n", encoding="utf-8")
    columns, absent = read_with_absent(str(tmp_path / "u.csv"), ["-9, x"])
    assert missingness_summary(columns, list(columns)).missing == (1, 1)
    assert absent == []
    columns, absent = read_with_absent(str(tmp_path / "u.csv"), ['" NA"', "NA"])
    assert absent == ["NA"]
    days = np.array(["2020-01-01", "1900-01-01"], dtype="datetime64[ns]")
    np.savez(tmp_path / "t.npz", a=np.array([1, -9]), b=days, c=np.array([b"x", b"NA"]))
    columns, absent = read_with_absent(str(tmp_path / "t.npz"), ["-9,NA,1900-01-01,0"])
    assert missingness_summary(columns, list(columns)).missing == (1, 1, 1)
    assert absent == ["0"]
    coarse = days.astype("datetime64[D]")
    np.savez(tmp_path / "d.npz", a=coarse)
    _, absent = read_with_absent(str(tmp_path / "d.npz"), ["2020-01-01", "1900-01-01T06:00"])
    assert absent == ["1900-01-01T06:00"]
    pl.DataFrame({"a": [1, -9], "b": ["NA", "x"]}).write_parquet(tmp_path / "t.parquet")
    columns, absent = read_with_absent(str(tmp_path / "t.parquet"), ["NA,-9", "no"])
    assert missingness_summary(columns, ["a", "b"]).missing == (1, 1)
    assert absent == ["no"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", "a,b\n1,2\n1,2,3\n", "line 3 has 3 fields, the header has 2."),
        ("t.csv", "a,b,a\n1,2,3\n", "the header has 'a' more than once. Rename the columns."),
        ("t.csv", "a;b\n1;2\n", "has one column, 'a;b'; its fields seem to be divided by semi"),
        ("t.csv", "a;b\n", "seem to be divided by semicolons."),
        ("t.csv", "a;b\n1,5;2\n", "seem to be divided by semicolons. Divide them by commas."),
        ("t.csv", "a\tb\n1\t2\n", "divided by tabs. Divide them by commas, or name the file .tsv"),
        ("t.tsv", "a,b\n1,2\n", "divided by commas. Divide them by tabs."),
        ("t.csv", "", "the table cannot be read: empty CSV."),
        ("t.csv", "a,b\n1,\xff\n", "invalid utf-8 sequence. Save it in UTF-8."),
        ("t.csv", 'a,b\n1,"x\n', "the table cannot be read: could not parse"),
    ],
)
def test_a_wrong_text_table_is_named_without_options_of_polars(
    tmp_path, capsys, name, content, message
):
    (tmp_path / name).write_bytes(content.encode("latin-1"))
    assert main(["missing", str(tmp_path / name)]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert not re.search("truncate|schema|ignore_errors|null_values", error)


def test_a_text_column_with_a_sign_is_a_column(tmp_path, capsys):
    (tmp_path / "t.csv").write_text("yes;no\n1\n\n2\n", encoding="utf-8")
    assert main(["missing", str(tmp_path / "t.csv")]) == 0
    assert ", 1 modality; " in capsys.readouterr().out


def test_a_column_that_looks_like_integers_at_first_is_read_whole(tmp_path):
    lines = "\n".join(["a", *map(str, range(300)), "0.5", "x"])
    (tmp_path / "t.csv").write_text(lines, encoding="utf-8")
    assert len(read_columns(str(tmp_path / "t.csv"), [])["a"]) == 302


def test_missing_writes_a_picture_and_a_page(table):
    data = str(table / "table.parquet")
    files = [str(table / "m.png"), str(table / "m.html")]
    assert main(["missing", data, "--png", files[0], "--html", files[1], "--exclude", "id"]) == 0
    assert (table / "m.png").read_bytes().startswith(b"\x89PNG")
    page = Page((table / "m.html").read_text(encoding="utf-8"))
    assert "What is missing from table.parquet" in page.text
    assert ["note", "3", "50.0%"] in page.tables[0]
    assert not page.scripts
    assert sorted(path.name for path in table.iterdir()) == [
        "m.html", "m.png", "table.csv", "table.parquet",
    ]  # fmt: skip


def test_the_page_of_missing_data_escapes_names_and_has_a_date():
    x = np.arange(12.0)
    features = {name: np.where(x % (k + 2) == 0, NAN, x) for k, name in enumerate(NASTY)}
    names = list(features)
    summary = missingness_summary(features, names)
    test = mcar_test(features, names, method="permutation", num_permutations=9)
    text = missing_page(summary, test, title=NASTY[0], date=DAY)
    assert text == missing_page(summary, test, title=NASTY[0], date=DAY)
    page = Page(text)
    assert not page.scripts
    assert not [key for _, given in page.attributes for key in given if key.startswith("on")]
    assert [given["src"][:21] for tag, given in page.attributes if tag == "img"] == [
        "data:image/png;base64"
    ]
    assert "1 March 2026, invmod" in page.text
    assert NASTY[0] in page.text
    assert {row[0] for row in page.tables[0][1:]} >= {NASTY[0], NASTY[2]}
    for entry, row in zip(test.modalities, page.tables[-1][1:], strict=True):
        assert row[1] == str(entry.num_rows)
    empty = missingness_summary(np.zeros((0, 1), dtype=bool), ["a"])
    assert "0 rows, 1 modality" in missing_page(empty, None, title="x", date=DAY)


@pytest.mark.parametrize("shape", [(1, 1), (5, 1), (3, 40), (300, 14)])
def test_a_picture_of_any_shape_is_drawn(shape):
    from matplotlib import pyplot as plt

    mask = np.random.default_rng(0).random(shape) < 0.6
    names = [f"a modality with a long name {index}" for index in range(shape[1])]
    figure = plot_missingness(missingness_summary(mask, names))
    figure.canvas.draw()
    plt.close(figure)
    with pytest.raises(ValueError, match="has no rows"):
        plot_missingness(missingness_summary(mask[:0], names))


def test_a_group_takes_names_and_patterns_and_stands_at_its_first_column():
    columns = {name: np.zeros(2) for name in ("x", "b_1", "a_1", "b_2", "[z]")}
    features = grouped(columns, ["b=b_*", "a=a_1,[z]"], [])
    assert {name: values.shape for name, values in features.items()} == {
        "x": (2,), "b": (2, 2), "a": (2, 2),
    }  # fmt: skip
    assert list(grouped(columns, [], ["?_1,x"])) == ["b_2", "[z]"]
    mixed = grouped({"n": np.array([1.0, NAN]), "t": np.array(["", "x"])}, ["m=n,t"], [])
    assert missingness_summary(mixed, ["m"]).partial == (2,)


def test_names_with_commas_and_equals_signs_can_be_grouped_and_left_out():
    columns = {name: np.zeros(2) for name in ("p, q", "x", "h=cm", "w=cm", 'say "x"', "[z]")}
    rest = ["h=cm", "w=cm", 'say "x"', "[z]"]
    for exclude in (["p, q", "x"], ['"p, q",x'], ['x,"p, q"'], ["x, p?*"], ['"p, q"', "x"]):
        assert list(grouped(columns, [], exclude)) == rest
    for text in ("size=cm=h=cm,w=cm", '"size=cm"="h=cm",w=cm', "size=cm=?=cm"):
        features = grouped(columns, [text], [])
        assert features["size=cm"].shape == (2, 2)
    assert grouped(columns, ["m=p, q"], [])["m"].shape == (2, 1)
    assert grouped(columns, ["m=x", 'm=x,[z],"[z]"'], [])["m"].shape == (2, 2)
    # Each name can be copied from the tables.
    for name in columns:
        assert name not in grouped(columns, [], [shown_name(name)])


def test_a_quoted_name_is_no_pattern():
    columns = {name: np.zeros(2) for name in ("x", "x*")}
    assert list(grouped(columns, [], ['"x*"'])) == ["x"]
    for text in ('"*"', '" x"'):
        with pytest.raises(UsageError, match="no column matches"):
            grouped(columns, [], [text])


def test_names_and_lists_with_two_meanings_are_refused():
    columns = {name: np.zeros(1) for name in ("a,b", "a", "b", "c=a")}
    with pytest.raises(UsageError, match=re.escape("""Write '"a,b"' or '"a","b"'.""")):
        grouped(columns, [], ["a,b"])
    assert list(grouped(columns, [], ['"a,b"'])) == ["a", "b", "c=a"]
    assert list(grouped(columns, [], ['"a","b"'])) == ["a,b", "c=a"]
    with pytest.raises(UsageError, match=re.escape("""Write '"m"=...' or '"m=c"=...'.""")):
        grouped(columns, ["m=c=a"], [])
    assert list(grouped(columns, ['"m"=c=a'], [])) == ["a,b", "a", "b", "m"]


@pytest.mark.parametrize(
    ("modalities", "exclude", "message"),
    [
        (["image"], [], "write NAME=COLUMNS"),
        (["=a"], [], "write NAME=COLUMNS"),
        (["m=c*"], [], "no column matches 'c*'; columns are a, b."),
        (["m=a", "n=a"], [], "m and n both contain a"),
        (["b=a"], [], "a column outside of it has the same name"),
        ([], ["z"], "--exclude: no column matches 'z'"),
        ([], ["*"], "no column is left"),
    ],
)
def test_wrong_groups_are_rejected_with_the_reason(modalities, exclude, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        grouped({"a": np.zeros(1), "b": np.zeros(1)}, modalities, exclude)


# --- report


def test_the_gate_fails_a_model_with_a_dead_modality_and_passes_its_mended_twin(folder, capsys):
    gate = ("--fail-under", "worst=0.6", "--fail-under", "complete=0.8")
    assert report(*GOOD, *gate) == 0
    passed = capsys.readouterr()
    assert passed.err == ""
    assert "model: With all modalities, accuracy is" in passed.out
    assert report(*DEAD, *gate) == 1
    failed = capsys.readouterr()
    assert "accuracy does not meet 1 bound (higher is better)" in failed.err
    assert "worst: model under the pattern image+audio is" in failed.err
    assert "must be at least 0.6000" in failed.err
    assert "worst pattern" in failed.out


def test_the_gate_has_bounds_for_patterns_and_for_the_drop(folder, capsys):
    assert report(*DEAD, "--fail-under", "audio+image=.7", "--fail-under", "text=.7") == 1
    assert capsys.readouterr().err.count("pattern: model under") == 1
    assert report(*DEAD, "--fail-over-drop", "0.2") == 1
    assert "worse than" in capsys.readouterr().err
    assert report(*DEAD, "--fail-over-drop", "0.9") == 0
    lower = (*DEAD[:3], "--metric", "shop_models:errors", "--lower-is-better", "--rates", "")
    assert report(*lower, "--fail-under", "worst=0.3") == 1
    assert "(lower is better)" in capsys.readouterr().err


def test_the_files_are_written_before_the_gate_fails(folder, capsys):
    words = (*DEAD, "--fail-under", "worst=1", "--json", "out.json", "--html", "out.html")
    assert report(*words) == 1
    made = RobustnessReport.load("out.json")
    assert made.modalities == ("text", "image", "audio")
    assert made.metric == "accuracy"
    page = Page((folder / "out.html").read_text(encoding="utf-8"))
    assert f"{made.worst().value:.4f}" in page.rows["011"][1]
    assert {path.name for path in folder.iterdir()} - {"__pycache__"} == {
        "test.npz", "shop_models.py", "out.json", "out.html",
    }  # fmt: skip


def test_a_metric_of_scikit_learn_gets_targets_first(folder):
    values = []
    for metric in ("r2", "sklearn.metrics:r2_score"):
        assert report(*GOOD[:4], metric, "--rates", "", "--json", "out.json") == 0
        values.append([result.value for result in RobustnessReport.load("out.json").patterns])
    assert values[0] == pytest.approx(values[1])
    assert len({*values[0]}) > 1


def test_the_seed_decides_the_result(folder, capsys):
    words = (*GOOD[:5], "--rates", "0.5")
    outputs = []
    for seed in ("0", "0", "1"):
        assert report(*words, "--seed", seed) == 0
        outputs.append(capsys.readouterr().out)
    assert outputs[0] == outputs[1] != outputs[2]


def test_several_models_rates_and_the_mask_reach_the_report(folder, capsys):
    with np.load("test.npz") as file:
        arrays = dict(file)
    mask = np.ones((80, 3), dtype=bool)
    mask[:10, 0] = False
    np.savez("masked.npz", **arrays, mask=mask)
    words = ["shop_models:Shop.both", "--data", "masked.npz", "--metric", "accuracy"]
    assert report(*words, "--rates", "0,0.5", "--patterns", "one_left", "--json", "a.json") == 0
    made = RobustnessReport.load("a.json")
    assert made.models == ("votes", "text only")
    assert made.complete("text only").value < 1
    assert [point.rate for point in made.curve()] == [0.0, 0.5]
    assert len(made.results()) == 4
    assert made.result(("text",)).empty_rows == 10
    out = capsys.readouterr().out
    assert "votes: With all modalities" in out
    assert "text only: With all modalities" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["shop_models", *GOOD[1:]], "MODULE:NAME shop_models: write MODULE:NAME"),
        (
            ["./shop_models.py:predict", *GOOD[1:]],
            "MODULE is a name such as shop.model, not a path",
        ),
        (["absent:predict", *GOOD[1:]], "importing absent raises ModuleNotFoundError"),
        (["shop_models:absent", *GOOD[1:]], "shop_models has no absent"),
        (["shop_models:Shop", *GOOD[1:]], "Shop"),
        (
            ["shop_models:fails", *GOOD[1:]],
            "the model 'model' raises RuntimeError: no weights (pattern text+image+audio). --",
        ),
        (
            ["shop_models:wrong_length", *GOOD[1:]],
            "must have the first axis of `targets`, 80 units",
        ),
        ([*GOOD[:2], "absent.npz", *GOOD[3:]], "absent.npz: there is no such file."),
        ([*GOOD[:2], "shop_models.py", *GOOD[3:]], "must end in .npz"),
        ([*GOOD[:4], "acc"], "--metric acc: the metric must be one of accuracy, auroc"),
        ([*GOOD[:4], "f1", "--lower-is-better"], "a higher f1 is better"),
        ([*GOOD, "--fail-under", "0.6"], "write WHAT=VALUE"),
        ([*GOOD, "--fail-under", "worst=high"], "'high' is not a finite number"),
        ([*GOOD, "--fail-under", "worst=nan"], "'nan' is not a finite number"),
        ([*GOOD, "--fail-under", "text+video=1"], "video is not among the modalities text, image"),
        ([*GOOD, "--fail-over-drop", "20%"], "'20%' is not a finite number"),
        ([*GOOD[:5], "--rates", "0,2"], "must lie in [0, 1)"),
        ([*GOOD[:5], "--rates", "0;1"], "'0;1' is not a finite number"),
        (
            [*GOOD, "--patterns", "one_left", "--fail-under", "text+image=.5"],
            "the pattern text+image was not evaluated",
        ),
        (
            [*GOOD, "--json", "absent/out.json"],
            "--json absent/out.json: there is no folder absent.",
        ),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(folder, capsys, words, message):
    assert report(*words) == 2
    error = capsys.readouterr().err
    assert error.startswith("invmod report: ")
    assert error.count("\n") == 1
    assert message in error


@pytest.mark.parametrize("option", ["--json", "--html"])
def test_files_are_checked_before_the_model_is_called(folder, capsys, monkeypatch, option):
    (folder / "taken").touch()
    paths = {
        "absent/x": "there is no folder absent. Create it first.",
        "taken/x": "there is no folder taken.",
        ".": "this is a folder",
        "test.npz": "this file is the data. Name another file.",
    }
    for path, message in paths.items():
        assert report("shop_models:fails", *GOOD[1:], option, path) == 2
        error = capsys.readouterr().err
        assert error.startswith(f"invmod report: {option} {path}: {message}")
        assert main(["missing", "test.npz", option, path]) == 2
        assert f"invmod missing: {option} {path}: {message}" in capsys.readouterr().err
    assert report(*GOOD, "--json", "x", "--html", "x") == 2
    assert "this file is that of --json" in capsys.readouterr().err

    def full(*_, **__):
        raise OSError(28, "No space left on device", ".x.2636.tmp")

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    assert report("shop_models:fails", *GOOD[1:], option, "x") == 2
    error = capsys.readouterr().err
    assert error == (
        f"invmod report: {option} x: the file cannot be written: No space left on device.\n"
    )
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(Path, "write_text", full)
    assert main(["missing", "test.npz", option, "x"]) == 2
    assert ".tmp" not in capsys.readouterr().err


def test_a_module_that_needs_scikit_learn_names_the_extra(folder, capsys, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "sklearn"]:
        monkeypatch.delitem(sys.modules, name)
    # An entry that is None makes Python raise ModuleNotFoundError, as without the package.
    monkeypatch.setitem(sys.modules, "sklearn", None)
    assert report(*GOOD[:4], "sklearn.metrics:f1_score") == 2
    assert "Install sklearn: pip install 'invmod[sklearn]'." in capsys.readouterr().err
    assert report("absent:predict", *GOOD[1:]) == 2
    assert "Install" not in capsys.readouterr().err


def test_the_help_states_units_and_the_meaning_of_mcar(capsys):
    assert main(["missing", "--help"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "missing completely at random (MCAR)" in text
    assert main(["--help"]) == 0
    assert "completely at random" in " ".join(capsys.readouterr().out.split())
    assert main(["report", "--help"]) == 0
    assert "0.2 is 20%" in capsys.readouterr().out
    assert main(["missing", "x.npz", "--seed", "-1"]) == 2
    assert "a seed must lie in [0, 2^63)" in capsys.readouterr().err


def test_a_traceback_is_shown_on_demand(folder, capsys):
    assert report("shop_models:fails", *GOOD[1:], "--traceback") == 2
    error = capsys.readouterr().err
    assert "Traceback (most recent call last)" in error
    assert 'raise RuntimeError("no weights")' in error


def test_arrays_that_need_pickle_are_refused(folder, capsys):
    class Trap:
        def __reduce__(self):
            return (Path.touch, (Path("touched"),))

    np.savez("trap.npz", text=np.array([Trap()], dtype=object), targets=np.zeros(1))
    assert report(*GOOD[:2], "trap.npz", *GOOD[3:]) == 2
    assert "not an .npz file of plain arrays" in capsys.readouterr().err
    assert not Path("touched").exists()
    np.savez("no_targets.npz", text=np.zeros(1))
    assert report(*GOOD[:2], "no_targets.npz", *GOOD[3:]) == 2
    assert "there is no array `targets`; arrays are: text." in capsys.readouterr().err
    np.savez("only_targets.npz", targets=np.zeros(1))
    assert report(*GOOD[:2], "only_targets.npz", *GOOD[3:]) == 2
    for name, content in (("text.npz", b"no"), ("empty.npz", b"")):
        Path(name).write_bytes(content)
        assert report(*GOOD[:2], name, *GOOD[3:]) == 2
    np.save("one.npy", np.zeros(1))
    Path("one.npy").rename("one.npz")
    assert report(*GOOD[:2], "one.npz", *GOOD[3:]) == 2
    with zipfile.ZipFile("zip.npz", "w") as file:
        file.writestr("a.npy", b"garbage")
    assert report(*GOOD[:2], "zip.npz", *GOOD[3:]) == 2


def test_names_with_signs_are_parsed_in_gates():
    names = ("a=b", "a+b", "a", "b")
    assert gate_bounds(["a=b=0.5"], None, names)["pattern"] == {("a=b",): 0.5}
    assert gate_bounds(['"a+b"=0.5'], None, names)["pattern"] == {("a+b",): 0.5}
    assert gate_bounds(['"a"+"b"=0.5'], None, names)["pattern"] == {("a", "b"): 0.5}
    assert gate_bounds(["b+a=0.5"], None, names)["pattern"] == {("b", "a"): 0.5}
    assert gate_bounds(['a+"a+b"=0.5'], None, names)["pattern"] == {("a", "a+b"): 0.5}
    # Without modalities a and b, the name has one meaning.
    assert gate_bounds(["a+b=0.5"], None, ("a+b", "c"))["pattern"] == {("a+b",): 0.5}
    assert gate_bounds(["a+b+c=0.5"], None, ("a+b", "c"))["pattern"] == {("a+b", "c"): 0.5}
    assert gate_bounds(['"worst"=0.5'], None, ("worst", "c"))["pattern"] == {("worst",): 0.5}
    assert gate_bounds([], "0.1", names) == {"worst_drop": 0.1}
    assert gate_bounds([], None, names) == {}


def test_each_pattern_can_be_bounded_by_the_name_that_the_table_shows():
    names = ("a", 'say "a"', "none", "", "worst", "a=b", "c, d", "é+")
    for pattern in itertools.product((False, True), repeat=len(names)):
        given = {name for name, has in zip(names, pattern, strict=True) if has}
        shown = pattern_name(pattern, names)
        if not given or shown == "worst":
            continue
        (read,) = gate_bounds([f"{shown}=0.5"], None, names)["pattern"]
        assert set(read) == given
        assert len(read) == len(given)


ACCURACY, MSE, R2 = METRICS["accuracy"], METRICS["mse"], METRICS["r2"]


@pytest.mark.parametrize(
    ("fail_under", "drop", "metric", "message"),
    [
        (["a+b=.5"], None, None, """Write '"a+b"=VALUE' or '"a"+"b"=VALUE'."""),
        (
            ["worst=.5"],
            None,
            None,
            """worst is also the name of a modality. Write '"worst"=VALUE'""",
        ),
        (["complete=.9", "complete=.1"], None, None, "a bound of the same already, complete=.9."),
        (["a+c=.999", "c+a=.1"], None, None, "a bound of the same already, a+c=.999."),
        (["a=.9", '"a"=.1'], None, None, "a bound of the same already, a=.9."),
        (["a+a=.1"], None, None, "a modality is named twice"),
        (["a+x=.1"], None, None, """x is not among the modalities "a+b", a, b, c, worst, ""."""),
        (['"a+x"=.1'], None, None, "a+x is not among the modalities"),
        (["+a=.1"], None, None, "is not among the modalities"),
        (['"a=.1'], None, None, "is not among the modalities"),
        (["complete=60"], None, ACCURACY, "lies in [0, 1], got 60. Write 0.6 for 60%."),
        (["complete=-.1"], None, ACCURACY, "lies in [0, 1], got -0.1."),
        (["complete=-1"], None, MSE, "lies in [0, inf], got -1."),
        (["complete=1.1"], None, R2, "lies in [-inf, 1], got 1.1."),
        ([], "20", ACCURACY, "the gate would never fail. Write 0.2 for a loss of 20%."),
        ([], "-.1", None, "must not be negative"),
    ],
)
def test_bounds_that_cannot_be_meant_are_refused(fail_under, drop, metric, message):
    with pytest.raises(UsageError, match=re.escape(message)):
        gate_bounds(fail_under, drop, ("a+b", "a", "b", "c", "worst", ""), metric)


def test_bounds_within_the_range_of_the_metric_are_taken():
    assert gate_bounds(["a=0", "worst=1"], "1", ("a",), ACCURACY)["worst_drop"] == 1
    assert gate_bounds(["a=50"], "20", ("a",), MSE) == {"pattern": {("a",): 50}, "worst_drop": 20}
    assert gate_bounds(["a=-2"], "3", ("a",), R2) == {"pattern": {("a",): -2}, "worst_drop": 3}


def test_every_metric_states_its_range():
    shares = dict.fromkeys(("accuracy", "auroc", "balanced_accuracy", "f1", "f1_macro"), (0, 1))
    ranges = {**shares, "mae": (0, np.inf), "mse": (0, np.inf), "r2": (-np.inf, 1)}
    assert {name: (metric.low, metric.high) for name, metric in METRICS.items()} == ranges


@pytest.mark.parametrize("option", ["--fail-over-drop", "--metric", "--data", "--json"])
def test_an_option_that_would_replace_an_earlier_one_is_refused(folder, capsys, option):
    value = {"--metric": "accuracy", "--data": "test.npz"}.get(option, "0.9")
    assert report(*GOOD, option, value, option, value) == 2
    assert f"{option}: may be given only once" in capsys.readouterr().err


def test_repeated_bounds_and_a_model_that_exits_do_not_pass_the_gate(folder, capsys):
    assert report(*DEAD, "--fail-under", "worst=.9", "--fail-under", "worst=.1") == 2
    assert report("shop_models:leaves", *GOOD[1:], "--fail-under", "worst=.1") == 2
    assert "SystemExit: 0" in capsys.readouterr().err
    (folder / "exits.py").write_text("import sys\nsys.exit(0)\n", encoding="utf-8")
    assert report("exits:predict", *GOOD[1:]) == 2
    assert "importing exits raises SystemExit: 0" in capsys.readouterr().err


def test_an_error_of_a_metric_is_not_the_status_of_a_failed_gate(folder, capsys):
    assert report(*GOOD[:4], "shop_models:broken_metric", "--rates", "") == 2
    error = capsys.readouterr().err
    assert "the evaluation raises OSError: no table. --traceback shows where." in error


@pytest.mark.parametrize(
    ("metric", "options", "higher"),
    [
        ("sklearn.metrics:mean_squared_error", (), False),
        ("sklearn.metrics:log_loss", (), False),
        ("sklearn.metrics:accuracy_score", (), True),
        ("sklearn.metrics:zero_one_loss", ("--lower-is-better",), False),
        ("shop_models:errors", (), True),
        ("shop_models:errors", ("--lower-is-better",), False),
    ],
)
def test_the_direction_of_a_metric_reaches_the_report(folder, metric, options, higher):
    assert report(*GOOD[:4], metric, *options, "--rates", "", "--json", "out.json") == 0
    assert RobustnessReport.load("out.json").higher_is_better is higher


def test_an_error_of_scikit_learn_is_bounded_from_above(folder, capsys):
    words = (*DEAD[:4], "sklearn.metrics:mean_squared_error", "--rates", "")
    assert report(*words, "--fail-under", "worst=0.1") == 1
    assert "(lower is better)" in capsys.readouterr().err
    assert report(*words[:4], "sklearn.metrics:confusion_matrix") == 2
    assert "Add --higher-is-better or --lower-is-better." in capsys.readouterr().err
    assert report(*GOOD[:4], "mse", "--higher-is-better") == 2
    assert "a lower mse is better" in capsys.readouterr().err
    assert report(*words, "--higher-is-better", "--lower-is-better") == 2


def test_text_against_numbers_is_an_error_and_not_an_accuracy_of_0(folder, capsys):
    assert report("shop_models:a_label", *GOOD[1:]) == 2
    assert "targets are numbers, predictions are text" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["missing", "absent.csv"], "there is no such file"),
        (["missing", "x.xlsx"], "must end in .parquet, .csv, .tsv or .npz"),
        (["missing", "empty"], "the folder has no .npy file"),
        (["missing", "broken.parquet"], "the table cannot be read"),
        (["missing", "uneven.npz"], "equal numbers of rows"),
        (["missing", "infinite.npz"], "'a' has an infinity"),
        (["missing", "fine.npz", "--json", "absent/x.json"], "there is no folder absent."),
        (["missing", "objects"], "a file is not a plain array"),
    ],
)
def test_wrong_data_of_missing_are_one_line_and_status_2(
    tmp_path, monkeypatch, capsys, words, message
):
    monkeypatch.chdir(tmp_path)
    Path("x.xlsx").touch()
    Path("empty").mkdir()
    Path("objects").mkdir()
    np.save("objects/a.npy", np.array([None, 1], dtype=object))
    Path("broken.parquet").write_bytes(b"no")
    np.savez("uneven.npz", a=np.zeros(2), b=np.zeros(3))
    np.savez("infinite.npz", a=np.array([np.inf, 1.0]), b=np.array([NAN, 1.0]))
    np.savez("fine.npz", a=np.array([NAN, 1.0]))
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.startswith("invmod missing: ")
    assert error.count("\n") == 1
    assert message in error


def test_an_error_for_a_missing_package_names_the_extra(table, monkeypatch, capsys):
    import importlib

    real = importlib.import_module

    def without(name, *rest):
        if name.split(".")[0] in ("polars", "matplotlib"):
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(importlib, "import_module", without)
    assert main(["missing", str(table / "table.csv")]) == 2
    assert "needs polars: pip install 'invmod[report]'." in capsys.readouterr().err
    np.savez(table / "a.npz", a=np.array([NAN, 1.0]))
    assert main(["missing", str(table / "a.npz"), "--png", str(table / "a.png")]) == 2
    error = capsys.readouterr().err
    assert "needs matplotlib: pip install 'invmod[report]'." in error
    assert "cannot be written" not in error
    assert not (table / "a.png").exists()


# --- process


def run(*words, **options):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, timeout=120, env=environment,
        **options,
    )  # fmt: skip


def test_help_is_complete_and_imports_no_torch():
    code = f"""
import sys, types
# The package itself is left out, so that only the command's own imports are counted.
package = types.ModuleType("invmod")
package.__path__ = [{str(ROOT / "invmod")!r}]
sys.modules["invmod"] = package
from invmod.cli import main
status = [main(words) for words in (["--help"], ["missing", "--help"], ["report", "--help"])]
status += [main(words) for words in ([], ["report"], ["unknown"])]
assert status == [0, 0, 0, 2, 2, 2], status
heavy = {{"torch", "polars", "matplotlib", "numpy"}} & sys.modules.keys()
assert not heavy, heavy
"""
    done = run("-c", code)
    assert done.returncode == 0, done.stderr
    for option in ("--modality", "--missing-value", "--fail-under", "--html", "Exit status"):
        assert option in done.stdout


@pytest.mark.slow
def test_the_module_runs_as_a_command_and_the_working_folder_is_importable(folder):
    done = run("-m", "invmod", "report", *DEAD, "--resamples", "0", "--fail-under", "worst=.9")
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("invmod report: accuracy does not meet 1 bound")
    done = run("-I", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); from invmod.cli import "
               f"main; sys.exit(main({['report', *GOOD, '--resamples', '0']!r}))")  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_a_closed_pipe_ends_the_command_silently(table):
    command = (
        f"{sys.executable} -m invmod missing {table / 'table.csv'} | true; echo ${{PIPESTATUS[0]}}"
    )
    done = run("-c", f"import subprocess; print(subprocess.run(['bash', '-c', {command!r}], "
               "capture_output=True, text=True))")  # fmt: skip
    assert done.returncode == 0
    assert "stderr=''" in done.stdout
    assert re.search(r"stdout='(0|141)\\n'", done.stdout)


def test_a_broken_pipe_is_caught(table, monkeypatch):
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        assert main(["missing", str(table / "table.csv")]) == 141


# --- the page of the documentation


def test_the_page_of_the_commands_shows_what_they_print(tmp_path, monkeypatch, capsys):
    page = ROOT / "docs" / "commands.md"
    blocks = re.findall(
        r"^```(python|console)\n(.*?)^```$",
        page.read_text(encoding="utf-8"),
        re.DOTALL | re.MULTILINE,
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "models", raising=False)
    names = {}
    for kind, text in blocks:
        if kind == "python":
            exec(text, names)
            if text.startswith("# models.py\n"):
                Path("models.py").write_text(text, encoding="utf-8")
            continue
        command, expected = text.split("\n", 1)
        main(shlex.split(command)[2:])
        printed = capsys.readouterr()
        assert printed.out + printed.err == expected, command
    sys.modules.pop("models", None)
    assert [kind for kind, _ in blocks].count("console") == 3
    names["test_the_model_copes_without_a_modality"]()
    assert "With all modalities" in Path("votes.html").read_text(encoding="utf-8")


# --- metrics


@laws
@given(generators(), st.integers(2, 40), st.integers(2, 4))
def test_the_metrics_are_those_of_scikit_learn(generator, n, num_classes):
    true = torch.randint(num_classes, (n,), generator=generator).numpy()
    predicted = torch.randint(num_classes, (n,), generator=generator).numpy()
    expected = {
        "accuracy": sklearn.metrics.accuracy_score(true, predicted),
        "balanced_accuracy": sklearn.metrics.recall_score(
            true, predicted, average="macro", labels=np.unique(true), zero_division=0
        ),
        "f1_macro": sklearn.metrics.f1_score(true, predicted, average="macro"),
        "mse": sklearn.metrics.mean_squared_error(true, predicted),
        "mae": sklearn.metrics.mean_absolute_error(true, predicted),
    }
    if len(np.unique(true)) > 1:
        expected["r2"] = sklearn.metrics.r2_score(true, predicted)
    for name, value in expected.items():
        assert METRICS[name].function(predicted, true) == pytest.approx(value), name
        if METRICS[name].per_unit is not None:
            per_unit = METRICS[name].per_unit(predicted, true)
            assert per_unit.shape == (n,)
            assert per_unit.mean() == pytest.approx(value), name
    binary, scores = true > 0, predicted.astype(float)
    if 0 < binary.sum() < n:
        expected = sklearn.metrics.roc_auc_score(binary, scores)
        columns = scores[:, None], np.stack([-scores, scores], axis=1)
        for given_scores in (scores, torch.from_numpy(scores), *columns):
            assert METRICS["auroc"].function(given_scores, binary) == pytest.approx(expected)
    if binary.any():
        expected = sklearn.metrics.f1_score(binary, predicted > 0)
        assert METRICS["f1"].function(predicted > 0, binary) == pytest.approx(expected)


def test_metrics_take_scores_columns_and_tensors_and_are_nan_where_undefined():
    scores = torch.tensor([[0.1, 0.9], [0.8, 0.2]])
    assert labels(scores).tolist() == [1, 0]
    assert METRICS["accuracy"].function(scores, np.array([[1], [1]])) == 0.5
    assert METRICS["accuracy"].function(np.array([[1.0], [0.0]]), np.array([1, 0])) == 1.0
    assert METRICS["mse"].function(np.array([[1.0], [3.0]]), np.array([1.0, 1.0])) == 2.0
    text = np.array(["cat", "dog"])
    assert METRICS["accuracy"].function(text.astype(object), text) == 1.0
    assert METRICS["accuracy"].function(np.array([True, False]), np.array([1, 1])) == 0.5
    mixed = np.array(["cat", None], dtype=object)
    assert METRICS["accuracy"].function(mixed, text) == 0.5
    two = np.array([[1.0, 5.0], [2.0, 7.0]])
    assert METRICS["mae"].per_unit(two, np.zeros((2, 2))).tolist() == [3.0, 4.5]
    assert METRICS["r2"].function(two, two) == 1.0
    assert np.isnan(METRICS["r2"].function(np.array([1.0, 2.0]), np.array([1.0, 1.0])))
    assert np.isnan(METRICS["auroc"].function(np.array([1.0, 2.0]), np.array([1, 1])))
    assert np.isnan(METRICS["f1"].function(np.array([0, 0]), np.array([0, 0])))


@pytest.mark.parametrize(
    ("name", "predictions", "targets", "message"),
    [
        ("accuracy", [0, 1], ["cat", "dog"], "targets are text, predictions are numbers"),
        ("f1", [0, 1], ["cat", "dog"], "targets are text, predictions are numbers"),
        ("f1_macro", [True, False], ["cat", "dog"], "targets are text, predictions are numbers"),
        ("balanced_accuracy", ["0", "1"], [0, 1], "targets are numbers, predictions are text"),
        ("accuracy", np.eye(2), ["cat", "dog"], "targets are text, predictions are scores"),
        ("accuracy", [b"cat", b"dog"], ["cat", "dog"], "predictions are bytes"),
        ("accuracy", np.array(["a", "b"], dtype=object), [0, 1], "predictions are text"),
        ("accuracy", np.array([0, 1], dtype=object), ["a", "b"], "predictions are numbers"),
        ("accuracy", [0, 1], [0.5, 1.0], "got fractions or NaN"),
        ("accuracy", [0, 1], [NAN, 1.0], "got fractions or NaN"),
        ("auroc", ["a", "b"], [0, 1], "predictions that are numbers, got text"),
        ("mse", [0.0, 1.0], ["a", "b"], "targets that are numbers, got text"),
        ("accuracy", [0.3, 0.7], [0, 1], "got fractions of shape (N,)"),
        ("accuracy", np.zeros((2, 2, 2)), [0, 1], "got shape (2, 2, 2)"),
        ("accuracy", [0, 1], np.zeros((2, 2)), "needs targets (N,), got shape (2, 2)"),
        ("f1", [0, 2], [0, 1], "f1 needs predictions of 0 and 1. Use f1_macro"),
        ("auroc", [0.1, 0.2], [1, 2], "targets of 0 and 1"),
        ("auroc", np.zeros((2, 3)), [0, 1], "scores (N,) or (N, 2)"),
        ("mse", np.zeros((2, 3)), [0.0, 1.0], "equal shapes, got (2, 3) and (2, 1)"),
    ],
)
def test_metrics_reject_what_they_cannot_compare(name, predictions, targets, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        METRICS[name].function(np.asarray(predictions), np.asarray(targets))


def test_the_metrics_have_their_direction():
    lower = {name for name, metric in METRICS.items() if not metric.higher_is_better}
    assert lower == {"mse", "mae"}


@pytest.mark.slow
@needs_chromium
@pytest.mark.parametrize("width", [390, 1400])
def test_the_page_of_missing_data_is_not_wider_than_the_screen(tmp_path, width):
    x = np.arange(60.0)
    names = ["a" * 70, "second modality with a long name", *(f"m{k}" for k in range(8))]
    features = {name: np.where(x % (k + 2) == 0, NAN, x) for k, name in enumerate(names)}
    test = mcar_test(features, names, method="permutation", num_permutations=9)
    text = missing_page(missingness_summary(features, names), test, title="b" * 80, date=DAY)
    script = (
        "document.body.dataset.overflow = "
        "document.documentElement.scrollWidth - document.documentElement.clientWidth;"
    )
    shown = in_chromium(text, script, tmp_path, width=width)
    assert re.search(r'data-overflow="(-?\d+)"', shown)[1] == "0"


@pytest.mark.parametrize("name", sorted(METRICS))
@pytest.mark.parametrize("where", ["targets", "predictions", "scores"])
def test_a_metric_does_not_hide_nan(name, where):
    function = METRICS[name].function
    broken, whole = np.array([0.0, 1.0, np.nan, 1.0]), np.array([0.0, 1.0, 1.0, 1.0])
    scores = np.array([[0.8, 0.2], [0.3, 0.7], [np.nan, 1.0], [0.1, 0.9]])
    given = {"targets": (whole, broken), "predictions": (broken, whole), "scores": (scores, whole)}
    try:
        value = function(*given[where])
    except ValueError:
        return
    assert np.isnan(value) or (name, where) == ("auroc", "scores")  # it reads the second column


def test_numbers_on_dark_cells_of_the_correlations_are_white():
    """The correlation of a and b is 1, and that of c with them is 0."""
    from matplotlib import pyplot as plt

    mask = np.array([[True, True, True], [True, True, False]] * 4)
    mask[4:, :2] = False
    figure = plot_missingness(missingness_summary(mask, ["a", "b", "c"]))
    panel = next(axes for axes in figure.axes if axes.get_title() == "correlation of missingness")
    colours = {(text.get_text(), text.get_color()) for text in panel.texts}
    plt.close(figure)
    assert colours == {("1.0", "white"), ("0.0", "black")}


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["missing", "x.csv", "--tset=auto"], "Did you mean --test?"),
        (["report", "m:f", "--data", "x", "--metric", "mse", "--sed", "1"], "Did you mean --seed?"),
        (["missingx", "x.csv"], "Did you mean missing?"),
        (["missing", "x.csv", "--test", "littl"], "Did you mean little?"),
        (["missing", "x.csv", "--nothing-like-it"], None),
    ],
)
def test_a_mistyped_word_gets_a_suggestion(capsys, words, meant):
    assert main(words) == 2
    printed = capsys.readouterr().err
    assert meant in printed if meant else "Did you mean" not in printed


@pytest.mark.parametrize("command", [[], ["missing"], ["report"]])
def test_a_help_text_begins_with_an_example_and_ends_with_the_manual(capsys, command):
    assert main([*command, "--help"]) == 0
    lines = capsys.readouterr().out.splitlines()
    example = next(n for n, line in enumerate(lines) if line.startswith("  invmod "))
    assert example < next(n for n, line in enumerate(lines) if line.endswith("arguments:"))
    assert lines[-1].startswith("Manual: ")
    assert all(len(line) < 100 for line in lines)
