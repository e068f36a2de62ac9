"""Tests of the two comparisons of methods: tuning, resuming, tables, committed results."""

import dataclasses
import gzip
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import missing_calibration
import missing_kernels
import missing_losses
import missing_methods
import missing_study
import missing_tables
from digits_quadrants import train as digits
from invmod.missingness import hide_features
from invmod.regression import PatternKernelRidge
from missing_calibration import CalibrationStudy
from missing_kernels import KERNEL_METHODS
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


def with_few_rows(make):
    """Make a problem whose splits have sixty rows in each part, for commands in seconds."""

    def small(epochs):
        problem = make(epochs)
        return dataclasses.replace(
            problem, split=lambda seed: tuple(part[:60] for part in problem.split(seed))
        )

    return small


def stored_lines(folder):
    """The lines of a finished study."""
    assert not (folder / "runs.jsonl").exists()
    return (
        gzip.decompress((folder / "runs.jsonl.gz").read_bytes()).decode().splitlines(keepends=True)
    )


@pytest.mark.slow
@pytest.mark.parametrize("missing", [False, True])
def test_a_stopped_study_resumes_to_the_same_result(two_configurations, tmp_path, missing):
    problem = small_problem(missing=missing)
    whole = Study(problem, tmp_path / "whole", seeds=2).run(log=str)
    lines = stored_lines(tmp_path / "whole")
    assert len(lines) == len(METHODS) * (2 * 2 + 2) + len(KERNEL_METHODS) * 2
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut/runs.jsonl").write_text("".join(lines[:9]) + lines[9][:20], encoding="utf-8")
    assert Study(problem, tmp_path / "cut", seeds=2).run(log=str) == whole
    assert stored_lines(tmp_path / "cut") == lines
    # A finished study is read from its compressed file, and more splits are added to it.
    assert Study(problem, tmp_path / "cut", seeds=2).run(log=str) == whole
    Study(problem, tmp_path / "cut", seeds=3).run(log=str)
    assert stored_lines(tmp_path / "cut")[: len(lines)] == lines
    assert len(stored_lines(tmp_path / "cut")) == len(lines) + len(METHODS) + len(KERNEL_METHODS)
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
    for method in METHODS:
        entry = results[method]
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
    trials = {row["method"]: row["trials"] for row in missing_tables.summary(results)}
    assert trials == dict.fromkeys(METHODS, 2) | dict.fromkeys(KERNEL_METHODS, 2) | {
        "kernel ridge": 0
    }
    for method in ("kernel ridge on z", "kernel ridge on z, validation"):
        assert results[method]["config"] == results["environments"]["config"]


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


def rows_of(problem, rows):
    return {name: x[rows] for name, x in problem.features.items()}


def test_the_kernel_regression_of_a_study_is_that_of_the_library_and_reads_no_other_rows():
    problem = small_problem(missing=True)
    rows, validation, test = problem.split(3)
    features, mask = rows_of(problem, test), torch.ones(30, 3, dtype=torch.bool)
    mask[:, 0] = False
    fit = missing_kernels.fit_kernel_ridge
    probabilities = fit(problem, KERNEL_METHODS["kernel ridge"], {}, 3)(features, mask)
    model = PatternKernelRidge(list(features)).fit(rows_of(problem, rows), problem.targets[rows])
    torch.testing.assert_close(probabilities, model.probabilities(features, mask))
    # Only the regression that chooses on validation rows depends on their classes.
    changed = problem.targets.clone()
    changed[validation] = (changed[validation] + torch.arange(len(validation))) % 3
    changed[test] = 0
    other = dataclasses.replace(problem, targets=changed)
    for name, method in KERNEL_METHODS.items():
        first, second = (
            fit(p, method, {"alpha": 0.1}, 3)(features, mask) for p in (problem, other)
        )
        assert torch.equal(first, second) == (name != "kernel ridge on z, validation"), name


