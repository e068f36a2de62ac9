"""The triples of an epoch: every training pair once, with a negative, in the order of the steps.

`whole_triples` draws all triples of an epoch in one process. `block_triples` draws those of the
blocks of users that a process owns (``--user-blocks``); the processes' triples together are the
same for every number of processes. Their negatives are those of `draws.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from milk_recsys.base.random_state import block_seed
from milk_recsys.catalogue.tables import Tables
from milk_recsys.catalogue.user_blocks import UserBlocks
from milk_recsys.catalogue.user_rows import UserRows
from milk_recsys.methods.milk.draws import SharedItems, draw_shared, draw_triples

__all__ = ["BatchShares", "Triples", "block_triples", "epoch_triples", "whole_triples"]

TRIPLES_AT_ONCE = 2**22  # Number of triples sampled per chunk, over all processes.


class Triples(NamedTuple):
    """The triples (user, positive item, negative item) of a step.

    Attributes:
        users, positives, negatives: (b,) ids, of the whole batch or of this process's part of it.
        sizes: the number of triples of each process if the ids are this process's part; None if
            they are the whole batch.
    """

    users: Tensor
    positives: Tensor
    negatives: Tensor
    sizes: list[int] | None = None

    @property
    def batch_size(self) -> int:
        """Number of triples of the whole batch."""
        return len(self.users) if self.sizes is None else sum(self.sizes)


def epoch_triples(
    tables: Tables,
    batch_size: int,
    seed: int,
    epoch: int,
    host: torch.Generator,
    *,
    shared: int | None = None,
    compiled: bool = False,
) -> Iterator[list[Triples]]:
    """Draw an epoch from all training pairs or, if the tables have blocks, this process's part.

    Arguments:
        host: a CPU generator with the seed of the epoch. Without blocks, the triples are drawn from
            it on a CPU, and from a generator with its seed on a GPU.
        shared: number of items that a batch draws, from which its pairs take their negatives; None
            for a negative of its own for each pair.
        compiled: whether to draw in a compiled loop, which gives the same triples.
    """
    if tables.blocks is not None:
        return block_triples(
            tables.blocks, batch_size, seed, epoch, shared=shared, compiled=compiled
        )
    generator = host
    if tables.device.type != "cpu":
        generator = torch.Generator(tables.device).manual_seed(host.initial_seed())
    return whole_triples(tables, batch_size, generator, shared=shared, compiled=compiled)


def whole_triples(
    tables: Tables,
    batch_size: int,
    generator: torch.Generator,
    *,
    shared: int | None = None,
    compiled: bool = False,
) -> Iterator[list[Triples]]:
    """Draw an epoch from all training pairs, in one permutation.

    Arguments:
        generator: on the device of the tables. A caller may draw from it between two chunks.
        shared, compiled: those of `epoch_triples`.

    Yields:
        the triples of consecutive steps. All batches have `batch_size` triples, except the last one
        of the epoch, which may have fewer.
    """
    kind = torch.int32 if tables.num_pairs < 2**31 else torch.int64
    order = torch.randperm(tables.num_pairs, generator=generator, dtype=kind, device=tables.device)
    at_once = max(1, TRIPLES_AT_ONCE // batch_size) * batch_size
    for chosen in torch.split(order, at_once):
        items = None
        if shared is not None:
            batches = torch.arange(len(chosen), device=chosen.device) // batch_size
            places = draw_shared(-(-len(chosen) // batch_size), shared, tables.pool, generator)
            items = SharedItems(places, batches)
        ids = draw_triples(tables.rows, chosen, generator, shared=items, compiled=compiled)
        parts = [torch.split(x, batch_size) for x in ids]
        yield [Triples(*ids) for ids in zip(*parts, strict=True)]


def block_triples(
    blocks: UserBlocks,
    batch_size: int,
    seed: int,
    epoch: int,
    *,
    shared: int | None = None,
    compiled: bool = False,
) -> Iterator[list[Triples]]:
    """Draw this process's part of an epoch from its blocks of users.

    Each block has a permutation and negatives of its own, from a seed of its own, and gives its
    share to each batch (`BatchShares`). The shared negatives of a batch are the same for all blocks
    and processes, from a further seed. A batch consists of the shares of all blocks in the order
    of the blocks. So it does not depend on the number of processes, and the parts of the processes,
    in the order of their ranks, are the batch.

    Arguments:
        seed: seed of the run.
        epoch: number of the epoch.
        shared, compiled: those of `epoch_triples`.

    Yields:
        the triples of consecutive steps. Batches have the sizes of `whole_triples`.
    """
    shares, world = BatchShares(blocks.sizes, batch_size), blocks.world
    draws = [
        _BlockDraws(rows, int(blocks.starts[block]), block_seed(seed, epoch, block), compiled)
        for block, rows in zip(blocks.own, blocks.rows, strict=True)
    ]
    device = blocks.pool.device
    # No block has this number, so the seed is not that of a block.
    source = torch.Generator(device).manual_seed(block_seed(seed, epoch, blocks.num_blocks))
    own, at_once = blocks.own, max(1, TRIPLES_AT_ONCE // batch_size)
    for first in range(0, shares.num_steps, at_once):
        ends = shares.ends(first, first + at_once)
        sizes = np.diff(ends[:, blocks.rank_starts], axis=1)
        counts = np.diff(ends[:, own.start : own.stop + 1], axis=1)
        # The chunk has the steps one after the other, and in each the shares of the own blocks.
        of_step = counts.sum(axis=1)
        begins = ends[:, own.start : own.stop] - ends[:, own.start : own.start + 1]
        begins = begins + (of_step.cumsum() - of_step)[:, None]
        columns = torch.empty(3, int(of_step.sum()), dtype=torch.int64, device=device)
        shared_places = None
        if shared is not None:
            shared_places = draw_shared(len(sizes), shared, blocks.pool, source)
        for draw, begin, count in zip(draws, begins.T, counts.T, strict=True):
            places = _ranges(begin, count, device)
            items = None
            if shared_places is not None:
                batches = np.repeat(np.arange(len(count)), count)
                items = SharedItems(shared_places, torch.from_numpy(batches).to(device))
            for column, ids in zip(columns, draw.next(len(places), items), strict=True):
                column.index_copy_(0, places, ids)
        parts = [torch.split(column, of_step.tolist()) for column in columns]
        # A single process has the whole batch.
        part_sizes = [None] * len(sizes) if world.size == 1 else sizes.tolist()
        yield [Triples(*ids) for ids in zip(*parts, part_sizes, strict=True)]


class BatchShares:
    """The number of triples that each block of pairs gives to each batch of an epoch.

    Every batch takes from each block its share of the batch, rounded up or down, so that the blocks
    end together. All batches have `batch_size` triples, except the last one, which has the rest.

    Arguments:
        sizes: (B,) int64, the number of pairs of each block.
        batch_size: number of triples of a batch.

    Attributes:
        num_steps: number of batches.
    """

    # Number the pairs of all blocks from 0 to P - 1, block by block. The last batch takes r pairs
    # that are evenly spaced among them. Number the others again; full batch s of S takes those
    # whose number has the remainder s modulo S. The number of pairs that a block gives to a batch
    # is then a difference of two quotients, and no batch has to be simulated.

    def __init__(self, sizes: npt.NDArray[np.int64], batch_size: int) -> None:
        ends = np.concatenate([[0], np.cumsum(sizes, dtype=np.int64)])
        total = int(ends[-1])
        self._num_full, rest = divmod(total, batch_size)
        # Number of pairs before each boundary of blocks that the last batch and the full ones take.
        self._last = ends * rest // max(total, 1)
        self._full = ends - self._last
        self.num_steps = self._num_full + bool(rest)

    def ends(self, first: int, stop: int) -> npt.NDArray[np.int64]:
        """Return how many triples of a batch come from the blocks before each boundary of blocks.

        Arguments:
            first, stop: the batches first to stop - 1, as far as there are.

        Returns:
            (batches, B + 1); differences along a row are the shares of the blocks.
        """
        steps = np.arange(first, min(stop, self._num_full))[:, None]
        # The numbers below n with the remainder s modulo S are as many as (n + S - 1 - s) // S.
        ends: npt.NDArray[np.int64] = self._full + (self._num_full - 1 - steps)
        ends //= max(self._num_full, 1)
        if stop >= self.num_steps > self._num_full:
            ends = np.concatenate([ends, self._last[None]])
        return ends


class _BlockDraws:
    """The triples of a block in an epoch, drawn in parts.

    Arguments:
        rows: the rows of the block's users.
        first_user: id of the first of them.
        seed: of the permutation and the negatives.
        compiled: whether to draw in a compiled loop.
    """

    def __init__(self, rows: UserRows, first_user: int, seed: int, compiled: bool) -> None:
        self.rows, self.first_user, self.compiled = rows, first_user, compiled
        device = rows.keys.device
        self.generator = torch.Generator(device).manual_seed(seed)
        kind = torch.int32 if rows.num_pairs < 2**31 else torch.int64
        self.order = torch.randperm(
            rows.num_pairs, generator=self.generator, dtype=kind, device=device
        )
        self.drawn = 0

    def next(self, count: int, shared: SharedItems | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return the users, positives and negatives of the next `count` pairs, (count,) each."""
        chosen = self.order[self.drawn : self.drawn + count]
        self.drawn += count
        users, positives, negatives = draw_triples(
            self.rows, chosen, self.generator, shared=shared, compiled=self.compiled
        )
        return users + self.first_user, positives, negatives


def _ranges(
    begins: npt.NDArray[np.int64], counts: npt.NDArray[np.int64], device: torch.device
) -> Tensor:
    """Concatenate the ranges begins[i] .. begins[i] + counts[i] - 1."""
    size = int(counts.sum())
    # Output position p of a range stands for begins[i] + (p - start of the range in the output).
    table = torch.from_numpy(np.stack([begins - (counts.cumsum() - counts), counts]))
    if device.type != "cpu":
        table = table.pin_memory().to(device, non_blocking=True)
    first = torch.repeat_interleave(table[0], table[1], output_size=size)
    return first + torch.arange(size, device=device)
