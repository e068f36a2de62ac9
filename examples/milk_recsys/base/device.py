"""The device that a run computes on."""

from __future__ import annotations

import os

import torch

from milk_recsys.base.errors import DataError

__all__ = ["choose_device"]


def choose_device(device: torch.device | str) -> torch.device:
    """Return the device asked for; "auto" takes a GPU where there is one.

    Raises:
        DataError: a GPU is asked for and torch can use none.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    place = torch.device(device)
    if (
        place.type == "cuda" and place.index is None and "LOCAL_RANK" in os.environ
    ):  # of torchrun: a GPU a process
        place = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    if place.type == "cuda" and not torch.cuda.is_available():
        raise DataError(
            f"device {place}: this machine has no GPU that torch can use. Use auto or cpu."
        )
    return place
