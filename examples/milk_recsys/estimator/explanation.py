"""Explanations: the parts of a score by modality and by known item."""

from __future__ import annotations

import dataclasses
from typing import cast

import polars as pl
import torch
from torch import Tensor

from milk_recsys.base.errors import DataError
from milk_recsys.estimator.abilities import need
from milk_recsys.estimator.candidates import NewItems
from milk_recsys.estimator.fitted import Fitted
from milk_recsys.methods.keep.explanation import modality_weights
from milk_recsys.methods.keep.fitted import KeepModel
from milk_recsys.methods.keep.user_map import warm_vectors

__all__ = ["PAIRS", "Explanation", "explain"]

PAIRS = "pairs"  # Part of a score that comes from pairs of the item, not from a modality.


@dataclasses.dataclass(frozen=True)
class Explanation:
    """A score as a sum of parts, which may be negative.

    Attributes:
        user, item: ids.
        score: the sum of the parts. In lists it is rounded to the precision of the run.
        parts: a frame with the columns known_item (an item that the user took), modality and part;
            the modality `pairs` stands for pairs of the item itself.
    """

    user: str
    item: str
    score: float
    parts: pl.DataFrame

    @property
    def by_modality(self) -> dict[str, float]:
        """Sums of the parts by modality."""
        return self._summed("modality")

    @property
    def by_item(self) -> dict[str, float]:
        """Sums of the parts by item that the user took, the largest absolute value first."""
        summed = self._summed("known_item")
        return dict(sorted(summed.items(), key=lambda entry: -abs(entry[1])))

    def _summed(self, column: str) -> dict[str, float]:
        sums = self.parts.group_by(column, maintain_order=True).agg(pl.col("part").sum())
        return dict(sums.iter_rows())

    def __str__(self) -> str:
        lines = [f"score {self.score:.4g} of {self.item} for {self.user}"]
        for title, sums in (("by modality", self.by_modality), ("by known item", self.by_item)):
            shown = ", ".join(f"{name} {part:+.4g}" for name, part in list(sums.items())[:10])
            more = f" and {len(sums) - 10} more" if len(sums) > 10 else ""
            lines.append(f"  {title}: {shown}{more}")
        return "\n".join(lines)


def explain(fitted: Fitted, user: str, own: Tensor, item: str, new: NewItems | None) -> Explanation:
    """Explain a score.

    Arguments:
        user: name of the user.
        own: int64 (J,), the known items of the user.
        item: id of a new item, or else of a known one.
        new: the new items.

    Raises:
        DataError: the item is neither new nor known, or the user has no items.
    """
    need(fitted.options.definition, "explain", "explain")
    if not len(own):
        raise DataError(f"explain: user {user!r} has no known items that a score could come from.")
    user_map = fitted.user_map
    place = None if new is None else new.ids.find(item)
    modalities: tuple[str, ...] = ()
    if new is not None and place is not None:
        weights, modalities = _new_item(fitted, new, place)
    else:
        number = fitted.items.find(item)
        if number is None:
            raise DataError(
                f"explain: {item!r} is neither a known item nor one of `new_items`. Give the "
                "new items to explain, or to recommend before."
            )
        vector = warm_vectors(cast(KeepModel, fitted.scorer.model))[number : number + 1]
        weights, modalities = user_map.item_weights(vector), (PAIRS,)
    own = own.to(weights.device)
    parts = user_map.weights(own) * weights[:, own]  # (modalities, J)
    names = [fitted.items.names[j] for j in own.tolist()]
    frame = pl.DataFrame(
        {
            "known_item": [name for _ in modalities for name in names],
            "modality": [modality for modality in modalities for _ in names],
            "part": parts.flatten().tolist(),
        }
    )
    return Explanation(user, item, float(parts.sum()), frame)


def _new_item(fitted: Fitted, new: NewItems, place: int) -> tuple[Tensor, tuple[str, ...]]:
    """Return g of each part (parts, n) of a new item, and the names of the parts."""
    rows = {name: x[place : place + 1] for name, x in new.features.items()}
    mask = new.mask[place : place + 1]
    weights = modality_weights(fitted.user_map, rows, mask)[:, 0]
    names = fitted.scorer.modalities
    has = mask[0].nonzero()[:, 0]
    weights, names = weights[has], tuple(names[m] for m in has.tolist())
    if new.shares[place] == 1:
        return weights, names
    # The content has a share of the vector, and the rest comes from first pairs.
    whole = fitted.user_map.item_weights(new.vectors[place : place + 1])
    weights = weights * new.shares[place]
    return torch.cat([weights, whole - weights.sum(dim=0)]), (*names, PAIRS)
