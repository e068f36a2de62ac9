"""New items to recommend: a folder in the layout of a data set, without interactions.

The folder holds

- `features/<modality>.npy`, (n, dim), float16, float32 or float64: a row of NaN means that the item
  lacks this modality, and so does a row of zeros unless the training data say that zeros are
  content. A modality without a file is missing for all items. If there is a
  `dataset.json`, its `modalities` (name -> `file` and `dim`) name the files to read instead; `dim`
  and `num_items` are optional, and must agree with the files;
- optionally `items.tsv`: header `item<TAB>name`, a name for every item.

This module needs NumPy but not torch.
"""

import dataclasses
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from milk_recsys.base.errors import DataError, plural
from milk_recsys.base.files import read_json
from milk_recsys.base.reading import check_inside, check_regular, exists
from milk_recsys.catalogue.npy import find_present, open_features
from milk_recsys.catalogue.tsv import read_names

__all__ = ["Items", "read_items"]


@dataclasses.dataclass(frozen=True)
class Items:
    """New items, checked.

    Arguments:
        features: modality -> (n, d), memory-mapped; only modalities that have a file.
        ids: (k,) ids of the items to recommend, increasing: the items that have some modality.
        names: one name for each of the n items, or None.
        notes: messages for the user.
    """

    features: dict[str, npt.NDArray[Any]]
    ids: npt.NDArray[np.int64]
    names: tuple[str, ...] | None
    notes: tuple[str, ...]


def read_items(
    folder: Path,
    dims: Mapping[str, int],
    *,
    content_zeros: Collection[str] = (),
    empty_items: Literal["error", "drop"] = "error",
) -> Items:
    """Read and check a folder of new items.

    Arguments:
        folder: folder of the new items; see the module's description.
        dims: modality -> width of its features in the training data. A modality without a file is
            missing for all items.
        content_zeros: modalities of which a row of zeros is content, not missing.
        empty_items: how to treat items without any modality: refuse them with an error, or leave
            them out. The ids of the other items do not change.

    Raises:
        DataError: a file of the folder is missing, unreadable or inconsistent.
    """
    if not folder.is_dir():
        raise DataError(
            f"{folder}: no such folder. Name the folder that holds the features of new items."
        )
    manifest = folder / "dataset.json"
    for path in (manifest, folder / "items.tsv"):
        check_inside(path, folder)
        check_regular(path)
    files, count = _read_manifest(manifest, dims) if exists(manifest) else _find_files(folder)
    notes = [
        f"{name}: no file in {folder}; missing for all new items."
        for name in dims
        if name not in files
    ]
    features: dict[str, npt.NDArray[Any]] = {}
    columns = []
    for name, file in files.items():
        if name not in dims:
            raise DataError(
                f"{folder}: the modality {name!r} is unknown. The run was trained on "
                f"{', '.join(dims)}; rename the file, or leave it out."
            )
        where = folder / file
        features[name] = open_features(
            where, root=folder, num_rows=count, dim=dims[name], modality=name
        )
        # Without a stated number of items, the first file determines it for all others.
        count = len(features[name])
        columns.append(find_present(features[name], where, content_zeros=name in content_zeros))
    if not features or not count:
        raise DataError(
            f"{folder}: there are no new items. Give a feature file of one of {', '.join(dims)}, "
            "with at least one row."
        )
    names = read_names(folder / "items.tsv", "item", count, notes)
    ids = _drop_empty_items(folder, np.stack(columns, axis=1), empty_items, notes)
    return Items(features, ids, names, tuple(notes))


def _find_files(folder: Path) -> tuple[dict[str, str], None]:
    """Return the feature file of each modality, and None for the number of items, not known yet."""
    paths = sorted(folder.glob("features/*.npy"))
    return {path.stem: f"features/{path.name}" for path in paths}, None


def _read_manifest(path: Path, dims: Mapping[str, int]) -> tuple[dict[str, str], int | None]:
    """Return the file of each modality, and the number of items or None; check `dim` if given."""
    try:
        manifest = read_json(path)
        files = {name: entry["file"] for name, entry in manifest["modalities"].items()}
        count = manifest.get("num_items")
        stated = {
            name: entry["dim"] for name, entry in manifest["modalities"].items() if "dim" in entry
        }
        if not all(isinstance(file, str) for file in files.values()):
            raise TypeError("`file` must be a string")
        # `type(...) is int` excludes true and false, which are instances of int.
        if "num_items" in manifest and not (type(count) is int and count >= 0):
            raise TypeError("`num_items` must be a whole number, at least 0")
        if not all(type(dim) is int for dim in stated.values()):
            raise TypeError("`dim` must be a whole number")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise DataError(
            f"{path}: must be JSON with `modalities`, an object: name -> {{file, dim}} "
            f"({error!r:.200}). Correct it, or remove it and name the files "
            "features/<modality>.npy."
        ) from None
    for name, dim in stated.items():
        if dim != dims.get(name, dim):
            raise DataError(
                f"{path}: `dim` of modality {name!r} is {dim}, but the run was trained on "
                f"{dims[name]}. Correct it, or give features of that width."
            )
    return files, count


def _drop_empty_items(
    folder: Path, natural_mask: npt.NDArray[np.bool_], empty_items: str, notes: list[str]
) -> npt.NDArray[np.int64]:
    """Return the ids of the items that have a modality, and note how many have none."""
    has_modality = natural_mask.any(axis=1)
    kept, lost = np.flatnonzero(has_modality), int((~has_modality).sum())
    if lost and empty_items == "error":
        raise DataError(
            f"{folder}: item {has_modality.argmin()} has no modality at all "
            f"({plural(lost, 'such item', 'such items')}). Give them a feature, or leave them out: "
            "--empty-items drop."
        )
    if not len(kept):
        raise DataError(f"{folder}: none of the new items has any modality ({lost} in all).")
    if lost:
        notes.append(
            f"{plural(lost, 'item without any modality is', 'items without any modality are')} "
            "left out."
        )
    return kept
