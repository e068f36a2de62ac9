"""KEEP: kernel ridge regression of item vectors on content, one for each pattern of modalities.

The method is our own. It is fitted in closed form and imputes nothing.

1. Vectors of users and warm items, whose inner products are the smoothed training pairs (see
   `vectors.py`):

       X = D_u^-b R D_i^-b,     A E' = K (K + lambda I)^-1 X,     K = X X'

   where R (U, n) are the training pairs, D_u and D_i the numbers of pairs of users and items, b the
   popularity exponent and lambda the shrinkage.

2. Kernel between a new item c and a warm item i, for a pattern p of modalities:

       k_p(c, i) = sum_(m in p) mu_m exp(gamma_m (cos(x_cm, x_im) - 1)) a_cm a_im
       sum_(m in p) mu_m = 1

   where x_cm is the feature vector of modality m of item c, centred on the mean of the warm items
   that have it, a_cm is 1 if c has m and else 0, gamma_m is the width and mu_m >= 0 the weight.

3. Vector of a new item c with pattern p, and its score for user u:

       v_c = h_c E,     h_c = k_p(c, W) (k_p(W, W) + N_p + l I)^-1
       s_uc = d_c^c' <A_u, v_c>,     log d_c = mean(log d_W) + h_c (log d_W - mean(log d_W))

   where W are the warm items, l is the ridge penalty, N_p is diagonal with the sum of the weights
   of the modalities that a warm item lacks, d_W are the numbers of pairs of the warm items, and c'
   is the exponent of the predicted popularity. X is damped by the number of an item's pairs, so
   this number must be predicted to rank items by their expected pairs.

Steps 2 and 3 are `invmod.regression.PatternKernelRidge`, which chooses widths, weights and ridges
by leave-one-out errors of the leading vectors E; lambda and c' are chosen in `choice.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from invmod.regression import PatternKernelRidge
from milk_recsys.base.checkpoint import save_state_of_ranks
from milk_recsys.base.distributed import SINGLE_PROCESS, World
from milk_recsys.base.errors import DataError
from milk_recsys.base.random_state import seeded
from milk_recsys.catalogue.features import ItemFeatures
from milk_recsys.catalogue.tables import Tables
from milk_recsys.config.options import Options
from milk_recsys.methods.closed_form import interactions
from milk_recsys.methods.contract import ScoreBlock
from milk_recsys.methods.factors import Factors
from milk_recsys.methods.keep import KeepOptions
from milk_recsys.methods.keep.choice import (
    EXPONENTS,
    SHRINKAGES,
    PairChoice,
    choose,
)
from milk_recsys.methods.keep.content import (
    compared_vectors,
    fitted_regression,
)
from milk_recsys.methods.keep.division import StateOfRanks, UserShard
from milk_recsys.methods.keep.fitted import KeepModel, item_state
from milk_recsys.methods.keep.left_out import (
    left_out_by_users,
    left_out_by_vectors,
    left_out_exactly,
)
from milk_recsys.methods.keep.pairs import DampedPairs
from milk_recsys.methods.keep.update import check_arguments, update_model, updated_data
from milk_recsys.methods.keep.vectors import (
    MAX_EXACT,
    MIN_SHRINKAGE,
    ExactVectors,
    SingularVectors,
    UserVectors,
    checked_rank,
    damped,
    item_counts,
)
from milk_recsys.methods.learner import ClosedFormLearner
from milk_recsys.methods.warm import WarmData

__all__ = ["Keep", "KeepLearner", "KeepModel", "keep_learner"]

MAX_DIRECT = 10_000  # Largest number of warm items, or of users, whose pairs are factorised.
MAX_ROWS = 10_000  # With more warm items than this the regression on content is projected.


class Keep:
    """KEEP fitted on the training pairs.

    With several processes each has the pairs of consecutive users and makes their vectors.
    Everything else is the same in all processes, up to rounding.

    Attributes:
        net: the fitted model, which scores the users of this process.
        choice: the shrinkage and the exponent of the predicted popularity.
        shard: the users of this process.

    Raises:
        DataError: the vectors of users and items would not fit in memory, or no warm item has
            any modality.
    """

    def __init__(
        self, data: WarmData, options: KeepOptions, seed: int, world: World = SINGLE_PROCESS
    ) -> None:
        projected = data.num_items > MAX_ROWS
        self.shard = UserShard.of(data, world)
        with seeded(seed, device=data.device) as generator:
            vectors = _vectors(data, options, self.shard)
            targets = world.broadcast_tensor(compared_vectors(vectors.leading, options))
            regression, columns = fitted_regression(
                data, options, targets, world, projected=projected
            )
            del targets
            mask = data.mask[:, columns]
            self.choice = self._choose(data, options, regression, mask, vectors, generator)
            users, items = vectors(self.choice.shrinkage)
        state = {
            "trained_users": data.trained_users,
            **item_state(items),
            "exponent": users.new_tensor(self.choice.exponent),
            "shrinkage": users.new_tensor(self.choice.shrinkage),
            "counts": vectors.counts.to(users),
        }
        if isinstance(vectors, SingularVectors):
            x = vectors.x
            state |= {"user_factors": users, "user_offsets": x.offsets, "user_items": x.items}
            state["damping"] = users.new_tensor(options.popularity)
        else:
            state["users.weight"] = users
        self.net = KeepModel(data.modalities, options, regression, state, self.shard.users.start)
        self.net.accuracy = vectors.accuracy

    def _choose(
        self,
        data: WarmData,
        options: KeepOptions,
        regression: PatternKernelRidge,
        mask: Tensor,
        vectors: ExactVectors | UserVectors | SingularVectors,
        generator: torch.Generator,
    ) -> PairChoice:
        """Choose the shrinkage and the exponent of the popularity that were not given."""
        given, world = (options.shrinkage, options.predicted_popularity), self.shard.world
        shrinkages: Sequence[float] = SHRINKAGES if given[0] is None else (given[0],)
        exponents: Sequence[float] = EXPONENTS if given[1] is None else (given[1],)
        if None not in given:
            return PairChoice(shrinkages[0], exponents[0], None)
        if isinstance(vectors, SingularVectors) and not regression.is_exact:
            left_out = left_out_by_vectors(regression, mask, vectors, generator, world)
        elif isinstance(vectors, UserVectors) and not regression.is_exact:
            pairs = interactions(data, data.dtype)
            left_out = left_out_by_users(regression, mask, pairs, vectors, generator, world)
        else:
            pairs = interactions(data, data.dtype, self.shard.rows)
            left_out = left_out_exactly(
                regression, mask, pairs, options.popularity, generator, world
            )
        return PairChoice(*world.broadcast(list(choose(left_out, shrinkages, exponents))))

    def scorer(self, features: Mapping[str, Tensor], mask: Tensor) -> ScoreBlock:
        """Return a function from users to their scores of new items, <A_u, v_c>."""
        return self.net.scores_of(self.net.embed_items(features, mask))


def _vectors(
    data: WarmData, options: KeepOptions, shard: UserShard
) -> ExactVectors | UserVectors | SingularVectors:
    """Return the vectors in the form that is cheapest, of the users of this process.

    Raises:
        DataError: they would not fit in memory.
    """
    both = data.num_users + data.num_items
    if options.rank is None and (options.shrinkage is None or options.shrinkage >= MIN_SHRINKAGE):
        exact = data.num_items <= MAX_DIRECT and data.num_items * both <= MAX_EXACT
        if exact or data.num_items > MAX_DIRECT >= data.num_users:
            if not exact and data.blocks is not None and shard.world.size > 1:
                raise DataError(
                    f"--user-blocks: with at most {MAX_DIRECT:,} users and more training items, "
                    "KEEP needs all pairs in every process. Leave out --user-blocks, or give "
                    "--rank."
                )
            pairs = interactions(data, data.dtype, shard.rows if exact else slice(None))
            counts = item_counts(pairs)
            if not exact:
                x = damped(pairs, options.popularity, counts)
                return UserVectors(x, shard.world, shard.starts)
            x = damped(pairs, options.popularity, shard.world.sum(counts))
            return ExactVectors(x, shard.world)
    rank = checked_rank(options.rank, data.num_users, data.num_items)
    own = DampedPairs(
        data.rows,
        data.num_items,
        options.popularity,
        data.dtype,
        users=shard.rows,
        world=shard.world,
    )
    return SingularVectors(own, rank)


class KeepLearner(ClosedFormLearner):
    """The learner of KEEP, whose file contains the fitted model and can score without the pairs.

    Arguments:
        data: the warm items.
        options: options of the run.
        world: the processes that fit the model together. Every method must be called by all.
    """

    def __init__(self, data: WarmData, options: Options, world: World = SINGLE_PROCESS) -> None:
        super().__init__(data, options)
        self.world = world

    def prepare(self, after_epoch: Callable[[int, float], None] | None = None) -> None:  # noqa: ARG002
        """Fit the model."""
        if self.model is None:
            options = self.options
            self.model = Keep(self.data, options.method, options.run.seed, self.world)

    @property
    def user_starts(self) -> Sequence[int] | None:
        """The first user of each process, then the number of users; None in a single process."""
        return None if self.world.size == 1 else self._ready().shard.starts

    @property
    def chosen(self) -> dict[str, Any]:
        """The options that were chosen on the training items, and the accuracy of the vectors."""
        return {} if self.model is None else dict(self.model.net.chosen)

    def update(
        self,
        pairs: Tensor,
        *,
        features: Mapping[str, Tensor] | None = None,
        mask: Tensor | None = None,
        num_users: int | None = None,
    ) -> int:
        """Add pairs, users and warm items to the fitted model; see `update.update_model`.

        Arguments:
            pairs: int64 (P, 2), users and warm items, in the numbers of `data`; those of new users
                and of new warm items follow.
            features, mask, num_users: as in `update_model`.

        Returns:
            the number of pairs that are new.

        Raises:
            DataError: there are several processes, or the vectors would not fit in memory, or a
                user would have every warm item.
        """
        if self.world.size > 1:
            raise DataError("KEEP is updated in one process; start it without torchrun.")
        net = self._ready().net
        total = check_arguments(net, pairs, features, mask, num_users)
        data = updated_data(self.data, pairs, total, features, mask)
        new = update_model(net, pairs, features=features, mask=mask, num_users=num_users)
        self.data, self.trained_users = data, data.trained_users
        self.model.shard = UserShard.of(data, self.world)
        return new

    def _score_block(self, features: ItemFeatures, items: Tensor, mask: Tensor) -> ScoreBlock:
        """Return the result of `scorer`, from vectors that are kept for the next evaluation."""
        net = self._ready().net
        return net.scores_of(net.embed_catalogue_items(features, items, mask[items], self.world))

    def save(self, path: Path, facts: dict[str, Any], *, weights_only: bool = False) -> None:  # noqa: ARG002
        """Write the fitted model."""
        model = self._ready()
        save_state_of_ranks(path, self._state.saved(model.net.state_dict()), facts, self.world)

    def load(self, path: Path, *, weights_only: bool = False) -> dict[str, Any]:  # noqa: ARG002
        """Load a file that `save` wrote, and return its facts."""
        net, state = self._ready().net, self._state
        return self._restore(
            path, lambda tensors: net.load_state_dict(state.loaded(tensors)), state.rows
        )

    @property
    def _state(self) -> StateOfRanks:
        return StateOfRanks.of(self._ready().shard)


def keep_learner(
    options: Options, tables: Tables, world: World = SINGLE_PROCESS, factors: Factors | None = None
) -> KeepLearner:
    """Build the learner of KEEP, which needs no frozen vectors."""
    del factors
    return KeepLearner(WarmData.of_tables(tables, options), options, world)
