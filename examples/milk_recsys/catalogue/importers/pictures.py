"""Modalities that are pictures in a folder, encoded by a local model."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from milk_recsys.base.errors import plural
from milk_recsys.catalogue.encoders.pictures import Pictures, find_pictures
from milk_recsys.catalogue.encoders.saved import Recipe
from milk_recsys.catalogue.importers.matching import Matching
from milk_recsys.catalogue.importers.write import Draft

__all__ = ["write_pictures"]

PICTURES_AT_ONCE = 256


def write_pictures(
    draft: Draft,
    name: str,
    folder: Path,
    encoder: Pictures,
    matching: Matching,
    *,
    checked: bool = True,
) -> Recipe:
    """Write a modality from a folder with one picture per item, called like its id.

    Arguments:
        checked: whether to look for rows that were probably filled in, such as those of a
            placeholder picture.
    """
    files = find_pictures(folder)
    places = matching.places(list(files), folder, name, draft)
    used = [(place, path) for place, path in zip(places, files.values(), strict=True) if place >= 0]
    rows = draft.new_features(name, encoder.width)
    for start in range(0, len(used), PICTURES_AT_ONCE):
        into, paths = zip(*used[start : start + PICTURES_AT_ONCE], strict=True)
        rows[np.array(into)] = encoder.encode(paths)
    without = len(matching.items) - len(used)
    if without:
        draft.notes.append(
            f"{name}: {plural(without, 'item has', 'items have')} no picture in {folder.name}."
        )
    draft.finish_features(name, rows, folder.name, checked=checked)
    return Recipe("", (), encoder)
