"""Context in which autocast does not change the precision of matrix products."""

from __future__ import annotations

import torch
from torch import Tensor


def without_autocast(x: Tensor) -> torch.autocast:
    """Return a context in which matrix products are computed in the dtype of x."""
    return torch.autocast(device_type=x.device.type, enabled=False)
