"""The commands that measure fold-in, first pairs and splits by time run on small data sets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import first_pairs, fold_in, time_split
from benchmarks.journal import read_journal
from tests.recsys.conftest import _write_dataset


@pytest.mark.usefixtures("same_threads")
def test_folded_in_users_are_compared_with_a_fit(tmp_path: Path) -> None:
    data = _write_dataset(tmp_path / "small", users=120, items=120, pairs_per_user=15)
    words = ["--data", str(data), "--seeds", "0", "--out", str(tmp_path / "out")]
    assert fold_in.main(words) == 0
    (row,) = read_journal(tmp_path / "out/runs.jsonl")
    assert row["users held back"] == 12
    values = [float(row[name]) for name in ("folded in", "fit again", "nothing")]
    assert abs(values[0] - values[1]) < 0.15
    assert min(values[:2]) > values[2]


@pytest.mark.usefixtures("same_threads")
def test_vectors_of_items_with_first_pairs_are_compared(tmp_path: Path) -> None:
    data = _write_dataset(tmp_path / "small", users=120, items=150, pairs_per_user=20)
    words = ["--data", str(data), "--seeds", "0", "--out", str(tmp_path / "out")]
    assert first_pairs.main([*words, "--part", "test"]) == 0
    rows = read_journal(tmp_path / "out/test.jsonl")
    assert [row["given pairs"] for row in rows] == [1, 3, 10]
    # With more pairs, the vectors from the pairs are better.
    assert float(rows[0]["pairs"]) < float(rows[2]["pairs"])
    assert {"content", "update", "pairs", "kappa 20"} <= set(rows[0])


@pytest.mark.usefixtures("same_threads")
def test_splits_by_time_are_compared_with_random_ones(tmp_path: Path) -> None:
    data = _write_dataset(tmp_path / "small", users=60, items=100, pairs_per_user=20)
    header, *lines = (data / "interactions.tsv").read_text().splitlines()
    rng = np.random.default_rng(0)
    timed = [f"{line}\t{int(line.split()[1]) * 10 + rng.integers(500)}" for line in lines]
    (data / "interactions.tsv").write_text("\n".join([f"{header}\ttime", *timed]) + "\n")
    words = ["--data", str(data), "--methods", "keep", "knn", "--seeds", "0", "--cuts", "600"]
    for _ in range(2):  # The second run finds all lines in the journal.
        assert time_split.main([*words, "--out", str(tmp_path / "out")]) == 0
        lines_written = read_journal(tmp_path / "out/runs.jsonl")
        assert len(lines_written) == 4
    *table, empty = (tmp_path / "out/table.md").read_text().splitlines()
    assert not empty
    assert table[0] == "| method | random 0 | 600 |"
    assert {cell.split("(")[1][0] for row in table[2:] for cell in row.split("|")[2:4]} == {
        "1",
        "2",
    }


def test_the_order_of_methods_on_both_kinds_of_splits_is_compared() -> None:
    splits = [{"split_seed": 0}, {"split_by": "first_seen", "cut": "2011-01-01"}]
    lines = [
        {"method": method, "split": split, "test": {"ndcg@20": value + k}}
        for method, value in (("a", 0.1), ("b", 0.3), ("c", 0.2))
        for k, split in enumerate(splits)
    ]
    table = time_split.table(lines, ["a", "b", "c"], splits)
    assert table[0] == "| method | random 0 | 2011-01-01 |"
    assert table[2] == "| a | 0.1000 (3) | 1.1000 (3) |"
    assert "of the 3 methods' mean NDCG@20 on 1 random splits" in table[-1]
    assert ": 1.00 (p = " in table[-1]
