"""Features of one call, tensors, arrays or mappings of them, with their mask."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from invmod._checks import check_names
from invmod.missingness import mask_from_features
from invmod.missingness.arrays import (
    as_tensor,
    count_rows,
    device_of,
    each_array,
    given_features,
    labelled_parts,
)
from invmod.missingness.masks import mask_columns
from invmod.missingness.sentinels import IntegerFill

Array: TypeAlias = Tensor | NDArray[Any]
Features: TypeAlias = Mapping[str, Array | Mapping[str, Array] | None]
Mask: TypeAlias = Array | Mapping[str, Array]
Tensors: TypeAlias = Tensor | dict[str, Tensor]  # one modality


@dataclass(frozen=True)
class Table:
    """Features as tensors with their mask, and whether they were given as tensors.

    Attributes:
        modalities: names in the order of the mask's columns.
        features: name -> (N, ...), or name -> key -> (N, ...); without the names whose shape is
            unknown, which are missing in all rows.
        mask: bool (N, M).
        given_as_tensors: whether the caller works with tensors instead of arrays.
    """

    modalities: tuple[str, ...]
    features: dict[str, Tensors]
    mask: Tensor
    given_as_tensors: bool

    @property
    def device(self) -> torch.device:
        """Device of the features; the mask may be on another one."""
        return device_of(next(iter(self.features.values())))

    def templates(self) -> dict[str, Tensors | None]:
        """Return name -> the feature with no rows, on the CPU; None where the shape is unknown."""

        def template(x: Tensor) -> Tensor:
            return torch.empty((0, *x.shape[1:]), dtype=x.dtype)

        return {name: each_array(self.features.get(name), template) for name in self.modalities}

    def like_given(self, values: NDArray[Any]) -> Any:
        """Return an array as it is, or as a tensor on the device of the features."""
        if not self.given_as_tensors:
            return values
        # Apple's devices have no float64.
        return torch.from_numpy(values).to("cpu" if self.device.type == "mps" else self.device)


def checked_table(
    function: str,
    features: Features,
    mask: Mask | None,
    integer_fill: IntegerFill,
    templates: Mapping[str, Tensors | None] | None = None,
) -> Table:
    """Check features and mask; without a mask, rows of NaN are missing.

    A feature that is None is missing in all rows. Where its template is known, the table has a
    feature of the template's shape and dtype, whose content is always hidden.
    """
    check_mapping(function, features)
    names = check_names(function, tuple(features))
    given_as_tensors = _given_as_tensors(function, features)
    tensors: dict[str, Tensors] = {}
    for name, feature in given_features(function, features, names).items():
        where = f"{function}: the feature of {name!r}"
        tensors[name] = each_array(feature, functools.partial(to_tensor, where))
    num_rows = count_rows(function, tensors)
    natural_mask = (
        mask_from_features(tensors, names, integer_fill=integer_fill)
        if mask is None
        else _given_mask(function, mask, names, set(names) - set(tensors), num_rows)
    )
    table = Table(names, tensors, natural_mask, given_as_tensors)
    return table if templates is None else _completed(table, templates)


def check_mapping(function: str, features: object) -> None:
    """Raise unless `features` is a mapping."""
    if not isinstance(features, Mapping):
        raise TypeError(
            f"{function}: `features` must be a mapping of names to tensors or arrays, got "
            f"{type(features).__name__}."
        )


def _given_as_tensors(function: str, features: Features) -> bool:
    """Return whether the features are tensors; raise if they are neither tensors nor arrays."""
    arrays = [
        x
        for name, feature in features.items()
        if feature is not None
        for _, x in labelled_parts(name, feature)
    ]
    kinds = {isinstance(x, Tensor) for x in arrays}
    if not all(isinstance(x, (Tensor, np.ndarray)) for x in arrays) or len(kinds) > 1:
        got = {
            name: "NoneType" if feature is None else each_array(feature, lambda x: type(x).__name__)
            for name, feature in features.items()
        }
        raise TypeError(
            f"{function}: `features` must be all tensors or all NumPy arrays (or mappings of "
            f"them, or None), got {got}."
        )
    if not kinds:
        raise ValueError(
            f"{function}: `features` must have at least one modality that is not None, because "
            f"the number of rows is unknown without it, got {tuple(features)}."
        )
    return kinds.pop()


def _given_mask(
    function: str, mask: Mask, names: tuple[str, ...], nothing: set[str], num_rows: int
) -> Tensor:
    """Return the caller's mask (N, M); raise if a feature in `nothing`, which is None, is used."""
    where = f"{function}: `mask`"
    if isinstance(mask, Mapping):
        columns = {name: to_tensor(where, column) for name, column in mask.items()}
        absent = torch.zeros(num_rows, dtype=torch.bool)
        absent = absent.to(next((x.device for x in columns.values()), absent.device))
        # A feature that the caller has no rows of needs no column either.
        columns |= {name: absent for name in nothing if name not in columns}
        checked = mask_columns(function, columns, names, num_rows)
    elif isinstance(mask, (Tensor, np.ndarray)):
        checked = mask_columns(function, to_tensor(where, mask), names, num_rows)
    else:
        raise TypeError(
            f"{function}: `mask` must be a tensor, an array or name -> (N,), got "
            f"{type(mask).__name__}."
        )
    used = [name for name in names if name in nothing and checked[:, names.index(name)].any()]
    if used:
        raise ValueError(
            f"{function}: `mask` must be False where a feature is None, but has available rows of "
            f"{used}. Pass their features."
        )
    return checked


def _completed(table: Table, templates: Mapping[str, Tensors | None]) -> Table:
    """Return the table with hidden features of the templates' shape for those that are None."""
    features: dict[str, Tensors] = {}
    for name in table.modalities:
        template = templates[name]
        if name in table.features:
            features[name] = table.features[name]
        elif template is not None:
            # The mask has no available row of it, so the model is never shown these zeros.
            features[name] = each_array(
                template,
                lambda x: torch.zeros(
                    (len(table.mask), *x.shape[1:]), dtype=x.dtype, device=table.device
                ),
            )
    return Table(table.modalities, features, table.mask, table.given_as_tensors)


def to_tensor(where: str, values: Array) -> Tensor:
    """Return a tensor; an array shares its memory with it where torch can use it."""
    return values if isinstance(values, Tensor) else as_tensor(where, values)
