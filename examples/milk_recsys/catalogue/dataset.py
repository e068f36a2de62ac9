"""Data sets on disk: read once, checked in blocks, never copied as a whole.

A data set is a folder with

- `dataset.json`: `num_users`, `num_items` and `modalities`, which maps each modality's name to
  `file` (a path relative to the folder, and inside it) and `dim`. Optional keys are `name`,
  `description`, `source`, `num_interactions`, and `dtype` and `missing_rows` of a modality; the
  last three are compared with the files, and a difference is noted. `"zeros": "content"` of a
  modality says that a row of zeros is content; else it means what a row of NaN means;
- `interactions.tsv`: tab-separated, with the columns `user` and `item` (0-based ids) named in its
  header, one pair per line; a column `time` holds unix seconds, and other columns are ignored.
  Large sets may have `interactions.npy` instead: integers (pairs, 2), and `times.npy` (pairs,).
  The pairs are left on disk if they are sorted by user, then item, without repeated pairs;
- one `.npy` file per modality, (num_items, dim), float16, float32 or float64. A row of NaN means
  that the item lacks this modality;
- optionally `users.tsv` (header `user<TAB>name`) and `items.tsv` (`item<TAB>name`), which give the
  ids names. Each file must name every id exactly once, in any order; two ids may share a name.

Every problem raises DataError, whose message names the place and the remedy. This module does not
import torch.
"""

import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from milk_recsys.base.errors import DataError, plural
from milk_recsys.base.reading import check_inside, check_regular
from milk_recsys.catalogue.npy import Features, open_features, scan_features
from milk_recsys.catalogue.pairs import Pairs, pair_blocks, read_pairs
from milk_recsys.catalogue.times import Times, read_times
from milk_recsys.catalogue.tsv import read_interactions, read_lines, read_names

__all__ = ["DataError", "Dataset", "drop_empty_items", "read_dataset"]

MAX_COUNT = 2**31 - 1
ROWS_AT_ONCE = 16_384  # Number of feature rows hashed at a time.


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Users, items, their interactions and the items' features, all checked.

    Arguments:
        interactions: (P, 2) integers, distinct pairs of user id and item id, sorted by user, then
            item. They are a read-only memory map if interactions.npy is sorted in this way.
        features: modality -> (num_items, d_m) float; a row of NaN is a missing modality. Arrays
            that come from files are read-only memory maps.
        natural_mask: (num_items, M) bool, the modalities that each item has; the columns are in the
            order of `modalities`.
        user_names, item_names: one name per id, or None.
        folder: the folder that the data set was read from, or None.
        times: (P,) first time of each pair in unix seconds, or None.
        content_zeros: modalities of which a row of zeros is content, not missing.
        notes: messages for the user, for example on ignored columns, merged pairs or dropped items.
        abs_max: modality -> an array and the largest absolute value in it; see `largest`.
    """

    name: str
    num_users: int
    num_items: int
    interactions: Pairs
    features: dict[str, Features]
    natural_mask: npt.NDArray[np.bool_]
    user_names: tuple[str, ...] | None = None
    item_names: tuple[str, ...] | None = None
    folder: Path | None = None
    times: Times | None = None
    content_zeros: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    description: str = ""
    source: str = ""
    abs_max: Mapping[str, tuple[Features, float]] = dataclasses.field(
        default_factory=dict, repr=False
    )

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the modalities, in the order of the columns of `natural_mask`."""
        return tuple(self.features)

    @functools.cached_property
    def item_counts(self) -> npt.NDArray[np.int64]:
        """Number of users that each item has, (num_items,)."""
        counts = np.zeros(self.num_items, dtype=np.int64)
        for _, block in pair_blocks(self.interactions):
            counts += np.bincount(block[:, 1], minlength=self.num_items)
        return counts

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hexadecimal digest of the pairs, the natural mask and the features."""
        # Pairs are hashed as int64, so that their type in the file makes no difference. Everything
        # is hashed in blocks, so that memory-mapped files are never loaded as a whole.
        digest = hashlib.sha256()
        for _, pairs in pair_blocks(self.interactions):
            digest.update(np.ascontiguousarray(pairs, dtype=np.int64).data)
        digest.update(np.packbits(self.natural_mask).data)
        for x in self.features.values():
            for start in range(0, len(x), ROWS_AT_ONCE):
                digest.update(np.ascontiguousarray(x[start : start + ROWS_AT_ONCE]).data)
        return digest.hexdigest()[:16]

    def largest(self, modality: str) -> float:
        """Return the largest absolute value among a modality's features."""
        # `read_dataset` has computed the value while it checked the features. It belongs to
        # that array: `dataclasses.replace` may have put another array into `features`.
        checked, abs_max = self.abs_max.get(modality, (None, 0.0))
        return (
            abs_max
            if checked is self.features[modality]
            else scan_features(self.features[modality], modality)[1]
        )


