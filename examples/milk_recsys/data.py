"""Data sets on disk: read once, checked row by row, never copied as a whole.

A data set is a folder with

- `dataset.json`: `num_users`, `num_items` and `modalities`, a mapping from a name to `file`
  (relative to the folder, and inside it) and `dim`; further keys (`name`, `description`, `source`,
  and counts that are compared with what is found) may be left out;
- `interactions.tsv`: tab-separated, with the columns `user` and `item` (0-based ids) named in its
  header, one pair a line; further columns are ignored;
- one `.npy` file per modality, (num_items, dim), float16, float32 or float64, in which a row of NaN
  means that this item has no such modality;
- where ids have names, `users.tsv` (header `user<TAB>name`) and `items.tsv` (`item<TAB>name`). A
  file that is there names every id exactly once, in any order; two ids may share a name.

Whatever is wrong raises DataError, which says where it is and what to do. No torch here.
"""

import dataclasses
import json
import re
import tokenize
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]
import pyarrow.csv as pa_csv  # type: ignore[import-untyped]

__all__ = [
    "BAD_NPY",
    "DataError",
    "Dataset",
    "find_observed",
    "open_features",
    "plural",
    "read_dataset",
    "read_names",
]

FEATURE_DTYPES = ("float16", "float32", "float64")
CHUNK_ELEMENTS = 1 << 22  # feature values that are checked at a time
MAX_COUNT = 2**31 - 1
INTEGER = re.compile(r"-?[0-9]+")

Features = npt.NDArray[np.floating[Any]]

BAD_NPY = (
    ValueError,
    TypeError,
    EOFError,
    OverflowError,
    MemoryError,
    RecursionError,
    SyntaxError,
    tokenize.TokenError,
)
"""What numpy may raise for the bytes of a npy file that is damaged, or none at all."""


class DataError(ValueError):
    """Bad input; a command prints `error: <message>` and exits with status 2."""


def plural(count: int, one: str, many: str) -> str:
    """The count and the words that go with it: `plural(1, "item was", "items were")`."""
    return f"{count} {one if count == 1 else many}"


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Users, items, their pairs and the items' features, checked.

    Arguments:
        interactions: (P, 2) int64, distinct pairs of user and item id, sorted by user, then item.
        features: modality -> (num_items, d_m) float; a row of NaN is a missing modality. The arrays
            are memory-mapped, read-only, where they come from files.
        observed: (num_items, M) bool, which modalities each item has; columns as `modalities`.
        user_names, item_names: one name per id, or None.
        notes: what the user should be told: columns ignored, pairs merged, items dropped.
    """

    name: str
    num_users: int
    num_items: int
    interactions: npt.NDArray[np.int64]
    features: dict[str, Features]
    observed: npt.NDArray[np.bool_]
    user_names: tuple[str, ...] | None = None
    item_names: tuple[str, ...] | None = None
    notes: tuple[str, ...] = ()
    description: str = ""
    source: str = ""

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the modalities, in the order of the columns of `observed`."""
        return tuple(self.features)


