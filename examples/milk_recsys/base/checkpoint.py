"""Weights and resumable state in safetensors files: tensors, and beside them a little JSON. No pickle.

Nothing is ever held twice: tensors are written and read some rows at a time.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from milk_recsys.base.errors import DataError
from milk_recsys.base.files import replacing

__all__ = ["Destination", "Streamed", "load_into", "load_state", "pack", "save_state", "unpack"]

BYTES_AT_ONCE = 1 << 24

DTYPES = {
    "I64": torch.int64,
    "F64": torch.float64,
    "F32": torch.float32,
    "I32": torch.int32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
"""The format's names; tensors lie in a file in this order, so that each is aligned."""


class Streamed(NamedTuple):
    """A tensor to be written that nobody holds as a whole: its shape, its dtype and its rows, block by block."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    blocks: Iterable[Tensor]


class Destination(NamedTuple):
    """Where some rows of a stored tensor go: into `tensor`, from the row `start` on."""

    tensor: Tensor
    start: int


def save_state(
    path: Path, tensors: Mapping[str, Tensor | Streamed], facts: Mapping[str, Any]
) -> None:
    """Write tensors and JSON-able facts into one safetensors file, whole or not at all.

    Raises:
        ValueError: a fact is NaN or infinite, a dtype is unknown to the format, or the blocks of a `Streamed` tensor
            are not of its shape or dtype. The file that was there stays.
    """
    names = {dtype: name for name, dtype in DTYPES.items()}
    order = list(DTYPES.values())
    absent = [
        f"{name!r} ({tensor.dtype})"
        for name, tensor in tensors.items()
        if tensor.dtype not in names
    ]
    if absent:
        raise ValueError(f"save_state: a file cannot hold the dtype of {', '.join(absent)}.")
    chosen = sorted(tensors, key=lambda name: (order.index(tensors[name].dtype), name))
    header: dict[str, Any] = {"__metadata__": {"facts": json.dumps(facts, allow_nan=False)}}
    end = 0
    for name in chosen:
        shape, dtype = tuple(tensors[name].shape), tensors[name].dtype
        begin, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": names[dtype], "shape": shape, "data_offsets": (begin, end)}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in chosen:
            _write(file, name, tensors[name])


def _write(file: BinaryIO, name: str, tensor: Tensor | Streamed) -> None:
    blocks = [tensor.detach()] if isinstance(tensor, Tensor) else tensor.blocks
    rows, shape = 0, tuple(tensor.shape)
    for block in blocks:
        if (
            tuple(block.shape[1:]) != shape[1:]
            or block.dtype != tensor.dtype
            or block.ndim != len(shape)
        ):
            raise ValueError(
                f"save_state: a block of {name!r} must be {tensor.dtype} rows of shape {shape[1:]}, got {block.dtype} "
                f"{tuple(block.shape)}."
            )
        rows += len(block) if block.ndim else 0
        for some in _parts(block):
            file.write(some.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    if shape and rows != shape[0]:
        raise ValueError(f"save_state: the blocks of {name!r} have {rows} rows, not {shape[0]}.")


def _parts(tensor: Tensor) -> Iterator[Tensor]:
    """Yield a tensor's rows, some at a time."""
    if tensor.ndim == 0 or tensor.numel() == 0:
        yield tensor
        return
    yield from torch.split(tensor, max(1, BYTES_AT_ONCE * len(tensor) // tensor.nbytes))


def load_state(
    path: Path, device: torch.device | str = "cpu"
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `save_state` wrote into new tensors.

    Raises:
        DataError: the file is absent, damaged or of another kind.
    """
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            facts = json.loads((file.metadata() or {})["facts"])
            return {name: file.get_tensor(name) for name in file.keys()}, facts  # noqa: SIM118
    except FileNotFoundError:
        raise _absent(path) from None
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise _damaged(path, error) from None


def load_into(
    path: Path, tensors: Mapping[str, Tensor | Destination], *, partial: bool = False
) -> dict[str, Any]:
    """Copy what `save_state` wrote into tensors that are there already, on any device, some rows at a time.

    Arguments:
        tensors: name -> where the stored tensor goes; nothing is changed before all of them are known to fit.
        partial: whether the file may hold tensors that are not asked for.

    Returns:
        the facts.

    Raises:
        DataError: the file is absent, damaged or of another kind; it lacks a tensor, holds one more, or one of another
            shape or dtype.
    """
    places = {
        name: place if isinstance(place, Destination) else Destination(place, 0)
        for name, place in tensors.items()
    }
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            facts: dict[str, Any] = json.loads((file.metadata() or {})["facts"])
            stored = set(file.keys())
            problem = _misfit(file, stored, tensors, partial)
            if problem:
                raise DataError(
                    f"{path}: {problem}. Was it written by another run, or another version?"
                )
            for name, place in places.items():
                target, start = place.tensor.detach(), place.start
                if target.ndim == 0:
                    target.copy_(file.get_tensor(name))
                    continue
                source = file.get_slice(name)
                for part in _parts(target):
                    part.copy_(source[start : start + len(part)])
                    start += len(part)
            return facts
    except FileNotFoundError:
        raise _absent(path) from None
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise _damaged(path, error) from None


def _misfit(
    file: Any, stored: set[str], tensors: Mapping[str, Tensor | Destination], partial: bool
) -> str | None:
    """Say what does not fit."""
    absent, further = sorted(set(tensors) - stored), sorted(stored - set(tensors))
    if absent:
        return f"lacks the tensor {absent[0]!r}"
    if further and not partial:
        return f"holds the tensor {further[0]!r}, which there is no place for"
    for name, place in tensors.items():
        tensor = place.tensor if isinstance(place, Destination) else place
        part = file.get_slice(name)
        shape, dtype = tuple(part.get_shape()), DTYPES.get(part.get_dtype())
        if isinstance(place, Destination):
            fits = shape[1:] == tuple(tensor.shape[1:]) and 0 <= place.start <= shape[0] - len(
                tensor
            )
            wanted = f"rows {place.start} to {place.start + len(tensor)} of (N, {str(tuple(tensor.shape[1:]))[1:]}"
        else:
            fits, wanted = shape == tuple(tensor.shape), str(tuple(tensor.shape))
        if not fits or dtype != tensor.dtype:
            return f"{name!r} is {dtype or part.get_dtype()} {shape}, where {tensor.dtype} {wanted} is wanted"
    return None


def _absent(path: Path) -> DataError:
    return DataError(f"{path}: no such file. Name the folder of a run that has trained.")


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(f"{path}: is damaged, or not written by a run ({error}).")


def pack(net: nn.Module, *optimisers: torch.optim.Optimizer, **numbers: int) -> dict[str, Tensor]:
    """Put a network, its optimisers and counters into tensors by name."""
    state = {f"net.{name}": value for name, value in net.state_dict().items()}
    for place, optimiser in enumerate(optimisers):
        for index, values in optimiser.state_dict()["state"].items():
            for name, value in values.items():
                if value is not None:
                    state[f"optimiser.{place}.{index}.{name}"] = torch.as_tensor(value)
    return state | {f"number.{name}": torch.tensor(value) for name, value in numbers.items()}


def unpack(
    state: Mapping[str, Tensor], net: nn.Module, *optimisers: torch.optim.Optimizer
) -> dict[str, int]:
    """Take back what `pack` gave; return the counters."""
    net.load_state_dict(
        {name.removeprefix("net."): x for name, x in state.items() if name.startswith("net.")}
    )
    for place, optimiser in enumerate(optimisers):
        head = f"optimiser.{place}."
        values: dict[int, dict[str, Tensor]] = {}
        for name, x in state.items():
            if name.startswith(head):
                index, key = name.removeprefix(head).split(".")
                values.setdefault(int(index), {})[key] = x.clone()
        optimiser.load_state_dict({**optimiser.state_dict(), "state": values})
    return {
        name.removeprefix("number."): int(x)
        for name, x in state.items()
        if name.startswith("number.")
    }