FILES = (
    "dataset.json",
    "interactions.tsv",
    "interactions.npy",
    "times.npy",
    "users.tsv",
    "items.tsv",
)
"""Names of the files of a data set, except for its features."""


def read_dataset(folder: Path, *, empty_items: Literal["error", "drop"] = "error") -> Dataset:
    """Read and check a data set.

    Arguments:
        folder: the data set's folder.
        empty_items: how to treat items without any modality, with or without interactions.
            "error" refuses the data set; "drop" removes the interactions of these items. Their ids
            remain, so that no other item is renumbered; an item without interactions is used
            neither in training nor in evaluation.

    Raises:
        DataError: a file of the folder is missing, unreadable or inconsistent.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder. Name the folder that holds dataset.json.")
    for name in FILES:
        check_inside(folder / name, folder)
        check_regular(folder / name)
    manifest = _read_manifest(folder / "dataset.json")
    num_users, num_items = manifest["num_users"], manifest["num_items"]
    notes: list[str] = []

    file, pairs = _read_interactions(folder, num_users, num_items, notes)
    stated = manifest.get("num_interactions", len(pairs))
    if stated != len(pairs):
        notes.append(
            f"{file} has {plural(len(pairs), 'distinct pair', 'distinct pairs')}, "
            f"but dataset.json states {stated}."
        )
    features: dict[str, Features] = {}
    abs_max: dict[str, tuple[Features, float]] = {}
    natural_mask = np.empty((num_items, len(manifest["modalities"])), dtype=np.bool_)
    for column, (modality, entry) in enumerate(manifest["modalities"].items()):
        where = folder / entry["file"]
        features[modality] = open_features(
            where, root=folder, num_rows=num_items, dim=entry["dim"], modality=modality
        )
        content = entry.get("zeros") == "content"
        natural_mask[:, column], largest = scan_features(
            features[modality], where, content_zeros=content
        )
        abs_max[modality] = features[modality], largest
        notes += _compare_with_manifest(
            modality, entry, features[modality], natural_mask[:, column]
        )
    times = read_times(folder, num_items, pairs, notes)
    pairs, times = drop_empty_items(folder, pairs, times, natural_mask, empty_items, notes)
    return Dataset(
        name=str(manifest.get("name") or folder.resolve().name),
        num_users=num_users,
        num_items=num_items,
        interactions=pairs,
        features=features,
        natural_mask=natural_mask,
        user_names=read_names(folder / "users.tsv", "user", num_users, notes),
        item_names=read_names(folder / "items.tsv", "item", num_items, notes),
        folder=folder,
        times=times,
        content_zeros=tuple(
            name for name, e in manifest["modalities"].items() if e.get("zeros") == "content"
        ),
        notes=tuple(notes),
        description=str(manifest.get("description", "")),
        source=str(manifest.get("source", "")),
        abs_max=abs_max,
    )


def _read_interactions(
    folder: Path, num_users: int, num_items: int, notes: list[str]
) -> tuple[str, Pairs]:
    """Return the name of the file that holds the pairs, and the pairs."""
    text, binary = folder / "interactions.tsv", folder / "interactions.npy"
    if not binary.exists():
        return text.name, read_interactions(text, num_users, num_items, notes)
    if text.exists():
        raise DataError(f"{folder}: holds interactions.tsv and interactions.npy. Keep one of them.")
    return binary.name, read_pairs(binary, num_users, num_items, notes)


# ----------------------------------------------------------------------------- dataset.json


def _read_manifest(path: Path) -> dict[str, Any]:
    """Return the content of dataset.json after checking its keys."""
    try:
        text = "".join(read_lines(path, "It states the counts and names the feature files."))
        manifest = json.loads(text, object_pairs_hook=_distinct_keys)
    except DataError:
        raise
    # `_distinct_keys` raises KeyError; a file that is nested too deeply raises RecursionError.
    except KeyError as error:
        raise DataError(f"{path}: the key {error.args[0]!r} appears twice. Keep one.") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is not valid JSON ({error}). Correct it there.") from None
    _expect(path, manifest, dict, "the file", "an object with num_users, num_items, modalities")
    for key in ("num_users", "num_items"):
        _check_count(path, manifest, key, minimum=1)
    if "num_interactions" in manifest:
        _check_count(path, manifest, "num_interactions", minimum=0)
    modalities = _required(path, manifest, "modalities")
    _expect(path, modalities, dict, "`modalities`", "an object: name -> {file, dim}")
    if not modalities:
        raise DataError(f"{path}: `modalities` is empty. Name at least one feature file.")
    for key in ("name", "description", "source"):
        _expect_unicode(path, str(manifest.get(key, "")), f"`{key}`")
    for name, entry in modalities.items():
        _expect_unicode(path, name, "the name of a modality")
        if not name.strip():
            raise DataError(f"{path}: a modality has an empty name. Give it one.")
        label = f"modality {name!r}"
        _expect(path, entry, dict, label, "an object with `file` and `dim`")
        _expect(path, _required(path, entry, "file", label), str, f"`file` of {label}", "a string")
        _check_count(path, entry, "dim", minimum=1, label=label)
        if entry.get("zeros", "missing") not in ("missing", "content"):
            raise DataError(
                f'{path}: `zeros` of {label} must be "missing" or "content", got '
                f"{entry['zeros']!r:.60}."
            )
    return dict(manifest)


def _distinct_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object as a dictionary, or raise KeyError for a repeated key.

    By default `json` keeps the last of several equal keys, which hides the mistake.
    """
    distinct: dict[str, Any] = {}
    for key, value in pairs:
        if key in distinct:
            raise KeyError(key)
        distinct[key] = value
    return distinct