def read_dataset(folder: Path, *, empty_items: Literal["error", "drop"] = "error") -> Dataset:
    """Reads and checks a data set.

    Arguments:
        folder: the data set's folder.
        empty_items: what to do about items without any modality, with or without interactions.
            "error" refuses the data; "drop" removes their interactions. Their ids stay, so that
            nothing has to be numbered anew; an item without interactions takes no part in training
            or evaluation.

    Raises:
        DataError: for anything wrong in the folder.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder. Name the folder that holds dataset.json.")
    manifest = _read_manifest(folder / "dataset.json")
    num_users, num_items = manifest["num_users"], manifest["num_items"]
    notes: list[str] = []

    pairs = _read_interactions(folder / "interactions.tsv", num_users, num_items, notes)
    stated = manifest.get("num_interactions", len(pairs))
    if stated != len(pairs):
        notes.append(
            f"interactions.tsv has {plural(len(pairs), 'distinct pair', 'distinct pairs')}, dataset.json says {stated}."
        )
    features: dict[str, Features] = {}
    observed = np.empty((num_items, len(manifest["modalities"])), dtype=np.bool_)
    for column, (modality, entry) in enumerate(manifest["modalities"].items()):
        where = folder / entry["file"]
        features[modality] = open_features(where, root=folder, num_rows=num_items, dim=entry["dim"], modality=modality)
        observed[:, column] = find_observed(features[modality], where)
        notes += _compare_with_manifest(modality, entry, features[modality], observed[:, column])
    pairs = _settle_empty_items(folder, pairs, observed, empty_items, notes)
    return Dataset(
        name=str(manifest.get("name") or folder.resolve().name),
        num_users=num_users,
        num_items=num_items,
        interactions=pairs,
        features=features,
        observed=observed,
        user_names=read_names(folder / "users.tsv", "user", num_users, notes),
        item_names=read_names(folder / "items.tsv", "item", num_items, notes),
        notes=tuple(notes),
        description=str(manifest.get("description", "")),
        source=str(manifest.get("source", "")),
    )


# ----------------------------------------------------------------------------- dataset.json


def _read_manifest(path: Path) -> dict[str, Any]:
    """The content of dataset.json, its keys checked."""
    try:
        text = "".join(_lines(path, "It states the counts and names the feature files."))
        manifest = json.loads(text, object_pairs_hook=_distinct_keys)
    except DataError:
        raise
    except KeyError as error:
        raise DataError(f"{path}: the key {error.args[0]!r} is there twice. Keep one.") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: is not valid JSON ({error}). Correct it there.") from None
    _expect(path, manifest, dict, "the file", "an object with num_users, num_items, modalities")
    for key in ("num_users", "num_items"):
        _count(path, manifest, key, least=1)
    if "num_interactions" in manifest:
        _count(path, manifest, "num_interactions", least=0)
    modalities = _key(path, manifest, "modalities")
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
        _expect(path, _key(path, entry, "file", label), str, f"`file` of {label}", "a string")
        _count(path, entry, "dim", least=1, label=label)
    return dict(manifest)


def _distinct_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise KeyError(key)
        found[key] = value
    return found


def _key(path: Path, entry: Mapping[str, Any], key: str, label: str = "the file") -> Any:
    if key not in entry:
        raise DataError(f"{path}: {label} lacks the key `{key}`. Add it.")
    return entry[key]


def _expect(path: Path, value: Any, kind: type, label: str, wanted: str) -> None:
    if not isinstance(value, kind):
        raise DataError(f"{path}: {label} must be {wanted}, got {value!r:.60}.")


def _expect_unicode(path: Path, text: str, label: str) -> None:
    """Refuses half a surrogate pair, which JSON can write but no file can hold."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise DataError(f"{path}: {label} is not valid Unicode: {text!a:.60}. Correct it there.") from None


def _count(path: Path, entry: Mapping[str, Any], key: str, *, least: int, label: str = "the file") -> None:
    value = _key(path, entry, key, label)
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= MAX_COUNT:
        raise DataError(
            f"{path}: `{key}` of {label} must be a whole number from {least} to {MAX_COUNT}, got {value!r:.60}."
        )


# ------------------------------------------------------------------------- interactions.tsv


