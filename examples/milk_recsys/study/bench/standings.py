"""The page of standings, made from the results files and the entries of outsiders.

A table has the systems of one data set, setting and block of splits. Seeds belong to one block if
they have the same number of hundreds: 0 to 99 were used in development, 100 to 199 and 200 to 299
are held out. Each system is compared with the first one, by the tests of `score.py`.

Entries are the files SET/*.json of another folder, which ``bench score --json`` writes. This module
does not import torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from milk_recsys.base.errors import DataError
from milk_recsys.base.files import read_json, replacing
from milk_recsys.study import claims
from milk_recsys.study.bench.names import seed_ranges
from milk_recsys.study.bench.score import METRICS, is_variant, part_of, seed_of, systems
from milk_recsys.study.bench.tasks import SETS, recorded_hashes
from milk_recsys.study.records import MONITOR, p_text
from milk_recsys.study.store import Line, Store, expecting_results
from milk_recsys.study.tables import markdown

__all__ = ["standings_page", "table_of", "write_standings"]

BLOCK = 100
ORDER = ("ftmt", "mtmt", "ftft")
SHOWN = ("ndcg@20", "recall@20")
BLOCKS = {0: "splits used in development"}
HELD_OUT = "held-out splits"
Runs = dict[str, dict[int, Line]]
INTRODUCTION = """\
# Standings

NDCG@20 and Recall@20 of new items, from the results files in `docs/results` and the entries in
`docs/entries`. `milk-recsys bench standings` writes this page, and a test compares it with these
files. [Enter the benchmark](bench.md) shows how to add a system.

A value is the mean over splits ± half the width of its 95% interval. *p* is that of a two-sided t
test on the log ratios of NDCG@20 to the first system of the table, over the same splits, with the
variance of splits that share items (Nadeau and Bengio) and Holm's correction for the systems of the
table. The last column counts the splits in which the first system is significantly better by a
bootstrap over users, and those in which the other one is; it is empty where the files have no
values of users.

