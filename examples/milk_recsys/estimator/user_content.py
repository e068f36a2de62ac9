"""Vectors of customers without history, from features of users.

The vector of a new customer is a mean of the vectors of the users, with the weights of a regression
for each pattern of features (`PatternKernelRidge.smoother`). A customer without any feature has the
mean vector.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from invmod import mask_from_features
from invmod.regression import PatternKernelRidge
from milk_recsys.base.errors import DataError

__all__ = ["UserContent"]

MAX_EXACT_USERS = 10_000  # With more users the kernel is projected.
LANDMARKS = 512
COMPARED = 64  # Number of components of the vectors by which options are chosen.


class UserContent:
    """A regression of users' vectors on features of users.

    Arguments:
        regression: fitted on the rows of `users`.
        users: int64 (R,), the users with features and training pairs.
        columns: modality -> columns of its frame.

    Attributes:
        dims: modality -> width.
    """

    def __init__(
        self,
        regression: PatternKernelRidge,
        users: Tensor,
        dims: Mapping[str, int],
        columns: Mapping[str, tuple[str, ...]],
    ) -> None:
        self.regression, self.users = regression, users
        self.dims, self.columns = dict(dims), dict(columns)

    @classmethod
    def fitted(
        cls,
        features: Mapping[str, Tensor],
        users: Tensor,
        vectors: Tensor,
        columns: Mapping[str, tuple[str, ...]],
        seed: int,
    ) -> UserContent:
        """Fit the regression.

        Arguments:
            features: modality -> (R, d_m); a row of NaN is missing.
            users: (R,) numbers of users.
            vectors: (R, D) their vectors.
            seed: of the random numbers.

        Raises:
            DataError: there are fewer than two users.
        """
        if len(users) < 2:
            raise DataError(
                f"user_features: {len(users)} users have features and pairs; at least 2 are needed."
            )
        projected = len(users) > MAX_EXACT_USERS
        regression = _regression(tuple(features), landmarks=LANDMARKS if projected else None)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            count = min(COMPARED, *vectors.shape)
            u, s, _ = torch.svd_lowrank(vectors.double(), q=count, niter=4)
            regression.fit(features, u * s, mask_from_features(features, tuple(features)))
        return cls(regression, users, {name: x.shape[1] for name, x in features.items()}, columns)

    def vectors(
        self, features: Mapping[str, Tensor], user_vectors: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Return the vectors (N, D) of new customers.

        Arguments:
            features: modality -> (N, d_m); a row of NaN, or an absent modality, is missing.
            user_vectors: maps numbers of users to their vectors.
        """
        mask = mask_from_features(features, self.regression.modalities)
        weights = self.regression.smoother(features, mask)
        return weights @ user_vectors(self.users).to(weights)

    def state_dict(self) -> dict[str, Tensor]:
        """Return the tensors from which `loaded` makes the object again."""
        return {"users": self.users, **self.regression.state_dict(prefix="regression.")}

    def facts(self) -> dict[str, Any]:
        """Return the names and columns, as JSON."""
        return {"dims": self.dims, "columns": {k: list(v) for k, v in self.columns.items()}}

    @classmethod
    def loaded(cls, state: Mapping[str, Tensor], facts: Mapping[str, Any]) -> UserContent:
        """Make an object from what `state_dict` and `facts` returned."""
        dims = {str(name): int(dim) for name, dim in facts["dims"].items()}
        columns = {name: tuple(map(str, own)) for name, own in facts["columns"].items()}
        # The state has landmarks if the regression was projected.
        regression = _regression(tuple(dims), landmarks=LANDMARKS)
        regression.load_state_dict(
            {k.removeprefix("regression."): x for k, x in state.items() if k != "users"}
        )
        return cls(regression, state["users"], dims, columns)


def _regression(names: tuple[str, ...], landmarks: int | None) -> PatternKernelRidge:
    return PatternKernelRidge(names, landmarks=landmarks, choice_rows=1000)