def test_a_kernel_regression_on_embeddings_sees_nothing_of_hidden_modalities():
    problem = small_problem()
    rows = problem.split(3)[0]
    features, mask = rows_of(problem, rows), torch.ones(len(rows), 3, dtype=torch.bool)
    mask[:, 0] = False
    for name, method in KERNEL_METHODS.items():
        predict = missing_kernels.fit_kernel_ridge(problem, method, {"alpha": 0.1}, 3)
        hidden = predict(hide_features(features, mask, list(features)), mask)
        assert torch.equal(hidden, predict(features | {"m0": torch.zeros(len(rows), 4)}, mask))
        assert torch.allclose(hidden.sum(dim=1), torch.ones_like(hidden[:, 0])), name


def test_a_class_that_no_training_row_has_gets_the_probability_0():
    problem = small_problem()
    rows, _, test = problem.split(0)
    targets = problem.targets.clone()
    targets[rows] = targets[rows] % 2
    targets[test[0]] = 4
    problem = dataclasses.replace(problem, targets=targets)
    predict = missing_kernels.fit_kernel_ridge(problem, KERNEL_METHODS["kernel ridge"], {}, 0)
    probabilities = predict(rows_of(problem, test), torch.ones(len(test), 3, dtype=torch.bool))
    assert probabilities.shape == (30, 5)
    assert not probabilities[:, 2:].any()
    assert (probabilities[:, :2] > 0).all()


@pytest.mark.slow
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


# --- comparisons and calibration


def test_a_corrected_t_test_widens_the_variance_by_the_share_of_test_rows():
    from scipy import stats

    x = np.array([0.1, 0.3, 0.2, 0.25, -0.05])
    mean, half, p = missing_tables.corrected_t_test(x, test_share=0.0)
    plain = stats.ttest_1samp(x, 0)
    low, high = plain.confidence_interval()
    assert (mean, half, p) == pytest.approx((x.mean(), (high - low) / 2, plain.pvalue))
    wide = missing_tables.corrected_t_test(x, test_share=0.4)
    # The variance is 1/5 + 2/5 instead of 1/5, three times as large.
    assert wide[1] == pytest.approx(3**0.5 * half)
    assert wide[2] > p
    assert missing_tables.corrected_t_test([0.2, 0.2], 0.5)[2] == 0.0
    assert missing_tables.corrected_t_test([0.0, 0.0], 0.5)[2] == 1.0


def test_holms_correction_is_that_of_plain_python():
    p = [0.01, 0.04, 0.03, 0.005, 0.9]
    expected = {}
    largest = 0.0
    for rank, value in enumerate(sorted(p)):
        largest = min(1.0, max(largest, value * (len(p) - rank)))
        expected[value] = largest
    assert missing_tables.holm(p) == pytest.approx([expected[value] for value in p])


@pytest.mark.slow
def test_parts_are_compared_with_the_method_without_them(two_configurations, tmp_path):
    results = Study(small_problem(), tmp_path, seeds=3).run(log=str)
    parts = missing_tables.compare(results, 0.5, missing_tables.part_pairs(results))
    pairs = missing_tables.kernel_pairs(results)
    kernels = missing_tables.compare(results, 0.5, pairs, ("complete", "mean", "worst"))
    assert [(row["method"], row["baseline"]) for row in parts][:2] == [
        ("more-versus-fewer", "two masks"),
        ("more-versus-fewer", "environments"),
    ]
    assert pairs[: len(METHODS)] == [("kernel ridge", method) for method in METHODS]
    assert pairs[len(METHODS) :] == [
        ("kernel ridge on z", "environments"),
        ("kernel ridge on z", "kernel ridge"),
        ("kernel ridge on z, validation", "environments"),
        ("kernel ridge on z, validation", "kernel ridge"),
        ("kernel ridge on z, validation", "kernel ridge on z"),
    ]
    of_patterns = {
        "complete": lambda test: test["m0+m1+m2"],
        "mean": lambda test: np.mean(list(test.values())),
        "worst": lambda test: min(test.values()),
    }
    for row in (*parts, *kernels):
        for measure, function in of_patterns.items():
            if measure not in row:
                continue
            part, baseline = (
                np.array([function(run["test"]) for run in results[name]["runs"]])
                for name in (row["method"], row["baseline"])
            )
            expected = missing_tables.corrected_t_test(part - baseline, 0.5)
            assert row[measure][:2] == pytest.approx(expected[:2])
            assert row[measure][2] >= expected[2]
    assert "complete" in kernels[0]
    assert "complete" not in parts[0]
    assert missing_tables.p_text(0.0004) == "< 0.001"
    assert missing_tables.p_text(float("nan")) == ""


