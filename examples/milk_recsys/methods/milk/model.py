"""The model of MILK: user embeddings, encoders of items, and the preparation of features."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from invmod import (
    MeanImputer,
    ModalityEncoders,
    fuse,
)
from invmod._text import encode_text
from milk_recsys.base.device import choose_device
from milk_recsys.base.linear_algebra import leading_eigenvectors
from milk_recsys.catalogue.features import ItemFeatures
from milk_recsys.catalogue.preparation import prepare_scale, scale_and_impute
from milk_recsys.catalogue.tables import Tables
from milk_recsys.config.options import Options, PreparationOptions
from milk_recsys.methods.milk import MilkOptions

if TYPE_CHECKING:
    from milk_recsys.methods.milk.sharded_users import ShardedUsers

__all__ = ["Recommender", "build_model", "scoring_model"]


class Recommender(nn.Module):
    """User embeddings and one linear encoder per modality; a score is an inner product (Eq. 5, 13).

    Arguments:
        dims: modality -> width of its features, in the order of the mask's columns.
        num_users: the number of users.
        options: widths, compression and inference.
        preparation: scaling of the features; None for its defaults.
        shard_on: device of this rank's rows of a table that TorchRec shards, which needs a process
            group; None without TorchRec.
        own_users: the first user of this rank and the one after its last, if the table has the rows
            of these users alone; None for a whole table.

    Attributes:
        users: the table, or this rank's rows of it, which begin with user `first_user`.
        trained_users: (num_users,) bool, users with a training pair.
    """

    def __init__(
        self,
        dims: Mapping[str, int],
        num_users: int,
        options: MilkOptions,
        preparation: PreparationOptions | None = None,
        *,
        shard_on: torch.device | None = None,
        own_users: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.options, self.preparation = options, preparation or PreparationOptions()
        self.modalities = tuple(dims)
        self.first_user, self.shards = 0, None
        if shard_on is not None:
            self.users = self._shard_users(num_users, options, shard_on)
        elif own_users is not None:
            self.users = self._own_users(num_users, options, *own_users)
        else:
            self.users = nn.Embedding(num_users, options.embedding_dim)
            nn.init.normal_(self.users.weight, std=options.user_init_std)
        max_width = options.compress or max(dims.values())
        self.encoders = ModalityEncoders.linear(
            {name: min(d, max_width) for name, d in dims.items()}, options.embedding_dim
        )
        # The principal directions (d, max_width) of modalities that are wider than max_width.
        for index, d in enumerate(dims.values()):
            basis = torch.zeros(d, max_width) if d > max_width else None
            self.register_buffer(f"basis_{index}", basis)
        self.imputer: Any = MeanImputer(self.modalities)
        self.register_buffer("trained_users", torch.zeros(num_users, dtype=torch.bool))

    trained_users: Tensor
    shards: ShardedUsers | None

    def _shard_users(
        self, num_users: int, options: MilkOptions, device: torch.device
    ) -> nn.Embedding:
        """Make a sharded table with the initial values that a whole table would have.

        Returns:
            an embedding of this rank's rows, which shares their memory.
        """
        from milk_recsys.methods.milk.sharded_users import ShardedUsers, fill_rows

        # nn.Embedding draws its default values before `init.normal_` draws ours: advance the
        # generator by as many values, so that every number of ranks starts from the same weights.
        fill_rows(torch.empty(0, options.embedding_dim), 0, num_users, std=1.0)
        shards = ShardedUsers(
            num_users,
            options.embedding_dim,
            lr=options.lr,
            init_std=options.user_init_std,
            device=device,
        )
        self.shards, self.first_user = shards, shards.rows[0]
        return nn.Embedding(
            len(shards.local_weight),
            options.embedding_dim,
            _weight=shards.local_weight,
            _freeze=True,
        )

    def _own_users(
        self, num_users: int, options: MilkOptions, start: int, stop: int
    ) -> nn.Embedding:
        """Make a table of some users' rows, with the values that a whole table would have."""
        from milk_recsys.methods.milk.sharded_users import fill_rows

        dim = options.embedding_dim
        # As in `_shard_users`, advance the generator by the default values of nn.Embedding.
        fill_rows(torch.empty(0, dim), 0, num_users, std=1.0)
        self.first_user = start
        rows = fill_rows(
            torch.empty(stop - start, dim), start, num_users, std=options.user_init_std
        )
        return nn.Embedding(stop - start, dim, _weight=rows)

    @property
    def uniform(self) -> Tensor:
        """The uniform environment, (1, M), in the model's precision."""
        size = len(self.modalities)
        return self.users.weight.new_full((1, size), 1 / size, requires_grad=False)

    def fit_preparation(self, features: ItemFeatures, mask: Tensor, rows: Tensor) -> None:
        """Fit the imputer and the principal directions on the observed training rows alone.

        Arguments:
            features: of all items, as stored. They are read block by block.
            mask: (num_items, M) bool.
            rows: int64, the warm items.
        """
        imputer = MeanImputer(self.modalities)
        for items, block in features.blocks(rows):
            imputer.partial_fit(
                self.scaled(block) if self.preparation.scale_before_impute else block,
                mask[items],
            )
        self.imputer = imputer.to(self.users.weight.dtype)
        for index, name in enumerate(self.modalities):
            basis: Tensor | None = getattr(self, f"basis_{index}")
            if basis is not None:
                # The principal directions are eigenvectors of the Gram matrix, which can be added
                # up over blocks, so that the features are never in memory as a whole.
                gram = torch.zeros(len(basis), len(basis), dtype=torch.float64, device=basis.device)
                for items, block in features.blocks(rows):
                    x = self._filled(block, mask[items])[name].double()
                    gram += x.T @ x
                basis.copy_(leading_eigenvectors(gram, basis.shape[1]))

    def prepare(self, features: Mapping[str, Tensor], mask: Tensor) -> dict[str, Tensor]:
        """Scale and impute rows of features (N, d) in the options' order; compress wide ones."""
        filled = self._filled(features, mask)
        bases = (getattr(self, f"basis_{index}") for index in range(len(self.modalities)))
        return {
            name: filled[name] if basis is None else filled[name] @ basis
            for name, basis in zip(self.modalities, bases, strict=True)
        }

    def _filled(self, features: Mapping[str, Tensor], mask: Tensor) -> dict[str, Tensor]:
        return scale_and_impute(
            features, mask, self.imputer, self.preparation, self.users.weight.dtype
        )

    def scaled(self, features: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Scale rows to unit length, except rows that are nearly 0, which would become noise."""
        return prepare_scale(features, self.preparation, self.users.weight.dtype)

    @torch.no_grad()
    def scorer(
        self, features: ItemFeatures, items: Tensor, mask: Tensor, *, max_users: int = 0
    ) -> Callable[[Tensor], Tensor]:
        """Return a function from users (u,) to their scores of the items (C,), (u, C).

        With a sharded table, a rank can score only the users whose rows it has.

        Arguments:
            mask: (num_items, M) bool, the modalities that may be used.
            max_users: size of a buffer for the scores of that many users, which every call that
                fits in it overwrites and returns; 0 for none.
        """
        vectors = torch.cat(
            [self.embed_items(x, mask[block]) for block, x in features.blocks(items)]
        )
        buffer = vectors.new_empty(max_users, len(items))

        def score(users: Tensor) -> Tensor:
            return torch.mm(
                self.user_vectors(users),
                vectors.T,
                out=buffer[: len(users)] if len(users) <= max_users else None,
            )

        return score

    @property
    def dim(self) -> int:
        """Width of the vectors, D."""
        return int(self.users.weight.shape[1])

    def user_vectors(self, users: Tensor | None) -> Tensor:
        """Return the vectors (u, D) of users; None for all, which are the table itself.

        With a sharded table the users are those of this rank.
        """
        weight: Tensor = self.users.weight
        return weight if users is None else weight.index_select(0, users - self.first_user)

    def embed_items(self, features: Mapping[str, Tensor], mask: Tensor) -> Tensor:
        """Embed items for scoring (Eq. 18): the mean over imputed, or over available modalities.

        Arguments:
            features: modality -> (N, d), unscaled. Values of unobserved rows are not read.
            mask: (N, M) bool.

        Returns:
            (N, D).
        """
        # Without a mask, `fuse` averages all modalities, imputed ones included.
        used = mask if self.options.inference == "available_mean" else None
        return fuse(self.encoders(self.prepare(features, mask)), self.uniform, used)[0]


def build_model(options: Options, tables: Tables) -> Recommender:
    """Build the model with weights drawn from the seed, and fit its preparation on warm items."""
    own: MilkOptions = options.method
    shard_on = own_users = None
    if own.user_table == "sharded" and tables.blocks is not None:
        rank, starts = tables.blocks.world.rank, tables.blocks.user_starts
        own_users = starts[rank], starts[rank + 1]
    elif own.user_table == "sharded":
        shard_on = choose_device(options.run.device)
    # Weights are drawn on the CPU, so that they do not depend on the device.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.run.seed)
        model = Recommender(
            tables.features.dims,
            tables.num_users,
            own,
            options.preparation,
            shard_on=shard_on,
            own_users=own_users,
        )
    model.to(tables.device, torch.float64 if options.run.dtype == "float64" else torch.float32)
    model.fit_preparation(tables.features, tables.mask, tables.warm)
    model.trained_users.copy_(tables.trained_users)
    return model


def scoring_model(
    options: Options, dims: Mapping[str, int], num_users: int, tensors: Mapping[str, Tensor]
) -> Recommender:
    """Build the model of a finished run from its weights.

    Raises:
        RuntimeError: the weights do not fit the model.
    """
    # On the meta device, weights that are replaced at once take neither memory nor random numbers.
    with torch.device("meta"):
        model = Recommender(dims, num_users, options.method, options.preparation)
    # Files of older versions have no names of modalities. Those in `dims` are from config.json.
    older = {"encoders.modality_names": encode_text(tuple(dims))}
    model.load_state_dict({**older, **tensors}, assign=True)
    return model
