"""Rows of zeros mean the same everywhere, and times of pairs follow their pairs."""

import json

import numpy as np
import pytest

from milk_recsys.base.errors import DataError
from milk_recsys.catalogue.dataset import read_dataset
from milk_recsys.catalogue.new_items import read_items
from milk_recsys.run.scorer import Scorer
from tests.recsys.conftest import DIMS, _write_dataset


def say_content(folder, modality):
    manifest = json.loads((folder / "dataset.json").read_text())
    manifest["modalities"][modality]["zeros"] = "content"
    (folder / "dataset.json").write_text(json.dumps(manifest))


def zero_rows(folder, modality, rows):
    path = folder / f"features/{modality}.npy"
    x = np.load(path)
    x[rows] = 0
    np.save(path, x)


# --- zeros ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_a_row_of_zeros_is_missing_unless_the_manifest_says_content(tmp_path, dtype):
    folder = _write_dataset(tmp_path / "data", dtype=dtype, missing=False)
    zero_rows(folder, "image", [3, 7])
    dataset = read_dataset(folder)
    assert np.flatnonzero(~dataset.natural_mask[:, 1]).tolist() == [3, 7]
    assert dataset.natural_mask[:, [0, 2]].all()
    assert "image: 2 rows of zeros count as missing" in dataset.notes[0]
    assert dataset.content_zeros == ()
    say_content(folder, "image")
    dataset = read_dataset(folder)
    assert dataset.natural_mask.all()
    assert not dataset.notes
    assert dataset.content_zeros == ("image",)


def test_rows_with_some_zeros_are_present(tmp_path):
    folder = _write_dataset(tmp_path / "data", missing=False)
    x = np.load(folder / "features/image.npy")
    x[3] = [0, 0, 0, 1e-30]
    x[4] = [-0.0, 0, 0, 0]
    np.save(folder / "features/image.npy", x)
    mask = read_dataset(folder).natural_mask[:, 1]
    assert mask[3]
    assert not mask[4]


def test_other_words_for_zeros_are_refused(tmp_path):
    folder = _write_dataset(tmp_path / "data")
    manifest = json.loads((folder / "dataset.json").read_text())
    manifest["modalities"]["image"]["zeros"] = "yes"
    (folder / "dataset.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="`zeros` of modality 'image' must be \"missing\" or"):
        read_dataset(folder)


def test_new_items_with_rows_of_zeros(tmp_path):
    (tmp_path / "features").mkdir()
    x = np.ones((3, 4), dtype=np.float32)
    x[1] = 0
    np.save(tmp_path / "features/image.npy", x)
    dropped = read_items(tmp_path, DIMS, empty_items="drop")
    assert dropped.ids.tolist() == [0, 2]
    kept = read_items(tmp_path, DIMS, content_zeros={"image"})
    assert kept.ids.tolist() == [0, 1, 2]


def test_the_scorer_takes_zeros_for_missing_as_training_does(trained_run):
    from milk_recsys import load_run

    scorer = load_run(trained_run.folder)
    rng = np.random.default_rng(0)
    given = {name: rng.standard_normal((4, dim)).astype(np.float32) for name, dim in DIMS.items()}
    zeros, nans = ({name: x.copy() for name, x in given.items()} for _ in range(2))
    zeros["image"][2], nans["image"][2] = 0, np.nan
    assert (scorer.score(None, zeros) == scorer.score(None, nans)).all()
    assert not (scorer.score(None, given) == scorer.score(None, nans))[:, 2].all()
    content = Scorer(scorer.model, scorer.dims, content_zeros=["image"])
    assert not (content.score(None, zeros) == scorer.score(None, nans))[:, 2].all()


def test_a_run_remembers_which_zeros_are_content(tmp_path):
    from milk_recsys import load_run
    from milk_recsys.config.options import Options
    from milk_recsys.run import begin
    from milk_recsys.run.progress import Progress
    from milk_recsys.train import run

    folder = _write_dataset(tmp_path / "data", items=120, pairs_per_user=20, missing=False)
    zero_rows(folder, "image", [3, 7])
    say_content(folder, "image")
    options, dataset = begin.open_run(
        Options.of(model="keep", data=folder, out=tmp_path / "run", compare="none", device="cpu")
    )
    run(options, dataset, Progress(quiet=True))
    config = json.loads((tmp_path / "run/config.json").read_text())
    assert config["dataset"]["content_zeros"] == ["image"]
    assert config["dataset"]["missing_in_nature"]["image"] == 0
    scorer = load_run(tmp_path / "run")
    assert scorer.content_zeros == {"image"}


# --- times ----------------------------------------------------------------------------------------


def with_times(folder, lines, header="user\titem\ttime"):
    (folder / "interactions.tsv").write_text("\n".join([header, *lines]) + "\n")


def test_times_are_sorted_with_their_pairs_and_the_first_is_kept(tmp_path):
    folder = _write_dataset(tmp_path / "data")
    with_times(folder, ["2\t3\t5.5", "0\t2\t9", "1\t1\t4", "0\t2\t7"])
    dataset = read_dataset(folder)
    assert dataset.interactions.tolist() == [[0, 2], [1, 1], [2, 3]]
    assert dataset.times.tolist() == [7, 4, 5.5]
    assert not any("time" in note for note in dataset.notes)


def test_times_beside_an_array_of_pairs(tmp_path):
    folder = _write_dataset(tmp_path / "data")
    pairs = np.array([[2, 3], [0, 2], [0, 2]], dtype=np.int32)
    (folder / "interactions.tsv").unlink()
    np.save(folder / "interactions.npy", pairs)
    np.save(folder / "times.npy", np.array([5, 9, 7]))
    assert read_dataset(folder).times.tolist() == [7, 5]
    ordered = np.array([[0, 2], [2, 3]], dtype=np.int32)
    np.save(folder / "interactions.npy", ordered)
    np.save(folder / "times.npy", np.array([5.0, 9.0]))
    assert read_dataset(folder).times.tolist() == [5, 9]
    np.save(folder / "times.npy", np.array([5.0]))
    with pytest.raises(DataError, match="one number of seconds for each of the 2 rows"):
        read_dataset(folder)
    np.save(folder / "times.npy", np.array([5.0, np.nan]))
    with pytest.raises(DataError, match=r"times.npy, row 1: is not finite"):
        read_dataset(folder)


def test_times_of_dropped_items_are_dropped(tmp_path):
    folder = _write_dataset(tmp_path / "data", dims={"text": 6}, missing=False)
    zero_rows(folder, "text", [2])
    with_times(folder, ["2\t3\t5", "0\t2\t9", "1\t1\t4"])
    dataset = read_dataset(folder, empty_items="drop")
    assert dataset.interactions.tolist() == [[1, 1], [2, 3]]
    assert dataset.times.tolist() == [4, 5]


@pytest.mark.parametrize("cell", ["2020-01-01", ""])
def test_a_column_time_of_other_content_is_ignored_with_a_note(tmp_path, cell):
    folder = _write_dataset(tmp_path / "data")
    with_times(folder, [f"2\t3\t{cell}", "0\t2\t9"])
    dataset = read_dataset(folder)
    assert dataset.times is None
    assert "column time" in dataset.notes[0]
    assert "is ignored" in dataset.notes[0]


def test_no_times(tmp_path):
    assert read_dataset(_write_dataset(tmp_path / "data")).times is None
