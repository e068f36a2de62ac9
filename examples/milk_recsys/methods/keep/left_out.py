"""Scores of warm items as if they were new, by which KEEP chooses options.

Each warm item j is scored without its pairs, and without its content. For fixed counts of pairs
this has a closed form. Let column j of Y hold the weights of the other warm items in the
leave-one-out prediction of item j from its content (`leave_one_out_smoother`), so that Y_jj = 0.
With P = (X'X + lambda I)^-1, the vectors of warm items without the pairs of j give

    z_j = y_j - lambda (P y_j - P e_j (P y_j)_j / P_jj),     scores of item j:  X z_j

where e_j is the j-th unit vector: P - P e_j e_j' P / P_jj is the inverse without item j. No refit
is needed, and all lambda share the matrix Y.

With up to 10,000 warm items, up to 2,000 of them are compared, with the content and the pairs of
each other. With more, 1,000 are compared, each predicted from all other warm items. Predicted only
from each other, they would make content look too weak and popularity too useful. A list has an
eighth of the compared items, since the best shrinkage depends on the length of lists.

All processes draw the same items, lists and patterns. The patterns are divided over them, and the
users or the lists that they score.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from invmod.regression import PatternKernelRidge
from milk_recsys.base.distributed import SINGLE_PROCESS, World
from milk_recsys.methods.keep.content import choose_divided
from milk_recsys.methods.keep.division import divided
from milk_recsys.methods.keep.vectors import (
    LEADING,
    SingularVectors,
    UserVectors,
    damped,
    gram,
    inverse,
    item_counts,
    spectrum,
)

# Number of warm items on which the options are compared: among each other, or with the content of
# all warm items.
MAX_ITEMS, MAX_PROJECTED_ITEMS = 2000, 1000
LISTS, MIN_LENGTH = 8, 20  # Number of lists; smallest number of items of a list.
MAX_PATTERNS = 8  # Number of patterns among which items draw theirs.
MAX_WEIGHTS = 2**26  # Number of weights of warm items in memory, for a block of compared items.


class LeftOut(NamedTuple):
    """Some warm items, scored as if they were new.

    Attributes:
        pairs: R (u, s), sparse, of the users who are scored and the items, in random order.
        scores: maps lambda to the scores (u, s) of these users.
        popularity: predicted log numbers of pairs (s,), up to a constant.
        unit: the unit of the shrinkage.
        length: number of items of a list.
        world: the processes, which have other users or other lists.
    """

    pairs: Tensor
    scores: Callable[[float], Tensor]
    popularity: Tensor
    unit: float
    length: int
    world: World = SINGLE_PROCESS


def left_out_exactly(
    regression: PatternKernelRidge,
    mask: Tensor,
    pairs: Tensor,
    damping: float,
    generator: torch.Generator,
    world: World = SINGLE_PROCESS,
) -> LeftOut:
    """Score warm items without their content and their pairs, among the sampled ones.

    Arguments:
        regression: the regression on content, fitted on the n warm items.
        mask: bool (n, M) of the warm items, M the modalities of the regression.
        pairs: R (U, n), sparse; the rows of the users of this process.
        damping: the popularity exponent b.
        generator: draws the items, their lists and their patterns.
        world: the processes, which have the other users.
    """
    items = drawn_items(mask, MAX_ITEMS, generator)
    y = leave_one_out_weights(regression, mask, items, generator, world)
    sampled = pairs.index_select(1, items).coalesce()
    counts = world.sum(item_counts(pairs))
    logs = centred_logs(counts, pairs.dtype)[items]
    x = damped(sampled, damping, counts[items])
    products = world.sum(gram(x))
    num_users = int(world.sum(torch.tensor(len(pairs), device=pairs.device)))

    def scores(shift: float) -> Tensor:
        result: Tensor = torch.sparse.mm(x, left_out_weights(y, products, shift))
        return result

    unit = spectrum(products, min(LEADING, num_users, len(items))).unit
    popularity = y.T @ (logs - logs.mean())
    return LeftOut(sampled, scores, popularity, unit, list_length(len(items)), world)


def left_out_by_users(
    regression: PatternKernelRidge,
    mask: Tensor,
    pairs: Tensor,
    vectors: UserVectors,
    generator: torch.Generator,
    world: World = SINGLE_PROCESS,
) -> LeftOut:
    """Score warm items without their content and their pairs, by the kernel over users.

    With C = (K + lambda I)^-1 and K = X X', lambda P = I - X' C X, and the equation above becomes

        scores of item j:  X y_j - lambda C X y_j + lambda t_j C x_j
        t_j = -<x_j, C X y_j> / (1 - <x_j, C x_j>)

    where x_j is column j of X.

    Arguments:
        regression, mask, generator: as in `left_out_exactly`.
        pairs: R (U, n), sparse, of all users.
        vectors: X and K.
        world: the processes. Each scores the items of some lists, for all users.
    """
    items = drawn_items(mask, MAX_PROJECTED_ITEMS, generator)
    length = list_length(len(items))
    drawn = list(drawn_patterns_of(regression.modalities, mask[items], generator))
    choose_divided(regression, [names for names, _ in drawn], world)
    lists = world.shard(-(-len(items) // length))
    listed = slice(lists.start * length, lists.stop * length)
    items = items[listed]
    logs = centred_logs(vectors.counts, pairs.dtype)
    own = vectors.x.index_select(1, items).to_dense()
    predicted, popularity = torch.zeros_like(own), logs.new_zeros(len(items))
    for names, part in drawn:
        part = part[(part >= listed.start) & (part < listed.stop)] - listed.start
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
    return LeftOut(sampled, scores, popularity, vectors.leading.unit, length, world)


def left_out_by_vectors(
    regression: PatternKernelRidge,
    mask: Tensor,
    vectors: SingularVectors,
    generator: torch.Generator,
    world: World = SINGLE_PROCESS,
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
        world: the processes, which have the other users. Each predicts some of the items.
    """
    items, (squares, directions) = (
        drawn_items(mask, MAX_PROJECTED_ITEMS, generator),
        vectors.leading,
    )
    logs = centred_logs(vectors.counts, directions.dtype)
    targets = torch.cat([directions, logs[:, None]], dim=1)
    predicted = targets.new_zeros(len(items), targets.shape[1])
    drawn = list(drawn_patterns_of(regression.modalities, mask[items], generator))
    choose_divided(regression, [names for names, _ in drawn], world)
    parts = divided([part for _, part in drawn], 0, world)[world.rank]
    for (names, _), own in zip(drawn, parts, strict=True):
        if len(own):
            predicted[own] = regression.leave_one_out(names, items[own], targets=targets)
    predicted = world.sum(predicted)  # The rows of other processes are 0 here.
    p, b = predicted[:, :-1], directions[items]
    users, sampled = vectors.x.users_of(items)
    scaled = vectors.x.times_of(users, directions)

    def scores(shift: float) -> Tensor:
        w = squares / (squares + shift)
        t = -(b * (w * p)).sum(dim=1) / (1 - (b * (w * b)).sum(dim=1))
        return scaled @ (w * p + (1 - w) * t[:, None] * b).T

    length = list_length(len(items))
    return LeftOut(sampled, scores, predicted[:, -1], vectors.leading.unit, length, world)


