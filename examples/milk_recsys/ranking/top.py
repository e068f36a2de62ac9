"""Exact top items by inner product, in little more time than the matrix product takes.

A score is the inner product of a user's and an item's vector, computed in float64 by pairwise
summation in one fixed order, and rounded to the dtype of the result. Lists are sorted by score, and
by position where scores are equal. A list therefore depends neither on the sizes of blocks, nor on
the number of threads, nor on the other users of the call.

Computing every score in this way would take many times longer than a matrix product in float32, and
only the scores near the top matter. So `Candidates` filters first:

1. A matrix product in float32 gives approximate scores (`top_filter`). Their error has a bound that
   is computed beforehand, so items whose approximate score is below the last place by more than
   twice the bound cannot be in the list.
2. The highest approximate scores are selected: on a GPU and without Numba from maxima of groups of
   items (`top_tiles`), else by compiled loops while the scores are in the cache (`top_compiled`).
3. The few remaining items are scored exactly, as above (`top_exact`).
4. If more items remain than are kept (for example, items with equal vectors), the scores of that
   row are computed by a matrix product in float64, and exactly where that does not decide either.

On a CPU, blocks of users are divided between threads (`top_blocks`).
"""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from milk_recsys.base.errors import DataError
from milk_recsys.ranking.top_blocks import Plan, plan_blocks, run_blocks
from milk_recsys.ranking.top_exact import best_columns
from milk_recsys.ranking.top_filter import Filter
from milk_recsys.ranking.top_lists import Tiles, best_lists
from milk_recsys.ranking.top_tiles import StoredTiles

__all__ = ["Candidates", "Kernels", "Top", "best_columns", "top_items"]

Kernels = Literal["auto", "numba", "torch"]

# Number of scores from which compiled loops save more time than importing Numba takes.
COMPILED_FROM = 2**28


class Top(NamedTuple):
    """The best items of each user, best first; of equal scores, the lower position first.

    Attributes:
        positions: (U, K) int64; -1 at the end of a row where all other items are excluded.
        scores: (U, K), non-increasing along a row; -inf where the position is -1.
    """

    positions: Tensor
    scores: Tensor


def top_items(
    users: Tensor,
    items: Tensor,
    top: int,
    *,
    exclude: tuple[Tensor, Tensor] | None = None,
    dtype: torch.dtype = torch.float32,
    kernels: Kernels = "auto",
) -> Top:
    """Find the items with the highest inner products for each user.

    If the result does not fit in memory, use `Candidates` for one block of users after the other.

    Arguments:
        users: (U, D); items: (C, D), any float dtype, on one device.
        top: the length of a list; at most C items are returned.
        exclude: items that must not be in a user's list, in CSR form: offsets (U + 1,) and
            positions (P,), int64. Those of user u are ``positions[offsets[u]:offsets[u + 1]]``, in
            any order.
        dtype: dtype of the scores, torch.float32 or torch.float64.
        kernels: as in `Candidates`.

    Returns:
        `Top`, on the device of the vectors.

    Raises:
        ValueError: a shape is wrong, offsets or positions are out of range, or `top` is below 1.
        TypeError: `dtype` is another dtype.
        DataError: a vector is not finite, or its inner products would overflow.

    Example:
        >>> users = torch.tensor([[1.0, 0.0], [0.0, 2.0]])
        >>> items = torch.tensor([[1.0, 1.0], [3.0, 1.0], [2.0, 0.0]])
        >>> top_items(users, items, 2).positions.tolist()
        [[1, 2], [0, 1]]
        >>> exclude = torch.tensor([0, 1, 1]), torch.tensor([1])
        >>> top_items(users, items, 3, exclude=exclude).positions.tolist()
        [[2, 0, -1], [0, 1, 2]]
    """
    return Candidates(items, dtype=dtype, kernels=kernels).top(users, top, exclude=exclude)


