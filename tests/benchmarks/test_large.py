"""The benchmark of sizes beyond memory: what it generates, and that a small one runs to its table."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import large
from milk_recsys.base.files import read_json
from milk_recsys.catalogue.dataset import read_dataset


def test_generated_data_are_in_order_and_in_the_layout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = large.Size(3000, 500)
    monkeypatch.setattr(large, "USERS_AT_ONCE", 1000)
    monkeypatch.setattr(large, "ITEMS_AT_ONCE", 300)
    large.generate(tmp_path / "whole", size)
    dataset = read_dataset(tmp_path / "whole")
    assert isinstance(dataset.interactions, np.memmap)  # sorted and distinct, or it would be a copy
    assert dataset.notes == ()
    assert (dataset.num_users, dataset.num_items) == (3000, 500)
    assert len(dataset.interactions) == pytest.approx(30_000, rel=0.05)
    assert np.bincount(dataset.interactions[:, 0]).max() <= 250
    counts = np.sort(dataset.item_counts)[::-1]
    assert counts[:50].sum() > counts[-250:].sum()  # skewed
    assert 0.05 < (~dataset.natural_mask[:, 1]).mean() < 0.15
    assert dataset.natural_mask[:, 0].all()
    large.generate(tmp_path / "again", size)
    assert read_dataset(tmp_path / "again").fingerprint == dataset.fingerprint


def test_scales_and_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert large.Size.of("1/25") == large.Size(200_000, 40_000)
    assert large.Size.of("1") == large.Size(5_000_000, 1_000_000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=10**6))
    with pytest.raises(SystemExit, match=r"has 0.0 GB free, but scale 1 takes 7\.8"):
        large.prepared_folder(tmp_path, "1")
    assert not any(tmp_path.iterdir())


def test_a_clock_spreads_what_an_epoch_begins_with() -> None:
    marks = [0.0, 5.5, 6.5, 7.0, 7.5, 8.5, 9.0]
    clock = large.Clock.of(marks, 2, 10, 100)
    assert (clock.steps, clock.median_ms, clock.step_ms) == (4, 500, 625)
    assert clock.setup_s == 5.0
    assert clock.triple_us == pytest.approx(1e6 * (0.5 + 0.625) / 100)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_small_size_runs_to_its_table(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
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
    assert large.main(["--out", str(tmp_path / "found.json"), *words]) == 0
    found = read_json(tmp_path / "found.json")["cases"]["1/5000"]
    assert (found["users"], found["items"]) == (1000, 200)
    assert 0.05 < found["peak_gb"] < 3
    assert found["peak_gb"] == max(found["peak_gb_by_phase"].values())
    assert {"read", "split and tables", "train", "save", "restore", "validate"} <= set(
        found["seconds_by_phase"]
    )
    assert found["validation"]["users"] == 20
    assert "| 1/5000 | 1,000 | 200 |" in capfd.readouterr().out
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "found.json",
        "users-1000",
    ]  # no checkpoint is left
