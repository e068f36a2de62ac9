"""Weights and resumable state in safetensors files: tensors and a JSON object, without pickle.

Tensors are written and read block by block, so that no tensor is in memory twice. The library
safetensors can only write tensors that are in memory as a whole, so files are written here. Format:

    8 bytes     length of the header, little-endian
    header      JSON, padded with spaces to a multiple of 8 bytes:
                {"__metadata__": {"facts": JSON text},
                 name: {"dtype": ..., "shape": ..., "data_offsets": [begin, end]}, ...}
    data        the tensors without gaps; offsets count from the end of the header
"""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from milk_recsys.base.distributed import World
from milk_recsys.base.errors import DataError
from milk_recsys.base.files import replacing

__all__ = [
    "Destination",
    "Streamed",
    "load_into",
    "load_state",
    "pack",
    "save_state",
    "save_state_of_ranks",
    "unpack",
]

BYTES_AT_ONCE = 1 << 24  # Size of a block that is written or read, 16 MB.

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
"""The format's names of dtypes. A file has its tensors in this order, by decreasing element size.

Every tensor is therefore aligned to the size of its elements.
"""


class Streamed(NamedTuple):
    """A tensor to write that is not in memory as a whole, given as consecutive blocks of rows."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    blocks: Iterable[Tensor]


class Destination(NamedTuple):
    """A tensor to fill with the rows of a stored tensor from row `start` on."""

    tensor: Tensor
    start: int


def save_state(
    path: Path, tensors: Mapping[str, Tensor | Streamed], facts: Mapping[str, Any]
) -> None:
    """Write tensors and a JSON object into one safetensors file, atomically.

    Arguments:
        path: the file, which is replaced if it exists.
        tensors: name -> tensor.
        facts: values that JSON can represent.

    Raises:
        ValueError: a fact is NaN or infinite, the format does not support a dtype, or the blocks of
            a `Streamed` tensor do not have its shape or dtype. An existing file then remains
            unchanged.
    """
    names = {dtype: name for name, dtype in DTYPES.items()}
    unsupported = [
        f"{name!r} ({tensor.dtype})"
        for name, tensor in tensors.items()
        if tensor.dtype not in names
    ]
    if unsupported:
        raise ValueError(f"save_state: a file cannot hold the dtype of {', '.join(unsupported)}.")
    ordered = _ordered(tensors)
    # The header gives the offsets of all tensors, so it is computed before the
    # first one is written.
    header: dict[str, Any] = {"__metadata__": {"facts": json.dumps(facts, allow_nan=False)}}
    end = 0
    for name in ordered:
        shape, dtype = tuple(tensors[name].shape), tensors[name].dtype
        begin, end = end, end + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": names[dtype], "shape": shape, "data_offsets": (begin, end)}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # The data begin at a multiple of 8 bytes.
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for name in ordered:
            _write(file, name, tensors[name])


def save_state_of_ranks(
    path: Path,
    tensors: Mapping[str, Tensor | Streamed],
    facts: Mapping[str, Any],
    world: World,
) -> None:
    """Write a state of which each rank has some rows: those of the `Streamed` tensors.

    Every rank must call it, with the same names and dtypes. Rank 0 writes; the others take part in
    the iteration of the blocks, by which `stream_rows` sends them to rank 0.
    """
    if world.is_main:
        save_state(path, tensors, facts)
        return
    for name in _ordered(tensors):
        tensor = tensors[name]
        for _ in tensor.blocks if isinstance(tensor, Streamed) else ():
            pass


def _ordered(tensors: Mapping[str, Tensor | Streamed]) -> list[str]:
    """Return the names of tensors in the order of a file."""
    order = list(DTYPES.values())
    return sorted(tensors, key=lambda name: (order.index(tensors[name].dtype), name))


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
                f"save_state: a block of {name!r} must be {tensor.dtype} rows of shape "
                f"{shape[1:]}, got {block.dtype} {tuple(block.shape)}."
            )
        rows += len(block) if block.ndim else 0
        for part in _parts(block):
            # NumPy has no bfloat16, so every dtype is written as bytes.
            file.write(part.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    if shape and rows != shape[0]:
        raise ValueError(f"save_state: the blocks of {name!r} have {rows} rows, not {shape[0]}.")


def _parts(tensor: Tensor) -> Iterator[Tensor]:
    """Yield a tensor's rows in blocks of about `BYTES_AT_ONCE`."""
    if tensor.ndim == 0 or tensor.numel() == 0:
        yield tensor
        return
    yield from torch.split(tensor, max(1, BYTES_AT_ONCE * len(tensor) // tensor.nbytes))


def load_state(
    path: Path, device: torch.device | str = "cpu", rows: Mapping[str, slice] | None = None
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a file of `save_state` into new tensors.

    Arguments:
        rows: name of a tensor -> the rows of it that are read; all rows of the others.

    Returns:
        the tensors by name, and the facts.

    Raises:
        DataError: the file is absent, damaged or of another kind.
    """
    rows = rows or {}
    try:
        with safe_open(path, framework="pt", device=str(device)) as file:
            facts = json.loads((file.metadata() or {})["facts"])
            tensors = {
                name: file.get_slice(name)[rows[name]] if name in rows else file.get_tensor(name)
                for name in file.keys()  # noqa: SIM118
            }
            return tensors, facts
    except FileNotFoundError:
        raise _absent(path) from None
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise _damaged(path, error) from None


def load_into(
    path: Path,
    tensors: Mapping[str, Tensor | Destination],
    *,
    partial: bool = False,
    optional: Collection[str] = (),
) -> dict[str, Any]:
    """Copy a file of `save_state` into existing tensors on any device, block by block.

    Arguments:
        tensors: name -> the tensor, or the rows of it, to fill. No tensor changes before all of
            them have been found to fit.
        partial: whether the file may have tensors that `tensors` lacks.
        optional: names of tensors that stay as they are if the file lacks them.

    Returns:
        the facts.

    Raises:
        DataError: the file is absent, damaged or of another kind; or a tensor of it is missing,
            unexpected, or of another shape or dtype.
    """
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            facts: dict[str, Any] = json.loads((file.metadata() or {})["facts"])
            stored = set(file.keys())
            left_out = set(optional) - stored
            tensors = {name: x for name, x in tensors.items() if name not in left_out}
            # Check all tensors before the first one changes.
            problem = _misfit(file, stored, tensors, partial)
            if problem:
                raise DataError(
                    f"{path}: {problem}. Was it written by another run, or another version?"
                )
            for name, tensor in tensors.items():
                rows = tensor if isinstance(tensor, Destination) else Destination(tensor, 0)
                target, start = rows.tensor.detach(), rows.start
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
        # DataError is a ValueError: it reports a tensor that does not fit, not a damaged file.
        if isinstance(error, DataError):
            raise
        raise _damaged(path, error) from None


def _misfit(
    file: Any, stored: set[str], tensors: Mapping[str, Tensor | Destination], partial: bool
) -> str | None:
    """Return how the file and the tensors differ in names, shapes or dtypes; None if they agree."""
    absent, unexpected = sorted(set(tensors) - stored), sorted(stored - set(tensors))
    if absent:
        return f"lacks the tensor {absent[0]!r}"
    if unexpected and not partial:
        return f"has the unexpected tensor {unexpected[0]!r}"
    for name, target in tensors.items():
        tensor = target.tensor if isinstance(target, Destination) else target
        source = file.get_slice(name)
        shape, dtype = tuple(source.get_shape()), DTYPES.get(source.get_dtype())
        if isinstance(target, Destination):
            start, stop, rest = target.start, target.start + len(tensor), tuple(tensor.shape[1:])
            fits = shape[1:] == rest and 0 <= start <= shape[0] - len(tensor)
            expected = f"rows {start} to {stop} of (N, {str(rest)[1:]}"
        else:
            fits, expected = shape == tuple(tensor.shape), str(tuple(tensor.shape))
        if not fits or dtype != tensor.dtype:
            stored_dtype = dtype or source.get_dtype()
            return f"{name!r} is {stored_dtype} {shape}, expected {tensor.dtype} {expected}"
    return None


def _absent(path: Path) -> DataError:
    return DataError(f"{path}: no such file. Name the folder of a run that has trained.")


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(f"{path}: is damaged, or not written by a run ({error}).")


def pack(net: nn.Module, *optimisers: torch.optim.Optimizer, **numbers: int) -> dict[str, Tensor]:
    """Return the state of a network, its optimisers and some counters as tensors by name.

    Names are ``net.<parameter>``, ``optimiser.<number>.<parameter number>.<key>`` and
    ``number.<counter>``.
    """
    state = {f"net.{name}": value for name, value in net.state_dict().items()}
    for number, optimiser in enumerate(optimisers):
        for index, values in optimiser.state_dict()["state"].items():
            for name, value in values.items():
                if value is not None:
                    state[f"optimiser.{number}.{index}.{name}"] = torch.as_tensor(value)
    return state | {f"number.{name}": torch.tensor(value) for name, value in numbers.items()}


def unpack(
    state: Mapping[str, Tensor], net: nn.Module, *optimisers: torch.optim.Optimizer
) -> dict[str, int]:
    """Load the tensors of `pack` into a network and its optimisers, and return the counters."""
    net.load_state_dict(
        {name.removeprefix("net."): x for name, x in state.items() if name.startswith("net.")}
    )
    for number, optimiser in enumerate(optimisers):
        prefix = f"optimiser.{number}."
        values: dict[int, dict[str, Tensor]] = {}
        for name, x in state.items():
            if name.startswith(prefix):
                index, key = name.removeprefix(prefix).split(".")
                values.setdefault(int(index), {})[key] = x.clone()
        # The options of the optimiser (its "param_groups") are those it was created with.
        optimiser.load_state_dict({**optimiser.state_dict(), "state": values})
    return {
        name.removeprefix("number."): int(x)
        for name, x in state.items()
        if name.startswith("number.")
    }
