"""The benchmark for methods from outside: tasks, lists, scores, audit and standings.

    milk-recsys bench tasks
    milk-recsys bench export lfm2k/ftmt/200..209 --out tasks
    milk-recsys bench score lists.parquet --task lfm2k/ftmt/200..209 --against keep clcrec
    milk-recsys bench audit my_method:fit --task lfm2k/ftmt/200
    milk-recsys bench standings --out docs/standings.md

In a checkout `python examples/milk_recsys/bench.py` is the same command.
"""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

# As a script, this file needs the folder above it on the path to import `milk_recsys`.
if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import tyro

from milk_recsys.base.errors import DataError
from milk_recsys.base.files import replacing, write_json
from milk_recsys.base.manual import help_ends_with
from milk_recsys.base.terminal import print_error, print_line, reporting_errors
from milk_recsys.study.bench.names import Task
from milk_recsys.study.bench.report import aligned, page_of, report_of
from milk_recsys.study.bench.score import compare, rivals_of
from milk_recsys.study.bench.standings import write_standings
from milk_recsys.study.bench.tasks import (
    folder_of,
    instances,
    open_dataset,
    table_of_tasks,
)
from milk_recsys.study.records import Leak

Name = Annotated[str, tyro.conf.Positional]


@dataclasses.dataclass(frozen=True)
class Tasks:
    """List the official tasks, or the splits of one with their hashes."""

    task: Annotated[str | None, tyro.conf.Positional] = None
    """Task SET/SETTING/SEEDS whose splits are listed, such as lfm2k/ftmt/200..209."""


@dataclasses.dataclass(frozen=True)
class Export:
    """Write a task to files that a program in any language can read."""

    task: Name
    """Task SET/SETTING/SEEDS, such as lfm2k/ftmt/200..209."""
    out: Path
    """Folder for the files."""
    format: Literal["parquet", "csv"] = "parquet"
    """Type of the tables."""
    data: Path | None = None
    """Folder that holds the folders of the data sets; by default $INVMOD_DATA."""


@dataclasses.dataclass(frozen=True)
class Score:
    """Measure ranked lists or scores, and compare them with the systems of a results file."""

    lists: Annotated[Path, tyro.conf.Positional]
    """Table (Parquet, CSV or TSV) with the columns seed, user, item and rank or score."""
    task: str
    """Task SET/SETTING/SEEDS that the lists are of."""
    against: tuple[str, ...] = ()
    """Systems to compare with, with spaces or commas between; by default all that have a run on
    these splits."""
    name: str | None = None
    """Name of the entry; by default that of the file."""
    results: Path = Path("docs/results")
    """Folder that holds SET/runs.parquet."""
    data: Path | None = None
    """Folder that holds the folders of the data sets; by default $INVMOD_DATA."""
    json: Path | None = None
    """File for all numbers as JSON."""
    page: Path | None = None
    """File for the tables as Markdown."""


@dataclasses.dataclass(frozen=True)
class Audit:
    """Check that a function uses nothing that it must not use; exit with status 1 if it does."""

    fit: Name
    """Function MODULE:NAME, from the working folder or an installed package."""
    task: str = "tiny/ftmt/0"
    """Task with a single split on which the function is called; by default on generated data."""
    transductive: bool = False
    """Allow the features of the cold items in training."""
    data: Path | None = None
    """Folder that holds the folders of the data sets; by default $INVMOD_DATA."""


@dataclasses.dataclass(frozen=True)
class Standings:
    """Write the page of standings from the results files and the entries."""

    out: Path = Path("docs/standings.md")
    """File of the page."""
    results: Path = Path("docs/results")
    """Folder that holds SET/runs.parquet."""
    entries: Path = Path("docs/entries")
    """Folder that holds SET/*.json, the entries from outside."""


