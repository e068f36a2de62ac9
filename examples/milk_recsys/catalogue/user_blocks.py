"""Training pairs divided into blocks of users, each of which one process owns.

`UserRows` holds the training pairs of all users. With ``--user-blocks`` the users are divided into
blocks of consecutive ids with nearly equal numbers of pairs. The division depends on the pairs and
on the number of blocks, not on the number of processes. Each process owns consecutive whole blocks
and holds the pairs of their users alone, so that its memory falls with the number of processes.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from milk_recsys.base.distributed import SINGLE_PROCESS, World
from milk_recsys.base.errors import OptionError
from milk_recsys.base.shares import equal_shares
from milk_recsys.catalogue.pairs import Pairs, pair_blocks
from milk_recsys.catalogue.user_rows import UserRows, build_user_rows, check_free

__all__ = ["UserBlocks", "build_user_blocks"]


@dataclass(frozen=True)
class UserBlocks:
    """The training pairs of this process's blocks of users, and the sizes of all blocks.

    Attributes:
        starts: (B + 1,) int64, the first user of each of the B blocks, then the number of users.
        sizes: (B,) int64, the number of training pairs of each block.
        rows: the rows of each block that this process owns. They count users from the first user
            of the block.
        pool: (n,) int64, the item ids that negatives are drawn from, increasing.
        has_pairs: (U,) bool, the users with a pair, in whichever block.
        world: the processes that own the blocks.
    """

    starts: npt.NDArray[np.int64]
    sizes: npt.NDArray[np.int64]
    rows: tuple[UserRows, ...]
    pool: Tensor
    has_pairs: Tensor
    world: World = SINGLE_PROCESS

    @property
    def num_blocks(self) -> int:
        """Number B of blocks."""
        return len(self.sizes)

    @property
    def num_pairs(self) -> int:
        """Number P of pairs in all blocks."""
        return int(self.sizes.sum())

    @property
    def rank_starts(self) -> list[int]:
        """The first block of each rank, then the number of blocks."""
        return self.world.starts(self.num_blocks)

    @property
    def own(self) -> range:
        """The numbers of the blocks that this process owns."""
        return range(*self.world.shard(self.num_blocks).indices(self.num_blocks))

    @property
    def user_starts(self) -> list[int]:
        """The first user of each rank, then the number of users."""
        return [int(self.starts[block]) for block in self.rank_starts]

    @property
    def pair_starts(self) -> list[int]:
        """The number of the first pair of each rank, then the number of pairs."""
        ends = np.concatenate([[0], np.cumsum(self.sizes)])
        return [int(ends[block]) for block in self.rank_starts]

    def joined(self) -> UserRows:
        """Return the rows of all users of this process, counted from its first user."""
        first, pairs = int(self.starts[self.own.start]), 0
        offsets, keys = [self.has_pairs.new_zeros(1, dtype=torch.int64)], []
        for block, rows in zip(self.own, self.rows, strict=True):
            offsets.append(rows.offsets[1:] + pairs)
            # The key of a pair is user * (pool_size + 1) plus a number that counts from the user.
            keys.append(rows.keys[:-1] + (int(self.starts[block]) - first) * (len(self.pool) + 1))
            pairs += rows.num_pairs
        return UserRows(
            torch.cat(offsets),
            torch.cat([rows.free for rows in self.rows]),
            torch.cat([*keys, self.rows[-1].keys[-1:]]),
            self.pool,
            max(rows.longest for rows in self.rows),
        )


def build_user_blocks(
    pairs: Pairs,
    num_users: int,
    pool: Tensor,
    num_blocks: int,
    *,
    is_warm: npt.NDArray[np.bool_],
    world: World = SINGLE_PROCESS,
    device: torch.device | None = None,
) -> UserBlocks:
    """Divide the users into blocks, and build the rows of the blocks that this process owns.

    Every process reads all pairs once to count them, and those of its own users once more. Nothing
    is communicated.

    Arguments:
        pairs: (P, 2) integers, a user and an item each, distinct and sorted by user, then item.
            They are read in blocks, so that a memory-mapped array is not loaded as a whole.
        num_users: number of users; their ids are 0 to num_users - 1.
        pool: (n,) int64, the item ids that negatives are drawn from, increasing, on the CPU.
        num_blocks: number of blocks.
        is_warm: (num_items,) whether an item is used in training; pairs of other items are left
            out. All warm items are in the pool.
        world: the processes that own the blocks.
        device: device of the rows; None for the CPU.

    Raises:
        DataError: a user has every item of the pool.
        OptionError: there are more blocks than users, or fewer blocks than processes.
        ValueError: the pairs are not sorted by user.
    """
    if num_blocks > num_users:
        raise OptionError(
            f"--user-blocks must be at most the number of users, {num_users}, got {num_blocks}."
        )
    if num_blocks < world.size:
        raise OptionError(
            f"--user-blocks must be at least the number of processes, {world.size}, because each "
            f"process owns whole blocks; got {num_blocks}. Start fewer processes, or a new run "
            "with more blocks."
        )
    counts = _count_pairs(pairs, num_users, is_warm)
    # Check all users here, so that every process raises the error, not only the owner of the user.
    if counts.max() >= len(pool):
        check_free(len(pool) - torch.from_numpy(counts), len(pool))
    starts = equal_shares(counts, num_blocks, min_size=1)
    device = device or torch.device("cpu")
    blocks = UserBlocks(
        starts=starts,
        sizes=np.add.reduceat(counts, starts[:-1], dtype=np.int64),
        rows=(),
        pool=pool.to(device),
        has_pairs=torch.from_numpy(counts > 0).to(device),
        world=world,
    )
    rows = []
    for block in blocks.own:
        first, stop = int(starts[block]), int(starts[block + 1])
        own_pairs = _pairs_of(pairs, first, stop)
        own_pairs = own_pairs[is_warm[own_pairs[:, 1]]]
        built = build_user_rows(own_pairs, stop - first, pool, first_user=first)
        # All blocks share one copy of the pool.
        rows.append(replace(built.to(device), pool=blocks.pool))
    return replace(blocks, rows=tuple(rows))


def _count_pairs(
    pairs: Pairs, num_users: int, is_warm: npt.NDArray[np.bool_]
) -> npt.NDArray[np.int32]:
    """Return the number of pairs of each user with a warm item, (U,)."""
    counts = np.zeros(num_users, np.int32)
    last = 0
    for _, block in pair_blocks(pairs):
        users = block[:, 0]
        if users[0] < last or (users[1:] < users[:-1]).any():
            raise ValueError("build_user_blocks: `pairs` must be sorted by user.")
        last = users[-1]
        users = users[is_warm[block[:, 1]]]
        if len(users):
            # The users of a block are a short range of ids, so the histogram is short too.
            first = int(users[0])
            found = np.bincount(users - first)
            counts[first : first + len(found)] += found
    return counts


def _pairs_of(pairs: Pairs, first: int, stop: int) -> Pairs:
    """Return the pairs of the users first to stop - 1 as a view."""
    # A search of Python's own, because numpy's would copy the column of users.
    rows = np.asarray(pairs)
    users = rows[:, 0]
    begin, end = (bisect_left(users, user) for user in (first, stop))
    return rows[begin:end]
