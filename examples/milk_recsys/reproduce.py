"""Reproduce the paper's tables and figures on one data set, and test the paper's claims.

    milk-recsys reproduce table2 --data $INVMOD_DATA/lfm2k --out docs/results/lfm2k
    milk-recsys reproduce all --data $INVMOD_DATA/tiktok --trials 8 --out docs/results/tiktok
    milk-recsys reproduce field --data $INVMOD_DATA/tiktok --trials 8 --out docs/results/tiktok
    milk-recsys reproduce all --smoke      # all of them on a tiny data set, in a minute

In a checkout `python examples/milk_recsys/reproduce.py` is the same command.

All methods are tuned in the same way. Every run is appended to ``runs.jsonl`` in --out when it
ends; at the end of the command these runs are compacted into ``runs.parquet``. A command that was
killed resumes from both files, and tables share their runs. A run that learnt from the test items
is not stored (`audit.py`). ``python -m milk_recsys.study.store --help`` describes how to join
results of methods that were run separately.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any, Literal

# As a script, this file needs the folder above it on the path to import `milk_recsys`.
if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from milk_recsys.base.errors import DataError
from milk_recsys.base.launch import MAX_THREADS
from milk_recsys.base.manual import help_ends_with
from milk_recsys.base.terminal import print_error, print_line, reporting_errors
from milk_recsys.catalogue.dataset import Dataset, read_dataset
from milk_recsys.catalogue.synthetic import tiny_dataset
from milk_recsys.config.method import method_names
from milk_recsys.config.options import OptionError
from milk_recsys.study.plan import NAMES, Name, Plan
from milk_recsys.study.proposals import check_number_of_trials
from milk_recsys.study.records import MONITOR, Leak, Run
from milk_recsys.study.spaces import FIELD, METHODS
from milk_recsys.study.store import Store, expecting_results


@dataclasses.dataclass(frozen=True)
class Reproduce:
    """Reproduce the paper's tables and figures on one data set."""

    name: Annotated[Literal[Name, "all", "field"], tyro.conf.Positional]
    """Table or figure of the paper, `all` of them, or `field`, the comparison of all systems."""
    data: Path | None = None
    """Folder of a data set."""
    trials: int = 12
    """Number of tuning trials per method, on a split of their own, judged by validation metrics."""
    repeats: int = 5
    """Number of repeats, with split seed and training seed (0, 0), (1, 1), ..."""
    jobs: int = 1
    """Number of simultaneous runs; if more than one, each run is a process."""
    out: Path | None = None
    """Folder for the results file, tables and figures; by default runs/reproduce-NAME."""
    methods: tuple[str, ...] = ()
    """Methods to compare; by default those of the paper, or all methods of the package for `field`.
    `field` also takes the names of your own methods."""
    settings: tuple[Literal["ftmt", "mtmt"], ...] = ("ftmt", "mtmt")
    """Settings of missing modalities."""
    decide: bool = True
    """Double the repeats that claims rest on: MILK, its ablations and the best baseline under FTMT.
    For `field`, repeat the winner and its rivals ten times on held-out splits."""
    threads: int | None = None
    """Number of CPU threads of a run; by default 1 with several jobs, else torch's choice."""
    run: bool = True
    """Make the runs that the results file lacks; `--no-run` only writes tables and figures."""
    smoke: bool = False
    """Use a tiny generated data set and a few epochs, as a quick check."""


def main(argv: Sequence[str] | None = None, *, prog: str = "reproduce.py") -> int:
    """Run the command line.

    Returns:
        The exit status of `run_command`. (Options that cannot be parsed exit with status 2 at
        once.)
    """
    args = sys.argv[1:] if argv is None else list(argv)
    with help_ends_with("reproduce"):
        options = tyro.cli(Reproduce, args=args, prog=prog, description=__doc__)
    return run_command(options)


def run_command(command: Reproduce) -> int:
    """Make the runs that the results file lacks, and write tables and figures.

    Returns:
        The exit status: 0 for success, 1 if a run learnt from test items, 2 for invalid input, 130
        after an interruption.
    """
    try:
        problem = check(command)
        if problem:
            raise OptionError(problem)
        check_number_of_trials(command.trials)
        if not command.smoke:
            return reproduce(command)
        with tempfile.TemporaryDirectory() as folder:
            # Without --out, the results of a quick check are discarded.
            small = dataclasses.replace(
                command, out=command.out or Path(folder), trials=2, repeats=2, jobs=1
            )
            return reproduce(small)
    except (DataError, OptionError, Leak) as error:
        print_error(error)
        return 1 if isinstance(error, Leak) else 2
    except KeyboardInterrupt:
        print("\ninterrupted; the same command resumes after the finished runs", file=sys.stderr)
        return 130


def check(command: Reproduce) -> str | None:
    """Return an error message for an invalid command, or None."""
    known = method_names()
    for method in command.methods:
        if method not in known:
            # The methods of the package are in the order of the tables, before your own.
            names = dict.fromkeys((*FIELD, *known))
            return f"--methods: {method} is unknown. Choose from {', '.join(names)}."
        if command.name != "field" and method not in METHODS:
            return (
                f"--methods: {method} is not a method of the paper, so it is not in {command.name}."
                " Study it with `field`, the comparison of all systems."
            )
    for name in ("trials", "repeats", "jobs"):
        if getattr(command, name) < 1:
            return f"--{name} must be at least 1, got {getattr(command, name)}."
    if command.threads is not None and not 1 <= command.threads <= MAX_THREADS:
        return f"--threads must be from 1 to {MAX_THREADS}, got {command.threads}."
    if command.smoke and command.data is not None:
        return "--smoke generates its own data. Leave out --data."
    if not command.smoke and command.data is None:
        return "--data is needed: the folder of a data set. (--smoke generates its own.)"
    return None


