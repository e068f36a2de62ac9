"""The command that kills trainings: it counts equal results, and notices different ones."""

from pathlib import Path
from random import Random

import numpy as np
import pytest
import torch

from benchmarks import kill9


@pytest.mark.slow
def test_three_sequences_of_kills_end_with_the_same_results(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = kill9.KINDS["milk"]
    epochs = words.index("--epochs") + 1
    monkeypatch.setitem(kill9.KINDS, "milk", [*words[:epochs], "4", *words[epochs + 1 :]])
    assert kill9.run_kind("milk", tmp_path, 3, Random(0))
    printed = capsys.readouterr().out
    assert printed.startswith("milk       3 of 3 equal after ")
    assert "after 0 kills" not in printed


@pytest.mark.slow
def test_a_killed_server_starts_again_with_the_same_lists(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert kill9.run_server(tmp_path / "serve", 1, Random(0))
    assert capsys.readouterr().out == "serve      1 of 1 equal after 1 kills\n"


def test_results_are_equal_but_for_times() -> None:
    first = {"seconds": 1.0, "loss": [0.5, {"x": torch.ones(2)}], "values": np.array([1.0, np.nan])}
    assert kill9.same(first, {**first, "seconds": 2.0})
    assert not kill9.same(first, {**first, "loss": [0.5]})
    assert not kill9.same(first, {**first, "loss": [0.5, {"x": torch.zeros(2)}]})
    assert not kill9.same(first, {**first, "values": np.array([2.0, np.nan])})
    assert not kill9.same(first, {**first, "more": 1})
    assert kill9.same(torch.tensor([1.0, torch.nan]), torch.tensor([1.0, torch.nan]))
    assert not kill9.same(torch.tensor([1.0]), torch.tensor([1.0], dtype=torch.float64))


def test_a_different_result_ends_with_status_1(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(kill9, "_status", lambda *_, **__: 0)
    results = iter([1, 1, 2])
    monkeypatch.setattr(kill9, "_run", lambda out: next(results))
    assert kill9.main(["--kinds", "keep", "--sequences", "2"]) == 1
    assert "1 of 2 equal" in capsys.readouterr().out
