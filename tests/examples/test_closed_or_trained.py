"""Tests of the controlled experiments: their data, resuming, tables, and committed results."""

import dataclasses
import gzip
import json
import re
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from closed_or_trained import experiments, problems, summary
from closed_or_trained import train as command
from digits_quadrants.train import digits_problem
from invmod.missingness import mask_from_features
from invmod.regression import PatternKernelRidge

RESULTS = Path(__file__).parents[2] / "docs/results"


# --- data


def test_features_made_with_labels_fit_the_classes_of_training_rows_only():
    problem = problems.labels(0)
    rows, validation, test = problem.split(0)
    correct = problem.features["right"].argmax(dim=1) == problem.targets
    assert correct[rows].all()
    assert correct[validation].float().mean() < 0.5
    assert correct[test].float().mean() < 0.5
    assert len(rows) == 300


def test_rows_of_a_group_share_a_class_and_a_part():
    problem = problems.clusters(0)
    groups, part = problems.group_numbers(), torch.empty(len(problem.targets), dtype=torch.int64)
    for index, rows in enumerate(problem.split(0)):
        part[rows] = index
    x = problem.features["a"]
    for group in groups.unique():
        own = groups == group
        assert len(problem.targets[own].unique()) == len(part[own].unique()) == 1
        # A row is closer to its group than to other rows.
        centre = x[own].mean(dim=0)
        assert (x[own] - centre).norm(dim=1).max() < (x[~own] - centre).norm(dim=1).median()


def test_pictures_contain_the_pixels_of_the_halves_at_different_places():
    problem = problems.images(0)
    digits = digits_problem(1)
    for side, x in problem.features.items():
        pixels = torch.cat([digits.features[f"{end} {side}"] for end in ("top", "bottom")], dim=1)
        assert torch.equal(x.sort(dim=1).values[:, -32:], pixels.sort(dim=1).values)
    first_rows = problem.features["left"].reshape(-1, 14, 14).any(dim=2).int().argmax(dim=1)
    assert len(first_rows.unique()) >= 7
    z = problems.SmallConvolution(196)(problem.features["left"][:5])
    assert z.shape == (5, 32)


@pytest.mark.parametrize("rate", [0.0, 0.3, 0.6])
def test_only_training_cells_are_missing(rate):
    problem = problems.missing(0, rate)
    rows, validation, test = problem.split(0)
    mask = mask_from_features(problem.features, list(problem.features))
    assert mask[validation].all()
    assert mask[test].all()
    assert mask[rows].any(dim=1).all()
    assert abs((~mask[rows]).float().mean() - rate) < 0.06


def test_the_class_decides_which_side_is_missing():
    problem = problems.informative(0)
    mask = mask_from_features(problem.features, list(problem.features))
    small = problem.targets < 5
    # The columns are top left, top right, bottom left, bottom right.
    assert mask[small][:, [1, 3]].all()
    assert mask[~small][:, [0, 2]].all()
    for cells in (mask[small][:, [0, 2]], mask[~small][:, [1, 3]]):
        assert abs((~cells).float().mean() - 0.6) < 0.05