def _required(path: Path, entry: Mapping[str, Any], key: str, label: str = "the file") -> Any:
    """Return the value of a key that must be present."""
    if key not in entry:
        raise DataError(f"{path}: {label} lacks the key `{key}`. Add it.")
    return entry[key]


def _expect(path: Path, value: Any, kind: type, label: str, wanted: str) -> None:
    if not isinstance(value, kind):
        raise DataError(f"{path}: {label} must be {wanted}, got {value!r:.60}.")


def _expect_unicode(path: Path, text: str, label: str) -> None:
    """Refuse a lone surrogate, which a JSON escape can express but UTF-8 cannot encode."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise DataError(
            f"{path}: {label} is not valid Unicode: {text!a:.60}. Correct it there."
        ) from None


def _check_count(
    path: Path, entry: Mapping[str, Any], key: str, *, minimum: int, label: str = "the file"
) -> None:
    value = _required(path, entry, key, label)
    # JSON's true and false are ints in Python, so they are excluded by name.
    if not isinstance(value, int) or isinstance(value, bool) or not minimum <= value <= MAX_COUNT:
        raise DataError(
            f"{path}: `{key}` of {label} must be a whole number from {minimum} to {MAX_COUNT}, "
            f"got {value!r:.60}."
        )


def _compare_with_manifest(
    modality: str, entry: Mapping[str, Any], features: Features, natural_mask: npt.NDArray[np.bool_]
) -> Iterator[str]:
    """Yield a note for each optional entry of dataset.json that differs from the feature file."""
    actual = {"dtype": features.dtype.name, "missing_rows": int((~natural_mask).sum())}
    for key, value in actual.items():
        if entry.get(key, value) != value:
            yield f"{modality}: {key} is {value}, but dataset.json states {entry[key]}."
    zeros = int((~np.isnan(features[~natural_mask, 0])).sum())
    if zeros:
        yield (
            f"{modality}: {plural(zeros, 'row of zeros counts', 'rows of zeros count')} as "
            f'missing. If zeros are content, write "zeros": "content" for it in dataset.json.'
        )


def drop_empty_items(
    folder: Path,
    pairs: Pairs,
    times: Times | None,
    natural_mask: npt.NDArray[np.bool_],
    empty_items: str,
    notes: list[str],
) -> tuple[Pairs, Times | None]:
    """Return the pairs whose item has a modality; refuse others if `empty_items` is "error"."""
    has_modality = np.asarray(natural_mask.any(axis=1))
    if has_modality.all():
        return pairs, times
    first, count = int(has_modality.argmin()), int((~has_modality).sum())
    kept = np.concatenate([block[has_modality[block[:, 1]]] for _, block in pair_blocks(pairs)])
    if times is not None:
        times = times[has_modality[np.asarray(pairs[:, 1])]]
    lost = len(pairs) - len(kept)
    if empty_items == "error":
        raise DataError(
            f"{folder}: item {first} has no modality at all "
            f"({plural(count, 'such item', 'such items')}, with "
            f"{plural(lost, 'interaction', 'interactions')}). Give them a feature, or drop their "
            "interactions: --empty-items drop."
        )
    dropped = plural(count, "item without any modality was", "items without any modality were")
    notes.append(f"{dropped} dropped, with {plural(lost, 'interaction', 'interactions')}.")
    if len(kept) == 0:
        raise DataError(
            f"{folder}: no interactions remain after dropping those of items without any modality. "
            "Give some of these items a feature."
        )
    # Without a lost pair the original is returned: it may be a memory map, and `kept` is a copy.
    return (pairs if lost == 0 else kept), times
