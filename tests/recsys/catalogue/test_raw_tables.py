"""Raw files of many kinds are read as the tables that they are; errors name the line."""

import gzip
import json
import os

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from milk_recsys.base.errors import DataError, OptionError
from milk_recsys.catalogue.raw import delimited, dialect, tables
from milk_recsys.catalogue.raw.conditions import parse_conditions, rows_kept
from milk_recsys.catalogue.raw.tables import FrameTable, TextFormat, open_table


def rows_of(table, columns=None):
    """Return all rows of a table as tuples."""
    names = columns or table.columns
    return [row for _, frame in table.batches(names) for row in frame.select(names).rows()]


def read(tmp_path, content, name="t.csv", **form):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return open_table(path, TextFormat(**form))


# --- text files: separators, quotes, encodings ----------------------------------------------------

ROWS = [("1", "a, b", "x"), ("2", "c", 'he said "y"')]


@pytest.mark.parametrize(
    ("content", "separator", "quotes"),
    [
        ('id,t,u\n1,"a, b",x\n2,c,"he said ""y"""\n', ",", "doubled"),
        ('id;t;u\n1;a, b;x\n2;c;"he said ""y"""\n', ";", "doubled"),
        ('id;t;u\r\n"1";"a, b";"x"\r\n"2";"c";"he said \\"y\\""\r\n', ";", "escaped"),
        ('id\tt\tu\n1\ta, b\tx\n2\tc\the said "y"\n', "\t", "doubled"),
        ('id|t|u\n1|a, b|x\n2|c|he said "y"\n', "|", "doubled"),
        ('id::t::u\n1::a, b::x\n2::c::he said "y"\n', "::", "doubled"),
        # A quote that is never closed is a plain character.
        ('id\tt\tu\n1\ta, b\tx\n2\tc\t"he\n', "\t", "none"),
    ],
)
def test_separators_and_quotes_are_found(tmp_path, content, separator, quotes):
    table = read(tmp_path, content)
    assert (table.dialect.separator, table.dialect.quotes) == (separator, quotes)
    assert table.columns == ("id", "t", "u")
    expected = ROWS if quotes != "none" else [ROWS[0], ("2", "c", '"he')]
    assert rows_of(table) == expected


@pytest.mark.parametrize("block", [40, 1 << 24])
@pytest.mark.parametrize("separator", [",", "::"])
def test_blocks_make_no_difference(tmp_path, block, separator, monkeypatch):
    lines = [f"{k}{separator}{'x' * (k % 7)}{separator}{k * k}" for k in range(60)]
    monkeypatch.setattr(delimited, "BLOCK_BYTES", block)
    table = read(tmp_path, "\n".join([f"a{separator}b{separator}c", *lines]))
    assert rows_of(table) == [tuple(line.split(separator)) for line in lines]


def test_cells_over_several_lines_blank_lines_and_a_byte_order_mark(tmp_path):
    content = '\ufeffid;t\r\n1;"a\r\n\r\nb"\r\n\r\n2;c\r\n\r\n'
    table = read(tmp_path, content)
    assert table.columns == ("id", "t")
    assert rows_of(table) == [("1", "a\r\n\r\nb"), ("2", "c")]
    assert table.place(0).endswith("t.csv, line 2")
    assert table.place(1).endswith("t.csv, line 6")


@pytest.mark.parametrize(
    ("encoding", "given"),
    [("utf-8", None), ("utf-8-sig", None), ("utf-16", None), ("latin-1", "latin-1")],
)
@pytest.mark.parametrize("zipped", [False, True])
def test_encodings_and_compression(tmp_path, encoding, given, zipped):
    content = "id,t\n1,né\n".encode(encoding)
    # Two members one after the other are one file.
    parts = [content[:9], content[9:]]
    content = b"".join(map(gzip.compress, parts)) if zipped else content
    table = read(tmp_path, content, "t.csv.gz" if zipped else "t.csv", encoding=given)
    assert rows_of(table) == [("1", "né")]


