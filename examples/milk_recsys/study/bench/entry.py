"""Read the lists of an entry, check them, and measure them with the metrics of the package.

The table (Parquet, CSV or TSV) has the columns ``seed``, ``user``, ``item`` and either ``rank``,
1 for the best item, or ``score``, of which a higher value is better. ``seed`` may be left out if
the task has a single split. Items with equal scores are ordered by their id, the lower first, as in
the package's own evaluation. A candidate that is not in a list ranks below all that are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl
import torch

from milk_recsys.base.errors import DataError, plural
from milk_recsys.ranking.metrics import mean_metrics, per_user_metrics
from milk_recsys.study.bench.export import list_length
from milk_recsys.study.bench.names import Task, seed_ranges
from milk_recsys.study.bench.tasks import Instance
from milk_recsys.study.records import MONITOR
from milk_recsys.study.store import Line

__all__ = ["Lists", "measure", "read_lists"]

Ints = npt.NDArray[np.int64]
READERS: Mapping[str, Callable[[Path], pl.DataFrame]] = {
    ".parquet": pl.read_parquet,
    ".csv": pl.read_csv,
    ".tsv": lambda path: pl.read_csv(path, separator="\t"),
}
PARTS = ("warm", "validation", "test")


@dataclasses.dataclass(frozen=True)
class Lists:
    """The rows of an entry for one split.

    Attributes:
        where: file and split, for messages.
        users, items: (n,) int64 ids.
        order: (n,) values by which a user's items are sorted: ranks, or negated scores.
        ranked: whether `order` are ranks.
    """

    where: str
    users: Ints
    items: Ints
    order: npt.NDArray[Any]
    ranked: bool


def read_lists(path: Path, task: Task) -> dict[int, Lists]:
    """Read an entry: seed -> its lists.

    Raises:
        DataError: the file cannot be read, lacks a column, has empty cells, values of a wrong type
            or a score that is not finite, or its seeds are not those of the task.
    """
    frame = _read(path)
    ordered = _order_column(path, frame)
    if "seed" not in frame.columns:
        if len(task.seeds) > 1:
            raise DataError(
                f"{path}: lacks the column seed, which is needed for {len(task.seeds)} splits."
            )
        frame = frame.with_columns(pl.lit(task.seeds[0]).alias("seed"))
    columns = {name: _integers(path, frame, name) for name in ("seed", "user", "item")}
    order = _integers(path, frame, "rank") if ordered == "rank" else -_finite_scores(path, frame)
    _check_seeds(path, columns["seed"], task)
    lists = {}
    for seed in task.seeds:
        rows = columns["seed"] == seed
        lists[seed] = Lists(
            f"{path}, seed {seed}",
            columns["user"][rows],
            columns["item"][rows],
            order[rows],
            ordered == "rank",
        )
    return lists


def _read(path: Path) -> pl.DataFrame:
    reader = READERS.get(path.suffix)
    if reader is None:
        raise DataError(f"{path}: must be a file of the type {', '.join(READERS)}.")
    if not path.is_file():
        raise DataError(f"{path}: no such file. Name the table of the lists.")
    try:
        return reader(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"{path}: cannot be read ({error}).") from None


def _order_column(path: Path, frame: pl.DataFrame) -> str:
    """Return "rank" or "score", the column that orders the lists."""
    given = [name for name in ("rank", "score") if name in frame.columns]
    absent = [name for name in ("user", "item") if name not in frame.columns]
    if absent or len(given) != 1:
        raise DataError(
            f"{path}: must have the columns user, item and one of rank and score, got "
            f"{', '.join(frame.columns) or 'none'}."
        )
    if len(frame) == 0:
        raise DataError(f"{path}: has no rows.")
    return given[0]


def _integers(path: Path, frame: pl.DataFrame, name: str) -> Ints:
    column = _full_column(path, frame, name)
    if not column.dtype.is_integer():
        raise DataError(
            f"{path}: the column {name} must hold whole numbers, got {column.dtype}. Ids are those "
            "of the exported task."
        )
    numbers = column.cast(pl.Int64, strict=False)
    if numbers.null_count():
        raise DataError(f"{path}: the column {name} has numbers beyond 64 bits.")
    return numbers.to_numpy()


def _finite_scores(path: Path, frame: pl.DataFrame) -> npt.NDArray[np.float64]:
    column = _full_column(path, frame, "score")
    if not column.dtype.is_numeric():
        raise DataError(f"{path}: the column score must hold numbers, got {column.dtype}.")
    scores: npt.NDArray[np.float64] = column.cast(pl.Float64).to_numpy()
    bad = np.flatnonzero(~np.isfinite(scores))
    if len(bad):
        raise DataError(
            f"{path}: scores must be finite, but row {bad[0] + 1} has {scores[bad[0]]} (and "
            f"{len(bad) - 1} other rows). Leave out items that are not to be ranked."
        )
    return scores


def _full_column(path: Path, frame: pl.DataFrame, name: str) -> pl.Series:
    column = frame[name]
    if column.null_count():
        raise DataError(
            f"{path}: the column {name} is empty in {plural(column.null_count(), 'row', 'rows')}."
        )
    return column


def _check_seeds(path: Path, seeds: Ints, task: Task) -> None:
    given = set(np.unique(seeds).tolist())
    missing = sorted(set(task.seeds) - given)
    if missing:
        raise DataError(
            f"{path}: has no lists for the seeds {seed_ranges(missing)} of {task}. Add them, or "
            "name the seeds that it has as --task."
        )
    unknown = sorted(given - set(task.seeds))
    if unknown:
        raise DataError(
            f"{path}: has seeds that are not in {task}: {seed_ranges(unknown)}. Name all seeds as "
            "--task, or remove these rows."
        )


# --- one split ------------------------------------------------------------------------------------


def measure(lists: Lists, instance: Instance, name: str) -> tuple[Line, list[str]]:
    """Check the lists of a split and measure them.

    Returns:
        The run in the form of a results file, with the means of all metrics in ``test`` and each
        user's NDCG@20 in ``per_user``; and notes for the user.

    Raises:
        DataError: an id is unknown, an item is not a candidate, an item or a rank occurs twice in a
            list, a list is too short, or a test user has none.
    """
    _check_ids(lists, instance)
    test = instance.tables.test
    test_users = np.unique(test.users.numpy())
    kept = np.isin(lists.users, test_users)
    notes = []
    if not kept.all():
        others = len(np.unique(lists.users[~kept]))
        lists_are = plural(
            others,
            "user has no test pair, so the list is",
            "users have no test pair, so their lists are",
        )
        notes.append(f"{lists.where}: {lists_are} ignored.")
    users, items, order = (x[kept] for x in (lists.users, lists.items, lists.order))
    # Sort by user, then by rank or score; equal scores are ordered by item id.
    by = np.lexsort((items, order, users))
    users, items, order = users[by], items[by], order[by]
    starts = np.searchsorted(users, test_users)
    sizes = np.diff(np.append(starts, len(users)))
    place = np.arange(len(users)) - np.repeat(starts, sizes)
    _check_lists(lists, users, items, order, place)
    _check_sizes(lists, test_users, sizes, len(test.candidates))
    if not lists.ranked:
        notes += _ties(lists, users, order)
    ranks = _ranks_of_positives(instance, users, items, place)
    per_user = per_user_metrics(test.users, torch.from_numpy(ranks))
    return {
        "phase": "entry",
        "method": name,
        "setting": instance.setting,
        "number": instance.seed,
        "options": {"split_seed": instance.seed, "candidates": "test"},
        **instance.hashes,
        "test": mean_metrics(per_user),
        "per_user": per_user[MONITOR].numpy().astype(np.float32),
    }, notes


def _check_ids(lists: Lists, instance: Instance) -> None:
    dataset, split = instance.dataset, instance.split
    for label, ids, number in (
        ("user", lists.users, dataset.num_users),
        ("item", lists.items, dataset.num_items),
    ):
        unknown = (ids < 0) | (ids >= number)
        if unknown.any():
            raise DataError(
                f"{lists.where}: {label} {ids[unknown][0]} is unknown; ids are 0 to {number - 1}."
            )
    wrong = lists.items[~np.isin(lists.items, split.test)]
    if len(wrong):
        item = int(wrong[0])
        part = next((f"a {p} item" for p in PARTS if item in getattr(split, p)), "not used")
        raise DataError(
            f"{lists.where}: item {item} is not a candidate, it is {part} "
            f"({plural(len(wrong), 'such row', 'such rows')}). Rank the items of candidates alone."
        )


def _check_lists(
    lists: Lists, users: Ints, items: Ints, order: npt.NDArray[Any], place: Ints
) -> None:
    """Check that items are distinct and that ranks are 1, 2, ..., in the rows of each user."""
    by_item = np.lexsort((items, users))
    again = (np.diff(users[by_item]) == 0) & (np.diff(items[by_item]) == 0)
    if again.any():
        row = by_item[1:][again][0]
        raise DataError(
            f"{lists.where}: user {users[row]} has item {items[row]} twice. Keep one of them."
        )
    if lists.ranked and (order != place + 1).any():
        row = int(np.argmax(order != place + 1))
        raise DataError(
            f"{lists.where}: the ranks of user {users[row]} must be 1, 2, 3, ..., each once, but "
            f"rank {place[row] + 1} is {order[row]}. Number the items of each list from 1."
        )


def _check_sizes(lists: Lists, test_users: Ints, sizes: Ints, num_candidates: int) -> None:
    without = test_users[sizes == 0]
    if len(without):
        raise DataError(
            f"{lists.where}: user {without[0]} has no list (and {len(without) - 1} other users). "
            "Rank candidates for every test user."
        )
    length = list_length(num_candidates)
    short = sizes < length
    if short.any():
        raise DataError(
            f"{lists.where}: the list of user {test_users[short][0]} has "
            f"{plural(int(sizes[short][0]), 'item', 'items')}, and {int(short.sum()) - 1} other "
            f"lists are too short. Give at least {length} candidates."
        )


def _ties(lists: Lists, users: Ints, order: npt.NDArray[Any]) -> list[str]:
    tied = np.unique(users[1:][(np.diff(users) == 0) & (np.diff(order) == 0)])
    if not len(tied):
        return []
    have = plural(len(tied), "user has", "users have")
    return [f"{lists.where}: {have} equal scores; of equal scores the lower item id is first."]


def _ranks_of_positives(instance: Instance, users: Ints, items: Ints, place: Ints) -> Ints:
    """Return the rank (from 0) of each test pair; the number of candidates if it is not listed."""
    test = instance.tables.test
    count = len(test.candidates)
    # A key for each pair of a user and a position among the candidates, which are increasing.
    listed = users * count + np.searchsorted(test.candidates.numpy(), items)
    wanted = test.users.numpy() * count + test.positions.numpy()
    by = np.argsort(listed)
    at = np.minimum(np.searchsorted(listed, wanted, sorter=by), len(listed) - 1)
    found = listed[by[at]] == wanted
    return np.where(found, place[by[at]], count)
