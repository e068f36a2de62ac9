"""Steps in compiled loops equal those in torch operations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from milk_recsys.base.distributed import World
from tests.recsys.run.world_worker import losses


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, write_dataset: Callable[..., Path]) -> Path:
    return write_dataset(tmp_path_factory.mktemp("steps") / "data", items=90, pairs_per_user=15)


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"optimiser": "adam", "num_draws": 21},
        {"optimiser": "adam", "regulariser": "parameters", "setting": "mtmt"},
        {"model": "align", "alignment_reduction": "sum", "alignment_weight": 1e-3},
        {"model": "envs", "risk_reduction": "sum", "variance_correction": 1, "user_blocks": 3},
        {"model": "erm", "shared_negatives": 4, "batch_size": 5},
        {"setting": "mtmt", "alignment_mask": "complete", "alignment_reduction": "item_mean"},
        {"shared_negatives": 6, "user_blocks": 3, "user_table": "sharded"},
        {"features": "mapped", "batch_size": 10_000},
    ],
    ids=lambda values: "-".join(values) or "default",
)
def test_compiled_steps_equal_torch_steps(data: Path, values: dict[str, Any]) -> None:
    ours, oracle = (
        losses(data, {"dtype": "float64", "kernels": kernels, **values}, World())
        for kernels in ("numba", "torch")
    )
    assert len(ours["losses"]) == len(oracle["losses"]) > 3
    assert ours["losses"] == pytest.approx(oracle["losses"], rel=1e-12)
    assert ours["weights"] == pytest.approx(oracle["weights"], rel=1e-11)
    assert ours["validation"] == oracle["validation"]
