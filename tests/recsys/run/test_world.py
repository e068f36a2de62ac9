"""Training in several processes gives the results of one process."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from milk_recsys import train
from milk_recsys.base.checkpoint import load_state
from milk_recsys.base.distributed import World
from milk_recsys.base.errors import DataError
from milk_recsys.config.options import OptionError, Options
from milk_recsys.run import begin
from milk_recsys.run.loop import check_learner
from milk_recsys.run.progress import Progress
from tests.recsys.run.world_worker import losses

ROOT = Path(__file__).resolve().parents[3]
CASES: list[dict[str, Any]] = [
    {"dtype": "float64"},
    {"dtype": "float64", "optimiser": "adam", "num_draws": 2},
    {
        "dtype": "float64",
        "setting": "mtmt",
        "alignment_reduction": "item_mean",
        "training_fusion": "available",
    },
    {
        "dtype": "float64",
        "model": "align",
        "alignment_reduction": "sum",
        "alignment_weight": 1e-3,
        "kernels": "torch",
    },
    {
        "dtype": "float64",
        "alignment_mask": "complete",
        "alignment_reduction": "mean",
        "risk_reduction": "sum",
    },
    {"dtype": "float64", "model": "erm", "regulariser": "none"},
    {"dtype": "float64", "shared_negatives": 5},
    {"dtype": "float32"},
    {"dtype": "float32", "setting": "mtmt", "training_fusion": "available"},
]
BLOCK_CASES: list[dict[str, Any]] = [
    {"dtype": "float64", "user_blocks": 7},
    {"dtype": "float64", "user_blocks": 7, "user_table": "sharded"},
    {"dtype": "float64", "user_blocks": 4, "optimiser": "adam", "setting": "mtmt"},
    # Two users a block and batches of five: in most steps some rank has no triple.
    {"dtype": "float64", "user_blocks": 15, "batch_size": 5, "user_table": "sharded"},
    {
        "dtype": "float64",
        "user_blocks": 6,
        "model": "envs",
        "kernels": "torch",
        "user_table": "sharded",
    },
    {"dtype": "float64", "user_blocks": 28, "negatives": "all", "candidates": "all_cold"},
    {"dtype": "float64", "user_blocks": 7, "shared_negatives": 5, "user_table": "sharded"},
    {"dtype": "float32", "user_blocks": 5},
    {"dtype": "float32", "user_blocks": 9, "user_table": "sharded", "kernels": "torch"},
]


def torchrun(size: int, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script in `size` processes of one thread each."""
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        f"--nproc-per-node={size}",
        *arguments,
    ]
    return subprocess.run(
        command,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, write_dataset: Callable[..., Path]) -> Path:
    return write_dataset(tmp_path_factory.mktemp("ranks") / "data", items=120, pairs_per_user=20)


def losses_of_ranks(
    data: Path, out: Path, size: int, cases: list[dict[str, Any]]
) -> dict[str, Any]:
    """Train the cases in several processes; return the content of the file that rank 0 wrote."""
    done = torchrun(
        size, "tests/recsys/run/world_worker.py", str(data), str(out), json.dumps(cases)
    )
    assert done.returncode == 0, done.stderr[-9000:]
    output: dict[str, Any] = json.loads(out.read_text())
    assert output["size"] == size
    assert output["threads_left"] == []
    return output


@pytest.mark.slow
@pytest.mark.parametrize(("size", "step"), [(2, 1), (3, 3)])
def test_ranks_give_the_losses_of_one_process(
    data: Path, tmp_path: Path, size: int, step: int
) -> None:
    cases = CASES[::step]
    output = losses_of_ranks(data, tmp_path / "losses.json", size, cases)
    for values, theirs in zip(cases, output["cases"], strict=True):
        expected = losses(data, values, World())
        rel = 1e-12 if values["dtype"] == "float64" else 1e-5
        assert theirs["losses"] == pytest.approx(expected["losses"], rel=rel), values
        # Without a regulariser the gradient of biases is 0 up to rounding, which Adam amplifies.
        if values.get("regulariser") != "none":
            assert theirs["weights"] == pytest.approx(expected["weights"], rel=10 * rel), values
        if values["dtype"] == "float64":
            assert theirs["validation"] == expected["validation"], values


@pytest.mark.slow
@pytest.mark.parametrize(("size", "step"), [(2, 1), (3, 2), (4, 3)])
def test_blocks_of_users_give_the_losses_of_one_process(
    data: Path, tmp_path: Path, size: int, step: int
) -> None:
    """With the same --user-blocks, every number of processes has the same epoch."""
    cases = BLOCK_CASES[::step]
    output = losses_of_ranks(data, tmp_path / "losses.json", size, cases)
    for values, theirs in zip(cases, output["cases"], strict=True):
        expected = losses(data, values, World())
        rel = 1e-12 if values["dtype"] == "float64" else 1e-5
        assert theirs["losses"] == pytest.approx(expected["losses"], rel=rel), values
        assert theirs["weights"] == pytest.approx(expected["weights"], rel=10 * rel), values
        if values["dtype"] == "float64":
            assert theirs["validation"] == expected["validation"], values


