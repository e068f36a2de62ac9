"""Train a recommender on a data set with missing modalities, evaluate it on new items, and write a report.

    python examples/milk_recsys/train.py                          # KEEP on an embedded data set
    python examples/milk_recsys/train.py --data $INVMOD_DATA/lfm2k
    python examples/milk_recsys/train.py --model milk --help

This file is the whole of a run, from top to bottom: options, data, split, model, loop, evaluation, files.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:  # started as a script: `milk_recsys` lies in the folder above, not in this one
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from milk_recsys.begin import begin, start_folder, write_config

if __name__ == "__main__":  # options and data are checked before torch is imported, which takes seconds
    OPTIONS, DATASET = begin(sys.argv[1:])

import dataclasses
import json
import math
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

import invmod
from milk_recsys.baselines.factors import Factors
from milk_recsys.baselines.learner import BaselineLearner
from milk_recsys.baselines.options import BASELINES, UNTRAINED
from milk_recsys.baselines.shape import WarmData
from milk_recsys.data import Dataset
from milk_recsys.errors import DataError
from milk_recsys.evaluation import Ranker, Tables, build_tables, evaluate_group, evaluate_test, paired_difference
from milk_recsys.files import replacing, write_json
from milk_recsys.launch import let_rank_0_end_first, only_one_speaks
from milk_recsys.learner import Learner, check_learner
from milk_recsys.metrics import NonFiniteScores
from milk_recsys.model import Recommender, Terms, choose_device, environments
from milk_recsys.options import OptionError, Options
from milk_recsys.progress import Progress
from milk_recsys.report import write_report
from milk_recsys.sampling import sample_negatives
from milk_recsys.split import Split, draw_split, read_split, split_facts, write_split
from milk_recsys.world import ALONE, World, joined_world

SAVE_SECONDS = 30.0  # a checkpoint at least this often, beside the one at every evaluation
TRIPLES_AT_ONCE = 2**22  # that are drawn ahead
FLOOR_CELLS = 2**29  # of warm times new items: 2 GB in float32, twice
FLOOR: Final = "content_knn"  # what is ranked by beside every model, since it trains nothing


class Diverged(RuntimeError):
    """The loss is no longer a number."""


def run(options: Options, dataset: Dataset, progress: Progress | None = None) -> dict[str, Any]:
    """Train, evaluate and report into the folder that `begin.open_run` opened; go on where a killed run stopped.

    Under ``torchrun`` every process calls this; they train together, and the one of rank 0 writes.

    Returns:
        the content of metrics.json.

    Raises:
        DataError: the data or the split cannot be used.
        Diverged: training diverged.
    """
    if options.out is None or options.compare is None:
        raise ValueError("run: `options` must come from `begin.open_run`, which settles `out` and `compare`.")
    device = choose_device(options.device)
    if options.threads:
        torch.set_num_threads(options.threads)
    with joined_world(device) as world, matrix_products(options, device):
        options = dataclasses.replace(options, out=world.tell(options.out))
        return _run(options, dataset, device, world, progress or Progress(quiet=not world.writes))


@contextmanager
def matrix_products(options: Options, device: torch.device) -> Iterator[None]:
    """Set how a GPU multiplies float32 matrices, for the time of a run."""
    before = torch.get_float32_matmul_precision()
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high" if options.tf32 else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def _run(options: Options, dataset: Dataset, device: torch.device, world: World, progress: Progress) -> dict[str, Any]:
    folder = Path(str(options.out))
    split, notes = _split(options, dataset, folder)
    facts = split_facts(dataset, split)
    tables = build_tables(dataset, split, options, device)
    check_learner(options, device, world)
    world.wait()  # nothing was written so far, so that bad input leaves no half run behind, and all ranks saw the same
    if world.writes:
        start_folder(folder, dataset)
        if not (folder / "config.json").exists():
            write_split(folder / "split.npz", split)
            write_config(options, dataset)  # last: it makes the folder that of a run

    with progress:
        for note in dict.fromkeys((*dataset.notes, *options.notes(), *notes)):
            progress.say(f"note: {note}")
        model, record = train_model(options, tables, folder, progress, world)
        sections, per_user = evaluate_test(model, tables, options.monitor, world)
        floor = _floor(options, tables, per_user, world)
        compare = None
        if options.compare == "erm":
            compare = _compare(options, tables, folder / "compare", progress, per_user, world)
    metrics = {
        "model": options.model,
        "data": dataset.name,
        "setting": options.setting,
        "seed": options.seed,
        "split_seed": None if options.split else options.split_seed,
        **record,
        "monitor": options.monitor,
        "candidates": options.candidates,
        "versions": versions(device) | ({"ranks": world.size} if world.size > 1 else {}),
        "missingness": {"modalities": list(dataset.modalities), **facts},
        **sections,
        "floor": floor,
        "compare": compare,
    }
    if world.writes:
        write_json(folder / "metrics.json", metrics)
        write_report(folder)  # report.html comes last: a run is finished when it is there
    return metrics


def _floor(
    options: Options, tables: Tables, per_user: dict[str, dict[str, Tensor]], world: World
) -> dict[str, Any] | None:
    """Rank the test items by content kNN, which trains nothing, and compare paired over users."""
    if options.model == FLOOR:
        return None
    if tables.features.mapped:
        return {"model": FLOOR, "left_out": "The features are too many to be held in memory, as it would have to."}
    if len(tables.warm) * len(tables.test.candidates) > FLOOR_CELLS:
        return {"model": FLOOR, "left_out": "There are too many training items times test items for it."}
    plain = dataclasses.replace(options, model=FLOOR, method=None)
    learner = BaselineLearner(WarmData.of_tables(tables), plain)
    found, other = evaluate_group(learner, tables, tables.test, tables.observed, world)
    names = dict.fromkeys(("ndcg@20", "recall@20", options.monitor))
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
    ablation = dataclasses.replace(options, model="erm", method=None)
    if world.writes:
        folder.mkdir(exist_ok=True)
    model, record = train_model(ablation, tables, folder, progress, world)
    sections, other = evaluate_test(model, tables, options.monitor, world)
    names = dict.fromkeys(("ndcg@20", "recall@20", options.monitor))

    def difference(where: str) -> dict[str, Any]:
        return {name: paired_difference(per_user[where][name], other[where][name]) for name in names}

    def lost(values: dict[str, dict[str, Tensor]], where: str, name: str) -> Tensor:
        return values["test_complete"][name] - values[where][name]

    def drop_difference(where: str) -> dict[str, Any]:
        """What the model loses with a modality hidden, less what the ablation loses."""
        return {name: paired_difference(lost(per_user, where, name), lost(other, where, name)) for name in names}

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
        return read_split(folder / "split.npz", dataset, options.setting)
    return read_split(options.split, dataset, options.setting) if options.split else draw_split(dataset, options)


# --- the loop -------------------------------------------------------------------------------------------------------


def train_model(
    options: Options,
    tables: Tables,
    folder: Path,
    progress: Progress,
    world: World = ALONE,
    factors: Factors | None = None,
) -> tuple[Ranker, dict[str, Any]]:
    """Train one model to its best validation score, going on from the folder's checkpoint where there is one.

    Rank 0 writes history.jsonl, model.safetensors (the best weights) and checkpoint.safetensors into the folder.

    Arguments:
        factors: of a baseline that needs them, where they are trained already; None trains them.

    Returns:
        the best model, and ``best_epoch``, ``epochs``, ``seconds_per_epoch``.
    """
    begun = time.perf_counter()
    learner = make_learner(options, tables, world, factors)
    model = ranker_of(learner)
    history = History(folder / "history.jsonl")
    checkpoint, best_file = folder / "checkpoint.safetensors", folder / "model.safetensors"
    state: dict[str, Any] = {"epoch": -1, "best_epoch": -1, "best": -math.inf, "stale": 0, "done": False}
    if checkpoint.exists():
        state = learner.load(checkpoint)
        state["best"] = -math.inf if state["best"] is None else state["best"]
    world.wait()
    if world.writes:
        history.keep(state["epoch"])
    saved = time.monotonic()

    def keep_factors(epoch: int, loss: float) -> None:
        nonlocal saved
        progress.say(f"{options.model}, factors, epoch {epoch - 1}: loss {loss:.4f}")
        if time.monotonic() - saved > SAVE_SECONDS:
            learner.save(checkpoint, {**state, "best": None})
            saved = time.monotonic()

    if isinstance(learner, BaselineLearner):
        learner.pretrain(keep_factors)
    trains = options.model not in UNTRAINED
    epochs = options.epochs if trains else 1
    with progress.training(options.model, epochs, state["epoch"] + 1) as bar:
        for epoch in range(state["epoch"] + 1, epochs):
            if state["done"]:
                break
            line: dict[str, Any] = train_epoch(learner, epoch, options, bar.step) if trains else {"epoch": epoch}
            evaluates = epoch % options.eval_every == 0 or epoch == epochs - 1
            state["epoch"] = epoch
            if evaluates:
                line["validation"], _ = evaluate_group(model, tables, tables.validation, tables.observed, world)
                line["best"] = judge(state, line["validation"][options.monitor], options.patience)
                if line["best"]:
                    learner.save(best_file, {"epoch": epoch, "model": options.model}, weights_only=True)
            if not trains:
                line["seconds"] = time.perf_counter() - begun
            if world.writes:
                history.add(line)
            bar.epoch(line, state["best"], options.monitor)
            if world.tell(evaluates or time.monotonic() - saved > SAVE_SECONDS):
                learner.save(checkpoint, state)
                saved = time.monotonic()

    world.wait()  # for the files of rank 0
    facts = learner.load(best_file, weights_only=True)
    seconds = [line["seconds"] for line in history.read()]
    if isinstance(model, Recommender):
        model.eval()
    return model, {
        "best_epoch": facts["epoch"],
        "epochs": len(seconds),
        "seconds_per_epoch": median(seconds[1:] or seconds),
    }


def make_learner(
    options: Options, tables: Tables, world: World = ALONE, factors: Factors | None = None
) -> Learner | BaselineLearner:
    """Build what learns, from tables without a row of the items that it must not see."""
    if options.model in BASELINES:
        return BaselineLearner(WarmData.of_tables(tables), options, factors)
    seen = tables.seen()
    return Learner(build_model(options, seen), seen, options, world)


def ranker_of(learner: Learner | BaselineLearner) -> Ranker:
    """Return what ranks new items."""
    return learner.model if isinstance(learner, Learner) else learner


def build_model(options: Options, tables: Tables) -> Recommender:
    """Build the model from ``options.seed`` alone, with its preparation fitted on warm items."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        model = Recommender(tables.features.dims, tables.num_users, options, sharded=options.user_table == "sharded")
    model.to(tables.device, torch.float64 if options.dtype == "float64" else torch.float32)
    model.fit_preparation(tables.features, tables.observed, tables.warm)
    model.trained_users.copy_(tables.trained_users)
    return model