def test_pairs_of_kernel_regressions_that_a_study_lacks_are_left_out():
    results = dict.fromkeys(["ERM", "environments", "kernel ridge"])
    assert missing_tables.kernel_pairs(results) == [
        ("kernel ridge", "ERM"),
        ("kernel ridge", "environments"),
    ]


def test_the_fill_of_ppca_keeps_available_embeddings_and_has_no_gradient_through_fills():
    generator = seeded(0)
    factor = normal(generator, 40, 1, 1, dtype=torch.float32)
    z = (factor * normal(generator, 1, 3, 32, dtype=torch.float32)).requires_grad_()
    mask = torch.ones(40, 3, dtype=torch.bool)
    mask[:10, 0] = False
    mask[39] = False
    fill = missing_losses.PPCAFill(z.detach(), torch.ones_like(mask), 8)
    filled, usable = fill(z, mask)
    # One factor explains the embeddings, so the fill is the hidden value.
    torch.testing.assert_close(filled[:10, 0], z[:10, 0], atol=1e-2, rtol=1e-2)
    assert torch.equal(filled[mask], z[mask])
    assert usable[:39].all()
    assert not usable[39].any()
    filled[:10, 0].sum().backward()
    assert not z.grad.any()


def test_halves_of_the_test_rows_are_disjoint_and_lack_the_same_share_of_cells():
    problem = small_problem(missing=True)
    halves = missing_calibration.halves(problem, seed=3)
    shown = [
        {tuple(row) for row in half.features["m1"][half.mask[:, 1]].tolist()} for half in halves
    ]
    assert min(map(len, shown)) > 0
    assert not shown[0] & shown[1]
    assert [len(half.targets) for half in halves] == [15, 15]
    for half in halves:
        # No test row has m0; a row keeps at least one of the others.
        assert not half.mask[:, 0].any()
        assert half.mask.any(dim=1).all()
        for index, x in enumerate(half.features.values()):
            assert torch.equal(x.isnan().all(dim=1), ~half.mask[:, index])
    assert 0 < (~halves[0].mask[:, 1:]).float().mean() < 0.5


