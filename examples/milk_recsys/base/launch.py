"""Processes started by ``torchrun``: rank, output and exit status. Does not import torch."""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TypeVar

__all__ = ["MAX_THREADS", "delay_nonzero_exit", "rank_of_environment", "silence_other_ranks"]

MAX_THREADS = max(256, os.cpu_count() or 1)
"""Largest number of CPU threads. The library of threads ends the process if it cannot start them.
"""
SECONDS_FOR_RANK_0 = 30.0  # Delay of other ranks' failing exit, in which rank 0 reports its error.
Status = TypeVar("Status", bound=int | str | None)


def rank_of_environment() -> tuple[int, int]:
    """Return this process's rank and the number of processes; (0, 1) without ``torchrun``."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


@contextmanager
def silence_other_ranks() -> Iterator[None]:
    """Discard printed output, except on rank 0, because all ranks print the same.

    Exceptions propagate on every rank.
    """
    if rank_of_environment()[0] == 0:
        yield
        return
    with (
        Path(os.devnull).open("w", encoding="utf-8") as null,
        redirect_stdout(null),
        redirect_stderr(null),
    ):
        yield


def delay_nonzero_exit(status: Status) -> Status:
    """Return an exit status, after a delay if it is nonzero and this is not rank 0.

    ``torchrun`` ends all processes as soon as one has failed. Without the delay, another rank could
    fail first, and the error message of rank 0 would be lost.
    """
    if status and rank_of_environment()[0] > 0:
        time.sleep(SECONDS_FOR_RANK_0)
    return status
