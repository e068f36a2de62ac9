"""The users whose lists are wanted, and the pairs that must not be in lists."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from milk_recsys.base.errors import DataError
from milk_recsys.catalogue.frame_rows import find_ids
from milk_recsys.catalogue.importers.ids import Ids
from milk_recsys.estimator.candidates import Candidates, named_pairs
from milk_recsys.estimator.customers import Customers
from milk_recsys.estimator.fitted import Fitted
from milk_recsys.estimator.lists import renumbered

__all__ = ["ListedUsers", "excluded_pairs"]

UNKNOWN_USER = "Use fold_in for a customer who was not in the fit."


@dataclasses.dataclass(frozen=True)
class ListedUsers:
    """Users of the model, or customers who are folded in.

    Attributes:
        names: their ids.
        rows: int64 (u,) numbers of users of the model, or vectors (u, D) of customers.
        offsets, items: int64 (u + 1,) and (P,), the known items that each of them has; none if the
            model does not contain its training pairs.
    """

    names: list[str]
    rows: Tensor
    offsets: Tensor
    items: Tensor

    @classmethod
    def of(cls, fitted: Fitted, users: Iterable[Any] | Customers | None, where: str) -> ListedUsers:
        """Return the users with the given ids, in this order; None for all with a training pair.

        Arguments:
            where: name of the calling method, for messages.

        Raises:
            DataError: an id is unknown, or a user has no training pair.
        """
        if isinstance(users, Customers):
            fitted.check_version(users.version, f"{where}: the result of fold_in")
            return cls(list(users.names), users.vectors, users.offsets, users.items)
        if users is None:
            numbers = fitted.scorer.trained_users.nonzero()[:, 0]
        else:
            found = find_ids(fitted.users, users, f"{where}: user", UNKNOWN_USER)
            numbers = torch.from_numpy(found)
            fitted.check_trained(numbers, where)
        return cls.of_numbers(fitted, numbers)

    @classmethod
    def of_numbers(cls, fitted: Fitted, numbers: Tensor) -> ListedUsers:
        """Return the users with the given numbers (u,), in this order."""
        every = fitted.users.names
        names = [every[user] for user in numbers.tolist()]
        if not fitted.is_keep:
            empty = torch.zeros(len(numbers) + 1, dtype=torch.int64)
            return cls(names, numbers, empty, empty[:0])
        offsets, items = fitted.user_map.offsets.cpu(), fitted.user_map.items.cpu()
        return cls(names, numbers, *_gathered(offsets, items, numbers))

    @property
    def folded_in(self) -> bool:
        """Whether they are customers who were not in the fit."""
        return self.rows.ndim == 2

    def sorted(self) -> ListedUsers:
        """Return distinct users in the order of their numbers, as candidates of lists of users.

        Raises:
            DataError: they are customers who were not in the fit.
        """
        if self.folded_in:
            raise DataError("audience: users must be ids; lists for customers are of recommend.")
        rows, place = torch.unique(self.rows, return_inverse=True)
        first = torch.empty_like(rows).scatter_(0, place, torch.arange(len(place)))
        names = [self.names[k] for k in first.tolist()]
        return ListedUsers(names, rows, *_gathered(self.offsets, self.items, first))

    def owners(self, fitted: Fitted) -> list[str]:
        """Return the names by the numbers that `Scorer.best_items` gives the lists."""
        return self.names if self.folded_in else fitted.users.names


def _gathered(offsets: Tensor, items: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return offsets and items of some rows of a table that is given by both."""
    lengths = offsets.diff()[rows]
    starts = F.pad(lengths.cumsum(0), (1, 0))
    shifts = (offsets[rows] - starts[:-1]).repeat_interleave(lengths)
    return starts, items[shifts + torch.arange(len(shifts))]


def excluded_pairs(
    fitted: Fitted, users: ListedUsers, candidates: Candidates, exclude: Any | None
) -> Tensor:
    """Return the pairs (P, 2) of places of users and candidates that must not be listed.

    Arguments:
        exclude: a frame of pairs, or None. Own items and first pairs are always left out.
    """
    pairs = [candidates.owned(users.offsets, users.items)]
    count = len(fitted.users)
    if not users.folded_in:
        pairs.append(renumbered(candidates.first, users.rows, count))
    if exclude is not None:
        known = Ids(users.names) if users.folded_in else fitted.users
        named = named_pairs(exclude, fitted.rows, "exclude", known, candidates.ids)
        pairs.append(named if users.folded_in else renumbered(named, users.rows, count))
    return torch.cat(pairs)
