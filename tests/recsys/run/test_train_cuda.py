"""Training on a GPU: no waiting within an epoch, replayed steps, and the results of a CPU."""

from collections.abc import Callable, Iterator
from functools import partial
from importlib.util import find_spec
from itertools import starmap
from pathlib import Path
from typing import Any

import pytest
import torch

from milk_recsys import train
from milk_recsys.catalogue.dataset import read_dataset
from milk_recsys.catalogue.split import draw_split
from milk_recsys.catalogue.tables import build_tables
from milk_recsys.config.options import Options
from milk_recsys.methods.milk.captured import STEPS, WARM_UP, CapturedSteps
from milk_recsys.methods.milk.learner import Learner
from milk_recsys.methods.milk.model import build_model
from milk_recsys.run import begin, loop
from milk_recsys.run.evaluation import evaluate_group
from milk_recsys.run.progress import Progress

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(
        not torch.cuda.is_available(), reason="there is no GPU: torch.cuda.is_available() is False"
    ),
]

VARIANTS: list[dict[str, Any]] = [
    {},
    {"optimiser": "adam", "num_draws": 3},
    {"setting": "mtmt", "training_fusion": "available", "alignment_reduction": "item_mean"},
    {"model": "erm", "dtype": "bfloat16"},
    {"model": "align", "regulariser": "parameters", "optimiser": "adam"},
]
# Drawn by blocks of users; tables with blocks have no `pairs_at`.
BLOCKS: dict[str, Any] = {"user_blocks": 5, "user_table": "sharded"}
each_variant = pytest.mark.parametrize(
    "values", [*VARIANTS, BLOCKS], ids=lambda values: "-".join(values) or "default"
)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, write_dataset: Callable[..., Path]) -> Path:
    return write_dataset(
        tmp_path_factory.mktemp("data") / "tiny", users=200, items=300, pairs_per_user=20
    )


@pytest.fixture
def no_waiting() -> Iterator[Callable[[str], None]]:
    """A function that sets torch's reaction to waiting for the GPU; the default is restored."""
    yield torch.cuda.set_sync_debug_mode
    torch.cuda.set_sync_debug_mode("default")


def learner_on(device: str, data: Path, **values: Any) -> tuple[Learner, Options]:
    fixed: dict[str, Any] = {"model": "milk", "batch_size": 128, "embedding_dim": 16, "lr": 0.02}
    options = Options.of(data=data, **{**fixed, "device": device, **values})
    dataset = read_dataset(data)
    split, _ = draw_split(dataset, options.data)
    tables = build_tables(dataset, split, options, torch.device(device))
    return Learner(build_model(options, tables), tables, options), options


@each_variant
def test_an_epoch_never_waits_for_the_gpu(
    data: Path, values: dict[str, Any], no_waiting: Callable[[str], None]
) -> None:
    learner, _ = learner_on("cuda", data, **values)
    for epoch in range(WARM_UP + 1):  # Records the steps, and the shorter last one of an epoch.
        loop.train_epoch(learner, epoch)
    no_waiting("error")
    sums = learner.epoch_sums(WARM_UP + 1, lambda: None)
    no_waiting("default")
    assert torch.isfinite(sums).all()


@each_variant
def test_a_replayed_step_equals_the_step(data: Path, values: dict[str, Any]) -> None:
    replayed, _ = learner_on("cuda", data, **values, batch_size=112)
    plain, _ = learner_on("cuda", data, **values, batch_size=112)
    assert isinstance(replayed.steps, CapturedSteps)
    assert replayed.num_pairs % 112  # There is a shorter last batch.
    plain.steps = partial(starmap, plain.add_step)
    for epoch in range(WARM_UP + 2):
        lines = [loop.train_epoch(learner, epoch) for learner in (replayed, plain)]
        assert lines[0]["loss"] == pytest.approx(lines[1]["loss"], rel=1e-4)
    full, last = (graphs.recorded for graphs in replayed.steps.graphs.values())
    assert set(full) == {1, STEPS}
    assert set(last) == {1}


@pytest.mark.parametrize(
    "values", [{}, {"optimiser": "adam"}, BLOCKS], ids=lambda values: "-".join(values) or "default"
)
def test_steps_replayed_together_equal_single_replays(data: Path, values: dict[str, Any]) -> None:
    """Sums of the gradients of a user's triples are in no fixed order on a GPU, hence the bound."""
    learners = [learner_on("cuda", data, dtype="float64", **values)[0] for _ in range(2)]
    for learner, steps in zip(learners, (STEPS, 1), strict=True):
        learner.steps = CapturedSteps(learner.add_step, steps=steps)
    for epoch in range(3):
        lines = [loop.train_epoch(learner, epoch) for learner in learners]
        assert lines[0]["loss"] == pytest.approx(lines[1]["loss"], rel=1e-10)
    together, single = (dict(learner.model.named_parameters()) for learner in learners)
    for name, p in together.items():
        torch.testing.assert_close(p, single[name], rtol=1e-6, atol=1e-7)


# Tests with the real compiler: it takes up to a minute for each.
COMPILED: list[dict[str, Any]] = [{}, {"model": "align", "optimiser": "adam"}]
each_compiled = pytest.mark.parametrize(
    "values", COMPILED, ids=lambda values: "-".join(values) or "default"
)
needs_compiler = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")
# Warnings of the compiler's own code, for example of its worker processes.
compiler_warnings = pytest.mark.filterwarnings("ignore")


