"""Benchmark cases of training and evaluation.

Some compare with the plain reference, others compare the same code on two sizes of data.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from benchmarks.adapter import Training, random_dataset, reference_setup, training_setup
from benchmarks.floors import FLOAT, ID
from benchmarks.machine import Work
from benchmarks.timing import Case
from milk_recsys.catalogue.dataset import read_dataset
from milk_recsys.config.options import Options
from milk_recsys.ranking.top import top_items

OPTIONS = Options.of(model="milk", batch_size=2048, embedding_dim=64, device="cpu")
# Share of the pairs of a random data set that are used for training, since 80% of items are warm.
TRAINED_SHARE = 0.8
TOP, CANDIDATES, EXCLUDED = 20, 100_000, 10


def tiktok() -> Training:
    """Set up training on the real TikTok data.

    Raises:
        KeyError: the environment variable INVMOD_DATA is not set.
    """
    return training_setup(
        read_dataset(Path(os.environ["INVMOD_DATA"]) / "tiktok", empty_items="drop"), OPTIONS
    )


def _epoch(training: Training, max_rounds: int) -> Case:
    """Compare an epoch with an epoch of the plain reference."""
    reference, _ = reference_setup(training)
    return Case(
        training.epoch,
        reference,
        "epoch",
        "benchmarks/reference.py",
        floor=training.epoch_floor,
        steps=training.steps,
        max_rounds=max_rounds,
    )


def tiktok_epoch(quick: bool) -> Case:
    """Training epoch on TikTok, against the plain reference."""
    return _epoch(tiktok(), 2 if quick else 100)


def tiktok_evaluation(quick: bool) -> Case:  # noqa: ARG001
    """Evaluation on TikTok's test items, against the plain reference."""
    training = tiktok()
    _, reference = reference_setup(training)
    return Case(
        training.evaluate,
        reference,
        "evaluation",
        "benchmarks/reference.py",
        floor=training.evaluation_floor,
    )


def baby_epoch(quick: bool) -> Case:
    """Training epoch on random data of the shape of Amazon Baby, against the plain reference.

    The quick form has an eighth of the users and pairs.
    """
    share = 8 if quick else 1
    dataset = random_dataset(19_445 // share, 7_050, 128_963 // share, {"image": 4096, "text": 384})
    return _epoch(training_setup(dataset, OPTIONS), 1 if quick else 3)


def large_batch(quick: bool) -> Case:  # noqa: ARG001
    """Batches of 65,536 triples, against batches of 2,048, on random data; time per triple."""
    size = 65_536
    dataset = random_dataset(100_000, 50_000, round(4 * size / TRAINED_SHARE), _named(2, 256))
    large, small = (training_setup(dataset, OPTIONS.replace(batch_size=b)) for b in (size, 2048))
    triples = large.learner.tables.num_pairs
    return Case(
        large.epoch,
        small.epoch,
        "triple",
        "batches of 2,048",
        units=triples,
        reference_units=triples,
        floor=large.epoch_floor.times(1 / triples),
        max_rounds=3,
    )


def _steps(
    num_users: int, num_items: int, widths: dict[str, int], *, used_items: int = 0, **options: Any
) -> Training:
    """Set up training on random data whose epoch has twelve steps."""
    num_pairs = round(12 * OPTIONS.method.batch_size / TRAINED_SHARE)
    dataset = random_dataset(num_users, num_items, num_pairs, widths, used_items=used_items)
    return training_setup(dataset, OPTIONS.replace(**options))


def _against(ours: Training, other: Training, against: str, wanted: float | None) -> Case:
    """Compare the time of a step in two set-ups."""
    return Case(
        ours.epoch,
        other.epoch,
        "step",
        against,
        units=ours.steps,
        reference_units=other.steps,
        floor=ours.epoch_floor.times(1 / ours.steps),
        wanted=wanted,
    )


def _named(num_modalities: int, width: int) -> dict[str, int]:
    return {f"m{k}": width for k in range(num_modalities)}


def many_environments(quick: bool) -> Case:  # noqa: ARG001
    """64 environments per step, against 4."""
    # Each draw adds 3 environments (the cyclic shifts for three modalities) to the uniform one.
    base, larger = (_steps(5_000, 5_000, _named(3, 256), num_draws=draws) for draws in (1, 21))
    return _against(larger, base, "4 environments", 1 / 1.15)


def many_modalities(quick: bool) -> Case:  # noqa: ARG001
    """Eight modalities, against two of the same total width."""
    return _against(
        _steps(5_000, 5_000, _named(8, 96)), _steps(5_000, 5_000, _named(2, 384)), "M = 2", None
    )


def many_users(quick: bool) -> Case:  # noqa: ARG001
    """Ten times the users, with the default optimiser, which updates only the rows of a batch."""
    base, larger = (_steps(count, 5_000, _named(2, 256)) for count in (10_000, 100_000))
    return _against(larger, base, "a tenth of the users", 1 / 1.2)


def many_users_with_adam(quick: bool) -> Case:  # noqa: ARG001
    """Ten times the users, with Adam, which updates the whole table of users in every step."""
    base, larger = (
        _steps(count, 5_000, _named(2, 256), optimiser="adam") for count in (10_000, 100_000)
    )
    return _against(larger, base, "a tenth of the users", None)


def many_items(quick: bool) -> Case:  # noqa: ARG001
    """Ten times the items, with the same number of items in pairs and in the pool of negatives."""
    base, larger = (
        _steps(5_000, count, _named(2, 256), used_items=5_000) for count in (5_000, 50_000)
    )
    return _against(larger, base, "a tenth of the items", 1 / 1.2)


def top_lists(quick: bool) -> Case:
    """Top 20 of 100,000 candidates for each user, excluding ten items that the user has."""
    num_users = 10_000 if quick else 100_000
    generator = torch.Generator().manual_seed(0)
    users = torch.randn(num_users, 64, generator=generator)
    items = torch.randn(CANDIDATES, 64, generator=generator)
    first = torch.randint(CANDIDATES, (num_users, 1), generator=generator)
    # Steps of 97 make the excluded items of a user distinct, since 10 * 97 < CANDIDATES.
    own = (first + 97 * torch.arange(EXCLUDED)) % CANDIDATES
    offsets, positions = EXCLUDED * torch.arange(num_users + 1), own.flatten()

    # The time of the reference is proportional to the number of users, so a tenth is enough.
    reference_users = num_users // 10

    def plain() -> None:
        for start in range(0, reference_users, 256):
            scores = users[start : start + 256] @ items.T
            scores.scatter_(1, own[start : start + 256], float("-inf"))
            scores.topk(TOP, dim=1)

    work = Work(
        2 * num_users * CANDIDATES * 64,
        FLOAT * 64 * (num_users + CANDIDATES)
        + ID * num_users * (1 + EXCLUDED)
        + (ID + FLOAT) * num_users * TOP,
    )
    return Case(
        lambda: top_items(users, items, TOP, exclude=(offsets, positions)),
        plain,
        "user",
        "torch.topk on blocks",
        units=num_users,
        reference_units=reference_users,
        floor=work.times(1 / num_users),
        max_rounds=1,
    )


CASES = {
    "tiktok-training": tiktok_epoch,
    "tiktok-evaluation": tiktok_evaluation,
    "baby-training": baby_epoch,
    "64-environments": many_environments,
    "8-modalities": many_modalities,
    "10x-users": many_users,
    "10x-users-adam": many_users_with_adam,
    "10x-items": many_items,
    "large-batch": large_batch,
    "top-20": top_lists,
}
