"""Sentinels: the one rule for the content of missing cells, which all parts of the library follow.

A cell that is missing or hidden holds NaN if its feature is floating point or complex, -1 if it is
a signed integer, and 0 or False if it is an unsigned integer or a bool. NaN and -1 can be
recognised afterwards. Zeros and False are common values of available cells, so unsigned integers
and bools cannot carry the information, and their mask has to be kept.

The argument `integer_fill` changes the rule for integers and bools. An int, or a mapping name ->
int, is written into missing cells and recognised in them; names that are not in the mapping follow
the rule. None writes 0, a valid index of every embedding, and recognises nothing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Integral
from typing import Literal, TypeAlias

import torch

from invmod._checks import check_known

IntegerFill: TypeAlias = int | Mapping[str, int] | Literal["auto"] | None
Fill: TypeAlias = int | Literal["auto"] | None  # the entry of one modality


def integer_fills(
    function: str, integer_fill: IntegerFill, names: tuple[str, ...]
) -> dict[str, Fill]:
    """Return name -> fill value of all modalities, after checking `integer_fill`."""
    if integer_fill is None or (isinstance(integer_fill, str) and integer_fill == "auto"):
        return dict.fromkeys(names, integer_fill)
    given = (
        integer_fill if isinstance(integer_fill, Mapping) else dict.fromkeys(names, integer_fill)
    )
    check_known(function, "integer_fill", given, names)
    for value in given.values():
        if isinstance(value, bool) or not isinstance(value, (int, Integral)):
            raise TypeError(
                f"{function}: `integer_fill` must be 'auto', None, an int or name -> int, got "
                f"{value!r}."
            )
    return {name: int(given[name]) if name in given else "auto" for name in names}


def fill_value(function: str, name: str, dtype: torch.dtype, fill: Fill = "auto") -> float:
    """Return the value that missing cells of a feature of this dtype hold."""
    if dtype.is_floating_point or dtype.is_complex:
        return math.nan
    recognised = recognised_value(function, name, dtype, fill)
    return 0 if recognised is None else recognised


def recognised_value(function: str, name: str, dtype: torch.dtype, fill: Fill) -> int | None:
    """Return the value that marks missing cells of integers or bools, or None if there is none.

    Raises if `fill` is out of the range of `dtype`.
    """
    if fill is None:
        return None
    if fill == "auto":
        return -1 if dtype.is_signed else None
    low, high = integer_range(dtype)
    if not low <= fill <= high:
        raise ValueError(
            f"{function}, modality {name!r}: `integer_fill` must lie in [{low}, {high}] for "
            f"{dtype}, got {fill}. Pass a value for each name."
        )
    return fill


def integer_range(dtype: torch.dtype) -> tuple[int, int]:
    """Return the smallest and the largest value of a dtype of integers or bools."""
    return (0, 1) if dtype == torch.bool else (torch.iinfo(dtype).min, torch.iinfo(dtype).max)
