"""Rank new items for every user: under the setting's missingness, complete, by pattern, and with a modality hidden."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import bootstrap  # type: ignore[import-untyped]
from torch import Tensor

from invmod import pattern_name, rows_by_pattern
from milk_recsys.data import Dataset
from milk_recsys.errors import DataError
from milk_recsys.features import ItemFeatures
from milk_recsys.metrics import mean_metrics, per_user_metrics, positive_ranks
from milk_recsys.model import Recommender
from milk_recsys.options import Options
from milk_recsys.sampling import UserRows, build_user_rows
from milk_recsys.split import Split

__all__ = ["Group", "Tables", "build_tables", "drop_intervals", "evaluate_group", "evaluate_test", "paired_difference"]

PerUser = dict[str, Tensor]
CPU_SCORES, GPU_SCORES = 2**18, 2**26  # scores held at once: a CPU's cache, a GPU's parallelism


@dataclass(frozen=True)
class Group:
    """Candidates, and the positive pairs that are ranked among them.

    Attributes:
        candidates: (C,) item ids, increasing.
        users: (P,) user ids; positions: (P,) of their positives among the candidates.
    """

    candidates: Tensor
    users: Tensor
    positions: Tensor


@dataclass(frozen=True)
class Tables:
    """A data set and its split as tensors on the device of the model.

    Attributes:
        features: of all items as stored, NaN rows included.
        nature: (num_items, M) bool, what nature gives; observed: what the setting leaves of it.
        pairs: (P, 2) training pairs.
        pool: item ids that negatives are drawn from, increasing; rows: what each user has of it.
        validation, test, all_cold: positives and their candidates.
    """

    modalities: tuple[str, ...]
    num_users: int
    features: ItemFeatures
    nature: Tensor
    observed: Tensor
    warm: Tensor
    pairs: Tensor
    pool: Tensor
    rows: UserRows
    validation: Group
    test: Group
    all_cold: Group


def build_tables(dataset: Dataset, split: Split, options: Options, device: torch.device) -> Tables:
    """Put what training and evaluation read on the device.

    Raises:
        DataError: a modality that no warm item has, features too large to be squared, or a user who has every item
            that negatives are drawn from.
    """
    absent = [name for k, name in enumerate(dataset.modalities) if not split.mask[split.warm, k].any()]
    if absent:
        raise DataError(
            f"no training item has the modality {absent[0]!r}, so nothing can be learnt about it. Leave it out."
        )
    item = dataset.interactions[:, 1]
    narrow = options.candidates == "test"

    def pairs_of(items: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return dataset.interactions[np.isin(item, items)]

    def group(items: npt.NDArray[np.int64], candidates: npt.NDArray[np.int64]) -> Group:
        pairs = pairs_of(items)
        positions = np.searchsorted(candidates, pairs[:, 1])
        return Group(*(torch.from_numpy(a.copy()).to(device) for a in (candidates, pairs[:, 0], positions)))

    _check_size(dataset, options)
    pool = split.warm if options.negatives == "warm" else np.sort(np.concatenate([split.warm, split.cold]))
    pairs, pool_items = torch.from_numpy(pairs_of(split.warm)).to(device), torch.from_numpy(pool).to(device)
    return Tables(
        modalities=dataset.modalities,
        num_users=dataset.num_users,
        features=ItemFeatures(dataset.features, device),
        nature=torch.from_numpy(dataset.observed).to(device),
        observed=torch.from_numpy(split.mask).to(device),
        warm=torch.from_numpy(split.warm).to(device),
        pairs=pairs,
        pool=pool_items,
        rows=build_user_rows(pairs, dataset.num_users, pool_items),
        validation=group(split.validation, split.validation if narrow else split.cold),
        test=group(split.test, split.test if narrow else split.cold),
        all_cold=group(split.test, split.cold),
    )


def _check_size(dataset: Dataset, options: Options) -> None:
    """Refuse features whose squares overflow in the model's precision."""
    limit = float(np.finfo(np.float64 if options.dtype == "float64" else np.float32).max) ** 0.5 / 1e3
    for name, x in dataset.features.items():
        largest = max(abs(float(np.nanmin(x, initial=0))), abs(float(np.nanmax(x, initial=0))))
        if largest > limit:
            raise DataError(
                f"modality {name!r} has values up to {largest:.3g}, beyond {limit:.1g}. Scale its features."
            )


