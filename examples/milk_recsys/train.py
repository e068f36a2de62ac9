"""Train a recommender on data with missing modalities, evaluate it on new items, write a report.

    milk-recsys train                           # KEEP on an embedded data set
    milk-recsys train --data $INVMOD_DATA/lfm2k
    milk-recsys train --model milk --help

In a checkout `python examples/milk_recsys/train.py` is the same command.

This file shows a run from beginning to end: options, data, split, model, training, evaluation,
files.
"""

from __future__ import annotations

import datetime
import sys
import time
from pathlib import Path

# As a script, this file needs the folder above it on the path to import `milk_recsys`.
if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from milk_recsys.base.terminal import one_line_interrupts

if __name__ == "__main__":
    one_line_interrupts()

from milk_recsys.run.begin import begin, write_config
from milk_recsys.run.folder import claimed_folder, start_folder

# Importing torch takes seconds, so options and data are checked before.
if __name__ == "__main__":
    OPTIONS, DATASET = begin(sys.argv[1:])

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor

from milk_recsys.base.device import choose_device
from milk_recsys.base.distributed import World, joined_world
from milk_recsys.base.errors import DataError
from milk_recsys.base.files import write_json
from milk_recsys.base.launch import delay_nonzero_exit, silence_other_ranks
from milk_recsys.base.terminal import print_error, print_line, reporting_errors
from milk_recsys.catalogue.dataset import Dataset
from milk_recsys.catalogue.split import Split, draw_split, split_facts
from milk_recsys.catalogue.split_file import read_split, write_split
from milk_recsys.catalogue.tables import Tables, build_tables
from milk_recsys.config.method import find_method
from milk_recsys.config.options import DataOptions, OptionError, Options
from milk_recsys.methods.contract import Learner
from milk_recsys.ranking.metrics import NonFiniteScores
from milk_recsys.report.advice import lists_command
from milk_recsys.report.page import write_report
from milk_recsys.run.baseline import UNTRAINED_BASELINE, evaluate_baseline, untrained_baseline
from milk_recsys.run.chance import evaluate_chance
from milk_recsys.run.evaluation import (
    PerUser,
    compared_metrics,
    evaluate_test,
    paired_differences,
)
from milk_recsys.run.lists import evaluate_lists
from milk_recsys.run.loop import Diverged, check_learner, train_model, versions
from milk_recsys.run.progress import Progress
from milk_recsys.run.trackers import Tracked, open_tracker


def run(options: Options, dataset: Dataset, progress: Progress | None = None) -> dict[str, Any]:
    """Train, evaluate and write a report, in the folder that `begin.open_run` opened.

    If the folder holds an unfinished run, this run is resumed. Under ``torchrun`` every process
    calls this function; all of them train together, and only rank 0 writes files.

    Returns:
        The content of metrics.json.

    Raises:
        DataError: the data set or the split cannot be used.
        Diverged: training diverged.
    """
    if options.run.out is None or options.run.compare is None:
        raise ValueError(
            "run: `options` must come from `begin.open_run`, which sets `out` and `compare`."
        )
    device = choose_device(options.run.device)
    if options.run.threads:
        torch.set_num_threads(options.run.threads)
    with joined_world(device) as world, matrix_products(options.run.tf32, device):
        # The default folder contains the time, so all ranks must use that of rank 0.
        options = options.replace(out=world.broadcast(options.run.out))
        return _run(options, dataset, device, world, progress or Progress(quiet=not world.is_main))


