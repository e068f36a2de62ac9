"""Compare an entry with the systems of the results files.

An entry and a system are paired on the splits that both have. The tests are those of the package's
own tables: a two-sided t test of the mean log ratio of NDCG@20 over splits, with the variance of
splits that share items (Nadeau and Bengio), p-values corrected together by Holm's method, and in
each split a bootstrap over its users.

Importing this module needs no torch: it reads results, and `entry.py` measures lists.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from milk_recsys.base.errors import DataError
from milk_recsys.study import claims
from milk_recsys.study.bench.names import Task, seed_ranges
from milk_recsys.study.store import Line, Store

__all__ = [
    "METRICS",
    "Comparison",
    "compare",
    "is_variant",
    "part_of",
    "rivals_of",
    "seed_of",
    "systems",
]

METRICS = ("recall@10", "recall@20", "ndcg@10", "ndcg@20")


def seed_of(line: Line) -> int:
    """Return the split seed of a run."""
    seed: int = line["options"]["split_seed"]
    return seed


def part_of(setting: str) -> str:
    """Return the section of a run that measures a setting.

    The runs of FTFT are those of FTMT, whose training items are complete, measured on complete test
    items.
    """
    return "test_complete" if setting == "ftft" else "test"


def systems(store: Store, setting: str) -> dict[str, dict[int, Line]]:
    """Return the runs of a results file that may be compared: system -> split seed -> run.

    Trials, sweeps and timing runs are left out, and so are runs that leaked or diverged. A system
    has the name of its method. If a results file has a second run of a method on a split, in
    another phase, this run belongs to the system "method@phase".
    """
    trained = "ftmt" if setting == "ftft" else setting
    runs: dict[str, dict[int, Line]] = {}
    for line in store.lines:
        if line["setting"] != trained or not _comparable(line, part_of(setting)):
            continue
        name = line["method"]
        if seed_of(line) in runs.get(name, {}):
            name = f"{name}@{line['phase']}"
        runs.setdefault(name, {})[seed_of(line)] = line
    return runs


def _comparable(line: Line, part: str) -> bool:
    """Return whether a run ranked the test items for all their users, without leak or failure."""
    options = line["options"]
    return (
        part in line
        and not {"leaky", "diverged"} & set(line)
        and not line["phase"].startswith("sweep")
        and options["candidates"] == "test"
        and options.get("eval_users") is None
    )


def is_variant(line: Line) -> bool:
    """Return whether a run is of an ablation that has a name of its own, such as "not shrunk"."""
    model = line["options"].get("model", line["method"])
    return bool(model != line["method"])


# --- pairing --------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Comparison:
    """An entry against the systems that it is compared with.

    Attributes:
        task: the task.
        name: of the entry.
        lines: the entry's runs, one per seed.
        rivals: system -> its runs on seeds of the task.
        claims: one per rival: that the entry ranks new items better.
        notes: remarks on what could not be paired.
    """

    task: Task
    name: str
    lines: list[Line]
    rivals: dict[str, dict[int, Line]]
    claims: list[claims.Claim]
    notes: list[str]

    def means(self) -> list[dict[str, str]]:
        """Return the mean metrics of the entry and of each rival, as rows of a table.

        The metrics of a rival are means over the splits that it has in common with the entry.
        """
        rows = [_row(self.name, self.lines, "test")]
        part = part_of(self.task.setting)
        rows += [
            _row(name, [runs[seed] for seed in sorted(runs)], part)
            for name, runs in self.rivals.items()
        ]
        return rows

    def tests(self) -> list[dict[str, Any]]:
        """Return the tests as rows of a table, with p-values that are corrected together."""
        return claims.rows(self.claims)

    def to_json(self) -> dict[str, Any]:
        """Return all numbers with full precision."""
        corrected = claims.holm([claim.p for claim in self.claims])
        return {
            "task": str(self.task),
            "name": self.name,
            "seeds": {
                str(seed_of(line)): {
                    "split": line["split"],
                    "candidates": line["candidates"],
                    **line["test"],
                }
                for line in self.lines
            },
            "against": {
                rival: {
                    "seeds": sorted(runs),
                    "mean_log_ratio": float(claim.values.mean()),
                    "interval": [x if np.isfinite(x) else None for x in claim.interval],
                    "p": claim.p,
                    "p_holm": p,
                    "verdict": claims.verdict(claim, p),
                    "splits_with_users": claim.with_users,
                    "users_for_against": claim.users,
                }
                for (rival, runs), claim, p in zip(
                    self.rivals.items(), self.claims, corrected, strict=True
                )
            },
            "notes": self.notes,
        }


def _row(name: str, lines: Sequence[Line], part: str) -> dict[str, str]:
    seeds = seed_ranges([seed_of(line) for line in lines])
    means = {m: claims.with_interval([line[part][m] for line in lines]) for m in METRICS}
    return {"system": name, "splits": seeds, **means}


def rivals_of(
    folder: Path, task: Task, against: Sequence[str]
) -> tuple[dict[str, dict[int, Line]], list[str]]:
    """Return the runs of systems on the splits of a task, and notes on splits that are absent.

    Arguments:
        folder: of the results file.
        against: names of systems; none means all that have a run on a split of the task, except
            ablations that have names of their own.

    Raises:
        DataError: a system is unknown or has no run on any split of the task.
    """
    runs = systems(Store(folder), task.setting)
    have = {
        name: {seed: line for seed, line in by_seed.items() if seed in task.seeds}
        for name, by_seed in runs.items()
    }
    for name in against:
        if not have.get(name):
            raise DataError(_no_run(folder, task, name, runs))
    names = list(against) or [
        name
        for name, by_seed in have.items()
        if by_seed and not any(map(is_variant, by_seed.values()))
    ]
    notes = []
    if not names:
        notes.append(f"{folder}: has no run on the splits of {task}, so nothing is compared.")
    for name in names:
        missing = sorted(set(task.seeds) - set(have[name]))
        if missing:
            notes.append(
                f"{name}: the results file has no run on the splits {seed_ranges(missing)}; it is "
                f"compared on {seed_ranges(list(have[name]))}."
            )
    return {name: have[name] for name in names}, notes


def _no_run(folder: Path, task: Task, name: str, runs: Mapping[str, Mapping[int, Line]]) -> str:
    """Return the message that a system has no run on the splits of a task."""
    if name in runs:
        return (
            f"--against {name}: {folder} has no run of it on a split of {task}, only on "
            f"{seed_ranges(list(runs[name]))}. Name other systems, or enter these splits."
        )
    near = difflib.get_close_matches(name, runs, n=1)
    hint = f" Did you mean {near[0]}?" if near else ""
    known = ", ".join(sorted(runs)) or "none"
    return f"--against {name}: {folder} has no system of this name.{hint} It has: {known}."


def compare(
    task: Task, name: str, lines: Sequence[Line], rivals: dict[str, dict[int, Line]]
) -> Comparison:
    """Pair an entry with its rivals on their common splits and test the differences.

    Raises:
        DataError: a rival has the name of the entry, was measured on other candidates or users, or
            was trained on another split.
    """
    if name in rivals:
        raise DataError(
            f"--name {name}: it is compared with a system of this name. Choose another."
        )
    part, setting = part_of(task.setting), task.setting.upper()
    tested, notes = [], []
    for rival, runs in rivals.items():
        pairs = [(line, runs[seed_of(line)]) for line in lines if seed_of(line) in runs]
        for mine, theirs in pairs:
            _check_same(task, rival, mine, theirs)
        ours, others = (list(side) for side in zip(*pairs, strict=True))
        claim = claims.ranks_better(
            f"{name} ranks new items better than {rival}",
            f"NDCG@20, {setting}",
            ours,
            others,
            claims.OVERLAP,
            part,
        )
        without = [seed_of(x) for x in others if part != "test" or "per_user" not in x]
        if without:
            notes.append(
                f"{rival}: the results file has no values of users on the splits "
                f"{seed_ranges(without)}, only means, so there is no bootstrap over users there; "
                "the t test uses the means of all splits."
            )
        if len(pairs) < 2:
            notes.append(f"{rival}: a single split allows no t test; p is 1.")
        tested.append(claim)
    return Comparison(task, name, list(lines), rivals, tested, notes)


def _check_same(task: Task, rival: str, mine: Line, theirs: Line) -> None:
    # The masks of FTFT and FTMT differ, and with them the hash of the split.
    keys = ("candidates",) if task.setting == "ftft" else ("split", "candidates")
    for key in keys:
        if mine[key] != theirs[key]:
            raise DataError(
                f"--against {rival}: its run on the split {seed_of(mine)} has the {key} hash "
                f"{theirs[key]}, but the task has {mine[key]}. The data or the random generators "
                "changed between the two, so they cannot be compared."
            )
