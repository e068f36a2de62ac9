"""A fixture for commands that change the number of threads."""

import pytest
import torch


@pytest.fixture
def same_threads():
    """Restore the number of threads, which a command sets for the whole process."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)
