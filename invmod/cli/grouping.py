"""Grouping of the columns of a table into modalities."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from invmod.cli.errors import UsageError
from invmod.cli.lists import parts, quoted, quoted_start
from invmod.cli.tables import Arrays
from invmod.missingness.cells import missing_cells
from invmod.missingness.summary_text import shown_name


def grouped(columns: Arrays, modalities: Sequence[str], exclude: Sequence[str]) -> Arrays:
    """Return modality -> array: grouped columns side by side, and each other column by itself.

    Arguments:
        columns: name -> (N, ...), all with the same number of rows.
        modalities: texts such as ``"image=img_*"``.
        exclude: lists of columns to leave out, such as ``"id,target_*"``.

    Example:
        >>> columns = {"img_0": np.zeros(2), "img_1": np.ones(2), "id": np.arange(2)}
        >>> grouped(columns, ["image=img_*"], ["id"])["image"]
        array([[0., 1.],
               [0., 1.]])
    """
    kept = dict(columns)
    for text in exclude:
        for name in _columns("--exclude", text, columns):
            kept.pop(name, None)
    groups: dict[str, list[str]] = {}
    for text in modalities:
        modality, found = _group(text, kept)
        groups[modality] = list(dict.fromkeys([*groups.get(modality, ()), *found]))
    features = _side_by_modality(kept, groups)
    if not features:
        raise UsageError("--exclude: no column is left.")
    return features


def _side_by_modality(kept: Arrays, groups: dict[str, list[str]]) -> Arrays:
    """Return modality -> array of the columns that are kept."""
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
    return features


def _group(text: str, columns: Arrays) -> tuple[str, list[str]]:
    """Return the name of a modality and its columns; both sides of the "=" may have the sign."""
    readings: dict[str, list[str]] = {}
    errors = []
    start = quoted_start(text)
    if start is not None and start[1].startswith("="):
        return start[0], _columns("--modality", start[1][1:], columns)
    for end in (index for index, sign in enumerate(text) if sign == "=" and index):
        try:
            readings[text[:end]] = _columns("--modality", text[end + 1 :], columns)
        except UsageError as error:
            errors.append(error)
    if len(readings) > 1:
        choices = " or ".join(f"'{quoted(name)}=...'" for name in readings)
        raise UsageError(
            f"--modality {text}: the name can be read in several ways. Write {choices}."
        )
    if not readings:
        if errors:
            raise errors[0]
        raise UsageError(f"--modality {text}: write NAME=COLUMNS, as in 'image=img_*'.")
    return readings.popitem()


def _columns(option: str, text: str, columns: Arrays) -> list[str]:
    """Return the columns of a list of names and patterns; a name may have a comma."""
    entries = parts(text)
    if text in columns and len(entries) > 1:
        if all(_matching(entry, is_quoted, columns) for entry, is_quoted in entries):
            apart = ",".join(quoted(entry) for entry, _ in entries)
            raise UsageError(
                f"{option} {text}: this is a column and also a list of columns. Write "
                f"'{quoted(text)}' or '{apart}'."
            )
        return [text]
    if text in columns:
        return [text]
    names = []
    for entry, is_quoted in entries:
        found = _matching(entry, is_quoted, columns)
        if not found:
            # Columns are listed as the tables show them, so that they can be copied.
            shown = ", ".join(map(shown_name, list(columns)[:8]))
            more = ", ..." if len(columns) > 8 else ""
            raise UsageError(f"{option}: no column matches {entry!r}; columns are {shown}{more}.")
        names += found
    return names


def _matching(entry: str, is_quoted: bool, columns: Arrays) -> list[str]:
    """Return the column with a name, or else the columns that match a pattern."""
    # People put a space after a comma; a name that really begins with one goes first.
    for name in (entry,) if is_quoted else (entry, entry.strip()):
        if name in columns:
            return [name]
        if not is_quoted and (found := fnmatch.filter(columns, name)):
            return found
    return []


def _side_by_side(parts: list[NDArray[Any]]) -> NDArray[Any]:
    """Return the columns as one array (N, K); a mixture of kinds is an array of objects."""
    if all(part.dtype.kind in "fiub" for part in parts):
        return np.concatenate([part.reshape(len(part), -1).astype(float) for part in parts], axis=1)
    # Only whether an entry is missing matters for text, dates and mixtures.
    missing = np.concatenate([missing_cells(part) for part in parts], axis=1)
    cells = np.full(missing.shape, True, dtype=object)
    cells[missing] = None
    return cells
