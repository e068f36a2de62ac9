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


RESULTS = Path(__file__).parents[1] / "docs" / "results"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests of the results files where they are not, as in the source archive."""
    if (RESULTS / "lfm2k" / "runs.parquet").exists():
        return
    skip = pytest.mark.skip(reason="the results files are not here; they are in the repository")
    for item in items:
        if item.get_closest_marker("results"):
            item.add_marker(skip)


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder of the real data sets; tests that use it are skipped if INVMOD_DATA is not set."""
    return _folder("INVMOD_DATA", "the real data sets")


@pytest.fixture(scope="session")
def cases_root() -> Path:
    """Folder of the raw files with expected readings; tests that use it are skipped without it."""
    return _folder("INVMOD_CASES", "the raw files with an expected.json each")


@pytest.fixture(scope="session")
def raw_root() -> Path:
    """Folder of the raw files of two of the real data sets."""
    return _folder("INVMOD_RAW", "the raw files of the real data sets")


def _folder(variable: str, content: str) -> Path:
    folder = os.environ.get(variable)
    if not folder:
        pytest.skip(f"{variable} is not set. Set it to the folder of {content}.")
    return Path(folder)
