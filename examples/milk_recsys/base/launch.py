"""What ``torchrun`` tells a process about itself. No torch here."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TypeVar

__all__ = ["delay_nonzero_exit", "rank_of_environment", "silence_other_ranks"]

SECONDS_FOR_RANK_0 = 30.0
Status = TypeVar("Status", bound=int | str | None)


def rank_of_environment() -> tuple[int, int]:
    """Return this process's rank and how many there are; (0, 1) without ``torchrun``."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def silence_other_ranks() -> Iterator[None]:
    """Silence what is printed, but on rank 0: every process would say the same. Exceptions pass."""
    if rank_of_environment()[0] == 0:
        yield
        return
    with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


def delay_nonzero_exit(status: Status) -> Status:
    """Return an exit status; on another rank than 0, and where it is not 0, only after a while.

    ``torchrun`` ends all processes once one has failed: what rank 0 has to say would be lost if another failed first.
    """
    if status and rank_of_environment()[0] > 0:
        time.sleep(SECONDS_FOR_RANK_0)
    return status
