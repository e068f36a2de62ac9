"""The benchmark of training pairs that are divided over processes, on a small scale."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from benchmarks.processes import MEASURES, WITHOUT, main, table
from milk_recsys.base.files import read_json, write_json


def test_the_table_has_the_largest_value_of_any_process() -> None:
    def rank(value: float) -> dict[str, float]:
        return dict.fromkeys(MEASURES, value)

    cases = {
        WITHOUT: {"training_pairs": 4_000, "ranks": [rank(8e6)]},
        "2": {"training_pairs": 4_000, "ranks": [rank(3e6), rank(5e6)]},
    }
    lines = table(cases)
    assert lines[2].startswith("| any number, without --user-blocks | 4,000 | 8.0 | 8.0 | 8.0 |")
    assert lines[3].startswith("| 2 | 4,000 | 5.0 | 5.0 | 5.0 |")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_small_scale_runs_to_its_file(tmp_path: Path) -> None:
    out = tmp_path / "results.json"
    write_json(out, {"other": 1})
    words = ["--scale", "1/1000", "--folder", str(tmp_path), "--processes", "2"]
    assert main(["--out", str(out), "--user-blocks", "8", *words]) == 0
    results = read_json(out)
    assert results["other"] == 1
    whole, two = (results["milk"]["cases"][name] for name in (WITHOUT, "2"))
    assert whole["training_pairs"] == two["training_pairs"] > 30_000
    assert len(whole["ranks"]) == 1
    assert len(two["ranks"]) == 2
    for case in (whole, two):
        assert sum(rank["triples"] for rank in case["ranks"]) == case["training_pairs"]
        assert all(rank["cpu_s"] > 0 for rank in case["ranks"])
    for name in ("pairs_bytes", "order_bytes", "users_bytes"):
        (total,) = (rank[name] for rank in whole["ranks"])
        parts = [rank[name] for rank in two["ranks"]]
        # Each block has one key and one offset more than it has pairs and users.
        assert 0 <= sum(parts) - total <= 8 * 8
        assert max(parts) < 0.55 * total
