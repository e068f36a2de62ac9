"""Lower bounds on the work of a training step and of an evaluation, counted from shapes alone.

The bounds count each input as read once and each output as written once; intermediate results cost
no memory traffic. They count nothing for sampling, shuffling, finding distinct items, looking up
rows, or the arithmetic of the optimiser.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from benchmarks.machine import Work

FLOAT, ID, BOOL = 4, 8, 1  # bytes


@dataclass(frozen=True)
class StepShape:
    """The shapes of a training step.

    Attributes:
        triples: number of triples (user, positive, negative) in a batch, B.
        users: number of distinct users in a batch.
        items: number of distinct items among positives and negatives, n.
        positives: number of distinct items among positives.
        widths: number of features of each of the M modalities.
        dim: embedding dimension, D.
        envs: number of environments, E.
    """

    triples: int
    users: float
    items: float
    positives: float
    widths: Sequence[int]
    dim: int
    envs: int


def step_work(shape: StepShape) -> Work:
    """Count the work that a training step of MILK needs at least.

    Operations:
        - encoding each distinct item once, and the gradient of the encoders' weights, which is a
          product of the same size (features need no gradient);
        - differences of positives and negatives, their inner products with the users, and the
          gradients with respect to users and both items;
        - fusion of the scores, and its gradient;
        - alignment of the distinct positives, and its gradient;
        - squares of the fused items and of the users, and their gradients.

    Bytes:
        - read: feature rows and mask of the distinct items, ids of the triples, weights of the
          environments;
        - read and written: encoders, rows of the distinct users, and Adam's two moments of both. A
          dense optimiser updates the whole table of users; the lower bound counts only these rows.
    """
    n, b, m, d = shape.items, shape.triples, len(shape.widths), shape.dim
    inputs = sum(shape.widths)
    encoders = 2 * n * inputs * d
    scores = b * m * d * 3
    # Gradients with respect to users are products and sums. Gradients with respect to items are a
    # product, which is added to the row of the positive and to that of the negative.
    score_gradients = b * m * d * 6
    fusion = 2 * 2 * b * shape.envs * m
    # The sum over pairs of ||c_m - c_m'||^2 equals n_j * sum_m ||c_m - mean||^2 for an item with
    # n_j modalities, so its cost is linear in M.
    alignment = shape.positives * m * d * (4 + 2)
    squares = n * d * (m + 2 + 2 * m) + shape.users * d * 4
    parameters = (inputs + m) * d + shape.users * d
    read = FLOAT * (n * inputs + shape.envs * m) + BOOL * n * m + ID * 3 * b
    # Parameters and Adam's two moments (3 arrays) are each read and written (factor 2).
    return Work(
        2 * encoders + scores + score_gradients + fusion + alignment + squares,
        read + 3 * 2 * FLOAT * parameters,
    )


def evaluation_work(
    users: int, candidates: int, widths: Sequence[int], dim: int, positives: int
) -> Work:
    """Count the work that ranking the positives among the candidates needs at least.

    Operations: encoding and fusing the candidates, and the score of every user for every candidate.
    Bytes: features, masks, encoders, rows of the users and ids of the positives are read; a rank
    for each positive is written.
    """
    inputs, m = sum(widths), len(widths)
    flops = 2 * candidates * inputs * dim + candidates * dim * m + 2 * users * candidates * dim
    read = (
        FLOAT * (candidates * inputs + (inputs + m) * dim + users * dim)
        + BOOL * candidates * m
        + 2 * ID * positives
    )
    return Work(flops, read + ID * positives)
