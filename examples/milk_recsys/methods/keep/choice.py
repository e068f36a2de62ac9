"""The shrinkage of KEEP and its exponent of predicted popularity, chosen on training items.

Each warm item j is scored as if it were new: without its pairs, and without its content. For fixed
counts of pairs this has a closed form. Let column j of Y hold the weights of the other warm items
in the leave-one-out prediction of item j from its content (`leave_one_out_smoother`), so that
Y_jj = 0. With P = (X'X + lambda I)^-1, the vectors of warm items without the pairs of j give

    z_j = y_j - lambda (P y_j - P e_j (P y_j)_j / P_jj),     scores of item j:  X z_j

where e_j is the j-th unit vector: P - P e_j e_j' P / P_jj is the inverse without item j. No refit
is needed, and all lambda share the matrix Y.

The scores are judged as new items are: items are divided at random into lists, each item gets a
random pattern of the modalities that it has, users rank the items of a list, and NDCG@20 is
compared with the pairs. Starting from the default, the shrinkage is moved while the best NDCG of
all exponents rises. The defaults are kept unless other values are better by more than one standard
error. A list has an eighth of the compared items, since the best shrinkage depends on the length of
lists.

With up to 10,000 warm items, up to 2,000 of them are compared, with the content and the pairs of
each other. With more, 1,000 are compared, each predicted from all other warm items. Predicted only
from each other, they would make content look too weak and popularity too useful.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from invmod.regression import PatternKernelRidge
from invmod.regression.choice import descend
from milk_recsys.methods.keep.vectors import (
    LEADING,
    MIN_SHRINKAGE,
    SingularVectors,
    UserVectors,
    damped,
    gram,
    inverse,
    spectrum,
)
from milk_recsys.ranking.metrics import per_user_metrics, positive_ranks

SHRINKAGES = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
EXPONENTS = (0.0, 0.125, 0.25, 0.375, 0.5)
DEFAULT_SHRINKAGE, DEFAULT_EXPONENT = 1.0, 0.125
# Number of warm items on which the options are compared: among each other, or with the content of
# all warm items.
MAX_ITEMS, MAX_PROJECTED_ITEMS = 2000, 1000
LISTS, MIN_LENGTH = 8, 20  # Number of lists; smallest number of items of a list.
MAX_PATTERNS = 8  # Number of patterns among which items draw theirs.
MAX_SCORES = 2**22  # Number of scores in memory when a list is ranked.
MAX_WEIGHTS = 2**26  # Number of weights of warm items in memory, for a block of compared items.


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


class LeftOut(NamedTuple):
    """Some warm items, scored as if they were new.

    Attributes:
        pairs: R (u, s), sparse, of the users who are scored and the items, in random order.
        scores: maps lambda to the scores (u, s) of these users.
        popularity: predicted log numbers of pairs (s,), up to a constant.
        unit: the unit of the shrinkage.
    """

    pairs: Tensor
    scores: Callable[[float], Tensor]
    popularity: Tensor
    unit: float


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

    def error(shrinkage: float) -> float:
        scores = left_out.scores(shift(shrinkage) * left_out.unit)
        for exponent in exponents:
            ndcg = list_ndcg(scores * (exponent * left_out.popularity).exp(), left_out.pairs)
            values[shrinkage, exponent] = ndcg
        return -max(float(values[shrinkage, exponent].mean()) for exponent in exponents)

    first = min(shrinkages, key=_distance_from_default)
    # `values` gets the NDCG of the shrinkages that are tried; only these are compared.
    descend(shrinkages, shrinkages.index(first), error, error(first))
    best = better_than_default(values)
    return PairChoice(*best, float(values[best].mean()))


def left_out_exactly(
    regression: PatternKernelRidge,
    mask: Tensor,
    pairs: Tensor,
    damping: float,
    generator: torch.Generator,
) -> LeftOut:
    """Score warm items without their content and their pairs, among the sampled ones.

    Arguments:
        regression: the regression on content, fitted on the n warm items.
        mask: bool (n, M) of the warm items, M the modalities of the regression.
        pairs: R (U, n), sparse.
        damping: the popularity exponent b.
        generator: draws the items, their lists and their patterns.
    """
    items = drawn_items(mask, MAX_ITEMS, generator)
    y = leave_one_out_weights(regression, mask, items, generator)
    sampled = pairs.index_select(1, items).coalesce()
    logs = centred_logs(item_counts(pairs), pairs.dtype)[items]
    x = damped(sampled, damping)
    products = gram(x)

    def scores(shift: float) -> Tensor:
        result: Tensor = torch.sparse.mm(x, left_out_weights(y, products, shift))
        return result

    unit = spectrum(products, min(LEADING, *x.shape)).unit
    return LeftOut(sampled, scores, y.T @ (logs - logs.mean()), unit)


def left_out_by_users(
    regression: PatternKernelRidge,
    mask: Tensor,
    pairs: Tensor,
    vectors: UserVectors,
    generator: torch.Generator,
) -> LeftOut:
    """Score warm items without their content and their pairs, by the kernel over users.

    With C = (K + lambda I)^-1 and K = X X', lambda P = I - X' C X, and the equation above becomes

        scores of item j:  X y_j - lambda C X y_j + lambda t_j C x_j
        t_j = -<x_j, C X y_j> / (1 - <x_j, C x_j>)

    where x_j is column j of X.

    Arguments:
        regression, mask, pairs, generator: as in `left_out_exactly`.
        vectors: X and K.
    """
    items = drawn_items(mask, MAX_PROJECTED_ITEMS, generator)
    logs = centred_logs(item_counts(pairs), pairs.dtype)
    own = vectors.x.index_select(1, items).to_dense()
    predicted, popularity = torch.zeros_like(own), logs.new_zeros(len(items))
    for names, part in drawn_patterns_of(regression.modalities, mask[items], generator):
        for block in part.split(max(1, MAX_WEIGHTS // pairs.shape[1])):
            h = regression.leave_one_out_smoother(names, items[block], from_all=True)
            predicted[:, block] = torch.sparse.mm(vectors.x, h.T.contiguous())
            popularity[block] = h @ logs

    def scores(shift: float) -> Tensor:
        shifted = vectors.products.clone()
        shifted.diagonal().add_(shift)
        root = torch.linalg.cholesky(shifted)
        solved, solved_own = (torch.cholesky_solve(y, root) for y in (predicted, own))
        t = -(own * solved).sum(dim=0) / (1 - (own * solved_own).sum(dim=0))
        return predicted - shift * solved + shift * t * solved_own

    sampled = pairs.index_select(1, items).coalesce()
    return LeftOut(sampled, scores, popularity, vectors.leading.unit)


def left_out_by_vectors(
    regression: PatternKernelRidge,
    mask: Tensor,
    vectors: SingularVectors,
    generator: torch.Generator,
) -> LeftOut:
    """Score warm items without their content and their pairs, by singular vectors.

    With X = A S B', w = S^2 / (S^2 + lambda) and b_j the row of B of item j, and p_j (r,) the
    leave-one-out prediction of b_j from its content, the equation above becomes

        scores of item j:  A S (w p_j + (1 - w) t_j b_j)
        t_j = -<b_j, w p_j> / (1 - <b_j, w b_j>)

    Only the users of the sampled items are scored, with A S = X B.

    Arguments:
        regression, mask, generator: as in `left_out_exactly`.
        vectors: X, S^2 and B.
    """
    items, (squares, directions) = (
        drawn_items(mask, MAX_PROJECTED_ITEMS, generator),
        vectors.leading,
    )
    logs = centred_logs(vectors.x.counts, directions.dtype)
    targets = torch.cat([directions, logs[:, None]], dim=1)
    predicted = targets.new_zeros(len(items), targets.shape[1])
    for names, own in drawn_patterns_of(regression.modalities, mask[items], generator):
        predicted[own] = regression.leave_one_out(names, items[own], targets=targets)
    p, b = predicted[:, :-1], directions[items]
    users, sampled = vectors.x.users_of(items)
    scaled = vectors.x.times_of(users, directions)

    def scores(shift: float) -> Tensor:
        w = squares / (squares + shift)
        t = -(b * (w * p)).sum(dim=1) / (1 - (b * (w * b)).sum(dim=1))
        return scaled @ (w * p + (1 - w) * t[:, None] * b).T

    return LeftOut(sampled, scores, predicted[:, -1], vectors.leading.unit)


def drawn_items(mask: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return up to `count` warm items with a modality, in random order."""
    known = mask.any(dim=1).nonzero()[:, 0]
    drawn = torch.randperm(len(known), generator=generator)[:count].to(mask.device)
    return known[drawn]