def test_another_encoding_is_an_error_that_names_the_option_and_the_line(tmp_path, monkeypatch):
    content = "id,t\n1,e\n2,né\n".encode("latin-1")
    with pytest.raises(DataError, match=r"t.csv, line 3: is not utf-8 text.*--encoding latin-1"):
        read(tmp_path, content)
    # Behind the sample as well.
    monkeypatch.setattr(dialect, "SAMPLE_BYTES", 8)
    with pytest.raises(DataError, match=r"t.csv, line 3: is not utf-8 text.*--encoding latin-1"):
        rows_of(read(tmp_path, content))
    with pytest.raises(DataError, match="--encoding: 'klingon' is not known"):
        read(tmp_path, content, encoding="klingon")


def test_a_file_without_header(tmp_path):
    table = read(tmp_path, "7\ta\n007\tb\n", header=False)
    assert table.columns == ("1", "2")
    assert rows_of(table) == [("7", "a"), ("007", "b")]
    with pytest.raises(DataError, match=r"has no column 'user'; it has 1, 2. Without a header"):
        table.need("user")
    with pytest.raises(DataError, match="If it has no header, give --no-header"):
        read(tmp_path, "7\ta\n007\tb\n").need("user")


def test_names_of_columns_are_trimmed_and_distinct(tmp_path):
    table = read(tmp_path, " id ,t,,t,\n1,2,3,4,5\n")
    assert table.columns == ("id", "t", "", "t (2)", " (2)")
    assert rows_of(table, ["", "t (2)"]) == [("3", "4")]


def test_rows_of_other_lengths_are_errors_with_their_line(tmp_path):
    table = read(tmp_path, 'a,b\n1,"2\n3"\n4\n5,6\n')
    with pytest.raises(DataError, match=r"t.csv, line 4: has 1 cell, but the header has 2"):
        rows_of(table)


def test_a_backslash_before_a_quote_behind_the_sample_is_not_misread(tmp_path, monkeypatch):
    monkeypatch.setattr(dialect, "SAMPLE_BYTES", 20)
    monkeypatch.setattr(delimited, "SAMPLE_BYTES", 20)
    content = 'a,b\n1,"x"\n2,"y"\n3,"z"\n4,"a \\"b\\" c"\n'
    with pytest.raises(DataError, match=r"State --quotes escaped if a backslash"):
        rows_of(read(tmp_path, content))
    assert rows_of(read(tmp_path, content, quotes="escaped"))[-1] == ("4", 'a "b" c')


# --- decimal commas -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "decimal"),
    [
        ("id;p\n1;1.034,50\n2;885,20\n", ","),
        ("id;p\n1;-0,0048\n", ","),
        ("id;p\n1;0.5\n", "."),
        ("id\tp\n1\t12,5\n2\tk. A.\n", ","),
        # Either of the two: the point is assumed, and "1,234" will be a bad cell.
        ("id;p\n1;1,234\n", "."),
        ("id;t\n1;1,5 m\n", "."),
        ('id,p\n1,"12,5"\n', "."),
    ],
)
def test_the_decimal_sign_is_found(tmp_path, content, decimal):
    assert read(tmp_path, content).decimal == decimal


def test_two_decimal_signs_in_one_file_are_an_error(tmp_path):
    content = "id;p;q\n1;0,5;0.5\n"
    with pytest.raises(DataError, match="'p' has decimal commas, and 'q' has decimal points"):
        read(tmp_path, content)
    assert read(tmp_path, content, decimal=",").decimal == ","


# --- other formats --------------------------------------------------------------------------------


def test_recbole_headers_name_types_and_quotes_are_plain(tmp_path):
    content = 'item_id:token\ttitle:token_seq\temb:float_seq\n007\t"So" it\t0.1 0.2\n'
    table = read(tmp_path, content, "books.item")
    assert table.columns == ("item_id", "title", "emb")
    assert table.types == {"item_id": "token", "title": "token_seq", "emb": "float_seq"}
    assert rows_of(table) == [("007", '"So" it', "0.1 0.2")]