class Candidates:
    """Items prepared for `top`, which finds the best of them for a block of users.

    Memory: the items in float64 (no copy if they are float64 already) and in the filter's dtype,
    and buffers for the scores of a block.

    Arguments:
        items: (C, D), any float dtype.
        dtype: dtype of the scores, torch.float32 or torch.float64. The filter computes in this
            dtype, or in float64 if `torch.get_float32_matmul_precision` is not "highest".
        scores_at_once: maximum number of scores in memory; None for a default of the device.
        kernels: loops that select the scores, which does not change the result. `numba`: compiled
            by Numba, for a CPU. `torch`: torch operations. `auto`: compiled where Numba is
            installed, once there are enough scores that this saves more time than the import takes.

    Raises:
        ValueError, TypeError, DataError: as in `top_items`. DataError also if `kernels` is `numba`
            and the loops cannot be compiled.
    """

    def __init__(
        self,
        items: Tensor,
        *,
        dtype: torch.dtype = torch.float32,
        scores_at_once: int | None = None,
        kernels: Kernels = "auto",
    ) -> None:
        if items.ndim != 2 or items.shape[1] < 1:
            raise ValueError(
                f"ranking: `items` must have shape (C, D), D at least 1, got {tuple(items.shape)}."
            )
        if dtype not in (torch.float32, torch.float64):
            raise TypeError(
                f"ranking: `dtype` must be torch.float32 or torch.float64, got {dtype}."
            )
        self.on_cpu = items.device.type == "cpu"
        self.dtype = dtype
        self.compilable = _compilable(kernels, self.on_cpu)
        # Number of scores from which on compiled loops are used, and number of scores so far.
        self.compiled_from, self.done = (0 if kernels == "numba" else COMPILED_FROM), 0
        self.scores_at_once = scores_at_once
        self.items = items.detach().double().contiguous()
        self.dim = self.items.shape[1]
        self.filter = Filter(self.items, dtype)
        self._tiles: list[Tiles] = []
        self._made_for: tuple[object, int] | None = None  # The kind and the columns of `_tiles`.

    @torch.no_grad()
    def top(self, users: Tensor, top: int, *, exclude: tuple[Tensor, Tensor] | None = None) -> Top:
        """Find the best items of each user; arguments, result and errors as in `top_items`."""
        self._check(users, top, exclude)
        length = min(top, len(self.items))
        positions = torch.empty(len(users), length, dtype=torch.int64, device=self.items.device)
        scores = torch.empty(len(users), length, dtype=self.dtype, device=self.items.device)
        if positions.numel() == 0:
            return Top(positions, scores)
        self.done += len(users) * len(self.items)
        plan = plan_blocks(
            len(users),
            len(self.items),
            on_cpu=self.on_cpu,
            compiled=self.compilable and self.done >= self.compiled_from,
            scores_at_once=self.scores_at_once,
        )
        idle = self._buffers(plan)

        def new_worker() -> Callable[[int], None]:
            tiles = idle.pop()

            @torch.no_grad()  # The mode belongs to the thread.
            def run(start: int) -> None:
                part = slice(start, min(start + plan.rows, len(users)))
                block = self.filter.scale_users(users[part].detach(), start, exclude)
                positions[part], scores[part] = best_lists(tiles, block, plan.span, length)

            return run

        run_blocks(range(0, len(users), plan.rows), plan.workers, new_worker)
        positions.masked_fill_(scores == -torch.inf, -1)
        return Top(positions, scores)

    def _buffers(self, plan: Plan) -> list[Tiles]:
        """Return the buffers of tiles, one for each thread; those of the last call if they fit."""
        kind: Callable[[Filter, int], Tiles] = StoredTiles
        if plan.compiled:
            # Numba is an optional dependency.
            from milk_recsys.ranking.top_compiled import CompiledTiles

            kind = CompiledTiles
        if self._made_for != (kind, plan.columns):
            self._made_for, self._tiles = (kind, plan.columns), []
        while len(self._tiles) < plan.workers:
            self._tiles.append(kind(self.filter, plan.columns))
        return self._tiles[: plan.workers]

    def _check(self, users: Tensor, top: int, exclude: tuple[Tensor, Tensor] | None) -> None:
        if top < 1:
            raise ValueError(f"ranking: `top` must be at least 1, got {top}.")
        if users.ndim != 2 or users.shape[1] != self.dim:
            raise ValueError(
                f"ranking: `users` must have shape (U, {self.dim}), got {tuple(users.shape)}."
            )
        if exclude is None:
            return
        offsets, positions = exclude
        if offsets.shape != (len(users) + 1,) or positions.ndim != 1:
            raise ValueError(
                f"ranking: `exclude` must be offsets ({len(users) + 1},) and positions (P,), got "
                f"{tuple(offsets.shape)} and {tuple(positions.shape)}."
            )
        if (
            int(offsets[0]) < 0
            or int(offsets[-1]) > len(positions)
            or bool((offsets.diff() < 0).any())
        ):
            raise ValueError(
                f"ranking: offsets of `exclude` must increase from 0 to at most {len(positions)}."
            )
        if len(positions) and not 0 <= int(positions.min()) <= int(positions.max()) < len(
            self.items
        ):
            raise ValueError(
                f"ranking: positions of `exclude` must be in 0 to {len(self.items) - 1}, got "
                f"{int(positions.min())} to {int(positions.max())}."
            )


def _compilable(kernels: str, on_cpu: bool) -> bool:
    """Return whether compiled loops may be used.

    Raises:
        ValueError: `kernels` is unknown.
        DataError: `kernels` is "numba", which cannot be used.
    """
    if kernels not in ("auto", "numba", "torch"):
        raise ValueError(f"ranking: `kernels` must be auto, numba or torch, got {kernels!r}.")
    installed = find_spec("numba") is not None
    if kernels == "numba" and not (installed and on_cpu):
        problem = (
            "it compiles for the CPU, and the items are on another device"
            if installed
            else "Numba is not installed (pip install 'invmod[fast]')"
        )
        raise DataError(f"ranking: `kernels` cannot be numba: {problem}. Use auto or torch.")
    return kernels != "torch" and installed and on_cpu
