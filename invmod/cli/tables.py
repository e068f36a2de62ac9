"""Reading of tables and arrays, and grouping of their columns into modalities."""

from __future__ import annotations

import fnmatch
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from invmod._optional import import_optional
from invmod.cli.errors import UsageError
from invmod.missingness.cells import missing_cells

if TYPE_CHECKING:
    import polars

Arrays = dict[str, NDArray[Any]]


def read_columns(path: str, missing_values: Sequence[str]) -> Arrays:
    """Return column -> array (N, ...) of a table, an .npz file or a folder of .npy files.

    Entries equal to one of the `missing_values` are missing.
    """
    kind = Path(path).suffix.lower()
    if not Path(path).exists():
        raise UsageError(f"{path}: there is no such file.")
    if Path(path).is_dir():
        columns = _npy_folder(path)
    elif kind == ".npz":
        columns = read_npz(path)
    elif kind in (".parquet", ".csv", ".tsv"):
        return _table(path, kind, missing_values)
    else:
        raise UsageError(
            f"{path}: the file must end in .parquet, .csv, .tsv or .npz, or be a folder of .npy "
            "files."
        )
    return {name: _without(values, missing_values) for name, values in columns.items()}


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


def _table(path: str, kind: str, missing_values: Sequence[str]) -> Arrays:
    pl = import_optional("polars", what=f"Reading {kind} files")
    try:
        if kind == ".parquet":
            frame = pl.read_parquet(path)
        else:
            frame = pl.read_csv(
                path,
                separator="\t" if kind == ".tsv" else ",",
                null_values=list(missing_values) or None,
                # A column whose first rows look like integers may have other numbers later.
                infer_schema_length=None,
            )
    except (pl.exceptions.PolarsError, OSError) as error:
        raise UsageError(f"{path}: the table cannot be read: {error}") from error
    return {
        name: _without(_array(frame[name]), missing_values if kind == ".parquet" else ())
        for name in frame.columns
    }


def _array(column: polars.Series) -> NDArray[Any]:
    """Return a column as an array: numbers with NaN, vectors as rows, anything else as objects."""
    pl = import_optional("polars", what="Reading tables")
    dtype = column.dtype
    if dtype in (pl.List, pl.Array):
        return _vectors(column)
    if dtype.is_numeric() or dtype == pl.Boolean:
        return np.asarray(column.cast(pl.Float64).to_numpy())
    # Dates, text and categories only need to be told from null.
    return np.array(column.to_list(), dtype=object)


def _vectors(column: polars.Series) -> NDArray[Any]:
    """Return a column of vectors as float64 (N, K); a null or an empty vector is a row of NaN."""
    rows = [[] if row is None else list(row) for row in column.to_list()]
    widths = {len(row) for row in rows if row}
    if len(widths) > 1 or any(isinstance(entry, (str, list)) for row in rows for entry in row[:1]):
        # Sequences of various lengths or of text are present or missing as a whole.
        return np.array([bool(row) or None for row in rows], dtype=object)
    width = widths.pop() if widths else 1
    values = np.full((len(rows), width), np.nan)
    for index, row in enumerate(rows):
        if row:
            values[index] = [np.nan if entry is None else float(entry) for entry in row]
    return values


def _without(values: NDArray[Any], missing_values: Sequence[str]) -> NDArray[Any]:
    """Return the array with NaN, None or blank text where an entry is one of `missing_values`."""
    if not missing_values:
        return values
    kind = values.dtype.kind
    if kind in "fiub":
        numbers = [number for text in missing_values if (number := _number(text)) is not None]
        hit = np.isin(values, numbers)
        return np.where(hit, np.nan, values.astype(np.float64)) if hit.any() else values
    if kind == "U":
        return np.where(np.isin(values, list(missing_values)), "", values)
    if kind == "O":
        texts = set(missing_values)
        entries = [None if str(entry) in texts else entry for entry in values.ravel().tolist()]
        changed = np.empty(len(entries), dtype=object)
        changed[:] = entries
        return changed.reshape(values.shape)
    return values


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def grouped(columns: Arrays, modalities: Sequence[str], exclude: Sequence[str]) -> Arrays:
    """Return modality -> array: grouped columns side by side, and each other column by itself.

    Arguments:
        columns: name -> (N, ...), all with the same number of rows.
        modalities: texts such as ``"image=img_*"``.
        exclude: patterns of columns to leave out.

    Example:
        >>> columns = {"img_0": np.zeros(2), "img_1": np.ones(2), "id": np.arange(2)}
        >>> grouped(columns, ["image=img_*"], ["id"])["image"]
        array([[0., 1.],
               [0., 1.]])
    """
    kept = dict(columns)
    for pattern in ",".join(exclude).split(",") if exclude else ():
        for name in _matching("--exclude", pattern, columns):
            kept.pop(name, None)
    groups: dict[str, list[str]] = {}
    for text in modalities:
        modality, equals, patterns = text.partition("=")
        if not equals or not modality:
            raise UsageError(f"--modality {text}: write NAME=COLUMNS, as in 'image=img_*'.")
        found = [
            name for part in patterns.split(",") for name in _matching("--modality", part, kept)
        ]
        groups.setdefault(modality, []).extend(dict.fromkeys(found))
    taken: dict[str, str] = {}
    for modality, names in groups.items():
        for name in names:
            if taken.setdefault(name, modality) != modality:
                raise UsageError(f"--modality: {taken[name]} and {modality} both contain {name}.")
    features: Arrays = {}
    for name, values in kept.items():
        modality = taken.get(name, name)
        if name not in taken and name in groups:
            raise UsageError(f"--modality {name}: a column outside of it has the same name.")
        if modality not in features:
            # A modality stands where the first of its columns stands.
            features[modality] = (
                _side_by_side([kept[part] for part in groups[modality]])
                if name in taken
                else values
            )
    if not features:
        raise UsageError("--exclude: no column is left.")
    return features


def _matching(option: str, pattern: str, columns: Arrays) -> list[str]:
    """Return the columns that have the name `pattern`, or else that match it."""
    if pattern in columns:
        return [pattern]
    found = fnmatch.filter(columns, pattern)
    if not found:
        shown = ", ".join(list(columns)[:8]) + (", ..." if len(columns) > 8 else "")
        raise UsageError(f"{option}: no column matches {pattern!r}; columns are {shown}.")
    return found


def _side_by_side(parts: list[NDArray[Any]]) -> NDArray[Any]:
    """Return the columns as one array (N, K); a mixture of kinds is an array of objects."""
    if all(part.dtype.kind in "fiub" for part in parts):
        return np.concatenate([part.reshape(len(part), -1).astype(float) for part in parts], axis=1)
    # Only whether an entry is missing matters for text, dates and mixtures.
    missing = np.concatenate([missing_cells(part) for part in parts], axis=1)
    cells = np.full(missing.shape, True, dtype=object)
    cells[missing] = None
    return cells