@needs_compiler
@compiler_warnings
@each_compiled
def test_compiled_steps_equal_those_of_torch_operations(data: Path, values: dict[str, Any]) -> None:
    fixed: dict[str, Any] = {"dtype": "float64", "batch_size": 112, **values}
    plain, ours = (
        learner_on("cuda", data, kernels=kernels, **fixed)[0] for kernels in ("torch", "compiled")
    )
    assert ours.num_pairs % 112  # There is a shorter last batch, which is not compiled.
    for epoch in range(WARM_UP + 2):
        lines = [loop.train_epoch(learner, epoch) for learner in (plain, ours)]
        assert lines[1]["loss"] == pytest.approx(lines[0]["loss"], rel=1e-6)
    expected = dict(plain.model.named_parameters())
    for name, p in ours.model.named_parameters():
        torch.testing.assert_close(p, expected[name], rtol=1e-4, atol=1e-5)
    assert isinstance(ours.steps, CapturedSteps)
    full, last = (graphs.recorded for graphs in ours.steps.graphs.values())
    assert set(full) == {1, STEPS}
    assert set(last) == {1}


@needs_compiler
@compiler_warnings
def test_compiled_steps_do_not_wait_for_the_gpu(
    data: Path, no_waiting: Callable[[str], None]
) -> None:
    learner, _ = learner_on("cuda", data, kernels="compiled")
    for epoch in range(WARM_UP + 1):
        loop.train_epoch(learner, epoch)
    no_waiting("error")
    sums = learner.epoch_sums(WARM_UP + 1, lambda: None)
    no_waiting("default")
    assert torch.isfinite(sums).all()


@needs_compiler
@compiler_warnings
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_compiled_run_is_as_good(data: Path, tmp_path: Path, dtype: str) -> None:
    accuracies = []
    for kernels in ("torch", "compiled"):
        options, dataset = begin.open_run(
            Options.of(
                model="milk", data=data, out=tmp_path / kernels, device="cuda", compare="none",
                epochs=30, eval_every=10, batch_size=128, embedding_dim=16, lr=0.02, dtype=dtype,
                kernels=kernels,
            )
        )  # fmt: skip
        metrics = train.run(options, dataset, Progress(quiet=True))
        accuracies.append(metrics["test"]["ndcg@20"])
    assert accuracies[0] == pytest.approx(accuracies[1], abs=0.05)


def test_one_batch_has_the_same_terms_and_gradient_on_both(data: Path) -> None:
    for values in VARIANTS:
        if values.get("dtype") == "bfloat16":
            continue
        terms, weights = [], []
        for device in ("cpu", "cuda"):
            learner, _ = learner_on(device, data, **{**values, "dtype": "float64"})
            users, positives = learner.tables.pairs_at(torch.arange(128, device=device))
            negatives = learner.tables.pool[
                torch.arange(128, device=device) % len(learner.tables.pool)
            ]
            generator = torch.Generator().manual_seed(0)
            environments = learner.epoch_weights(1, generator)[0]
            terms.append(learner.step_on(users, positives, negatives, environments).cpu())
            weights.append({name: p.detach().cpu() for name, p in learner.model.named_parameters()})
        assert torch.allclose(terms[0], terms[1], rtol=1e-9), values
        for name, p in weights[0].items():
            if not (name.endswith("bias") and values.get("model") == "erm"):
                assert torch.allclose(p, weights[1][name], atol=1e-6), (values, name)


def test_a_run_is_as_good_as_on_the_cpu(data: Path, tmp_path: Path) -> None:
    """Random numbers differ between devices, so accuracy is as with another seed."""
    accuracies = []
    for device in ("cpu", "cuda"):
        options, dataset = begin.open_run(
            Options.of(
                model="milk", data=data, out=tmp_path / device, device=device, compare="none",
                epochs=30, eval_every=10, batch_size=128, embedding_dim=16, lr=0.02,
            )
        )  # fmt: skip
        metrics = train.run(options, dataset, Progress(quiet=True))
        accuracies.append(metrics["test"]["ndcg@20"])
    assert accuracies[0] == pytest.approx(accuracies[1], abs=0.05)


def test_a_resumed_run_has_the_same_loss(data: Path, tmp_path: Path) -> None:
    whole, _ = learner_on("cuda", data)
    for epoch in range(2):
        loop.train_epoch(whole, epoch)
    whole.save(tmp_path / "state.safetensors", {"epoch": 1})
    resumed, _ = learner_on("cuda", data)
    assert resumed.load(tmp_path / "state.safetensors") == {"epoch": 1}
    lines = [loop.train_epoch(learner, 2) for learner in (whole, resumed)]
    assert lines[0]["loss"] == pytest.approx(lines[1]["loss"], rel=1e-5)


def test_evaluation_agrees_with_the_cpu(data: Path) -> None:
    gpu, _ = learner_on("cuda", data)
    cpu, _ = learner_on("cpu", data)
    sections = [
        evaluate_group(own, own.tables, own.tables.test, own.tables.mask)[0] for own in (gpu, cpu)
    ]
    assert sections[0]["ndcg@20"] == pytest.approx(sections[1]["ndcg@20"], abs=1e-3)


def test_tf32_is_set_for_the_run_alone(data: Path, tmp_path: Path) -> None:
    before = torch.get_float32_matmul_precision()
    options, dataset = begin.open_run(
        Options.of(
            model="milk",
            data=data,
            out=tmp_path / "run",
            compare="none",
            epochs=1,
            device="cuda",
            tf32=True,
        )
    )
    train.run(options, dataset, Progress(quiet=True))
    assert torch.get_float32_matmul_precision() == before
