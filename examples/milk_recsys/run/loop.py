"""Training of one model: epochs, early stopping, checkpoints."""

from __future__ import annotations

import math
import platform
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

import invmod
from milk_recsys.base.distributed import ALONE, World
from milk_recsys.base.files import Journal
from milk_recsys.base.random_state import epoch_seed
from milk_recsys.catalogue.tables import Tables
from milk_recsys.config.method_options import BASELINES, UNTRAINED
from milk_recsys.config.options import Options
from milk_recsys.methods.factors import Factors
from milk_recsys.methods.learner import BaselineLearner
from milk_recsys.methods.milk.learner import Learner
from milk_recsys.methods.milk.model import Recommender, Terms, environments
from milk_recsys.methods.warm import WarmData
from milk_recsys.ranking.negatives import sample_negatives
from milk_recsys.run.evaluation import Ranker, evaluate_group
from milk_recsys.run.progress import Progress

__all__ = ["Diverged", "build_model", "judge", "make_learner", "ranker_of", "train_epoch", "train_model", "versions"]


SAVE_SECONDS = 30.0  # a checkpoint at least this often, beside the one at every evaluation


TRIPLES_AT_ONCE = 2**22  # that are drawn ahead


class Diverged(RuntimeError):
    """The loss is no longer a number."""


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
    history = Journal(folder / "history.jsonl")
    checkpoint, best_file = folder / "checkpoint.safetensors", folder / "model.safetensors"
    state: dict[str, Any] = {"epoch": -1, "best_epoch": -1, "best": -math.inf, "stale": 0, "done": False}
    if checkpoint.exists():
        state = learner.load(checkpoint)
        state["best"] = -math.inf if state["best"] is None else state["best"]
    world.wait()
    if world.writes:
        history.truncate_after(state["epoch"])
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
                history.append(line)
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


def epoch_weights(tables: Tables, options: Options, steps: int, generator: torch.Generator, like: Tensor) -> Tensor:
    """Draw an epoch's environments at once, (steps, E, M); the uniform row alone for a model without."""
    envs = environments(len(tables.modalities), options)
    if envs is None:
        return like.expand(steps, *like.shape)
    weights = envs.sample((steps,), generator=generator, dtype=like.dtype)
    return weights if like.device.type == "cpu" else weights.pin_memory().to(like.device, non_blocking=True)


def versions(device: torch.device) -> dict[str, str]:
    """Return what the figures depend on."""
    return {
        "invmod": invmod.__version__,
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads",
    }
