"""Train a recommender on data with missing modalities, evaluate it on new items, write a report.

    milk-recsys train                           # KEEP on an embedded data set
    milk-recsys train --data $INVMOD_DATA/lfm2k
    milk-recsys train --model milk --help

In a checkout `python examples/milk_recsys/train.py` is the same command.

This file shows a run from beginning to end: options, data, split, model, training, evaluation,
files.
"""

from __future__ import annotations

import sys
from pathlib import Path

# As a script, this file needs the folder above it on the path to import `milk_recsys`.
if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from milk_recsys.run.begin import begin, start_folder, write_config

# Importing torch takes seconds, so options and data are checked before.
if __name__ == "__main__":
    OPTIONS, DATASET = begin(sys.argv[1:])

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import torch
from torch import Tensor

from milk_recsys.base.device import choose_device
from milk_recsys.base.distributed import World, joined_world
from milk_recsys.base.errors import DataError
from milk_recsys.base.files import write_json
from milk_recsys.base.launch import delay_nonzero_exit, silence_other_ranks
from milk_recsys.catalogue.dataset import Dataset
from milk_recsys.catalogue.split import Split, draw_split, read_split, split_facts, write_split
from milk_recsys.catalogue.tables import Tables, build_tables
from milk_recsys.config.options import DataOptions, OptionError, Options
from milk_recsys.methods.learner import make_learner
from milk_recsys.ranking.metrics import NonFiniteScores
from milk_recsys.report.page import write_report
from milk_recsys.run.evaluation import (
    compared_metrics,
    evaluate_group,
    evaluate_test,
    paired_differences,
)
from milk_recsys.run.loop import Diverged, check_learner, train_model, versions
from milk_recsys.run.progress import Progress

# Every run also evaluates this method on its test items, since it needs no training.
UNTRAINED_BASELINE: Final = "content_knn"
# Largest number of similarities (warm items times test items) for which it is evaluated; they take
# 2 GB in float32, twice.
MAX_SIMILARITIES = 2**29


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
    folder = Path(str(options.run.out))
    split, notes = _split(options.data, dataset, folder)
    facts = split_facts(dataset, split)
    tables = build_tables(dataset, split, options, device, world)
    check_learner(options, device, world)
    # No file is written before this point, so bad input leaves no partial run behind. The barrier
    # ensures that all ranks have seen the folder in the same state.
    world.barrier()
    if world.is_main:
        start_folder(folder, dataset)
        if not (folder / "config.json").exists():
            write_split(folder / "split.npz", split)
            # config.json is written last because it marks the folder as that of a run.
            write_config(options, dataset)

    with progress:
        for note in dict.fromkeys((*dataset.notes, *options.notes(), *notes)):
            progress.log(f"note: {note}")
        model, record = train_model(options, tables, folder, progress, world)
        sections, per_user = evaluate_test(model, tables, options.loop.monitor, world)
        baseline = _evaluate_baseline(options, tables, per_user, world)
        compare = None
        if options.run.compare == "erm":
            compare = _compare(options, tables, folder / "compare", progress, per_user, world)
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
        **sections,
        "floor": baseline,
        "compare": compare,
    }
    if world.is_main:
        write_json(folder / "metrics.json", metrics)
        # report.html is written last because it marks the run as finished.
        write_report(folder)
    return metrics


def _evaluate_baseline(
    options: Options, tables: Tables, per_user: dict[str, dict[str, Tensor]], world: World
) -> dict[str, Any] | None:
    """Evaluate the untrained baseline on the test items, with paired differences over users.

    Returns:
        Its test metrics and the differences to the model, or the reason why it was left out; None
        if the model is this baseline.
    """
    if options.run.model == UNTRAINED_BASELINE:
        return None
    if tables.blocks is not None:
        return {
            "model": UNTRAINED_BASELINE,
            "left_out": "It needs all training pairs in one process, and --user-blocks divides "
            "them.",
        }
    if tables.features.mapped:
        return {
            "model": UNTRAINED_BASELINE,
            "left_out": "It needs all features in memory, for which they are too large.",
        }
    if len(tables.warm) * len(tables.test.candidates) > MAX_SIMILARITIES:
        return {
            "model": UNTRAINED_BASELINE,
            "left_out": "There are too many pairs of a training item and a test item.",
        }
    learner = make_learner(options.replace(model=UNTRAINED_BASELINE), tables)
    learner.prepare()
    metrics, baseline = evaluate_group(learner, tables, tables.test, tables.mask, world)
    difference = paired_differences(per_user["test"], baseline, options.loop.monitor)
    return {"model": UNTRAINED_BASELINE, "test": metrics, "difference": {"test": difference}}


def _compare(
    options: Options,
    tables: Tables,
    folder: Path,
    progress: Progress,
    per_user: dict[str, dict[str, Tensor]],
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
        return read_split(folder / "split.npz", dataset, options.setting)
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
        return delay_nonzero_exit(_run_command(options, dataset))


def _run_command(options: Options, dataset: Dataset) -> int:
    try:
        metrics = run(options, dataset)
    except (DataError, OptionError, Diverged, NonFiniteScores) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, (DataError, OptionError)) else 1
    except KeyboardInterrupt:
        print(f"\ninterrupted; resume with --resume --out {options.run.out}", file=sys.stderr)
        return 130
    test = metrics["test"]
    print(
        f"{metrics['model']} on {metrics['data']}, {metrics['setting']}: "
        f"test ndcg@20 {test['ndcg@20']:.4f}, "
        f"recall@20 {test['recall@20']:.4f} over {test['users']} users"
        + ("" if not options.definition.trains else f" (best epoch {metrics['best_epoch']})")
    )
    if "test" in (metrics["floor"] or {}):
        baseline = metrics["floor"]["test"]["ndcg@20"]
        print(f"{UNTRAINED_BASELINE} for comparison: test ndcg@20 {baseline:.4f}")
    if metrics["compare"]:
        print(f"erm for comparison: test ndcg@20 {metrics['compare']['test']['ndcg@20']:.4f}")
    print(f"report: {Path(str(options.run.out)) / 'report.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(OPTIONS, DATASET))
