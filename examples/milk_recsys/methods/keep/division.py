"""The division of KEEP over processes: users with their part of the state, and new items."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

from milk_recsys.base.checkpoint import Streamed
from milk_recsys.base.distributed import World, stream_rows
from milk_recsys.base.shares import equal_shares
from milk_recsys.methods.keep.content import choose_divided
from milk_recsys.methods.warm import WarmData

if TYPE_CHECKING:
    from milk_recsys.catalogue.features import ItemFeatures
    from milk_recsys.methods.keep.fitted import KeepModel

__all__ = ["StateOfRanks", "UserShard", "divided", "embed_divided"]


@dataclasses.dataclass(frozen=True)
class UserShard:
    """The users whose pairs and vectors a process holds: consecutive ones.

    Attributes:
        world: the processes.
        starts: the first user of each process, then the number of users.
        pair_starts: the number of the first pair of each process, then the number of pairs.
        rows: the users of this process as they are numbered in the data, which may have the pairs
            of these users alone.
    """

    world: World
    starts: tuple[int, ...]
    pair_starts: tuple[int, ...]
    rows: slice

    @classmethod
    def of(cls, data: WarmData, world: World) -> UserShard:
        """Divide users so that all processes have nearly equal numbers of pairs."""
        if data.blocks is not None:
            starts, pair_starts = data.blocks.user_starts, data.blocks.pair_starts
            return cls(world, tuple(starts), tuple(pair_starts), slice(None))
        counts = data.rows.offsets.diff().numpy(force=True)
        starts = equal_shares(counts, world.size).tolist()
        rows = slice(*starts[world.rank : world.rank + 2])
        return cls(world, tuple(starts), tuple(data.rows.offsets[starts].tolist()), rows)

    @property
    def users(self) -> slice:
        """The users of this process."""
        return slice(*self.starts[self.world.rank : self.world.rank + 2])


@dataclasses.dataclass(frozen=True)
class StateOfRanks:
    """The state of a model of which each process has the users of a shard.

    Attributes:
        shard: the users of this process.
        starts: name of a tensor with rows of users -> number of the first row of each process, then
            the number of rows. Of ``user_offsets`` the first process has one row more, 0.
    """

    shard: UserShard
    starts: Mapping[str, Sequence[int]]

    @classmethod
    def of(cls, shard: UserShard) -> StateOfRanks:
        """Return the division of the state of a `KeepModel`."""
        users = list(shard.starts)
        return cls(
            shard,
            {
                "users.weight": users,
                "user_offsets": [0, *(start + 1 for start in users[1:])],
                "user_items": list(shard.pair_starts),
            },
        )

    @property
    def rows(self) -> dict[str, slice]:
        """Name of a tensor of a file -> the rows of this process; none in a single process."""
        world = self.shard.world
        if world.size == 1:
            return {}
        return {name: slice(*s[world.rank : world.rank + 2]) for name, s in self.starts.items()}

    def saved(self, state: Mapping[str, Tensor]) -> dict[str, Tensor | Streamed]:
        """Return the tensors of a file, with the rows of the users of all processes."""
        world, state = self.shard.world, dict(state)
        if world.size == 1:
            return dict(state)
        if "user_offsets" in state:
            offsets = state["user_offsets"] + self.starts["user_items"][world.rank]
            state["user_offsets"] = offsets if world.is_main else offsets[1:]
        return {name: self._streamed(name, x) for name, x in state.items()}

    def _streamed(self, name: str, rows: Tensor) -> Tensor | Streamed:
        if name not in self.starts:
            return rows
        shape = (self.starts[name][-1], *rows.shape[1:])
        blocks = stream_rows(rows, self.starts[name], self.shard.world.rank)
        return Streamed(shape, rows.dtype, blocks)

    def loaded(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the state of this process from the tensors of a file, of which it has `rows`."""
        world, state = self.shard.world, dict(tensors)
        if world.size > 1 and "user_offsets" in state:
            offsets = state["user_offsets"] - self.starts["user_items"][world.rank]
            state["user_offsets"] = offsets if world.is_main else F.pad(offsets, (1, 0))
        return state


def divided(groups: Sequence[Tensor], setup: int, world: World) -> list[list[Tensor]]:
    """Divide the items of groups over the processes.

    Each process gets consecutive items of the joined groups, with nearly equal costs. A group costs
    as much as `setup` items in addition to its own, in each process that has a part of it. So it is
    cut in two only if both parts have at least that many items.

    Arguments:
        groups: positions of the items of each group.
        setup: cost of a group, in items.
        world: the processes.

    Returns:
        for each process its part of each group.
    """
    costs = [torch.ones(len(group), dtype=torch.int64) for group in groups]
    for each in costs:
        each[:1] += setup
    joined = torch.cat([torch.zeros(0, dtype=torch.int64), *costs])
    edges = [0, *itertools.accumulate(map(len, groups))]

    ends = [0, *joined.cumsum(dim=0).tolist()]

    def moved(cut: int) -> int:
        # A cut near to an edge of a group goes to the edge at which the costs change least.
        near = [edge for edge in edges if abs(edge - cut) < setup]
        return min(near, key=lambda edge: abs(ends[edge] - ends[cut]), default=cut)

    cuts = [moved(cut) for cut in equal_shares(joined.numpy(), world.size).tolist()]
    return [
        [
            group[max(0, start - first) : max(0, end - first)]
            for group, first in zip(groups, edges, strict=False)
        ]
        for start, end in itertools.pairwise(cuts)
    ]


def embed_divided(
    model: KeepModel, features: ItemFeatures, items: Tensor, mask: Tensor, world: World
) -> Tensor:
    """Return the vectors (C, r) of new items, each embedded in one of the processes.

    Arguments:
        model: the same fitted model in all processes.
        features: the catalogue.
        items: (C,) ids.
        mask: (C, M) bool, the modalities that may be used.
        world: the processes, all of which call this function.
    """
    if world.size == 1:
        return model.embed_items(features.rows(items), mask)
    groups = list(model.patterns(mask))
    choose_divided(model.regression, [names for names, _ in groups], world)
    # A pattern costs n^3 / 3 operations to solve, and an item 2 n^2.
    setup = len(model.counts) // 6 if model.regression.is_exact else 0
    parts = [
        torch.cat([items.new_zeros(0), *part])
        for part in divided([rows for _, rows in groups], setup, world)
    ]
    own = parts[world.rank]
    vectors = model.embed_items(features.rows(items[own]), mask[own])
    joined = vectors.new_zeros(len(items), vectors.shape[1])
    joined[torch.cat(parts)] = world.all_gather(vectors, [len(part) for part in parts])
    return joined