RUN = (
    "--model=milk",
    "--epochs=5",
    "--eval-every=2",
    "--batch-size=32",
    "--embedding-dim=8",
    "--lr=0.02",
    "--compare=none",
)


def run_in_this_process(data: Path, out: Path, *options: str) -> dict[str, Any]:
    """Run train.py with the options RUN and others in this process; return its metrics."""
    parsed, dataset = begin.begin([f"--data={data}", f"--out={out}", *RUN, *options])
    return train.run(parsed, dataset, Progress(quiet=True))


@pytest.mark.slow
@pytest.mark.parametrize("more", [(), ("--user-blocks=6", "--user-table=sharded")])
def test_a_killed_rank_is_restarted_and_nothing_is_lost(
    data: Path, tmp_path: Path, more: tuple[str, ...]
) -> None:
    """torchrun restarts all processes; with --resume they resume from the last checkpoint."""
    options = ("--dtype=float64", "--optimiser=lazy_adam", *more)
    done = torchrun(
        2, "--max-restarts=1", "tests/recsys/run/world_killed.py", str(tmp_path / "marker"), "40",
        f"--data={data}", f"--out={tmp_path / 'killed'}", "--resume", *RUN, *options,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-9000:]
    assert (tmp_path / "marker").exists()
    whole = run_in_this_process(data, tmp_path / "whole", *options)
    metrics = json.loads((tmp_path / "killed/metrics.json").read_text())
    assert metrics["versions"]["ranks"] == 2
    for section in (
        "validation",
        "test",
        "test_complete",
        "by_pattern",
        "imposed",
        "best_epoch",
        "epochs",
    ):
        assert metrics[section] == whole[section]
    for name in ("model", "checkpoint"):
        killed, _ = load_state(tmp_path / f"killed/{name}.safetensors")
        expected, _ = load_state(tmp_path / f"whole/{name}.safetensors")
        assert killed.keys() == expected.keys()
        for key, x in killed.items():
            assert torch.allclose(x.double(), expected[key].double(), rtol=1e-9, atol=1e-12), key
    assert len((tmp_path / "killed/history.jsonl").read_text().splitlines()) == 5


@pytest.mark.slow
@pytest.mark.skipif(
    find_spec("torchrec") is None, reason="TorchRec is not installed: make distributed"
)
def test_a_sharded_table_of_users_gives_the_run_of_a_replicated_one(
    data: Path, tmp_path: Path
) -> None:
    arguments = (f"--data={data}", *RUN, "--optimiser=lazy_adam")
    options = ("--resume", "--user-table=sharded", f"--out={tmp_path / 'sharded'}")
    done = torchrun(2, "examples/milk_recsys/train.py", *arguments, *options)
    assert done.returncode == 0, done.stderr[-9000:]
    whole = run_in_this_process(data, tmp_path / "whole", "--optimiser=lazy_adam")
    metrics = json.loads((tmp_path / "sharded/metrics.json").read_text())
    assert metrics["test"]["ndcg@20"] == pytest.approx(whole["test"]["ndcg@20"], abs=0.003)
    for name in ("model", "checkpoint"):
        sharded, _ = load_state(tmp_path / f"sharded/{name}.safetensors")
        expected, _ = load_state(tmp_path / f"whole/{name}.safetensors")
        assert {key: x.shape for key, x in sharded.items()} == {
            key: x.shape for key, x in expected.items()
        }
        for key, x in sharded.items():
            assert torch.allclose(x.double(), expected[key].double(), rtol=1e-3, atol=1e-4), key
    # One process resumes in the folder of two processes, from their checkpoint.
    for name in ("metrics.json", "report.html"):
        (tmp_path / "sharded" / name).unlink()
    done = torchrun(1, "examples/milk_recsys/train.py", *arguments, *options)
    assert done.returncode == 0, done.stderr[-9000:]
    resumed = json.loads((tmp_path / "sharded/metrics.json").read_text())
    assert resumed["test"] == metrics["test"]


def test_impossible_options_are_errors_before_anything_is_written(
    data: Path, tmp_path: Path
) -> None:
    for given, error in (
        ("--user-table=sharded", "Start with torchrun"),
        ("--user-blocks=31", "--user-blocks must be at most the number of users, 30, got 31"),
        (
            "--kernels=numba --training-fusion=available",
            "does not support --training-fusion available",
        ),
    ):
        with pytest.raises((DataError, OptionError), match=error):
            run_in_this_process(data, tmp_path / "run", *given.split())
        assert not (tmp_path / "run").exists()
    options = Options.of(model="milk", regulariser="parameters", optimiser="adam")
    with pytest.raises(OptionError, match="one process only"):
        check_learner(options, torch.device("cpu"), World(0, 2))


def test_invalid_input_is_reported_once_and_ends_every_process(data: Path, tmp_path: Path) -> None:
    done = torchrun(
        2,
        "examples/milk_recsys/train.py",
        f"--data={data / 'nowhere'}",
        f"--out={tmp_path / 'run'}",
    )
    assert done.stderr.count("error: ") == 1
    assert "no such folder" in done.stderr
    assert "exitcode  : 2" in done.stderr
    assert not (tmp_path / "run").exists()
