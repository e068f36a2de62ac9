"""Features as the caller gives them, tensors, NumPy arrays or mappings, and their missing rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from invmod._checks import check_known
from invmod.missingness.masks import ROWS_AT_ONCE
from invmod.missingness.sentinels import Fill, recognised_value

Array: TypeAlias = Tensor | NDArray[Any]
Feature: TypeAlias = Array | Mapping[str, Array]

ENTRIES_AT_ONCE = 2**26  # bounds the temporary memory for long rows, such as images


def given_features(
    function: str, features: Mapping[str, Feature | None], names: tuple[str, ...]
) -> dict[str, Feature]:
    """Return the features that are not None, after checking their names and types."""
    check_known(function, "features", features, names)
    given = {name: feature for name, feature in features.items() if feature is not None}
    for name, feature in given.items():
        for where, values in labelled_parts(name, feature):
            if isinstance(values, np.ndarray):
                check_array(f"{function}: the feature of {where}", values)
            if not isinstance(values, (Tensor, np.ndarray)) or values.ndim == 0:
                known = isinstance(values, (Tensor, np.ndarray))
                raise TypeError(
                    f"{function}: the feature of {where} must be a tensor (N, ...) or None, got "
                    f"{'a scalar' if known else type(values).__name__}. A NumPy array and a "
                    "mapping key -> tensor are accepted too."
                )
        if isinstance(feature, Mapping) and not feature:
            raise ValueError(
                f"{function}: the mapping of {name!r} is empty. Use None for a missing modality."
            )
    return given


def labelled_parts(name: str, feature: Feature) -> list[tuple[str, Array]]:
    """Return the arrays of a feature, each with a label for error messages."""
    if isinstance(feature, Mapping):
        return [(f"{name!r}, key {key!r},", values) for key, values in feature.items()]
    return [(repr(name), feature)]


def count_rows(function: str, given: Mapping[str, Feature]) -> int:
    """Return the number of rows N; raise if the features differ in it."""
    return equal_rows(function, row_counts(given))


def equal_rows(function: str, counts: Mapping[str, int]) -> int:
    """Return the number of rows N; raise if modalities differ in it, or if there are none."""
    # Sizes are compared and not put into a set, because symbolic sizes cannot be hashed.
    first = next(iter(counts.values())) if counts else None
    if first is None or any(count != first for count in counts.values()):
        raise ValueError(
            f"{function}: modalities must have equal numbers of rows, at least one given, got "
            f"{dict(counts)}."
        )
    return first


def each_array(feature: Any, function: Callable[[Any], Any]) -> Any:
    """Return a feature with `function` applied to its array, or to each array of its mapping.

    Example:
        >>> [each_array(feature, torch.numel) for feature in (None, torch.ones(3))]
        [None, 3]
        >>> each_array({"ids": torch.ones(3), "kept": torch.ones(2)}, torch.numel)
        {'ids': 3, 'kept': 2}
    """
    if feature is None:
        return None
    if isinstance(feature, Mapping):
        return {key: function(x) for key, x in feature.items()}
    return function(feature)


def row_counts(given: Mapping[str, Feature]) -> dict[str, int]:
    """Return the number of rows of each modality, and of each entry of a mapping."""
    return {
        name if values is feature else f"{name}[{key}]": values.shape[0]
        for name, feature in given.items()
        for key, values in (feature.items() if isinstance(feature, Mapping) else [("", feature)])
    }


def device_of(feature: Feature) -> torch.device:
    """Return the device of a feature; NumPy arrays are on the CPU."""
    values = next(iter(feature.values())) if isinstance(feature, Mapping) else feature
    return values.device if isinstance(values, Tensor) else torch.device("cpu")


def check_array(where: str, array: NDArray[Any]) -> None:
    """Raise unless torch can hold the array's numbers and its mask, if any, is not lost."""
    if isinstance(array, np.ma.MaskedArray):
        raise TypeError(
            f"{where} is a masked array, whose mask a tensor cannot hold. Use "
            "`array.filled(numpy.nan)`."
        )
    if array.dtype.kind not in "biufc":
        raise TypeError(
            f"{where} has dtype {array.dtype}, which is not a number. Convert it, for example with "
            "`array.astype(numpy.float32)`."
        )


def as_tensor(where: str, array: NDArray[Any]) -> Tensor:
    """Return an array as a tensor, which shares its memory where torch can use it."""
    check_array(where, array)
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    # torch cannot use memory that is read-only, reversed, or not aligned to whole entries.
    usable = native.flags.writeable and all(
        stride >= 0 and stride % native.itemsize == 0 for stride in native.strides
    )
    try:
        return torch.from_numpy(native if usable else native.copy())
    except TypeError as error:
        raise TypeError(f"{where} has dtype {array.dtype}, which torch does not have.") from error


def available_rows(function: str, name: str, feature: Feature, fill: Fill = "auto") -> Tensor:
    """Return bool (N,), False for the rows of a feature that are missing.

    A row of a mapping is missing if it is missing in one of the mapping's arrays.
    """
    columns = [
        _available_rows(function, name, where, values, fill)
        for where, values in labelled_parts(name, feature)
    ]
    return columns[0] if len(columns) == 1 else torch.stack(columns).all(dim=0)


def _available_rows(function: str, name: str, where: str, values: Array, fill: Fill) -> Tensor:
    """Return bool (N,), False for a row that is all NaN or, for integers, all the sentinel."""
    dtype = values.dtype if isinstance(values, Tensor) else as_tensor(function, values[:0]).dtype
    device, where = device_of(values), where.rstrip(",")
    available: list[Tensor] = [torch.zeros(0, dtype=torch.bool, device=device)]
    if not (dtype.is_floating_point or dtype.is_complex):
        value = recognised_value(function, name, dtype, fill)
        # Without a sentinel, or without entries, no integer row can be recognised as missing.
        if value is None or 0 in values.shape:
            return torch.ones(values.shape[0], dtype=torch.bool, device=device)
        return torch.cat([(block != value).any(1) for block in _blocks(values)])
    start = 0
    for block in _blocks(values):
        nan = block.isnan()
        some, every = nan.any(1), nan.all(1)
        for wrong, what, hint in (
            (block.isinf().any(1), "an infinity", "Clip or drop it first."),
            (
                some & ~every,
                "NaN in part of a row",
                "A missing modality is a whole row of NaN; impute single values first.",
            ),
        ):
            if wrong.any():
                row = start + int(wrong.nonzero()[0])
                raise ValueError(
                    f"{function}: modality {where} has {what}, first in row {row}. {hint}"
                )
        # Now `some` and `every` differ only on rows without entries, which are available: there
        # `some` is False, but `every` is True.
        available.append(~some)
        start += len(block)
    return torch.cat(available)


def _blocks(values: Array) -> Iterator[Tensor]:
    """Yield values (N, ...) as tensors (n, entries of a row) of bounded size."""
    entries = math.prod(values.shape[1:])
    at_once = min(ROWS_AT_ONCE, max(1, ENTRIES_AT_ONCE // max(entries, 1)))
    for start in range(0, values.shape[0], at_once):
        block = values[start : start + at_once]
        if isinstance(block, np.ndarray):
            # Only a block of an array that torch cannot use is copied, for example of a file that
            # is mapped into memory.
            block = as_tensor("the feature", block)
        block = block.reshape(block.shape[0], entries)
        # Several operations are not implemented for numbers of 8 bits.
        yield block.float() if block.is_floating_point() and block.itemsize == 1 else block
