"""Data sets from frames in memory are those that the same frames give as files."""

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import milk_recsys
from milk_recsys import prepare
from milk_recsys.base.errors import DataError
from milk_recsys.catalogue.dataset import read_dataset
from milk_recsys.catalogue.importers.row_options import RowOptions

PAIRS = {
    "user": [1.0, 2.0, 1.0, 2.0, 3.0, None],
    "item": ["007", "7", "7", "007", "x ", "x"],
    "when": [30, 20, 10, 5, 4, 3],
    "stars": [5, 4, 1, 5, 4, 5],
}
VECTORS = {"item": ["x", "007", "other"], "emb": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]]}
NUMBERS = {"item": ["7", "007", "x"], "price": [9.5, 8.5, 7.5], "e0": [1, 2, 3], "e1": [4, 5, 6]}
ROWS = RowOptions(empty_ids="drop")


def make(convert, **options):
    given = {"rows": ROWS, "time": "when", **options}
    return milk_recsys.Catalogue.from_frames(
        convert(PAIRS), {"image": convert(VECTORS), "text": convert(NUMBERS)}, **given
    )


@pytest.mark.parametrize(
    "convert",
    [dict, pl.DataFrame, lambda x: pl.DataFrame(x).lazy(), pd.DataFrame, pa.table],
    ids=["mapping", "polars", "lazy", "pandas", "arrow"],
)
def test_frames_of_all_kinds_are_one_data_set(convert, tmp_path):
    catalogue = make(convert)
    dataset = catalogue.dataset
    assert catalogue.user_ids == ("1", "2", "3")
    assert catalogue.item_ids == ("007", "7", "x")
    np.testing.assert_array_equal(dataset.features["image"], [[3, 4], [np.nan, np.nan], [1, 2]])
    assert dataset.features["text"].tolist() == [[2, 5], [1, 4], [3, 6]]
    for name, frame in (("pairs", PAIRS), ("image", VECTORS), ("text", NUMBERS)):
        pl.DataFrame(frame).write_parquet(tmp_path / f"{name}.parquet")
    source = prepare.Table(
        pairs=tmp_path / "pairs.parquet",
        features=tuple(f"{n}={tmp_path / n}.parquet" for n in ("image", "text")),
        time_column="when",
        empty_ids="drop",
        out=tmp_path / "out",
    )
    assert prepare.run_command(source) == 0
    assert read_dataset(tmp_path / "out").fingerprint == dataset.fingerprint
    assert read_dataset(tmp_path / "out").times.tolist() == dataset.times.tolist()
    assert any("left out: price (numbers)" in note for note in catalogue.notes)


def test_ids_in_the_index_of_pandas_and_arrays_with_ids():
    frame = pd.DataFrame(NUMBERS).set_index("item")
    array = np.arange(6, dtype=np.float16).reshape(3, 2) + 1
    catalogue = milk_recsys.Catalogue.from_frames(
        PAIRS, {"text": frame, "audio": (["7", "x", "007"], array)}, rows=ROWS
    )
    assert catalogue.dataset.features["text"].tolist() == [[2, 5], [1, 4], [3, 6]]
    assert catalogue.dataset.features["audio"].tolist() == [[5, 6], [1, 2], [3, 4]]
    assert catalogue.dataset.features["audio"].dtype == np.float16


def test_options_of_rows_and_columns():
    rows = RowOptions(empty_ids="drop", rating_column="stars", min_rating=4)
    catalogue = make(pl.DataFrame, rows=rows, columns={"text": ("price", "e*")})
    assert catalogue.dataset.interactions.tolist() == [[0, 0], [1, 0], [1, 1], [2, 2]]
    assert catalogue.dataset.features["text"][0].tolist() == [8.5, 2, 5]


@pytest.mark.parametrize(
    ("pairs", "features", "message"),
    [
        ([1, 2], {"a": VECTORS}, "pairs: must be a frame of pandas, polars or Arrow"),
        ({"user": [1]}, {"a": VECTORS}, "pairs: has no column 'item'; it has user"),
        (PAIRS, {"a": VECTORS}, "pairs, row 5, column 'user': is empty"),
        ({"user": [1], "item": ["x"]}, {}, "must have at least one modality"),
        ({"user": [1], "item": ["x"]}, {"a": (["x"], np.ones(3))}, "n ids and an array"),
        ({"user": [1], "item": ["q"]}, {"a": VECTORS}, "a: none of its 3 ids is in pairs"),
        ({"user": [1, 2], "item": ["x", "q"]}, {"a": VECTORS}, "has no modality at all"),
    ],
)
def test_errors_name_the_frame(pairs, features, message):
    with pytest.raises(DataError, match=message):
        milk_recsys.Catalogue.from_frames(pairs, features)
