"""The options --users, --available and --exclude: which users, which items, which pairs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from milk_recsys.base.errors import DataError
from milk_recsys.catalogue.id_files import read_id_file, read_pair_file
from milk_recsys.estimator.labels import find_all
from milk_recsys.exporting.catalogue import ServedItems

__all__ = ["available_items", "chosen_users", "pairs_to_exclude"]


def chosen_users(served: ServedItems, path: Path | None) -> Tensor | None:
    """Return the numbers of the users in a file, in its order; None without a file.

    Raises:
        DataError: the file cannot be read, or a user is unknown.
    """
    if path is None:
        return None
    texts = read_id_file(path, served.fitted.rows.user_column, "--users")
    (found,) = find_all(texts, [served.users], f"--users: {path}: user")
    return torch.tensor(list(dict.fromkeys(user for own in found for user in own)))


def available_items(served: ServedItems, path: Path | None, notes: list[str]) -> Tensor | None:
    """Return the places of the candidates in a file, increasing; None without a file.

    Items that are no candidates are left out, since a file of the whole stock has such items. A
    note counts those that the run does not know.

    Raises:
        DataError: the file cannot be read, or no candidate is in it.
    """
    if path is None:
        return None
    texts = read_id_file(path, served.fitted.rows.item_column, "--available")
    places = _candidates(served, texts, f"--available: {path}: item", notes)
    kept = sorted({place for own in places for place in own})
    if not kept:
        raise DataError(
            f"--available: {path} has none of the {len(served.candidates.names)} candidates. Give "
            "--include-warm if known items may be listed."
        )
    return torch.tensor(kept)


def pairs_to_exclude(served: ServedItems, path: Path | None, notes: list[str]) -> Tensor:
    """Return the pairs (P, 2) of a file: numbers of users and places of candidates.

    Pairs of unknown users or items are left out, and a note counts these users and items.

    Raises:
        DataError: the file cannot be read, or all of its users or items are unknown.
    """
    if path is None:
        return torch.empty(0, 2, dtype=torch.int64)
    rows = served.fitted.rows
    pairs = read_pair_file(path, (rows.user_column, rows.item_column), "--exclude")
    texts = [list(dict.fromkeys(own)) for own in zip(*pairs, strict=True)] or [[], []]
    where = f"--exclude: {path}"
    (users,) = find_all(texts[0], [served.users], f"{where}: user", notes)
    items = _candidates(served, texts[1], f"{where}: item", notes)
    of_user = dict(zip(texts[0], users, strict=True))
    of_item = dict(zip(texts[1], items, strict=True))
    numbers = [(u, i) for user, item in pairs for u in of_user[user] for i in of_item[item]]
    return torch.from_numpy(np.array(numbers, dtype=np.int64).reshape(-1, 2))


def _candidates(
    served: ServedItems, texts: list[str], where: str, notes: list[str]
) -> list[list[int]]:
    """Return the places of the candidates that each text stands for, possibly none."""
    new, known = find_all(texts, [served.new, served.all_known], where, notes)
    shift = len(served.new)
    if not len(served.known):
        return new
    return [a + [shift + k for k in b] for a, b in zip(new, known, strict=True)]
