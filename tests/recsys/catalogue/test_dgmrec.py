"""DGMRec's task: its files are read without unpickling, and its counts are checked."""

import dataclasses
import os
import pickle
import re
from pathlib import Path

import numpy as np
import pytest

from milk_recsys.base.errors import DataError
from milk_recsys.catalogue.dataset import Dataset
from milk_recsys.catalogue.importers.dgmrec import (
    TIKTOK_COUNTS,
    check_counts,
    read_dgmrec_task,
)
from milk_recsys.catalogue.importers.pickled import read_pickled_arrays
from tests.recsys.catalogue.dgmrec_files import (
    COUNTS,
    FULL,
    MISSING,
    REMOVED,
    write_inter,
    write_missing,
    write_task,
)


@pytest.fixture
def task(tmp_path):
    return read_dgmrec_task(write_task(tmp_path))


def make_dataset(**values):
    pairs = np.array(sorted(row[:2] for row in FULL), dtype=np.int32)
    features = {
        name: np.random.default_rng(k).standard_normal((8, 3)).astype(np.float32)
        for k, name in enumerate(("visual", "acoustic"))
    }
    natural = np.ones((8, 2), dtype=np.bool_)
    natural[2, 1] = False
    features["acoustic"][2] = np.nan
    given = {
        "name": "tiny",
        "num_users": 4,
        "num_items": 8,
        "interactions": pairs,
        "features": features,
        "natural_mask": natural,
    }
    return Dataset(**(given | values))


def test_the_parts_of_the_task(task):
    assert task.new.tolist() == [4, 5]
    assert task.warm.tolist() == [0, 1, 2, 3]
    assert task.training.tolist() == [[0, 0], [0, 1], [1, 1], [3, 2], [3, 3]]
    assert task.removed.tolist() == [[0, 4], [1, 5], [2, 4]]
    # The pairs of user 2, who has no training pair left, are not ranked.
    assert task.test.tolist() == [[0, 4], [0, 6], [1, 3], [1, 5], [3, 5]]
    assert task.clean.tolist() == [[0, 4], [1, 5], [3, 5]]
    assert {name: ids.tolist() for name, ids in task.missing.items()} == {
        "text": [0, 1, 5, 7],
        "visual": [4, 7],
        "acoustic": [1, 5, 7],
    }


def test_the_counts(task):
    assert task.counts() == COUNTS
    assert set(COUNTS) == set(TIKTOK_COUNTS)
    check_counts(task, COUNTS)
    with pytest.raises(DataError, match=r"have 2 new items instead of 3\. Take them"):
        check_counts(task, COUNTS | {"new items": 3})
    with pytest.raises(DataError, match="14 pairs instead of 68,722"):
        check_counts(task, TIKTOK_COUNTS)


def test_the_published_counts_agree_with_each_other():
    c = TIKTOK_COUNTS
    labels = ("training pairs before", "validation pairs", "test pairs before")
    assert sum(c[name] for name in labels) == c["pairs"]
    assert c["training pairs before"] - c["removed pairs"] == c["training pairs"]
    patterns = ("visual and acoustic", "visual alone", "acoustic alone", "neither")
    for title in ("new items", "training items"):
        assert sum(c[f"{title} with {name}"] for name in patterns) == c[title]
    # The counts by what is missing: t, v, a, tv, ta, va and all.
    t, v, a, tv, ta, va, every = 445, 447, 448, 447, 446, 448, 1343
    assert t + v + a + tv + ta + va + every == c["items that lack a modality"]
    assert t + tv + ta + every == c["items that lack text"]
    assert v + tv + va + every == c["items that lack visual"]
    assert a + ta + va + every == c["items that lack acoustic"]


def test_the_clean_task_as_a_data_set_and_a_split(task):
    dataset, split = task.apply(make_dataset())
    assert split.warm.tolist() == [0, 1, 2, 3]
    assert split.test.tolist() == [4, 5]
    assert split.validation.tolist() == [7]
    # No warm item has a validation or test pair, and no new item a training pair.
    assert dataset.interactions.tolist() == [
        [0, 0],
        [0, 1],
        [0, 4],
        [1, 1],
        [1, 5],
        [3, 2],
        [3, 3],
        [3, 5],
        [3, 7],
    ]
    visual, acoustic = split.mask.T.tolist()
    assert visual == [True, True, True, True, False, True, True, False]
    assert acoustic == [True, False, False, True, True, False, True, False]


def test_a_data_set_of_other_pairs_is_refused(task):
    dataset = make_dataset()
    with pytest.raises(DataError, match="its pairs are not those of the task"):
        task.apply(dataclasses.replace(dataset, interactions=dataset.interactions[1:]))
    other = {"visual": dataset.features["visual"], "smell": dataset.features["acoustic"]}
    with pytest.raises(DataError, match="has no modality 'smell'"):
        task.apply(dataclasses.replace(dataset, features=other))


