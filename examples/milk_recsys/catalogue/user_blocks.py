"""Division of users into blocks of consecutive ids with nearly equal numbers of training pairs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["UserBlocks"]


@dataclass(frozen=True)
class UserBlocks:
    """Blocks of consecutive users.

    Attributes:
        starts: the first user of each block, then the number of users.
    """

    starts: tuple[int, ...]

    @classmethod
    def of(cls, counts: Tensor, num_blocks: int) -> UserBlocks:
        """Divide users into blocks; the result depends only on the arguments.

        The number of pairs of a block differs from their mean by at most the largest count of a
        user. A block may have no user. If there are no pairs, users are divided evenly.

        Arguments:
            counts: (U,) numbers of pairs, not negative.
            num_blocks: number of blocks, at least 1.

        Example:
            >>> UserBlocks.of(torch.tensor([4, 1, 1, 2]), 2).starts
            (0, 1, 4)
        """
        if num_blocks < 1:
            raise ValueError(f"UserBlocks.of: `num_blocks` must be at least 1, got {num_blocks}.")
        ends = counts.cumsum(dim=0) if bool(counts.any()) else torch.ones_like(counts).cumsum(dim=0)
        ends = torch.cat([ends.new_zeros(1), ends])
        number = torch.arange(1, num_blocks, dtype=torch.float64, device=ends.device)
        targets = number * (int(ends[-1]) / num_blocks)
        # The boundary is the user before whom the number of pairs is nearest to the target.
        after = torch.searchsorted(ends.to(targets), targets)
        before = (after - 1).clamp(min=0)
        nearer = targets - ends[before] < ends[after] - targets
        return cls((0, *torch.where(nearer, before, after).tolist(), len(counts)))

    def of_rank(self, rank: int, world_size: int) -> tuple[int, int]:
        """Return the first user of a process, and the end of its users.

        Each process has consecutive blocks, in the order of ranks; their numbers differ by at most
        one.
        """
        num_blocks = len(self.starts) - 1
        first, end = (num_blocks * r // world_size for r in (rank, rank + 1))
        return self.starts[first], self.starts[end]
