"""Precision of sums and products: a context without autocast, and means of large numbers."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def without_autocast(x: Tensor) -> AbstractContextManager[object]:
    """Return a context in which matrix products are computed in the dtype of x."""
    # The meta device has no autocast, and `torch.autocast` raises for it.
    if x.is_meta:
        return nullcontext()
    return torch.autocast(device_type=x.device.type, enabled=False)


def centre(x: Tensor) -> Tensor:
    """Subtract the mean over the first axis.

    The mean is subtracted twice. The first one has the rounding error of numbers of its size, which
    exceeds the deviations where the mean is many times as large as they are. The second one removes
    this error, because the deviations are small numbers.
    """
    x = x - x.mean(dim=0)
    return x - x.mean(dim=0)