Under `ftmt` training items are complete and half of the test items lose one random modality; under
`mtmt` 30% of the training items lose one, too; under `ftft` nothing is removed
([glossary](milk.md#glossary)).

The splits with seeds below 100 were in view while methods were developed, KEEP among them, so
their tables favour KEEP. On held-out splits only the systems that were strongest before were run.
Systems marked with * are entries that were run outside of this package. All others are values of
`--model` ([methods](baselines.md)), except `keep_tuned`: the first version of KEEP, whose options
were tuned, and whose code was removed. The p-values differ from those on the pages of the data
sets, where Holm's correction is for all tests of a set.
"""


def standings_page(results: Path, entries: Path) -> str:
    """Return the page as Markdown.

    Arguments:
        results: folder of the folders SET with runs.parquet.
        entries: folder of the folders SET with entries; it may be absent.

    Raises:
        DataError: there are no results, or a file is damaged.
    """
    sections = [INTRODUCTION]
    for name in _sets(results):
        with expecting_results(results / name):
            tables = [
                f"### {setting.upper()}, {BLOCKS.get(block, HELD_OUT)} {seed_ranges(seeds)}\n\n"
                + (markdown(rows, caption) if rows else f"{caption}\n")
                for setting in ORDER
                for block, seeds, rows, caption in _tables(results / name, entries / name, setting)
            ]
        if tables:
            sections += [f"## {name}\n", *tables]
    if len(sections) == 1:
        raise DataError(
            f"{results}: holds no results. Name the folder of the folders of runs.parquet files as "
            "--results."
        )
    return "\n".join(sections)


def write_standings(results: Path, entries: Path, out: Path) -> None:
    """Write the page to a file."""
    with replacing(out) as temporary:
        temporary.write_text(standings_page(results, entries), encoding="utf-8")


def _sets(results: Path) -> list[str]:
    """Return the data sets that have results, the official ones first."""
    found = sorted(path.parent.name for path in results.glob("*/runs.parquet"))
    return [s for s in SETS if s in found] + [s for s in found if s not in SETS]


def _tables(
    results: Path, entries: Path, setting: str
) -> Iterator[tuple[int, list[int], list[dict[str, str]], str]]:
    """Yield the block, the seeds, the rows and the caption of each table of a data set."""
    runs = {
        system: lines
        for system, lines in systems(Store(results), setting).items()
        if not any(map(is_variant, lines.values()))
    }
    runs |= _entries(entries, setting)
    part = part_of(setting)
    blocks = {seed // BLOCK for lines in runs.values() for seed in lines}
    for block in sorted(blocks, reverse=True):
        seeds, complete, lacking = _on_common_seeds(runs, block)
        caption = f"{len(complete)} systems."
        if lacking:
            caption += " Not run on all of these splits: " + ", ".join(lacking) + "."
        rows = table_of(complete, setting, part) if complete else []
        yield block, seeds, rows, caption


def _on_common_seeds(runs: Runs, block: int) -> tuple[list[int], Runs, list[str]]:
    """Return the seeds of a table, the systems that have all of them, and the other systems.

    The seeds are those that more than half as many systems have as the seed with the most systems.
    """
    own = {
        system: {seed: line for seed, line in lines.items() if seed // BLOCK == block}
        for system, lines in runs.items()
    }
    own = {system: lines for system, lines in own.items() if lines}
    counts = Counter(seed for lines in own.values() for seed in lines)
    most = max(counts.values())
    seeds = sorted(seed for seed, count in counts.items() if 2 * count > most)
    complete = {
        system: {seed: lines[seed] for seed in seeds}
        for system, lines in own.items()
        if set(seeds) <= set(lines)
    }
    return seeds, complete, [s for s in own if s not in complete]


def table_of(runs: Runs, setting: str, part: str) -> list[dict[str, str]]:
    """Return the rows of a table, the system with the highest mean NDCG@20 first.

    Arguments:
        runs: system -> split seed -> run, with the same seeds for all systems.
        part: section of the runs that is compared.
    """

    def mean(system: str) -> float:
        return float(np.mean([line[part][MONITOR] for line in runs[system].values()]))

    order = sorted(runs, key=mean, reverse=True)
    first = list(runs[order[0]].values())
    # The section `part` of the first system takes the place of its test section.
    shown = [{**line, "test": line[part]} for line in first]
    tested = [
        claims.ranks_better(
            f"{order[0]} against {system}",
            setting,
            shown,
            list(runs[system].values()),
            claims.OVERLAP,
            part,
        )
        for system in order[1:]
    ]
    corrected = claims.holm([claim.p for claim in tested])
    rows = []
    for place, system in enumerate(order):
        lines = [runs[system][seed] for seed in sorted(runs[system])]
        row = {"place": str(place + 1), "system": system}
        row |= {m: claims.with_interval([x[part][m] for x in lines]) for m in SHOWN}
        row |= {"change to the first": "", "p": "", "splits, users for and against": ""}
        if place:
            claim, p = tested[place - 1], corrected[place - 1]
            row["change to the first"] = f"{100 * np.expm1(-claim.values.mean()):+.1f}%"
            row["p"] = p_text(p)
            if claim.users is not None:
                row["splits, users for and against"] = "{} and {} of {}".format(
                    *claim.users, claim.with_users
                )
        rows.append(row)
    return rows


# --- entries --------------------------------------------------------------------------------------


def _entries(folder: Path, setting: str) -> Runs:
    """Return the entries of outsiders: name with a mark -> split seed -> run without users' values.

    Raises:
        DataError: an entry is damaged or was measured on another split.
    """
    runs: Runs = {}
    for path in sorted(folder.glob("*.json")):
        try:
            entry: Mapping[str, Any] = read_json(path)
            of_set, of_setting, _ = entry["task"].split("/")
            if (of_set, of_setting) != (folder.name, setting):
                continue
            lines = [
                _line(path, folder.name, setting, int(seed), values)
                for seed, values in entry["seeds"].items()
            ]
            runs.setdefault(f"{entry['name']}*", {}).update({seed_of(x): x for x in lines})
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(
                f"{path}: is not an entry ({type(error).__name__}: {error}). Write it with "
                "`milk-recsys bench score --json`."
            ) from None
    return runs


def _line(path: Path, name: str, setting: str, seed: int, values: Mapping[str, Any]) -> Line:
    """Return a run in the form of a results file, after comparing its hashes."""
    official = recorded_hashes(name, setting, seed) or {}
    for key in ("split", "candidates"):
        if official.get(key, values[key]) != values[key]:
            raise DataError(
                f"{path}: the split {seed} has the {key} hash {values[key]}, not the official "
                f"{official[key]}. Score the lists again."
            )
    metrics = {m: float(values[m]) for m in METRICS}
    return {
        "options": {"split_seed": seed},
        "setting": setting,
        part_of(setting): metrics,
    }
