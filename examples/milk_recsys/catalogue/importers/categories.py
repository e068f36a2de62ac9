"""Modalities that are categories in tables: a column of zeros and ones for each level."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from milk_recsys.base.errors import DataError, plural
from milk_recsys.catalogue.encoders.categories import fit_categories
from milk_recsys.catalogue.encoders.saved import Recipe
from milk_recsys.catalogue.importers.matching import Matching
from milk_recsys.catalogue.importers.texts import MUCH
from milk_recsys.catalogue.importers.write import Draft
from milk_recsys.catalogue.raw.tables import RawTable
from milk_recsys.catalogue.raw.words import items_of

__all__ = ["read_levels", "write_categories"]


def read_levels(
    draft: Draft,
    name: str,
    table: RawTable,
    columns: Sequence[str],
    matching: Matching,
    separator: str = "|",
) -> list[list[list[str]]]:
    """Return the categories of each item: for each column, the levels in the item's cell."""
    table.need(matching.item_column, *columns)
    places = matching.table_places(table, name, draft, further=True)
    levels: list[list[list[str]]] = [[[] for _ in columns] for _ in range(len(matching.items))]
    for first, frame in table.batches(list(columns)):
        cells = [items_of(frame[column], table.missing(column), separator) for column in columns]
        for row, item in enumerate(zip(*cells, strict=True)):
            place = places[first + row]
            if place >= 0 and not any(levels[place]):
                levels[place] = list(item)
    return levels


def write_categories(
    draft: Draft,
    name: str,
    levels: list[list[list[str]]],
    columns: tuple[str, ...],
    item_column: str,
    where: str,
    separator: str = "|",
) -> Recipe:
    """Write a modality of categories: a column of zeros and ones for each level."""
    encoder, left_out = fit_categories(levels, len(columns), separator)
    draft.notes += _separator_note(name, levels, where)
    if not encoder.width:
        raise DataError(f"{where}: no item of the interactions has a category for {name!r}.")
    if left_out:
        draft.notes.append(f"{name}: {left_out} rare levels of {', '.join(columns)} left out.")
    rows = draft.new_features(name, encoder.width)
    encoded = encoder.encode(levels)
    present = encoded.any(axis=1)
    rows[present] = encoded[present]
    if not present.all():
        absent = int((~present).sum())
        draft.notes.append(
            f"{name}: {plural(absent, 'item has', 'items have')} no category in {where}."
        )
    draft.finish_features(name, rows, where, checked=draft.filled.get(name) == "missing")
    return Recipe(item_column, columns, encoder)


def _separator_note(name: str, levels: list[list[list[str]]], where: str) -> list[str]:
    """Return a note if most cells seem to hold several levels that were read as one."""
    single = [cell[0] for item in levels for cell in item if len(cell) == 1]
    for sign in (",", ";"):
        several = sum(sign in text for text in single)
        if several > MUCH * len(single):
            return [
                f"{name}: {several} of {len(single)} cells of {where} are one level with {sign!r} "
                f"in it. If it separates levels: --level-separator {shlex.quote(sign)}."
            ]
    return []
