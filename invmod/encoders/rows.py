"""Rows of one modality: checks, hiding of unavailable rows, and batches of a single row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias, TypeVar

import torch
from torch import Tensor, nn

from invmod._checks import check_feature
from invmod.missingness.masks import append_axes

Feature: TypeAlias = Tensor | Mapping[str, Tensor]
FeatureType = TypeVar("FeatureType", Tensor, Mapping[str, Tensor])


def checked_entries(function: str, name: str, x: Feature) -> dict[str, Tensor]:
    """Return the tensors of one modality's feature, named for messages, after a check of types."""
    if not isinstance(x, Mapping):
        check_feature(function, name, x)
        return {name: x}
    if not x:
        raise ValueError(
            f"{function}: the feature of {name!r} is an empty mapping. Give it at least one entry, "
            "or None if the modality is missing in all rows."
        )
    for entry, values in x.items():
        if not isinstance(entry, str):
            raise TypeError(
                f"{function}: the entries of {name!r} must be named by strings, because the module "
                f"receives them as keyword arguments, got {entry!r}."
            )
        check_feature(function, f"{name}[{entry}]", values)
    return {f"{name}[{entry}]": values for entry, values in x.items()}


def hide_rows(x: Feature, column: Tensor) -> Feature:
    """Return x with zeros in the rows where `column` (N,) is False, in every entry."""
    if isinstance(x, Mapping):
        return {entry: _hide(values, column) for entry, values in x.items()}
    return _hide(x, column)


def _hide(x: Tensor, column: Tensor) -> Tensor:
    # Select instead of multiplying by the mask, because NaN * 0 is NaN.
    zero = torch.zeros((), dtype=x.dtype, device=x.device)
    return torch.where(append_axes(column, x), x, zero)


def select_rows(x: Feature, rows: Tensor) -> Feature:
    """Return the given rows of x, in every entry."""
    if isinstance(x, Mapping):
        return {entry: values[rows] for entry, values in x.items()}
    return x[rows]


def describe(x: Feature) -> str:
    """Return shapes and dtypes for an error message."""
    if isinstance(x, Mapping):
        return "entries " + ", ".join(f"{entry!r} of {describe(v)}" for entry, v in x.items())
    return f"shape {tuple(x.shape)} and dtype {x.dtype}"


def check_output(function: str, name: str, c: Any, num_rows: int) -> Tensor:
    """Return the output of a module; raise unless it is a tensor (N, D)."""
    if not isinstance(c, Tensor):
        keys = f" with the keys {list(c)}" if isinstance(c, Mapping) else ""
        one = "output['...']" if isinstance(c, Mapping) else "output[0]"
        raise TypeError(
            f"{function}: the module of {name!r} must return one tensor (N, D), got "
            f"{type(c).__name__}{keys}. Wrap it in a module whose `forward` calls it and returns "
            f"the tensor to use, such as `{one}`."
        )
    if c.ndim != 2 or c.shape[0] != num_rows:
        raise ValueError(
            f"{function}: the module of {name!r} must return (N, D) with N = {num_rows}, got "
            f"{tuple(c.shape)}."
        )
    return c


@contextmanager
def running_statistics_for_single_rows(module: nn.Module) -> Iterator[None]:
    """Let batch normalisation use its running statistics where it has one value per channel.

    One value has no variance, so a layer in training mode raises. A layer for images has a value
    per pixel, and keeps its training mode.
    """
    handles, switched = [], []

    def before(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0]
        # A layer without running statistics raises its own error.
        known = layer.running_mean is not None
        if layer.training and known and x.numel() == x.shape[1]:
            switched.append(layer)
            layer.training = False

    def after(layer: nn.Module, *_: Any) -> None:
        if layer in switched:
            layer.training = True

    for layer in module.modules():
        # Synchronised layers count the rows of all processes, and must take part in their sums.
        single = isinstance(layer, nn.modules.batchnorm._BatchNorm)
        if single and not isinstance(layer, nn.SyncBatchNorm):
            handles += [
                layer.register_forward_pre_hook(before),
                layer.register_forward_hook(after, always_call=True),
            ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for layer in switched:
            layer.training = True
