"""Tests of the two comparisons of training methods: tuning, resuming, tables, committed results."""

import gzip
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import missing_methods
import missing_study
import missing_tables
from digits_quadrants import train as digits
from invmod.missingness import hide_features
from missing_methods import METHODS, Problem
from missing_study import Study
from omics_subtypes import train as omics
from tests.strategies import normal, seeded

RESULTS = Path(__file__).parents[2] / "docs/results"
STUDIES = ("digits_quadrants", "tcga_breast", "uci_mfeat")


def small_problem(num_modalities=3, missing=False):
    generator = seeded(0)
    targets = torch.randint(3, (90,), generator=generator)
    features = {
        f"m{index}": normal(generator, 90, 4, dtype=torch.float32)
        + 2 * torch.nn.functional.one_hot(targets, 4)
        for index in range(num_modalities)
    }
    if missing:
        features["m0"][60:] = torch.nan

    def split(seed):
        order = torch.randperm(60, generator=seeded(seed))
        return order[:40], order[40:], torch.arange(60, 90)

    return Problem("small", features, targets, split, missing_methods.accuracy, epochs=2)


@pytest.fixture
def two_configurations(monkeypatch):
    """Only two configurations for each method."""
    monkeypatch.setattr(
        missing_study, "METHODS", {method: configs[:2] for method, configs in METHODS.items()}
    )


def test_every_method_has_the_same_number_of_configurations():
    assert {len(configs) for configs in METHODS.values()} == {6}
    assert all(len({json.dumps(config) for config in configs}) == 6 for configs in METHODS.values())


def stored_lines(folder):
    """The lines of a finished study."""
    assert not (folder / "runs.jsonl").exists()
    return (
        gzip.decompress((folder / "runs.jsonl.gz").read_bytes()).decode().splitlines(keepends=True)
    )


@pytest.mark.parametrize("missing", [False, True])
def test_a_stopped_study_resumes_to_the_same_result(two_configurations, tmp_path, missing):
    problem = small_problem(missing=missing)
    whole = Study(problem, tmp_path / "whole", seeds=2).run(log=str)
    lines = stored_lines(tmp_path / "whole")
    assert len(lines) == len(METHODS) * (2 * 2 + 2)
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut/runs.jsonl").write_text("".join(lines[:9]) + lines[9][:20], encoding="utf-8")
    assert Study(problem, tmp_path / "cut", seeds=2).run(log=str) == whole
    assert stored_lines(tmp_path / "cut") == lines
    # A finished study is read from its compressed file, and more splits are added to it.
    assert Study(problem, tmp_path / "cut", seeds=2).run(log=str) == whole
    Study(problem, tmp_path / "cut", seeds=3).run(log=str)
    assert stored_lines(tmp_path / "cut")[: len(lines)] == lines
    assert len(stored_lines(tmp_path / "cut")) == len(lines) + len(METHODS)
    patterns = set(whole["ERM"]["runs"][0]["test"])
    assert patterns == (
        {"m1", "m2", "m1+m2"}
        if missing
        else {"m0", "m1", "m2", "m0+m1", "m0+m2", "m1+m2", "m0+m1+m2"}
    )


def test_configurations_are_chosen_on_validation_rows_and_tuning_runs_use_no_test_rows(
    two_configurations, tmp_path
):
    results = Study(small_problem(), tmp_path, seeds=1).run(log=str)
    runs = [json.loads(line) for line in stored_lines(tmp_path)]
    for run in runs:
        assert ("test" in run) == (run["seed"] not in missing_study.TUNING_SEEDS)
    for method, entry in results.items():
        scores = [
            np.mean(
                [
                    r["validation"]
                    for r in runs
                    if r["method"] == method and r["config"] == c and r["seed"] >= 100
                ]
            )
            for c in missing_study.METHODS[method]
        ]
        assert entry["tuning"] == pytest.approx(scores)
        assert entry["config"] == missing_study.METHODS[method][int(np.argmax(scores))]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_reproducible_and_ignores_hidden_modalities(method):
    problem = small_problem()
    first, again = (
        missing_methods.train(problem, method, METHODS[method][1], seed=3) for _ in range(2)
    )
    rows = problem.split(3)[0]
    features = {name: x[rows] for name, x in problem.features.items()}
    mask = torch.ones(len(rows), 3, dtype=torch.bool)
    assert torch.equal(first(features, mask), again(features, mask))
    hidden = mask.clone()
    hidden[:, 0] = False
    without_m0 = hide_features(features, hidden, list(features))
    assert torch.equal(
        first(without_m0, hidden), first(features | {"m0": torch.zeros(len(rows), 4)}, hidden)
    )


