"""Tab-separated files of interactions and names. Error messages name the faulty line."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.compute as pc  # type: ignore[import-untyped]
import pyarrow.csv as pa_csv  # type: ignore[import-untyped]

from milk_recsys.base.errors import DataError, plural
from milk_recsys.base.reading import exists, lines_of
from milk_recsys.catalogue.pairs import sort_unique_pairs

__all__ = [
    "read_column",
    "read_header",
    "read_interactions",
    "read_lines",
    "read_names",
    "read_source_ids",
]

# Columns that are not needed but known, so that no note says that they are ignored: the time of a
# pair, which `catalogue.times` reads, and the id of an item in the source.
OPTIONAL = ("time", "id")

INTEGER = re.compile(r"-?[0-9]+")
BLOCK_BYTES = 1 << 24  # Bytes of text parsed at a time.


def read_interactions(
    path: Path, num_users: int, num_items: int, notes: list[str]
) -> npt.NDArray[np.int32]:
    """Return the distinct pairs (P, 2) of a file, sorted by user, then item.

    pyarrow parses the file in blocks of columns. Only a file with a mistake is read again line by
    line, to name the line in the error message.
    """
    header = _read_header(path, ("user", "item"), notes)
    limits = {"user": num_users, "item": num_items}
    # The other columns may have any names, even repeated ones; numbers keep their names distinct.
    names = [name if name in limits else f"column {k}" for k, name in enumerate(header)]
    try:
        pairs = _read_pairs(path, names, limits)
    except pa.ArrowInvalid as error:
        if _check_lines(path, header, limits) == 0:
            raise _no_interactions(path) from None
        raise DataError(f"{path}: cannot be read ({error}). Write one pair per line.") from None
    if pairs is None or _has_hexadecimal(path, names):
        _check_lines(path, header, limits)
    if pairs is None or len(pairs) == 0:
        raise _no_interactions(path)
    return sort_unique_pairs(pairs, num_items, "interactions.tsv", notes).astype(
        np.int32, copy=False
    )


def _read_pairs(
    path: Path, names: list[str], limits: Mapping[str, int]
) -> npt.NDArray[np.int32] | None:
    """Return the pairs (P, 2) in the order of the file, or None if an id is out of range."""
    blocks = []
    for batch in _read_ids(path, names, pa.int64()):
        block = np.stack([batch.column(name).to_numpy() for name in limits], axis=1)
        if len(block) and ((block < 0).any() or (block.max(axis=0) >= list(limits.values())).any()):
            return None
        blocks.append(block.astype(np.int32))  # Ids of a data set are below 2**31.
    pairs = np.concatenate(blocks) if blocks else np.empty((0, 2), dtype=np.int32)
    # pyarrow's allocator would otherwise keep the memory of the parsed blocks.
    pa.default_memory_pool().release_unused()
    return pairs


def read_column(path: Path, header: list[str], name: str, kind: Any) -> npt.NDArray[Any]:
    """Return a column of a tab-separated file as an array; empty cells of numbers are NaN."""
    names = [column if column == name else f"column {k}" for k, column in enumerate(header)]
    blocks = [
        batch.column(0).to_numpy(zero_copy_only=False)
        for batch in _read_columns(path, names, [name], kind, null_values=[""])
    ]
    pa.default_memory_pool().release_unused()
    return np.concatenate(blocks)


def _read_ids(path: Path, names: list[str], kind: Any) -> Iterator[Any]:
    """Yield the columns user and item, converted to the given type, as pyarrow record batches."""
    yield from _read_columns(path, names, ["user", "item"], kind, null_values=[])


def _read_columns(
    path: Path, names: list[str], wanted: list[str], kind: Any, *, null_values: list[str]
) -> Iterator[Any]:
    with pa_csv.open_csv(
        path,
        read_options=pa_csv.ReadOptions(column_names=names, skip_rows=1, block_size=BLOCK_BYTES),
        parse_options=pa_csv.ParseOptions(delimiter="\t", quote_char=False),
        convert_options=pa_csv.ConvertOptions(
            column_types=dict.fromkeys(wanted, kind),
            include_columns=wanted,
            null_values=null_values,
        ),
    ) as reader:
        yield from reader


def _has_hexadecimal(path: Path, names: list[str]) -> bool:
    """Return whether an id is hexadecimal, such as 0x1f, which pyarrow accepts as a number."""
    # Most files contain no x at all; only the others are parsed again, as text.
    with path.open("rb") as file:
        file.readline()
        if not any(
            b"x" in block or b"X" in block for block in iter(lambda: file.read(1 << 24), b"")
        ):
            return False
    return any(
        pc.any(pc.match_substring(column, "x", ignore_case=True)).as_py()
        for batch in _read_ids(path, names, pa.string())
        for column in batch.columns
    )


def _no_interactions(path: Path) -> DataError:
    return DataError(f"{path}: there are no interactions at all. Write one pair per line.")


def _read_header(path: Path, needed: tuple[str, ...], notes: list[str]) -> list[str]:
    """Return the column names of a tab-separated file, and note the ones that are ignored."""
    header = read_header(path)
    for name in needed:
        if header.count(name) != 1:
            problem = "lacks" if name not in header else "repeats"
            shown = "\t".join(header)
            raise DataError(
                f"{path}, line 1: the header {problem} the column `{name}`; it is "
                f"{shown[:80]!r}. "
                f"Begin the file with {'<TAB>'.join(needed)}."
            )
    ignored = [name for name in header if name not in (*needed, *OPTIONAL)]
    if ignored:
        words = "column {} is" if len(ignored) == 1 else "columns {} are"
        notes.append(f"{path.name}: the {words.format(', '.join(ignored))} ignored.")
    return header


def read_header(path: Path) -> list[str]:
    """Return the column names of a tab-separated file."""
    line = next(iter(read_lines(path)), "").rstrip("\r\n")
    return [name.strip() for name in line.split("\t")]


def _check_lines(path: Path, header: list[str], limits: Mapping[str, int]) -> int:
    """Raise DataError for the first faulty line; return the number of pairs if there is none."""
    pairs = 0
    for number, line in enumerate(read_lines(path), start=1):
        if number == 1 or not line.strip("\r\n"):
            continue
        cells = line.rstrip("\r\n").split("\t")
        if len(cells) != len(header):
            raise DataError(
                f"{path}, line {number}: has "
                f"{plural(len(cells), 'tab-separated column', 'tab-separated columns')}, "
                f"the header has {len(header)}."
            )
        for name, limit in limits.items():
            cell = cells[header.index(name)].strip()
            _check_id(f"{path}, line {number}", name, cell, limit)
        pairs += 1
    return pairs


def _check_id(where: str, kind: str, cell: str, limit: int) -> int:
    """Return the id in a cell; it must be a whole number from 0 to limit - 1."""
    if not INTEGER.fullmatch(cell):
        raise DataError(
            f"{where}: the {kind} id must be a whole number, got {cell[:60]!r}. "
            f"Number the {kind}s from 0 and put their names into {kind}s.tsv."
        )
    # Python refuses to convert very long digit strings; 18 digits are far beyond any limit.
    if len(cell) > 18 or not 0 <= int(cell) < limit:
        problem = "negative" if cell.startswith("-") else "out of range"
        raise DataError(
            f"{where}: the {kind} id {cell[:60]} is {problem}. Ids go from 0 to {limit - 1}, as "
            f"num_{kind}s in dataset.json is {limit}."
        )
    return int(cell)


def read_names(
    path: Path, kind: Literal["user", "item"], count: int, notes: list[str]
) -> tuple[str, ...] | None:
    """Return the names of the ids 0 to count - 1, or None if there is no file; may add a note."""
    if not exists(path):
        return None
    header = _read_header(path, (kind, "name"), notes)
    names: list[str | None] = [None] * count
    for number, line in enumerate(read_lines(path), start=1):
        cells = line.rstrip("\r\n").split("\t")
        if number == 1 or cells == [""]:
            continue
        where = f"{path}, line {number}"
        if len(cells) != len(header):
            raise DataError(
                f"{where}: has {plural(len(cells), 'column', 'columns')}, "
                f"the header has {len(header)}."
            )
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
            f"{path}: {plural(count - len(complete), f'{kind} has', f'{kind}s have')} no name, "
            f"the first is {kind} {names.index(None)}. Name every {kind}, or remove the file."
        )
    if len(set(complete)) < count:
        notes.append(
            f"{path.name}: {plural(count - len(set(complete)), 'name repeats', 'names repeat')} "
            "an earlier one."
        )
    return complete


def read_source_ids(path: Path, kind: Literal["user", "item"], count: int) -> list[str] | None:
    """Return the column `id` of a file of names, the ids in the source, in the order of numbers.

    The file has been read by `read_names`, which checks it. None if there is no such column.
    """
    if not path.exists() or "id" not in (header := read_header(path)):
        return None
    ids = [""] * count
    for number, line in enumerate(read_lines(path), start=1):
        cells = line.rstrip("\r\n").split("\t")
        if number > 1 and cells != [""]:
            ids[int(cells[header.index(kind)])] = cells[header.index("id")].strip()
    return ids


def read_lines(path: Path, purpose: str = "") -> Iterator[str]:
    """Yield the lines of a UTF-8 text file, which is opened at the first iteration.

    Arguments:
        purpose: purpose of the file, for the error message if it is missing.
    """
    try:
        yield from lines_of(path, encoding="utf-8-sig")
    except FileNotFoundError:
        advice = f" {purpose}" if purpose else ""
        raise DataError(f"{path}: no such file.{advice} Add it to the folder.") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be opened ({error.strerror}).") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{path}: is not UTF-8 text ({error}). Save it as UTF-8.") from None
