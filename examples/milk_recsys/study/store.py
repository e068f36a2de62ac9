"""The results file of a study: ``runs.parquet`` has a row for each run; a journal has newer runs.

A study appends each run to ``runs.jsonl`` when the run ends, so that a killed study loses nothing.
When the command ends, it compacts the journal into ``runs.parquet``. This command also compacts a
folder, and adds the runs of other folders:

    python -m milk_recsys.study.store docs/results/lfm2k
    python -m milk_recsys.study.store docs/results/lfm2k --add runs/lfm2k-keep runs/lfm2k-milk

Columns of ``runs.parquet``:

* ``phase``, ``method``, ``setting`` and ``number`` identify a run;
* ``options`` are JSON;
* ``users`` is the number of the run's set of test users, null if the run has no values of users;
* ``per_user`` is a list of float32. The first run on a set of users holds the values of all runs
  on this set: one user after another, and for each user the runs in the order of their rows. The
  values of one user are similar from run to run, so the file is smaller by a sixth than with one
  list for each run;
* ``fields`` are all other values as JSON.

Importing this module needs no torch.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import sys
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa  # type: ignore[import-untyped]
import pyarrow.parquet as pq  # type: ignore[import-untyped]

from milk_recsys.base.errors import DataError
from milk_recsys.base.files import Journal, replacing
from milk_recsys.base.reading import check_regular
from milk_recsys.base.terminal import print_error, print_line, reporting_errors
from milk_recsys.study.records import Run

if sys.platform != "win32":
    import fcntl

__all__ = ["Line", "Store", "expecting_results", "user_values"]

Line = dict[str, Any]
"""A run: what identifies it, its options and its metrics; ``per_user`` is a float32 array."""

KEY = ("phase", "method", "setting", "number")
REQUIRED = {*KEY, "options", "split", "candidates"}
SCHEMA = pa.schema(
    [
        ("phase", pa.string()),
        ("method", pa.string()),
        ("setting", pa.string()),
        ("number", pa.int64()),
        ("options", pa.string()),
        ("users", pa.int64()),
        ("per_user", pa.list_(pa.float32())),
        ("fields", pa.string()),
    ]
)


class Store:
    """The runs of a study.

    Attributes:
        folder: folder of ``runs.parquet`` and ``runs.jsonl``; both may be absent.
        lines: one dictionary for each run, in the order in which they were made.

    Raises:
        DataError: a file is damaged, or two methods did not rank the same candidates for the same
            users.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.table = folder / "runs.parquet"
        self.journal = Journal(folder / "runs.jsonl")
        self.lines: list[Line] = []
        self._places: dict[tuple[Any, ...], int] = {}
        with _locked(folder):
            self._read()

    def _read(self) -> None:
        """Read the table, then the journal, whose runs are newer."""
        self.journal.repair()
        for line in _read_table(self.table) if self.table.exists() else []:
            self._insert(line, self.table)
        for line in self.journal.read():
            try:
                line = _from_json(line)
            except (zlib.error, ValueError, TypeError) as error:
                raise DataError(
                    f"{self.journal.path}: has damaged values of users ({error!s:.100}). Remove "
                    "the line, or name another --out."
                ) from None
            self._insert(line, self.journal.path)

    def add(self, line: Line) -> None:
        """Append a run to the journal."""
        self._insert(line, self.journal.path)
        with _locked(self.folder):
            self.journal.append(_to_json(line))

    def compact(self) -> bool:
        """Move the journal's runs into the table; return whether there were any.

        Both files are read again under a lock, so that runs that another process has added
        meanwhile are kept. The journal is removed only after the new table has replaced the old
        one. If the process is killed between the two steps, the journal's runs are in both files,
        and each is read once.
        """
        with _locked(self.folder):
            if not self.journal.path.exists():
                return False
            self.lines, self._places = [], {}
            self._read()
            if self.lines:
                with replacing(self.table) as temporary:
                    _write_table(self.lines, temporary)
            self.journal.path.unlink()
        return True

    def _insert(self, line: Line, path: Path) -> None:
        """Add a line. A later line of the same run replaces the earlier one."""
        problem = _problem_of(line)
        if problem:
            raise DataError(
                f"{path}: holds a line {problem}, which is not a line of a study. Name another "
                "--out."
            )
        where = (line["options"]["split_seed"], line["setting"], line["options"]["candidates"])
        for other in self.lines:
            same = (
                other["options"]["split_seed"],
                other["setting"],
                other["options"]["candidates"],
            ) == where
            if same and (other["candidates"], other["split"]) != (
                line["candidates"],
                line["split"],
            ):
                raise DataError(
                    f"{path}: {line['method']} and {other['method']} were not measured on the same "
                    f"candidates and users of split {where[0]}, {where[1]}: the data or the code "
                    "changed. Start in another --out."
                )
            if same:
                break
        key = tuple(line[name] for name in KEY)
        place = self._places.setdefault(key, len(self.lines))
        self.lines[place : place + 1] = [line]

    def has(self, run: Run) -> bool:
        """Whether a run is done."""
        return run.key in self._places

    def of(
        self, phase: str, method: str, setting: str = "ftmt", *, limit: int | None = None
    ) -> list[Line]:
        """Return the lines of a method in a phase by number, or the first `limit` of them."""
        lines = [
            x
            for x in self.lines
            if (x["phase"], x["method"], x["setting"]) == (phase, method, setting)
        ]
        return sorted(lines, key=lambda line: line["number"])[:limit]

    def ranked(
        self, phase: str, method: str, setting: str = "ftmt", *, limit: int | None = None
    ) -> list[Line]:
        """Return the lines of `of` that may be compared: neither leaky by option nor diverged."""
        return [
            x
            for x in self.of(phase, method, setting, limit=limit)
            if "leaky" not in x and "diverged" not in x
        ]

    def methods(self, among: Iterable[str], setting: str = "ftmt") -> list[str]:
        """Return those of the given methods that have a repeat to compare."""
        return [method for method in among if self.ranked("repeat", method, setting)]


