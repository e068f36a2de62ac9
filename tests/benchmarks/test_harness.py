"""Tests of the benchmark harness: counted work, timing, comparison and the command line."""

import json
import time

import numpy as np
import pytest
import torch

from benchmarks import __main__ as command
from benchmarks.adapter import random_dataset, reference_setup, training_setup
from benchmarks.floors import StepShape, evaluation_work, step_work
from benchmarks.machine import Rates, Work, facts
from benchmarks.timing import Case, add_floors, fallen, measure, table
from milk_recsys.config.options import Options

RATES = Rates(matrix=1e9, bandwidth=1e8)


def test_a_lower_bound_is_the_time_of_the_operations_plus_that_of_the_bytes():
    work = Work(2e9, 3e8) + Work(1e9, 1e8).times(2)
    assert RATES.floor(work) == pytest.approx(4 + 5)
    assert RATES.best(Rates(matrix=1.0, bandwidth=3e8)) == Rates(matrix=1e9, bandwidth=3e8)
    with pytest.raises(TypeError):
        work + 1


def test_the_work_of_a_step_is_the_sum_counted_by_hand():
    """B = 2 triples, 1 user, n = 3 items, 2 positives, M = 2 of widths 5 and 6, D = 4, E = 3."""
    work = step_work(
        StepShape(triples=2, users=1, items=3, positives=2, widths=(5, 6), dim=4, envs=3)
    )
    encoders = 3 * 11 * 4 * 2  # multiply-adds of the products, two operations each
    elementwise = (
        2 * 2 * 4 * (3 + 6) + 2 * 2 * 2 * 3 * 2 + 2 * 2 * 4 * 6 + 3 * 4 * (2 + 2 + 4) + 1 * 4 * 4
    )
    assert work.flops == 2 * encoders + elementwise
    parameters = 11 * 4 + 2 * 4 + 1 * 4
    assert work.bytes == 4 * (3 * 11 + 3 * 2) + 3 * 2 + 8 * 3 * 2 + 3 * 2 * 4 * parameters


def test_the_work_of_an_evaluation_is_the_sum_counted_by_hand():
    work = evaluation_work(users=2, candidates=3, widths=(5, 6), dim=4, positives=7)
    assert work.flops == 2 * 3 * 11 * 4 + 3 * 4 * 2 + 2 * 2 * 3 * 4
    assert work.bytes == 4 * (3 * 11 + 13 * 4 + 2 * 4) + 3 * 2 + 8 * 7 * 3


def test_times_are_per_unit_and_the_ratio_is_that_of_the_medians():
    ran = {"ours": 0, "reference": 0}

    def sleep(name, seconds):
        ran[name] += 1
        time.sleep(seconds)

    case = Case(
        lambda: sleep("ours", 0.025), lambda: sleep("reference", 0.05), "step", "sleep",
        units=5, floor=Work(1e6, 0), wanted=0.5, steps=2, max_rounds=2,
    )  # fmt: skip
    result = measure(case, rounds=9)
    add_floors({"nap": result}, RATES)
    assert ran == {"ours": 3, "reference": 3}  # a warm-up and max_rounds rounds
    assert len(result["ours"]) == 2
    assert 0.005 <= min(result["ours"]) < 0.02
    ratio = np.median(result["reference"]) / np.median(result["ours"])
    assert result["ratio"] == pytest.approx(ratio)
    assert result["floor"] == pytest.approx(1e-3)
    assert result["over_floor"] == pytest.approx(np.median(result["ours"]) / 1e-3)
    text = table({"nap": result}).splitlines()
    assert len(text) == 3
    assert text[2].startswith("| nap, step | ")
    assert "a step | " in text[2]
    assert "(wanted: 0.5)" in text[2]


def test_a_short_run_is_repeated():
    ran = []
    case = Case(lambda: ran.append(1), lambda: None, "call", "nothing")
    result = measure(case, rounds=1)
    add_floors({"call": result}, RATES)
    assert result["over_floor"] is None
    assert len(ran) > 1000
    assert max(result["ours"]) < 1e-4
    assert "ns" in table({"call": result}) or "us" in table({"call": result})


def test_a_ratio_below_half_of_the_earlier_one_is_reported():
    before = {"a": {"ratio": 4.0}, "b": {"ratio": 4.0}, "c": {"ratio": 0.9}}
    results = {"a": {"ratio": 1.9}, "b": {"ratio": 2.1}, "new": {"ratio": 0.1}}
    assert fallen(results, before) == ["a: reference / ours has fallen from 4 to 1.9"]


def test_facts_contain_threads_and_rates():
    assert facts(RATES)["threads"] == torch.get_num_threads()
    assert facts(RATES)["matrix_gflops"] == 1.0


