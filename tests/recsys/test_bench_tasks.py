"""The tasks of the benchmark: their names, their hashes, and what an export holds."""

import hashlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from milk_recsys import bench
from milk_recsys.base.errors import DataError
from milk_recsys.catalogue.synthetic import tiny_dataset
from milk_recsys.study.bench import tasks
from milk_recsys.study.bench.export import export
from milk_recsys.study.bench.names import SETTINGS, Task, seed_ranges
from milk_recsys.study.bench.tasks import SETS, instances, recorded_hashes
from milk_recsys.study.store import Store

ROOT = Path(__file__).parents[2]
DATASET = tiny_dataset()


def drawn(text):
    """Draw the splits of a task on the tiny data set."""
    return list(instances(Task.parse(text), DATASET))


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "seeds"),
    [
        ("lfm2k/ftmt/200..209", tuple(range(200, 210))),
        ("lfm2k/ftmt/7", (7,)),
        ("lfm2k/ftmt/5,0..2", (0, 1, 2, 5)),
    ],
)
def test_a_task_is_parsed_and_written(text, seeds):
    task = Task.parse(text)
    assert (task.set, task.setting, task.seeds) == ("lfm2k", "ftmt", seeds)
    assert Task.parse(str(task)) == task


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lfm2k", "must be SET/SETTING/SEEDS"),
        ("lfm2k/ftmt/", "must be SET/SETTING/SEEDS"),
        ("../ftmt/0", "not the name of a data set"),
        ("lfm2k/ftxt/0", "the setting must be one of ftft, ftmt, mtmt, got 'ftxt'"),
        ("lfm2k/ftmt/a", "got 'a'"),
        ("lfm2k/ftmt/3..1", "FIRST..LAST"),
        ("lfm2k/ftmt/0..1000", "at most 1000"),
        ("lfm2k/ftmt/1,0..2", "occurs twice"),
        ("lfm2k/ftmt/-1", "got '-1'"),
    ],
)
def test_a_wrong_task_is_refused(text, message):
    with pytest.raises(DataError, match=message.replace(".", r"\.")):
        Task.parse(text)


def test_ranges_are_the_inverse_of_parsing():
    for seeds in ((0,), (0, 1), (0, 2, 3, 4, 9), tuple(range(100))):
        assert Task.parse(f"a/ftmt/{seed_ranges(seeds)}").seeds == seeds


# --- hashes ---------------------------------------------------------------------------------------


@pytest.mark.results
def test_every_run_of_the_results_files_has_the_recorded_hashes():
    compared = 0
    for name in SETS:
        for line in Store(ROOT / "docs/results" / name).lines:
            entry = recorded_hashes(name, line["setting"], line["options"]["split_seed"])
            if entry is not None:
                compared += 1
                assert (line["split"], line["candidates"]) == (entry["split"], entry["candidates"])
    assert compared > 1000


def test_the_record_of_the_generated_sets_is_what_is_drawn():
    fresh = tasks.draw_record(Path("unused"), ["tiny"])
    known = tasks.recorded()["tiny"]
    assert fresh["tiny"]["tasks"] == known["tasks"]
    assert (fresh["tiny"]["users"], fresh["tiny"]["pairs"]) == (known["users"], known["pairs"])


@pytest.mark.data
@pytest.mark.parametrize("name", SETS)
def test_the_record_of_a_real_set_is_what_is_drawn(name, data_root):
    dataset, notes = tasks.open_dataset(name, data_root)
    assert notes == []
    for setting in SETTINGS:
        (instance,) = instances(Task(name, setting, (200,)), dataset)
        assert instance.official


def test_other_draws_are_refused(monkeypatch):
    record = json.loads(json.dumps(tasks.recorded()))
    record["tiny"]["tasks"]["ftmt"]["0"]["split"] = "0" * 16
    monkeypatch.setattr(tasks, "recorded", lambda: record)
    with pytest.raises(DataError, match="the split hash is 4d0133aadcf2b4f7, but the official"):
        drawn("tiny/ftmt/0")


def test_other_features_are_noted_and_other_splits_are_refused(tmp_path, write_dataset):
    write_dataset(tmp_path / "lfm2k", users=60, items=200)
    dataset, (note,) = tasks.open_dataset("lfm2k", tmp_path)
    assert "differ from those of the official data set lfm2k (fingerprint" in note
    with pytest.raises(DataError, match="lfm2k/ftmt/0: the split hash is"):
        list(instances(Task("lfm2k", "ftmt", (0,)), dataset))


def test_a_set_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        tasks.open_dataset("tiktok", tmp_path)
    with pytest.raises(DataError, match="--data is needed for tiktok"):
        tasks.open_dataset("tiktok", None)