def drawn_items(mask: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return up to `count` warm items with a modality, in random order."""
    known = mask.any(dim=1).nonzero()[:, 0]
    drawn = torch.randperm(len(known), generator=generator)[:count].to(mask.device)
    return known[drawn]


def centred_logs(counts: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the log numbers of pairs of the items (n,), less their mean."""
    logs = counts.clamp(min=1).to(dtype).log()
    return logs - logs.mean()


def leave_one_out_weights(
    regression: PatternKernelRidge,
    mask: Tensor,
    items: Tensor,
    generator: torch.Generator,
    world: World = SINGLE_PROCESS,
) -> Tensor:
    """Return Y (s, s) of the items; each has a random pattern of its modalities.

    Arguments:
        regression, mask: as in `left_out_exactly`.
        items: positions of the s warm items.
        generator: draws the patterns.
        world: the processes. Each solves some of the patterns.
    """
    drawn = list(drawn_patterns_of(regression.modalities, mask[items], generator))
    if not drawn:
        raise ValueError("leave_one_out_weights: no item has a modality.")
    choose_divided(regression, [names for names, _ in drawn], world)
    y = torch.zeros(len(items), len(items), dtype=regression.dtype, device=items.device)
    for names, own in drawn[world.rank :: world.size]:
        y[:, own] = regression.leave_one_out_smoother(names, items)[own].T
    return world.sum(y)  # The columns of other processes are 0 here.


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


def list_length(count: int) -> int:
    """Return the number of items of a list."""
    return max(MIN_LENGTH, -(-count // LISTS))