def test_json_lines(tmp_path):
    records = [
        {"id": 7, "t": "a", "e": [1, 2.5], "w": ["x", ["y", "z"]], "d": {"k": {"l": 1}}},
        {"id": 8, "e": None, "w": [], "p": "from 3"},
    ]
    content = "\n".join(map(json.dumps, records)) + "\n\n"
    table = read(tmp_path, gzip.compress(content.encode()), "t.jsonl.gz")
    assert table.columns == ("id", "t", "e", "w", "d", "p")
    assert rows_of(table) == [
        (7, "a", [1.0, 2.5], ["x", "y", "z"], '{"k": {"l": 1}}', None),
        (8, None, None, [], None, "from 3"),
    ]
    # One list of objects, and lines that are Python literals.
    assert rows_of(read(tmp_path, json.dumps(records), "t.json"), ["id"]) == [(7,), (8,)]
    literals = "\n".join(map(repr, records))
    assert rows_of(read(tmp_path, literals, "meta.json"), ["id", "t"]) == [(7, "a"), (8, None)]


def test_long_whole_numbers_of_json_keep_their_digits(tmp_path):
    table = read(tmp_path, '{"id": 12345678901234567890123}\n', "t.jsonl")
    assert table.distinct_ids("id") == ["12345678901234567890123"]


def test_json_errors_name_the_line(tmp_path):
    with pytest.raises(DataError, match=r"t.jsonl, line 2: is neither JSON nor a Python literal"):
        read(tmp_path, '{"a": 1}\n{"a": \n', "t.jsonl")
    with pytest.raises(DataError, match=r"t.jsonl, line 2: must be an object, got int"):
        read(tmp_path, '{"a": 1}\n3\n', "t.jsonl")


@pytest.mark.parametrize("name", ["t.parquet", "t.feather"])
def test_columns_of_parquet_and_arrow(tmp_path, name):
    data = {
        "id": pa.array([7, 8, 9]),
        "": pa.array([0, 1, 2]),
        "word": pa.array(["a", None, "b"]).dictionary_encode(),
        "fixed": pa.array([[1.0, 2.0], None, [3.0, 4.0]], pa.list_(pa.float32(), 2)),
        "lists": pa.array([[1.0], [], None]),
    }
    write = pq.write_table if name.endswith("parquet") else pyarrow.feather.write_feather
    write(pa.table(data), tmp_path / name)
    table = open_table(tmp_path / name)
    assert table.columns == ("id", "", "word", "fixed", "lists")
    assert rows_of(table) == [
        (7, 0, "a", [1.0, 2.0], [1.0]),
        (8, 1, None, None, []),
        (9, 2, "b", [3.0, 4.0], None),
    ]


def test_parts_in_a_folder_are_one_table(tmp_path):
    folder = tmp_path / "sales"
    (folder / "day=1").mkdir(parents=True)
    pl.DataFrame({"user": [1, 2], "item": ["a", "b"]}).write_parquet(folder / "day=1/p0.parquet")
    pl.DataFrame({"item": ["c"], "user": ["3"]}).write_parquet(folder / "p1.parquet")
    (folder / "_SUCCESS").touch()
    table = open_table(folder)
    assert table.distinct_ids("user") == ["1", "2", "3"]
    assert table.distinct_ids("item") == ["a", "b", "c"]
    assert table.place(2).endswith("p1.parquet, row 0")
    (folder / "notes.txt").write_text("x")
    with pytest.raises(DataError, match=r"files of several kinds \(.parquet, .txt\)"):
        open_table(folder)


