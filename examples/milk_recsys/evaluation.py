"""Rank new items for every user: under the setting's missingness, complete, by pattern, and with a modality hidden."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import bootstrap  # type: ignore[import-untyped]
from torch import Tensor

from invmod import pattern_name, robustness_report, rows_by_pattern
from milk_recsys.data import Dataset
from milk_recsys.errors import DataError
from milk_recsys.features import ItemFeatures
from milk_recsys.metrics import mean_metrics, per_user_metrics, positive_ranks
from milk_recsys.model import Recommender
from milk_recsys.options import Options
from milk_recsys.pairs import Pairs, pair_blocks
from milk_recsys.sampling import UserRows, build_user_rows
from milk_recsys.split import Split
from milk_recsys.world import ALONE, World

__all__ = [
    "Group",
    "Ranker",
    "Tables",
    "build_tables",
    "drop_intervals",
    "evaluate_group",
    "evaluate_test",
    "grouped_metrics",
    "paired_difference",
]

PerUser = dict[str, Tensor]
CPU_FEATURE_BYTES = 2**30  # of prepared features, beyond which they stay in their files
CPU_SCORES, GPU_SCORES = 2**18, 2**26  # scores held at once: a CPU's cache, a GPU's parallelism
CPU_ROWS, MOST_CPU_SCORES = 256, 2**25


class Ranker(Protocol):
    """What ranks new items: MILK or an ablation, or a baseline."""

    trained_users: Tensor

    def scorer(self, features: ItemFeatures, items: Tensor, mask: Tensor) -> Callable[[Tensor], Tensor]:
        """Return what scores items (C,) for users (u,): (u, C)."""
        ...


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
        rows: the training pairs, and what of the pool each user has.
        validation, test, all_cold: positives and their candidates.
    """

    modalities: tuple[str, ...]
    num_users: int
    features: ItemFeatures
    nature: Tensor
    observed: Tensor
    warm: Tensor
    rows: UserRows
    validation: Group
    test: Group
    all_cold: Group

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.warm.device

    @property
    def pool(self) -> Tensor:
        """Item ids that negatives are drawn from, increasing."""
        return self.rows.pool

    @property
    def num_pairs(self) -> int:
        """The number of training pairs P."""
        return self.rows.num_pairs

    @property
    def trained_users(self) -> Tensor:
        """Which users have a training pair, (num_users,) bool."""
        return self.rows.offsets.diff() > 0

    def pairs_at(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Return the users and the items, (n,) int64 each, of training pairs by their numbers (n,) from 0 to P - 1."""
        return self.rows.pairs_at(numbers)

    def seen(self) -> Tables:
        """Return the tables without the items that training must not see: no features, no mask, nothing to rank.

        What remains are the items that negatives are drawn from, which are the warm ones but for a leak by option.
        """
        known = torch.zeros(len(self.observed), dtype=torch.bool, device=self.device).index_fill_(0, self.pool, True)
        nothing = Group(*(self.warm.new_empty(0) for _ in range(3)))
        return replace(
            self,
            features=self.features.only(self.pool),
            nature=self.nature & known[:, None],
            observed=self.observed & known[:, None],
            validation=nothing,
            test=nothing,
            all_cold=nothing,
        )

    @property
    def pairs(self) -> Tensor:
        """All training pairs (P, 2), int64, made anew each time: of a large set, ask for some (`pairs_at`)."""
        return torch.stack(self.pairs_at(torch.arange(self.num_pairs, device=self.device)), dim=1)


def build_tables(dataset: Dataset, split: Split, options: Options, device: torch.device) -> Tables:
    """Put what training and evaluation read on the device; pairs are gone through in blocks.

    Raises:
        DataError: a modality that no warm item has, features too large to be squared, or a user who has every item
            that negatives are drawn from.
    """
    absent = [name for k, name in enumerate(dataset.modalities) if not split.mask[split.warm, k].any()]
    if absent:
        raise DataError(
            f"no training item has the modality {absent[0]!r}, so nothing can be learnt about it. Leave it out."
        )
    _check_size(dataset, options)
    warm, narrow = torch.from_numpy(split.warm), options.candidates == "test"
    pool = warm if options.negatives == "warm" else torch.from_numpy(np.sort(np.concatenate([split.warm, split.cold])))
    rows = build_user_rows(dataset.interactions, dataset.num_users, pool, only=warm)
    validation, test = (_positives(dataset, items, options) for items in (split.validation, split.test))
    all_cold = _group(test, split.cold, device)
    return Tables(
        modalities=dataset.modalities,
        num_users=dataset.num_users,
        features=ItemFeatures(dataset.features, device, mapped=leaves_features(dataset, options, device)),
        nature=torch.from_numpy(dataset.observed).to(device),
        observed=torch.from_numpy(split.mask).to(device),
        warm=warm.to(device),
        rows=rows.to(device),
        validation=_group(validation, split.validation if narrow else split.cold, device),
        test=_group(test, split.test, device) if narrow else all_cold,
        all_cold=all_cold,
    )


def leaves_features(dataset: Dataset, options: Options, device: torch.device) -> bool:
    """Whether features stay in their files: as the option says, or where a prepared copy would take much memory."""
    if options.features != "auto":
        return options.features == "mapped"
    size = sum(x.size for x in dataset.features.values()) * (8 if options.dtype == "float64" else 4)
    if device.type == "cuda":
        return size > torch.cuda.get_device_properties(device).total_memory // 4
    return size > CPU_FEATURE_BYTES


def _positives(dataset: Dataset, items: npt.NDArray[np.int64], options: Options) -> Pairs:
    """Return the pairs of some items: of all users, or of those who are evaluated."""
    wanted = np.zeros(dataset.num_items, dtype=np.bool_)
    wanted[items] = True
    pairs: Pairs = np.concatenate([block[wanted[block[:, 1]]] for _, block in pair_blocks(dataset.interactions)])
    if options.eval_users is None:
        return pairs
    seed = np.random.SeedSequence(options.split_seed, spawn_key=(3,))  # beside the three streams of `draw_split`
    order = np.random.default_rng(seed).permutation(dataset.num_users)
    user_wanted = np.zeros(dataset.num_users, dtype=np.bool_)
    user_wanted[pairs[:, 0]] = True
    user_wanted[order[user_wanted[order]][options.eval_users :]] = False
    kept: Pairs = pairs[user_wanted[pairs[:, 0]]]
    return kept


def _group(pairs: Pairs, candidates: npt.NDArray[np.int64], device: torch.device) -> Group:
    positions = np.searchsorted(candidates, pairs[:, 1])
    return Group(*(torch.from_numpy(a.astype(np.int64)).to(device) for a in (candidates, pairs[:, 0], positions)))


def _check_size(dataset: Dataset, options: Options) -> None:
    """Refuse features whose squares overflow in the model's precision."""
    limit = float(np.finfo(np.float64 if options.dtype == "float64" else np.float32).max) ** 0.5 / 1e3
    for name in dataset.modalities:
        largest = dataset.largest(name)
        if largest > limit:
            raise DataError(
                f"modality {name!r} has values up to {largest:.3g}, beyond {limit:.1g}. Scale its features."
            )


@torch.no_grad()
def rank_group(model: Ranker, tables: Tables, group: Group, mask: Tensor, world: World = ALONE) -> Tensor:
    """Rank the positives (P,) of a group among its candidates.

    Arguments:
        mask: (num_items, M) bool, what may be used of the items.
        world: the processes that share the work; all get all ranks.
    """
    rows, sizes = group.candidates, world.sizes(len(group.users))
    if isinstance(model, Recommender) and model.shards is not None:  # every rank ranks for the users that it has
        starts = torch.tensor(model.shards.starts, device=group.users.device)
        sizes = torch.searchsorted(group.users, starts).diff().tolist()
    begin = sum(sizes[: world.rank])
    part = slice(begin, begin + sizes[world.rank])
    at_once = GPU_SCORES
    if rows.device.type == "cpu":  # a cache's, but no fewer than the rows that a matrix product is fast with
        at_once = max(CPU_SCORES, min(CPU_ROWS * len(rows), MOST_CPU_SCORES))
    if isinstance(model, Recommender):
        score = model.scorer(tables.features, rows, mask, most=max(1, at_once // max(1, len(rows))))
    else:
        score = model.scorer(tables.features, rows, mask)
    mine = positive_ranks(
        score, group.users[part], group.positions[part], num_candidates=len(rows), max_elements=at_once
    )
    return world.join(mine, sizes)


def evaluate_group(
    model: Ranker, tables: Tables, group: Group, mask: Tensor, world: World = ALONE
) -> tuple[dict[str, Any], PerUser]:
    """Rank a group and measure it: means for a report, and each user's values."""
    per_user = per_user_metrics(group.users, rank_group(model, tables, group, mask, world))
    return _section(model, per_user), per_user


def _section(model: Ranker, per_user: PerUser) -> dict[str, Any]:
    means = mean_metrics(per_user)
    untrained = ~model.trained_users.cpu()[per_user["users"]]
    return {"users": means.pop("users"), "untrained_users": int(untrained.sum()), **means}


def evaluate_test(
    model: Ranker, tables: Tables, monitor: str, world: World = ALONE
) -> tuple[dict[str, Any], dict[str, PerUser]]:
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
    sections["validation"], _ = evaluate_group(model, tables, tables.validation, tables.observed, world)
    ranks = rank_group(model, tables, tables.test, tables.observed, world)
    per_user["test"] = per_user_metrics(tables.test.users, ranks)
    sections["test"] = _section(model, per_user["test"])
    imposed = _imposed(model, tables, monitor, world)
    per_user["test_complete"] = imposed.pop(None)
    sections["test_complete"] = _section(model, per_user["test_complete"])
    sections["test_all_cold"], _ = evaluate_group(model, tables, tables.all_cold, tables.observed, world)
    sections["by_pattern"] = _by_pattern(model, tables, ranks)
    sections["imposed"] = {name: _section(model, imposed[name]) for name in tables.modalities if name in imposed}
    per_user |= {f"imposed/{name}": imposed[name] for name in sections["imposed"]}
    sections["drops"] = drop_intervals(per_user, tables.modalities, monitor)
    return sections, per_user


def _imposed(model: Ranker, tables: Tables, monitor: str, world: World) -> dict[str | None, PerUser]:
    """Hide nothing (None) and each modality in turn from all candidates, by the library's robustness report.

    Its features are the rows of the items, since the model knows the features themselves; its units are the users.
    """
    measured: list[PerUser] = []

    def predict(_features: dict[str, Tensor], mask: Tensor) -> Tensor:
        measured.append(per_user_metrics(tables.test.users, rank_group(model, tables, tables.test, mask, world)))
        return measured[-1][monitor]

    rows = torch.arange(len(tables.nature), device=tables.nature.device)
    report = robustness_report(
        predict,
        dict.fromkeys(tables.modalities, rows),
        torch.unique(tables.test.users),
        lambda values, _users: values.mean().item(),
        mask=tables.nature,
        patterns="one_missing",
        rates=(),
        num_resamples=0,
        generator=torch.Generator().manual_seed(0),
    )
    hidden = [
        next((n for n, kept in zip(tables.modalities, r.pattern, strict=True) if not kept), None)
        for r in report.patterns
    ]
    return dict(zip(hidden, measured, strict=True))


def _by_pattern(model: Ranker, tables: Tables, ranks: Tensor) -> dict[str, Any]:
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


def grouped_metrics(model: Ranker, tables: Tables, mask: Tensor) -> dict[str, Any]:
    """Measure the test items under a mask, all of them and by how many modalities an item misses of those it has.

    Returns:
        ``overall``, and ``missing 0``, ``missing 1``, ...: positives of those items, ranked among all candidates.
    """
    group = tables.test
    ranks = rank_group(model, tables, group, mask)
    missing = (tables.nature & ~mask).sum(dim=1)[group.candidates[group.positions]]
    found = {"overall": _section(model, per_user_metrics(group.users, ranks))}
    for count in torch.unique(missing).tolist():
        chosen = missing == count
        found[f"missing {count}"] = _section(model, per_user_metrics(group.users[chosen], ranks[chosen]))
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