def _read_interactions(path: Path, num_users: int, num_items: int, notes: list[str]) -> npt.NDArray[np.int64]:
    """Distinct pairs (P, 2), sorted. Read by columns; only a bad file is gone through by lines."""
    header = _read_header(path, ("user", "item"), notes)
    limits = {"user": num_users, "item": num_items}
    # Other columns may have any names, the same one twice included, so they get ours.
    names = [name if name in limits else f"column {k}" for k, name in enumerate(header)]
    try:
        table = _read_ids(path, names, pa.int64())
    except pa.ArrowInvalid as error:
        if _blame_a_line(path, header, limits) == 0:
            raise _no_interactions(path) from None
        raise DataError(f"{path}: cannot be read ({error}). Write one pair a line.") from None
    users, items = (table.column(name).to_numpy() for name in limits)
    if len(users) == 0:
        raise _no_interactions(path)
    if _has_hexadecimal(path, names):
        _blame_a_line(path, header, limits)
    for ids, limit in ((users, num_users), (items, num_items)):
        if ids.min() < 0 or ids.max() >= limit:
            _blame_a_line(path, header, limits)
    keys = users * num_items + items  # below 2**62
    if not (keys[1:] > keys[:-1]).all():
        keys = np.sort(keys)  # faster here than np.unique, which hashes
        keys = keys[np.concatenate([[True], keys[1:] != keys[:-1]])]
    if len(keys) < len(users):
        notes.append(
            f"interactions.tsv: {plural(len(users) - len(keys), 'repeated pair was', 'repeated pairs were')} merged."
        )
    return np.stack(np.divmod(keys, num_items), axis=1).astype(np.int64, copy=False)


def _read_ids(path: Path, names: list[str], kind: Any) -> Any:
    """The columns user and item, of the given type, as an arrow table."""
    return pa_csv.read_csv(
        path,
        read_options=pa_csv.ReadOptions(column_names=names, skip_rows=1),
        parse_options=pa_csv.ParseOptions(delimiter="\t", quote_char=False),
        convert_options=pa_csv.ConvertOptions(
            column_types={"user": kind, "item": kind}, include_columns=["user", "item"], null_values=[]
        ),
    )


def _has_hexadecimal(path: Path, names: list[str]) -> bool:
    """Whether an id is like 0x1f, which arrow takes for a number. Only a file with an x is read again."""
    with path.open("rb") as file:
        file.readline()
        if not any(b"x" in block or b"X" in block for block in iter(lambda: file.read(1 << 24), b"")):
            return False
    table = _read_ids(path, names, pa.string())
    found = (pc.any(pc.match_substring(column, "x", ignore_case=True)).as_py() for column in table.columns)
    return any(found)


def _no_interactions(path: Path) -> DataError:
    return DataError(f"{path}: there are no interactions at all. Write one pair a line.")


def _read_header(path: Path, needed: tuple[str, ...], notes: list[str]) -> list[str]:
    """Column names of a tab-separated file; notes those that nobody reads."""
    line = next(iter(_lines(path)), "").rstrip("\r\n")
    header = [name.strip() for name in line.split("\t")]
    for name in needed:
        if header.count(name) != 1:
            problem = "lacks" if name not in header else "repeats"
            raise DataError(
                f"{path}, line 1: the header {problem} the column `{name}`; it is {line[:80]!r}. "
                f"Begin the file with {'<TAB>'.join(needed)}."
            )
    ignored = [name for name in header if name not in needed]
    if ignored:
        words = "column {} is" if len(ignored) == 1 else "columns {} are"
        notes.append(f"{path.name}: the {words.format(', '.join(ignored))} ignored.")
    return header


def _blame_a_line(path: Path, header: list[str], limits: Mapping[str, int]) -> int:
    """Raises DataError for the first bad line; the number of pairs where there is none."""
    pairs = 0
    for number, line in enumerate(_lines(path), start=1):
        if number == 1 or not line.strip("\r\n"):
            continue
        cells = line.rstrip("\r\n").split("\t")
        if len(cells) != len(header):
            raise DataError(
                f"{path}, line {number}: has {plural(len(cells), 'tab-separated column', 'tab-separated columns')}, "
                f"the header has {len(header)}."
            )
        for name, limit in limits.items():
            cell = cells[header.index(name)].strip()
            _check_id(f"{path}, line {number}", name, cell, limit)
        pairs += 1
    return pairs