def judge(state: dict[str, Any], score: float, patience: int) -> bool:
    """Early stopping: a strict gain is the new best; stop at the `patience`-th evaluation in a row without one."""
    gained = bool(score > state["best"])
    if gained:
        state["best"], state["best_epoch"], state["stale"] = score, state["epoch"], 0
    else:
        state["stale"] += 1
        state["done"] = state["stale"] >= patience
    return gained


def train_epoch(
    learner: Learner | BaselineLearner, epoch: int, options: Options, on_step: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Train on every pair once, each with a fresh negative; the last batch is kept.

    What is random depends on the seed and the number of the epoch alone, so that an epoch can be done again.

    Returns:
        the epoch's line of the history: means over triples of the loss and its terms, and the time.
    """
    begun = time.perf_counter()
    if isinstance(learner, BaselineLearner):
        count, means = learner.data.num_pairs, learner.train_epoch(epoch)
    else:
        count = learner.tables.num_pairs
        learner.model.train()
        sums = epoch_sums(learner, epoch, options, on_step)
        learner.model.eval()
        means = dict(zip(Terms._fields, (sums / count).tolist(), strict=True))
    if not math.isfinite(means["loss"]):
        raise Diverged(
            f"training diverged in epoch {epoch}: the loss is {means['loss']}. Lower --lr, or the weights of the "
            "loss's other terms."
        )
    seconds = time.perf_counter() - begun
    return {"epoch": epoch, **means, "seconds": seconds, "triples_per_second": count / seconds}


def epoch_sums(learner: Learner, epoch: int, options: Options, on_step: Callable[[], None]) -> Tensor:
    """Make an epoch's steps; return the sums of the terms over triples (5,), float64. A GPU is never waited for."""
    model, tables, device = learner.model, learner.tables, learner.device
    host = torch.Generator().manual_seed(epoch_seed(options.seed, epoch))
    generator = host
    if device.type != "cpu":
        generator = torch.Generator(device).manual_seed(host.initial_seed())
    kind = torch.int32 if tables.num_pairs < 2**31 else torch.int64
    order = torch.randperm(tables.num_pairs, generator=generator, dtype=kind, device=device)
    at_once = max(1, TRIPLES_AT_ONCE // options.batch_size) * options.batch_size

    sums = torch.zeros(len(Terms._fields), dtype=torch.float64, device=device)
    for chosen in torch.split(order, at_once):
        users, positives = tables.pairs_at(chosen)
        negatives = sample_negatives(users, tables.rows, tables.pool, generator=generator)
        parts = [torch.split(x, options.batch_size) for x in (users, positives, negatives)]
        weights = epoch_weights(tables, options, len(parts[0]), host, model.uniform)
        for batch in zip(*parts, weights, strict=True):
            sums += len(batch[0]) * learner.step(*batch)
            on_step()
    return sums


def epoch_seed(seed: int, epoch: int) -> int:
    """Give every epoch its own stream."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)[0] >> 1)


def epoch_weights(tables: Tables, options: Options, steps: int, generator: torch.Generator, like: Tensor) -> Tensor:
    """Draw an epoch's environments at once, (steps, E, M); the uniform row alone for a model without."""
    envs = environments(len(tables.modalities), options)
    if envs is None:
        return like.expand(steps, *like.shape)
    weights = envs.sample((steps,), generator=generator, dtype=like.dtype)
    return weights if like.device.type == "cpu" else weights.pin_memory().to(like.device, non_blocking=True)


# --- small things ---------------------------------------------------------------------------------------------------


class History:
    """A file with one JSON line an epoch."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def keep(self, epoch: int) -> None:
        """Drop what lies after an epoch: lines whose checkpoint was never written."""
        self._write([line for line in self.read() if line["epoch"] <= epoch])

    def mend(self) -> None:
        """Drop a last line that a kill has cut, so that the next one begins a line."""
        if self.path.exists():
            self._write(self.read())

    def _write(self, lines: list[dict[str, Any]]) -> None:
        with replacing(self.path) as temporary:
            temporary.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")

    def add(self, line: dict[str, Any]) -> None:
        """Append a line."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, allow_nan=False) + "\n")

    def read(self) -> list[dict[str, Any]]:
        """Read the whole lines; one that a kill has cut is left out."""
        text = self.path.read_text(encoding="utf-8") if self.path.exists() else ""
        try:
            return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
        except ValueError as error:
            raise DataError(
                f"{self.path}: has a damaged line ({error}). Remove it, or start in another --out."
            ) from None


def versions(device: torch.device) -> dict[str, str]:
    """Return what the figures depend on."""
    return {
        "invmod": invmod.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads",
    }


def main(options: Options, dataset: Dataset) -> int:
    """Run, and say where the report is.

    Returns:
        the exit status: 0, 1 where training diverged, 2 where the input is bad, 130 where it was interrupted.
    """
    with only_one_speaks():
        return let_rank_0_end_first(_main(options, dataset))


def _main(options: Options, dataset: Dataset) -> int:
    try:
        metrics = run(options, dataset)
    except (DataError, OptionError, Diverged, NonFiniteScores) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, (DataError, OptionError)) else 1
    except KeyboardInterrupt:
        print(f"\ninterrupted; go on with --resume --out {options.out}", file=sys.stderr)
        return 130
    test = metrics["test"]
    print(
        f"{metrics['model']} on {metrics['data']}, {metrics['setting']}: test ndcg@20 {test['ndcg@20']:.4f}, "
        f"recall@20 {test['recall@20']:.4f} over {test['users']} users"
        + ("" if metrics["model"] in UNTRAINED else f" (best epoch {metrics['best_epoch']})")
    )
    if "test" in (metrics["floor"] or {}):
        print(f"{FLOOR} beside it: test ndcg@20 {metrics['floor']['test']['ndcg@20']:.4f}")
    if metrics["compare"]:
        print(f"erm beside it: test ndcg@20 {metrics['compare']['test']['ndcg@20']:.4f}")
    print(f"report: {Path(str(options.out)) / 'report.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main(OPTIONS, DATASET))
