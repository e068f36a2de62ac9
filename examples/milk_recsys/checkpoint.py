"""Weights and resumable state in safetensors files: tensors, and beside them a little JSON. No pickle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from milk_recsys.errors import DataError
from milk_recsys.files import replacing

__all__ = ["load_into", "load_state", "optimiser_tensors", "restore_optimiser", "save_state"]


def save_state(path: Path, tensors: dict[str, Tensor], facts: dict[str, Any]) -> None:
    """Write tensors and JSON-able facts into one file, whole or not at all."""
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    with replacing(path) as temporary:
        save_file(whole, temporary, metadata={"facts": json.dumps(facts, allow_nan=False)})


def load_state(path: Path, device: torch.device | str = "cpu") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_state` wrote.

    Raises:
        DataError: the file is absent, damaged or of another kind.
    """
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            facts = json.loads((file.metadata() or {})["facts"])
            return {name: file.get_tensor(name) for name in file.keys()}, facts  # noqa: SIM118
    except FileNotFoundError:
        raise DataError(f"{path}: no such file. Name the folder of a run that has trained.") from None
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise DataError(f"{path}: is damaged, or not written by a run ({error}).") from None


def optimiser_tensors(optimiser: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Flatten an optimiser's state to named tensors: ``optimiser.<parameter>.<name>``."""
    return {
        f"optimiser.{index}.{name}": value
        for index, state in optimiser.state_dict()["state"].items()
        for name, value in state.items()
    }


def restore_optimiser(optimiser: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Give an optimiser back what `optimiser_tensors` took from it."""
    whole = optimiser.state_dict()
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        prefix, index, name = key.split(".", 2)
        if prefix == "optimiser":
            state.setdefault(int(index), {})[name] = value
    whole["state"] = state
    optimiser.load_state_dict(whole)


def load_into(path: Path, tensors: dict[str, Tensor]) -> dict[str, Any]:
    """Placeholder until streamed loading lands: copy a file's tensors into existing ones; return its facts."""
    found, facts = load_state(path)
    for name, mine in tensors.items():
        mine.detach().copy_(found[name])
    return facts
