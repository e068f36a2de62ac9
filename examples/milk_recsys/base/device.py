"""The device of a run."""

from __future__ import annotations

import os

import torch

from milk_recsys.base.errors import DataError

__all__ = ["choose_device"]


def choose_device(device: torch.device | str) -> torch.device:
    """Return the device of a name; "auto" is a GPU if torch can use one, else the CPU.

    Raises:
        DataError: `device` is a GPU, and torch can use none.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    chosen = torch.device(device)
    # torchrun sets LOCAL_RANK: one GPU per process.
    if chosen.type == "cuda" and chosen.index is None and "LOCAL_RANK" in os.environ:
        chosen = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    if chosen.type == "cuda" and not torch.cuda.is_available():
        raise DataError(
            f"device {chosen}: this machine has no GPU that torch can use. Use auto or cpu."
        )
    return chosen
