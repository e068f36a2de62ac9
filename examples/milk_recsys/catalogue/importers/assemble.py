"""A data set from tables: interactions, and modalities from numbers, texts and categories."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from milk_recsys.base.errors import OptionError
from milk_recsys.catalogue.encoders.pictures import Pictures
from milk_recsys.catalogue.encoders.saved import Recipe
from milk_recsys.catalogue.importers.categories import read_levels, write_categories
from milk_recsys.catalogue.importers.interactions import read_interactions
from milk_recsys.catalogue.importers.matching import Matching, Place
from milk_recsys.catalogue.importers.numbers import is_array, write_numbers
from milk_recsys.catalogue.importers.pictures import write_pictures
from milk_recsys.catalogue.importers.row_options import RowOptions
from milk_recsys.catalogue.importers.texts import EncodeOptions, read_texts, write_texts
from milk_recsys.catalogue.importers.write import Draft
from milk_recsys.catalogue.raw.columns import note_unused
from milk_recsys.catalogue.raw.tables import RawTable, TextFormat, open_table
from milk_recsys.catalogue.raw.words import texts

__all__ = ["Plan", "assemble", "start", "write_names"]


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a data set is made from.

    Attributes:
        pairs: table of interactions.
        rows: which of its rows count.
        numbers, texts, categories: modality -> file and columns.
        pictures: modality -> folder of pictures.
        picture_encoder: ONNX model that encodes them.
        names: file and column with a name for each item, or None.
        item_column: column of ids in the tables of items; None for that of the interactions.
        item_ids: text file with the id of each row of an array.
        repeated: whether a second row of an item in a table is an error, or left out.
        pair_text, item_text: how the text files are written.
        level_separator: text between two categories in a cell.
        encode: how texts become features.
    """

    pairs: Path
    rows: RowOptions
    numbers: Mapping[str, Place] = dataclasses.field(default_factory=dict)
    texts: Mapping[str, Place] = dataclasses.field(default_factory=dict)
    categories: Mapping[str, Place] = dataclasses.field(default_factory=dict)
    pictures: Mapping[str, Path] = dataclasses.field(default_factory=dict)
    picture_encoder: Path | None = None
    names: Place | None = None
    item_column: str | None = None
    item_ids: Path | None = None
    repeated: Literal["error", "first"] = "error"
    pair_text: TextFormat = dataclasses.field(default_factory=TextFormat)
    item_text: TextFormat = dataclasses.field(default_factory=TextFormat)
    level_separator: str = "|"
    encode: EncodeOptions = dataclasses.field(default_factory=EncodeOptions)

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of all modalities."""
        return (*self.numbers, *self.texts, *self.categories, *self.pictures)


def assemble(draft: Draft, plan: Plan) -> None:
    """Write a data set, and the recipes by which new items get the same features.

    Raises:
        DataError: a file is absent, damaged, or has cells that cannot be read.
        OptionError: an option is invalid, or a modality is given twice.
    """
    check_plan(plan)
    item_column = plan.item_column or plan.rows.item_column
    pairs = open_table(plan.pairs, plan.pair_text)
    matching = start(draft, pairs, plan.rows, item_column)
    matching = dataclasses.replace(matching, repeated=plan.repeated)
    tables = _Tables(plan.item_text)
    if plan.names is not None:
        write_names(draft, matching, tables.open(plan.names), plan.names)
    recipes: dict[str, Recipe] = {}
    for name, place in plan.numbers.items():
        recipe = write_numbers(
            draft, name, place, matching, text=plan.item_text, item_ids=plan.item_ids
        )
        if recipe is not None:
            recipes[name] = recipe
    for name, place in plan.categories.items():
        table = tables.open(place)
        levels = read_levels(draft, name, table, place.columns, matching, plan.level_separator)
        recipes[name] = write_categories(
            draft, name, levels, place.columns, item_column, table.path.name, plan.level_separator
        )
    for name, folder in plan.pictures.items():
        encoder = Pictures(Path(str(plan.picture_encoder)))
        recipes[name] = write_pictures(draft, name, folder, encoder, matching)
    given = {
        name: read_texts(draft, name, tables.open(place), place.columns, matching)
        for name, place in plan.texts.items()
    }
    recipes |= write_texts(draft, given, item_column, plan.encode)
    draft.notes += _unused(plan, recipes, pairs, tables, item_column)
    draft.write_recipes(recipes)


def _unused(
    plan: Plan, recipes: Mapping[str, Recipe], pairs: RawTable, tables: _Tables, item_column: str
) -> list[str]:
    """Return notes on columns that nothing uses, for all tables but those of numbers alone."""
    used = {plan.pairs: set(plan.rows.columns)}
    for place in [*plan.categories.values(), *plan.texts.values()]:
        used.setdefault(place.path, set()).update((item_column, *place.columns))
    for name, place in plan.numbers.items():
        if place.path in used and name in recipes:
            used[place.path].update((item_column, *recipes[name].columns))
    if plan.names is not None and plan.names.path in used:
        used[plan.names.path].update((item_column, *plan.names.columns))
    return [
        note
        for path, columns in used.items()
        for note in note_unused(pairs if path == plan.pairs else tables.open(Place(path)), columns)
    ]


def start(draft: Draft, pairs: RawTable, rows: RowOptions, item_column: str) -> Matching:
    """Write the interactions and the users' names; return how rows of items are matched."""
    found = read_interactions(pairs, rows)
    draft.notes += found.notes
    draft.write_pairs(found.pairs, len(found.users), len(found.items), found.times)
    draft.write_names(found.users.names, found.items.names)
    return Matching(found.items, item_column, rows.id_case, pairs=pairs.path.name)