def item_counts(pairs: Tensor) -> Tensor:
    """Return the numbers of pairs of the items (n,) in R (U, n), sparse."""
    return torch.bincount(pairs.indices()[1], minlength=pairs.shape[1])


def centred_logs(counts: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the log numbers of pairs of the items (n,), less their mean."""
    logs = counts.clamp(min=1).to(dtype).log()
    return logs - logs.mean()


def better_than_default(values: Mapping[tuple[float, float], Tensor]) -> tuple[float, float]:
    """Return the options with the highest mean, or the defaults if they are about as good.

    The best options must be better by more than one standard error of the paired difference. The
    default of an option that is not compared is its only value.

    Arguments:
        values: (shrinkage, exponent) -> NDCG (q,) of the same q lists.
    """
    best = max(values, key=lambda options: float(values[options].mean()))
    default = min(
        values,
        key=lambda options: (
            _distance_from_default(options[0]),
            abs(options[1] - DEFAULT_EXPONENT),
        ),
    )
    gains = values[best] - values[default]
    if len(gains) < 2 or gains.mean() <= gains.std() / math.sqrt(len(gains)):
        return default
    return best


def _distance_from_default(shrinkage: float) -> float:
    return abs(math.log(shift(shrinkage) / DEFAULT_SHRINKAGE))


def shift(shrinkage: float) -> float:
    """Return the shrinkage, or the smallest with which X'X + lambda I is far from singular."""
    return max(shrinkage, MIN_SHRINKAGE)


def leave_one_out_weights(
    regression: PatternKernelRidge, mask: Tensor, items: Tensor, generator: torch.Generator
) -> Tensor:
    """Return Y (s, s) of the items; each has a random pattern of its modalities.

    Arguments:
        regression, mask: as in `left_out_exactly`.
        items: positions of the s warm items.
        generator: draws the patterns.
    """
    y: Tensor | None = None
    for names, own in drawn_patterns_of(regression.modalities, mask[items], generator):
        h = regression.leave_one_out_smoother(names, items)
        y = torch.zeros_like(h) if y is None else y
        y[:, own] = h[own].T
    if y is None:
        raise ValueError("leave_one_out_weights: no item has a modality.")
    return y


def drawn_patterns_of(
    names: Sequence[str], have: Tensor, generator: torch.Generator
) -> Iterator[tuple[list[str], Tensor]]:
    """Draw a pattern for each item; yield names of modalities, and the items with this pattern.

    Arguments:
        names: of the M modalities.
        have: bool (s, M), the modalities that the items have.
        generator: draws the patterns.
    """
    # Patterns are numbered by names, so that the order of the modalities does not matter.
    by_name = sorted(range(len(names)), key=names.__getitem__)
    patterns = [
        sorted(by_name[position] for position in pattern) for pattern in drawn_patterns(len(names))
    ]
    columns = torch.tensor(
        [[m in pattern for m in range(len(names))] for pattern in patterns], device=have.device
    )
    # A pattern suits an item that has all of its modalities.
    suits = (have[:, None] | ~columns).all(dim=2)
    keys = torch.rand(len(have), len(patterns), generator=generator).to(have.device)
    number = torch.where(suits, keys, -1.0).argmax(dim=1)
    for index, pattern in enumerate(patterns):
        own = (suits.any(dim=1) & (number == index)).nonzero()[:, 0]
        if len(own):
            yield [names[m] for m in pattern], own


def drawn_patterns(num_modalities: int) -> list[tuple[int, ...]]:
    """Return the patterns among which items draw: all, or the largest and the smallest ones.

    Example:
        >>> drawn_patterns(2)
        [(0, 1), (0,), (1,)]
        >>> drawn_patterns(4)[:3], len(drawn_patterns(4))
        ([(0, 1, 2, 3), (0,), (1,)], 8)
    """
    every = range(num_modalities)
    sizes = [num_modalities, *range(1, num_modalities)]
    patterns = [p for size in sizes for p in itertools.combinations(every, size)]
    return patterns[: max(MAX_PATTERNS, num_modalities + 1)]


def left_out_weights(y: Tensor, products: Tensor, shift: float) -> Tensor:
    """Return Z (s, s) whose column j scores item j as if it were new: z_j of the equation above.

    Arguments:
        y: Y (s, s), with the diagonal 0.
        products: X'X (s, s).
        shift: lambda, above 0.
    """
    p = inverse(products, shift)
    smoothed = p @ y
    return y - shift * (smoothed - p * (smoothed.diagonal() / p.diagonal()))


def list_ndcg(scores: Tensor, pairs: Tensor) -> Tensor:
    """Return NDCG@20 (q,) of all pairs of a list and a user who has an item of the list.

    Arguments:
        scores: (U, s).
        pairs: (U, s), sparse; consecutive items make a list.
    """
    length = max(MIN_LENGTH, -(-scores.shape[1] // LISTS))
    users, items = pairs.indices()
    values = []
    for start in range(0, scores.shape[1], length):
        part = scores[:, start : start + length].contiguous()
        own = (items >= start) & (items < start + length)
        ranks = positive_ranks(
            part.__getitem__,
            users[own],
            items[own] - start,
            num_candidates=part.shape[1],
            max_elements=MAX_SCORES,
        )
        values.append(per_user_metrics(users[own], ranks)["ndcg@20"])
    return torch.cat(values)
