"""Random numbers that depend only on the seed and the epoch, so that resumed runs repeat them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils import deterministic

__all__ = ["block_seed", "epoch_seed", "seeded"]


@contextmanager
def seeded(seed: int, *place: int, device: torch.device) -> Iterator[torch.Generator]:
    """Seed all random numbers inside the block: those of the yielded generator, and of dropout.

    On a CPU, the block also uses deterministic algorithms. Otherwise the gradients of rows that are
    looked up several times would be summed in an order that depends on the threads.

    Arguments:
        seed: the run's seed.
        place: the number of an epoch; none for the initialisation.
        device: the device of the computations in the block.

    Yields:
        a CPU generator.
    """
    # SeedSequence ignores trailing zeros of its entropy, so the last number must not be 0.
    entropy = [seed, 1, *(1 + number for number in place)]
    number = _torch_seed(entropy)
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    settings: Any = deterministic  # fill_uninitialized_memory is a property of this module.
    debug_mode = torch.get_deterministic_debug_mode()
    was_deterministic = torch.are_deterministic_algorithms_enabled()
    filled = settings.fill_uninitialized_memory
    with torch.random.fork_rng(devices=devices):
        torch.manual_seed(number)
        # `use_deterministic_algorithms` would do the same, but imports the compiler for seconds.
        if device.type == "cpu" and not was_deterministic:
            torch.set_deterministic_debug_mode("error")
        # Deterministic mode fills new tensors with NaN, which takes up to a third of an epoch.
        settings.fill_uninitialized_memory = filled and was_deterministic
        try:
            yield torch.Generator().manual_seed(number)
        finally:
            torch.set_deterministic_debug_mode(debug_mode)
            settings.fill_uninitialized_memory = filled


def epoch_seed(seed: int, epoch: int) -> int:
    """Return the seed of an epoch's random numbers. Different epochs have different streams."""
    return _torch_seed([seed, epoch])


def block_seed(seed: int, epoch: int, block: int) -> int:
    """Return the seed of the random numbers of a block of users in an epoch.

    Every process can compute it. The stream differs from those of other blocks, of other epochs,
    and of `epoch_seed`.
    """
    return _torch_seed([seed, epoch], block)


def _torch_seed(entropy: list[int], *spawn_key: int) -> int:
    # A seed of torch must fit into a signed 64-bit integer, hence the shift by one bit.
    sequence = np.random.SeedSequence(entropy, spawn_key=spawn_key)
    return int(sequence.generate_state(1, np.uint64)[0] >> 1)