@torch.no_grad()
def rank_group(model: Recommender, tables: Tables, group: Group, mask: Tensor) -> Tensor:
    """Rank the positives (P,) of a group among its candidates.

    Arguments:
        mask: (num_items, M) bool, what may be used of the items.
    """
    rows = group.candidates
    items = torch.cat([model.embed_items(x, mask[some]) for some, x in tables.features.blocks(rows)])
    return positive_ranks(
        lambda users: model.users.weight.index_select(0, users) @ items.T,
        group.users,
        group.positions,
        num_candidates=len(rows),
        max_elements=CPU_SCORES if rows.device.type == "cpu" else GPU_SCORES,
    )


def evaluate_group(model: Recommender, tables: Tables, group: Group, mask: Tensor) -> tuple[dict[str, Any], PerUser]:
    """Rank a group and measure it: means for a report, and each user's values."""
    per_user = per_user_metrics(group.users, rank_group(model, tables, group, mask))
    return _section(model, per_user), per_user


def _section(model: Recommender, per_user: PerUser) -> dict[str, Any]:
    means = mean_metrics(per_user)
    untrained = ~model.trained_users.cpu()[per_user["users"]]
    return {"users": means.pop("users"), "untrained_users": int(untrained.sum()), **means}


def evaluate_test(model: Recommender, tables: Tables, monitor: str) -> tuple[dict[str, Any], dict[str, PerUser]]:
    """Measure the validation and the test set in every way that a report shows.

    Returns:
        sections: ``validation``, ``test`` under the setting; ``test_complete`` with all that nature gives;
            ``test_all_cold`` against all cold items; ``by_pattern``: the positives of the items that have a pattern,
            ranked among all candidates; ``imposed``: each modality hidden from all candidates in turn (absent where
            there is one modality alone: nothing would be left to rank by); ``drops``: what hiding costs.
        per_user: the values behind ``test``, ``test_complete`` and ``imposed/<modality>``.
    """
    sections: dict[str, Any] = {}
    per_user: dict[str, PerUser] = {}
    sections["validation"], _ = evaluate_group(model, tables, tables.validation, tables.observed)
    ranks = rank_group(model, tables, tables.test, tables.observed)
    per_user["test"] = per_user_metrics(tables.test.users, ranks)
    sections["test"] = _section(model, per_user["test"])
    sections["test_complete"], per_user["test_complete"] = evaluate_group(model, tables, tables.test, tables.nature)
    sections["test_all_cold"], _ = evaluate_group(model, tables, tables.all_cold, tables.observed)
    sections["by_pattern"] = _by_pattern(model, tables, ranks)
    sections["imposed"] = {}
    for index, name in enumerate(tables.modalities if len(tables.modalities) > 1 else ()):
        hidden = tables.nature.clone()
        hidden[:, index] = False
        sections["imposed"][name], per_user[f"imposed/{name}"] = evaluate_group(model, tables, tables.test, hidden)
    sections["drops"] = drop_intervals(per_user, tables.modalities, monitor)
    return sections, per_user


def _by_pattern(model: Recommender, tables: Tables, ranks: Tensor) -> dict[str, Any]:
    """Split the ranks of the test positives by which modalities their item has."""
    group, found = tables.test, {}
    items = group.candidates[group.positions]
    for pattern, rows in rows_by_pattern(tables.observed).items():
        chosen = torch.isin(items, rows)
        if chosen.any():
            section = _section(model, per_user_metrics(group.users[chosen], ranks[chosen]))
            count = len(torch.unique(items[chosen]))
            found[pattern_name(pattern, tables.modalities)] = {"items": count, **section}
    return found


def drop_intervals(per_user: Mapping[str, PerUser], modalities: tuple[str, ...], monitor: str) -> dict[str, Any]:
    """Say what hiding each modality from all candidates costs, with an interval over users."""
    drops: dict[str, Any] = {}
    complete = per_user["test_complete"]
    for name in modalities:
        hidden = per_user.get(f"imposed/{name}")
        if hidden is None:
            continue
        drops[name] = {}
        for metric in dict.fromkeys(("ndcg@20", "recall@20", monitor)):
            before, after = complete[metric].mean().item(), hidden[metric].mean().item()
            drops[name][metric] = {
                "complete": before,
                "hidden": after,
                **paired_difference(complete[metric], hidden[metric]),
                "relative": (before - after) / before if before else None,
            }
    return drops


def paired_difference(a: Tensor, b: Tensor) -> dict[str, float]:
    """Mean of a - b over users, with its 95% bootstrap percentile interval.

    Arguments:
        a, b: (users,) values of the same users in the same order.
    """
    values = (a - b).numpy()
    mean = float(values.mean())
    if len(values) < 2 or (values == values[0]).all():
        return {"difference": mean, "low": mean, "high": mean}
    interval = bootstrap(
        (values,),
        np.mean,
        n_resamples=1000,
        batch=max(1, 2**22 // len(values)),
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return {"difference": mean, "low": float(interval.low), "high": float(interval.high)}
