"""Importer for pairs and features in your own tables and arrays, with ids of any type."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Literal

from milk_recsys.base.errors import OptionError
from milk_recsys.catalogue.importers.assemble import Plan, assemble
from milk_recsys.catalogue.importers.matching import Place, parse_place
from milk_recsys.catalogue.importers.options import (
    EncodingOptions,
    FileOptions,
    OutputOptions,
    PairOptions,
)
from milk_recsys.catalogue.importers.write import Draft

__all__ = ["Table", "named_places"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table(EncodingOptions, FileOptions, PairOptions, OutputOptions):
    """Your own tables: CSV, Parquet, JSON lines and others, and arrays in .npy, .npz or HDF5."""

    pairs: Path
    """Table of interactions: a file, or a folder of its parts."""
    features: tuple[str, ...] = ()
    """NAME=FILE for each modality of numbers: a table with item ids, or an array of rows."""
    feature_columns: tuple[str, ...] = ()
    """NAME=COLUMN[,COLUMN] for a modality of --features: its columns, in which * stands for any
    text. By default these are a column of vectors, or columns that are numbered."""
    text: tuple[str, ...] = ()
    """NAME=FILE:COLUMN[,COLUMN] for each modality of texts, which are encoded."""
    categories: tuple[str, ...] = ()
    """NAME=FILE:COLUMN[,COLUMN] for each modality of categories, which become zeros and ones."""
    level_separator: str = "|"
    """Text between two categories in one cell."""
    pictures: tuple[str, ...] = ()
    """NAME=FOLDER for each modality of pictures, whose files are called like the ids of items."""
    picture_encoder: Path | None = None
    """ONNX model that encodes pictures; it takes (n, 3, height, width) and returns (n, dim)."""
    user_column: str = "user"
    """Name of the column of users."""
    item_column: str = "item"
    """Name of the column of items."""
    feature_item_column: str | None = None
    """Name of the column of items in the other tables, if it differs from --item-column."""
    time_column: str | None = None
    """Name of the column of times, which are kept with the pairs."""
    item_ids: Path | None = None
    """Text file with the item id of each row of an array, one per line."""
    item_names: str | None = None
    """FILE:COLUMN with names of the items; by default the ids are their names."""
    repeated_items: Literal["error", "first"] = "error"
    """A second row of an item in a table of features: an error, or left out."""

    def describe(self) -> str:
        """Return the source of the data set, for its manifest."""
        return f"prepare.py table: {self.pairs.name}"

    def fill(self, draft: Draft) -> None:
        """Write the data set."""
        numbers = named_places("--features", self.features)
        for name, columns in _columns(self.feature_columns, numbers).items():
            if name not in numbers:
                raise OptionError(f"--feature-columns: {name!r} is no modality of --features.")
            numbers[name] = Place(numbers[name].path, columns)
        assemble(
            draft,
            Plan(
                pairs=self.pairs,
                rows=self.row_options(self.user_column, self.item_column, self.time_column),
                numbers=numbers,
                texts=named_places("--text", self.text),
                categories=named_places("--categories", self.categories),
                pictures={n: p.path for n, p in named_places("--pictures", self.pictures).items()},
                picture_encoder=self.picture_encoder,
                names=parse_place("--item-names", self.item_names) if self.item_names else None,
                item_column=self.feature_item_column,
                item_ids=self.item_ids,
                repeated=self.repeated_items,
                level_separator=self.level_separator,
                pair_text=self.text_format,
                item_text=self.text_format,
                encode=self.encode_options,
            ),
        )


def named_places(option: str, given: Sequence[str]) -> dict[str, Place]:
    """Parse NAME=FILE and NAME=FILE:COLUMN[,COLUMN] arguments."""
    places: dict[str, Place] = {}
    for word in given:
        name, mark, where = word.partition("=")
        name = name.strip()
        # The name becomes part of a file name, so it must not contain a slash.
        if not (name and mark and where) or "/" in name or name in places:
            raise OptionError(f"{option} must be NAME=FILE, each name once, got {word!r}.")
        places[name] = parse_place(option, where)
    return places


def _columns(given: Sequence[str], modalities: Collection[str]) -> dict[str, tuple[str, ...]]:
    """Parse NAME=COLUMN[,COLUMN] arguments; the name of a single modality may be left out."""
    columns: dict[str, tuple[str, ...]] = {}
    for word in given:
        name, mark, names = word.partition("=")
        if not mark and len(modalities) == 1:
            (name,), names = modalities, word
        chosen = tuple(part.strip() for part in names.split(",") if part.strip())
        if not chosen:
            raise OptionError(f"--feature-columns must be NAME=COLUMN[,COLUMN], got {word!r}.")
        columns[name.strip()] = (*columns.get(name.strip(), ()), *chosen)
    return columns
