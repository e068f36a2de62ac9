"""Tests of the benchmark of large catalogues: the generated data, and a small run to its table."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.large import generated, milk
from benchmarks.large.__main__ import main
from milk_recsys.base.files import read_json
from milk_recsys.catalogue.dataset import read_dataset


def test_generated_data_are_sorted_and_in_the_layout_of_a_data_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = generated.Size(3000, 500)
    monkeypatch.setattr(generated, "USERS_AT_ONCE", 1000)
    monkeypatch.setattr(generated, "ITEMS_AT_ONCE", 300)
    generated.generate(tmp_path / "whole", size)
    dataset = read_dataset(tmp_path / "whole")
    # Sorted and distinct pairs stay mapped; other pairs would be copied while sorting.
    assert isinstance(dataset.interactions, np.memmap)
    assert dataset.notes == ()
    assert (dataset.num_users, dataset.num_items) == (3000, 500)
    assert len(dataset.interactions) == pytest.approx(30_000, rel=0.05)
    assert np.bincount(dataset.interactions[:, 0]).max() <= 250
    counts = np.sort(dataset.item_counts)[::-1]
    assert counts[:50].sum() > counts[-250:].sum()  # skewed
    assert 0.05 < (~dataset.natural_mask[:, 1]).mean() < 0.15
    assert dataset.natural_mask[:, 0].all()
    generated.generate(tmp_path / "again", size)
    assert read_dataset(tmp_path / "again").fingerprint == dataset.fingerprint


def test_a_scale_has_its_size_and_needs_room_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert generated.Size.of("1/25") == generated.Size(200_000, 40_000)
    assert generated.Size.of("1") == generated.Size(5_000_000, 1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10**6))
    with pytest.raises(SystemExit, match=r"has 0.0 GB free, but scale 1 takes 7\.8"):
        generated.prepared_folder(tmp_path, "1")
    assert not any(tmp_path.iterdir())


def test_the_time_per_triple_includes_the_setup_of_the_epoch() -> None:
    marks = [0.0, 5.5, 6.5, 7.0, 7.5, 8.5, 9.0]
    clock = milk.Clock.of(marks, 2, 10, 100)
    assert (clock.steps, clock.median_ms, clock.step_ms) == (4, 500, 625)
    assert clock.setup_s == 5.0
    assert clock.triple_us == pytest.approx(1e6 * (0.5 + 0.625) / 100)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_small_scale_runs_to_its_table(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [
        "--scale",
        "1/5000",
        "--folder",
        str(tmp_path),
        "--steps",
        "3",
        "--warm-up",
        "1",
        "--eval-users",
        "20",
    ]
    assert main(["--out", str(tmp_path / "results.json"), *words]) == 0
    case = read_json(tmp_path / "results.json")["cases"]["1/5000"]
    assert (case["users"], case["items"]) == (1000, 200)
    assert 0.05 < case["peak_gb"] < 3
    assert case["peak_gb"] == max(case["peak_gb_by_phase"].values())
    assert {"read", "split and tables", "train", "save", "restore", "validate"} <= set(
        case["seconds_by_phase"]
    )
    assert case["validation"]["users"] == 20
    assert "| 1/5000 | 1,000 | 200 |" in capfd.readouterr().out
    # Cases that the file has are not measured again, and those of other options are refused.
    monkeypatch.setattr(subprocess, "run", None)
    assert main(["--out", str(tmp_path / "results.json"), *words]) == 0
    with pytest.raises(SystemExit, match=r"cases of other options"):
        main(["--out", str(tmp_path / "results.json"), *words, "--threads", "2"])
    # The checkpoint was temporary.
    assert sorted(path.name for path in tmp_path.iterdir()) == ["results.json", "users-1000"]


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_keep_runs_to_its_table(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    words = ["--model", "keep", "--scale", "1/5000", "--folder", str(tmp_path)]
    assert main(["--out", str(tmp_path / "results.json"), *words, "--eval-users", "20"]) == 0
    case = read_json(tmp_path / "results.json")["cases"]["1/5000"]
    assert (case["users"], case["items"], case["test_items"]) == (1000, 200, 20)
    assert 0 < case["complete_test_items"] < 20
    assert {"read", "fit", "save", "restore", "rank"} <= set(case["seconds_by_phase"])
    assert case["test"]["users"] == 20
    assert case["chosen"]["shrinkage"] > 0
    assert "| 1/5000 | 1,000 | 200 |" in capfd.readouterr().out
