"""Steps with compiled gradients equal steps of torch operations.

The backends "eager" and "aot_eager" run the traced operations one by one, so that no compiler is
needed; a slow test compiles them for the CPU.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from milk_recsys.base.distributed import SINGLE_PROCESS, World
from milk_recsys.base.errors import DataError
from milk_recsys.catalogue.dataset import read_dataset
from milk_recsys.catalogue.split import draw_split
from milk_recsys.catalogue.tables import build_tables
from milk_recsys.config.options import Options
from milk_recsys.methods.milk import compiled
from milk_recsys.methods.milk.captured import CapturedSteps
from milk_recsys.methods.milk.compiled import CompiledFunction, check_compiler
from milk_recsys.methods.milk.learner import Learner, check_learner
from milk_recsys.methods.milk.model import build_model

VARIANTS: list[dict[str, Any]] = [
    {},
    {"optimiser": "adam", "num_draws": 3},
    {"setting": "mtmt", "training_fusion": "available", "alignment_reduction": "item_mean"},
    {"model": "envs", "regulariser": "none"},
    {"model": "align", "alignment_mask": "complete", "user_blocks": 3, "user_table": "sharded"},
]
each_variant = pytest.mark.parametrize(
    "values", VARIANTS, ids=lambda values: "-".join(values) or "default"
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, write_dataset: Callable[..., Path]) -> Path:
    return write_dataset(tmp_path_factory.mktemp("data") / "tiny", items=120, pairs_per_user=20)


def learner_of(data: Path, **values: Any) -> Learner:
    fixed: dict[str, Any] = {"model": "milk", "batch_size": 224, "embedding_dim": 8, "lr": 0.02}
    options = Options.of(data=data, **{**fixed, "dtype": "float64", "device": "cpu", **values})
    dataset = read_dataset(data)
    split, _ = draw_split(dataset, options.data)
    tables = build_tables(dataset, split, options, torch.device("cpu"))
    return Learner(build_model(options, tables), tables, options)


def compare(data: Path, values: dict[str, Any], *, epochs: int) -> Learner:
    """Train with and without the compiler, and compare losses, weights and optimisers' states."""
    plain = learner_of(data, kernels="torch", **values)
    ours = learner_of(data, kernels="compiled", **values)
    assert plain.num_pairs > 224
    assert plain.num_pairs % 224  # There is a shorter last batch.
    for epoch in range(epochs):
        expected, terms = plain.train_epoch(epoch), ours.train_epoch(epoch)
        assert terms == pytest.approx(expected, rel=1e-10)
    for name, tensor in plain._tensors(weights_only=False).items():
        other = ours._tensors(weights_only=False)[name]
        torch.testing.assert_close(other, tensor, rtol=1e-7, atol=1e-9, equal_nan=True, msg=name)
    return ours


@pytest.mark.slow
@each_variant
def test_training_equals_that_of_torch_operations(
    data: Path, values: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "BACKEND", "aot_eager")
    ours = compare(data, values, epochs=2)
    assert ours.step_on.gradients is not None
    assert ours.step_on.gradients.compiled is not ours.step_on.gradients.function


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_one_step_has_the_terms_and_gradients_of_the_step(
    data: Path, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The compiled function reads the weights of every call, not those that it was traced with."""
    monkeypatch.setattr(compiled, "BACKEND", backend)
    plain, ours = (learner_of(data, kernels=kernels) for kernels in ("torch", "compiled"))
    generator = torch.Generator().manual_seed(0)
    for shift in (0, 20, 70):
        numbers = (torch.arange(224) + shift) % plain.num_pairs
        users, positives = plain.tables.pairs_at(numbers)
        negatives = plain.tables.pool[numbers % len(plain.tables.pool)]
        weights = plain.epoch_weights(1, generator)[0]
        for learner in (plain, ours):
            learner.model.users.weight.data.mul_(1.5)
        terms = [one.step_on(users, positives, negatives, weights) for one in (plain, ours)]
        torch.testing.assert_close(terms[1], terms[0], rtol=1e-11, atol=0)
        for p, q in zip(plain.step_on.encoders, ours.step_on.encoders, strict=True):
            torch.testing.assert_close(q.grad, p.grad, rtol=1e-9, atol=1e-13)
            assert q.grad is not None
            assert q.grad.stride() == q.stride()  # As fused Adam needs it.


@pytest.mark.slow
@pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "clang++"))), reason="there is no C++ compiler"
)
@pytest.mark.filterwarnings("ignore")  # Those of the compiler.
def test_training_equals_that_of_torch_operations_with_the_real_compiler(data: Path) -> None:
    compare(data, {}, epochs=2)


@pytest.mark.slow
def test_a_compiled_step_can_be_replayed(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Plain calls stand in for CUDA graphs."""
    monkeypatch.setattr(compiled, "BACKEND", "eager")
    single, grouped = (
        learner_of(data, kernels="compiled", batch_size=32, dtype="float32") for _ in range(2)
    )
    grouped.steps = CapturedSteps(
        grouped.add_step,
        aside=lambda function, inputs: function(*inputs),
        record=lambda function, inputs: lambda: function(*inputs),
    )
    for epoch in range(2):
        assert single.train_epoch(epoch) == grouped.train_epoch(epoch)


def test_other_shapes_run_the_function_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def double(x: torch.Tensor) -> tuple[torch.Tensor]:
        calls.append(len(x))
        return (2 * x,)

    function = CompiledFunction(double, backend="eager")
    sizes = [4, 4, 3, 4, 3]
    for size in sizes:
        (result,) = function(torch.ones(size))
        assert result.tolist() == [2.0] * size
    assert calls == [4, 3, 3]  # It is called to be traced, and for the other shapes.


def test_a_compiler_that_fails_is_an_error_that_says_what_to_do() -> None:
    def fails(*arguments: object) -> None:
        raise RuntimeError("no such compiler")

    function = CompiledFunction(lambda x: (x + 1,), backend=fails)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=r"no such compiler.*--kernels torch"):
        function(torch.ones(3))


def test_what_cannot_be_compiled_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    own = Options.of(model="milk", kernels="compiled")
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    with pytest.raises(DataError, match="needs a GPU, and the device is cpu"):
        check_learner(own, cpu, SINGLE_PROCESS)
    with pytest.raises(DataError, match="one process only, and there are 2"):
        check_learner(own, cuda, World(0, 2))
    monkeypatch.setattr(compiled, "find_spec", lambda name: object())
    monkeypatch.setattr(compiled.shutil, "which", lambda name: name if name == "my-cc" else None)
    with pytest.raises(DataError, match="C compiler"):
        check_compiler(own.method, cuda, SINGLE_PROCESS)
    monkeypatch.setenv("CC", "my-cc")
    check_compiler(own.method, cuda, SINGLE_PROCESS)
    monkeypatch.setattr(compiled, "find_spec", lambda name: None)
    with pytest.raises(DataError, match="Triton is not installed"):
        check_compiler(own.method, cuda, SINGLE_PROCESS)
    parameters = own.replace(regulariser="parameters", optimiser="adam").method
    with pytest.raises(DataError, match="--regulariser parameters"):
        check_compiler(parameters, cuda, SINGLE_PROCESS)


def test_features_in_files_are_refused(data: Path) -> None:
    with pytest.raises(DataError, match="needs the features in memory"):
        learner_of(data, kernels="compiled", features="mapped")
