"""Training data of all methods except MILK, and helpers that these methods share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from invmod import MeanImputer
from milk_recsys.base.checkpoint import pack, unpack
from milk_recsys.catalogue.preparation import prepare_scale, scale_and_impute
from milk_recsys.catalogue.tables import Tables
from milk_recsys.catalogue.user_blocks import UserBlocks
from milk_recsys.catalogue.user_rows import UserRows, build_user_rows
from milk_recsys.config.options import Options, PreparationOptions
from milk_recsys.ranking.negatives import sample_negatives

__all__ = ["Checkpointed", "Content", "WarmData", "bpr_loss", "minimise", "nearest"]


@dataclasses.dataclass(frozen=True)
class WarmData:
    """Training pairs and features of the warm items, renumbered from 0 to n - 1.

    It holds nothing about any other item, so a baseline cannot use new items in training.

    Attributes:
        modalities: names, in the order of the columns of `mask`.
        num_users: number of users, U.
        features: modality -> (n, d_m), as stored, except that rows are NaN where `mask` is
            False.
        mask: (n, M) bool, True where an item has a modality that may be used.
        rows: the training pairs, with the new item numbers.
        preparation: options for the scaling of the features.
        dtype: dtype of all computations, float32 or float64.
        blocks: with ``--user-blocks``, the division of the users; `rows` then has only those of
            this process, counted from the first of them.
    """

    modalities: tuple[str, ...]
    num_users: int
    features: dict[str, Tensor]
    mask: Tensor
    rows: UserRows
    preparation: PreparationOptions = dataclasses.field(default_factory=PreparationOptions)
    dtype: torch.dtype = torch.float32
    blocks: UserBlocks | None = None

    @classmethod
    def of_tables(cls, tables: Tables, options: Options) -> WarmData:
        """Take the warm items of a data set and its split and renumber them in order."""
        mask = tables.mask[tables.warm]
        # NaN overwrites features that the run may not use, so that a method which reads one by
        # mistake produces NaN scores and is noticed.
        masked = tables.features.masked(tables.warm, mask)
        item_numbers = torch.arange(len(tables.warm), device=tables.device)
        blocks = tables.blocks
        rows = tables.rows if blocks is None else blocks.joined()
        # The rows of the tables number items within their pool, so for equal pools the pairs stay
        # as they are and only the names of the items change.
        if torch.equal(tables.pool, tables.warm):
            rows = dataclasses.replace(rows, pool=item_numbers)
        else:
            # The pool of the tables may contain new items, but a baseline draws its negatives from
            # warm items only. Build the rows again with that pool.
            users, items = rows.pairs_at(torch.arange(rows.num_pairs, device=tables.device))
            positions = torch.searchsorted(tables.warm, items)
            rows = build_user_rows(
                torch.stack([users, positions], dim=1), len(rows.free), item_numbers
            )
        dtype = torch.float64 if options.run.dtype == "float64" else torch.float32
        return cls(
            tables.modalities,
            tables.num_users,
            masked,
            mask,
            rows,
            options.preparation,
            dtype,
            blocks,
        )

    @property
    def num_items(self) -> int:
        """The number of warm items, n."""
        return len(self.mask)

    @property
    def num_pairs(self) -> int:
        """The number of training pairs, P."""
        return self.rows.num_pairs if self.blocks is None else self.blocks.num_pairs

    @property
    def trained_users(self) -> Tensor:
        """Whether each user has a training pair, (U,) bool."""
        return self.rows.has_pairs if self.blocks is None else self.blocks.has_pairs

    @property
    def device(self) -> torch.device:
        """The device of the tensors."""
        return self.mask.device

    @property
    def pairs(self) -> tuple[Tensor, Tensor]:
        """Users and items of all training pairs, (P,) each, sorted by user."""
        return self.rows.pairs_at(torch.arange(self.num_pairs, device=self.device))

    def shuffled(self, size: int, generator: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield batches of users and items: each training pair once, in random order."""
        order = torch.randperm(self.num_pairs, generator=generator).to(self.device)
        for pair_numbers in torch.split(order, size):
            yield self.rows.pairs_at(pair_numbers)

    def draw_items(self, users: Tensor, generator: torch.Generator) -> Tensor:
        """Draw an item of each user (B,) uniformly among the user's training pairs, (B,)."""
        first, end = self.rows.offsets[users], self.rows.offsets[users + 1]
        uniform = torch.rand(len(users), generator=generator, dtype=torch.float64)
        # The pairs of a user are numbered consecutively, so a uniform number in this range is a
        # uniform item of the user.
        numbers = first + (uniform.to(users.device) * (end - first)).long()
        return self.rows.pairs_at(numbers)[1]

    def negatives(self, users: Tensor, generator: torch.Generator) -> Tensor:
        """Draw for each user (B,) a warm item that the user does not have, (B,)."""
        return sample_negatives(users, self.rows, self.rows.pool, generator=generator)

    def triples(
        self, size: int, generator: torch.Generator
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """Yield users, items and negatives: each training pair once, with a new negative."""
        for users, items in self.shuffled(size, generator):
            yield users, items, self.negatives(users, generator)


class Content:
    """Features as the input of a baseline: scaled, imputed, and concatenated over modalities.

    The imputer fills a missing modality with the mean of the warm items that have it.

    Attributes:
        warm: (n, F), the content of the warm items.
        widths: widths of the modalities; F is their sum.
        fitted: tensors of the imputer, by name.
    """

    def __init__(self, data: WarmData) -> None:
        self._preparation = data.preparation
        self._modalities = data.modalities
        self.dtype = data.dtype
        imputer = MeanImputer(data.modalities)
        features = {name: x.to(self.dtype) for name, x in data.features.items()}
        # Fit the means on what `scale_and_impute` will impute: scaled rows if it scales first.
        if self._preparation.scale_before_impute:
            features = prepare_scale(features, self._preparation, self.dtype)
        imputer.fit(features, data.mask)
        self._imputer = imputer.to(self.dtype)
        self.warm = self(data.features, data.mask)
        self.widths = tuple(x.shape[1] for x in data.features.values())
        self.fitted: dict[str, Tensor] = dict(self._imputer.state_dict())

    def __call__(self, features: Mapping[str, Tensor], mask: Tensor) -> Tensor:
        """Scale, impute and concatenate the features of N items, warm or new, to (N, F)."""
        rows = {name: features[name] for name in self._modalities}
        filled = scale_and_impute(rows, mask, self._imputer, self._preparation, self.dtype)
        return torch.cat([filled[name] for name in self._modalities], dim=1)


class Checkpointed:
    """A model whose state is that of its network and of its optimisers.

    Attributes:
        net: the network.
        optimisers: the optimisers, in an order that must not change: files number them.
    """

    net: Any
    optimisers: tuple[torch.optim.Optimizer, ...]

    def state_dict(self) -> dict[str, Tensor]:
        """Return every tensor that later epochs depend on."""
        return pack(self.net, *self.optimisers)

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Load the tensors that `state_dict` returned."""
        unpack(state, self.net, *self.optimisers)


def bpr_loss(positive: Tensor, negative: Tensor) -> Tensor:
    """Return the mean of -ln sigma(positive - negative), sigma being the logistic function."""
    return F.softplus(negative - positive).mean()


def minimise(loss: Tensor, *optimisers: torch.optim.Optimizer) -> float:
    """Make a step of each optimiser on a loss; return the loss."""
    for optimiser in optimisers:
        optimiser.zero_grad()
    loss.backward()
    for optimiser in optimisers:
        optimiser.step()
    return loss.item()


def nearest(
    similarity: Callable[[slice], Tensor], count: int, k: int, *, block_rows: int
) -> tuple[Tensor, Tensor]:
    """Find the k largest similarities of each of `count` rows.

    Arguments:
        similarity: maps a slice of rows to their similarities with all candidates, (rows,
            candidates).
        count: number of rows.
        k: number of similarities to return per row.
        block_rows: number of rows per call of `similarity`, which bounds the memory.

    Returns:
        Values and column indices, (count, k) each.
    """
    blocks = [
        similarity(slice(i, i + block_rows)).topk(k, dim=1) for i in range(0, count, block_rows)
    ]
    return torch.cat([f.values for f in blocks]), torch.cat([f.indices for f in blocks])