def test_sizes_have_nested_training_rows_the_same_test_rows_and_at_least_360_steps():
    parts = {n: problems.size(1, n).split(0) for n in (50, 100, 900)}
    for n, (rows, _, test) in parts.items():
        assert torch.equal(rows, parts[900][0][:n])
        assert torch.equal(test, parts[900][2])
        assert problems.size(1, n).epochs * -(-n // 100) == 360


# --- runs and tables


def few_rows(seed):
    problem = problems.clusters(seed)
    train, validation, test = problem.split(0)
    parts = train[:80], validation[:40], test[:80]
    return dataclasses.replace(problem, split=lambda _: parts, epochs=2)


SMALL = experiments.Experiment(
    {"": few_rows},
    {
        "environments": experiments.trained,
        "kernel ridge": experiments.regression,
        "kernel ridge on z": experiments.on_embeddings,
    },
    repetitions=2,
)


def without_seconds(lines):
    return [{name: value for name, value in x.items() if name != "seconds"} for x in lines]


def test_a_stopped_experiment_resumes_to_the_same_results(tmp_path):
    path = tmp_path / "experiment.jsonl"
    lines = command.run(SMALL, path)
    text = path.read_text(encoding="utf-8")
    assert [json.loads(line) for line in text.splitlines()] == lines
    assert [x["trials"] for x in lines] == [6, 0, 6] * 2
    kept = "".join(text.splitlines(keepends=True)[:4])
    path.write_text(kept + '{"level": "', encoding="utf-8")
    again = command.run(SMALL, path)
    assert again[:4] == lines[:4]
    assert without_seconds(again) == without_seconds(lines)
    assert path.read_text(encoding="utf-8").startswith(kept)


def test_the_trained_way_is_the_best_configuration_on_validation_rows_and_is_trained_once():
    repetition = experiments.Repetition(few_rows(0))
    model, trials, seconds = experiments.trained(repetition)
    scores = [
        np.mean(
            [
                r.value
                for r in command.measure(
                    repetition.problem,
                    experiments.train(repetition.problem, "environments", config, 0),
                    repetition.problem.split(0)[1],
                )
            ]
        )
        for config in experiments.METHODS["environments"]
    ]
    own = command.measure(repetition.problem, model, repetition.problem.split(0)[1])
    assert np.mean([r.value for r in own]) == max(scores)
    assert trials == 6
    on_z = experiments.on_embeddings(repetition)
    assert on_z.seconds > seconds
    assert experiments.trained(repetition).predict is model


def test_rows_are_evaluated_with_the_modalities_that_they_have():
    problem = few_rows(0)
    test = problem.split(0)[2]
    problem.features["b"][test[::2]] = torch.nan
    repetition = experiments.Repetition(problem)
    result = command.fitted(repetition, experiments.regression, as_they_are=True)
    features = {name: x[test] for name, x in problem.features.items()}
    predicted = experiments.regression(repetition).predict(
        features, mask_from_features(features, ["a", "b"])
    )
    correct = predicted.argmax(dim=1) == problem.targets[test]
    assert result["test"] == {"as they are": pytest.approx(correct.double().mean().item())}
    hiding = command.fitted(repetition, experiments.regression, as_they_are=False)
    assert set(hiding["test"]) == {"a+b", "a", "b"}


def test_groups_reach_the_regression():
    repetition = experiments.Repetition(few_rows(0))
    problem, groups = repetition.problem, problems.group_numbers()
    rows, _, test = problem.split(0)
    of = {name: x[rows] for name, x in problem.features.items()}
    model = PatternKernelRidge(list(of)).fit(of, problem.targets[rows], groups=groups[rows])
    features = {name: x[test] for name, x in problem.features.items()}
    mask = torch.ones(len(test), 2, dtype=torch.bool)
    predict = experiments.regression(repetition, groups=groups).predict
    torch.testing.assert_close(predict(features, mask), model.probabilities(features, mask))
    alone = experiments.regression(repetition).predict
    assert not torch.allclose(predict(features, mask), alone(features, mask), atol=1e-3)


def test_the_numbers_of_a_table_equal_those_of_plain_python():
    def line(level, method, repetition, values):
        test = dict(zip(("a+b", "a", "b"), values, strict=True))
        of_run = {"level": level, "method": method, "repetition": repetition}
        return of_run | {"test": test, "trials": 6 * (method == "environments"), "seconds": 1.25}

    methods = {"environments": experiments.trained, "kernel ridge": experiments.regression}
    lines = [
        line("", "environments", 0, (0.5, 0.4, 0.3)),
        line("", "kernel ridge", 0, (0.7, 0.5, 0.3)),
        line("", "environments", 1, (0.7, 0.4, 0.3)),
        line("", "kernel ridge", 1, (0.8, 0.5, 0.1)),
    ]
    experiment = experiments.Experiment({"": few_rows}, methods, repetitions=2)
    rows = command.results_table(experiment, lines, "COMMAND").splitlines()
    assert rows[0] == "| method | a+b | a | b | a+b, against environments | trials | seconds |"
    # The t quantile of one degree of freedom is 12.706; a mean of two has the error |x - y| / 2.
    assert rows[2].startswith("| environments | 0.600 ± 1.271 | 0.400 ± 0.000 | 0.300 ± 0.000 |  |")
    assert "| 0.750 ± 0.635 | 0.500 ± 0.000 | 0.200 ± 1.271 | +0.150 ± 0.635 | 0 | 1.2 |" in rows[3]
    assert "Made by `COMMAND`" in rows[-1]
    levels = {"10 rows": partial(few_rows, 0), "20 rows": partial(few_rows, 0)}
    both = [x | {"level": level} for level in levels for x in lines]
    table = command.results_table(
        experiments.Experiment(levels, methods, repetitions=2), both, "COMMAND"
    )
    assert table.splitlines()[4].startswith("| 20 rows | environments | 0.600")


def test_the_command_writes_its_files(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(experiments.EXPERIMENTS, "clusters", SMALL)
    command.main(command.Options(study="clusters", out=tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {"experiment.jsonl", "table.md"}
    text = (tmp_path / "table.md").read_text(encoding="utf-8")
    assert text in capsys.readouterr().out
    assert "python examples/closed_or_trained/train.py clusters" in text


def test_the_summary_has_the_means_of_plain_python_and_the_best_trained_method_by_column(tmp_path):
    def run(method, seed, *values):
        test = dict(zip(("a+b", "a", "b"), values, strict=True))
        return {"method": method, "config": {}, "seed": seed, "test": test}

    runs = [
        {"method": "environments", "config": {}, "seed": 100, "validation": 0.9},
        *(run(method, seed, 0.1, 0.1, 0.1) for method in experiments.METHODS for seed in (0, 1)),
        run("ERM", 0, 0.9, 0.4, 0.2),
        run("ERM", 1, 0.7, 0.4, 0.2),
        run("environments", 0, 0.7, 0.6, 0.5),
        run("environments", 1, 0.7, 0.6, 0.5),
        run("kernel ridge", 0, 0.8, 0.6, 0.7),
        run("kernel ridge", 1, 0.8, 0.6, 0.5),
    ]
    path = tmp_path / "runs.jsonl.gz"
    path.write_bytes(gzip.compress("".join(json.dumps(x) + "\n" for x in runs).encode()))
    rows = summary.rows_of("set", summary.measured(path))
    assert rows == [
        "| set | best of 13 trained methods in each column | 0.800 | 0.600 | 0.500 |",
        "| set | environments | 0.700 | 0.600 | 0.500 |",
        "| set | kernel ridge | 0.800 | 0.667 | 0.550 |",
    ]


@pytest.mark.results
def test_the_committed_summary_is_made_from_the_committed_runs():
    committed = (RESULTS / "closed_or_trained_sets/table.md").read_text(encoding="utf-8")
    assert committed.startswith(summary.summary_table(RESULTS).split("\n\n")[0])
    page = (RESULTS.parent / "closed_or_trained.md").read_text(encoding="utf-8")
    assert re.search(r"^% TABLE closed_or_trained_sets$", page, re.MULTILINE)


@pytest.mark.results
@pytest.mark.parametrize("name", experiments.EXPERIMENTS)
def test_the_committed_table_is_made_from_the_committed_runs(name):
    folder = RESULTS / f"closed_or_trained_{name}"
    experiment = experiments.EXPERIMENTS[name]
    text = (folder / "experiment.jsonl").read_text(encoding="utf-8")
    lines = [json.loads(line) for line in text.splitlines()]
    assert {command.key(line) for line in lines} == {
        (level, method, repetition)
        for level in experiment.levels
        for method in experiment.methods
        for repetition in range(experiment.repetitions)
    }
    table = command.results_table(experiment, lines, "")
    committed = (folder / "table.md").read_text(encoding="utf-8")
    assert committed.startswith(table.split("\n\n")[0])
    page = (RESULTS.parent / "closed_or_trained.md").read_text(encoding="utf-8")
    assert re.search(rf"^% TABLE closed_or_trained_{name}$", page, re.MULTILINE)