def _check_id(where: str, kind: str, cell: str, limit: int) -> int:
    """The id in a cell, which must be a number from 0 to limit - 1."""
    if not INTEGER.fullmatch(cell):
        raise DataError(
            f"{where}: the {kind} id must be a whole number, got {cell[:60]!r}. "
            f"Number the {kind}s from 0 and put their names into {kind}s.tsv."
        )
    if len(cell) > 18 or not 0 <= int(cell) < limit:
        problem = "negative" if cell.startswith("-") else "out of range"
        raise DataError(
            f"{where}: the {kind} id {cell[:60]} is {problem}. Ids go from 0 to {limit - 1}, as "
            f"num_{kind}s in dataset.json is {limit}."
        )
    return int(cell)


# --------------------------------------------------------------------------------- features


def open_features(path: Path, *, root: Path, num_rows: int | None, dim: int | None, modality: str) -> Features:
    """Memory-maps a feature file after checking its place, dtype and shape (None: any)."""
    where = f"{path} (modality {modality!r})"
    try:
        inside = path.resolve().is_relative_to(root.resolve())
    except (OSError, RuntimeError, ValueError) as error:  # a link to itself, a NUL in the name
        raise DataError(
            f"{root} (modality {modality!r}): the path {str(path)!a} cannot be followed ({error!s:.200}). "
            "Correct `file`, or put the file itself there."
        ) from None
    if not inside:
        raise DataError(f"{where}: leads outside {root}. Put the file itself into the folder.")
    array = _map_npy(path, where)
    if array.dtype.name not in FEATURE_DTYPES or not array.dtype.isnative:
        raise DataError(
            f"{where}: the dtype must be {', '.join(FEATURE_DTYPES)} in native byte order, got "
            f"{array.dtype.str!r}. Save it with .astype(numpy.float32)."
        )
    if array.ndim != 2:
        raise DataError(f"{where}: must have two dimensions (items, dim), got the shape {array.shape}.")
    if num_rows is not None and array.shape[0] != num_rows:
        raise DataError(
            f"{where}: has {plural(array.shape[0], 'row', 'rows')}, but there {'is' if num_rows == 1 else 'are'} "
            f"{plural(num_rows, 'item', 'items')}. "
            "Give every item a row; NaN where it has no such modality."
        )
    if array.shape[1] == 0 or dim not in (None, array.shape[1]):
        raise DataError(
            f"{where}: has {plural(array.shape[1], 'column', 'columns')}, expected {dim or 'at least 1'}. "
            "Correct `dim` or the file."
        )
    return cast(Features, array)


def _map_npy(path: Path, where: str) -> Any:
    """A read-only memory map of a npy file; pickles are never opened."""
    try:
        return np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError:
        raise DataError(f"{where}: no such file. Add it or correct `file`.") from None
    except OSError as error:
        raise DataError(f"{where}: cannot be opened ({error.strerror}).") from None
    except BAD_NPY as error:
        message = str(error)
    with path.open("rb") as file:
        start = file.read(6)
    if "Python objects" in message or start[:1] == b"\x80":
        raise DataError(
            f"{where}: holds pickled Python objects, which are not opened. Save a float array with numpy.save."
        )
    if start != b"\x93NUMPY":
        raise DataError(f"{where}: is not a npy file. Save a float array with numpy.save.")
    raise DataError(f"{where}: is truncated or damaged ({message}). Write it again.")