def test_the_calibration_study_resumes_and_counts_what_plain_python_counts(tmp_path, monkeypatch):
    problem = small_problem()
    config = {"alpha": 0.1}
    lines = CalibrationStudy(problem, tmp_path, config, seeds=2).run()
    assert [line["rule"] for line in lines] == 2 * ["one quantile", *missing_calibration.RULES]
    path = tmp_path / "calibration.jsonl"
    path.write_text(path.read_text(encoding="utf-8")[:-30], encoding="utf-8")
    trained = []
    train = missing_calibration.train

    def counted(problem, method, config, seed):
        trained.append(seed)
        return train(problem, method, config, seed)

    monkeypatch.setattr(missing_calibration, "train", counted)
    assert CalibrationStudy(problem, tmp_path, config, seeds=2).run() == lines
    assert trained == [1]

    def stopped(problem, method, config, seed):
        if seed == 3:
            raise KeyboardInterrupt
        return counted(problem, method, config, seed)

    # A split's lines are in the file as soon as it is calibrated.
    monkeypatch.setattr(missing_calibration, "train", stopped)
    with pytest.raises(KeyboardInterrupt):
        CalibrationStudy(problem, tmp_path, config, seeds=4).run()
    monkeypatch.setattr(missing_calibration, "train", counted)
    assert CalibrationStudy(problem, tmp_path, config, seeds=4).run()[: len(lines)] == lines
    assert trained == [1, 2, 3]
    predict = train(problem, "environments", config, 0)
    calibration, test = missing_calibration.halves(problem, 0)
    scores = sorted(
        1 - predict(calibration.features, calibration.mask)[row, target].item()
        for row, target in enumerate(calibration.targets)
    )
    quantile = scores[-(-16 * 9 // 10) - 1]
    counts = {}
    probabilities = predict(test.features, test.mask)
    for row, target in enumerate(test.targets):
        members = (1 - probabilities[row].double() <= quantile).tolist()
        count = counts.setdefault(str(int((~test.mask[row]).sum())), [0, 0, 0])
        count[0] += 1
        count[1] += members[target]
        count[2] += sum(members)
    assert lines[0]["hidden"] == counts
    table = missing_calibration.calibration_table(lines)
    assert table.count("| coverage |") == table.count("| mean size |") == 5


# --- the two commands


@pytest.mark.slow
def test_the_quadrants_make_up_the_digits_and_the_command_writes_its_files(
    two_configurations, tmp_path, capsys, monkeypatch
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
    monkeypatch.setattr(digits, "digits_problem", with_few_rows(digits.digits_problem))
    digits.main(digits.Options(out=tmp_path, seeds=1, epochs=1))
    assert {path.name for path in tmp_path.iterdir()} == {
        "runs.jsonl.gz",
        "calibration.jsonl",
        "table.md",
        "digits.png",
    }
    assert "| masks, V-REx |" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.data
def test_the_omics_command_writes_two_tables_and_test_patients_lack_protein(
    two_configurations, tmp_path, data_root
):
    omics.main(omics.Options(out=tmp_path, seeds=1, epochs=1))
    assert (tmp_path / "table.md").read_text(encoding="utf-8").count("\n| ERM |") == 2
    problem = omics.tcga_problem(1)
    train, validation, test = problem.split(4)
    assert not set(test.tolist()) & set(train.tolist() + validation.tolist())
    assert problem.features["protein"][test].isnan().all()
    assert not problem.features["protein"][train].isnan().any()


@pytest.mark.slow
@pytest.mark.data
def test_the_command_for_the_views_of_digits_writes_one_table(monkeypatch, tmp_path, data_root):
    few = {method: METHODS[method][:1] for method in ("ERM", "environments")}
    monkeypatch.setattr(missing_study, "METHODS", few)
    problem = omics.mfeat_problem(1)
    monkeypatch.setattr(omics, "mfeat_problem", with_few_rows(omics.mfeat_problem))
    omics.main(omics.Options(dataset="uci_mfeat", out=tmp_path, seeds=1, epochs=1))
    assert (tmp_path / "table.md").read_text(encoding="utf-8").count("\n| ERM |") == 1
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


@pytest.mark.results
@pytest.mark.parametrize("name", STUDIES)
def test_the_committed_table_is_made_from_the_committed_runs(name, tmp_path, monkeypatch):
    def train(*_args):
        raise AssertionError("a run is not stored")

    monkeypatch.setattr(missing_study, "train", train)
    monkeypatch.setattr(missing_study, "fit_kernel_ridge", train)
    (tmp_path / "runs.jsonl.gz").write_bytes((RESULTS / name / "runs.jsonl.gz").read_bytes())
    kernels = omics.KERNELS.get(name, tuple(KERNEL_METHODS))
    results = Study(small_problem(), tmp_path, kernels=kernels).run(log=str)
    assert len(stored_lines(tmp_path)) == len(METHODS) * (6 * 2 + 10) + len(kernels) * 10
    expected = missing_tables.table(missing_tables.summary(results), "").split("\n\n")[0]
    table = (RESULTS / name / "table.md").read_text(encoding="utf-8")
    assert table.startswith(expected)
    share = {"digits_quadrants": 447 / 900, "tcga_breast": 70 / 100, "uci_mfeat": 500 / 1000}[name]
    metric = "balanced accuracy" if name == "tcga_breast" else "accuracy"
    assert missing_tables.comparison_tables(results, share, metric) in table
    lines = (RESULTS / name / "calibration.jsonl").read_text(encoding="utf-8").splitlines()
    calibration = missing_calibration.calibration_table([json.loads(line) for line in lines])
    assert {json.loads(line)["config"]["alpha"] for line in lines} == {
        results["environments"]["config"]["alpha"]
    }
    assert calibration in table
    page = {"digits_quadrants": "digits_quadrants"}.get(name, "omics_subtypes")
    text = (RESULTS.parent / "examples" / f"{page}.md").read_text(encoding="utf-8")
    assert re.search(rf"^% TABLE {name}$", text, re.MULTILINE)


def test_a_study_without_splits_is_refused(tmp_path):
    with pytest.raises(SystemExit, match="`seeds` must be at least 1, got 0"):
        Study(small_problem(), tmp_path, seeds=0)