@pytest.fixture
def one_case(monkeypatch):
    """Arguments that run one small case with the current number of threads."""
    monkeypatch.setattr(command, "measure_rates", lambda device: RATES)
    monkeypatch.setattr(
        command, "CASES", {"nap": lambda quick: Case(lambda: None, lambda: None, "nap", "a nap")}
    )
    return ["--threads", str(torch.get_num_threads()), "--rounds", "1"]


def test_results_of_other_threads_and_of_cases_that_did_not_run_are_kept(
    one_case, tmp_path, capsys
):
    out, threads = tmp_path / "results.json", str(torch.get_num_threads())
    old = {"99": {"cases": {"x": {"ratio": 1.0}}}, threads: {"cases": {"other": {"ratio": 2.0}}}}
    out.write_text(json.dumps(old))
    assert command.main(command.parse([*one_case, "--out", str(out)])) == 0
    kept = json.loads(out.read_text())
    assert kept["99"] == old["99"]
    assert set(kept[threads]["cases"]) == {"nap", "other"}
    assert kept[threads]["threads"] == torch.get_num_threads()
    assert "| nap, nap |" in capsys.readouterr().out


@pytest.mark.parametrize(("ratio", "status"), [(1e-9, 0), (1e9, 1)])
def test_quick_compares_and_does_not_change_the_file(ratio, status, one_case, tmp_path, capsys):
    out = tmp_path / "results.json"
    out.write_text(json.dumps({str(torch.get_num_threads()): {"cases": {"nap": {"ratio": ratio}}}}))
    before = out.read_text()
    assert command.main(command.parse([*one_case, "--quick", "--out", str(out)])) == status
    assert out.read_text() == before
    assert ("nap: reference / ours has fallen" in capsys.readouterr().err) == bool(status)


def test_quick_without_earlier_results_reports_that_it_cannot_compare(one_case, tmp_path, capsys):
    assert (
        command.main(command.parse([*one_case, "--quick", "--out", str(tmp_path / "none.json")]))
        == 0
    )
    assert "nothing to compare with: no results at" in capsys.readouterr().err


def test_an_unknown_case_is_refused(capsys):
    with pytest.raises(SystemExit):
        command.parse(["--cases", "none"])
    assert "invalid choice: 'none'" in capsys.readouterr().err


def test_cases_whose_data_are_absent_are_skipped(one_case, monkeypatch, tmp_path, capsys):
    monkeypatch.delenv("INVMOD_DATA", raising=False)
    monkeypatch.setattr(command, "CASES", {"tiktok-training": None})
    assert command.main(command.parse([*one_case, "--out", str(tmp_path / "results.json")])) == 0
    assert "tiktok-training: skipped, INVMOD_DATA is not set" in capsys.readouterr().err


def test_a_random_data_set_has_distinct_pairs_of_the_first_used_items():
    dataset = random_dataset(30, 100, 200, {"a": 3, "b": 2}, used_items=20)
    assert len(np.unique(dataset.interactions, axis=0)) == 200
    assert dataset.interactions[:, 0].max() < 30
    assert dataset.interactions[:, 1].max() < 20
    assert {name: x.shape for name, x in dataset.features.items()} == {"a": (100, 3), "b": (100, 2)}


def test_training_and_the_reference_run_on_the_same_data():
    dataset = random_dataset(30, 50, 300, {"a": 3, "b": 2})
    training = training_setup(dataset, Options.of(model="milk", batch_size=64, embedding_dim=4))
    epoch, evaluate = reference_setup(training)
    assert training.steps == -(-training.learner.tables.num_pairs // 64)
    assert training.shape.widths == (3, 2)
    assert training.shape.positives <= training.shape.items <= 40
    assert training.shape.envs == 3
    assert evaluate()["users"] == training.evaluate()[0]["users"]
    assert evaluate()["ndcg@20"] == pytest.approx(training.evaluate()[0]["ndcg@20"], rel=1e-5)
    assert training.epoch()["loss"] > 0
    assert epoch() > 0
    for work in (training.epoch_floor, training.evaluation_floor):
        assert work.flops > 0
        assert work.bytes > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", command.cases_library.CASES)
def test_a_library_case_runs_on_both_sides(name):
    case = command.cases_library.CASES[name](True)
    case.ours()
    case.reference()


def test_cases_for_a_gpu_are_skipped_on_a_cpu_and_no_default_there(monkeypatch):
    monkeypatch.setenv("INVMOD_DATA", "data")
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    for name in command.cases_gpu.GPU_ONLY:
        assert command._obstacle(name, cpu) == "it needs --device cuda"
        assert command._obstacle(name, cuda) is None
    assert command._obstacle("keep-fit-lfm2k", cpu) is None
    assert not set(command._default_cases(cpu)) & set(command.cases_gpu.CASES)
    assert set(command.cases_gpu.CASES) < set(command._default_cases(cuda))
