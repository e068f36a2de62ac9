"""States of a training run that a report must leave as they are: modes, random states, shards."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import distributed, nn


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Switch a model to evaluation mode, and afterwards each of its modules to its former mode.

    Example:
        >>> model = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2).eval())
        >>> with evaluation_mode(model):
        ...     print([module.training for module in model])
        [False, False]
        >>> [module.training for module in model]
        [True, False]
    """
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        # `train` would set all submodules, and frozen ones may be in evaluation mode.
        for module, training in modes:
            module.training = training


@contextmanager
def kept_random_state(device: torch.device) -> Iterator[None]:
    """Restore the random states of Python, NumPy and torch (CPU and `device`) afterwards."""
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002  # only restored
    # `torch.cuda`, `torch.mps`, ...; the CPU has no such module with a random state.
    accelerator: Any = getattr(torch, device.type, None)
    # MPS has one device, so its functions take none.
    which = () if device.type == "mps" else (device,)
    has_state = hasattr(accelerator, "get_rng_state")
    state = accelerator.get_rng_state(*which) if has_state else None
    try:
        with torch.random.fork_rng(devices=[]):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002
        if has_state:
            accelerator.set_rng_state(state, *which)


def check_whole(model: nn.Module) -> None:
    """Raise if parameters are sharded: a forward pass on rank 0 alone would wait for ever."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return
    from torch.distributed.fsdp import FullyShardedDataParallel
    from torch.distributed.tensor import DTensor

    if distributed.get_world_size() > 1 and (
        any(isinstance(parameter, DTensor) for parameter in model.parameters())
        or any(isinstance(module, FullyShardedDataParallel) for module in model.modules())
    ):
        raise RuntimeError(
            "RobustnessCallback: the parameters of the model are sharded over ranks, so each rank "
            "must take part in a forward pass. Pass `every_rank=True` and the same data on all "
            "ranks."
        )