@contextmanager
def matrix_products(tf32: bool, device: torch.device) -> Iterator[None]:
    """Set the precision of a GPU's float32 matrix products, and restore it at the end."""
    before = torch.get_float32_matmul_precision()
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high" if tf32 else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _run(
    options: Options, dataset: Dataset, device: torch.device, world: World, progress: Progress
) -> dict[str, Any]:
    begun, folder = time.perf_counter(), Path(str(options.run.out))
    resumes = options.run.resume and (folder / "config.json").exists()
    split, notes = _split(options.data, dataset, folder)
    facts = split_facts(dataset, split)
    tables = build_tables(dataset, split, options, device, world)
    check_learner(options, device, world)
    # No file is written before this point, so bad input leaves no partial run behind. The barrier
    # ensures that all ranks have seen the folder in the same state.
    world.barrier()
    with _claimed(folder, resumes, world), progress:
        if world.is_main:
            start_folder(folder, dataset)
            if not resumes:
                write_split(folder / "split.npz", split)
                # config.json is written last because it marks the folder as that of a run.
                write_config(options, dataset)
        for note in dict.fromkeys((*dataset.notes, *options.notes(), *notes)):
            progress.log(f"note: {note}")
        tracked = Tracked(None)
        if world.is_main:
            tracked = open_tracker(options, folder, progress.log)
        model, record = train_model(options, tables, folder, progress, world, tracked=tracked)
        tested: dict[str, Any] = {"fit_all": True}
        if not options.data.fit_all:
            tested = _test(options, dataset, tables, model, folder, progress, world)
        metrics = {
            "model": options.run.model,
            "data": dataset.name,
            "setting": options.data.setting,
            "seed": options.run.seed,
            "split_seed": None if options.data.split else options.data.split_seed,
            **record,
            "monitor": options.loop.monitor,
            "candidates": options.data.candidates,
            "versions": versions(device) | ({"ranks": world.size} if world.size > 1 else {}),
            "missingness": {"modalities": list(dataset.modalities), **facts},
            **tested,
            "date": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
            "seconds": time.perf_counter() - begun,
        }
        tracked.finish(metrics)
        if world.is_main:
            write_json(folder / "metrics.json", metrics)
            # report.html is written last because it marks the run as finished.
            write_report(folder)
    return metrics


@contextmanager
def _claimed(folder: Path, resumes: bool, world: World) -> Iterator[None]:
    """Keep other processes from writing the folder. Rank 0 holds the lock for all ranks."""
    with ExitStack() as held:
        problem: str | None = None
        if world.is_main:
            try:
                held.enter_context(claimed_folder(folder, resumes=resumes))
            except (DataError, OptionError) as error:
                problem = str(error)
        if problem := world.broadcast(problem):
            raise OptionError(problem)
        yield


def _test(
    options: Options,
    dataset: Dataset,
    tables: Tables,
    model: Learner,
    folder: Path,
    progress: Progress,
    world: World,
) -> dict[str, Any]:
    """Evaluate the model on validation and test items, and others for comparison."""
    monitor = options.loop.monitor
    sections, per_user = evaluate_test(model, tables, monitor, world)
    untrained, left_out = untrained_baseline(options, tables)
    baseline = left_out and {"model": UNTRAINED_BASELINE, "left_out": left_out}
    if untrained is not None:
        baseline = evaluate_baseline(untrained, options, tables, per_user, world)
    compared = {"model": model} | ({} if untrained is None else {"floor": untrained})
    lists = evaluate_lists(compared, tables, dataset, per_user["test"], monitor, world)
    compare = None
    if options.run.compare == "erm":
        compare = _compare(options, tables, folder / "compare", progress, per_user, world)
    return {
        **sections,
        "chance": evaluate_chance(tables, per_user, monitor),
        "floor": baseline,
        "compare": compare,
        "lists": lists,
    }


