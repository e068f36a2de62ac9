"""Names of tasks: SET/SETTING/SEEDS, such as ``lfm2k/ftmt/200..209``."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence

from milk_recsys.base.errors import DataError

__all__ = ["SETTINGS", "Task", "seed_ranges"]

SETTINGS = ("ftft", "ftmt", "mtmt")
MAX_SEEDS = 1000


@dataclasses.dataclass(frozen=True)
class Task:
    """A data set, a setting of missing modalities and the seeds of its splits."""

    set: str
    setting: str
    seeds: tuple[int, ...]

    @classmethod
    def parse(cls, text: str) -> Task:
        """Read SET/SETTING/SEEDS; SEEDS are numbers and ranges FIRST..LAST, with commas between.

        Raises:
            DataError: the text has another form.

        Example:
            >>> Task.parse("lfm2k/ftmt/0,200..202").seeds
            (0, 200, 201, 202)
        """
        parts = text.split("/")
        if len(parts) != 3 or not all(parts):
            raise DataError(
                f"task {text!r}: must be SET/SETTING/SEEDS, such as lfm2k/ftmt/200..209. "
                "`milk-recsys bench tasks` lists the tasks."
            )
        name, setting, seeds = parts
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise DataError(f"task {text!r}: {name!r} is not the name of a data set.")
        if setting not in SETTINGS:
            raise DataError(
                f"task {text!r}: the setting must be one of {', '.join(SETTINGS)}, got {setting!r}."
            )
        return cls(name, setting, _seeds(text, seeds))

    def __str__(self) -> str:
        return f"{self.set}/{self.setting}/{seed_ranges(self.seeds)}"


def _seeds(text: str, seeds: str) -> tuple[int, ...]:
    numbers: list[int] = []
    for part in seeds.split(","):
        match = re.fullmatch(r"(\d{1,18})(?:\.\.(\d{1,18}))?", part)
        if not match:
            raise DataError(
                f"task {text!r}: seeds must be whole numbers and ranges, such as 0,200..209, "
                f"got {part!r}."
            )
        first = int(match[1])
        last = int(match[2] or first)
        if not first <= last < first + MAX_SEEDS:
            raise DataError(
                f"task {text!r}: a range must be FIRST..LAST with at most {MAX_SEEDS} seeds, "
                f"got {part!r}."
            )
        numbers += range(first, last + 1)
    if len(set(numbers)) < len(numbers):
        raise DataError(f"task {text!r}: a seed occurs twice. Name each once.")
    return tuple(sorted(numbers))


def seed_ranges(seeds: Sequence[int]) -> str:
    """Write seeds as ranges.

    Example:
        >>> seed_ranges([0, 1, 2, 100, 102])
        '0..2,100,102'
    """
    runs: list[list[int]] = []
    for seed in sorted(seeds):
        if runs and seed == runs[-1][1] + 1:
            runs[-1][1] = seed
        else:
            runs.append([seed, seed])
    return ",".join(str(a) if a == b else f"{a}..{b}" for a, b in runs)
