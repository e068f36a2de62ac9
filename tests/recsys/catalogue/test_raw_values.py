"""Cells mean numbers, vectors, texts, lists and times; columns are features only where they are."""

import datetime
import re

import numpy as np
import polars as pl
import pytest

from milk_recsys.base.errors import DataError
from milk_recsys.catalogue.raw.columns import describe_columns
from milk_recsys.catalogue.raw.feature_columns import choose_features, find_columns
from milk_recsys.catalogue.raw.tables import FrameTable, TextFormat
from milk_recsys.catalogue.raw.times import Times
from milk_recsys.catalogue.raw.values import BadCell, Missing, numbers, vectors
from milk_recsys.catalogue.raw.words import items_of, texts


def number_list(cells, decimal=".", further=()):
    return numbers(pl.Series(cells), decimal, further).to_list()


# --- numbers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "decimal", "value"),
    [
        ("1.5", ".", 1.5),
        (" -2e-3 ", ".", -0.002),
        ("1,034.50", ".", 1034.5),
        ("1.034,50", ",", 1034.5),
        ("1.034", ",", 1034),
        ("1.034", ".", 1.034),
        ("1 034,5", ",", 1034.5),
        ("-0,0048", ",", -0.0048),
        ("TRUE", ".", 1),
        ("no", ".", 0),
        ("", ".", None),
        ("NaN", ".", None),
        ("NULL", ".", None),
        ("k. A.", ",", None),
    ],
)
def test_numbers(cell, decimal, value):
    assert number_list([cell], decimal) == [value]


@pytest.mark.parametrize(
    ("cells", "decimal", "row", "problem"),
    [
        (["1", "-"], ".", 1, "must be a number, got '-'.*--missing"),
        (["1,234"], ".", 0, "If the file has decimal commas, give --decimal ,"),
        (["1.5.2"], ".", 0, "must be a number"),
        (["12.34"], ",", 0, "must be a number"),
        (["inf"], ".", 0, "is an infinity"),
        (["0x1f"], ".", 0, "must be a number"),
    ],
)
def test_a_bad_number_is_reported_with_its_row(cells, decimal, row, problem):
    bad = numbers(pl.Series(cells), decimal)
    assert isinstance(bad, BadCell)
    assert bad.row == row
    assert re.search(problem, bad.problem)


def test_further_spellings_of_an_empty_cell():
    assert number_list(["-", "1"], ".", Missing(("-",)).of("p")) == [None, 1]
    missing = Missing(("year=0", "x=y"), ["year", "title"])
    assert missing.of("year") == ["0", "x=y"]
    assert missing.of("title") == ["x=y"]


# --- vectors, texts and lists ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "cell", ["0.5 -1 2e1", "[0.5, -1, 2e1]", "(0.5 -1.\n 20)", "0.5;-1;20", " [ 0.5  -1  20. ] "]
)
def test_vectors_in_texts(cell):
    first, second = vectors(pl.Series([cell, "nan"]))
    assert first.tolist() == [0.5, -1, 20]
    assert len(second) == 0


def test_vectors_in_lists():
    column = pl.Series([[1.0, None], None, [], [2.0, 3.0]])
    found = [x.tolist() for x in vectors(column)]
    assert str(found) == "[[1.0, nan], [], [], [2.0, 3.0]]"
    fixed = pl.Series([[1, 2], None], dtype=pl.Array(pl.Int64, 2))
    assert [x.tolist() for x in vectors(fixed)] == [[1.0, 2.0], []]
    assert vectors(pl.Series([], dtype=pl.List(pl.Float64))) == []


def test_texts_and_levels():
    cells = pl.Series(["Penguin &amp; Sons", "['a b', 'c']", "[not a list", " NULL ", None])
    assert texts(cells) == ["Penguin & Sons", "a b c", "[not a list", "", ""]
    assert items_of(cells)[:2] == [["Penguin & Sons"], ["a b", "c"]]
    assert items_of(pl.Series(["Action|War", "", "A"])) == [["Action", "War"], [], ["A"]]
    lists = pl.Series([["x", None, "y"], [], None])
    assert texts(lists) == ["x y", "", ""]
    assert items_of(lists) == [["x", "y"], [], []]


# --- times ----------------------------------------------------------------------------------------

NOON = 1675252800.0  # 2023-02-01 12:00 UTC


@pytest.mark.parametrize(
    ("cell", "seconds"),
    [
        ("1675252800", NOON),
        ("1675252800.5", NOON + 0.5),
        ("1675252800500", NOON + 0.5),
        ("1675252800500000", NOON + 0.5),
        ("2023-02-01T12:00:00Z", NOON),
        ("2023-02-01 13:00:00+01:00", NOON),
        ("2023-02-01 12:00:00.250", NOON + 0.25),
        ("2023-02-01", NOON - 43200),
        ("20230201", NOON - 43200),
        ("01.02.2023 12:00", NOON),
        ("13/02/2023 12:00", NOON + 12 * 86400),
        ("02/13/2023 12:00", NOON + 12 * 86400),
        ("01-Feb-2023", NOON - 43200),
    ],
)
def test_times_in_texts(cell, seconds):
    assert Times().seconds(pl.Series([cell])).to_list() == [seconds]