def _compare(
    options: Options,
    tables: Tables,
    folder: Path,
    progress: Progress,
    per_user: dict[str, PerUser],
    world: World,
) -> dict[str, Any]:
    """Train the ablation without both modules on the same split; compare it paired over users.

    Returns:
        Its metrics, and the differences between the model and the ablation: on the test items as
        the setting has them, on complete test items, with each modality removed (``imposed``), and
        between the losses that this removal causes (``drops``).
    """
    ablation = options.replace(model="erm")
    if world.is_main:
        folder.mkdir(exist_ok=True)
    model, record = train_model(ablation, tables, folder, progress, world)
    monitor = options.loop.monitor
    sections, ablated = evaluate_test(model, tables, monitor, world)

    def difference(where: str) -> dict[str, Any]:
        return paired_differences(per_user[where], ablated[where], monitor)

    def lost(values: dict[str, dict[str, Tensor]], where: str) -> dict[str, Tensor]:
        """Return what each user loses by the removal of a modality, by metric."""
        complete, removed = values["test_complete"], values[where]
        return {name: complete[name] - removed[name] for name in compared_metrics(monitor)}

    def drop_difference(where: str) -> dict[str, Any]:
        """Return the model's loss from removing a modality, minus that of the ablation."""
        return paired_differences(lost(per_user, where), lost(ablated, where), monitor)

    imposed = [where for where in per_user if where.startswith("imposed/")]
    return {
        "model": "erm",
        **record,
        **sections,
        "difference": {
            "test": difference("test"),
            "test_complete": difference("test_complete"),
            "imposed": {where.removeprefix("imposed/"): difference(where) for where in imposed},
            "drops": {where.removeprefix("imposed/"): drop_difference(where) for where in imposed},
        },
    }


def _split(options: DataOptions, dataset: Dataset, folder: Path) -> tuple[Split, list[str]]:
    """Read the split of the run that is resumed or of ``--split``, or draw a new one."""
    if (folder / "config.json").exists():
        path = folder / "split.npz"
        return read_split(path, dataset, options.setting, fit_all=options.fit_all)
    return (
        read_split(options.split, dataset, options.setting)
        if options.split
        else draw_split(dataset, options)
    )


# --- the command line -----------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None, *, prog: str = "train.py") -> int:
    """Run the command line.

    Importing this module imports torch. `milk_recsys.__main__`, and this file as a script,
    therefore call `begin` and `run_command` themselves, so that options and data are checked before
    the import.

    Returns:
        The exit status of `run_command`. (Invalid options or data exit with status 2 at once.)
    """
    return run_command(*begin(sys.argv[1:] if argv is None else argv, prog=prog))


def run_command(options: Options, dataset: Dataset) -> int:
    """Run with the options and the data set that `begin` returned, and print the results.

    Returns:
        The exit status: 0 for success, 1 if training diverged, 2 for invalid input, 130 after an
        interruption.
    """
    with silence_other_ranks():
        try:
            with reporting_errors():
                return delay_nonzero_exit(_run_command(options, dataset))
        except SystemExit as exit_:
            return delay_nonzero_exit(int(exit_.code or 0))


def _run_command(options: Options, dataset: Dataset) -> int:
    try:
        metrics = run(options, dataset)
    except (DataError, OptionError, Diverged, NonFiniteScores) as error:
        print_error(error)
        return 2 if isinstance(error, (DataError, OptionError)) else 1
    except KeyboardInterrupt:
        print(f"\ninterrupted; resume with --resume --out {options.run.out}", file=sys.stderr)
        return 130
    folder = Path(str(options.run.out))
    print_line(_result(options, metrics))
    print_line(f"report: {folder / 'report.html'}")
    lists = lists_command(options, folder)
    print_line(f"next: {lists}" if lists else "next: read the report")
    return 0


def _result(options: Options, metrics: Mapping[str, Any]) -> str:
    """Return what came out, on one line."""
    title, data = options.definition.title, metrics["data"]
    if options.data.fit_all:
        return f"{title} on {data}: trained on all {metrics['missingness']['items']['warm']} items"
    test, metric = metrics["test"], "ndcg@20"
    users = f"{test['users']} users"
    line = f"{title} on {data}, {metrics['setting']}, {users}: NDCG@20 {test[metric]:.3f}"
    others = {
        find_method(UNTRAINED_BASELINE).title: metrics["floor"],
        "ERM": metrics["compare"],
        "random": metrics["chance"],
    }
    levels = {name: (own or {}).get("test") for name, own in others.items()}
    shown = [f"{name} {level[metric]:.3f}" for name, level in levels.items() if level]
    return f"{line} ({', '.join(shown)})" if shown else line


if __name__ == "__main__":
    sys.exit(run_command(OPTIONS, DATASET))
