"""Groups of columns: which columns of a table belong to which modality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy as np
from numpy.typing import NDArray

from invmod._checks import check_names

Columns = str | int | slice | Sequence[str] | Sequence[int] | NDArray[Any]
ColumnGroups = dict[str, NDArray[np.int64]]


def column_groups(
    function: str,
    groups: Mapping[str, Columns] | None,
    num_columns: int,
    names: Sequence[str] | None,
) -> ColumnGroups:
    """Return modality name -> positions of its columns, in the order of `groups`.

    Arguments:
        function: name of the public function or class, for error messages.
        groups: modality name -> a column name, a position, a slice of positions, a sequence of
            names or positions, or bools (C,). Columns in no group belong to no modality. None makes
            every column a modality with the name of the column, or "x0", "x1", ... without names.
        num_columns: C, the number of columns.
        names: the names of the columns, or None if they have no names.

    Raises:
        KeyError: there is no column of a given name.
        TypeError: `groups` is not a mapping, or an entry has another type.
        ValueError: a group is empty, a position is out of range, or a column is in two groups.
    """
    if groups is None:
        labels = names if names is not None else [f"x{column}" for column in range(num_columns)]
        return {str(name): np.array([column]) for column, name in enumerate(labels)}
    if not isinstance(groups, Mapping):
        raise TypeError(
            f"{function}: `groups` must be a mapping of modality names to columns, got "
            f"{type(groups).__name__}."
        )
    check_names(function, list(groups))
    chosen: ColumnGroups = {}
    owners: dict[int, str] = {}
    for modality, columns in groups.items():
        positions = _positions(f"{function}: `groups[{modality!r}]`", columns, num_columns, names)
        for position in positions:
            if position in owners:
                raise ValueError(
                    f"{function}: `groups` must not share columns, but column {position} is in "
                    f"{owners[position]!r} and {modality!r}."
                    if owners[position] != modality
                    else f"{function}: `groups[{modality!r}]` has column {position} twice."
                )
            owners[position] = modality
        chosen[modality] = np.array(positions, dtype=np.int64)
    return chosen


def _positions(
    where: str, columns: Any, num_columns: int, names: Sequence[str] | None
) -> list[int]:
    """Return the positions of the columns of one group; `where` begins error messages."""
    if isinstance(columns, slice):
        positions = _slice_positions(where, columns, num_columns)
    elif isinstance(columns, np.ndarray) and columns.dtype == np.bool_:
        if columns.shape != (num_columns,):
            raise ValueError(
                f"{where} must have one bool for each of the {num_columns} columns, got shape "
                f"{columns.shape}."
            )
        positions = np.flatnonzero(columns).tolist()
    else:
        single = isinstance(columns, str | Integral)
        if not single and not isinstance(columns, Sequence | np.ndarray):
            raise TypeError(
                f"{where} must be a column name, a position, a slice, or a sequence of names or "
                f"positions, got {type(columns).__name__}."
            )
        entries = [columns] if single else list(columns)
        positions = [_position(where, entry, num_columns, names) for entry in entries]
    if not positions:
        raise ValueError(f"{where} must have at least one column, got none.")
    return positions


def _slice_positions(where: str, columns: slice, num_columns: int) -> list[int]:
    """Return the positions of a slice, which must lie within the table."""
    bounds = (columns.start, columns.stop, columns.step)
    if not all(bound is None or isinstance(bound, Integral) for bound in bounds):
        raise TypeError(f"{where} must be a slice of positions, got {columns!r}.")
    # Python cuts a slice at the end silently, which would hide a table that lacks columns.
    if columns.stop is not None and columns.stop > num_columns:
        raise ValueError(f"{where} is {columns!r}, but the table has {num_columns} columns.")
    return list(range(*columns.indices(num_columns)))


def _position(where: str, entry: Any, num_columns: int, names: Sequence[str] | None) -> int:
    """Return the position of one column, given by its name or position."""
    if isinstance(entry, str):
        if names is None:
            raise ValueError(
                f"{where} has the name {entry!r}, but the columns of the table have no names. Give "
                "positions, or a data frame."
            )
        if entry not in names:
            raise KeyError(f"{where}: there is no column {entry!r} among {list(names)}.")
        return list(names).index(entry)
    if isinstance(entry, bool | np.bool_) or not isinstance(entry, Integral):
        raise TypeError(f"{where} must have names or positions of columns, got {entry!r}.")
    position = int(entry)
    if not -num_columns <= position < num_columns:
        raise ValueError(f"{where} has column {position}, but the table has {num_columns} columns.")
    return position % num_columns
