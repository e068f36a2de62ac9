"""Several processes learn as one does."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from milk_recsys.world import World
from tests.example.world_worker import losses

ROOT = Path(__file__).resolve().parents[2]
CASES: list[dict[str, Any]] = [
    {"dtype": dtype, **values}
    for dtype in ("float64", "float32")
    for values in (
        {},
        {"optimiser": "lazy_adam", "num_draws": 2},
        {"setting": "mtmt", "alignment_reduction": "item_mean", "training_fusion": "available"},
        {"model": "align", "alignment_reduction": "sum", "alignment_weight": 1e-3},
        {"alignment_mask": "complete", "alignment_reduction": "mean", "risk_reduction": "sum"},
        {"model": "erm", "regulariser": "none"},
    )
]


def torchrun(size: int, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a script in `size` processes of one thread each."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={size}", *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"} | environment
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, write_dataset: Callable[..., Path]) -> Path:
    return write_dataset(tmp_path_factory.mktemp("ranks") / "data", items=120, pairs_per_user=20)


@pytest.mark.parametrize("size", [2, 3])
def test_ranks_give_the_losses_of_one_process(data: Path, tmp_path: Path, size: int) -> None:
    out = tmp_path / "found.json"
    done = torchrun(size, "tests/example/world_worker.py", str(data), str(out), json.dumps(CASES))
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(out.read_text())
    assert found["size"] == size
    for values, theirs in zip(CASES, found["cases"], strict=True):
        alone = losses(data, values, World())
        rel = 1e-12 if values["dtype"] == "float64" else 1e-5
        assert theirs["losses"] == pytest.approx(alone["losses"], rel=rel), values
        if values.get("regulariser") != "none":  # without it biases have a gradient of 0, whose rounding Adam enlarges
            assert theirs["weights"] == pytest.approx(alone["weights"], rel=10 * rel), values
        if values["dtype"] == "float64":
            assert theirs["validation"] == alone["validation"], values
