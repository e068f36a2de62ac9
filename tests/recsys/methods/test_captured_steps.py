"""Steps that are replayed in groups are the same steps, in the same order, on the same inputs.

A recorder on the CPU stands in for CUDA graphs: a replay calls the function on the recorded inputs.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from milk_recsys.catalogue.dataset import read_dataset
from milk_recsys.catalogue.split import draw_split
from milk_recsys.catalogue.tables import build_tables
from milk_recsys.config.options import Options
from milk_recsys.methods.milk.captured import MAX_SHAPES, WARM_UP, CapturedSteps
from milk_recsys.methods.milk.learner import Learner
from milk_recsys.methods.milk.model import build_model

Inputs = tuple[Tensor, ...]


class Recorder:
    """Counts warm-up calls, and the recorded and replayed graphs by their number of steps."""

    def __init__(self) -> None:
        self.asides = 0
        self.recorded: list[int] = []
        self.replayed: list[int] = []

    def aside(self, function: Callable[..., object], inputs: Inputs) -> None:
        self.asides += 1
        function(*inputs)

    def record(self, function: Callable[..., object], inputs: Inputs) -> Callable[[], None]:
        self.recorded.append(len(inputs[0]))
        addresses = [x.data_ptr() for x in inputs]

        def replay() -> None:
            # A graph reads the addresses it recorded, whatever tensors the caller has now.
            assert [x.data_ptr() for x in inputs] == addresses
            self.replayed.append(len(inputs[0]))
            function(*inputs)

        return replay

    def of(self, function: Callable[..., object], steps: int) -> CapturedSteps:
        return CapturedSteps(function, steps=steps, aside=self.aside, record=self.record)


def calls_of(sizes: Iterable[int]) -> list[Inputs]:
    """Inputs of different values and shapes: ids (B,) and weights (E, M)."""
    return [
        (torch.arange(size) + 100 * number, torch.full((2, 3), float(number)))
        for number, size in enumerate(sizes)
    ]


@pytest.mark.parametrize("steps", [1, 3, 8])
@pytest.mark.parametrize("num_full", [0, 1, 2, 3, 7, 8, 9, 16, 21])
def test_the_steps_are_those_of_plain_calls(steps: int, num_full: int) -> None:
    seen: list[Inputs] = []
    recorder = Recorder()
    captured = recorder.of(lambda *x: seen.append(tuple(y.clone() for y in x)), steps)
    for epoch in range(5):
        seen.clear()
        calls = [(ids + epoch, w) for ids, w in calls_of([4] * num_full + [2])]
        assert len(list(captured(calls))) == len(calls)
        for got, expected in zip(seen, calls, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    # Both shapes warm up, and each has a graph of a single step and one of many at most.
    assert recorder.asides == WARM_UP + min(WARM_UP, 5 * num_full)
    assert len(recorder.recorded) <= 3
    replayed = sum(recorder.replayed)
    assert replayed + recorder.asides == 5 * (num_full + 1)


def test_an_epoch_is_replayed_in_groups_then_singly_then_its_last_batch() -> None:
    recorder = Recorder()
    captured = recorder.of(lambda *x: None, 8)
    for _ in range(WARM_UP + 1):
        recorder.replayed.clear()
        for _ in captured(calls_of([4] * 26 + [2])):
            pass
    assert recorder.replayed == [8, 8, 8, 1, 1, 1]
    assert recorder.recorded == [1, 8, 1]


def test_a_step_is_reported_only_after_it_was_made() -> None:
    made: list[int] = []
    captured = Recorder().of(lambda ids, w: made.append(int(w[0, 0])), 4)
    for number, _ in enumerate(captured(calls_of([3] * 18 + [1]))):
        assert made[: number + 1] == list(range(number + 1))


def test_further_shapes_run_without_a_graph() -> None:
    recorder, made = Recorder(), []
    captured = recorder.of(lambda ids, w: made.append(len(ids)), 2)
    sizes = [size for size in range(1, MAX_SHAPES + 3) for _ in range(6)]
    for _ in captured(calls_of(sizes)):
        pass
    assert made == sizes
    assert len(captured.graphs) == MAX_SHAPES


# --- the learner ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, write_dataset: Callable[..., Path]) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "tiny", items=120, pairs_per_user=20)


def learner_of(data: Path, **values: Any) -> Learner:
    fixed: dict[str, Any] = {"model": "milk", "batch_size": 32, "embedding_dim": 8, "lr": 0.02}
    options = Options.of(data=data, **{**fixed, "device": "cpu", **values})
    dataset = read_dataset(data)
    split, _ = draw_split(dataset, options.data)
    tables = build_tables(dataset, split, options, torch.device("cpu"))
    return Learner(build_model(options, tables), tables, options)


@pytest.mark.parametrize(
    "values",
    [{}, {"optimiser": "adam", "num_draws": 2}, {"model": "erm"}, {"user_blocks": 5}],
    ids=lambda values: "-".join(values) or "default",
)
def test_training_in_groups_equals_single_steps_to_the_bit(
    data: Path, tmp_path: Path, values: dict[str, Any]
) -> None:
    plain, grouped = learner_of(data, **values), learner_of(data, **values)
    recorder, steps = Recorder(), [0, 0]
    grouped.steps = recorder.of(grouped.add_step, 8)
    assert plain.num_pairs % 32  # There is a shorter last batch.

    def counted(index: int) -> Callable[[], None]:
        def on_step() -> None:
            steps[index] += 1

        return on_step

    def equal(a: Learner, b: Learner) -> None:
        for name, tensor in a._tensors(weights_only=False).items():
            assert torch.equal(tensor, b._tensors(weights_only=False)[name]), name

    for epoch in range(4):
        terms = [one.train_epoch(epoch, counted(i)) for i, one in enumerate((plain, grouped))]
        assert terms[0] == terms[1]
        equal(plain, grouped)
    assert steps[0] == steps[1] == 4 * -(-plain.num_pairs // 32)
    assert 8 in recorder.replayed

    # A run that is resumed warms up and records again, and repeats the epoch.
    grouped.save(tmp_path / "state.safetensors", {"epoch": 3})
    resumed = learner_of(data, **values)
    resumed.steps = Recorder().of(resumed.add_step, 8)
    resumed.load(tmp_path / "state.safetensors")
    assert grouped.train_epoch(4) == resumed.train_epoch(4)
    equal(grouped, resumed)
