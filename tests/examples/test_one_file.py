"""MILK in one file trains and ranks as milk_recsys does."""

import json
from types import SimpleNamespace

import pytest
import torch

import milk_one_file
from milk_recsys.config.command_line import parse_options
from milk_recsys.run import begin
from milk_recsys.run.progress import Progress
from milk_recsys.train import run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def one_file():
    """The run of `milk_one_file.main`: losses of epochs, users' NDCG@20, robustness report."""
    data = milk_one_file.load_data()
    model, losses = milk_one_file.train(data)
    ndcg = milk_one_file.rank_new_items(model, data, data.test)
    return SimpleNamespace(
        losses=losses, ndcg=ndcg, report=milk_one_file.report_robustness(model, data)
    )


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """The same run by milk_recsys: the lines of its history, and metrics.json."""
    folder = tmp_path_factory.mktemp("package") / "run"
    flags = {
        "--model": "milk",
        "--compare": "none",
        "--out": folder,
        "--device": "cpu",
        "--dtype": "float64",
        "--kernels": "torch",
        "--optimiser": "adam",
        "--lr": milk_one_file.LEARNING_RATE,
        "--eval-every": milk_one_file.EVAL_EVERY,
        "--seed": milk_one_file.SEED,
        "--split-seed": milk_one_file.SEED,
    }
    options = parse_options([str(word) for pair in flags.items() for word in pair])
    metrics = run(*begin.open_run(options), Progress(quiet=True))
    history = [
        json.loads(line)
        for line in (folder / "history.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    return SimpleNamespace(history=history, metrics=metrics)


def test_losses_of_epochs(one_file, package):
    expected = [line["loss"] for line in package.history]
    assert len(one_file.losses) == len(expected) > 20
    assert one_file.losses[:20] == pytest.approx(expected[:20], rel=0, abs=1e-10)


def test_ndcg_on_new_items(one_file, package):
    expected = package.metrics["test"]
    assert len(one_file.ndcg) == expected["users"]
    assert one_file.ndcg.mean().item() == pytest.approx(expected["ndcg@20"], rel=0, abs=1e-10)


def test_robustness_report(one_file, package):
    sections = {"text+image+audio": package.metrics["test_complete"]}
    for hidden, left in (("text", "image+audio"), ("image", "text+audio"), ("audio", "text+image")):
        sections[left] = package.metrics["imposed"][hidden]
    values = {result.name: result.value for result in one_file.report.patterns}
    expected = {name: section["ndcg@20"] for name, section in sections.items()}
    assert values == pytest.approx(expected, rel=0, abs=1e-10)


def test_a_loss_without_alignment_differs(monkeypatch, package):
    """The comparison of losses notices a missing term."""
    monkeypatch.setattr(milk_one_file, "ALIGNMENT_WEIGHT", 0.0)
    monkeypatch.setattr(milk_one_file, "MAX_EPOCHS", 1)
    _, losses = milk_one_file.train(milk_one_file.load_data())
    assert abs(losses[0] - package.history[0]["loss"]) > 1e-6


def test_float32(monkeypatch):
    monkeypatch.setattr(milk_one_file, "DTYPE", torch.float32)
    monkeypatch.setattr(milk_one_file, "MAX_EPOCHS", 1)
    data = milk_one_file.load_data()
    model, losses = milk_one_file.train(data)
    assert model.users.weight.dtype == torch.float32
    assert 0.6 < losses[0] < 0.8
