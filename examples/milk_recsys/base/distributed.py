"""Data-parallel processes: shards of data, and sums and gathers over ranks.

Without ``torchrun`` there is one process, `SINGLE_PROCESS`, whose shard is all data, and nothing is
communicated. Under ``torchrun`` processes communicate by gloo (CPU) or NCCL (GPU).
"""

from __future__ import annotations

import importlib
import itertools
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

__all__ = ["BLOCK_BYTES", "SINGLE_PROCESS", "World", "joined_world", "stream_rows"]

BLOCK_BYTES = 1 << 24  # Size of a block of rows that is sent at once, 16 MB.


@contextmanager
def joined_world(device: torch.device) -> Iterator[World]:
    """Join the process group of ``torchrun``, and leave it at the end of the block.

    Yields:
        this process's `World`; `SINGLE_PROCESS` without ``torchrun``.
    """
    if "WORLD_SIZE" not in os.environ:
        yield SINGLE_PROCESS
        return
    # An optimiser's first step imports torch._dynamo, where default arguments would keep a
    # reference to an existing process group for ever. The group's threads would then outlive
    # the interpreter, which sometimes aborts the process at exit. So import it before there
    # is a process group.
    importlib.import_module("torch._dynamo")
    store, rank, size = next(rendezvous("env://"))
    if device.type == "cuda":
        # NCCL needs one GPU per process also for the messages that `torch.distributed` makes.
        torch.cuda.set_device(device)
    # The launcher's store survives a restart of the processes. The prefix keeps the keys of an
    # attempt apart from those of the attempts before.
    store = PrefixStore(f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    dist.init_process_group(
        "nccl" if device.type == "cuda" else "gloo", store=store, rank=rank, world_size=size
    )
    try:
        yield World(rank, size)
    finally:
        dist.destroy_process_group()


@dataclass(frozen=True)
class World:
    """The rank of this process and the number of processes. Rank 0 writes the files."""

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints messages."""
        return self.rank == 0

    def shard(self, count: int) -> slice:
        """Return this rank's shard of `count` elements.

        Shards are contiguous and in the order of ranks; their sizes differ by at most one.
        """
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def sizes(self, count: int) -> list[int]:
        """Return the sizes of all ranks' shards of `count` elements."""
        return [count * (r + 1) // self.size - count * r // self.size for r in range(self.size)]

    def starts(self, count: int) -> list[int]:
        """Return the first element of each rank's shard of `count` elements, then `count`."""
        return [count * r // self.size for r in range(self.size + 1)]

    def sum(self, x: Tensor) -> Tensor:
        """Return the sum of a tensor over ranks, detached, the same on every rank."""
        if self.size == 1:
            return x.detach()
        total = x.detach().clone()
        dist.all_reduce(total)
        return total

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Sum gradients over ranks in place."""
        if self.size == 1:
            return
        # One message for all gradients is faster than one for each.
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
        flat = self.sum(torch.cat([g.flatten() for g in gradients]))
        for gradient, total in zip(
            gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True
        ):
            gradient.copy_(total.view_as(gradient))

    def all_gather(self, x: Tensor, sizes: list[int]) -> Tensor:
        """Concatenate the rows of all ranks, in the order of ranks.

        Arguments:
            x: (sizes[rank], ...), this rank's rows.
            sizes: number of rows of each rank.

        Returns:
            (sum of sizes, ...), the same on every rank.
        """
        if self.size == 1:
            return x.detach()
        # all_gather needs tensors of equal shape on all ranks.
        padded = x.new_zeros(max(sizes), *x.shape[1:])
        padded[: len(x)] = x.detach()
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    def broadcast(self, value: Any) -> Any:
        """Return rank 0's value on every rank. The value must be of types that JSON supports."""
        if self.size == 1:
            return value
        values = [value]
        dist.broadcast_object_list(values)
        return values[0]

    def broadcast_tensor(self, x: Tensor) -> Tensor:
        """Return rank 0's tensor on every rank. It must have the same shape and dtype on all."""
        if self.size == 1:
            return x
        same = x.detach().clone(memory_format=torch.contiguous_format)
        dist.broadcast(same, src=0)
        return same

    def barrier(self) -> None:
        """Wait until every rank has called this method."""
        if self.size > 1:
            dist.barrier()


SINGLE_PROCESS = World()


def stream_rows(
    local: Tensor,
    starts: Sequence[int],
    rank: int,
    *,
    group: dist.ProcessGroup | None = None,
    block_bytes: int = BLOCK_BYTES,
) -> Iterator[Tensor]:
    """Collect a tensor whose rows are spread over ranks on rank 0, block by block in their order.

    Every rank must run the generator to its end. Rank 0 receives all blocks, and holds one of them
    in memory in addition to its rows. The other ranks send their blocks and yield none.

    Arguments:
        local: (n, ...), this rank's rows.
        starts: the first row of each rank, then the number of rows.
        rank: this process's rank.
        group: the group of all ranks; None for the default group.
        block_bytes: approximate size of a block; the same on every rank.

    Yields:
        blocks of rows on the CPU. Use a block before requesting the next one.
    """
    step = max(1, block_bytes // max(1, local.element_size() * math.prod(local.shape[1:])))
    for owner, (start, stop) in enumerate(itertools.pairwise(starts)):
        for begin in range(start, stop, step):
            end = min(begin + step, stop)
            if owner == rank:
                block = local[begin - start : end - start]
                if rank == 0:
                    yield block.cpu()
                else:
                    dist.send(block.contiguous(), group=group, group_dst=0)
            elif rank == 0:
                block = local.new_empty(end - begin, *local.shape[1:])
                dist.recv(block, group=group, group_src=owner)
                yield block.cpu()