def test_the_numbers_of_a_table_equal_those_of_plain_python(two_configurations, tmp_path):
    results = Study(small_problem(), tmp_path, seeds=3).run(log=str)
    for row in missing_tables.summary(results):
        tests = [run["test"] for run in results[row["method"]]["runs"]]
        one_hidden = [
            np.mean([test[name] for name in ("m0+m1", "m0+m2", "m1+m2")]) for test in tests
        ]
        worst = np.array([min(test.values()) for test in tests])
        base = np.array([min(run["test"].values()) for run in results["ERM"]["runs"]])
        assert row["by_hidden"][1][0] == pytest.approx(np.mean(one_hidden))
        assert row["worst"][0] == pytest.approx(worst.mean())
        assert row["worst"][1] == pytest.approx(4.302653 * worst.std(ddof=1) / 3**0.5, rel=1e-5)
        assert row["difference"][0] == pytest.approx((worst - base).mean())
    assert missing_tables.pair((0.5, float("nan"))) == "0.500"


def test_balanced_accuracy_weights_classes_equally():
    targets, predicted = torch.tensor([0, 0, 0, 1]), torch.tensor([0, 0, 1, 1])
    assert missing_methods.balanced_accuracy(predicted, targets) == pytest.approx((2 / 3 + 1) / 2)
    assert missing_methods.accuracy(predicted, targets) == 0.75


# --- the two commands


def test_the_quadrants_make_up_the_digits_and_the_command_writes_its_files(
    two_configurations, tmp_path, capsys
):
    problem = digits.digits_problem(epochs=1)
    assert {tuple(x.shape) for x in problem.features.values()} == {(1797, 16)}
    left = torch.cat(
        [problem.features[name].reshape(-1, 4, 4) for name in ("top left", "bottom left")], dim=1
    )
    right = torch.cat(
        [problem.features[name].reshape(-1, 4, 4) for name in ("top right", "bottom right")], dim=1
    )
    from sklearn.datasets import load_digits

    assert torch.equal(
        torch.cat([left, right], dim=2) * 16, torch.tensor(load_digits().images).float()
    )
    parts = torch.cat(problem.split(0))
    assert torch.equal(parts.sort().values, torch.arange(1797))
    digits.main(digits.Options(out=tmp_path, seeds=1, epochs=1))
    assert {path.name for path in tmp_path.iterdir()} == {"runs.jsonl.gz", "table.md", "digits.png"}
    assert "| masks, V-REx |" in capsys.readouterr().out


@pytest.mark.data
def test_the_omics_command_writes_two_tables_and_test_patients_lack_protein(
    two_configurations, tmp_path, data_root
):
    omics.main(omics.Options(out=tmp_path, seeds=1, epochs=1))
    assert (tmp_path / "table.md").read_text(encoding="utf-8").count("| ERM |") == 2
    problem = omics.tcga_problem(1)
    train, validation, test = problem.split(4)
    assert not set(test.tolist()) & set(train.tolist() + validation.tolist())
    assert problem.features["protein"][test].isnan().all()
    assert not problem.features["protein"][train].isnan().any()


@pytest.mark.data
def test_the_command_for_the_views_of_digits_writes_one_table(monkeypatch, tmp_path, data_root):
    monkeypatch.setattr(missing_study, "METHODS", {"ERM": METHODS["ERM"][:1]})
    omics.main(omics.Options(dataset="uci_mfeat", out=tmp_path, seeds=1, epochs=1))
    assert (tmp_path / "table.md").read_text(encoding="utf-8").count("| ERM |") == 1
    problem = omics.mfeat_problem(1)
    assert torch.equal(torch.cat(problem.split(4)).sort().values, torch.arange(2000))
    assert len(problem.features) == 6


def test_absent_data_raise_an_error_with_instructions(monkeypatch, tmp_path):
    monkeypatch.delenv("INVMOD_DATA", raising=False)
    with pytest.raises(SystemExit, match="INVMOD_DATA is not set"):
        omics.tcga_problem(1)
    monkeypatch.setenv("INVMOD_DATA", str(tmp_path))
    with pytest.raises(
        SystemExit, match=r"there is no file .*tcga_breast.npz. docs/data.md describes where"
    ):
        omics.tcga_problem(1)


# --- the committed studies


@pytest.mark.parametrize("name", STUDIES)
def test_the_committed_table_is_made_from_the_committed_runs(name):
    study = Study(small_problem(), RESULTS / name)
    stored = study._stored_runs()
    results = {}
    for method, configs in METHODS.items():
        scores = [
            np.mean(
                [
                    stored[missing_study.run_key(method, c, seed)]["validation"]
                    for seed in missing_study.TUNING_SEEDS
                ]
            )
            for c in configs
        ]
        best = configs[int(np.argmax(scores))]
        results[method] = {
            "config": best,
            "runs": [stored[missing_study.run_key(method, best, seed)] for seed in range(10)],
        }
    assert len(stored) == len(METHODS) * (6 * 2 + 10)
    expected = missing_tables.table(missing_tables.summary(results), "").split("\n\n")[0]
    assert (RESULTS / name / "table.md").read_text(encoding="utf-8").startswith(expected)
    page = {"digits_quadrants": "digits_quadrants"}.get(name, "omics_subtypes")
    text = (RESULTS.parent / "examples" / f"{page}.md").read_text(encoding="utf-8")
    assert re.search(rf"^% TABLE {name}$", text, re.MULTILINE)


def test_a_study_without_splits_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="`seeds` must be at least 1, got 0"):
        Study(small_problem(), tmp_path, seeds=0)
