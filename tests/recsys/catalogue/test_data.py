"""Reading data sets: correct files are read, and each kind of mistake has its own message."""

import dataclasses
import json
import pickle
from pathlib import Path

import numpy as np
import pytest

from milk_recsys.catalogue import npy, pairs, tsv
from milk_recsys.catalogue.dataset import DataError, read_dataset

PAIRS = [(0, 0), (0, 2), (1, 1), (2, 3)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small correct data set: 3 users, 5 items (item 4 without interactions), two modalities."""
    root = tmp_path / "shop"
    (root / "features").mkdir(parents=True)
    manifest = {
        "name": "shop",
        "num_users": 3,
        "num_items": 5,
        "modalities": {
            "text": {"file": "features/text.npy", "dim": 4},
            "image": {"file": "features/image.npy", "dim": 2, "dtype": "float16"},
        },
    }
    (root / "dataset.json").write_text(json.dumps(manifest))
    write_interactions(root, [f"{u}\t{i}" for u, i in PAIRS])
    rng = np.random.default_rng(0)
    text = rng.standard_normal((5, 4)).astype(np.float32)
    text[2] = np.nan
    np.save(root / "features/text.npy", text)
    np.save(root / "features/image.npy", rng.standard_normal((5, 2)).astype(np.float16))
    return root


def write_interactions(folder: Path, lines: list[str], header: str = "user\titem") -> None:
    (folder / "interactions.tsv").write_text("\n".join([header, *lines]) + "\n")


def change_manifest(folder: Path, change) -> None:
    manifest = json.loads((folder / "dataset.json").read_text())
    change(manifest)
    (folder / "dataset.json").write_text(json.dumps(manifest))


def change_features(folder: Path, change, modality: str = "text") -> None:
    path = folder / f"features/{modality}.npy"
    array = np.load(path)
    changed = change(array)
    np.save(path, array if changed is None else changed)


# --- correct files --------------------------------------------------------------------------------


def test_a_correct_folder(folder):
    read = read_dataset(folder)
    assert (read.name, read.num_users, read.num_items) == ("shop", 3, 5)
    assert read.modalities == ("text", "image")
    assert read.interactions.tolist() == [list(pair) for pair in PAIRS]
    assert read.interactions.dtype == np.int32
    assert read.natural_mask[:, 0].tolist() == [True, True, False, True, True]
    assert read.natural_mask[:, 1].all()
    assert isinstance(read.features["text"], np.memmap)
    assert not read.features["text"].flags.writeable
    assert read.features["image"].dtype == np.float16
    assert read.notes == ()
    assert read.user_names is None
    assert read.item_names is None


def test_pairs_are_sorted_and_repeated_ones_merged_with_a_note(folder):
    write_interactions(folder, ["2\t3", "0\t2", "1\t1", "0\t0", "0\t2"])
    read = read_dataset(folder)
    assert read.interactions.tolist() == [list(pair) for pair in PAIRS]
    assert read.notes == ("interactions.tsv: 1 repeated pair was merged.",)


def test_other_columns_are_ignored_with_a_note(folder):
    write_interactions(folder, ['5.0\t0\t0\t"', "1.5\t2\t1\té"], "rating\titem\tuser\trating")
    read = read_dataset(folder)
    assert read.interactions.tolist() == [[0, 0], [1, 2]]
    assert read.notes == ("interactions.tsv: the columns rating, rating are ignored.",)


def test_windows_line_ends_a_byte_order_mark_and_blank_lines_are_accepted(folder):
    text = "\ufeffuser\titem\r\n0\t1\r\n\r\n1\t2"
    (folder / "interactions.tsv").write_bytes(text.encode())
    assert read_dataset(folder).interactions.tolist() == [[0, 1], [1, 2]]


def test_manifest_entries_that_differ_from_the_files_are_noted(folder):
    def change(manifest):
        manifest["num_interactions"] = 9
        manifest["modalities"]["text"] |= {"missing_rows": 3, "dtype": "float64"}

    change_manifest(folder, change)
    assert read_dataset(folder).notes == (
        "interactions.tsv has 4 distinct pairs, but dataset.json states 9.",
        "text: dtype is float32, but dataset.json states float64.",
        "text: missing_rows is 1, but dataset.json states 3.",
    )


def test_names(folder):
    (folder / "users.tsv").write_text("user\tname\n2\tCarla\n0\tAda\n1\tBo b\n")
    (folder / "items.tsv").write_text(
        "item\tname\tyear\n" + "".join(f"{i}\tsong {i % 4}\t1999\n" for i in range(5))
    )
    read = read_dataset(folder)
    assert read.user_names == ("Ada", "Bo b", "Carla")
    assert read.item_names == ("song 0", "song 1", "song 2", "song 3", "song 0")
    assert read.notes == (
        "items.tsv: the column year is ignored.",
        "items.tsv: 1 name repeats an earlier one.",
    )


def test_a_link_inside_the_folder_is_followed(folder):
    (folder / "features/text.npy").rename(folder / "features/text_v2.npy")
    (folder / "features/text.npy").symlink_to("text_v2.npy")
    assert read_dataset(folder).modalities == ("text", "image")


def test_the_folder_itself_may_be_a_link(folder, tmp_path):
    (tmp_path / "link").symlink_to(folder)
    assert read_dataset(tmp_path / "link").num_items == 5


@pytest.mark.parametrize("elements", [1, 8, 1 << 22])
def test_checks_do_not_depend_on_the_size_of_a_chunk(folder, elements, monkeypatch):
    monkeypatch.setattr(npy, "CHUNK_ELEMENTS", elements)
    assert read_dataset(folder).natural_mask[:, 0].tolist() == [True, True, False, True, True]
    change_features(folder, lambda x: x[3].__setitem__(1, np.nan))
    with pytest.raises(DataError, match="row 3: is NaN in some places only"):
        read_dataset(folder)


def as_npy(folder, array):
    (folder / "interactions.tsv").unlink(missing_ok=True)
    np.save(folder / "interactions.npy", array)


@pytest.mark.parametrize("kind", [np.int32, np.int64, np.uint16])
def test_sorted_pairs_in_a_npy_file_are_memory_mapped(folder, kind):
    text = read_dataset(folder)
    as_npy(folder, np.array(PAIRS, dtype=kind))
    read = read_dataset(folder)
    assert isinstance(read.interactions, np.memmap)
    assert not read.interactions.flags.writeable
    assert read.interactions.dtype == kind
    assert np.array_equal(read.interactions, text.interactions)
    assert np.array_equal(read.item_counts, [1, 1, 1, 1, 0])
    assert read.fingerprint == text.fingerprint
    assert read.notes == ()


@pytest.mark.parametrize("at_once", [1, 2, 3, 100])
@pytest.mark.parametrize("order", ["C", "F"])
def test_pairs_of_npy_and_text_files_are_sorted_and_merged_equally(
    folder, at_once, order, monkeypatch
):
    monkeypatch.setattr(pairs, "PAIRS_AT_ONCE", at_once)
    given = np.array([(2, 3), (0, 2), (1, 1), (0, 0), (0, 2), (2, 3)])
    write_interactions(folder, [f"{u}\t{i}" for u, i in given])
    text = read_dataset(folder)
    as_npy(folder, np.asarray(given, order=order))
    read = read_dataset(folder)
    assert (
        read.interactions.tolist() == text.interactions.tolist() == [list(pair) for pair in PAIRS]
    )
    assert read.interactions.dtype == np.int32
    assert text.notes == ("interactions.tsv: 2 repeated pairs were merged.",)
    assert read.notes == ("interactions.npy: 2 repeated pairs were merged.",)
    assert read.fingerprint == text.fingerprint


@pytest.mark.parametrize("at_once", [1, 3])
@pytest.mark.parametrize("place", range(1, 5))
def test_unsorted_pairs_are_sorted_wherever_they_are(folder, at_once, place, monkeypatch):
    monkeypatch.setattr(pairs, "PAIRS_AT_ONCE", at_once)
    in_order = np.array([(0, 0), (0, 1), (0, 2), (1, 0), (2, 0)], dtype=np.int32)
    for unsorted in (
        np.insert(in_order, place, in_order[place - 1], axis=0),
        in_order[[*range(place), 4, *range(place, 4)]],
    ):
        as_npy(folder, unsorted)
        assert read_dataset(folder).interactions.tolist() == in_order.tolist()


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (
            np.zeros((4, 3), dtype=np.int32),
            r"must hold whole numbers .* \(pairs, 2\).*; got '<i4' \(4, 3\)",
        ),
        (np.zeros(4, dtype=np.int32), r"got '<i4' \(4,\)"),
        (np.zeros((4, 2)), r"got '<f8' \(4, 2\)"),
        (np.zeros((4, 2), dtype=">i4"), "got '>i4'"),
        (np.zeros((4, 2), dtype=np.bool_), r"got '\|b1'"),
        (np.zeros((0, 2), dtype=np.int32), "there are no interactions at all"),
        (
            np.array([(0, 0), (3, 0)]),
            "row 1: the user id 3 is out of range. Ids go from 0 to 2, as num_users",
        ),
        (
            np.array([(0, 0), (1, 0), (1, 5)]),
            "row 2: the item id 5 is out of range. Ids go from 0 to 4, as num_items",
        ),
        (np.array([(0, 0), (0, -1)]), "row 1: the item id -1 is out of range"),
        (np.array([(0, 0), (2**40, 0)]), "row 1: the user id 1099511627776 is out of range"),
        (
            np.array([(0, 0), (0, 2**64 - 1)], dtype=np.uint64),
            "row 1: the item id 18446744073709551615 is out of",
        ),
        (np.array([[None, 1]]), "holds pickled Python objects"),
    ],
)
@pytest.mark.parametrize("at_once", [1, 100])
def test_bad_pairs_in_a_npy_file(folder, array, message, at_once, monkeypatch):
    monkeypatch.setattr(pairs, "PAIRS_AT_ONCE", at_once)
    as_npy(folder, array)
    with pytest.raises(DataError, match=f"interactions.npy.*{message}"):
        read_dataset(folder)


def test_a_damaged_npy_file_of_pairs_or_two_files(folder):
    np.save(folder / "interactions.npy", np.array(PAIRS))
    with pytest.raises(DataError, match=r"holds interactions.tsv and interactions.npy. Keep one"):
        read_dataset(folder)
    (folder / "interactions.tsv").unlink()
    content = (folder / "interactions.npy").read_bytes()
    for cut, message in (
        (content[:-1], "is truncated or damaged"),
        (b"0\t0\n", "is not a npy file"),
    ):
        (folder / "interactions.npy").write_bytes(cut)
        with pytest.raises(DataError, match=f"interactions.npy: {message}"):
            read_dataset(folder)


def test_empty_items_drop_pairs_of_a_npy_file(folder):
    as_npy(folder, np.array(PAIRS, dtype=np.int32))
    change_features(folder, lambda x: x[2].__setitem__(slice(None), np.nan), "image")
    read = read_dataset(folder, empty_items="drop")
    assert read.interactions.tolist() == [[0, 0], [1, 1], [2, 3]]


def test_a_text_file_of_many_blocks(folder, monkeypatch):
    change_manifest(folder, lambda m: m.update(num_users=50))
    every = [(u, i) for u in range(50) for i in range(5)]
    write_interactions(folder, [f"{u}\t{i}" for u, i in reversed(every)])
    monkeypatch.setattr(tsv, "BLOCK_BYTES", 64)
    assert read_dataset(folder).interactions.tolist() == [list(pair) for pair in every]
    for last, message in (
        ("0\t5", "the item id 5 is out of range"),
        ("0\tx", "must be a whole number, got 'x'"),
    ):
        write_interactions(folder, [*(f"{u}\t{i}" for u, i in every), last])
        with pytest.raises(DataError, match=f"interactions.tsv, line 252: .*{message}"):
            read_dataset(folder)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("elements", [1, 40, 1 << 22])
def test_the_largest_absolute_value_is_computed_while_reading(folder, kind, elements, monkeypatch):
    monkeypatch.setattr(npy, "CHUNK_ELEMENTS", elements)
    change_features(folder, lambda x: x.astype(kind))
    change_features(folder, lambda x: x[3].__setitem__(1, -7.5))
    read = read_dataset(folder)
    assert read.largest("text") == 7.5
    assert read.largest("image") == float(np.abs(read.features["image"]).max())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("milk_recsys.catalogue.dataset.scan_features", None)
        assert read.largest("text") == 7.5
    other = dataclasses.replace(read, features={**read.features, "text": np.full((5, 4), 9, kind)})
    assert other.largest("text") == 9
    assert other.fingerprint != read.fingerprint


def test_an_x_in_another_column_is_accepted(folder):
    write_interactions(folder, ["0\t0\tbox", "1\t2\t0x1"], "user\titem\tnote")
    assert read_dataset(folder).interactions.tolist() == [[0, 0], [1, 2]]


# --- mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "header"), [("0x1", "user\titem"), ("0X1\tx", "user\titem\tnote")]
)
def test_a_hexadecimal_id_is_refused(folder, cell, header):
    more = "\t" * header.count("note")
    write_interactions(folder, [f"0\t0{more}", f"1\t{cell}"], header)
    with pytest.raises(
        DataError, match=r"line 3: the item id must be a whole number, got '0[xX]1'"
    ):
        read_dataset(folder)


def test_a_path_that_cannot_be_followed(folder):
    change_manifest(folder, lambda m: m["modalities"]["text"].update(file="a\0b.npy"))
    with pytest.raises(DataError, match=r"modality 'text'.*\\x00b.npy' cannot be followed"):
        read_dataset(folder)
    change_manifest(folder, lambda m: m["modalities"]["text"].update(file="loop.npy"))
    (folder / "loop.npy").symlink_to("loop.npy")
    with pytest.raises(DataError, match=r"modality 'text'.*cannot be (followed|opened)"):
        read_dataset(folder)


@pytest.mark.parametrize("key", ["name", "modalities"])
def test_a_lone_surrogate_is_refused(folder, key):
    value = "\ud800" if key == "name" else {"\ud800": {"file": "features/text.npy", "dim": 4}}
    change_manifest(folder, lambda m: m.update({key: value}))
    with pytest.raises(DataError, match=r"dataset.json: .*name.* is not valid Unicode: '.ud800'"):
        read_dataset(folder)


def test_an_unreadable_npy_header(folder):
    text = b"{'descr': '<f4', 'shape': (5, 4\n"
    (folder / "features/text.npy").write_bytes(
        b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text
    )
    with pytest.raises(DataError, match="is truncated or damaged"):
        read_dataset(folder)


def test_no_such_folder(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        read_dataset(tmp_path / "nothing")


@pytest.mark.parametrize("name", ["dataset.json", "interactions.tsv", "features/image.npy"])
def test_missing_file(folder, name):
    (folder / name).unlink()
    with pytest.raises(DataError, match=f"{name}.*: no such file"):
        read_dataset(folder)


@pytest.mark.parametrize("name", ["dataset.json", "interactions.tsv", "features/image.npy"])
def test_a_folder_instead_of_a_file(folder, name):
    (folder / name).unlink()
    (folder / name).mkdir()
    with pytest.raises(DataError, match=f"{name}.*: is a folder, not a regular file"):
        read_dataset(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", "is not valid JSON"),
        (b"", "is not valid JSON"),
        (b"\xff\xfe\xfa", "is not UTF-8"),
        (b"[1, 2]", r"the file must be an object .*, got \[1, 2\]"),
        (b'{"num_users": 3, "num_users": 4}', "the key 'num_users' appears twice"),
        (b"[" * 100_000, "is not valid JSON"),
    ],
)
def test_malformed_manifest(folder, content, message):
    (folder / "dataset.json").write_bytes(content)
    with pytest.raises(DataError, match=f"dataset.json: {message}"):
        read_dataset(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m.pop("num_users"), "lacks the key `num_users`"),
        (lambda m: m.pop("num_items"), "lacks the key `num_items`"),
        (lambda m: m.pop("modalities"), "lacks the key `modalities`"),
        (lambda m: m.update(num_users=-3), "`num_users` of the file must be a whole .* got -3"),
        (lambda m: m.update(num_users=0), "`num_users` of the file must be a whole number from 1"),
        (lambda m: m.update(num_items="5"), "`num_items` of the file must be .* got '5'"),
        (lambda m: m.update(num_items=5.0), "`num_items` of the file must be .* got 5.0"),
        (lambda m: m.update(num_items=True), "`num_items` of the file must be .* got True"),
        (lambda m: m.update(num_items=10**30), "`num_items` of the file must be a whole number"),
        (lambda m: m.update(num_interactions=-1), "`num_interactions` of the file must be"),
        (lambda m: m.update(modalities=[]), "`modalities` must be an object"),
        (lambda m: m.update(modalities={}), "`modalities` is empty"),
        (lambda m: m["modalities"].update(text="t.npy"), "modality 'text' must be an object"),
        (lambda m: m["modalities"]["text"].pop("file"), "modality 'text' lacks the key `file`"),
        (lambda m: m["modalities"]["text"].pop("dim"), "modality 'text' lacks the key `dim`"),
        (lambda m: m["modalities"]["text"].update(file=3), "`file` of modality 'text' must be"),
        (lambda m: m["modalities"]["text"].update(dim=0), "`dim` of modality 'text' must be"),
        (lambda m: m["modalities"].update({" ": {}}), "a modality has an empty name"),
    ],
)
def test_wrong_manifest(folder, change, message):
    change_manifest(folder, change)
    with pytest.raises(DataError, match=f"dataset.json: .*{message}"):
        read_dataset(folder)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("-1\t0", "the user id -1 is negative. Ids go from 0 to 2"),
        ("0\t-1", "the item id -1 is negative. Ids go from 0 to 4"),
        ("3\t0", "the user id 3 is out of range. Ids go from 0 to 2, as num_users"),
        ("0\t5", "the item id 5 is out of range. Ids go from 0 to 4, as num_items"),
        ("0\t" + "9" * 40, "the item id 9+ is out of range"),
        ("ada\t0", "the user id must be a whole number, got 'ada'.*users.tsv"),
        ("0\t1.5", "the item id must be a whole number, got '1.5'"),
        ("0\tnan", "the item id must be a whole number, got 'nan'"),
        ("0\t", "the item id must be a whole number, got ''"),
        ("0", "has 1 tab-separated column, the header has 2"),
        ("0\t1\t2", "has 3 tab-separated columns, the header has 2"),
        ("0 1", "has 1 tab-separated column,"),
        ("0\t1.", "the item id must be a whole number, got '1.'"),
    ],
)
def test_bad_line(folder, line, message):
    write_interactions(folder, ["0\t1", "", line, "1\t1"])
    with pytest.raises(DataError, match=rf"interactions.tsv, line 4: {message}"):
        read_dataset(folder)


def test_bad_line_with_ignored_columns(folder):
    write_interactions(folder, ["1.0\t0\t0", "2.0\t7\t0"], "rating\titem\tuser")
    with pytest.raises(DataError, match=r"line 3: the item id 7 is out of range"):
        read_dataset(folder)


def test_binary_interactions(folder):
    (folder / "interactions.tsv").write_bytes(b"\x93NUMPY\x01\x00\xff")
    with pytest.raises(DataError, match=r"interactions.tsv: is not UTF-8"):
        read_dataset(folder)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("0\t1", "the header lacks the column `user`"),
        ("user,item", "the header lacks the column `user`; it is 'user,item'"),
        ("user\tsong", "the header lacks the column `item`"),
        ("user\titem\titem", "the header repeats the column `item`"),
    ],
)
def test_bad_header(folder, header, message):
    write_interactions(folder, ["0\t1\t1"], header)
    with pytest.raises(DataError, match=f"interactions.tsv, line 1: {message}"):
        read_dataset(folder)


def test_empty_interactions_file(folder):
    (folder / "interactions.tsv").write_text("")
    with pytest.raises(DataError, match="line 1: the header lacks the column `user`"):
        read_dataset(folder)


@pytest.mark.parametrize("text", ["user\titem", "user\titem\n", "user\titem\n\n\n"])
def test_no_interactions(folder, text):
    (folder / "interactions.tsv").write_text(text)
    with pytest.raises(DataError, match="there are no interactions at all"):
        read_dataset(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: x.astype(object), "holds pickled Python objects"),
        (lambda x: x[:4], "has 4 rows, but there are 5 items"),
        (lambda x: x[:0], "has 0 rows, but there are 5 items"),
        (lambda x: np.concatenate([x, x]), "has 10 rows, but there are 5 items"),
        (lambda x: x[:, :3], "has 3 columns, expected 4"),
        (lambda x: x[:, 0], r"must have two dimensions \(items, dim\), got the shape \(5,\)"),
        (lambda x: x[:, :, None], r"must have two dimensions .* \(5, 4, 1\)"),
        (lambda x: np.ones((5, 4), dtype=np.int64), "the dtype must be float16, .* got '<i8'"),
        (lambda x: x.astype(np.complex64), "the dtype must be float16"),
        (lambda x: x.astype(">f4"), "in native byte order, got '>f4'"),
        (lambda x: x[1].__setitem__(0, np.inf), "row 1: has an infinity"),
        (lambda x: x[4].__setitem__(3, -np.inf), "row 4: has an infinity"),
        (lambda x: x[2].__setitem__(0, np.inf), "row 2: has an infinity"),
        (lambda x: x[2].__setitem__(0, 1.0), "row 2: is NaN in some places only"),
    ],
)
def test_bad_features(folder, change, message):
    change_features(folder, change)
    with pytest.raises(DataError, match=f"text.npy.*{message}"):
        read_dataset(folder)


def test_truncated_features(folder):
    path = folder / "features/text.npy"
    content = path.read_bytes()
    for size, message in [
        (len(content) - 1, "is truncated or damaged"),
        (130, "is truncated or damaged"),
        (128, "is truncated or damaged"),
        (40, "is truncated or damaged"),
        (7, "is truncated or damaged"),
        (3, "is not a npy file"),
        (0, "is not a npy file"),
    ]:
        path.write_bytes(content[:size])
        with pytest.raises(DataError, match=f"text.npy .*{message}"):
            read_dataset(folder)


class Bomb:
    """Fails when unpickled."""

    def __reduce__(self):
        return (exec, ("raise RuntimeError('a pickle was opened')",))


def test_pickles_are_never_opened(folder):
    path = folder / "features/text.npy"
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(DataError, match="holds pickled Python objects, which are not opened"):
        read_dataset(folder)
    np.save(path, np.array([[Bomb()]] * 5, dtype=object))
    with pytest.raises(DataError, match="holds pickled Python objects, which are not opened"):
        read_dataset(folder)


def test_an_archive_is_not_a_npy_file(folder):
    with (folder / "features/text.npy").open("wb") as file:
        np.savez(file, text=np.ones((5, 4)))
    with pytest.raises(DataError, match="is not a npy file"):
        read_dataset(folder)


@pytest.mark.parametrize("way", ["parent", "absolute", "link", "linked folder"])
def test_a_feature_path_that_leads_outside(folder, tmp_path, way):
    outside = tmp_path / "outside"
    outside.mkdir()
    np.save(outside / "text.npy", np.ones((5, 4), dtype=np.float32))
    file = "features/text.npy"
    if way == "parent":
        file = "../outside/text.npy"
    elif way == "absolute":
        file = str(outside / "text.npy")
    elif way == "link":
        (folder / file).unlink()
        (folder / file).symlink_to(outside / "text.npy")
    else:
        (folder / "linked").symlink_to(outside)
        file = "linked/text.npy"
    change_manifest(folder, lambda m: m["modalities"]["text"].update(file=file))
    with pytest.raises(DataError, match=r"\(modality 'text'\): leads outside"):
        read_dataset(folder)


@pytest.mark.parametrize(("item", "lost"), [(2, 1), (4, 0)])
def test_item_without_any_modality(folder, item, lost):
    for modality in ("text", "image"):
        change_features(folder, lambda x: x[item].__setitem__(slice(None), np.nan), modality)
    if item == 4:
        change_features(folder, lambda x: x[2].__setitem__(slice(None), 1.0))
    with pytest.raises(
        DataError, match=f"item {item} has no modality at all .*with {lost} .*--empty-items drop"
    ):
        read_dataset(folder)
    read = read_dataset(folder, empty_items="drop")
    assert read.num_items == 5
    assert item not in read.interactions[:, 1]
    assert len(read.interactions) == len(PAIRS) - lost
    assert read.notes == (
        f"1 item without any modality was dropped, "
        f"with {lost} interaction{'' if lost == 1 else 's'}.",
    )


def test_no_interactions_remain_after_dropping_empty_items(folder):
    write_interactions(folder, ["0\t2"])
    change_features(folder, lambda x: x[2].__setitem__(slice(None), np.nan), "image")
    with pytest.raises(
        DataError, match="no interactions remain after dropping those of items without"
    ):
        read_dataset(folder, empty_items="drop")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("user\tname\n0\tA\n1\tB\n", ": 1 user has no name, the first is user 2"),
        ("user\tname\n0\tA\n1\tB\n1\tC\n2\tD\n", ", line 4: user 1 is named a second time"),
        ("user\tname\n0\tA\n1\t \n2\tC\n", ", line 3: the name of user 1 is empty"),
        ("user\tname\n0\tA\n3\tB\n", ", line 3: the user id 3 is out of range"),
        ("user\tname\nx\tA\n", ", line 2: the user id must be a whole number, got 'x'"),
        ("user\tname\n0\tA\tB\n", ", line 2: has 3 columns, the header has 2"),
        ("id\tname\n0\tA\n", ", line 1: the header lacks the column `user`"),
        ("", ", line 1: the header lacks the column `user`"),
    ],
)
def test_bad_names(folder, text, message):
    (folder / "users.tsv").write_text(text)
    with pytest.raises(DataError, match=f"users.tsv{message}"):
        read_dataset(folder)


# --- real data ------------------------------------------------------------------------------------


@pytest.mark.data
@pytest.mark.parametrize(
    ("name", "users", "items", "pairs", "missing"),
    [
        ("tiktok", 9308, 6710, 68722, {"visual": 0, "acoustic": 0}),
        ("lfm2k", 1858, 1425, 56345, {"tags": 0, "vggish": 0, "whisper": 0}),
        ("citeulike_t", 7947, 25975, 134860, {"text": 31, "tags": 0, "citations": 12193}),
    ],
)
def test_real_data(data_root, name, users, items, pairs, missing):
    read = read_dataset(data_root / name)
    assert (read.num_users, read.num_items, len(read.interactions)) == (users, items, pairs)
    assert dict(zip(read.modalities, (~read.natural_mask).sum(axis=0), strict=True)) == missing
    assert read.notes == ()
    assert read.source


@pytest.mark.data
def test_real_data_with_an_empty_item(data_root):
    with pytest.raises(DataError, match="item 760 has no modality at all"):
        read_dataset(data_root / "amazon_office")
    read = read_dataset(data_root / "amazon_office", empty_items="drop")
    assert len(read.interactions) == 53238
    assert "1 item without any modality was dropped, with 20 interactions." in read.notes
