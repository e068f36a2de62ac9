"""Train a recommender on a data set with missing modalities, evaluate it on new items, and write a report.

    milk-recsys train                           # KEEP on an embedded data set
    milk-recsys train --data $INVMOD_DATA/lfm2k
    milk-recsys train --model milk --help

In a checkout `python examples/milk_recsys/train.py` is the same command.

This file is the whole of a run, from top to bottom: options, data, split, model, loop, evaluation, files.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # started as a script: `milk_recsys` lies in the folder above, not in this one
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from milk_recsys.run.begin import begin, start_folder, write_config

if (
    __name__ == "__main__"
):  # options and data are checked before torch is imported, which takes seconds
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
from milk_recsys.base.statistics import paired_difference
from milk_recsys.catalogue.dataset import Dataset
from milk_recsys.catalogue.split import Split, draw_split, read_split, split_facts, write_split
from milk_recsys.catalogue.tables import Tables, build_tables
from milk_recsys.config.options import OptionError, Options
from milk_recsys.methods.learner import make_learner
from milk_recsys.ranking.metrics import NonFiniteScores
from milk_recsys.report.page import write_report
from milk_recsys.run.evaluation import evaluate_group, evaluate_test
from milk_recsys.run.loop import Diverged, check_learner, train_model, versions
from milk_recsys.run.progress import Progress

FLOOR_CELLS = 2**29  # of warm times new items: 2 GB in float32, twice
FLOOR: Final = "content_knn"  # what is ranked by beside every model, since it trains nothing


def run(options: Options, dataset: Dataset, progress: Progress | None = None) -> dict[str, Any]:
    """Train, evaluate and report into the folder that `begin.open_run` opened; go on where a killed run stopped.

    Under ``torchrun`` every process calls this; they train together, and the one of rank 0 writes.

    Returns:
        the content of metrics.json.

    Raises:
        DataError: the data or the split cannot be used.
        Diverged: training diverged.
    """
    if options.run.out is None or options.run.compare is None:
        raise ValueError(
            "run: `options` must come from `begin.open_run`, which settles `out` and `compare`."
        )
    device = choose_device(options.run.device)
    if options.run.threads:
        torch.set_num_threads(options.run.threads)
    with joined_world(device) as world, matrix_products(options, device):
        options = options.but(out=world.broadcast(options.run.out))
        return _run(options, dataset, device, world, progress or Progress(quiet=not world.is_main))


@contextmanager
def matrix_products(options: Options, device: torch.device) -> Iterator[None]:
    """Set how a GPU multiplies float32 matrices, for the time of a run."""
    before = torch.get_float32_matmul_precision()
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high" if options.run.tf32 else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _run(
    options: Options, dataset: Dataset, device: torch.device, world: World, progress: Progress
) -> dict[str, Any]:
    folder = Path(str(options.run.out))
    split, notes = _split(options, dataset, folder)
    facts = split_facts(dataset, split)
    tables = build_tables(dataset, split, options, device)
    check_learner(options, device, world)
    world.barrier()  # nothing was written so far, so that bad input leaves no half run behind, and all ranks saw the same
    if world.is_main:
        start_folder(folder, dataset)
        if not (folder / "config.json").exists():
            write_split(folder / "split.npz", split)
            write_config(options, dataset)  # last: it makes the folder that of a run

    with progress:
        for note in dict.fromkeys((*dataset.notes, *options.notes(), *notes)):
            progress.say(f"note: {note}")
        model, record = train_model(options, tables, folder, progress, world)
        sections, per_user = evaluate_test(model, tables, options.loop.monitor, world)
        floor = _floor(options, tables, per_user, world)
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
        "floor": floor,
        "compare": compare,
    }
    if world.is_main:
        write_json(folder / "metrics.json", metrics)
        write_report(folder)  # report.html comes last: a run is finished when it is there
    return metrics


def _floor(
    options: Options, tables: Tables, per_user: dict[str, dict[str, Tensor]], world: World
) -> dict[str, Any] | None:
    """Rank the test items by content kNN, which trains nothing, and compare paired over users."""
    if options.run.model == FLOOR:
        return None
    if tables.features.mapped:
        return {
            "model": FLOOR,
            "left_out": "The features are too many to be held in memory, as it would have to.",
        }
    if len(tables.warm) * len(tables.test.candidates) > FLOOR_CELLS:
        return {
            "model": FLOOR,
            "left_out": "There are too many training items times test items for it.",
        }
    learner = make_learner(options.but(model=FLOOR), tables)
    learner.prepare()
    found, other = evaluate_group(learner, tables, tables.test, tables.mask, world)
    names = dict.fromkeys(("ndcg@20", "recall@20", options.loop.monitor))
    difference = {name: paired_difference(per_user["test"][name], other[name]) for name in names}
    return {"model": FLOOR, "test": found, "difference": {"test": difference}}


def _compare(
    options: Options,
    tables: Tables,
    folder: Path,
    progress: Progress,
    per_user: dict[str, dict[str, Tensor]],
    world: World,
) -> dict[str, Any]:
    """Train the ablation without both modules on the same split, and compare paired over users."""
    ablation = options.but(model="erm")
    if world.is_main:
        folder.mkdir(exist_ok=True)
    model, record = train_model(ablation, tables, folder, progress, world)
    sections, other = evaluate_test(model, tables, options.loop.monitor, world)
    names = dict.fromkeys(("ndcg@20", "recall@20", options.loop.monitor))

    def difference(where: str) -> dict[str, Any]:
        return {
            name: paired_difference(per_user[where][name], other[where][name]) for name in names
        }

    def lost(values: dict[str, dict[str, Tensor]], where: str, name: str) -> Tensor:
        return values["test_complete"][name] - values[where][name]

    def drop_difference(where: str) -> dict[str, Any]:
        """What the model loses with a modality hidden, less what the ablation loses."""
        return {
            name: paired_difference(lost(per_user, where, name), lost(other, where, name))
            for name in names
        }

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


def _split(options: Options, dataset: Dataset, folder: Path) -> tuple[Split, list[str]]:
    """Read the split of the run that goes on, or a given one, or draw one."""
    if (folder / "config.json").exists():
        return read_split(folder / "split.npz", dataset, options.data.setting)
    return (
        read_split(options.data.split, dataset, options.data.setting)
        if options.data.split
        else draw_split(dataset, options.data)
    )


# --- the loop -------------------------------------------------------------------------------------------------------


# --- small things ---------------------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None, *, prog: str = "train.py") -> int:
    """Run the command line.

    This module has imported torch by then: `milk_recsys.__main__` calls `begin` and `run_command` itself, as a script
    does, so that options and data are checked before.

    Returns:
        the exit status of `run_command`. (Options or data that cannot be read exit with 2 at once.)
    """
    return run_command(*begin(sys.argv[1:] if argv is None else argv, prog=prog))


def run_command(options: Options, dataset: Dataset) -> int:
    """Run with what `begin` returned, and say where the report is.

    Returns:
        the exit status: 0, 1 where training diverged, 2 where the input is bad, 130 where it was interrupted.
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
        print(f"\ninterrupted; go on with --resume --out {options.run.out}", file=sys.stderr)
        return 130
    test = metrics["test"]
    print(
        f"{metrics['model']} on {metrics['data']}, {metrics['setting']}: test ndcg@20 {test['ndcg@20']:.4f}, "
        f"recall@20 {test['recall@20']:.4f} over {test['users']} users"
        + ("" if not options.card.trains else f" (best epoch {metrics['best_epoch']})")
    )
    if "test" in (metrics["floor"] or {}):
        print(f"{FLOOR} beside it: test ndcg@20 {metrics['floor']['test']['ndcg@20']:.4f}")
    if metrics["compare"]:
        print(f"erm beside it: test ndcg@20 {metrics['compare']['test']['ndcg@20']:.4f}")
    print(f"report: {Path(str(options.run.out)) / 'report.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(OPTIONS, DATASET))
