"""Folders of runs: one writer at a time, files of others stay, other data are refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from milk_recsys import train
from milk_recsys.base.errors import OptionError
from milk_recsys.base.lock import LOCK
from milk_recsys.catalogue.dataset import read_dataset
from milk_recsys.run.folder import claimed_folder
from milk_recsys.run.update import update_run
from tests.recsys.base.test_files import holder
from tests.recsys.conftest import Outcome, one_sentence


@pytest.fixture
def data(tmp_path: Path, write_dataset: Callable[..., Path]) -> Path:
    return write_dataset(tmp_path / "data", items=120, pairs_per_user=20)


@pytest.mark.parametrize("resume", ["--resume", "--no-resume"])
def test_a_second_run_on_one_new_folder_is_refused(
    tmp_path: Path, data: Path, outcome: Callable[..., Outcome], resume: str
) -> None:
    out = tmp_path / "run"
    out.mkdir()
    with holder(out) as process:
        words = ("train", "--data", data, "--out", out, resume, "--device", "cpu")
        error = one_sentence(outcome(*words))
        assert f"--out: {out} is being written by process {process.pid} on " in error
        assert "Wait for its end, or name another --out." in error
        assert [path.name for path in out.iterdir()] == [LOCK]


def test_the_folder_is_locked_while_a_run_writes_it_and_free_after_it(
    tmp_path: Path, data: Path, outcome: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, held = tmp_path / "run", []
    monkeypatch.setattr(train, "write_report", lambda folder: held.append((folder / LOCK).exists()))
    assert outcome("train", "--data", data, "--out", out, "--device", "cpu")[0] == 0
    assert held == [True]
    assert not (out / LOCK).exists()


def test_a_run_that_another_process_has_begun_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.json").write_text("{}")
    with (
        pytest.raises(OptionError, match="was changed by another process since this one began"),
        claimed_folder(tmp_path / "run", resumes=False),
    ):
        pass


def test_updates_hold_the_lock_too(
    tmp_path: Path, data: Path, outcome: Callable[..., Outcome]
) -> None:
    assert outcome("train", "--data", data, "--out", tmp_path / "run", "--device", "cpu")[0] == 0
    (tmp_path / "updated").mkdir()
    with (
        holder(tmp_path / "updated"),
        pytest.raises(OptionError, match="is being written by process"),
    ):
        update_run(tmp_path / "run", data, tmp_path / "updated")


def test_a_finished_run_is_not_resumed_with_other_data(
    tmp_path: Path, data: Path, outcome: Callable[..., Outcome]
) -> None:
    out = tmp_path / "run"
    assert outcome("train", "--data", data, "--out", out, "--device", "cpu")[0] == 0
    resume = ("train", "--resume", "--out", out)
    assert "is finished" in outcome(*resume)[1]
    assert "is finished" in outcome(*resume, "--data", data)[1]
    other = tmp_path / "other"
    shutil.copytree(data, other)
    np.save(other / "features/text.npy", np.load(data / "features/text.npy") + 1)
    for words in ((*resume, "--data", other), (*resume, "--data", tmp_path / "nowhere")):
        status, printed, error = outcome(*words)
        assert status == 2
        assert "is finished" not in printed
        assert "started with other data; changed: fingerprint" in error or "no such folder" in error
    # Without --data, the run's own data may have been moved away.
    data.rename(tmp_path / "moved")
    assert "is finished" in outcome(*resume)[1]


def test_temporary_files_of_others_stay(
    tmp_path: Path, data: Path, outcome: Callable[..., Outcome]
) -> None:
    out = tmp_path / "run"
    (out / "compare").mkdir(parents=True)
    shutil.rmtree(out / "compare")
    of_others = [".notes.tmp", ".other.txt.12.0123abcd.tmp", ".config.json.mine.tmp"]
    own = [".config.json.12.0123abcd.tmp", f".report.html.{'0f' * 8}.tmp"]
    for name in of_others + own:
        (out / name).write_text("content")
    assert outcome("train", "--data", data, "--out", out, "--device", "cpu")[0] == 0
    assert sorted(path.name for path in out.glob(".*")) == sorted(of_others)


@pytest.mark.parametrize("words", [("--out", ""), ("--out=",), ("--data", "")])
@pytest.mark.parametrize("command", ["train", "prepare", "recommend", "reproduce"])
def test_an_empty_path_is_not_the_current_folder(
    data: Path, outcome: Callable[..., Outcome], command: str, words: tuple[str, ...]
) -> None:
    first = {
        "train": ["train", "--data", str(data)],
        "prepare": ["prepare", "mmrec", "--folder", str(data)],
        "recommend": ["recommend", "--run", str(data), "--items", str(data)],
        "reproduce": ["reproduce", "table2", "--data", str(data)],
    }[command]
    if command in ("prepare", "recommend") and words[0] == "--data":
        words = ("--folder" if command == "prepare" else "--run", "")
    error = one_sentence(outcome(*first, *words))
    assert f"{words[0].rstrip('=')}: the value is empty." in error


def test_encoders_that_lead_out_of_the_data_are_not_copied(
    tmp_path: Path, data: Path, outcome: Callable[..., Outcome]
) -> None:
    (tmp_path / "secret").write_text("secret")
    (data / "encoders").mkdir()
    (data / "encoders/encoders.json").write_text("{}")
    (data / "encoders/0.safetensors").symlink_to(tmp_path / "secret")
    words = ("train", "--data", data, "--out", tmp_path / "run", "--device", "cpu")
    assert "leads outside" in one_sentence(outcome(*words))
    assert read_dataset(data).num_items == 120
