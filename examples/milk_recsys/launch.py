"""What ``torchrun`` tells a process about itself. No torch here."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path

__all__ = ["only_one_speaks", "rank_of_environment"]


def rank_of_environment() -> tuple[int, int]:
    """Return this process's rank and how many there are; (0, 1) without ``torchrun``."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def only_one_speaks() -> Iterator[None]:
    """Silence what is printed, but on rank 0: every process would say the same. Exceptions pass."""
    if rank_of_environment()[0] == 0:
        yield
        return
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield
