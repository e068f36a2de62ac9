"""The least work of a training step and of an evaluation, counted from shapes alone.

Each input is read once, each output written once, and what lies between costs no memory at all. Nothing is counted for
drawing, shuffling, finding distinct items, looking up, or the optimiser's arithmetic.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.machine import Work

FLOAT, ID, BOOL = 4, 8, 1  # bytes


@dataclass(frozen=True)
class StepShape:
    """The shapes of a step.

    Attributes:
        triples: B; users: how many of them are distinct.
        items: n, the distinct items among positives and negatives; positives: those among the positives.
        widths: of the features of each modality; dim: D; envs: E.
    """

    triples: int
    users: float
    items: float
    positives: float
    widths: Sequence[int]
    dim: int
    envs: int


def step_work(shape: StepShape) -> Work:
    """Count the least work of a training step of MILK.

    Operations: each distinct item encoded once and the gradient of the encoders' weights, a product of the same size
    (features need no gradient); differences of positives and negatives, their inner products with the users, and the
    gradients by users and by both items; fusion of the scores and its gradient; alignment of the distinct positives and
    its gradient; squares of the fused items and of the users and their gradient.

    Bytes: feature rows and the mask of the distinct items, read; ids of the triples and weights of the environments,
    read; encoders, rows of the distinct users, and Adam's two moments of both, read and written. A dense optimiser goes
    through the whole table of users, which the floor does not grant.
    """
    n, b, m, d = shape.items, shape.triples, len(shape.widths), shape.dim
    inputs = sum(shape.widths)
    encoders = 2 * n * inputs * d
    scores = b * m * d * 3
    score_gradients = (
        b * m * d * 6
    )  # by users, products and sums; by items, a product, added to two rows
    fusion = 2 * 2 * b * shape.envs * m
    alignment = shape.positives * m * d * (4 + 2)
    squares = n * d * (m + 2 + 2 * m) + shape.users * d * 4
    parameters = (inputs + m) * d + shape.users * d
    read = FLOAT * (n * inputs + shape.envs * m) + BOOL * n * m + ID * 3 * b
    return Work(
        2 * encoders + scores + score_gradients + fusion + alignment + squares,
        read + 3 * 2 * FLOAT * parameters,
    )


def evaluation_work(
    users: int, candidates: int, widths: Sequence[int], dim: int, positives: int
) -> Work:
    """Count the least work of ranking positives among candidates.

    Operations: candidates encoded and fused, and every user's score for each. Bytes: features, masks, encoders, the
    users' rows and the positives, read; a rank for each positive, written.
    """
    inputs, m = sum(widths), len(widths)
    flops = 2 * candidates * inputs * dim + candidates * dim * m + 2 * users * candidates * dim
    read = (
        FLOAT * (candidates * inputs + (inputs + m) * dim + users * dim)
        + BOOL * candidates * m
        + 2 * ID * positives
    )
    return Work(flops, read + ID * positives)
