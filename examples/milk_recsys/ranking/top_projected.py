"""Exact top items for few users: items are compared in a few dimensions first.

For one user, a matrix product reads all vectors of the items, and takes as long as that. Vectors of
new items that follow from content lie near a subspace of few dimensions. With an orthonormal basis
Q (D, w) of it, the score of a user a and an item v is

    <a, v> = <Q'a, Q'v> + <a - QQ'a, v - QQ'v>,

and the second product is at most the product of the norms of both remainders. So the score lies
between two bounds that need w numbers per item. Items whose upper bound is below the lower bounds
of as many items as the list is long cannot be in the list. The others are scored in float32, again
with a bound of the error, and those that remain exactly, as in `ranking.top`. The result is the
same, bit for bit. Where too many items remain, `Candidates.top` makes the list.
"""

from __future__ import annotations

import torch
from torch import Tensor

from milk_recsys.ranking.top import Candidates, Top
from milk_recsys.ranking.top_exact import relative_error, score_lists, sort_lists

__all__ = ["ProjectedCandidates", "find_basis"]

WORTH_FROM = 2**21  # Number of elements of the vectors from which reading them takes long.
WIDTHS = (128, 256, 384, 512)
MAX_REMAINDER = 0.005  # Share of the squared norm of the items outside of the subspace.
SAMPLE = 2048  # Number of items from which a basis is made.
MAX_REMAINING = 4096  # Number of items that are scored in float32.
FEW_ROWS = 3  # Number of users for whom products with vectors are faster than one with a matrix.
LARGEST = 2.0**60  # Larger numbers might overflow in float32.
SLACK = 1e-10  # Bound of rounding errors of projections in float64, relative to the norms.


def find_basis(items: Tensor) -> Tensor | None:
    """Return an orthonormal basis (D, w) of a subspace near most vectors (n, D) float64.

    None if no subspace of few dimensions is near, or if it is not worth it.
    """
    if items.numel() < WORTH_FROM or items.device.type != "cpu":
        return None
    step = max(1, len(items) // SAMPLE)
    sample = items[::step]
    total = float(sample.square().sum())
    generator = torch.Generator().manual_seed(0)
    for width in WIDTHS:
        if width > items.shape[1] // 2:
            return None
        basis = torch.randn(items.shape[1], width, generator=generator, dtype=torch.float64)
        for _ in range(3):  # Powers of the Gram matrix pull the basis to the largest directions.
            basis = torch.linalg.qr(sample.T @ (sample @ basis)).Q
        kept = float((sample @ basis).square().sum())
        if total - kept <= MAX_REMAINDER * total:
            return basis
    return None


class ProjectedCandidates:
    """Items prepared for `top`, as `ranking.top.Candidates`, for a few users per call on a CPU.

    Arguments:
        items: (C, D) float64.
        basis: (D, w) orthonormal columns, from `find_basis` for these or for similar items.
        dtype: dtype of the scores.
    """

    def __init__(self, items: Tensor, basis: Tensor | None, dtype: torch.dtype) -> None:
        # Compiled loops would be compiled during a call, once there were many of them.
        self.exact = Candidates(items, dtype=dtype, kernels="torch")
        self.items, self.dtype, self.basis = self.exact.items, dtype, basis
        self._norms = self.items.norm(dim=1)
        is_small = not len(items) or float(self._norms.max()) < LARGEST
        precise = torch.get_float32_matmul_precision() == "highest"
        if basis is None or not is_small or not precise:
            self.basis = None
            return
        reduced = self.items @ basis
        self._reduced = reduced.float()
        self._remainders = (self.items - reduced @ basis.T).norm(dim=1).float()
        self._float_norms = self._norms.float()
        eps = torch.finfo(torch.float32).eps
        shared = torch.finfo(dtype).eps + 8 * eps + SLACK
        self._reduced_error = relative_error(basis.shape[1], torch.float32) + shared
        self._full_error = relative_error(items.shape[1], torch.float32) + shared
        self._tiny = 8 * items.shape[1] * torch.finfo(torch.float32).tiny

    @torch.no_grad()
    def top(self, users: Tensor, top: int, *, exclude: tuple[Tensor, Tensor] | None = None) -> Top:
        """Find the best items of each user; arguments, result and errors as in `top_items`."""
        if (
            self.basis is None
            or not len(users)
            or top >= len(self.items)
            or not bool(users.norm() < LARGEST)
        ):
            return self.exact.top(users, top, exclude=exclude)
        users = users.double()
        reduced = _products(users, self.basis.T)
        outside = (users - _products(reduced, self.basis)).norm(dim=1)
        approximate = _products(reduced.float(), self._reduced)
        lists = [
            self._list(users[row], float(outside[row]), approximate[row], top, _own(exclude, row))
            for row in range(len(users))
        ]
        positions = torch.empty(len(users), top, dtype=torch.int64)
        scores = torch.empty(len(users), top, dtype=self.dtype)
        for row, own in enumerate(lists):
            if own is None:
                offsets = exclude and torch.tensor([0, len(_own(exclude, row))])
                given = None if exclude is None else (offsets, _own(exclude, row))
                own = self.exact.top(users[row : row + 1], top, exclude=given)  # type: ignore[arg-type]
            positions[row], scores[row] = own.positions[0], own.scores[0]
        return Top(positions, scores)

    def _list(
        self, user: Tensor, outside: float, scores: Tensor, top: int, excluded: Tensor
    ) -> Top | None:
        """Return the list of one user, or None if too many items remain.

        Arguments:
            outside: norm of the part of the vector outside of the subspace.
            scores: (C,) float32, inner products in the subspace.
        """
        norm = float(user.norm())
        error = self._float_norms * (norm * self._reduced_error) + self._tiny
        error += self._remainders * (outside * (1 + 1e-6))
        positions = _remaining(scores, error, top, excluded)
        if positions is None or len(positions) > MAX_REMAINING:
            return None
        # The filter's vectors are scaled by a power of two.
        scale = torch.exp2(self.exact.filter.exponent)
        rows = self.exact.filter.scaled[positions]
        scores = (rows @ user.to(rows.dtype)).double() * scale
        error = self._norms[positions] * (norm * self._full_error) + self._tiny * (1 + scale)
        kept = _remaining(scores, error, top, positions[:0])
        if kept is None:
            return None
        positions = positions[kept][None]
        exact = score_lists(self.items, user[None], positions, self.dtype)
        return Top(*sort_lists(positions, exact, top))


def _products(rows: Tensor, matrix: Tensor) -> Tensor:
    """Return rows @ matrix.T; for few rows by products with vectors, which copy no matrix."""
    if len(rows) > FEW_ROWS:
        return rows @ matrix.T
    return torch.stack([matrix @ row for row in rows])


def _remaining(scores: Tensor, error: Tensor, top: int, excluded: Tensor) -> Tensor | None:
    """Return the positions that may be in a list, increasing; None if too few are allowed."""
    lower, upper = scores - error, scores + error
    lower[excluded], upper[excluded] = -torch.inf, -torch.inf
    last = lower.topk(min(top, len(lower))).values[-1]
    if len(lower) < top or bool(last == -torch.inf):
        return None
    return (upper >= last).nonzero()[:, 0]


def _own(exclude: tuple[Tensor, Tensor] | None, row: int) -> Tensor:
    """Return the excluded positions of a user."""
    if exclude is None:
        return torch.empty(0, dtype=torch.int64)
    offsets, positions = exclude
    return positions[int(offsets[row]) : int(offsets[row + 1])]