def test_files_that_do_not_belong_together_are_refused(tmp_path):
    folder = write_task(tmp_path, removed=REMOVED | {(0, 2, 1)})
    with pytest.raises(DataError, match=r"tiktok_del\.inter: must hold the rows of tiktok\.inter"):
        read_dgmrec_task(folder)
    write_inter(folder / "tiktok_del.inter", [(0, 3, 0)])
    with pytest.raises(DataError, match="from one revision"):
        read_dgmrec_task(folder)
    (folder / "tiktok_del.inter").unlink()
    with pytest.raises(DataError, match=r"tiktok_del\.inter: no such file"):
        read_dgmrec_task(folder)


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        ({"x": [0]}, "the entry 'x' is not of the letters tva"),
        ({"": [0]}, "the entry '' is not of the letters"),
        ({"t": [8]}, "has the item 8, but ids go from 0 to 7"),
        ({"t": [-1]}, "has the item -1"),
        ({"t": [1], "all": [1]}, "an item is in two entries"),
    ],
)
def test_a_wrong_file_of_missing_modalities_is_refused(tmp_path, missing, message):
    write_task(tmp_path, missing=missing)
    with pytest.raises(DataError, match=re.escape(message)):
        read_dgmrec_task(tmp_path)


# --- pickles --------------------------------------------------------------------------------------


def pickled(path, value, protocol):
    """Write what `numpy.save` writes, with a pickle of another protocol."""
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": "|O", "fortran_order": False, "shape": ()}
        )
        pickle.dump(np.array(value, dtype=object), file, protocol=protocol)
    return path


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_a_dictionary_is_read_as_numpy_would(tmp_path, protocol):
    arrays = {
        "t": np.arange(1000),
        "v": np.array([3, 1], dtype=np.int32),
        "big": np.array([5, 2**40], dtype=">i8"),
        "none": np.zeros(0, dtype=np.int64),
        "all": np.arange(6)[::2],
    }
    path = pickled(tmp_path / "a.npy", arrays, protocol)
    if protocol in (2, 5):
        # `numpy.save` writes protocol 3 or 4. In the others arrays are made by other functions.
        with pytest.raises(DataError, match="is not read, because it names"):
            read_pickled_arrays(path)
        return
    read = read_pickled_arrays(path)
    assert list(read) == list(arrays)
    for name, x in arrays.items():
        np.testing.assert_array_equal(read[name], x)
        assert read[name].dtype == np.int64


class _Runs:
    """An object whose pickle runs a command when it is loaded."""

    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


class _RunsByName(_Runs):
    def __reduce__(self):
        return os.system, (f"touch {self.target}",)


@pytest.mark.parametrize("kind", [_Runs, _RunsByName])
@pytest.mark.parametrize("protocol", [3, 4])
def test_a_pickle_that_would_run_code_is_refused(tmp_path, kind, protocol):
    target = tmp_path / "ran"
    path = pickled(tmp_path / "a.npy", {"t": kind(target)}, protocol)
    with pytest.raises(DataError, match="is not read, because it names"):
        read_pickled_arrays(path)
    assert not target.exists()


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"t": np.array([0.5])}, "the entry 't' is not an integer array"),
        ({"t": np.zeros((2, 2), dtype=np.int64)}, "the entry 't' is not an integer array"),
        ({3: np.arange(2)}, "the entry 3 is not an integer array"),
        ({"t": [1, 2]}, "the entry 't' is not an integer array"),
        ({"t": np.array([None])}, "the entry 't' is not an integer array"),
        ([1, 2], "does not hold a dictionary"),
        ({"t": {1, 2}}, "has the instruction EMPTY_SET"),
    ],
)
def test_other_contents_are_refused(tmp_path, value, message):
    array = np.empty((), dtype=object)
    array[()] = value
    path = tmp_path / "a.npy"
    np.save(path, array, allow_pickle=True)
    with pytest.raises(DataError, match=re.escape(message)):
        read_pickled_arrays(path)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(DataError, match="cannot be opened"):
        read_pickled_arrays(tmp_path / "none.npy")
    path = tmp_path / "a.npy"
    path.write_bytes(b"text")
    with pytest.raises(DataError, match="is not a npy file"):
        read_pickled_arrays(path)
    np.save(path, np.arange(3))
    with pytest.raises(DataError, match="holds an array"):
        read_pickled_arrays(path)


def test_every_damaged_file_is_an_error(tmp_path):
    """Cut the file at each place, and change each byte of the pickle."""
    path = tmp_path / "a.npy"
    write_missing(path, MISSING)
    content = path.read_bytes()
    expected = read_pickled_arrays(path)
    for end in range(len(content) - 1):
        path.write_bytes(content[:end])
        with pytest.raises(DataError):
            read_pickled_arrays(path)
    for place in range(128, len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :])
        try:
            found = read_pickled_arrays(path)
        except DataError:
            continue
        # The readable part has the same form.
        assert all(isinstance(key, str) and x.dtype == np.int64 for key, x in found.items())
        assert len(found) <= len(expected)


def test_a_large_file_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "a.npy"
    write_missing(path, MISSING)
    monkeypatch.setattr("milk_recsys.catalogue.importers.pickled.MAX_BYTES", 100)
    with pytest.raises(DataError, match="larger than 100 bytes"):
        read_pickled_arrays(path)
