"""Writing of a data set into a temporary folder, which is renamed once it is complete."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from milk_recsys.base.errors import DataError, plural
from milk_recsys.base.files import replacing_folder
from milk_recsys.catalogue.dataset import Dataset, read_dataset
from milk_recsys.catalogue.encoders.saved import Recipe, save_recipes
from milk_recsys.catalogue.importers.filled import content_reason, find_filled
from milk_recsys.catalogue.importers.ids import merge_pairs
from milk_recsys.catalogue.importers.rows import ROWS_AT_ONCE, blocks
from milk_recsys.catalogue.split import Split
from milk_recsys.catalogue.split_file import write_split

__all__ = ["Draft", "drafting"]

ZEROS = "of zeros"


class Draft:
    """A data set that is being written.

    Arguments:
        folder: the temporary folder; None for a draft in memory (see `catalogue.frames`).
        name: name of the data set.
        source: description of the files that it is made from.
        keep_filled: whether to keep rows that were probably filled in, instead of marking them as
            missing.
        filled: the same for single modalities: name -> ``keep``; or ``missing``, which also marks
            rows that repeat as categories do.

    Attributes:
        notes, warnings: messages for the user.
        counts: numbers of users, items and interactions.
    """

    def __init__(
        self,
        folder: Path | None,
        name: str,
        source: str,
        *,
        keep_filled: bool = False,
        filled: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.folder, self.name, self.source = folder or Path(), name, source
        self.keep_filled, self.filled = keep_filled, filled
        self.notes: list[str] = []
        self.warnings: list[str] = []
        self.counts: dict[str, int] = {}
        self._modalities: dict[str, dict[str, Any]] = {}
        if folder is not None:
            (folder / "features").mkdir(parents=True)

    def write_pairs(
        self,
        pairs: npt.NDArray[np.int64],
        num_users: int,
        num_items: int,
        times: npt.NDArray[np.float64] | None = None,
    ) -> None:
        """Write the distinct pairs of (P, 2) pairs, sorted by user, then item.

        Arguments:
            times: unix seconds of each pair, of which the first one of equal pairs is kept.
        """
        if len(pairs) == 0:
            raise DataError(f"{self.source}: there are no interactions at all.")
        distinct, first = merge_pairs(pairs, num_items, times)
        if len(distinct) < len(pairs):
            merged = len(pairs) - len(distinct)
            kept = "." if times is None else "; the first time of each is kept."
            self.notes.append(
                f"{plural(merged, 'repeated pair was', 'repeated pairs were')} merged{kept}"
            )
        self.counts = {
            "num_users": num_users,
            "num_items": num_items,
            "num_interactions": len(distinct),
        }
        self._store_pairs(distinct, first)

    def _store_pairs(
        self, pairs: npt.NDArray[np.int64], times: npt.NDArray[np.float64] | None
    ) -> None:
        np.save(self.folder / "interactions.npy", pairs, allow_pickle=False)
        if times is not None:
            np.save(self.folder / "times.npy", times, allow_pickle=False)

    def write_names(
        self,
        users: Sequence[str] | None,
        items: Sequence[str] | None,
        item_ids: Sequence[str] | None = None,
    ) -> None:
        """Write users.tsv and items.tsv; None writes no file.

        Arguments:
            item_ids: ids of the items in the source, if `items` are other names.
        """
        for kind, names, ids in (("user", users, None), ("item", items, item_ids)):
            if names is None:
                continue
            lines = [f"{kind}\tname"] if ids is None else [f"{kind}\tname\tid"]
            for k, name in enumerate(names):
                cells = [str(k), _one_line(name), *([] if ids is None else [_one_line(ids[k])])]
                lines.append("\t".join(cells))
            (self.folder / f"{kind}s.tsv").write_text(
                "\n".join(lines) + "\n", encoding="utf-8", newline="\n"
            )

    def new_features(self, modality: str, dim: int, dtype: Any = np.float32) -> npt.NDArray[Any]:
        """Create the array of a modality, (num_items, dim): a memory map of its file.

        All rows are NaN, hence missing, until they are written. float16 is kept; every type other
        than float16 and float32 becomes float32.
        """
        dtype = np.float32 if np.dtype(dtype) not in (np.float16, np.float32) else dtype
        rows = self._new_array(modality, (self.counts["num_items"], dim), dtype)
        for start in range(0, len(rows), ROWS_AT_ONCE):
            rows[start : start + ROWS_AT_ONCE] = np.nan
        self._modalities[modality] = {"file": f"features/{modality}.npy", "dim": dim}
        return rows

    def _new_array(self, modality: str, shape: tuple[int, int], dtype: Any) -> npt.NDArray[Any]:
        path = self.folder / "features" / f"{modality}.npy"
        array = np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)
        # The file has holes. Writing to a map of them ends the process if the disk is full, so the
        # space is taken here, which raises OSError.
        with path.open("r+b") as file:
            take_space(file, file.seek(0, os.SEEK_END) - array.nbytes, array.nbytes)
        return array

    def finish_features(
        self, modality: str, rows: npt.NDArray[Any], where: object, *, checked: bool = True
    ) -> None:
        """Complete the file of a modality, and mark rows that were probably filled in as missing.

        Arguments:
            where: name of the source file, for notes.
            checked: whether to look for rows that were probably filled in.
        """
        entry = self._modalities[modality]
        if checked:
            self._mark_filled(modality, rows, where)
        missing = int(sum(np.isnan(b).all(axis=1).sum() for b in blocks(rows)))
        entry |= {"dtype": rows.dtype.name, "missing_rows": missing}
        if isinstance(rows, np.memmap):
            rows.flush()

    def _mark_filled(self, modality: str, rows: npt.NDArray[Any], where: object) -> None:
        """Mark rows that were probably filled in as missing, and note what was done."""
        found = find_filled(rows)
        policy = self.filled.get(modality, "keep" if self.keep_filled else "auto")
        repeats = np.concatenate([found["equal to the mean"], found["repeated"]])
        reason = content_reason(rows, found["repeated"]) if policy == "auto" else ""
        if reason and len(repeats):
            self.notes.append(
                f"{modality}: {plural(len(repeats), 'row repeats', 'rows repeat')} and "
                f"{'is' if len(repeats) == 1 else 'are'} kept as content: {reason}. To mark them "
                f"as missing: --filled {modality}=missing."
            )
        for kind, places in found.items():
            if not len(places) or (reason and kind != ZEROS):
                continue
            if policy == "keep":
                action = f"left as they are (--{'keep-filled' if self.keep_filled else 'filled'})"
                if kind == ZEROS:
                    self._modalities[modality]["zeros"] = "content"
            else:
                action = "written as missing"
                rows[places] = np.nan
            rows_are = plural(len(places), f"row {kind} is", f"rows {kind} are")
            self.notes.append(f"{modality}: {rows_are} {action}; first item {places[0]}, {where}.")

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
        text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
        (self.folder / "dataset.json").write_text(text, encoding="utf-8")

    def read(self) -> Dataset:
        """Read the data set as `train.py --empty-items drop` does."""
        return read_dataset(self.folder, empty_items="drop")

    def write_recipes(self, recipes: Mapping[str, Recipe]) -> None:
        """Save how modalities are made from tables, so that new items are made alike."""
        if recipes:
            save_recipes(self.folder, recipes)

    def write_split(self, split: Split) -> None:
        """Write split.npz into the folder."""
        write_split(self.folder / "split.npz", split)


@contextmanager
def drafting(
    out: Path,
    name: str,
    source: str,
    *,
    keep_filled: bool = False,
    filled: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[Draft]:
    """Write a data set into a temporary folder, which is renamed to `out` if the block succeeds.

    Raises:
        DataError: `out` exists already and is not an empty folder, or cannot be created.
    """
    try:
        with replacing_folder(out) as folder:
            yield Draft(folder, name, source, keep_filled=keep_filled, filled=filled)
    except OSError as error:
        if error.filename != str(out):
            raise
        raise DataError(
            f"--out: {out} cannot be written ({error.strerror or error}). Name another folder."
        ) from None


def _one_line(name: str) -> str:
    # A tab or a line break in a name would break the tab-separated file.
    return " ".join(str(name).split()) or "(no name)"


def take_space(file: IO[bytes], start: int, length: int) -> None:
    """Reserve the space of a part of a file that is zero so far; OSError if the disk is full."""
    if sys.platform == "linux":
        os.posix_fallocate(file.fileno(), start, length)
        return
    # Other systems lack this function, and reserve space for what is written.
    file.seek(start)
    zeros = memoryview(bytes(1 << 20))
    for done in range(0, length, len(zeros)):
        file.write(zeros[: length - done])
    file.flush()
