"""Which row of a file belongs to which item. Ids are compared as text."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
import polars as pl

from milk_recsys.base.errors import DataError, OptionError, plural
from milk_recsys.catalogue.importers.ids import Case, Ids, fold_case
from milk_recsys.catalogue.raw.tables import RawTable

__all__ = ["Matching", "Notes", "Place", "parse_place"]


class Notes(Protocol):
    """Collects messages for the user; a `Draft` does."""

    notes: list[str]
    warnings: list[str]


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a modality is: a file, and columns of a table or the name of an array in it."""

    path: Path
    columns: tuple[str, ...] = ()


def parse_place(option: str, text: str) -> Place:
    """Parse ``FILE`` or ``FILE:COLUMN[,COLUMN]``.

    The file is the longest part before a colon that exists, or else the part before the first one.

    Example:
        >>> parse_place("--text", "items.csv:title,brand")
        Place(path=PosixPath('items.csv'), columns=('title', 'brand'))
    """
    cuts = [k for k, sign in enumerate(text) if sign == ":"]
    existing = [k for k in (len(text), *reversed(cuts)) if Path(text[:k]).exists()]
    cut = existing[0] if existing else (cuts[0] if cuts else len(text))
    if not text[:cut]:
        raise OptionError(f"{option}: {text!r} must be FILE or FILE:COLUMN[,COLUMN].")
    columns = tuple(name.strip() for name in text[cut + 1 :].split(",") if name.strip())
    return Place(Path(text[:cut]), columns)


@dataclasses.dataclass(frozen=True)
class Matching:
    """How rows of files are matched with the items of the interactions.

    Attributes:
        items: the items of the interactions.
        item_column: name of the column of ids.
        case: upper, lower or kept case of ids.
        repeated: whether a second row of an item is an error, or left out.
        pairs: name of the file of interactions, for error messages.
    """

    items: Ids
    item_column: str
    case: Case = "keep"
    repeated: Literal["error", "first"] = "error"
    pairs: str = "the interactions"

    def table_places(
        self, table: RawTable, name: str, notes: Notes, *, further: bool = False
    ) -> npt.NDArray[np.int64]:
        """Return the item of each row of a table, -1 for a row that is not used.

        Arguments:
            further: whether further rows of an item are used, where the first one is empty.

        Raises:
            DataError: the table has no column of ids, an id is empty or repeated, or none matches.
        """
        ids = table.distinct_ids(self.item_column)
        if None in ids:
            row = ids.index(None)
            raise DataError(
                f"{table.place(row)}, column {self.item_column!r}: is empty. Every row needs the "
                "id of its item."
            )
        known = [text for text in ids if text is not None]
        return self.places(known, table.path, name, notes, table, further=further)

    def places(
        self,
        ids: Sequence[str],
        path: Path,
        name: str,
        notes: Notes,
        table: RawTable | None = None,
        *,
        further: bool = False,
    ) -> npt.NDArray[np.int64]:
        """Return the item of each id, -1 for one that is not used; see `table_places`."""
        ids = fold_case(pl.Series(list(ids), dtype=pl.String), self.case).to_list()
        places, seen, repeated = np.full(len(ids), -1, dtype=np.int64), set[str](), 0
        for row, text in enumerate(ids):
            if text in seen:
                if self.repeated == "error":
                    where = table.place(row) if table is not None else f"{path}, row {row}"
                    raise DataError(
                        f"{where}: item {text!r} appears twice. Keep one row for it, or let the "
                        "first one count: --repeated-items first."
                    )
                repeated += 1
                if not further:
                    continue
            seen.add(text)
            place = self.items.find(text)
            places[row] = -1 if place is None else place
        if repeated:
            notes.notes.append(
                f"{name}: {plural(repeated, 'further row', 'further rows')} of the same items in "
                f"{path.name} {'used where the first is empty' if further else 'left out'} "
                "(--repeated-items first)."
            )
        self._report(seen, len(np.unique(places[places >= 0])), path, name, notes)
        return places

    def _report(self, ids: set[str], matched: int, path: Path, name: str, notes: Notes) -> None:
        """Note how many ids match.

        None is an error. Fewer than half are a warning, and so is a loss with a known cause.
        """
        unused = len(ids) - matched
        possible = min(len(ids), len(self.items))
        advice = self._advice(ids) if matched < possible else ""
        if matched < 0.5 * possible or advice:
            question = " Is it the file of another data set, or is --item-column another column?"
            like = (
                f"Its ids are like {_two(sorted(ids))}, those of {self.pairs} like "
                f"{_two(self.items.names)}.{advice or question}"
            )
            if not matched:
                raise DataError(
                    f"{path}: none of its {plural(len(ids), 'id', 'ids')} is in {self.pairs}. "
                    f"{like}"
                )
            notes.warnings.append(
                f"{name}: only {matched} of the {len(ids)} ids in {path.name} are among the "
                f"{len(self.items)} items of {self.pairs}. {like}"
            )
        if unused:
            belongs = plural(unused, "row belongs to an item", "rows belong to items")
            left_out = "is left out" if unused == 1 else "are left out"
            notes.notes.append(f"{name}: {belongs} without interactions and {left_out}.")

    def _advice(self, ids: set[str]) -> str:
        """Return what would make more ids match, if something simple does."""
        names = self.items.names
        upper = {text.upper() for text in ids} & {text.upper() for text in names}
        zeros = {text.lstrip("0") for text in ids} & {text.lstrip("0") for text in names}
        whole = {text.removesuffix(".0") for text in ids} & {
            text.removesuffix(".0") for text in names
        }
        exact = len(ids & set(names))
        if len(upper) > exact:
            return f" {len(upper)} match if case is ignored: --id-case upper."
        if len(zeros) > exact:
            return (
                f" {len(zeros)} match without leading zeros, which were lost in one of the files "
                "when ids were read as numbers. Write that file again with ids as text."
            )
        if len(whole) > exact:
            return (
                f" {len(whole)} match without `.0`, in which some ids of one of the files end. "
                "Write that file again with ids as text."
            )
        return ""


def _two(ids: Sequence[str]) -> str:
    return " and ".join(repr(text) for text in ids[:2])
