"""The split by time: new items are those that appeared last, and earlier pairs train.

An item appears with its first pair. With a cut at time T

    warm items         first pair before T
    validation, test   first pair at T or later: the earlier half of them, and the later half
    training pairs     pairs of warm items before T
    ranked pairs       pairs of new items, of the users who have a training pair

All other pairs are not used: later pairs of warm items, since a model at time T could not know
them, and pairs of users without a training pair, about whom it knows nothing.

This module does not import torch.
"""

from __future__ import annotations

import dataclasses
import datetime
import math
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from milk_recsys.base.errors import DataError, OptionError, plural
from milk_recsys.catalogue.dataset import Dataset
from milk_recsys.catalogue.times import Times

__all__ = [
    "TimeParts",
    "check_ranked",
    "first_seen",
    "known_at_cut",
    "parse_cut",
    "time_parts",
]

ItemIds = npt.NDArray[np.int64]


@dataclasses.dataclass(frozen=True)
class TimeParts:
    """The parts of a split by time.

    Attributes:
        warm, validation, test: item ids, increasing.
        cut: unix seconds.
    """

    warm: ItemIds
    validation: ItemIds
    test: ItemIds
    cut: float


def parse_cut(text: str) -> float:
    """Return the unix seconds of a cut: a date, a date with a time (UTC), or a number of seconds.

    Raises:
        OptionError: it is none of these.

    Example:
        >>> parse_cut("1970-01-02"), parse_cut("1970-01-01T00:01"), parse_cut("60")
        (86400.0, 60.0, 60.0)
    """
    try:
        date = datetime.datetime.fromisoformat(text)
    except ValueError:
        try:
            seconds = float(text)
        except ValueError:
            seconds = math.nan
        if not math.isfinite(seconds):
            raise OptionError(
                f"--cut must be a date such as 2011-03-04, a date with a time, or unix seconds, "
                f"got {text!r:.60}."
            ) from None
        return seconds
    return (date if date.tzinfo else date.replace(tzinfo=datetime.UTC)).timestamp()


def first_seen(dataset: Dataset) -> npt.NDArray[np.float64]:
    """Return the time of the first pair of each item (num_items,); infinity without a pair.

    Raises:
        DataError: the data set has no times.
    """
    first = np.full(dataset.num_items, np.inf)
    np.minimum.at(first, np.asarray(dataset.interactions[:, 1]), _times(dataset))
    return first


def time_parts(dataset: Dataset, cut: str | None, cold_share: float) -> TimeParts:
    """Divide the items with interactions by the time of their first pair.

    Arguments:
        cut: as in `parse_cut`; None for the time after which `cold_share` of the items appear, or
            slightly more if several items appear at this time.

    Raises:
        DataError: the data set has no times, or a part would be empty.
    """
    first = first_seen(dataset)
    # By time, and by id where items appear at one time.
    items = np.lexsort((np.arange(len(first)), first))[: int(np.isfinite(first).sum())]
    if cut is None:
        place = len(items) - math.floor(cold_share * len(items) + 0.5)
        time = float(first[items[min(place, len(items) - 1)]])
    else:
        time = parse_cut(cut)
    num_warm = int((first[items] < time).sum())
    cold = items[num_warm:]
    warm, validation, test = items[:num_warm], cold[: len(cold) // 2], cold[len(cold) // 2 :]
    for name, part in (("training", warm), ("validation", validation), ("test", test)):
        if not len(part):
            begin, end = (_date(float(first[item])) for item in (items[0], items[-1]))
            raise DataError(
                f"--split-by first_seen: with a cut at {_date(time)} there is no {name} item. "
                f"Items appear from {begin} to {end}; choose a --cut between."
            )
    return TimeParts(np.sort(warm), np.sort(validation), np.sort(test), time)


def known_at_cut(dataset: Dataset, cold: ItemIds, cut: float) -> tuple[Dataset, str]:
    """Return the data set with the pairs that a split by time uses, and a note on the others.

    Arguments:
        cold: ids of the validation and test items.
        cut: unix seconds.

    Raises:
        DataError: the data set has no times.
    """
    pairs, times = np.asarray(dataset.interactions), _times(dataset)
    is_cold = np.zeros(dataset.num_items, dtype=np.bool_)
    is_cold[cold] = True
    new = is_cold[pairs[:, 1]]
    trains = ~new & (times < cut)
    has_past = np.zeros(dataset.num_users, dtype=np.bool_)
    has_past[pairs[trains, 0]] = True
    kept = trains | (new & has_past[pairs[:, 0]])
    later, strangers = int((~new & ~trains).sum()), int((new & ~kept).sum())
    note = (
        f"cut at {_date(cut)}: {plural(later, 'later pair', 'later pairs')} of known items and "
        f"{plural(strangers, 'pair', 'pairs')} of users without an earlier pair are not used."
    )
    return dataclasses.replace(dataset, interactions=pairs[kept], times=times[kept]), note


def check_ranked(used: Dataset, parts: Mapping[str, ItemIds]) -> None:
    """Raise DataError if no pair of a part is left in the pairs that a split by time uses."""
    for name, items in parts.items():
        if not used.item_counts[items].any():
            raise DataError(
                f"--split-by first_seen: no user with a pair before the cut has a {name} item, so "
                "nothing could be ranked. Choose another --cut."
            )


def _times(dataset: Dataset) -> Times:
    if dataset.times is None:
        raise DataError(
            f"{dataset.name}: has no times, which --split-by first_seen needs. Add a column time "
            "to interactions.tsv, or times.npy."
        )
    return dataset.times


def _date(seconds: float) -> str:
    """Return the UTC date and time of unix seconds, or the number if no date is that far away."""
    try:
        time = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    except (OverflowError, OSError, ValueError):
        return f"{seconds:g} s"
    return time.strftime("%Y-%m-%d" if seconds % 86400 == 0 else "%Y-%m-%dT%H:%M:%S")
