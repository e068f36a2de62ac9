"""The split: shares, streams of the seed, exact missing rates, and errors in split files."""

import dataclasses
import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from milk_recsys.catalogue.dataset import DataError, Dataset
from milk_recsys.catalogue.split import Split, draw_split, split_facts
from milk_recsys.catalogue.split_file import read_split, write_split
from milk_recsys.catalogue.synthetic import embedded_dataset
from milk_recsys.config.options import DataOptions


@pytest.fixture(scope="module")
def dataset() -> Dataset:
    """The embedded set with naturally missing modalities and 50 items without interactions."""
    whole = embedded_dataset()
    natural_mask = whole.natural_mask.copy()
    natural_mask[::3, 1] = False
    pairs = whole.interactions[whole.interactions[:, 1] < 550]
    return dataclasses.replace(whole, natural_mask=natural_mask, interactions=pairs)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**40), rate=st.floats(0, 1), train_rate=st.floats(0, 1))
def test_shares_and_rates_are_exact(
    dataset: Dataset, seed: int, rate: float, train_rate: float
) -> None:
    options = DataOptions(
        setting="mtmt", split_seed=seed, missing_rate=rate, train_missing_rate=train_rate
    )
    split, notes = draw_split(dataset, options)
    items = np.unique(dataset.interactions[:, 1])
    cold = math.floor(0.2 * len(items) + 0.5)
    assert (len(split.validation), len(split.test)) == (cold // 2, cold - cold // 2)
    assert np.array_equal(np.sort(np.concatenate([split.warm, split.cold])), items)
    lost = dataset.natural_mask.astype(int) - split.mask
    assert lost.min() == 0
    for part, share in ((split.test, rate), (split.validation, rate), (split.warm, train_rate)):
        losers = (lost[part].sum(1) > 0).sum()
        assert lost[part].sum(1).max(initial=0) <= 1
        assert losers == math.floor(share * len(part) + 0.5)
    assert split.mask[items].any(1).all()
    assert notes == []


def test_settings_share_items_and_test_masks(dataset: Dataset) -> None:
    ftft, ftmt, mtmt = (
        draw_split(dataset, DataOptions(setting=s, split_seed=5))[0]
        for s in ("ftft", "ftmt", "mtmt")
    )
    for other in (ftmt, mtmt):
        for part in ("warm", "validation", "test"):
            assert np.array_equal(getattr(ftft, part), getattr(other, part))
    assert np.array_equal(ftft.mask, dataset.natural_mask)
    assert np.array_equal(ftmt.mask[ftmt.cold], mtmt.mask[mtmt.cold])
    assert np.array_equal(ftmt.mask[ftmt.warm], dataset.natural_mask[ftmt.warm])
    assert not np.array_equal(ftmt.mask, mtmt.mask)
    complete = draw_split(dataset, DataOptions(split_seed=5, missing_in_validation=False))[0]
    assert np.array_equal(complete.mask[complete.test], ftmt.mask[ftmt.test])
    assert np.array_equal(
        complete.mask[complete.validation], dataset.natural_mask[complete.validation]
    )


def test_a_missing_rate_that_is_not_reached_is_noted(dataset: Dataset) -> None:
    only_one = np.zeros_like(dataset.natural_mask)
    only_one[:, 0] = True
    _, notes = draw_split(dataclasses.replace(dataset, natural_mask=only_one), DataOptions())
    assert len(notes) == 2
    assert "fewer test items than 50% lost a modality" in notes[0]


def test_too_few_items_is_an_error(dataset: Dataset) -> None:
    small = dataclasses.replace(
        dataset, interactions=dataset.interactions[dataset.interactions[:, 1] < 4]
    )
    with pytest.raises(DataError, match="validation set is empty"):
        draw_split(small, DataOptions())


def test_file_round_trip(tmp_path: Path, dataset: Dataset) -> None:
    split, _ = draw_split(dataset, DataOptions(setting="mtmt"))
    write_split(tmp_path / "split.npz", split)
    again, notes = read_split(tmp_path / "split.npz", dataset, "mtmt")
    for name in ("warm", "validation", "test", "mask"):
        assert np.array_equal(getattr(split, name), getattr(again, name))
    assert notes == []
    assert [path.name for path in tmp_path.iterdir()] == ["split.npz"]


def test_facts_count_natural_and_removed_cells_separately(dataset: Dataset) -> None:
    split, _ = draw_split(dataset, DataOptions())
    facts = split_facts(dataset, split)
    assert facts["nature"]["test"]["image"] == (~dataset.natural_mask[split.test, 1]).sum()
    assert sum(facts["removed"]["test"].values()) == math.floor(0.5 * len(split.test) + 0.5)
    assert sum(facts["removed"]["warm"].values()) == 0
    assert sum(facts["pairs"].values()) == len(dataset.interactions)


Change = Callable[[dict[str, Any]], None]


def _set(name: str, index: Any, value: Any) -> Change:
    def change(arrays: dict[str, Any]) -> None:
        arrays[name][index] = value

    return change


def _put(name: str, make: Callable[[dict[str, Any]], Any]) -> Change:
    def change(arrays: dict[str, Any]) -> None:
        arrays[name] = make(arrays)

    return change


def _take_from(part: str) -> Change:
    def change(arrays: dict[str, Any]) -> None:
        arrays["mask"][arrays[part][0], 0] = False

    return change


@pytest.mark.parametrize(
    ("change", "setting", "message"),
    [
        (
            _put("test", lambda a: a["warm"][:5]),
            "ftmt",
            r"the split overlaps: item \d+ is in warm and test",
        ),
        (_put("test", lambda a: a["test"][:0]), "ftmt", "the test set is empty"),
        (
            _put("warm", lambda a: np.append(a["warm"], a["warm"][0])),
            "ftmt",
            r"`warm` has item \d+ twice",
        ),
        (_set("warm", 0, 10**6), "ftmt", "`warm` has item ids outside 0 to 599"),
        (_set("warm", 0, 599), "ftmt", "item 599, which has no interaction"),
        (
            _put("warm", lambda a: a["warm"].astype(float)),
            "ftmt",
            "must be item ids, whole numbers",
        ),
        (_put("mask", lambda a: a["mask"].astype(np.int8)), "ftmt", "`mask` must be bool"),
        (_put("mask", lambda a: a["mask"][:, :2]), "ftmt", "`mask` must be bool of shape"),
        (_set("mask", slice(None), True), "ftmt", "a modality that the data set lacks"),
        (_set("mask", slice(None), False), "mtmt", "no modality at all"),
        (_take_from("warm"), "ftmt", "under the setting ftmt, warm items keep all modalities"),
        (_take_from("test"), "ftft", "under the setting ftft, (validation|test) items keep"),
        (_put("mask", lambda a: np.array([None] * 3)), "ftmt", "without pickles"),
    ],
)
def test_mistakes_in_files_are_named(
    tmp_path: Path, dataset: Dataset, change: Change, setting: str, message: str
) -> None:
    split: Split = draw_split(dataset, DataOptions(setting=setting))[0]
    arrays = {
        name: np.array(getattr(split, name)) for name in ("warm", "validation", "test", "mask")
    }
    change(arrays)
    np.savez(tmp_path / "split.npz", **arrays)
    with pytest.raises(DataError, match=message):
        read_split(tmp_path / "split.npz", dataset, setting)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 truncated", b"\x80\x04pickle", b"text"])
def test_damaged_files_are_named(tmp_path: Path, dataset: Dataset, content: bytes) -> None:
    (tmp_path / "split.npz").write_bytes(content)
    with pytest.raises(DataError, match=r"split\.npz: is not"):
        read_split(tmp_path / "split.npz", dataset, "ftmt")
    if not content.startswith(b"PK"):
        with pytest.raises(DataError, match=r"is not an npz file\."):
            read_split(tmp_path / "split.npz", dataset, "ftmt")
    with pytest.raises(DataError, match="no such file"):
        read_split(tmp_path / "absent.npz", dataset, "ftmt")


HEADER = b"{'descr': '<i8', 'shape': (5,\n"


@pytest.mark.parametrize(
    ("member", "message"),
    [
        (b"no array", "`warm` is not an array"),
        (
            b"\x93NUMPY\x01\x00" + len(HEADER).to_bytes(2, "little") + HEADER,
            "is not a readable npz file",
        ),
    ],
)
def test_members_that_are_not_arrays_are_named(
    tmp_path: Path, dataset: Dataset, member: bytes, message: str
) -> None:
    write_split(tmp_path / "split.npz", draw_split(dataset, DataOptions())[0])
    with (
        zipfile.ZipFile(tmp_path / "split.npz") as good,
        zipfile.ZipFile(tmp_path / "bad.npz", "w") as bad,
    ):
        for name in good.namelist():
            bad.writestr(name, member if name == "warm.npy" else good.read(name))
    with pytest.raises(DataError, match=message):
        read_split(tmp_path / "bad.npz", dataset, "ftmt")


def test_a_damaged_compressed_file_is_named(tmp_path: Path, dataset: Dataset) -> None:
    split = draw_split(dataset, DataOptions())[0]
    path = tmp_path / "split.npz"
    np.savez_compressed(
        path, warm=split.warm, validation=split.validation, test=split.test, mask=split.mask
    )
    content = bytearray(path.read_bytes())
    start = 30 + int.from_bytes(content[26:28], "little") + int.from_bytes(content[28:30], "little")
    content[start : start + 8] = b"\xff" * 8
    path.write_bytes(content)
    with pytest.raises(DataError, match="is not a readable npz file"):
        read_split(path, dataset, "ftmt")
