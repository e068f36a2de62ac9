"""Training of one model: epochs, early stopping, checkpoints."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median
from typing import Any, cast

import numpy as np
import torch

import invmod
from milk_recsys.base.distributed import SINGLE_PROCESS, World
from milk_recsys.base.files import Journal
from milk_recsys.catalogue.tables import Tables
from milk_recsys.config.method import load
from milk_recsys.config.options import OptionError, Options
from milk_recsys.methods.contract import EpochLearner, Learner
from milk_recsys.methods.factors import Factors
from milk_recsys.methods.learner import make_learner
from milk_recsys.run.evaluation import evaluate_group
from milk_recsys.run.forecast import Forecast
from milk_recsys.run.progress import Progress
from milk_recsys.run.trackers import Tracked

__all__ = ["Diverged", "check_learner", "judge", "train_epoch", "train_model", "versions"]


# Maximum time between checkpoints, which are also written at every evaluation.
SAVE_SECONDS = 30.0


class Diverged(RuntimeError):
    """The loss is NaN or infinite."""


def train_model(
    options: Options,
    tables: Tables,
    folder: Path,
    progress: Progress,
    world: World = SINGLE_PROCESS,
    factors: Factors | None = None,
    tracked: Tracked | None = None,
) -> tuple[Learner, dict[str, Any]]:
    """Train one model to its best validation score, or resume from the folder's checkpoint.

    Rank 0 writes history.jsonl, model.safetensors (the best weights) and checkpoint.safetensors
    into the folder.

    Arguments:
        factors: trained factors for a baseline that starts from them; None to train them.
        tracked: where lines of the history are sent as well.

    Returns:
        the best model, and ``best_epoch``, ``epochs``, ``seconds_per_epoch``, and ``chosen`` if
        the method chose options itself.
    """
    begun = time.perf_counter()
    learner, method = make_learner(options, tables, world, factors), options.definition
    history = Journal(folder / "history.jsonl")
    checkpoint, best_file = folder / "checkpoint.safetensors", folder / "model.safetensors"
    state: dict[str, Any] = {
        "epoch": -1,
        "best_epoch": -1,
        "best": -math.inf,
        "stale": 0,
        "done": False,
    }
    # A checkpoint from before the first evaluation has null as best score: JSON has no -inf.
    if checkpoint.exists() and method.trains:
        state = learner.load(checkpoint)
        state["best"] = -math.inf if state["best"] is None else state["best"]
    world.barrier()
    # A killed run may have written history lines of epochs after its last checkpoint.
    if world.is_main:
        history.truncate_after(state["epoch"])
    if method.trains:
        _train(
            *(
                cast(EpochLearner, learner),
                options,
                tables,
                state,
                history,
                folder,
                progress,
                world,
            ),
            tracked or Tracked(None),
        )
    else:
        # Methods in closed form are fitted here, and have a history of one line.
        learner.prepare()
        line: dict[str, Any] = {"epoch": 0, "best": True}
        validated = 0.0
        if len(tables.validation.candidates):
            line["validation"], _ = evaluate_group(
                learner, tables, tables.validation, tables.mask, world
            )
            validated = line["validation"][options.loop.monitor]
        line["seconds"] = time.perf_counter() - begun
        if learner.chosen:
            progress.log(f"{method.name}: chosen {_in_words(learner.chosen)}")
        learner.save(best_file, {"epoch": 0, "model": method.name}, weights_only=True)
        if world.is_main:
            history.append(line)
            (tracked or Tracked(None)).epoch(line)
        with progress.training(method.name, 1, 0) as bar:
            bar.epoch(line, validated, options.loop.monitor)

    world.barrier()  # Rank 0 must have written the file before any rank reads it.
    facts = learner.load(best_file, weights_only=True)
    seconds = [line["seconds"] for line in history.read()]
    return learner, {
        "best_epoch": facts["epoch"],
        "epochs": len(seconds),
        # The first epoch is slower: it compiles or captures the step.
        "seconds_per_epoch": median(seconds[1:] or seconds),
        **({"chosen": learner.chosen} if learner.chosen else {}),
    }


def _in_words(chosen: Mapping[str, Any]) -> str:
    """Return chosen options on one line; those of each pattern are in metrics.json only."""

    def words(value: Any) -> str:
        if isinstance(value, float):
            return f"{value:.3g}"
        if isinstance(value, Mapping):
            return ", ".join(f"{name} {words(each)}" for name, each in value.items())
        return str(value)

    def nested(value: Any) -> bool:
        return isinstance(value, Mapping) and any(isinstance(x, Mapping) for x in value.values())

    return "; ".join(f"{name} {words(x)}" for name, x in chosen.items() if not nested(x))


def _train(
    learner: EpochLearner,
    options: Options,
    tables: Tables,
    state: dict[str, Any],
    history: Journal,
    folder: Path,
    progress: Progress,
    world: World,
    tracked: Tracked,
) -> None:
    """Train until early stopping or the last epoch.

    Arguments:
        state: the state of the last checkpoint, changed in place: ``epoch`` and ``best_epoch`` (-1
            for none), the ``best`` score, the number of ``stale`` evaluations, and whether it is
            ``done``.
    """
    loop, name = options.loop, options.run.model
    validates = len(tables.validation.candidates) > 0  # With --fit-all all epochs are trained.
    checkpoint, best_file = folder / "checkpoint.safetensors", folder / "model.safetensors"
    saved = time.monotonic()

    def save_factors(epoch: int, loss: float) -> None:
        nonlocal saved
        progress.log(f"{name}, factors, epoch {epoch - 1}: loss {loss:.4f}")
        if time.monotonic() - saved > SAVE_SECONDS:
            learner.save(checkpoint, {**state, "best": None})
            saved = time.monotonic()

    learner.prepare(save_factors)
    forecast = Forecast(loop.epochs, loop.eval_every, loop.patience, validates=validates)
    with progress.training(name, loop.epochs, state["epoch"] + 1) as bar:
        for epoch in range(state["epoch"] + 1, loop.epochs):
            if state["done"]:
                break
            line = train_epoch(learner, epoch, bar.step)
            is_last = epoch == loop.epochs - 1
            evaluates = validates and (epoch % loop.eval_every == 0 or is_last)
            state["epoch"] = epoch
            if not validates and is_last:
                state["best_epoch"], state["done"] = epoch, True
                learner.save(best_file, {"epoch": epoch, "model": name}, weights_only=True)
            if evaluates:
                line["validation"], _ = evaluate_group(
                    learner, tables, tables.validation, tables.mask, world
                )
                line["best"] = judge(state, line["validation"][loop.monitor], loop.patience)
                if line["best"]:
                    learner.save(best_file, {"epoch": epoch, "model": name}, weights_only=True)
            if world.is_main:
                history.append(line)
                tracked.epoch(line)
            text = forecast.after(epoch, state["stale"], done=state["done"])
            bar.epoch(line, max(state["best"], 0.0), loop.monitor, text)
            # All ranks take part in saving, so they follow the clock of rank 0.
            overdue = time.monotonic() - saved > SAVE_SECONDS
            if world.broadcast(evaluates or is_last or overdue):
                best = None if state["best"] == -math.inf else state["best"]
                learner.save(checkpoint, {**state, "best": best})
                saved = time.monotonic()


def check_learner(options: Options, device: torch.device, world: World) -> None:
    """Check, before any file is written, that the learner can run with the options.

    Raises:
        DataError: the options require compiled loops or TorchRec, which are not available.
        OptionError: the options do not support this number of processes.
    """
    method = options.definition
    if world.size > 1 and not method.distributed:
        raise OptionError(
            f"--model {method.name} trains in one process; start it without torchrun."
        )
    if method.check:
        load(method.check)(options, device, world)


def train_epoch(
    learner: EpochLearner, epoch: int, on_step: Callable[[], None] = lambda: None
) -> dict[str, Any]:
    """Train for an epoch.

    Returns:
        the epoch's line of the history: means over triples of the loss and its terms, and the time.

    Raises:
        Diverged: the loss is NaN or infinite.
    """
    begun = time.perf_counter()
    means = learner.train_epoch(epoch, on_step)
    if not math.isfinite(means["loss"]):
        raise Diverged(
            f"training diverged in epoch {epoch}: the loss is {means['loss']}. Lower --lr, or the "
            "weights of the loss's other terms."
        )
    seconds = time.perf_counter() - begun
    return {
        "epoch": epoch,
        **means,
        "seconds": seconds,
        "triples_per_second": learner.num_pairs / seconds,
    }


def judge(state: dict[str, Any], score: float, patience: int) -> bool:
    """Update the state of early stopping with a validation score.

    A score that is strictly higher than the best one is the new best. Training is done after
    `patience` evaluations in a row without a new best.

    Returns:
        whether the score is the new best.
    """
    improved = bool(score > state["best"])
    if improved:
        state["best"], state["best_epoch"], state["stale"] = score, state["epoch"], 0
    else:
        state["stale"] += 1
        state["done"] = state["stale"] >= patience
    return improved


def versions(device: torch.device) -> dict[str, str]:
    """Return the versions and the device on which the results of a run depend."""
    return {
        "invmod": invmod.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name()
        if device.type == "cuda"
        else f"cpu, {torch.get_num_threads()} threads",
    }
