"""Which columns of a table are the features of a modality: those named, or those that fit."""

from __future__ import annotations

import re
from collections.abc import Sequence

from milk_recsys.base.errors import DataError, plural
from milk_recsys.catalogue.raw.columns import AMOUNTS, Column, listed

__all__ = ["choose_features", "find_columns", "note_columns"]

NUMERIC = ("numbers", "booleans")
COUNTED = re.compile(r"(.*?)[ _.\-]?(\d+)")
# Numbered columns such as `sales_2022, sales_2023` are no feature vector either.
NUMBERED_AMOUNT = re.compile(rf"(.*[\W_])?({AMOUNTS})[\W_]*", re.IGNORECASE)


def choose_features(columns: Sequence[Column], modality: str, where: object) -> list[Column]:
    """Return the columns that are the features of a modality if the user names none.

    These are a column of vectors, else numbered columns (``e0, e1, ...``), else columns of numbers
    that are no index, price, code or time.

    Raises:
        DataError: there is none, or there are several columns of vectors.
    """
    vectors = [c for c in columns if c.kind in ("vectors", "cut vectors")]
    readable = [c for c in vectors if c.kind == "vectors" and not c.ambiguous]
    named = [c for c in vectors if c.name == modality]
    if named or len(readable) == 1:
        return named or readable
    if readable:
        raise DataError(
            f"{where}: has several columns of vectors: {listed(readable)}. Name those of the "
            f"modality: --feature-columns {modality}={readable[0].name}."
        )
    numbers = [c for c in columns if c.kind in ("numbers", "booleans")]
    families = _numbered(columns)
    families = {p: f for p, f in families.items() if modality in p} or families
    if len(families) > 1:
        prefixes = ", ".join(f"{prefix}*" for prefix in families)
        raise DataError(
            f"{where}: has several sets of numbered columns: {prefixes}. Name those of the "
            f"modality: --feature-columns {modality}={next(iter(families))}*."
        )
    chosen = next(iter(families.values()), [c for c in numbers if not c.quantity])
    chosen = chosen or [c for c in vectors if c.ambiguous and not c.quantity]
    if chosen:
        return chosen
    advice = numbers[0].name if numbers else "COLUMN"
    raise DataError(
        f"{where}: has no column that is a feature unasked: {listed(columns) or 'nothing else'}. "
        f"Name the features: --feature-columns {modality}={advice}, or read texts with --text."
    )


def _numbered(columns: Sequence[Column]) -> dict[str, list[Column]]:
    """Return the sets of columns that are numbered, like ``e0, e1, e2``, by their prefix."""
    groups: dict[str, list[Column]] = {}
    for column in columns:
        match = COUNTED.fullmatch(column.name)
        # Columns without a name of their own (1, 2, ...) belong together only if all are numbers.
        if match and column.kind != "index" and (match[1] or column.kind in NUMERIC):
            groups.setdefault(match[1], []).append(column)
    return {
        prefix: group
        for prefix, group in groups.items()
        if len(group) > 1
        and sum(c.kind in NUMERIC for c in group) * 2 > len(group)
        and not NUMBERED_AMOUNT.fullmatch(prefix)
    }


def find_columns(columns: Sequence[Column], wanted: Sequence[str], where: object) -> list[Column]:
    """Return the columns that the user names; ``*`` stands for any text within a name.

    Raises:
        DataError: a name fits no column, or a column cannot be a feature.
    """
    chosen: list[Column] = []
    for pattern in wanted:
        form = re.compile(".*".join(map(re.escape, pattern.split("*"))))
        fitting = [c for c in columns if form.fullmatch(c.name)]
        if not fitting:
            raise DataError(f"{where}: has no column {pattern!r}; it has {listed(columns)}.")
        chosen += [c for c in fitting if c not in chosen]
    for column in chosen:
        if column.ambiguous:
            raise DataError(
                f"{where}, column {column.name!r}: its cells may be numbers with a decimal comma "
                "or pairs of numbers. State --decimal , for the first or --decimal . for the other."
            )
        if column.kind == "cut vectors":
            raise DataError(
                f"{where}, column {column.name!r}: its vectors were cut with ... when they were "
                "printed, so numbers are lost. Write them again, for example as Parquet."
            )
        if column.kind in ("text", "lists", "times", "empty"):
            raise DataError(
                f"{where}, column {column.name!r}: holds {column.kind}, no numbers. Leave it out, "
                "or read it with --text or --categories."
            )
    return chosen


def note_columns(
    modality: str, where: object, used: Sequence[Column], all_: Sequence[Column]
) -> str:
    """Return the note that names the columns used and left out."""
    left_out = [c for c in all_ if c not in used]
    note = f"{modality}: {plural(sum(c.width for c in used), 'feature', 'features')} from "
    note += f"{listed(used)} of {where}"
    return note + (f"; left out: {listed(left_out)}." if left_out else ".")
