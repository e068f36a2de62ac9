"""The draw of negatives for the training pairs of consecutive batches.

By default each pair draws a negative of its own. With shared negatives a batch draws N items, and
each of its pairs takes one of them, so that the batch has fewer distinct items.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from milk_recsys.catalogue.user_rows import UserRows
from milk_recsys.ranking.negatives import sample_negatives, sample_shared_negatives

__all__ = ["SharedItems", "draw_shared", "draw_triples"]


class SharedItems(NamedTuple):
    """The shared negatives of consecutive batches.

    Attributes:
        places: (S, N) int64, positions in the pool of the items that each batch drew.
        batches: (b,) int64, the row of `places` for each pair of a draw.
    """

    places: Tensor
    batches: Tensor


def draw_shared(num_batches: int, size: int, pool: Tensor, generator: torch.Generator) -> Tensor:
    """Draw the shared items of consecutive batches, uniformly with replacement.

    Successive calls draw the same items as one call for all batches.

    Returns:
        (num_batches, size) int64, positions in the pool.
    """
    uniform = torch.rand(
        num_batches, size, generator=generator, device=generator.device, dtype=torch.float64
    )
    return (uniform.to(pool.device) * len(pool)).long()


def draw_triples(
    rows: UserRows,
    chosen: Tensor,
    generator: torch.Generator,
    *,
    shared: SharedItems | None = None,
    compiled: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:
    """Look up pairs and draw a negative for each.

    Arguments:
        rows: the users' pairs.
        chosen: (b,) numbers of pairs.
        generator: the source of the negatives; one uniform number per pair.
        shared: items that the pairs of a batch take their negatives from; None for own negatives.
        compiled: whether to use a compiled loop (on a CPU, with Numba) or torch operations. Both
            draw the same triples.

    Returns:
        users, positives and negatives, (b,) int64 each.
    """
    if compiled:
        return _draw_compiled(rows, chosen, generator, shared)
    users, positives = rows.pairs_at(chosen)
    if shared is None:
        return users, positives, sample_negatives(users, rows, rows.pool, generator=generator)
    return users, positives, sample_shared_negatives(users, rows, *shared, generator=generator)


def _draw_compiled(
    rows: UserRows, chosen: Tensor, generator: torch.Generator, shared: SharedItems | None
) -> tuple[Tensor, Tensor, Tensor]:
    from milk_recsys.methods.milk import draw_kernels

    uniforms = torch.rand(len(chosen), generator=generator, dtype=torch.float64)
    if shared is None:
        shared = SharedItems(chosen.new_empty(0, 0).long(), chosen.new_empty(0).long())
    triples = torch.empty(3, len(chosen), dtype=torch.int64)
    inputs = (chosen, uniforms, rows.offsets, rows.free, rows.keys, rows.pool, *shared, *triples)
    draw_kernels.draw_triples(*(x.numpy() for x in inputs))
    users, positives, negatives = triples
    return users, positives, negatives
