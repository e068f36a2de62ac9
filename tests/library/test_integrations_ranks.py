"""Recipes and callbacks on two processes."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.library.torch_versions import needs_torch

SCRIPT = Path(__file__).with_name("integrations_ranks.py")
ROOT = SCRIPT.parents[2]
CASES = (
    "fsdp_recipe",
    "sharded_report",
    "accelerate_recipe",
    "transformers_callback",
    "lightning_callback",
)


def free_port():
    with socket.socket() as server:
        server.bind(("localhost", 0))
        return server.getsockname()[1]


@needs_torch("2.10", "the sum of gradients in FSDP on a CPU")
@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="torch without distributed")
def test_every_case_passes_on_two_ranks():
    """All cases share two processes, because importing the frameworks takes longest."""
    port = str(free_port())
    processes = [
        subprocess.Popen(
            [sys.executable, str(SCRIPT), *CASES],
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": "2",
                "LOCAL_WORLD_SIZE": "2",
                "GROUP_RANK": "0",
                "TORCHELASTIC_RUN_ID": "tests",
                "MASTER_ADDR": "localhost",
                "MASTER_PORT": port,
                "OMP_NUM_THREADS": "1",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        outputs = [process.communicate(timeout=240)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], "\n".join(outputs)
    for case in CASES:
        assert f"{case} passed" in outputs[0]
