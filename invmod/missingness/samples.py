"""Values of single samples: which are missing, conversion to tensors, and padding of sequences."""

from __future__ import annotations

import math
import sys
from collections.abc import Hashable, Mapping
from numbers import Real
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from invmod._checks import check_known
from invmod.missingness.arrays import as_tensor
from invmod.missingness.sentinels import integer_range

Pad: TypeAlias = float | Mapping[str, float]

VALUES, ATTENTION_MASK = "values", "attention_mask"


def is_missing(value: object) -> bool:
    """Return whether a value stands for a missing one: None, NaN without axes, or pandas.NA."""
    if value is None:
        return True
    if isinstance(value, (float, complex, np.floating, np.complexfloating)):
        return bool(value != value)
    if isinstance(value, np.ndarray):
        return value.ndim == 0 and value.dtype.kind in "fc" and bool(np.isnan(value))
    if isinstance(value, Tensor):
        return value.ndim == 0 and value.device.type != "meta" and bool(value.isnan())
    # Without pandas in the process, no value can be its NA.
    pandas = sys.modules.get("pandas")
    return pandas is not None and (value is pandas.NA or value is pandas.NaT)


def sample_tensor(n: int, key: Hashable, value: object) -> Tensor:
    """Return the value of sample n as a tensor; the key is for messages."""
    if isinstance(value, Tensor):
        return value
    where = f"collate: {key!r} of sample {n}"
    if isinstance(value, np.ndarray):
        return as_tensor(where, value)
    if isinstance(value, np.generic):
        return as_tensor(where, np.array(value))
    if isinstance(value, (int, float, complex)):
        return torch.as_tensor(value)
    raise TypeError(
        f"{where} must be a tensor, a NumPy array, a number or None, got {type(value).__name__}. "
        "Convert it in the dataset, with `torch.as_tensor` for a list of numbers."
    )


def checked_pads(pad: Mapping[str, Pad] | None, names: tuple[str, ...]) -> dict[str, Pad]:
    """Return name -> padding value, or key -> padding value, after checking names and numbers."""
    pads = {} if pad is None else dict(pad)
    check_known("collate", "pad", pads, names)
    for name, value in pads.items():
        for number in value.values() if isinstance(value, Mapping) else (value,):
            if isinstance(number, bool) or not isinstance(number, Real):
                raise TypeError(f"collate: `pad` of {name!r} must be a number, got {number!r}.")
            if not math.isfinite(number):
                raise ValueError(
                    f"collate: `pad` of {name!r} must be finite, got {number}. NaN is the sign of "
                    "a missing modality."
                )
    return pads


def sequence_parts(n: int | None, name: str, value: object) -> dict[str, Tensor]:
    """Return a sequence as key -> tensor with an attention mask; n is None for a template."""
    whose = "`like`" if n is None else f"sample {n}"
    parts: dict[str, Any] = dict(value) if isinstance(value, Mapping) else {VALUES: value}
    parts = {key: sample_tensor(n or 0, f"{name}[{key}]", x) for key, x in parts.items()}
    lengths = {key: x.shape[0] for key, x in parts.items() if x.ndim}
    length = next(iter(lengths.values())) if lengths else None
    if length is None or any(other != length for other in lengths.values()):
        raise ValueError(
            f"collate: {name!r} of {whose} must be a sequence (L, ...), or a mapping whose "
            f"sequences have equal lengths, because `pad` has {name!r}; got the lengths {lengths}."
        )
    device = next(x.device for x in parts.values() if x.ndim)
    attention = torch.ones(length, dtype=torch.bool, device=device)
    return parts if ATTENTION_MASK in parts else {**parts, ATTENTION_MASK: attention}


def sequence_length(parts: Mapping[str, Tensor]) -> int:
    """Return the length L of the sequences of one sample."""
    return next(x.shape[0] for x in parts.values() if x.ndim)


def padded_parts(
    name: str, parts: Mapping[str, Tensor], length: int, pad: Pad
) -> dict[str, Tensor]:
    """Return the sequences (L, ...) of one sample padded at their ends to the given length."""
    padded = {}
    for key, x in parts.items():
        number = pad.get(key, 0) if isinstance(pad, Mapping) else pad
        if key == ATTENTION_MASK:
            number = 0
        if x.ndim == 0 or x.shape[0] == length:
            padded[key] = x
            continue
        if not _fits(number, x.dtype):
            raise ValueError(
                f"collate: `pad` of {name!r} must be a value of {x.dtype}, got {number}."
            )
        filler = torch.full(
            (length - x.shape[0], *x.shape[1:]), number, dtype=x.dtype, device=x.device
        )
        padded[key] = torch.cat([x, filler])
    return padded


def _fits(number: float, dtype: torch.dtype) -> bool:
    """Return whether a finite number can be stored in a dtype without a change of its integers."""
    if dtype.is_floating_point or dtype.is_complex:
        return True
    low, high = integer_range(dtype)
    return number == int(number) and low <= number <= high