def user_values(line: Line) -> npt.NDArray[np.float64]:
    """Return the value of each user of a run's test set, as float64 for sums."""
    return np.asarray(line["per_user"], dtype=np.float64)


def _problem_of(line: Any) -> str | None:
    """Return why a value is no line of a study, or None."""
    if not isinstance(line, dict):
        return "that is no JSON object"
    absent = REQUIRED - set(line)
    if absent:
        return f"without {', '.join(sorted(absent))}"
    options = line["options"]
    if not isinstance(options, dict) or not {"split_seed", "candidates"} <= set(options):
        return "without the options split_seed and candidates"
    texts = [line[name] for name in ("phase", "method", "setting", "split")]
    seeds = (line["number"], options["split_seed"])
    if not all(isinstance(text, str) for text in (*texts, options["candidates"])):
        return "with a phase, method, setting, split or set of candidates that is no text"
    if not all(type(seed) is int for seed in seeds):
        return "with a number or a seed that is no whole number"
    return None


@contextlib.contextmanager
def expecting_results(folder: Path) -> Iterator[None]:
    """Report runs that lack values, or have values of other types, as a damaged results file."""
    try:
        yield
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{folder}: a run in it lacks a value, or has one that does not fit "
            f"({type(error).__name__}: {error!s:.200}). Restore the file, or name another folder."
        ) from error


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock: while a process compacts the journal, no other reads or appends."""
    # Without a folder there is nothing to read, and `add` reports that it is missing. Windows opens
    # no folders: there the user must run one process at a time.
    if not folder.is_dir() or sys.platform == "win32":
        yield
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        # Some file systems have no locks. There the user must run one process at a time.
        if sys.platform != "win32":
            with contextlib.suppress(OSError):
                fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)  # Releases the lock.


# --- lines of the journal -------------------------------------------------------------------------


def _to_json(line: Line) -> Line:
    """Return a line with the values of its users as text: float32, deflated, base64."""
    if "per_user" not in line:
        return line
    values = np.asarray(line["per_user"], dtype="<f4")
    return {**line, "per_user": base64.b64encode(zlib.compress(values.tobytes(), 9)).decode()}


def _from_json(line: Line) -> Line:
    """Invert `_to_json`."""
    if not isinstance(line, dict) or "per_user" not in line:
        return line
    values = zlib.decompress(base64.b64decode(line["per_user"]))
    return {**line, "per_user": np.frombuffer(values, "<f4")}


# --- the table ------------------------------------------------------------------------------------


def _write_table(lines: Sequence[Line], path: Path) -> None:
    columns: dict[str, list[Any]] = {name: [line[name] for line in lines] for name in KEY}
    columns["options"] = [_dumps(line["options"]) for line in lines]
    columns["users"], columns["per_user"] = _interleaved(lines)
    apart = set(SCHEMA.names)
    columns["fields"] = [
        _dumps({k: v for k, v in line.items() if k not in apart}) for line in lines
    ]
    # With one row group and large pages, zstd finds the values that many runs have in common. A
    # dictionary would replace the users' values by numbers of a few bits, which zstd cannot match.
    pq.write_table(
        pa.table(columns, schema=SCHEMA),
        path,
        compression="zstd",
        compression_level=19,
        use_dictionary=["phase", "method", "setting", "options"],
        data_page_size=2**26,
    )


def _interleaved(lines: Sequence[Line]) -> tuple[list[int | None], list[Any]]:
    """Return the columns ``users`` and ``per_user``."""
    runs: dict[tuple[int, int], list[int]] = {}
    for row, line in enumerate(lines):
        if "per_user" in line:
            # Runs on the same split have the same test users. The number of values guards against a
            # setting that leaves users out.
            key = line["options"]["split_seed"], len(line["per_user"])
            runs.setdefault(key, []).append(row)
    users: list[int | None] = [None] * len(lines)
    values: list[Any] = [None] * len(lines)
    for number, rows in enumerate(runs.values()):
        for row in rows:
            users[row] = number
        values[rows[0]] = np.stack([lines[row]["per_user"] for row in rows], axis=1).ravel()
    return users, values


def _separated(users: Sequence[int | None], values: pa.ListArray) -> dict[int, npt.NDArray[Any]]:
    """Invert `_interleaved`: row -> the values of its run."""
    rows: dict[int, list[int]] = {}
    for row, number in enumerate(users):
        if number is not None:
            rows.setdefault(number, []).append(row)
    separated: dict[int, npt.NDArray[Any]] = {}
    for of_users in rows.values():
        matrix = (
            values[of_users[0]].values.to_numpy(zero_copy_only=False).reshape(-1, len(of_users))
        )
        separated |= dict(zip(of_users, matrix.T.copy(), strict=True))
    return separated


def _dumps(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def _read_table(path: Path) -> list[Line]:
    try:
        check_regular(path)
        # `read_table` would add a column `split` for a path such as split=3/runs.parquet.
        table = pq.ParquetFile(path).read()
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{path}: cannot be read as Parquet ({error}). Restore it, or name another --out."
        ) from None
    if table.schema != SCHEMA:
        raise DataError(
            f"{path}: its columns are not those of a study's results file. Name another --out."
        )
    try:
        return _lines_of(table)
    except (AttributeError, IndexError, RecursionError, TypeError, ValueError, KeyError) as error:
        raise DataError(
            f"{path}: is damaged ({type(error).__name__}: {error!s:.100}). Restore it, or name "
            "another --out."
        ) from None


def _lines_of(table: pa.Table) -> list[Line]:
    """Return the runs of a table, one dictionary for each row."""
    columns = [table.column(name).to_pylist() for name in (*KEY, "options", "fields")]
    per_user = _separated(
        table.column("users").to_pylist(), table.column("per_user").combine_chunks()
    )
    lines = []
    for place, (*key, options, fields) in enumerate(zip(*columns, strict=True)):
        line = (
            dict(zip(KEY, key, strict=True)) | {"options": json.loads(options)} | json.loads(fields)
        )
        if place in per_user:
            line["per_user"] = per_user[place]
        lines.append(line)
    return lines


# --- the command ----------------------------------------------------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Compact a folder's results; return the exit status, 2 where a file is damaged or absent."""
    parser = argparse.ArgumentParser(
        prog="python -m milk_recsys.study.store", description="Compact a study's results."
    )
    parser.add_argument("folder", type=Path, help="folder of runs.parquet and runs.jsonl")
    parser.add_argument(
        "--add", type=Path, nargs="+", default=[], help="folders whose runs are added to it"
    )
    given = parser.parse_args(arguments)
    try:
        stores = [Store(folder) for folder in (given.folder, *given.add)]
        for store in stores:
            if not store.lines:
                raise DataError(
                    f"{store.folder}: holds no runs. Name a folder with runs.parquet or runs.jsonl."
                )
        for line in (line for store in stores[1:] for line in store.lines):
            stores[0].add(line)
        stores[0].compact()
    except DataError as error:
        print_error(error)
        return 2
    print_line(f"{stores[0].table}: {len(stores[0].lines)} runs")
    return 0


if __name__ == "__main__":
    with reporting_errors():
        sys.exit(main())
