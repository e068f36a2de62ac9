"""Vectors of new items that are kept between evaluations.

A run ranks the same new items several times, with modalities hidden in turn. Hiding a modality that
an item does not have changes nothing, so half of the vectors or more are already known.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from milk_recsys.catalogue.features import ItemFeatures

__all__ = ["EmbeddedItems"]

MAX_ENTRIES = 2**27  # Largest number of entries of the vectors that are kept: 0.5 GB in float32.


class EmbeddedItems:
    """Vectors of items of one catalogue, each computed once for each of its patterns."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget all vectors."""
        self._features: ItemFeatures | None = None
        self._blocks: list[Tensor] = []
        self._number: dict[tuple[int, ...], int] = {}  # (item, pattern) -> row among all blocks.

    def vectors(
        self,
        features: ItemFeatures,
        items: Tensor,
        mask: Tensor,
        embed: Callable[[Tensor, Tensor], Tensor],
    ) -> Tensor:
        """Return the vectors (C, r) of items.

        Arguments:
            features: the catalogue. The vectors of another one are forgotten.
            items: (C,) distinct ids.
            mask: (C, M) bool, the modalities that may be used.
            embed: function from items and their mask to vectors.
        """
        if features is not self._features:
            self.clear()
            self._features = features
        keys = [
            (item, *own) for item, own in zip(items.tolist(), mask.long().tolist(), strict=True)
        ]
        unknown = [i for i, key in enumerate(keys) if key not in self._number]
        number, blocks = dict(self._number), self._blocks
        if unknown or not blocks:
            at = torch.tensor(unknown, dtype=torch.int64, device=items.device)
            block = embed(items[at], mask[at])
            begin = len(number)
            number |= {keys[i]: begin + row for row, i in enumerate(unknown)}
            blocks = [*blocks, block]
            if len(number) * block.shape[1] <= MAX_ENTRIES:
                self._number, self._blocks = number, blocks
        rows = torch.tensor([number[key] for key in keys], dtype=torch.int64, device=items.device)
        vectors = blocks[0].new_empty(len(keys), blocks[0].shape[1])
        begin = 0
        for block in blocks:
            own = (rows >= begin) & (rows < begin + len(block))
            vectors[own] = block[rows[own] - begin]
            begin += len(block)
        return vectors
