"""Rows of one modality: checks, hiding of unavailable rows, and batches of a single row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from invmod._checks import check_feature, check_known
from invmod.missingness.masks import MaskLike, append_axes, first_column

Feature: TypeAlias = Tensor | Mapping[str, Tensor]

CALLER = "ModalityEncoders"  # the name at the start of every error message


def count_rows(
    features: Mapping[str, Feature | None],
    mask: MaskLike | None,
    modalities: tuple[str, ...],
    widths: Mapping[str, int],
) -> int:
    """Check names, types, numbers of rows and the known widths of features; return N."""
    check_known(CALLER, "features", features, modalities)
    sizes: dict[str, int] = {}
    for name, x in features.items():
        if x is None:
            continue
        entries = _entries(name, x)
        if name in widths:
            _check_width(name, x, widths[name])
        sizes.update({entry: values.shape[0] for entry, values in entries.items()})
    if not sizes:
        column = first_column(mask)
        if not isinstance(column, Tensor) or column.ndim == 0:
            raise ValueError(
                f"{CALLER}: no modality is given, so the number of rows is unknown. Pass a mask, "
                "or the features of at least one modality."
            )
        return column.shape[0]
    num_rows = next(iter(sizes.values()))
    # A set of sizes would hash them, which symbolic sizes do not allow.
    if any(size != num_rows for size in sizes.values()):
        raise ValueError(f"{CALLER}: modalities must have equal numbers of rows, got {sizes}.")
    return num_rows


def _check_width(name: str, x: Feature, width: int) -> None:
    if isinstance(x, Mapping) or x.ndim != 2 or x.shape[1] != width:
        got = "a mapping" if isinstance(x, Mapping) else tuple(x.shape)
        raise ValueError(
            f"{CALLER}: the feature of {name!r} must have shape (N, {width}), got {got}."
            f"{_column_hint(x) if width == 1 else ''}"
        )


def _entries(name: str, x: Feature) -> dict[str, Tensor]:
    """Return the tensors of one modality's feature, named for messages, after a check of types."""
    if not isinstance(x, Mapping):
        check_feature(CALLER, name, x)
        return {name: x}
    if not x:
        raise ValueError(
            f"{CALLER}: the feature of {name!r} is an empty mapping. Give it at least one entry, "
            "or None if the modality is missing in all rows."
        )
    for entry, values in x.items():
        if not isinstance(entry, str):
            raise TypeError(
                f"{CALLER}: the entries of {name!r} must be named by strings, because the module "
                f"receives them as keyword arguments, got {entry!r}."
            )
        check_feature(CALLER, f"{name}[{entry}]", values)
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


def first_entry(x: Feature) -> Tensor:
    """Return the tensor, or the first one of a mapping."""
    return next(iter(x.values())) if isinstance(x, Mapping) else x


def call_module(name: str, module: nn.Module, x: Feature) -> Tensor:
    """Call one module and return its output (N, D).

    Its own errors are raised again with the name of the modality.
    """
    try:
        c = module(**x) if isinstance(x, Mapping) else module(x)
    except Exception as error:
        raise _prefix_error(error, name, x) from error
    if not isinstance(c, Tensor):
        keys = f" with the keys {list(c)}" if isinstance(c, Mapping) else ""
        one = "output['...']" if isinstance(c, Mapping) else "output[0]"
        raise TypeError(
            f"{CALLER}: the module of {name!r} must return one tensor (N, D), got "
            f"{type(c).__name__}{keys}. Wrap it in a module whose `forward` calls it and returns "
            f"the tensor to use, such as `{one}`."
        )
    num_rows = first_entry(x).shape[0]
    if c.ndim != 2 or c.shape[0] != num_rows:
        raise ValueError(
            f"{CALLER}: the module of {name!r} must return (N, D) with N = {num_rows}, got "
            f"{tuple(c.shape)}.{_column_hint(x)}"
        )
    return c


def _prefix_error(error: Exception, name: str, x: Feature) -> Exception:
    """Return a module's error with the name of its modality prepended to the message.

    The type stays the same, unless it cannot be built from one string: then it is RuntimeError.
    """
    message = f"{CALLER}: the module of {name!r} failed on a feature of {_describe(x)}: {error}"
    # Ids of an embedding have one axis rightly, so only other numbers get the advice.
    if isinstance(x, Tensor) and x.is_floating_point():
        message += _column_hint(x)
    try:
        renamed = type(error)(message)
    except TypeError:
        return RuntimeError(message)
    # Some types take the string for something else than the message.
    kept = any(message in str(argument) for argument in renamed.args)
    return renamed if kept else RuntimeError(message)


def _column_hint(x: Feature) -> str:
    """Return how to make columns (N, 1) of numbers (N,), such as those of a table's rows."""
    return (
        " Use `x[:, None]` for one number per row." if isinstance(x, Tensor) and x.ndim == 1 else ""
    )


def _describe(x: Feature) -> str:
    """Return shapes and dtypes for an error message."""
    if isinstance(x, Mapping):
        return "; ".join(f"{entry!r} of {_describe(values)}" for entry, values in x.items())
    return f"shape {tuple(x.shape)} and dtype {x.dtype}"


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
