"""Adapters that set up training and evaluation, for the recommender and for the reference.

The other files of the benchmark import nothing of how `milk_recsys` trains.
"""

from __future__ import annotations

import dataclasses
import random
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from benchmarks.floors import StepShape, evaluation_work, step_work
from benchmarks.machine import Work
from benchmarks.reference import (
    ReferenceMilk,
    ReferenceWeights,
    reference_environments,
    reference_epoch,
    reference_evaluate,
    reference_loss,
    reference_negatives,
    reference_rows,
)
from milk_recsys.base.device import choose_device
from milk_recsys.catalogue.dataset import Dataset
from milk_recsys.catalogue.split import draw_split
from milk_recsys.catalogue.tables import Tables, build_tables
from milk_recsys.config.options import Options
from milk_recsys.methods.milk import MilkOptions
from milk_recsys.methods.milk.batches import prepared_rows
from milk_recsys.methods.milk.learner import Learner
from milk_recsys.methods.milk.model import build_model
from milk_recsys.methods.milk.objective import environments
from milk_recsys.ranking.negatives import sample_negatives
from milk_recsys.run import loop
from milk_recsys.run.evaluation import evaluate_group


def random_dataset(
    num_users: int,
    num_items: int,
    num_pairs: int,
    widths: dict[str, int],
    *,
    seed: int = 0,
    used_items: int = 0,
) -> Dataset:
    """Draw a data set of distinct random pairs and standard normal features.

    Only the first `used_items` items occur in pairs; 0 means all items.
    """
    rng, used = np.random.default_rng(seed), used_items or num_items
    # A pair is one cell of the matrix (users, used items), numbered row by row. Cells drawn without
    # replacement are distinct pairs, and sorted cells are sorted pairs, as a data set needs them.
    cells = np.sort(rng.choice(num_users * used, num_pairs, replace=False))
    features = {
        name: rng.standard_normal((num_items, d), dtype=np.float32) for name, d in widths.items()
    }
    return Dataset(
        name="random",
        num_users=num_users,
        num_items=num_items,
        interactions=np.stack([cells // used, cells % used], axis=1),
        features=features,
        natural_mask=np.ones((num_items, len(widths)), dtype=np.bool_),
    )


@dataclasses.dataclass(frozen=True)
class Training:
    """MILK with its model and data on the device, ready to train and evaluate.

    Attributes:
        epoch: trains one more epoch.
        evaluate: ranks the test items for every user that has a test positive.
        steps: number of steps in an epoch.
        shape: shapes of a step; counts of distinct rows are medians over an epoch.
        learner: the learner that `epoch` trains.
    """

    epoch: Callable[[], Any]
    evaluate: Callable[[], Any]
    steps: int
    shape: StepShape
    learner: Learner

    @property
    def epoch_floor(self) -> Work:
        """Lower bound on the work of an epoch."""
        return step_work(self.shape).times(self.learner.tables.num_pairs / self.shape.triples)

    @property
    def evaluation_floor(self) -> Work:
        """Lower bound on the work of an evaluation."""
        test, shape = self.learner.tables.test, self.shape
        return evaluation_work(
            len(test.users.unique()),
            len(test.candidates),
            shape.widths,
            shape.dim,
            len(test.positions),
        )


def training_setup(dataset: Dataset, options: Options) -> Training:
    """Draw the split, build the tables and create the model."""
    split, _ = draw_split(dataset, options.data)
    tables = build_tables(dataset, split, options, choose_device(options.run.device))
    learner = Learner(build_model(options, tables), tables, options)
    numbers = iter(range(10**9))  # epoch numbers, which also seed the epochs
    return Training(
        epoch=lambda: loop.train_epoch(learner, next(numbers)),
        evaluate=lambda: evaluate_group(learner, tables, tables.test, tables.mask),
        steps=-(-tables.num_pairs // options.method.batch_size),
        shape=step_shape(tables, options),
        learner=learner,
    )


def step_shape(tables: Tables, options: Options) -> StepShape:
    """Draw the batches of an epoch, and take the median number of distinct rows in a batch."""
    generator = torch.Generator().manual_seed(0)
    order = torch.randperm(tables.num_pairs, generator=generator).to(tables.device)
    users, positives = tables.pairs_at(order)
    negatives = sample_negatives(users, tables.rows, tables.pool, generator=generator)
    size = min(options.method.batch_size, tables.num_pairs)
    batches = [slice(start, start + size) for start in range(0, tables.num_pairs - size + 1, size)]

    def distinct(*columns: Tensor) -> float:
        return statistics.median(
            len(torch.unique(torch.cat([x[batch] for x in columns]))) for batch in batches
        )

    envs = environments(len(tables.modalities), options.method, options.run.seed)
    return StepShape(
        triples=size,
        users=distinct(users),
        items=distinct(positives, negatives),
        positives=distinct(positives),
        widths=tuple(tables.features.dims.values()),
        dim=options.method.embedding_dim,
        envs=envs.num_envs if envs else 1,
    )


def reference_setup(training: Training) -> tuple[Callable[[], Any], Callable[[], Any]]:
    """Return functions that run an epoch and an evaluation of the reference.

    The reference starts from the weights of `training` and uses the same prepared features.
    """
    model = training.learner.model
    tables = training.learner.tables
    options = training.learner.options
    device = tables.device
    prepared = prepared_rows(model, tables)(torch.arange(tables.features.num_items, device=device))
    reference = ReferenceMilk(tables.num_users, tables.features.dims, options.embedding_dim).to(
        device
    )
    # Both models declare the table of users first, then the encoders in the order of modalities.
    with torch.no_grad():
        for ours, theirs in zip(model.parameters(), reference.parameters(), strict=True):
            theirs.copy_(ours)
    optimiser = torch.optim.Adam(reference.parameters(), lr=options.lr)
    pairs, pool = tables.pairs.cpu().numpy(), tables.pool.tolist()
    rows = reference_rows(pairs, tables.num_users)
    names = [field.name for field in dataclasses.fields(ReferenceWeights)]
    strengths = ReferenceWeights(**{name: getattr(options, name) for name in names})
    candidates, numbers = tables.test.candidates.tolist(), iter(range(10**9))
    # Tables hold a test positive as its position among the candidates; the reference takes item
    # ids.
    liked: dict[int, set[int]] = {}
    for user, position in zip(
        tables.test.users.tolist(), tables.test.positions.tolist(), strict=True
    ):
        liked.setdefault(user, set()).add(candidates[position])

    def epoch() -> float:
        seed = next(numbers)
        if device.type == "cpu":
            return reference_epoch(
                reference, optimiser, prepared, tables.mask, pairs, rows, pool,
                alpha=options.alpha, strengths=strengths, batch_size=options.batch_size, seed=seed,
            )  # fmt: skip
        return _reference_epoch_on(
            device, reference, optimiser, prepared, tables.mask, pairs, rows, pool, options, seed
        )

    def evaluate() -> dict[str, float]:
        return reference_evaluate(
            reference.cpu(), {name: x.cpu() for name, x in prepared.items()}, liked, candidates
        )

    return epoch, evaluate


def _reference_epoch_on(
    device: torch.device,
    reference: ReferenceMilk,
    optimiser: torch.optim.Optimizer,
    prepared: dict[str, Tensor],
    observed: Tensor,
    pairs: npt.NDArray[np.int64],
    rows: list[set[int]],
    pool: list[int],
    options: MilkOptions,
    seed: int,
) -> float:
    """Train an epoch like `reference_epoch`, with the batches moved to a GPU.

    `reference_epoch` has no device argument and must not change, so the loop is repeated here with
    the same loss and the same random draws.
    """
    rng, negative_rng = np.random.default_rng(seed), random.Random(seed)
    strengths = ReferenceWeights(
        options.penalty_weight, options.alignment_weight, options.regulariser_weight
    )
    pairs = pairs[rng.permutation(len(pairs))]
    total = 0.0
    for start in range(0, len(pairs), options.batch_size):
        batch = pairs[start : start + options.batch_size]
        negatives = reference_negatives(batch[:, 0].tolist(), rows, pool, negative_rng)
        users, positives = torch.from_numpy(batch.copy()).to(device).unbind(1)
        others = torch.tensor(negatives, device=device)
        weights = reference_environments(len(reference.names), options.alpha, rng).to(device)
        loss = reference_loss(
            reference, prepared, observed, users, positives, others, weights, strengths
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        total += loss.item() * len(batch)
    return total / len(pairs)