Command = (
    Annotated[Tasks, tyro.conf.subcommand("tasks")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[Score, tyro.conf.subcommand("score")]
    | Annotated[Audit, tyro.conf.subcommand("audit")]
    | Annotated[Standings, tyro.conf.subcommand("standings")]
)


def main(argv: Sequence[str] | None = None, *, prog: str = "bench.py") -> int:
    """Run the command line.

    Returns:
        The exit status: 0 for success, 1 for a leak, 2 for invalid input, 130 after an
        interruption. (Options that cannot be parsed exit with status 2 at once.)
    """
    args = sys.argv[1:] if argv is None else list(argv)
    with help_ends_with("bench"):
        command = tyro.cli(Command, args=args, prog=prog, description=__doc__)
    try:
        for line in RUN[type(command)](command):
            print_line(line)
    except (DataError, Leak) as error:
        print_error(error)
        return 1 if isinstance(error, Leak) else 2
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    return 0


def tasks(command: Tasks) -> list[str]:
    """Return the table of tasks as lines."""
    task = None if command.task is None else Task.parse(command.task)
    rows = table_of_tasks(task)
    if not rows:
        raise DataError(
            f"{task}: is not an official task. `milk-recsys bench tasks` lists them; `bench "
            "export` also makes others, and states their hashes."
        )
    return aligned(rows)


def export(command: Export) -> list[str]:
    """Write a task; return the folders as lines."""
    from milk_recsys.study.bench.export import export as write

    task, data = Task.parse(command.task), root_of(command.data)
    dataset, notes = open_dataset(task.set, data)
    folders = write(instances(task, dataset), command.out, command.format)
    return [*map(str, folders), *(f"note: {note}" for note in notes)]


def score(command: Score) -> list[str]:
    """Measure lists; return the tables and notes as lines."""
    from milk_recsys.study.bench.entry import measure, read_lists

    task, name = Task.parse(command.task), command.name or command.lists.stem
    # Everything that is quickly checked comes before the data set is read.
    against = [rival for word in command.against for rival in word.split(",")]
    rivals, notes = rivals_of(command.results / task.set, task, against)
    lists = read_lists(command.lists, task)
    dataset, remarks = open_dataset(task.set, root_of(command.data))
    notes += remarks
    lines = []
    for instance in instances(task, dataset):
        line, remarks = measure(lists[instance.seed], instance, name)
        lines.append(line)
        notes += remarks
    compared = compare(task, name, lines, rivals)
    compared.notes[:0] = notes
    digest = hashlib.sha256(command.lists.read_bytes()).hexdigest()
    if command.json:
        date = datetime.date.today().isoformat()
        write_json(command.json, {**compared.to_json(), "lists_sha256": digest, "date": date})
    if command.page:
        with replacing(command.page) as temporary:
            temporary.write_text(page_of(compared, digest), encoding="utf-8")
    return report_of(compared)


def audit(command: Audit) -> list[str]:
    """Audit a function; return the checks that it passed as lines."""
    from milk_recsys.study.bench.fit_audit import audit_fit

    task, data = Task.parse(command.task), root_of(command.data)
    if len(task.seeds) > 1:
        raise DataError(f"--task {task}: the audit takes a single split. Name one seed.")
    dataset, notes = open_dataset(task.set, data)
    (instance,) = instances(task, dataset)
    folder = folder_of(task.set, data)
    passed = audit_fit(command.fit, instance, folder, transductive=command.transductive)
    kind = "passed, as a transductive method" if command.transductive else "passed"
    result = f"{command.fit} on {task}: {kind} ({', '.join(passed)})"
    return [result, *(f"note: {note}" for note in notes)]


def standings(command: Standings) -> list[str]:
    """Write the page of standings; return its path as a line."""
    write_standings(command.results, command.entries, command.out)
    return [str(command.out)]


RUN: Mapping[type, Any] = {
    Tasks: tasks,
    Export: export,
    Score: score,
    Audit: audit,
    Standings: standings,
}


def root_of(data: Path | None) -> Path | None:
    """Return the folder of the data sets: the option, or $INVMOD_DATA, or None."""
    given = os.environ.get("INVMOD_DATA")
    return data or (Path(given) if given else None)


if __name__ == "__main__":
    with reporting_errors():
        sys.exit(main())
