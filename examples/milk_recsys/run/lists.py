"""The lists that users get: how new items share their places, and the list of one user.

A user's list has the best test items, under the setting's missing modalities. The metrics of
`evaluation.py` say how well lists match what users took. Here is what these metrics do not show:
whether a few items take most places, and whether items without some modality are listed less.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from invmod.missingness import pattern_name, rows_by_pattern
from milk_recsys.base.distributed import SINGLE_PROCESS, World
from milk_recsys.catalogue.dataset import Dataset
from milk_recsys.catalogue.pairs import pair_blocks
from milk_recsys.catalogue.tables import Tables
from milk_recsys.methods.contract import Learner
from milk_recsys.ranking.top import best_columns
from milk_recsys.run.evaluation import PerUser, scores_at_once, shard_of_users

__all__ = ["describe_lists", "evaluate_lists", "list_length", "listed_users", "top_lists"]

MAX_LENGTH = 10
MAX_USERS = 10_000
"""Maximum number of users whose lists are made, evenly spaced among all test users."""
NUM_NAMED = 5  # Number of items listed most often, and of a user's earlier items, that are named.
RANDOM_DRAWS = 100


def evaluate_lists(
    learners: Mapping[str, Learner],
    tables: Tables,
    dataset: Dataset,
    values: PerUser,
    monitor: str,
    world: World = SINGLE_PROCESS,
) -> dict[str, Any] | None:
    """Make the lists of each learner and describe them; see `describe_lists`.

    Arguments:
        learners: "model", and "floor" for the untrained baseline if it was evaluated.

    Returns:
        None if no test user has a training pair.
    """
    users = listed_users(learners["model"], tables)
    if not len(users):
        return None
    lists = {name: top_lists(each, tables, users, world) for name, each in learners.items()}
    return describe_lists(lists, users, tables, dataset, values, monitor)


def list_length(num_candidates: int) -> int:
    """Return the length of a list: 10, or a quarter of fewer than 40 candidates."""
    return max(1, min(MAX_LENGTH, num_candidates // 4))


def listed_users(model: Learner, tables: Tables) -> Tensor:
    """Return the test users with a training pair, at most `MAX_USERS` of them, increasing."""
    users = torch.unique(tables.test.users)
    users = torch.masked_select(users, model.trained_users.to(users.device)[users])
    if len(users) <= MAX_USERS:
        return users
    chosen = torch.arange(MAX_USERS, device=users.device) * (len(users) - 1) // (MAX_USERS - 1)
    return users.index_select(0, chosen)


@torch.no_grad()
def top_lists(
    model: Learner, tables: Tables, users: Tensor, world: World = SINGLE_PROCESS
) -> Tensor:
    """Return the list of each user, best first; of equal scores, the lower item first.

    Arguments:
        users: (U,) user ids, increasing.

    Returns:
        (U, length) int64, positions in ``tables.test.candidates``, on the CPU.
    """
    rows = tables.test.candidates
    part, sizes = shard_of_users(model, users, world)
    step, own = max(1, scores_at_once(rows) // len(rows)), users[part]
    score = model.scorer(tables.features, rows, tables.mask, max_users=step)
    lists = torch.empty(len(own), list_length(len(rows)), dtype=torch.int64, device=users.device)
    for start in range(0, len(own), step):
        scores = score(own[start : start + step])
        lists[start : start + step] = best_columns(scores, lists.shape[1])[0]
    return world.all_gather(lists, sizes).cpu()


def describe_lists(
    lists: Mapping[str, Tensor],
    users: Tensor,
    tables: Tables,
    dataset: Dataset,
    values: PerUser,
    monitor: str,
) -> dict[str, Any]:
    """Describe how items share the places of all lists, and the list of one user.

    Arguments:
        lists: "model", and "floor" for the untrained baseline if it was evaluated -> (U, length).
        users: (U,), from `listed_users`, at least one.
        values: the model's values of users in ``test``.

    Returns:
        ``length`` of a list, number of ``users``, number of ``candidates``;
        ``shares``: source -> see `_shares`. Sources are those of `lists`, "random" for a random
            order, and "taken" for the pairs of these users;
        ``by_pattern``: pattern -> number of ``items``, and for each source the share of all places
            (or pairs) that these items have;
        ``most_listed``: the items that are in most lists, with the share of users who have them in
            their list (``listed``) and who took them (``taken``);
        ``example``: see `_example`.
    """
    candidates, positives = len(tables.test.candidates), _positives(tables, users)
    length = list_length(candidates)
    counts = {
        name: np.bincount(each.numpy().ravel(), minlength=candidates)
        for name, each in lists.items()
    }
    taken = np.bincount(positives[:, 1], minlength=candidates)
    return {
        "length": length,
        "users": len(users),
        "candidates": candidates,
        "shares": {
            **{name: _shares(each, taken) for name, each in counts.items()},
            "random": _random_shares(len(users), length, candidates),
            "taken": _shares(taken, taken),
        },
        "by_pattern": _by_pattern({**counts, "taken": taken}, tables),
        "most_listed": [
            {
                **_named(position, tables, dataset),
                "listed": int(counts["model"][position]) / len(users),
                "taken": int(taken[position]) / len(users),
            }
            for position in np.argsort(-counts["model"], kind="stable")[:NUM_NAMED].tolist()
        ],
        "example": _example(lists, users, positives, tables, dataset, monitor, values),
    }


def _positives(tables: Tables, users: Tensor) -> npt.NDArray[np.int64]:
    """Return the test pairs of the users, (P, 2): index in `users`, position of the item."""
    chosen = torch.isin(tables.test.users, users)
    rows = torch.searchsorted(users, tables.test.users[chosen])
    pairs: npt.NDArray[np.int64] = (
        torch.stack([rows, tables.test.positions[chosen]], dim=1).cpu().numpy()
    )
    return pairs


def _tenth(num_candidates: int) -> int:
    """Return the number of items in a tenth of the candidates, at least one."""
    return max(1, round(num_candidates / 10))


def _shares(counts: npt.NDArray[np.int64], taken: npt.NDArray[np.int64]) -> dict[str, float | int]:
    """Return how the items share the places that were counted.

    Returns:
        ``covered``: number of items with a place; ``top_tenth``: share of the places that the tenth
        of the items with most places have; ``popular_tenth``: share of the places that the tenth of
        the items which users took most have.
    """
    tenth, total = _tenth(len(counts)), counts.sum()
    popular = np.argsort(-taken, kind="stable")[:tenth]
    return {
        "covered": int((counts > 0).sum()),
        "top_tenth": float(np.sort(counts)[-tenth:].sum() / total),
        "popular_tenth": float(counts[popular].sum() / total),
    }


def _random_shares(num_users: int, length: int, num_candidates: int) -> dict[str, float]:
    """Return the expected `_shares` of lists in a random order.

    Coverage is a closed form. The largest counts are simulated: an item's number of lists has a
    binomial distribution, and the weak dependence between items is left out.
    """
    share, tenth = length / num_candidates, _tenth(num_candidates)
    drawn = np.random.default_rng(0).binomial(num_users, share, (RANDOM_DRAWS, num_candidates))
    largest = np.sort(drawn, axis=1)[:, -tenth:].sum(axis=1)
    return {
        "covered": num_candidates * (1 - (1 - share) ** num_users),
        "top_tenth": float((largest / np.maximum(1, drawn.sum(axis=1))).mean()),
        "popular_tenth": tenth / num_candidates,
    }


def _by_pattern(counts: Mapping[str, npt.NDArray[np.int64]], tables: Tables) -> dict[str, Any]:
    """Return the share of the places that the items of each pattern have."""
    patterns = {}
    for pattern, rows in rows_by_pattern(tables.mask[tables.test.candidates]).items():
        positions = rows.cpu().numpy()
        shares = {name: float(each[positions].sum() / each.sum()) for name, each in counts.items()}
        patterns[pattern_name(pattern, tables.modalities)] = {"items": len(positions), **shares}
    return patterns


def _example(
    lists: Mapping[str, Tensor],
    users: Tensor,
    positives: npt.NDArray[np.int64],
    tables: Tables,
    dataset: Dataset,
    monitor: str,
    values: PerUser,
) -> dict[str, Any]:
    """Describe the list of the user with the median value of the metric.

    Half of the users have a higher value and half a lower one, so this list is neither chosen
    because it is good nor because it is bad. Of equal values, the lowest id counts as the lowest.

    Returns:
        ``user`` and ``name``; the user's ``value`` of the metric; ``had``: some of the user's
        training items, and ``num_had``, their number; ``num_taken``: number of new items that the
        user took; ``items``: the list, where ``taken`` marks the items that the user took and
        ``missing`` names the modalities that the item lacks; ``hits``: for the model, the baseline
        and a random order, the number of items in the list that the user took.
    """
    own = values[monitor][torch.searchsorted(values["users"], users.cpu())]
    row = int(torch.sort(own, stable=True).indices[(len(own) - 1) // 2])
    user = int(users[row])
    taken = set(positives[positives[:, 0] == row, 1].tolist())
    had = _training_items(user, tables, dataset)
    length, candidates = lists["model"].shape[1], len(tables.test.candidates)
    return {
        "user": user,
        "name": None if dataset.user_names is None else dataset.user_names[user],
        "value": float(own[row]),
        "had": [_item(item, dataset) for item in had[:NUM_NAMED].tolist()],
        "num_had": len(had),
        "num_taken": len(taken),
        "items": [
            {
                **_named(position, tables, dataset),
                "taken": position in taken,
                "missing": _missing(position, tables),
            }
            for position in lists["model"][row].tolist()
        ],
        "hits": {
            **{name: len(taken & set(each[row].tolist())) for name, each in lists.items()},
            "random": length * len(taken) / candidates,
        },
    }


def _training_items(user: int, tables: Tables, dataset: Dataset) -> npt.NDArray[np.int64]:
    """Return the ids of the warm items that a user has, increasing."""
    items = [block[block[:, 0] == user, 1] for _, block in pair_blocks(dataset.interactions)]
    return np.intersect1d(np.concatenate(items), tables.warm.cpu().numpy()).astype(np.int64)


def _missing(position: int, tables: Tables) -> list[str]:
    """Return the modalities that a candidate lacks under the setting."""
    usable = tables.mask[tables.test.candidates[position]].tolist()
    return [name for name, use in zip(tables.modalities, usable, strict=True) if not use]


def _named(position: int, tables: Tables, dataset: Dataset) -> dict[str, Any]:
    """Return the id and the name of a candidate."""
    return _item(int(tables.test.candidates[position]), dataset)


def _item(item: int, dataset: Dataset) -> dict[str, Any]:
    names = dataset.item_names
    return {"item": item, "name": None if names is None else names[item]}
