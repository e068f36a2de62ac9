"""Modality names as a tensor, so that a state dict carries them through every file format."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

KEY = "modality_names"


def encode_names(names: Sequence[str], device: torch.device | str | None = None) -> Tensor:
    """Return the names as int64 (L,), the bytes of their JSON list.

    The dtype is that of the counters of batch normalisation, because tools that average or convert
    weights leave integer counters intact. int64 does not overflow when several states are added.
    """
    # JSON escapes everything outside ASCII, so that any string can be encoded.
    return torch.tensor(list(json.dumps(list(names)).encode("ascii")), device=device)


def decode_names(codes: Tensor) -> tuple[str, ...] | None:
    """Return the names that `encode_names` encoded, or None if the tensor has none."""
    try:
        names = json.loads(bytes(codes.round().long().tolist()).decode("ascii"))
    except (ValueError, TypeError):
        return None
    return tuple(names) if isinstance(names, list) else None


def check_loaded_names(
    state_dict: Mapping[str, Any], prefix: str, modalities: tuple[str, ...]
) -> bool:
    """Compare the names in a state with those of the module that loads it.

    Returns:
        whether the state has names; a state that was saved by an older version has none, which is
        a warning if it has weights of encoders.

    Raises:
        RuntimeError: the names or their order differ.
    """
    codes = state_dict.get(f"{prefix}{KEY}")
    if codes is None:
        if any(key.startswith(f"{prefix}encoders.") for key in state_dict):
            warnings.warn(
                f"ModalityEncoders: the loaded state has no names of modalities (key "
                f"'{prefix}{KEY}'), because an older version saved it. Check that its encoders "
                f"are, in this order, those of {modalities}, and save it again.",
                UserWarning,
                stacklevel=2,
            )
        return False
    # A state on the meta device has shapes only.
    saved = modalities if codes.is_meta else decode_names(codes)
    if saved != modalities:
        raise RuntimeError(
            f"ModalityEncoders: the loaded state has the modalities {saved}, this module has "
            f"{modalities}. Build the module with the names in the order of the state. If the "
            f"modalities were only renamed, remove '{prefix}{KEY}' from the state."
        )
    return True
