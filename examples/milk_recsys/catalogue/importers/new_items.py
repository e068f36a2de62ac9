"""New items from tables, encoded as the items of a run or of a data set were."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np

from milk_recsys.base.errors import DataError, OptionError, plural
from milk_recsys.catalogue.encoders.categories import Categories
from milk_recsys.catalogue.encoders.pictures import Pictures, find_pictures
from milk_recsys.catalogue.encoders.saved import Recipe, load_recipes
from milk_recsys.catalogue.importers.categories import read_levels
from milk_recsys.catalogue.importers.ids import Ids
from milk_recsys.catalogue.importers.matching import Matching
from milk_recsys.catalogue.importers.numbers import write_table_numbers
from milk_recsys.catalogue.importers.options import FileOptions
from milk_recsys.catalogue.importers.pictures import write_pictures
from milk_recsys.catalogue.importers.tables import named_places
from milk_recsys.catalogue.importers.texts import TEXTS_AT_ONCE, read_texts
from milk_recsys.catalogue.importers.write import Draft, drafting
from milk_recsys.catalogue.raw.tables import RawTable, open_table, shown_names

__all__ = ["NewItems"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class NewItems(FileOptions):
    """New items for `recommend`, from tables with the columns of the training data."""

    run: Path
    """Folder of a run, or of a data set, whose encoders are used."""
    table: tuple[str, ...] = ()
    """Table of new items; or NAME=FILE for each modality that has a table of its own."""
    pictures: tuple[str, ...] = ()
    """NAME=FOLDER for each modality of pictures."""
    out: Path
    """Folder for the new items; it must not exist yet."""
    item_column: str | None = None
    """Name of the column of items; by default that of the training data."""
    encoder: str | None = None
    """Where the sentence encoder is now, if it has moved."""
    picture_encoder: str | None = None
    """Where the image encoder is now, if it has moved."""
    repeated_items: Literal["error", "first"] = "error"
    """A second row of an item in a table: an error, or left out."""

    def write(self) -> list[str]:
        """Write the folder of new items; return the lines to print.

        Raises:
            DataError: a table cannot be read, or the run has no saved encoders.
            OptionError: an option is invalid.
        """
        recipes = load_recipes(self.run, encoder=self.encoder, picture_encoder=self.picture_encoder)
        tables, folders = self._tables(recipes), self._folders(recipes)
        if not tables and not folders:
            raise OptionError("--table: name a table of new items, or a folder with --pictures.")
        items = Ids()
        for name, table in tables.items():
            for row, text in enumerate(table.distinct_ids(self._column(recipes[name]))):
                if text is None:
                    raise DataError(f"{table.place(row)}: has no id of its item. Give it one.")
                items.number(text)
        for folder in folders.values():
            for text in find_pictures(folder):
                items.number(text)
        with drafting(self.out, self.out.name, f"prepare.py items: {self.run.name}") as draft:
            draft.counts = {"num_items": len(items)}
            draft.write_names(None, items.names)
            for name, table in tables.items():
                self._write(draft, name, table, recipes[name], items)
            for name, folder in folders.items():
                encoder = cast(Pictures, recipes[name].encoder)
                write_pictures(draft, name, folder, encoder, Matching(items, ""), checked=False)
            draft.write_manifest()
        written = [*tables, *folders]
        absent = [name for name in recipes if name not in written]
        notes = [
            *draft.notes,
            *(f"{name}: nothing given, so all items lack it." for name in absent),
        ]
        return [
            *(f"note: {text}" for text in notes),
            f"{self.out}: {plural(len(items), 'new item', 'new items')} with {', '.join(written)}",
        ]

    def _tables(self, recipes: Mapping[str, Recipe]) -> dict[str, RawTable]:
        """Return the table of each modality that one is given for."""
        named: dict[str, RawTable] = {}
        for word in self.table:
            name, mark, file = word.partition("=")
            if mark and name in recipes and not Path(word).exists():
                named[name] = open_table(Path(file), self.text_format)
                continue
            table = open_table(Path(word), self.text_format)
            fitting = [n for n, recipe in recipes.items() if _fits(recipe, table)]
            if not fitting:
                wanted = "; ".join(f"{n}: {', '.join(r.columns)}" for n, r in recipes.items())
                raise DataError(
                    f"{word}: has the columns of no modality. It has {shown_names(table.columns)}; "
                    f"needed are {wanted}."
                )
            named |= {name: table for name in fitting if name not in named}
        return {name: named[name] for name in recipes if name in named}

    def _folders(self, recipes: Mapping[str, Recipe]) -> dict[str, Path]:
        """Return the folder of pictures of each modality that one is given for."""
        folders = {n: place.path for n, place in named_places("--pictures", self.pictures).items()}
        for name in folders:
            encoder = recipes[name].encoder if name in recipes else None
            if not isinstance(encoder, Pictures):
                raise OptionError(f"--pictures: the run has no modality of pictures {name!r}.")
        return folders

    def _column(self, recipe: Recipe) -> str:
        return self.item_column or recipe.item_column

    def _write(self, draft: Draft, name: str, table: RawTable, recipe: Recipe, items: Ids) -> None:
        """Write the features of one modality."""
        matching = Matching(items, self._column(recipe), repeated=self.repeated_items)
        encoder = recipe.encoder
        if encoder is None:
            write_table_numbers(draft, name, table, recipe.columns, matching, checked=False)
            return
        columns = [column for column in recipe.columns if column in table.columns]
        if len(columns) < len(recipe.columns):
            absent = ", ".join(c for c in recipe.columns if c not in columns)
            draft.notes.append(f"{name}: {table.path.name} has no {absent}.")
        cells: list[Any]
        if encoder.kind == "categories":
            separator = cast(Categories, encoder).separator
            levels = read_levels(draft, name, table, columns, matching, separator)
            # A column that the table lacks has no level of any item.
            cells = [
                [item[columns.index(c)] if c in columns else [] for c in recipe.columns]
                for item in levels
            ]
        else:
            cells = list(read_texts(draft, name, table, columns, matching).texts)
        rows = draft.new_features(name, encoder.width)
        for start in range(0, len(cells), TEXTS_AT_ONCE):
            block = encoder.encode(cells[start : start + TEXTS_AT_ONCE])
            known = block.any(axis=1)
            rows[start + np.flatnonzero(known)] = block[known]
        draft.finish_features(name, rows, table.path.name, checked=False)


def _fits(recipe: Recipe, table: RawTable) -> bool:
    """Return whether a table has the numbers of a modality, or some of its texts or categories."""
    present = [column in table.columns for column in recipe.columns]
    return all(present) if recipe.encoder is None else any(present)  # Pictures have no columns.
