"""Encoders saved beside a data set and copied with a run, so that new items are encoded alike.

The folder `encoders` holds `encoders.json`, which maps each modality to its recipe: the columns of
a table that it is made from, and the encoder with its settings; and for fitted arrays
`<number>.safetensors`. No pickle is written or read.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from milk_recsys.base.errors import DataError
from milk_recsys.base.files import read_json, replacing_folder, write_json
from milk_recsys.base.reading import check_inside, check_regular, exists
from milk_recsys.catalogue.encoders.categories import Categories
from milk_recsys.catalogue.encoders.contract import Arrays, Encoder
from milk_recsys.catalogue.encoders.pictures import Pictures
from milk_recsys.catalogue.encoders.sentences import Sentences
from milk_recsys.catalogue.encoders.tfidf import Tfidf

__all__ = ["ENCODERS", "Recipe", "copy_encoders", "load_recipes", "save_recipes"]

ENCODERS = "encoders"
"""Name of the folder."""
INDEX = "encoders.json"


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a modality of an item is made from a row of a table.

    Attributes:
        item_column: column of the ids.
        columns: columns that the modality is made from.
        encoder: encoder of their texts or categories; None for columns of numbers.
    """

    item_column: str
    columns: tuple[str, ...]
    encoder: Encoder | None = None


def save_recipes(folder: Path, recipes: Mapping[str, Recipe]) -> None:
    """Write the recipes of modalities into a new folder `encoders` inside `folder`."""
    from safetensors.numpy import save_file

    target = folder / ENCODERS
    target.mkdir()
    index: dict[str, dict[str, Any]] = {}
    for number, (name, recipe) in enumerate(recipes.items()):
        entry: dict[str, Any] = {
            "item_column": recipe.item_column,
            "columns": list(recipe.columns),
            "kind": "numbers",
        }
        if recipe.encoder is not None:
            entry |= {"kind": recipe.encoder.kind, "settings": recipe.encoder.settings()}
            arrays = {k: np.ascontiguousarray(x) for k, x in recipe.encoder.arrays().items()}
            if arrays:
                # Names of modalities may hold characters that file names may not.
                entry["arrays"] = f"{number}.safetensors"
                save_file(arrays, target / entry["arrays"])
        index[name] = entry
    write_json(target / INDEX, index)


def load_recipes(
    folder: Path, *, encoder: str | None = None, picture_encoder: str | None = None
) -> dict[str, Recipe]:
    """Return the recipes that `save_recipes` wrote into `folder`, a data set or a run.

    Arguments:
        encoder, picture_encoder: where the sentence encoder and the image encoder are now, if they
            have moved.

    Raises:
        DataError: the folder has none, or they are damaged.
    """
    path = folder / ENCODERS / INDEX
    if not path.is_file():
        raise DataError(
            f"{folder}: has no saved encoders. Its data set was not made by `prepare` from tables; "
            "give new items in the layout of features/<modality>.npy."
        )
    try:
        index = read_json(path)
        moved = {Sentences.kind: encoder, Pictures.kind: picture_encoder}
        return {name: _load(path.parent, entry, moved) for name, entry in index.items()}
    except DataError:
        raise
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(f"{path}: is damaged ({error!r:.150}). Prepare the data again.") from None


def _load(folder: Path, entry: Mapping[str, Any], moved: Mapping[str, str | None]) -> Recipe:
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    columns = tuple(map(str, entry["columns"]))
    item_column, kind = str(entry["item_column"]), entry["kind"]
    if kind == "numbers":
        return Recipe(item_column, columns)
    arrays: dict[str, Any] = {}
    if "arrays" in entry:
        file = folder / Path(entry["arrays"]).name
        try:
            arrays = load_file(file)
        except (OSError, SafetensorError) as error:
            raise DataError(f"{file}: cannot be read ({error!s:.150}).") from None
    settings = entry["settings"]
    if kind == Sentences.kind:
        return Recipe(item_column, columns, Sentences.restore(settings, arrays, moved[kind]))
    if kind == Pictures.kind:
        return Recipe(item_column, columns, Pictures.restore(settings, arrays, moved[kind]))
    kinds: dict[str, Callable[[Mapping[str, Any], Arrays], Encoder]] = {
        Tfidf.kind: Tfidf.restore,
        Categories.kind: Categories.restore,
    }
    return Recipe(item_column, columns, kinds[kind](settings, arrays))


def copy_encoders(source: Path, target: Path) -> None:
    """Copy the folder `encoders` of a data set into a run, if the data set has one.

    The copy appears under its name only when it is complete.
    """
    folder = source / ENCODERS
    if not exists(folder / INDEX) or exists(target / ENCODERS):
        return
    for path in folder.rglob("*"):
        check_inside(path, source)
        if not path.is_dir():
            check_regular(path)
    with replacing_folder(target / ENCODERS) as temporary:
        shutil.copytree(folder, temporary, dirs_exist_ok=True)
