"""Reading of tables and arrays."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from invmod._optional import import_optional
from invmod.cli.csv_files import read_csv
from invmod.cli.errors import UsageError
from invmod.cli.missing_values import candidates, chosen, occurring_in, without

if TYPE_CHECKING:
    import polars

Arrays = dict[str, NDArray[Any]]

SEPARATORS = {".csv": ",", ".tsv": "\t"}


def read_columns(path: str, missing_values: Sequence[str]) -> tuple[Arrays, list[str]]:
    """Return column -> array (N, ...) of a table, an .npz file or a folder of .npy files.

    Arguments:
        path: of the file or folder.
        missing_values: texts of the option: values, or lists of values, that mean missing.

    Returns:
        the columns, and the missing values that occur nowhere.
    """
    kind = Path(path).suffix.lower()
    if not Path(path).exists():
        raise UsageError(f"{path}: there is no such file.")
    if Path(path).is_dir():
        columns = _npy_folder(path)
    elif kind == ".npz":
        columns = read_npz(path)
    elif kind == ".parquet":
        columns = _parquet(path)
    elif kind in SEPARATORS:
        return _text_table(path, SEPARATORS[kind], missing_values)
    else:
        raise UsageError(
            f"{path}: the file must end in .parquet, .csv, .tsv or .npz, or be a folder of .npy "
            "files."
        )
    values, absent = chosen(missing_values, occurring_in(columns, candidates(missing_values)))
    return {name: without(x, values) for name, x in columns.items()}, absent


def read_npz(path: str) -> Arrays:
    """Return name -> array of an .npz file; arrays of objects are refused, as they need pickle."""
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise UsageError(f"{path}: there is no such file.") from None
    except (ValueError, OSError, TypeError, EOFError, zipfile.BadZipFile) as error:
        raise UsageError(f"{path}: this is not an .npz file of plain arrays: {error}") from error


def _npy_folder(path: str) -> Arrays:
    files = sorted(Path(path).glob("*.npy"))
    if not files:
        raise UsageError(f"{path}: the folder has no .npy file.")
    try:
        return {file.stem: np.load(file, allow_pickle=False) for file in files}
    except (ValueError, OSError, EOFError) as error:
        raise UsageError(f"{path}: a file is not a plain array: {error}") from error


def _parquet(path: str) -> Arrays:
    pl = import_optional("polars", what="Reading .parquet files")
    try:
        frame = pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise UsageError(f"{path}: the table cannot be read: {error}") from error
    return {name: _array(frame[name]) for name in frame.columns}


def _text_table(
    path: str, separator: str, missing_values: Sequence[str]
) -> tuple[Arrays, list[str]]:
    tried = candidates(missing_values)
    occurring: set[str] = set()
    if tried:
        # Values are found as they are written: "-9" in a column of numbers, "NA" in one that would
        # be numbers without it.
        for column in read_csv(path, separator, as_text=True):
            occurring.update(column.filter(column.is_in(tried)).unique().to_list())
    values, absent = chosen(missing_values, occurring)
    frame = read_csv(path, separator, null_values=values)
    columns = {name: _array(frame[name]) for name in frame.columns}
    # A number may be written in another way, such as -9.0.
    found = occurring_in(columns, absent)
    absent = [value for value in absent if value not in found]
    return {name: without(x, values) for name, x in columns.items()}, absent


def _array(column: polars.Series) -> NDArray[Any]:
    """Return a column as an array: numbers with NaN, vectors as rows, anything else as objects."""
    pl = import_optional("polars", what="Reading tables")
    dtype = column.dtype
    if isinstance(dtype, pl.List | pl.Array):
        numeric = dtype.inner.is_numeric() or dtype.inner in (pl.Boolean, pl.Null)
        return _vectors(column, numeric=numeric)
    if dtype.is_numeric() or dtype == pl.Boolean:
        return np.asarray(column.cast(pl.Float64).to_numpy())
    # Dates, text and categories only need to be told from null.
    return np.array(column.to_list(), dtype=object)


def _vectors(column: polars.Series, *, numeric: bool) -> NDArray[Any]:
    """Return a column of vectors as float64 (N, K); a null or an empty vector is a row of NaN."""
    rows = [[] if row is None else list(row) for row in column.to_list()]
    widths = {len(row) for row in rows if row}
    if len(widths) > 1 or not numeric:
        # Sequences of various lengths or of text are present or missing as a whole.
        return np.array([bool(row) or None for row in rows], dtype=object)
    width = widths.pop() if widths else 1
    values = np.full((len(rows), width), np.nan)
    for index, row in enumerate(rows):
        if row:
            values[index] = [np.nan if entry is None else float(entry) for entry in row]
    return values
