"""Writing of a data set into a temporary folder, which is renamed once it is complete."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from milk_recsys.base.errors import DataError, plural
from milk_recsys.catalogue.dataset import Dataset, read_dataset
from milk_recsys.catalogue.importers.filled import find_filled
from milk_recsys.catalogue.split import Split, write_split

__all__ = ["Draft", "Ids", "drafting", "read_features"]

ROWS_AT_ONCE = 8192  # Number of feature rows copied or checked at a time.


class Ids:
    """Names of users or items, numbered from 0 in the order of their first appearance.

    Example:
        >>> ids = Ids()
        >>> ids.number("b"), ids.number("a"), ids.number("b"), ids.names
        (0, 1, 0, ['b', 'a'])
    """

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def number(self, name: str) -> int:
        """Return the number of a name; a new name is given the next number."""
        return self._numbers.setdefault(name, len(self._numbers))

    def find(self, name: str) -> int | None:
        """Return the number of a name, or None for an unknown name."""
        return self._numbers.get(name)

    @property
    def names(self) -> list[str]:
        """All names, in the order of their numbers."""
        return list(self._numbers)

    def __len__(self) -> int:
        return len(self._numbers)


class Draft:
    """A data set that is being written.

    Arguments:
        folder: the temporary folder.
        name: name of the data set.
        source: description of the files that it is made from.
        keep_filled: whether to keep rows that were probably filled in, instead of marking them as
            missing.

    Attributes:
        notes: messages for the user.
        counts: numbers of users, items and interactions.
    """

    def __init__(self, folder: Path, name: str, source: str, *, keep_filled: bool = False) -> None:
        self.folder, self.name, self.source, self.keep_filled = folder, name, source, keep_filled
        self.notes: list[str] = []
        self.counts: dict[str, int] = {}
        self._modalities: dict[str, dict[str, Any]] = {}
        (folder / "features").mkdir(parents=True)

    def write_pairs(self, pairs: npt.NDArray[np.int64], num_users: int, num_items: int) -> None:
        """Write the distinct pairs of (P, 2) pairs, sorted by user, then item."""
        if len(pairs) == 0:
            raise DataError(f"{self.source}: there are no interactions at all.")
        # One integer per pair: `np.unique` sorts them by user, then item, and merges repeated ones.
        keys = np.unique(pairs[:, 0] * num_items + pairs[:, 1])
        if len(keys) < len(pairs):
            self.notes.append(
                f"{plural(len(pairs) - len(keys), 'repeated pair was', 'repeated pairs were')} "
                "merged."
            )
        distinct = np.stack([keys // num_items, keys % num_items], axis=1)
        np.save(self.folder / "interactions.npy", distinct, allow_pickle=False)
        self.counts = {
            "num_users": num_users,
            "num_items": num_items,
            "num_interactions": len(distinct),
        }

    def write_names(self, users: Sequence[str] | None, items: Sequence[str] | None) -> None:
        """Write users.tsv and items.tsv; None writes no file."""
        for kind, names in (("user", users), ("item", items)):
            if names is not None:
                lines = [
                    f"{kind}\tname",
                    *(f"{k}\t{_one_line(name)}" for k, name in enumerate(names)),
                ]
                (self.folder / f"{kind}s.tsv").write_text(
                    "\n".join(lines) + "\n", encoding="utf-8", newline="\n"
                )

    def new_features(self, modality: str, dim: int, dtype: Any = np.float32) -> np.memmap[Any, Any]:
        """Create the file of a modality and return it as a writable memory map (num_items, dim).

        All rows are NaN, hence missing, until they are written. float16 is kept; every type other
        than float16 and float32 becomes float32.
        """
        dtype = np.float32 if np.dtype(dtype) not in (np.float16, np.float32) else dtype
        path = self.folder / "features" / f"{modality}.npy"
        rows: np.memmap[Any, Any] = np.lib.format.open_memmap(
            path, mode="w+", dtype=dtype, shape=(self.counts["num_items"], dim)
        )
        for start in range(0, len(rows), ROWS_AT_ONCE):
            rows[start : start + ROWS_AT_ONCE] = np.nan
        self._modalities[modality] = {"file": f"features/{modality}.npy", "dim": dim}
        return rows

    def finish_features(
        self, modality: str, rows: np.memmap[Any, Any], where: object, *, checked: bool = True
    ) -> None:
        """Complete the file of a modality, and mark rows that were probably filled in as missing.

        Arguments:
            where: name of the source file, for notes.
            checked: whether to look for rows that were probably filled in.
        """
        if checked:
            for kind, places in find_filled(rows).items():
                if len(places) and not self.keep_filled:
                    rows[places] = np.nan
                action = (
                    "left as they are (--keep-filled)" if self.keep_filled else "written as missing"
                )
                if len(places):
                    rows_are = plural(len(places), f"row {kind} is", f"rows {kind} are")
                    self.notes.append(
                        f"{modality}: {rows_are} {action}; first item {places[0]}, {where}."
                    )
        missing = int(sum(np.isnan(b).all(axis=1).sum() for b in _blocks(rows)))
        self._modalities[modality] |= {"dtype": rows.dtype.name, "missing_rows": missing}
        rows.flush()

    def write_manifest(self, **further: Any) -> None:
        """Write dataset.json, after which the data set can be read.

        Arguments:
            further: additional keys and their values.
        """
        manifest = {
            "name": self.name,
            "source": self.source,
            **self.counts,
            "modalities": self._modalities,
            **further,
        }
        text = json.dumps(manifest, indent=2, ensure_ascii=False)
        (self.folder / "dataset.json").write_text(text + "\n", encoding="utf-8")

    def read(self) -> Dataset:
        """Read the data set as `train.py --empty-items drop` does."""
        return read_dataset(self.folder, empty_items="drop")

    def write_split(self, split: Split) -> None:
        """Write split.npz into the folder."""
        write_split(self.folder / "split.npz", split)


@contextmanager
def drafting(out: Path, name: str, source: str, *, keep_filled: bool = False) -> Iterator[Draft]:
    """Write a data set into a temporary folder, which is renamed to `out` if the block succeeds.

    Raises:
        DataError: `out` exists already and is not an empty folder, or cannot be created.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(
            f"--out: {out} exists already and is never overwritten. Name another folder."
        )
    # The same parent folder guarantees the same file system, so that the renaming is atomic.
    folder = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    shutil.rmtree(folder, ignore_errors=True)
    try:
        try:
            folder.mkdir(parents=True)
        except OSError as error:
            raise DataError(
                f"--out: {out} cannot be created ({error.strerror}). Name another folder."
            ) from None
        yield Draft(folder, name, source, keep_filled=keep_filled)
        if out.exists():
            out.rmdir()  # It is empty, as checked above.
        folder.rename(out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def read_features(path: Path, num_rows: int | None = None) -> np.memmap[Any, Any]:
    """Open an .npy file of features (n, d) as a memory map, without pickles.

    Raises:
        DataError: the file is not an .npy file of numbers, or its number of rows is not `num_rows`.
    """
    try:
        rows = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"{path}: is not an .npy file of numbers ({error}).") from None
    if not isinstance(rows, np.memmap) or rows.ndim != 2 or rows.dtype.kind not in "fiu":
        raise DataError(
            f"{path}: must hold numbers of shape (items, width), got {getattr(rows, 'dtype', '?')}."
        )
    if num_rows is not None and len(rows) != num_rows:
        raise DataError(
            f"{path}: has {len(rows)} rows, but there are {num_rows} items. Give every item a row."
        )
    return rows


def copy_rows(source: npt.NDArray[Any], target: npt.NDArray[Any], where: object) -> None:
    """Copy rows in blocks, in the target's type; a row of NaN is a missing modality.

    Raises:
        DataError: a row has NaN in some places only, an infinity, or a number that overflows in the
            target's type.
    """
    for start in range(0, len(source), ROWS_AT_ONCE):
        block = np.asarray(source[start : start + ROWS_AT_ONCE], dtype=target.dtype)
        holes = np.isnan(block)
        bad = (holes.any(axis=1) & ~holes.all(axis=1)) | np.isinf(block).any(axis=1)
        if bad.any():
            raise DataError(
                f"{where}: row {start + int(bad.argmax())} has an infinity, or NaN in some places "
                "only. A missing row is NaN throughout; correct the others."
            )
        target[start : start + len(block)] = block


def _blocks(rows: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    for start in range(0, len(rows), ROWS_AT_ONCE):
        yield np.asarray(rows[start : start + ROWS_AT_ONCE])


def _one_line(name: str) -> str:
    # A tab or a line break in a name would break the tab-separated file.
    return " ".join(str(name).split()) or "(no name)"