def check_plan(plan: Plan) -> None:
    """Raise OptionError for a plan without modalities, or with invalid ones."""
    if not plan.modalities:
        raise OptionError(
            "at least one modality is needed: --features NAME=FILE, --text NAME=FILE:COLUMN, "
            "--categories NAME=FILE:COLUMN, or --pictures NAME=FOLDER."
        )
    twice = {name for name in plan.modalities if plan.modalities.count(name) > 1}
    if twice:
        raise OptionError(f"the modality {min(twice)!r} is given twice. Give each name once.")
    for option, places in (("--text", plan.texts), ("--categories", plan.categories)):
        for name, place in places.items():
            if not place.columns:
                raise OptionError(
                    f"{option} {name}={place.path}: name the columns to read, as in "
                    f"{name}={place.path}:COLUMN[,COLUMN]."
                )
    if not plan.level_separator:
        raise OptionError("--level-separator must not be empty.")
    if plan.item_ids is not None and not any(is_array(p.path) for p in plan.numbers.values()):
        raise OptionError(
            "--item-ids names the rows of an array, but no file of --features is an array. Leave "
            "it out, or name an array in .npy, .npz or HDF5."
        )
    if plan.pictures and plan.picture_encoder is None:
        raise OptionError("--pictures needs --picture-encoder, an ONNX model on this machine.")
    plan.encode.check()


class _Tables:
    """Opens each table of items once."""

    def __init__(self, text: TextFormat) -> None:
        self.text = text
        self.tables: dict[Path, RawTable] = {}

    def open(self, place: Place) -> RawTable:
        if place.path not in self.tables:
            self.tables[place.path] = open_table(place.path, self.text)
        return self.tables[place.path]


class _Unreported:
    """Notes that nobody reads, because the same rows are reported with their modality."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.warnings: list[str] = []


def write_names(draft: Draft, matching: Matching, table: RawTable, named: Place) -> None:
    """Write the name of each item, its id where the table has none, beside its id."""
    if len(named.columns) != 1:
        raise OptionError("--item-names must be FILE:COLUMN.")
    column = named.columns[0]
    table.need(matching.item_column, column)
    places = matching.table_places(table, "names", _Unreported(), further=True)
    names = [""] * len(matching.items)
    for first, frame in table.batches([column]):
        for row, name in enumerate(texts(frame[column], table.missing(column))):
            place = places[first + row]
            if place >= 0 and not names[place]:
                names[place] = name
    ids = matching.items.names
    draft.write_names(None, [name or key for name, key in zip(names, ids, strict=True)], ids)
