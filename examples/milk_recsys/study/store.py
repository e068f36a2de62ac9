"""The store of a study: one JSON line a run, added as runs end. A killed study finds there what is done."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from milk_recsys.base.errors import DataError
from milk_recsys.base.files import Journal
from milk_recsys.study.runs import Run

__all__ = ["Store"]

Line = dict[str, Any]


class Store:
    """The lines of a study by what they are of.

    Arguments:
        path: a .jsonl file, or one that is not there yet.

    Raises:
        DataError: the file is damaged, or two methods were not ranked on the same candidates and users.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = Journal(path)
        self._file.repair()
        self.lines: list[Line] = []
        for line in self._file.read():
            self._keep(line)

    def add(self, line: Line) -> None:
        """Append a run's line."""
        self._keep(line)
        self._file.append(line)

    def _keep(self, line: Line) -> None:
        lacking = {"phase", "method", "setting", "number", "options", "split", "candidates"} - set(line)
        if lacking:
            raise DataError(
                f"{self.path}: holds a line without {', '.join(sorted(lacking))}, which is not a line of a study. Name "
                "another --out."
            )
        where = (line["options"]["split_seed"], line["setting"], line["options"]["candidates"])
        for other in self.lines:
            same = (other["options"]["split_seed"], other["setting"], other["options"]["candidates"]) == where
            if same and (other["candidates"], other["split"]) != (line["candidates"], line["split"]):
                raise DataError(
                    f"{self.path}: {line['method']} and {other['method']} were not measured on the same candidates and "
                    f"users of split {where[0]}, {where[1]}: the data or the code changed. Start in another --out."
                )
            if same:
                break
        self.lines.append(line)

    def has(self, run: Run) -> bool:
        """Whether a run is done."""
        return any((x["phase"], x["method"], x["setting"], x["number"]) == run.key for x in self.lines)

    def of(self, phase: str, method: str, setting: str = "ftmt", *, most: int | None = None) -> list[Line]:
        """Return a method's lines of a phase by number, at most so many."""
        found = [x for x in self.lines if (x["phase"], x["method"], x["setting"]) == (phase, method, setting)]
        return sorted(found, key=lambda line: line["number"])[:most]

    def ranked(self, phase: str, method: str, setting: str = "ftmt", *, most: int | None = None) -> list[Line]:
        """Return those of `of` that may be compared: neither leaky by option nor diverged."""
        return [x for x in self.of(phase, method, setting, most=most) if "leaky" not in x and "diverged" not in x]

    def methods(self, among: Iterable[str], setting: str = "ftmt") -> list[str]:
        """Return the methods among those given that have a repeat to compare."""
        return [method for method in among if self.ranked("repeat", method, setting)]
