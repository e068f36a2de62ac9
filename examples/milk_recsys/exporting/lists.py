"""The lists of a run in blocks, and their tables."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import torch
from torch import Tensor

from milk_recsys.base.errors import plural
from milk_recsys.estimator.lists import excluded_rows, renumbered
from milk_recsys.estimator.queries import ListedUsers
from milk_recsys.exporting.catalogue import ServedItems
from milk_recsys.run.scorer import Best

__all__ = ["ListFrames", "Lists"]


class Lists:
    """The lists of the chosen users and items, in blocks.

    Attributes:
        places: (n,) the places of the listed items among all candidates.
    """

    def __init__(
        self,
        served: ServedItems,
        top: int,
        users: Tensor | None,
        kept: Tensor | None,
        excluded: Tensor,
    ) -> None:
        self.scorer, self.top = served.scorer, top
        every = torch.arange(self.scorer.num_users) if users is None else users
        self.users = ListedUsers.of_numbers(served.fitted, every)
        trained = every[self.scorer.trained_users[every]]
        self.trained = ListedUsers.of_numbers(served.fitted, trained).sorted()
        candidates, count = served.candidates, len(served.candidates.names)
        self.places = torch.arange(count) if kept is None else kept
        self.candidates = candidates if kept is None else candidates.only(kept)
        place = torch.full((count,), -1)
        place[self.places] = torch.arange(len(self.places))
        excluded = torch.stack([excluded[:, 0], place[excluded[:, 1]]], dim=1)
        self.excluded = excluded[excluded[:, 1] >= 0]

    def of_users(self) -> Iterator[Best]:
        """Yield the lists of items for the users."""
        pairs, count = self._excluded(self.users), len(self.users.rows)
        return self.scorer.best_items(
            self.candidates.vectors, self.top, self.users.rows, exclude=excluded_rows(pairs, count)
        )

    def of_items(self) -> Iterator[Best]:
        """Yield the lists of users for the items."""
        pairs = self._excluded(self.trained).flip(1)
        return self.scorer.best_users(
            self.candidates.vectors,
            self.top,
            self.trained.rows,
            exclude=excluded_rows(pairs, len(self.places)),
        )

    def _excluded(self, users: ListedUsers) -> Tensor:
        """Return the pairs (P, 2) of places of users and candidates that are not listed."""
        named = renumbered(self.excluded, users.rows, self.scorer.num_users)
        return torch.cat([self.candidates.owned(users.offsets, users.items), named])

    @property
    def counted(self) -> str:
        """The numbers of users and items, for a message."""
        new = int((self.candidates.known < 0).sum())
        known = len(self.places) - new
        parts = [plural(len(self.users.rows), "user", "users")]
        if new or not known:
            parts.append(plural(new, "new item", "new items"))
        if known:
            parts.append(plural(known, "known item", "known items"))
        return " and ".join(parts)

    def notes(self) -> Iterator[str]:
        """Yield notes on users without a training pair, and on lists that are short."""
        users, trained, count = len(self.users.rows), len(self.trained.rows), len(self.places)
        top, scored = self.top, self.scorer.trained_users[self.users.rows]
        untrained = int((~scored).sum())
        if untrained:
            words = (
                ("has", "that user's list is", "the user")
                if untrained == 1
                else ("have", "their lists are", "them")
            )
            yield (
                f"{untrained} of {plural(users, 'user', 'users')} {words[0]} no training "
                f"pair; {words[1]} random (`trained` is false), and no item lists {words[2]}."
            )
        if top > count:
            kind = "" if bool((self.candidates.known >= 0).any()) else "new "
            items = plural(count, f"{kind}item", f"{kind}items")
            there = f"there {'is' if count == 1 else 'are'} only {items}"
            yield f"--top {top}: {there}, so each user's list is shorter."
        if top > trained:
            have = plural(trained, "user has", "users have")
            yield f"--top {top}: only {have} a training pair, so each item's list is shorter."


class ListFrames:
    """Converts blocks of lists to data frames, with names of users and items if there are any.

    Arguments:
        quotes: whether names that a spreadsheet would run as formulas get an apostrophe.
    """

    def __init__(self, served: ServedItems, places: Tensor, *, quotes: bool = False) -> None:
        chosen = places.numpy()
        self.trained = served.scorer.trained_users.numpy()
        self.items = np.array(served.numbers, dtype=np.int64)[chosen]
        self.known = served.candidates.known.numpy()[chosen] >= 0 if len(served.known) else None
        texts = {"user_name": served.users.names or served.users.ids}
        texts |= {"item_name": served.names, "item_id": served.ids}
        every = np.arange(len(served.users))
        rows = {"user_name": every, "item_name": chosen, "item_id": chosen}
        self.texts = {
            name: pl.Series(
                pl.Series(_quoted(labels) if quotes else labels, dtype=pl.String).to_numpy()[
                    rows[name]
                ]
            )
            for name, labels in texts.items()
            if labels is not None
        }

    def of_users(self, best: Best) -> pl.DataFrame:
        """Return a frame with user, user_name, trained, rank, item, item_name, known, score."""
        trained = {"trained": self.trained[best.rows.numpy()]}
        return self._frame(self._user, best.rows.numpy(), self._item, best, trained)

    def of_items(self, best: Best) -> pl.DataFrame:
        """Return a frame with item, item_name, known, rank, user, user_name, score."""
        return self._frame(self._item, best.rows.numpy(), self._user, best, {})

    def _frame(
        self,
        owner: Callable[[npt.NDArray[np.int64]], dict[str, Any]],
        owners: npt.NDArray[np.int64],
        listed: Callable[[npt.NDArray[np.int64]], dict[str, Any]],
        best: Best,
        further: Mapping[str, npt.NDArray[Any]],
    ) -> pl.DataFrame:
        """Return one row per entry of the lists (owners, length), in the order of the ranks."""
        indices, length = best.indices.numpy(), best.indices.shape[1]
        # An index of -1 ends a list for which too few entries are left.
        kept = (indices >= 0).ravel()
        columns: dict[str, Any] = owner(np.repeat(owners, length)[kept])
        columns |= {name: np.repeat(values, length)[kept] for name, values in further.items()}
        ranks = np.tile(np.arange(1, length + 1, dtype=np.int32), len(owners))
        columns["rank"] = ranks[kept]
        columns |= listed(indices.ravel()[kept])
        columns["score"] = best.scores.numpy().ravel()[kept]
        return pl.DataFrame(columns)

    def _user(self, users: npt.NDArray[np.int64]) -> dict[str, Any]:
        return {"user": users} | self._named(("user_name",), users)

    def _item(self, places: npt.NDArray[np.int64]) -> dict[str, Any]:
        columns: dict[str, Any] = {"item": self.items[places]}
        columns |= self._named(("item_id", "item_name"), places)
        return columns if self.known is None else columns | {"known": self.known[places]}

    def _named(self, names: tuple[str, ...], places: npt.NDArray[np.int64]) -> dict[str, Any]:
        return {name: self.texts[name].gather(places) for name in names if name in self.texts}


def _quoted(names: Iterable[str]) -> list[str]:
    """Put an apostrophe before names that a spreadsheet would run as formulas.

    A name with an apostrophe of its own gets a second one, so that removing one restores all names.
    """
    return [f"'{name}" if name.startswith(("=", "+", "-", "@", "'")) else name for name in names]
