"""Ids that are looked up in a fitted model, and new rows of features."""

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from milk_recsys.base.errors import DataError
from milk_recsys.catalogue.frame_rows import find_ids, read_feature_rows, texts_of_ids
from milk_recsys.catalogue.importers.ids import Ids

IDS = Ids(["7", "007", "i7", "3.0"])


@pytest.mark.parametrize(
    ("given", "numbers"),
    [
        ([7, "i7", 7.0], [0, 2, 0]),
        (["7.0"], [0]),  # A column of whole floats is one of integers.
        (["3.0"], [3]),  # But a known id is found as it is.
        (["7", "3.0"], [0, 3]),
        (np.array([7, 7]), [0, 0]),
        (pd.Series(["007 ", "7"]), [1, 0]),
        (pl.Series(["i7"]), [2]),
        (pa.array([7]), [0]),
        ({"i7"}, [2]),
        (iter([7]), [0]),
        ([], []),
    ],
)
def test_ids_are_found_as_text(given, numbers):
    assert find_ids(IDS, given, "user", "").tolist() == numbers


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("i7", "must be a list of ids, got str"),
        (7, "must be a list of ids, got int"),
        ({"user": ["i7"]}, "must be a list of ids, got dict"),
        ([None], "has an empty id"),
        ([" "], "has an empty id"),
        ([1.5], "must be whole"),
        ([True], "must be text or a number"),
        (["a", "b", "c", "d"], "'a', 'b', 'c' and 1 more not known. Known ids are like '7'"),
    ],
)
def test_other_ids_are_refused(given, message):
    with pytest.raises(DataError, match=message):
        find_ids(IDS, given, "user", "Do this.")


def test_rows_of_several_frames_are_joined_by_id():
    frames = {
        "text": {"item": [2, 1], "p": [1.0, 2.0], "q": [3.0, 4.0], "price": [9.0, 9.0]},
        "image": (["3", "1"], np.ones((2, 3), dtype=np.float16)),
    }
    dims, columns = {"text": 2, "image": 3, "sound": 1}, {"text": ("p", "q")}
    ids, rows, used = read_feature_rows(frames, "item", dims, columns)
    assert ids.names == ["2", "1", "3"]
    np.testing.assert_array_equal(rows["text"], [[1, 3], [2, 4], [np.nan] * 2])
    np.testing.assert_array_equal(rows["image"], [[np.nan] * 3, [1] * 3, [1] * 3])
    assert used == {"text": ("p", "q"), "image": ()}


def test_equal_rows_of_new_items_are_content():
    """Rows that repeat are a sign of filled cells in a catalogue, not among a few new items."""
    same = {"text": (["a", "b", "c"], np.ones((3, 2)))}
    _, rows, _ = read_feature_rows(same, "item", {"text": 2}, {})
    assert (rows["text"] == 1).all()
    assert texts_of_ids([1, "b"], "x") == ["1", "b"]