def find_observed(features: Features, where: Path | str) -> npt.NDArray[np.bool_]:
    """Which rows are there, (rows,) bool, looked at in chunks; `where` names them in errors.

    Raises:
        DataError: at a row with an infinity, or with NaN in some places only.
    """
    observed = np.ones(len(features), dtype=np.bool_)
    step = max(1, CHUNK_ELEMENTS // features.shape[1])
    for start in range(0, len(features), step):
        block = features[start : start + step]
        rows = np.flatnonzero(~np.isfinite(block).all(axis=1))
        whole = np.isnan(block[rows]).all(axis=1)
        if not whole.all():
            row = rows[~whole][0]
            infinite = np.isinf(block[row]).any()
            problem = "has an infinity" if infinite else "is NaN in some places only"
            advice = "Correct it, or" if infinite else "Fill it, or"
            raise DataError(
                f"{where}, row {start + row}: {problem}. {advice} make the whole row NaN: "
                "this item then has no such modality."
            )
        observed[start + rows] = False
    return observed


def _compare_with_manifest(
    modality: str, entry: Mapping[str, Any], features: Features, observed: npt.NDArray[np.bool_]
) -> Iterator[str]:
    """Notes where optional statements of dataset.json differ from the file."""
    found = {"dtype": features.dtype.name, "missing_rows": int((~observed).sum())}
    for key, value in found.items():
        if entry.get(key, value) != value:
            yield f"{modality}: {key} is {value}, dataset.json says {entry[key]}."


def _settle_empty_items(
    folder: Path,
    pairs: npt.NDArray[np.int64],
    observed: npt.NDArray[np.bool_],
    empty_items: str,
    notes: list[str],
) -> npt.NDArray[np.int64]:
    """The pairs that remain once items without any modality were refused or dropped."""
    empty = ~observed.any(axis=1)
    if not empty.any():
        return pairs
    first, count = int(np.flatnonzero(empty)[0]), int(empty.sum())
    kept = pairs[observed[pairs[:, 1]].any(axis=1)]
    lost = len(pairs) - len(kept)
    if empty_items == "error":
        raise DataError(
            f"{folder}: item {first} has no modality at all ({plural(count, 'such item', 'such items')}, with "
            f"{plural(lost, 'interaction', 'interactions')}). Give them a feature, or drop their interactions: "
            "--empty-items drop."
        )
    dropped = plural(count, "item without any modality was", "items without any modality were")
    notes.append(f"{dropped} dropped, with {plural(lost, 'interaction', 'interactions')}.")
    if len(kept) == 0:
        raise DataError(f"{folder}: there are no interactions at all once items without modality are dropped.")
    return kept


# ------------------------------------------------------------------------------------ names


def read_names(path: Path, kind: Literal["user", "item"], count: int, notes: list[str]) -> tuple[str, ...] | None:
    """Names for the ids 0 .. count - 1, or None where the file is absent; adds to `notes`."""
    if not path.exists():
        return None
    header = _read_header(path, (kind, "name"), notes)
    names: list[str | None] = [None] * count
    for number, line in enumerate(_lines(path), start=1):
        cells = line.rstrip("\r\n").split("\t")
        if number == 1 or cells == [""]:
            continue
        where = f"{path}, line {number}"
        if len(cells) != len(header):
            raise DataError(f"{where}: has {plural(len(cells), 'column', 'columns')}, the header has {len(header)}.")
        index = _check_id(where, kind, cells[header.index(kind)].strip(), count)
        name = cells[header.index("name")].strip()
        if not name:
            raise DataError(f"{where}: the name of {kind} {index} is empty. Give it one.")
        if names[index] is not None:
            raise DataError(f"{where}: {kind} {index} is named a second time. Keep one line.")
        names[index] = name
    complete = tuple(name for name in names if name is not None)
    if len(complete) < count:
        raise DataError(
            f"{path}: {plural(count - len(complete), f'{kind} has', f'{kind}s have')} no name, the first is "
            f"{kind} {names.index(None)}. Name every {kind}, or remove the file."
        )
    if len(set(complete)) < count:
        notes.append(
            f"{path.name}: {plural(count - len(set(complete)), 'name stands', 'names stand')} for several {kind}s."
        )
    return complete


def _lines(path: Path, purpose: str = "") -> Iterator[str]:
    """Lines of a UTF-8 text file, opened when the first one is asked for."""
    try:
        with path.open(encoding="utf-8-sig", newline="\n") as file:
            yield from file
    except FileNotFoundError:
        advice = f" {purpose}" if purpose else ""
        raise DataError(f"{path}: no such file.{advice} Add it to the folder.") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be opened ({error.strerror}).") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text ({error}). Save it as UTF-8.") from None
