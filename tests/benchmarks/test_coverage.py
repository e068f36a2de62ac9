"""The simulation of coverage: its cases, its verdicts, its files and the page that quotes it."""

import json
from pathlib import Path

import numpy as np
import pytest

from benchmarks import coverage

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("case", "values"),
    [
        (case, case.draw(np.random.default_rng(0), 40_000))
        for _, _, cases, _ in coverage.CASES
        for case in cases
    ],
    ids=[f"{what}, {case.name}" for what, _, cases, _ in coverage.CASES for case in cases],
)
def test_the_stated_mean_of_a_case_is_that_of_its_values(case, values):
    assert abs(values.mean() - case.mean) < 5 * values.std() / len(values) ** 0.5


def test_bootstrap_values_of_the_auroc_equal_its_definition():
    rng = np.random.default_rng(3)
    values = coverage.resampled_auc(rng, 8, 1.0)
    rng = np.random.default_rng(3)
    positive, negative = rng.normal(1.0, 1, (4, 1))[:, 0], rng.normal(0, 1, (1, 4))[0]
    counts = rng.multinomial(8, np.full(8, 1 / 8), size=coverage.RESAMPLES)
    expected = []
    for count in counts:
        p, n = np.repeat(positive, count[:4]), np.repeat(negative, count[4:])
        if len(p) and len(n):
            expected.append((p[:, None] > n).mean())
    np.testing.assert_allclose(values, expected)
    assert len(values) < coverage.RESAMPLES


def test_a_row_is_kept_if_its_coverage_is_within_the_error_of_the_nominal():
    inside, outside = (0.0, 1.0), (2.0, 3.0)
    row = coverage.coverage("share", "x", 9, [inside] * 93 + [outside] * 7, 0.5)
    assert (row.estimate, row.kept) == (0.93, True)
    assert row.width == pytest.approx(1.0)
    row = coverage.coverage("share", "x", 9, [inside] * 88 + [outside] * 12, 0.5)
    assert (row.estimate, row.kept) == (0.88, False)
    assert row.error == pytest.approx((0.95 * 0.05 / 100) ** 0.5)
    assert coverage.coverage("share", "x", 1, [None], 0.5).estimate == 1.0


def test_the_command_writes_the_table_and_a_file(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(coverage.os, "nice", lambda increment: increment)
    monkeypatch.setattr(coverage, "RESAMPLES", 19)
    out = tmp_path / "coverage.json"
    assert coverage.main(["--repeats", "3", "--out", str(out)]) == 0
    written = json.loads(out.read_text(encoding="utf-8"))
    rows = [coverage.Row(**row) for row in written["rows"]]
    assert capsys.readouterr().out == coverage.table(rows) + "\n"
    sizes = sum(len(cases) * len(units) for _, _, cases, units in coverage.CASES)
    assert len(rows) == sizes + 6 + len(coverage.TESTS)
    assert written["repeats"] == 3
    assert {"machine", "date", "numpy", "python", "seed"} <= set(written)
    assert all(0 <= row.estimate <= 1 for row in rows)
    assert coverage.simulate(3) == rows  # seeded


def test_the_command_refuses_no_repeats(capsys):
    with pytest.raises(SystemExit):
        coverage.main(["--repeats", "0"])
    assert "--repeats must be at least 1" in capsys.readouterr().err


def test_the_page_quotes_the_file():
    written = json.loads((ROOT / "benchmarks/coverage.json").read_text(encoding="utf-8"))
    rows = [coverage.Row(**row) for row in written["rows"]]
    page = (ROOT / "docs/parts/robustness.md").read_text(encoding="utf-8")
    quoted = [line for line in page.splitlines() if line.startswith("| ") and " | yes |" in line]
    quoted += [line for line in page.splitlines() if line.startswith("| ") and " | no |" in line]
    assert len(quoted) > 10
    lines = coverage.table(rows).splitlines()
    assert set(quoted) <= set(lines)
    assert {line for line in lines if " | no |" in line} <= set(quoted)  # no failure is left out
    assert f"{written['repeats']:,} samples" in page
    assert written["date"] in page
