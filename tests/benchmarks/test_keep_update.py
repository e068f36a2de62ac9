"""The benchmark of updates runs on a small data set, and finds updates equal to fits."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.journal import read_journal
from benchmarks.keep_update import main
from tests.recsys.conftest import _write_dataset


@pytest.mark.usefixtures("same_threads")
def test_updates_are_compared_with_fits(tmp_path: Path) -> None:
    data = _write_dataset(tmp_path / "small", users=60, items=120, pairs_per_user=12)
    words = ["--data", str(data), "--out", str(tmp_path / "out"), "--dtype", "float64"]
    for _ in range(2):  # The second run replaces the line of the first one.
        assert main([*words, "--share", "0.1"]) == 0
    (case,) = read_journal(tmp_path / "out/updates.jsonl")
    assert case["pairs"]["new"] > 0
    assert case["training_items"] == 85
    assert case["pairs"]["difference"] < 1e-10 < case["items"]["difference"] < 0.2
    lines = (tmp_path / "out/table.md").read_text().splitlines()
    assert lines[2].startswith("| small | 85 |")
    assert lines[-1].startswith("Measured on ")
