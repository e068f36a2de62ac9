"""Fixtures that all tests share."""

import os
import warnings
from pathlib import Path

import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def _forward_mode_is_loaded() -> None:
    """Load the rules of forward-mode differentiation, which PyTorch does at their first use.

    They are compiled by `torch.jit.script`, which warns that it is deprecated: a FutureWarning
    since torch 2.14. No part of invmod can avoid it, and it would fail the first test that takes a
    derivative in forward mode, such as a Hessian.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.script")
        torch.func.jvp(torch.sin, (torch.ones(()),), (torch.ones(()),))


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder of the real data sets; tests that use it are skipped if INVMOD_DATA is not set."""
    folder = os.environ.get("INVMOD_DATA")
    if not folder:
        pytest.skip("INVMOD_DATA is not set. Set it to the folder of the real data sets.")
    return Path(folder)
