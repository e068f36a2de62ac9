"""The table of KEEP by numbers of landmarks, neighbours and probes."""

from __future__ import annotations

from pathlib import Path

from benchmarks.journal import write_journal
from benchmarks.keep_size import table, write_curves

CONDITIONS = {"items": 1140, "machine": "x86_64, 2 cores", "torch": "2.13.0", "date": "2026-01-01"}


def test_the_table_compares_cases_on_the_splits_that_they_share(tmp_path: Path) -> None:
    def line(seed: int, case: list[int | None] | None, ndcg: float) -> dict[str, object]:
        return {
            "seed": seed,
            "case": case,
            "ndcg@20": ndcg,
            "fit_cpu_s": 2,
            "rank_cpu_s": 1,
            **CONDITIONS,
        }

    write_journal(
        tmp_path / "tiny.jsonl",
        [
            line(300, None, 0.5),
            line(301, None, 0.3),
            line(300, [256, 16, None], 0.45),
            line(300, [512, 256, None], 0.48),
            line(301, [512, 256, None], 0.32),
        ],
    )
    rows = table(tmp_path)
    write_curves(tmp_path)
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert "| tiny | 1,140 | 2 | 0.4000 | 0.4000 | 100.0% | 3 | 3 |" in rows
    assert "| 256 | 16 | all | 90.0% |  |" in rows
    assert "| 512 | 256 | all | 100.0% |  |" in rows
    # A set whose default was not measured yet is left out of the first table.
    write_journal(tmp_path / "begun.jsonl", [line(300, None, 0.5), line(300, [64, 0, None], 0.3)])
    assert not any(row.startswith("| begun") for row in table(tmp_path))
    assert "| 64 | 0 | all | 60.0% |  |  |" in table(tmp_path)
    write_curves(tmp_path)
    assert rows[-1] == "Measured on x86_64, 2 cores, torch 2.13.0, 2026-01-01."