def test_times_of_typed_columns():
    paris = pl.Series([datetime.datetime(2023, 2, 1, 12)]).dt.replace_time_zone("Europe/Paris")
    assert Times().seconds(paris).to_list() == [NOON - 3600]
    assert Times().seconds(pl.Series([datetime.date(2023, 2, 1)])).to_list() == [NOON - 43200]
    assert Times().seconds(pl.Series([1675252800, None])).to_list() == [NOON, None]


def test_a_time_that_can_be_read_in_two_ways_is_refused():
    bad = Times().seconds(pl.Series(["02/03/2023 12:00"]))
    assert "with the day or the month first" in bad.problem
    read = Times("%d/%m/%Y %H:%M").seconds(pl.Series(["01/02/2023 12:00"]))
    assert read.to_list() == [NOON]


def test_blocks_of_times_have_the_format_of_the_first():
    clock = Times()
    assert clock.seconds(pl.Series(["2023-02-01"])).to_list() == [NOON - 43200]
    bad = clock.seconds(pl.Series(["2023-02-01", "yesterday"]))
    assert (bad.row, "'yesterday' does not have the format" in bad.problem) == (1, True)
    assert "is no time in a known format" in Times().seconds(pl.Series(["yesterday"])).problem


# --- columns --------------------------------------------------------------------------------------


def kinds(data, **form):
    table = FrameTable(pl.DataFrame(data), "t", TextFormat(**form))
    return describe_columns(table, ["item"])


def chosen(data, modality="image"):
    return [column.name for column in choose_features(kinds(data), modality, "t")]


TEXTS = ["a", "b"]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        ({"a": ["1", "2"], "b": [3, 4], "note": TEXTS}, ["a", "b"]),
        ({"": [0, 1], "Unnamed: 0": [0, 1], "a": [1, 2]}, ["a"]),
        ({"price": [9.5, 8.5], "e0": [1, 2], "e1": [1, 2]}, ["e0", "e1"]),
        ({"price": [9.5, 8.5], "a": [1, 2]}, ["a"]),
        ({"price": ["1", "2"], "emb": ["0.1 0.1 0.2", "0.2 0.1 0.3"]}, ["emb"]),
        ({"n": [1, 2], "emb": [[1.0, 2.0], [3.0, 4.0]]}, ["emb"]),
        ({"image": [[1.0], [2.0]], "text": [[1.0], [2.0]]}, ["image"]),
        ({"t0": [1, 2], "t1": [1, 2], "image0": [1, 2], "image1": [1, 2]}, ["image0", "image1"]),
        ({"drama": [True, False], "war": ["True", "False"]}, ["drama", "war"]),
        # One bad cell does not hide its column.
        ({"e0": ["1", "2", "-"], "e1": ["1", "2", "3"]}, ["e0", "e1"]),
    ],
)
def test_columns_that_are_features_unasked(data, expected):
    assert chosen({"item": [*"xyz"][: len(next(iter(data.values())))], **data}) == expected


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"price": [1.5, 2.5]}, r"no column that is a feature unasked: price \(numbers\)"),
        ({"code": ["0910", "0920"]}, "no column that is a feature unasked"),
        ({"note": TEXTS}, r"note \(text\).*read texts with --text"),
        ({"a": [[1.0], [2.0]], "b": [[1.0], [2.0]]}, "several columns of vectors: a .*, b"),
        ({"a1": [1, 2], "a2": [1, 2], "b1": [1, 2], "b2": [1, 2]}, r"numbered columns: a\*, b\*"),
    ],
)
def test_tables_without_clear_features_are_refused(data, message):
    with pytest.raises(DataError, match=message):
        chosen({"item": ["x", "y"], **data})


def test_columns_that_the_user_names():
    columns = kinds({"item": ["x", "y"], "price": [1, 2], "e 1": [1, 2], "e 2": [1, 2], "t": TEXTS})
    assert [c.name for c in find_columns(columns, ["e *", "price"], "t")] == ["e 1", "e 2", "price"]
    with pytest.raises(DataError, match="t: has no column 'cost'; it has price"):
        find_columns(columns, ["cost"], "t")
    with pytest.raises(DataError, match="column 't': holds text, no numbers"):
        find_columns(columns, ["t"], "t")


def test_vectors_that_were_cut_when_printed_are_refused_by_name():
    printed = np.array2string(np.arange(2000.0))
    columns = kinds({"item": ["x", "y"], "long": [printed, printed], "v": ["[1 2]", "[3 4]"]})
    assert chosen({"item": ["x"], "long": [printed], "v": ["[1 2]"]}) == ["v"]
    with pytest.raises(DataError, match=r"column 'long': its vectors were cut with \.\.\."):
        find_columns(columns, ["long"], "t")
    assert str(columns[0]) == "long (vectors cut with ... when they were printed)"