def test_parts_of_one_table_have_one_decimal_sign(tmp_path):
    folder = tmp_path / "prices"
    folder.mkdir()
    (folder / "a.csv").write_text("item;price\na;2,5\n")
    (folder / "b.csv").write_text("item;price\nb;3\n")
    table = open_table(folder)
    found = [table.numbers(frame, "price", 0) for _, frame in table.batches(["price"])]
    assert pl.concat(found).to_list() == [2.5, 3]
    (folder / "c.csv").write_text("item;price\nc;1.25\n")
    with pytest.raises(DataError, match=r"a\.csv has .* commas, and c\.csv has .* points"):
        open_table(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\n \n", "is empty"),
        (b"a,b\n\0\0,1\n", "is a binary file of an unknown kind"),
        (b"\x80\x04\x95abc", "is a pickle, which could run code and is never opened"),
        (b"PAR1 and no more", "cannot be read"),
        (b"\x93NUMPY\x01\0", r"is a file of arrays \(npy\), not a table"),
        (gzip.compress(b"a,b\n1,2\n" * 999, mtime=0)[:-9], "is not a complete gzip file"),
    ],
)
def test_files_that_are_no_tables_are_errors_of_one_sentence(tmp_path, content, message):
    with pytest.raises(DataError, match=message) as error:
        rows_of(read(tmp_path, content))
    assert len(str(error.value).splitlines()) == 1


def test_paths_that_are_no_regular_files_are_errors(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        open_table(tmp_path / "nowhere.csv")
    with pytest.raises(DataError, match="the folder has no file"):
        open_table(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="not a regular file"):
        open_table(tmp_path / "pipe")


# --- ids and conditions ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["7", "07", "007", "3e0", "30e2"], ["7", "07", "007", "3e0", "30e2"]),
        (["12.0", "7.0"], ["12", "7"]),
        (["12.0", "7"], ["12.0", "7"]),
        ([" p1 ", "\ufeffp2", "p3\u00a0"], ["p1", "p2", "p3"]),
        (["1" * 40], ["1" * 40]),
    ],
)
def test_ids_are_text(tmp_path, cells, expected):
    table = read(tmp_path, "\n".join(["item,x", *(f"{cell},0" for cell in cells)]) + "\n")
    assert table.distinct_ids("item") == expected


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([2.0, None, float("nan")], ["2", None, None]),
        ([2, 3], ["2", "3"]),
        ([b"a", b"b"], ["a", "b"]),
    ],
)
def test_ids_of_typed_columns(values, expected):
    table = FrameTable(pl.DataFrame({"item": values}), "frame")
    assert table.distinct_ids("item") == expected


@pytest.mark.parametrize("value", [1.5, 1e300])
def test_numbers_that_cannot_be_ids_are_errors(value):
    table = FrameTable(pl.DataFrame({"item": [1.0, value]}), "frame")
    with pytest.raises(DataError, match=r"frame, row 1, column 'item': .* cannot be an id"):
        table.distinct_ids("item")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["n>1"], [False, True, False, False]),
        (["n>=1", "c=a"], [True, False, False, False]),
        (["c!=a"], [False, True, False, True]),
        (["c~^[ab]$"], [True, True, True, False]),
        (["c!~b"], [True, False, True, True]),
        (["n != "], [True, True, True, False]),
    ],
)
def test_conditions(words, expected):
    frame = pl.DataFrame({"n": ["1", "2", "-3", None], "c": ["a", "b ", " a", None]})
    kept = rows_kept(parse_conditions(words), FrameTable(frame, "t"), frame, 0)
    assert kept.to_list() == expected


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("n", "must be COLUMN, a sign and a value"),
        ("n>x", "must compare with a number"),
        ("n~(", "is no regular expression"),
    ],
)
def test_invalid_conditions(word, message):
    with pytest.raises(OptionError, match=message):
        parse_conditions([word])


def test_blocks_of_rows_make_no_difference_for_ids(monkeypatch):
    monkeypatch.setattr(tables, "ROWS_AT_ONCE", 2)
    frame = pl.DataFrame({"item": np.arange(5.0)})
    assert FrameTable(frame, "t").distinct_ids("item") == ["0", "1", "2", "3", "4"]