def reproduce(command: Reproduce) -> int:
    """Run the plan and write its results."""
    # Imported here because it imports matplotlib, which --help and worker processes do not need.
    from milk_recsys.study.results import write_results

    out = command.out or Path("runs") / f"reproduce-{command.name}"
    dataset = (
        tiny_dataset() if command.data is None else read_dataset(command.data, empty_items="drop")
    )
    threads = command.threads or (1 if command.jobs > 1 else None)
    plan = Plan(
        data=command.data,
        names=NAMES if command.name == "all" else (command.name,),
        trials=command.trials,
        repeats=command.repeats,
        methods=command.methods or (FIELD if command.name == "field" else METHODS),
        settings=command.settings,
        decide=command.decide,
        threads=threads,
        quick=command.smoke,
    )
    out.mkdir(parents=True, exist_ok=True)
    store = Store(out)
    if command.run:
        run_all(plan, store, dataset, out / ".factors", command.jobs)
    store.compact()
    with expecting_results(out):
        paths = list(write_results(plan, store, dataset, out))
    for path in paths:
        print_line(path)
    return 0


# --- running --------------------------------------------------------------------------------------


def run_all(plan: Plan, store: Store, dataset: Dataset, cache: Path, jobs: int) -> None:
    """Make every run that the results file lacks, and append each of them to its journal."""
    columns = (
        TextColumn("runs"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}"),
    )
    console = Console(highlight=False, soft_wrap=True)
    with Progress(
        *columns, console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        task = bar.add_task("runs", total=plan.total(), completed=plan.done(store), left="")

        def append(line: dict[str, Any]) -> None:
            store.add(line)
            done, total = plan.done(store), plan.total()
            left = f"about {_hours((total - done) * _mean_seconds(store) / jobs)} left"
            bar.update(task, completed=done, left=left)
            console.print(f"[{done}/{total}] {describe(line)}; {left}", markup=False)

        # The plan is evaluated again after each run, since later runs depend on earlier results: a
        # trial on the trials before it, and repeats on the best trial.
        if jobs == 1:
            while (run := next(iter(plan.ready(store)), None)) is not None:
                append(_work(run, dataset, cache, plan.threads))
            return
        # Processes are spawned because a forked one could deadlock on locks of torch's threads.
        with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
            _run_parallel(plan, store, dataset, cache, jobs, pool, append)


def _run_parallel(
    plan: Plan,
    store: Store,
    dataset: Dataset,
    cache: Path,
    jobs: int,
    pool: ProcessPoolExecutor,
    append: Any,
) -> None:
    """Keep `jobs` runs in progress until no run is left; finished runs make others possible."""
    running: dict[Future[dict[str, Any]], tuple[Any, ...]] = {}
    while True:
        for run in plan.ready(store, set(running.values())):
            if len(running) == jobs:
                break
            # A path is cheaper to send to another process than a data set.
            where = plan.data if plan.data is not None else dataset
            running[pool.submit(_work, run, where, cache, plan.threads)] = run.key
        if not running:
            return
        done, _ = wait(running, return_when=FIRST_COMPLETED)
        for future in done:
            running.pop(future)
            append(future.result())


# Data sets that this process has read, by folder.
_DATASETS: dict[Path, Dataset] = {}


def _work(run: Run, where: Path | Dataset, cache: Path, threads: int | None) -> dict[str, Any]:
    """Make a run, in this process or a worker; each process reads the data set only once."""
    # These imports take seconds, and `--help` and the check of the options do not need them.
    import torch

    from milk_recsys.study.runs import execute

    if threads:
        torch.set_num_threads(threads)
    if isinstance(where, Path):
        if where not in _DATASETS:
            _DATASETS[where] = read_dataset(where, empty_items="drop")
        where = _DATASETS[where]
    return execute(run, where, cache)


def describe(line: dict[str, Any]) -> str:
    """Return one line on a run: its place in the study, result, time and tuned options."""
    label = f"{line['phase']} {line['method']} {line['setting']} {line['number']}"
    part = "held_out" if line["phase"] == "factors" else "validation"
    score = (
        f"{part} {MONITOR} {line[part][MONITOR]:.4f}"
        if part in line
        else f"ranked in {line['score_seconds']:.2g} s"
    )
    tuned = ", ".join(
        f"{k} {v:.3g}" if isinstance(v, float) else f"{k} {v}" for k, v in line["tuned"].items()
    )
    mark = " (diverged)" if "diverged" in line else " (leaky)" if "leaky" in line else ""
    return f"{label}: {score}{mark}, {line['seconds']:.0f} s ({tuned})"


def _mean_seconds(store: Store) -> float:
    seconds = [line["seconds"] + line.get("audit", {}).get("seconds", 0) for line in store.lines]
    mean: float = sum(seconds) / len(seconds)
    return mean


def _hours(seconds: float) -> str:
    minutes = max(0, round(seconds / 60))
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


if __name__ == "__main__":
    with reporting_errors():
        sys.exit(main())
