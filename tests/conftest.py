"""Fixtures that all tests share."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Folder of the real data sets; tests that use it are skipped if INVMOD_DATA is not set."""
    folder = os.environ.get("INVMOD_DATA")
    if not folder:
        pytest.skip("INVMOD_DATA is not set. Set it to the folder of the real data sets.")
    return Path(folder)
