"""KEEP in several processes is KEEP in one."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from milk_recsys import load_run, train
from milk_recsys.base.checkpoint import load_state
from milk_recsys.base.distributed import World
from milk_recsys.run import begin
from milk_recsys.run.progress import Progress
from tests.recsys.methods.keep_ranks_worker import fitted
from tests.recsys.run.test_world import torchrun

WORKER = "tests/recsys/methods/keep_ranks_worker.py"
PROJECTED = {"landmarks": 20, "neighbours": 8}
SINGULAR = {"MAX_DIRECT": 10, "MAX_ROWS": 10}
CASES: dict[str, dict[str, Any]] = {
    "exact": {"options": {"dtype": "float64"}, "limits": {}},
    "exact, float32": {"options": {"dtype": "float32"}, "limits": {}},
    "exact, one pattern": {"options": {"dtype": "float64", "per_pattern": False}, "limits": {}},
    "exact, mtmt": {"options": {"dtype": "float64", "setting": "mtmt"}, "limits": {}},
    "singular vectors": {"options": {"dtype": "float64", "rank": 12}, "limits": {}},
    "projected": {"options": {"dtype": "float64", **PROJECTED}, "limits": SINGULAR},
    "projected, float32": {"options": {"dtype": "float32", **PROJECTED}, "limits": SINGULAR},
    "users": {
        "options": {"dtype": "float64", **PROJECTED},
        "limits": {"MAX_DIRECT": 80, "MAX_ROWS": 80},  # 60 users, 96 warm items
    },
    "exact, divided pairs": {"options": {"dtype": "float64", "user_blocks": 8}, "limits": {}},
    "projected, divided pairs": {
        "options": {"dtype": "float64", "user_blocks": 12, **PROJECTED},
        "limits": SINGULAR,
    },
    "few users": {"options": {"dtype": "float64"}, "limits": {}},
    "few users, projected": {"options": {"dtype": "float64", **PROJECTED}, "limits": SINGULAR},
}


@pytest.fixture(scope="module")
def cases(
    tmp_path_factory: pytest.TempPathFactory, write_dataset: Callable[..., Path]
) -> dict[str, dict[str, Any]]:
    root = tmp_path_factory.mktemp("ranks")
    many = write_dataset(root / "many", users=60, items=120, pairs_per_user=12)
    few = write_dataset(root / "few", users=4, items=120, pairs_per_user=40, idle_users=1)
    return {
        name: {**case, "data": str(few if name.startswith("few") else many)}
        for name, case in CASES.items()
    }


@pytest.fixture(scope="module")
def expected(
    tmp_path_factory: pytest.TempPathFactory, cases: dict[str, dict[str, Any]]
) -> dict[str, tuple[dict[str, Any], dict[str, torch.Tensor]]]:
    """What one process gives: the result, and the tensors of the file."""
    folder, results = tmp_path_factory.mktemp("one"), {}
    for name, case in cases.items():
        file = folder / "model.safetensors"
        # The division of the pairs does not change the model.
        own = {key: value for key, value in case["options"].items() if key != "user_blocks"}
        results[name] = fitted({**case, "options": own}, file, World()), load_state(file)[0]
    return results


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 2, 4])
def test_several_processes_give_the_model_of_one(
    size: int,
    cases: dict[str, dict[str, Any]],
    expected: dict[str, tuple[dict[str, Any], dict[str, torch.Tensor]]],
    tmp_path: Path,
) -> None:
    done = torchrun(size, WORKER, str(tmp_path), json.dumps(list(cases.values())))
    assert done.returncode == 0, done.stderr[-9000:]
    for number, (name, case) in enumerate(cases.items()):
        result = json.loads((tmp_path / f"{number}.json").read_text())
        one, tensors = expected[name]
        assert len(result["users"]) == size
        exact = case["options"]["dtype"] == "float64"
        # Relative to the largest entry.
        tolerance = 1e-10 if exact else 1e-5
        assert_near(np.load(tmp_path / f"{number}.npy"), one["scores"], tolerance, name)
        assert same_options(result["chosen"], one["chosen"], 10 * tolerance), name
        if exact:
            assert result["validation"] == one["validation"], name
        found = load_state(tmp_path / f"{number}.safetensors")[0]
        assert found.keys() == tensors.keys(), name
        for key, x in tensors.items():
            assert found[key].dtype == x.dtype
            # In float32 rounding may turn singular vectors whose values are nearly equal.
            if exact or name == "exact, float32":
                assert_near(found[key].numpy(), x.numpy(), 10 * tolerance, f"{name}, {key}")


@pytest.mark.slow
def test_divided_pairs_need_a_form_without_all_pairs(
    cases: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    case = {**cases["users"], "options": {"user_blocks": 4, **PROJECTED}}
    done = torchrun(2, WORKER, str(tmp_path), json.dumps([case]))
    assert done.returncode != 0
    assert "KEEP needs all pairs in every process" in done.stderr


def assert_near(found: np.ndarray, x: np.ndarray, tolerance: float, what: str) -> None:
    assert found.shape == x.shape, what
    largest = np.nanmax(np.abs(x), initial=1e-300)
    np.testing.assert_allclose(found, x, rtol=0, atol=tolerance * largest, err_msg=what)


def same_options(found: Any, one: Any, rel: float) -> bool:
    """Return whether two records of chosen options are equal; stacked weights up to rounding."""
    if isinstance(found, dict):
        return found.keys() == one.keys() and all(
            same_options(value, one[key], rel) for key, value in found.items()
        )
    # A residual of rounding errors alone has no relative accuracy.
    return bool(found == pytest.approx(one, rel=rel, abs=rel))


@pytest.mark.slow
def test_a_killed_rank_is_restarted_and_the_run_is_that_of_one_process(
    cases: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    options = (f"--data={cases['exact']['data']}", "--dtype=float64", "--compare=none")
    done = torchrun(
        2, "--max-restarts=1", "tests/recsys/methods/keep_killed.py", str(tmp_path / "marker"), "9",
        *options, f"--out={tmp_path / 'killed'}", "--resume", "--device=cpu",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-9000:]
    assert (tmp_path / "marker").exists()
    parsed, dataset = begin.begin([*options, f"--out={tmp_path / 'whole'}", "--device=cpu"])
    whole = train.run(parsed, dataset, Progress(quiet=True))
    metrics = json.loads((tmp_path / "killed/metrics.json").read_text())
    assert metrics["versions"]["ranks"] == 2
    for section in ("validation", "test", "test_complete", "by_pattern", "imposed", "floor"):
        assert metrics[section] == whole[section]
    assert same_options(metrics["chosen"], whole["chosen"], 1e-9)
    killed, _ = load_state(tmp_path / "killed/model.safetensors")
    expected, _ = load_state(tmp_path / "whole/model.safetensors")
    assert killed.keys() == expected.keys()
    for key, x in expected.items():
        assert_near(killed[key].numpy(), x.numpy(), 1e-9, key)
    # The folder of several processes is that of any run.
    scores = [
        load_run(tmp_path / name, device="cpu").score([3, 0], {"text": np.ones((2, 6))})
        for name in ("killed", "whole")
    ]
    assert_near(scores[0].numpy(), scores[1].numpy(), 1e-9, "scores")
