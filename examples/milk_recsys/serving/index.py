"""Vectors prepared for exact lists, which several threads use at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from threading import Lock

import torch
import torch.nn.functional as F
from torch import Tensor

from milk_recsys.ranking.top import Top
from milk_recsys.ranking.top_projected import ProjectedCandidates

__all__ = ["Index"]


@dataclasses.dataclass
class _Call:
    """One call of `Index.top`, and its answer.

    Attributes:
        excluded: for each of the vectors, positions that must not be in its list.
    """

    vectors: Tensor
    k: int
    excluded: Sequence[Tensor]
    answer: Top | None = None
    error: Exception | None = None


class Index:
    """Exact lists of the rows of a matrix, by inner products with given vectors.

    `ProjectedCandidates` has buffers, so only one thread may use it at a time. Calls that wait
    meanwhile are answered together by the next thread, with one matrix product: it reads the matrix
    once, and a list does not depend on the other lists of a product.

    Arguments:
        rows: (n, D) float64.
        dtype: dtype of the scores.
        basis: of a subspace near the rows, or near the vectors, from `find_basis`; or None.
    """

    def __init__(self, rows: Tensor, dtype: torch.dtype, basis: Tensor | None = None) -> None:
        self.count = len(rows)
        self._candidates = ProjectedCandidates(rows, basis, dtype)
        self._dtype = dtype
        self._waiting: list[_Call] = []
        self._changing, self._ranking = Lock(), Lock()

    def top(self, vectors: Tensor, k: int, excluded: Sequence[Tensor]) -> Top:
        """Return the best rows for each vector, as `ranking.top.top_items` does.

        Arguments:
            vectors: (u, D).
            excluded: u tensors of positions, int64, that must not be in the lists.

        Raises:
            DataError: a vector is not finite.
        """
        if not self.count or not len(vectors):
            empty = torch.empty(len(vectors), 0, dtype=torch.int64)
            return Top(empty, empty.to(self._dtype))
        call = _Call(vectors, k, excluded)
        with self._changing:
            self._waiting.append(call)
        with self._ranking:
            if call.answer is None and call.error is None:
                with self._changing:
                    calls, self._waiting = self._waiting, []
                self._answer(calls)
        if call.error is not None:
            raise call.error
        assert call.answer is not None
        return call.answer

    def _answer(self, calls: Sequence[_Call]) -> None:
        """Answer all calls; one with an error does not disturb the others."""
        try:
            self._answer_together(calls)
        except Exception as error:
            if len(calls) == 1:
                calls[0].error = error
                return
            for call in calls:
                self._answer([call])

    def _answer_together(self, calls: Sequence[_Call]) -> None:
        device = self._candidates.items.device
        vectors = torch.cat([call.vectors for call in calls]).to(device)
        every = [positions for call in calls for positions in call.excluded]
        lengths = torch.tensor([len(positions) for positions in every])
        offsets = F.pad(lengths.cumsum(0), (1, 0)).to(device)
        joined = (offsets, torch.cat(every).to(device)) if int(lengths.sum()) else None
        longest = max(call.k for call in calls)
        found = self._candidates.top(vectors, longest, exclude=joined)
        positions, scores = found.positions.cpu(), found.scores.cpu()
        start = 0
        for call in calls:
            rows = slice(start, start + len(call.vectors))
            start += len(call.vectors)
            # A list is the beginning of every longer list.
            call.answer = Top(positions[rows, : call.k], scores[rows, : call.k])
