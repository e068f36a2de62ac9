"""The shrinkage of KEEP and its exponent of predicted popularity, chosen on training items.

Warm items are scored as if they were new (`left_out.py`), and the scores are judged as new items
are: items are divided at random into lists, each item gets a random pattern of the modalities that
it has, users rank the items of a list, and NDCG@20 is compared with the pairs. Starting from the
default, the shrinkage is moved while the best NDCG of all exponents rises. The defaults are kept
unless other values are better by more than one standard error.

With several processes each ranks the lists of its users, or some of the lists of all users. Means
and standard errors are those of all lists, so that all processes choose the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from invmod.regression.choice import descend
from milk_recsys.base.distributed import SINGLE_PROCESS, World
from milk_recsys.methods.keep.left_out import LeftOut
from milk_recsys.methods.keep.vectors import MIN_SHRINKAGE
from milk_recsys.ranking.metrics import per_user_metrics, positive_ranks

SHRINKAGES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
EXPONENTS = (0.0, 0.125, 0.25, 0.375, 0.5)
DEFAULT_SHRINKAGE, DEFAULT_EXPONENT = 1.0, 0.125
MAX_SCORES = 2**22  # Number of scores in memory when a list is ranked.


class PairChoice(NamedTuple):
    """The chosen options.

    Attributes:
        shrinkage: lambda in units of the mean of the 50 largest squared singular values.
        exponent: c, the power of the predicted number of pairs.
        ndcg: mean NDCG@20 of the left-out items; None if nothing was compared.
    """

    shrinkage: float
    exponent: float
    ndcg: float | None


def choose(
    left_out: LeftOut,
    shrinkages: Sequence[float],
    exponents: Sequence[float],
) -> PairChoice:
    """Choose both options by the scores of warm items as if they were new.

    Arguments:
        left_out: the scores.
        shrinkages, exponents: values to choose from, the shrinkages in order.
    """
    if len(shrinkages) * len(exponents) == 1:
        return PairChoice(shrinkages[0], exponents[0], None)
    values: dict[tuple[float, float], Tensor] = {}
    pairs, length, world = left_out.pairs, left_out.length, left_out.world
    lists = pairs_of_lists(pairs, length)

    def error(shrinkage: float) -> float:
        scores = left_out.scores(shift(shrinkage) * left_out.unit)
        for exponent in exponents:
            ndcg = list_ndcg(scores * (exponent * left_out.popularity).exp(), lists, length)
            # On the device of the scores, on which processes communicate.
            values[shrinkage, exponent] = ndcg.to(pairs.device)
        return -max(mean([values[shrinkage, exponent] for exponent in exponents], world))

    first = min(shrinkages, key=_distance_from_default)
    # `values` gets the NDCG of the shrinkages that are tried; only these are compared.
    descend(shrinkages, shrinkages.index(first), error, error(first))
    best = better_than_default(values, world)
    return PairChoice(*best, mean([values[best]], world)[0])


def mean(values: Sequence[Tensor], world: World = SINGLE_PROCESS) -> list[float]:
    """Return the mean of each tensor (q,) over its entries in all processes."""
    sums = world.sum(torch.stack([_sum_and_count(x) for x in values]))
    means: list[float] = (sums[:, 0] / sums[:, 1]).tolist()
    return means


def _sum_and_count(x: Tensor) -> Tensor:
    total = x.sum().double()
    return torch.stack([total, torch.full_like(total, len(x))])


def better_than_default(
    values: Mapping[tuple[float, float], Tensor], world: World = SINGLE_PROCESS
) -> tuple[float, float]:
    """Return the options with the highest mean, or the defaults if they are about as good.

    The best options must be better by more than one standard error of the paired difference. The
    default of an option that is not compared is its only value.

    Arguments:
        values: (shrinkage, exponent) -> NDCG (q,) of the same q lists.
        world: the processes, which have the values of other lists.
    """
    means = dict(zip(values, mean(list(values.values()), world), strict=True))
    best = max(means, key=means.__getitem__)
    default = min(
        values,
        key=lambda options: (
            _distance_from_default(options[0]),
            abs(options[1] - DEFAULT_EXPONENT),
        ),
    )
    gains = values[best] - values[default]
    gain = mean([gains], world)[0]
    squares, count = world.sum(_sum_and_count((gains - gain).square())).tolist()
    if count < 2 or gain <= math.sqrt(squares / (count - 1) / count):
        return default
    return best


def _distance_from_default(shrinkage: float) -> float:
    return abs(math.log(shift(shrinkage) / DEFAULT_SHRINKAGE))


def shift(shrinkage: float) -> float:
    """Return the shrinkage, or the smallest with which X'X + lambda I is far from singular."""
    return max(shrinkage, MIN_SHRINKAGE)


def pairs_of_lists(pairs: Tensor, length: int) -> list[tuple[Tensor, Tensor]]:
    """Return the users and the positions in the list of the pairs of each list.

    Arguments:
        pairs: (U, s), sparse.
        length: number of items of a list, which are consecutive.
    """
    users, items = pairs.indices()
    lists = []
    for start in range(0, pairs.shape[1], length):
        # Positions instead of a mask: on a GPU each selection by a mask waits for its size.
        own = ((items >= start) & (items < start + length)).nonzero()[:, 0]
        lists.append((users[own], items[own] - start))
    return lists


def list_ndcg(scores: Tensor, lists: Sequence[tuple[Tensor, Tensor]], length: int) -> Tensor:
    """Return NDCG@20 (q,) of all pairs of a list and a user who has an item of the list.

    Arguments:
        scores: (U, s).
        lists, length: as in `pairs_of_lists`.
    """
    values = [torch.zeros(0, dtype=torch.float64)]
    for (users, items), start in zip(lists, range(0, scores.shape[1], length), strict=True):
        part = scores[:, start : start + length].contiguous()
        ranks = positive_ranks(
            part.__getitem__,
            users,
            items,
            num_candidates=part.shape[1],
            max_elements=MAX_SCORES,
        )
        values.append(per_user_metrics(users, ranks)["ndcg@20"])
    return torch.cat(values)
