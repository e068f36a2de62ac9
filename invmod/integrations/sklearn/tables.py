"""Tables of a report: arrays and data frames with the cells of some modalities hidden."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from invmod.integrations.sklearn.columns import ColumnGroups, Columns, column_groups

Bools = NDArray[np.bool_]
_DATES = "dates or times"
# The value of hidden cells: one for all modalities, or name -> value. None means missing.
Values = Any


class Table(Protocol):
    """A table (N, C) whose columns are grouped into M modalities."""

    groups: ColumnGroups

    def mask(self) -> Bools:
        """Return bool (N, M): False where all columns of a modality are missing."""

    def hide(self, mask: Bools, values: Mapping[str, Values]) -> Any:
        """Return a copy in which the cells outside the mask have the value of their modality."""


def as_table(function: str, X: Any, groups: Mapping[str, Columns]) -> Table:
    """Return the table of an array, a data frame of pandas or polars, or a nested sequence.

    Raises:
        ImportError: narwhals is not installed, and X is neither an array nor a sequence.
        KeyError, TypeError, ValueError: X is not a table, or `groups` does not fit it.
    """
    check_collected(function, "X", X)
    if isinstance(X, list | tuple):
        X = np.asarray(X)
    if isinstance(X, np.ndarray):
        return ArrayTable(function, X, groups)
    try:
        import narwhals
    except ImportError as error:
        raise ImportError(
            f"{function}: data frames need narwhals: pip install 'invmod[sklearn]'."
        ) from error
    frame = narwhals.from_native(X, eager_only=True, pass_through=True)
    if not isinstance(frame, narwhals.DataFrame):
        raise TypeError(
            f"{function}: `X` must be an array or a data frame of pandas or polars, got "
            f"{type(X).__name__}. Convert a sparse matrix with `toarray`."
        )
    return FrameTable(function, frame, groups)


def check_collected(function: str, argument: str, values: Any) -> None:
    """Raise if a table or a column is a lazy one of polars, which has no values yet."""
    # A lazy frame would become an array of one object, and scikit-learn's error does not name it.
    if hasattr(values, "collect") and not hasattr(values, "__array__"):
        raise TypeError(
            f"{function}: `{argument}` must be a table with values, got {type(values).__name__}. "
            "Call `.collect()` first."
        )


def columns_without_numbers(X: Any) -> dict[Any, str]:
    """Return column -> its kind, for the columns that cannot be converted to numbers.

    Columns are names in a data frame and positions in an array. Kinds are "text" or a type.

    Example:
        >>> columns_without_numbers(np.array([["Rome", 1.0], ["Oslo", None]], dtype=object))
        {0: 'text'}
    """
    return {
        name: kind
        for name, column in _columns(X).items()
        if (kind := _kind_without_numbers(column)) is not None
    }


def columns_of_dates(X: Any) -> dict[Any, str]:
    """Return column -> its kind, for columns of dates or times.

    They would become counts of nanoseconds silently, and a missing date a large negative number.

    Example:
        >>> columns_of_dates(np.array([["2026-01-01"]], dtype="datetime64[D]"))
        {0: 'dates or times'}
    """
    return {name: _DATES for name, column in _columns(X).items() if _is_temporal(column)}


def _columns(X: Any) -> dict[Any, Any]:
    """Return name or position -> column; empty for objects that have no columns."""
    if hasattr(X, "columns") and hasattr(X, "__getitem__"):
        return {name: X[name] for name in X.columns}
    array = np.asarray(X)
    return dict(enumerate(array.T)) if array.ndim == 2 else {}


def _is_temporal(column: Any) -> bool:
    dtype = getattr(column, "dtype", None)
    # Types of polars have a method; those of NumPy and pandas have a kind.
    test = getattr(dtype, "is_temporal", None)
    return bool(test()) if callable(test) else getattr(dtype, "kind", "") in ("M", "m")


def _kind_without_numbers(column: Any) -> str | None:
    """Return the kind of a column that has values other than numbers; None without any."""
    array = np.asarray(column)
    if array.dtype.kind in "biuf":
        return None
    if _is_temporal(array):
        return _DATES
    for value in array.tolist():
        # NaN, None, and missing values of pandas, which differ from themselves or are no bool.
        if value is None or isinstance(value, int | float) or type(value).__name__ == "NAType":
            continue
        if isinstance(value, str):
            try:
                float(value)
            except ValueError:
                return "text"
            continue
        return type(value).__name__
    return None


class ArrayTable:
    """A table from an array; hidden cells are NaN unless they have a value."""

    def __init__(self, function: str, X: NDArray[Any], groups: Mapping[str, Columns]) -> None:
        if X.ndim != 2:
            raise ValueError(f"{function}: `X` must have shape (N, C), got {X.shape}.")
        if X.dtype.kind not in "biufO":
            raise TypeError(
                f"{function}: `X` must be an array of numbers or objects, got {X.dtype}. Pass a "
                "data frame or an array of objects, which can hold missing values."
            )
        # Integers and bools have no NaN. All conditions get the same dtype.
        self.values = X.astype(np.float64) if X.dtype.kind in "biu" else X
        self.groups = column_groups(function, groups, X.shape[1], None)

    def mask(self) -> Bools:
        """Return bool (N, M): False where all columns of a modality are missing."""
        # NaN is the only value that differs from itself; None occurs in arrays of objects.
        missing: Bools = np.asarray(self.values != self.values, dtype=np.bool_)
        if self.values.dtype.kind == "O":
            missing |= np.asarray(self.values == np.array(None), dtype=np.bool_)
        return np.stack(
            [~missing[:, columns].all(axis=1) for columns in self.groups.values()], axis=1
        )

    def hide(self, mask: Bools, values: Mapping[str, Values]) -> NDArray[Any]:
        """Return a copy in which the cells outside the mask have the value of their modality."""
        table = self.values.copy()
        for index, (name, columns) in enumerate(self.groups.items()):
            hidden = (~mask[:, index]).nonzero()[0]
            value = values[name]
            table[hidden[:, None], columns] = np.nan if value is None else value
        return table


class FrameTable:
    """A table from a data frame; hidden cells are null unless they have a value.

    A copy is a data frame of the same library, with the same columns and the same index.
    """

    def __init__(self, function: str, frame: Any, groups: Mapping[str, Columns]) -> None:
        self.frame = frame
        self.groups = column_groups(function, groups, len(frame.columns), frame.columns)

    def mask(self) -> Bools:
        """Return bool (N, M): False where all columns of a modality are missing."""
        return np.stack(
            [
                ~np.stack([self._missing(column) for column in columns], axis=1).all(axis=1)
                for columns in self.groups.values()
            ],
            axis=1,
        )

    def hide(self, mask: Bools, values: Mapping[str, Values]) -> Any:
        """Return a copy in which the cells outside the mask have the value of their modality."""
        import narwhals as nw

        names = self.frame.columns
        # A column that no column of the table is named like holds the rows to keep.
        available = "available"
        while available in names:
            available += "_"
        frame = self.frame
        for index, (name, columns) in enumerate(self.groups.items()):
            # A column without hidden cells keeps its type, which a null could change.
            if mask[:, index].all():
                continue
            rows = nw.new_series(
                available, mask[:, index], nw.Boolean, backend=frame.implementation
            )
            replaced = []
            for column in (names[position] for position in columns):
                kept = nw.when(nw.col(available)).then(nw.col(column))
                value = values[name]
                # Without a value `when` leaves nulls of the type of the column.
                filled = kept if value is None else kept.otherwise(nw.lit(value))
                replaced.append(filled.alias(column))
            frame = frame.with_columns(rows).with_columns(*replaced).drop(available)
        return frame.clone().to_native()

    def _missing(self, column: np.int64) -> Bools:
        """Return bool (N,), True where a column is null or NaN."""
        series = self.frame[:, int(column)]
        missing = series.is_null()
        if series.dtype.is_float():
            # Polars distinguishes NaN from null.
            missing = missing | series.is_nan()
        return missing.to_numpy().astype(np.bool_)  # type: ignore[no-any-return]
