"""Processes that train together: which part is whose, and what is summed or joined over all of them.

One process is `SINGLE_PROCESS`: everything is its own part, and nothing is sent. Under ``torchrun`` there are several; gloo
carries what CPUs send, NCCL what GPUs send.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

__all__ = ["SINGLE_PROCESS", "World", "joined_world"]


@contextmanager
def joined_world(device: torch.device) -> Iterator[World]:
    """Join the processes that ``torchrun`` started, and leave them in the end; without it this one is alone."""
    if "WORLD_SIZE" not in os.environ:
        yield SINGLE_PROCESS
        return
    # An optimiser's first step imports modules whose default arguments would keep the process group for ever. Its
    # threads would then outlive the interpreter, and abort the process at its end now and then. So they come first.
    importlib.import_module("torch._dynamo")
    store, rank, size = next(rendezvous("env://"))
    # The launcher's store outlives a restart: what the processes before have left there would be mistaken for ours.
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
    """This process among `size` of them; the one of rank 0 writes the files."""

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and talks to the user."""
        return self.rank == 0

    def shard(self, count: int) -> slice:
        """Return this rank's part of `count` things: contiguous, in the order of ranks, equal but for one."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def sizes(self, count: int) -> list[int]:
        """Return how large the parts of `count` things are, by rank."""
        return [count * (r + 1) // self.size - count * r // self.size for r in range(self.size)]

    def sum(self, x: Tensor) -> Tensor:
        """Return the sum of a tensor over ranks, detached, the same on every rank."""
        if self.size == 1:
            return x.detach()
        total = x.detach().clone()
        dist.all_reduce(total)
        return total

    def sum_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Sum gradients over ranks in place, in one message."""
        if self.size == 1:
            return
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
        flat = self.sum(torch.cat([g.flatten() for g in gradients]))
        for gradient, total in zip(
            gradients, torch.split(flat, [g.numel() for g in gradients]), strict=True
        ):
            gradient.copy_(total.view_as(gradient))

    def all_gather(self, x: Tensor, sizes: list[int]) -> Tensor:
        """Join the rows of all ranks in order, on every rank: (sum of sizes, ...) from (sizes[rank], ...)."""
        if self.size == 1:
            return x.detach()
        padded = x.new_zeros(max(sizes), *x.shape[1:])
        padded[: len(x)] = x.detach()
        parts = [torch.empty_like(padded) for _ in sizes]
        dist.all_gather(parts, padded)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    def broadcast(self, value: Any) -> Any:
        """Return rank 0's value of something that JSON could hold, on every rank."""
        if self.size == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box)
        return box[0]

    def barrier(self) -> None:
        """Wait until every rank has come here."""
        if self.size > 1:
            dist.barrier()


SINGLE_PROCESS = World()