def test_a_set_of_ones_own_has_hashes_that_are_not_official(tmp_path, write_dataset):
    write_dataset(tmp_path / "shop", users=60, items=200)
    dataset, notes = tasks.open_dataset("shop", tmp_path)
    assert notes == []
    (instance,) = instances(Task("shop", "ftmt", (0,)), dataset)
    assert not instance.official
    assert len(instance.hashes["split"]) == 16


# --- export ---------------------------------------------------------------------------------------


def test_an_outsider_can_recompute_the_hash_of_the_split(tmp_path):
    """The split hash is SHA-256 of the warm, validation and test ids and of the mask."""
    export(drawn("tiny/mtmt/3"), tmp_path)
    folder = tmp_path / "tiny/mtmt/3"
    items = pl.read_parquet(folder / "items.parquet")
    digest = hashlib.sha256()
    for part in ("warm", "validation", "test"):
        digest.update(items.filter(pl.col("part") == part)["item"].to_numpy().tobytes())
    mask = items.select("^mask_.*$").to_numpy().astype(bool)
    digest.update(np.ascontiguousarray(mask).tobytes())
    stated = json.loads((folder / "task.json").read_text())["hashes"]["split"]
    assert digest.hexdigest()[:16] == stated == recorded_hashes("tiny", "mtmt", 3)["split"]


@pytest.mark.parametrize("setting", ["ftft", "ftmt", "mtmt"])
def test_an_export_has_every_pair_except_those_of_test_items(setting, tmp_path):
    (instance,) = drawn(f"tiny/{setting}/1")
    export([instance], tmp_path)
    folder = tmp_path / f"tiny/{setting}/1"
    frames = {path.stem: pl.read_parquet(path) for path in folder.glob("*.parquet")}
    assert set(frames) == {"train", "validation", "items", "candidates", "test_users"}
    pairs = np.concatenate([frames["train"].to_numpy(), frames["validation"].to_numpy()])
    whole = DATASET.interactions
    hidden = np.isin(whole[:, 1], instance.split.test)
    assert sorted(map(tuple, pairs)) == sorted(map(tuple, whole[~hidden]))
    assert frames["candidates"]["item"].to_list() == instance.split.test.tolist()
    assert frames["test_users"]["user"].to_list() == np.unique(whole[hidden, 0]).tolist()
    parts = dict(zip(frames["items"]["item"], frames["items"]["part"], strict=True))
    for part in ("warm", "validation", "test"):
        assert [i for i, p in parts.items() if p == part] == getattr(instance.split, part).tolist()
    mask = frames["items"].select("mask_text", "mask_image", "mask_audio").to_numpy()
    assert np.array_equal(mask, instance.split.mask)
    for name, x in DATASET.features.items():
        assert np.array_equal(np.load(tmp_path / f"tiny/features/{name}.npy"), x)


def test_csv_and_parquet_hold_the_same(tmp_path):
    export(drawn("tiny/ftmt/0"), tmp_path / "a")
    export(drawn("tiny/ftmt/0"), tmp_path / "b", "csv")
    for path in (tmp_path / "a/tiny/ftmt/0").glob("*.parquet"):
        other = pl.read_csv(tmp_path / "b/tiny/ftmt/0" / f"{path.stem}.csv")
        assert pl.read_parquet(path).cast(other.schema).equals(other)


def test_an_export_into_a_file_is_refused(tmp_path, capsys):
    (tmp_path / "out").write_text("")
    assert bench.main(["export", "tiny/ftmt/0", "--out", str(tmp_path / "out")]) == 2
    assert "cannot be written to" in capsys.readouterr().err


# --- the command ----------------------------------------------------------------------------------


def test_the_tasks_and_their_hashes_are_listed(capsys):
    assert bench.main(["tasks"]) == 0
    listed = capsys.readouterr().out
    for name in SETS:
        assert f"{name}/ftmt/0..9,100..109,200..209 " in listed
    assert bench.main(["tasks", "lfm2k/ftmt/200..201"]) == 0
    *_, row = capsys.readouterr().out.splitlines()
    entry = recorded_hashes("lfm2k", "ftmt", 201)
    assert row.split() == [
        "lfm2k/ftmt/201",
        entry["split"],
        entry["candidates"],
        str(entry["test_items"]),
        f"{entry['test_users']:,}",
    ]
    assert bench.main(["tasks", "lfm2k/ftmt/77"]) == 2
    assert "is not an official task" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.results
@pytest.mark.parametrize("code", ["bench.main(['tasks'])", "bench.main(['standings'] + given)"])
def test_listing_tasks_and_writing_standings_import_no_torch(code, tmp_path):
    given = ["--results", str(ROOT / "docs/results"), "--out", str(tmp_path / "page.md")]
    whole = (
        f"import sys; from milk_recsys import bench; given = {given!r}; status = {code}; "
        "sys.exit(status or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", whole], timeout=120).returncode == 0
