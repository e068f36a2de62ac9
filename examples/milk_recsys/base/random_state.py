"""Random numbers that depend on a seed and a place in a run alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils import deterministic

__all__ = ["epoch_seed", "seeded"]


@contextmanager
def seeded(seed: int, *place: int, device: torch.device) -> Iterator[torch.Generator]:
    """Make all that is random inside depend on the seed and the place alone: the generator given, and dropout's.

    The place is the number of an epoch; without one it is that of the start. On a CPU, with a GPU beside it or not,
    sums have one order inside, whatever the number of threads does: gradients of rows that are looked up several times
    would differ in rounding.
    """
    entropy = [
        seed,
        1,
        *(1 + number for number in place),
    ]  # which must not end in 0: one more or less is the same
    number = int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1)
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    of_empty: Any = deterministic  # which has its setting as a property
    before, filled = (
        torch.are_deterministic_algorithms_enabled(),
        of_empty.fill_uninitialized_memory,
    )
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(number)
        torch.use_deterministic_algorithms(before or device.type == "cpu")
        of_empty.fill_uninitialized_memory = (
            filled and before
        )  # up to a third of an epoch, for nothing
        try:
            yield torch.Generator().manual_seed(number)
        finally:
            torch.use_deterministic_algorithms(before)
            of_empty.fill_uninitialized_memory = filled


def epoch_seed(seed: int, epoch: int) -> int:
    """Give every epoch its own stream."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0] >> 1)
