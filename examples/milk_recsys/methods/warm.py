"""The data that methods other than MILK learn from, and the few helpers that they share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from invmod import MeanImputer
from milk_recsys.catalogue.preparation import prepare_scale, scale_and_impute
from milk_recsys.catalogue.tables import Tables
from milk_recsys.catalogue.user_rows import UserRows, build_user_rows
from milk_recsys.config.options import Options, PreparationOptions
from milk_recsys.ranking.negatives import sample_negatives

__all__ = ["Content", "WarmData", "bpr_loss", "nearest"]


@dataclasses.dataclass(frozen=True)
class WarmData:
    """What there is to learn from: warm items, numbered from 0, and nothing of any other item.

    Attributes:
        features: modality -> (n, d_m), as stored; NaN where `observed` is False, whatever it was before.
        observed: (n, M) bool, the modalities that may be used.
        rows: the training pairs, over items 0 to n - 1.
        preparation: scaling of the features.
        dtype: of what is computed, float32 or float64.
    """

    modalities: tuple[str, ...]
    num_users: int
    features: dict[str, Tensor]
    observed: Tensor
    rows: UserRows
    preparation: PreparationOptions = dataclasses.field(default_factory=PreparationOptions)
    dtype: torch.dtype = torch.float32

    @classmethod
    def of_tables(cls, tables: Tables, options: Options) -> WarmData:
        """Take the warm items of a data set and its split, renumbered in order."""
        observed = tables.mask[tables.warm]
        features = tables.features.rows(tables.warm)
        masked = {
            name: x.masked_fill(~observed[:, m, None], torch.nan)
            for m, (name, x) in enumerate(features.items())
        }
        numbers = torch.arange(len(tables.warm), device=tables.device)
        if torch.equal(tables.pool, tables.warm):
            rows = dataclasses.replace(tables.rows, pool=numbers)
        else:  # negatives are drawn from warm items here, whatever the pool of the tables
            users, items = (x.contiguous() for x in tables.pairs.unbind(1))
            positions = torch.searchsorted(tables.warm, items)
            rows = build_user_rows(
                torch.stack([users, positions], dim=1), tables.num_users, numbers
            )
        dtype = torch.float64 if options.run.dtype == "float64" else torch.float32
        return cls(
            tables.modalities, tables.num_users, masked, observed, rows, options.preparation, dtype
        )

    @property
    def num_items(self) -> int:
        """How many warm items there are, n."""
        return len(self.observed)

    @property
    def num_pairs(self) -> int:
        """How many training pairs there are, P."""
        return self.rows.num_pairs

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.observed.device

    @property
    def pairs(self) -> tuple[Tensor, Tensor]:
        """Users and items (P,) of all training pairs, by user."""
        return self.rows.pairs_at(torch.arange(self.num_pairs, device=self.device))

    def shuffled(self, size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield users and items of all training pairs once, in random order, `size` at a time."""
        order = torch.randperm(self.num_pairs, generator=generator).to(self.device)
        for numbers in torch.split(order, size):
            yield self.rows.pairs_at(numbers)

    def negatives(self, users: Tensor, generator: torch.Generator) -> Tensor:
        """Draw a warm item that each user does not have, (B,)."""
        return sample_negatives(users, self.rows, self.rows.pool, generator=generator)

    def triples(
        self, size: int, generator: torch.Generator
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield users, items and negatives: every training pair once, each with a fresh negative."""
        for users, items in self.shuffled(size, generator):
            yield users, items, self.negatives(users, generator)


class Content:
    """Features as a baseline takes them: rows scaled and imputed by what warm items show, modalities side by side.

    Attributes:
        warm: (n, F), of the warm items.
        widths: of the modalities; F is their sum.
        fitted: what was fitted, by name.
    """

    def __init__(self, data: WarmData) -> None:
        self._preparation, self._modalities, self.dtype = (
            data.preparation,
            data.modalities,
            data.dtype,
        )
        imputer = MeanImputer(data.modalities)
        features = {name: x.to(self.dtype) for name, x in data.features.items()}
        if self._preparation.scale_before_impute:
            features = prepare_scale(features, self._preparation, self.dtype)
        imputer.fit(features, data.observed)
        self._imputer = imputer.to(self.dtype)
        self.warm = self(data.features, data.observed)
        self.widths = tuple(x.shape[1] for x in data.features.values())
        self.fitted: dict[str, Tensor] = dict(self._imputer.state_dict())

    def __call__(self, features: Mapping[str, Tensor], observed: Tensor) -> Tensor:
        """Return (N, F)."""
        rows = {name: features[name] for name in self._modalities}
        filled = scale_and_impute(rows, observed, self._imputer, self._preparation, self.dtype)
        return torch.cat([filled[name] for name in self._modalities], dim=1)


def bpr_loss(positive: Tensor, negative: Tensor) -> Tensor:
    """Mean of -ln sigma(better - worse)."""
    return F.softplus(negative - positive).mean()


def nearest(
    similarity: Callable[[slice], Tensor], count: int, k: int, *, block_rows: int
) -> tuple[Tensor, Tensor]:
    """Find the k largest similarities of each of `count` rows, some at a time; return values and places (count, k)."""
    blocks = [
        similarity(slice(i, i + block_rows)).topk(k, dim=1) for i in range(0, count, block_rows)
    ]
    return torch.cat([f.values for f in blocks]), torch.cat([f.indices for f in blocks])


# --- randomness and state -------------------------------------------------------------------------
