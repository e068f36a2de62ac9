"""What users and items are called: ids of the source, names, and numbers."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from milk_recsys.base.errors import DataError, plural
from milk_recsys.base.files import read_json
from milk_recsys.catalogue.tsv import read_names, read_source_ids
from milk_recsys.estimator.files import item_numbers
from milk_recsys.estimator.fitted import Fitted

__all__ = ["Labels", "find_all", "labels_of_run"]

NUMBER = re.compile(r"(0|[1-9][0-9]*)(\.0)?")
MAX_DIGITS = 18
SHOWN = 2  # Number of unknown ids in a message.


@dataclasses.dataclass(frozen=True)
class Labels:
    """The labels of n users or items.

    Attributes:
        kind: "user", "new item" or "known item", for messages.
        numbers: (n,) the numbers by which they are called if they have no other label.
        names: one name each, which may repeat, or None.
        ids: one id of the source each, or None.
    """

    kind: str
    numbers: npt.NDArray[np.int64]
    names: Sequence[str] | None = None
    ids: Sequence[str] | None = None

    def __len__(self) -> int:
        return len(self.numbers)

    def places(self) -> dict[str, list[int]]:
        """Return label -> the places that it stands for.

        An id or a name may stand for several. Numbers are labels if no id and no name is a number,
        so that a shop's article number is never taken for a number of a row.
        """
        found: dict[str, list[int]] = {}
        for labels in (self.ids, self.names):
            for place, text in enumerate(labels or ()):
                own = found.setdefault(text, [])
                if place not in own[-1:]:
                    own.append(place)
        if not any(NUMBER.fullmatch(text) for text in found):
            for place, number in enumerate(self.numbers.tolist()):
                found[str(number)] = [place]
        return found

    @property
    def like(self) -> str:
        """Two labels, for messages: ids if there are any, else names or numbers."""
        return " and ".join(map(repr, (self.ids or self.shown)[:2]))

    @property
    def shown(self) -> list[str]:
        """The label of each for messages and lists: the name, else the id, else the number."""
        return list(self.names or self.ids or map(str, self.numbers.tolist()))


def find_all(
    texts: Sequence[str], spaces: Sequence[Labels], where: str, notes: list[str] | None = None
) -> list[list[list[int]]]:
    """Find labels in several groups of users or items, for example new and known items.

    Arguments:
        notes: list to which a note on unknown texts is added. Without it, and if all texts are
            unknown, they are an error.

    Returns:
        for each group the places that each text stands for.

    Raises:
        DataError: texts are unknown; or one stands for numbers in two groups.
    """
    tables = [space.places() for space in spaces]
    found = [[table.get(text, []) for text in texts] for table in tables]
    unknown = [text for k, text in enumerate(texts) if not any(own[k] for own in found)]
    if unknown:
        shown = " and ".join(map(repr, unknown[:SHOWN]))
        more = f" and {len(unknown) - SHOWN} more" if len(unknown) > SHOWN else ""
        like = "; ".join(
            f"{space.kind}s are called like {space.like}" for space in spaces if len(space)
        )
        verb = "is" if len(unknown) == 1 else "are"
        problem = f"{where}: {shown}{more} {verb} not known ({like})"
        if notes is None or len(unknown) == len(texts):
            raise DataError(f"{problem}. Correct the file.")
        notes.append(f"{problem}, {len(unknown)} of {len(texts)}; left out.")
    unnamed = [k for k, space in enumerate(spaces) if len(space) and not _labelled(space)]
    if len(unnamed) > 1:
        twice = [text for k, text in enumerate(texts) if all(found[s][k] for s in unnamed)]
        if twice:
            raise DataError(
                f"{where}: {twice[0]!r} is the number of a new and of a known item "
                f"({plural(len(twice), 'such number', 'such numbers')}). Give the new items names, "
                "in items.tsv of their folder."
            )
    return found


def _labelled(space: Labels) -> bool:
    return space.ids is not None or space.names is not None


def labels_of_run(folder: Path, fitted: Fitted) -> tuple[Labels, Labels]:
    """Return the labels of the users, and of the known items in the order of the model.

    Arguments:
        folder: of a finished run, or of a saved `Recommender`.

    Raises:
        DataError: a file of names is damaged.
    """
    numbers = item_numbers(folder)
    if numbers is None:  # A saved recommender, whose users and items have ids.
        users, items = fitted.users.names, fitted.items.names
        return (
            Labels("user", np.arange(len(users)), users),
            Labels("known item", np.arange(len(items)), items),
        )
    count = len(fitted.users)
    users_file, items_file = folder / "users.tsv", folder / "items.tsv"
    user_names = read_names(users_file, "user", count, [])
    every = int(read_json(folder / "config.json")["dataset"]["items"])
    names = read_names(items_file, "item", every, [])
    ids = read_source_ids(items_file, "item", every)
    return (
        Labels("user", np.arange(count), user_names),
        Labels("known item", numbers, _some(names, numbers), _some(ids, numbers)),
    )


def _some(labels: Sequence[str] | None, numbers: npt.NDArray[np.int64]) -> list[str] | None:
    return None if labels is None else [labels[number] for number in numbers.tolist()]
