"""Text in a state: a JSON list as a tensor of integers, which every file format can hold."""

from __future__ import annotations

import json
from collections.abc import Sequence

import torch
from torch import Tensor

NAMES = "modality_names"  # the buffer with the names of a module's modalities


def encode_text(text: Sequence[str | None], device: torch.device | str | None = None) -> Tensor:
    """Return a list of strings as int64 (L,), the bytes of its JSON.

    The dtype is that of the counters of batch normalisation, which tools that convert weights leave
    alone. A moving average of buffers rounds integers down, so a module writes its text into the
    buffer again before it is saved.
    """
    # JSON escapes everything outside ASCII, so that any string can be encoded.
    return torch.tensor(list(json.dumps(list(text)).encode("ascii")), device=device)


def restore_text(buffer: Tensor | None, text: Sequence[str | None]) -> None:
    """Write a text into its buffer again, before it is saved.

    A moving average of buffers rounds integers down, and memory that was allocated without values
    holds anything. A buffer on the meta device has no values.
    """
    if buffer is not None and not buffer.is_meta:
        buffer.copy_(encode_text(text))


def decode_text(codes: Tensor) -> list[str | None] | None:
    """Return the list that `encode_text` encoded, or None if the tensor holds no such list."""
    try:
        # An average of several states holds floating-point numbers.
        text = json.loads(bytes(codes.round().long().tolist()).decode("ascii"))
    except (ValueError, TypeError):
        return None
    return text if isinstance(text, list) else None
