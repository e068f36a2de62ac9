"""Fixtures that every test may use."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder of real data sets; skips where there is none."""
    folder = os.environ.get("INVMOD_DATA")
    if not folder:
        pytest.skip("INVMOD_DATA is not set: it names the folder of real data sets")
    return Path(folder)
