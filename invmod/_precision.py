"""Context in which autocast does not change the precision of matrix products."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def without_autocast(x: Tensor) -> AbstractContextManager[object]:
    """Return a context in which matrix products are computed in the dtype of x."""
    # The meta device has no autocast, and torch refuses to switch it off there.
    if x.is_meta:
        return nullcontext()
    return torch.autocast(device_type=x.device.type, enabled=False)
