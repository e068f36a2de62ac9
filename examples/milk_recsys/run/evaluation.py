"""Rank new items for every user: under the setting's missingness, complete, by pattern, and with a modality hidden."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from invmod import pattern_name, robustness_report, rows_by_pattern
from milk_recsys.base.distributed import SINGLE_PROCESS, World
from milk_recsys.base.statistics import paired_difference
from milk_recsys.catalogue.tables import Group, Tables
from milk_recsys.methods.contract import Learner
from milk_recsys.ranking.metrics import mean_metrics, per_user_metrics, positive_ranks

__all__ = [
    "drop_intervals",
    "evaluate_group",
    "evaluate_test",
    "grouped_metrics",
]

PerUser = dict[str, Tensor]
CPU_SCORES, GPU_SCORES = 2**18, 2**26  # scores held at once: a CPU's cache, a GPU's parallelism
CPU_ROWS, MOST_CPU_SCORES = 256, 2**25


@torch.no_grad()
def rank_group(
    model: Learner, tables: Tables, group: Group, mask: Tensor, world: World = SINGLE_PROCESS
) -> Tensor:
    """Rank the positives (P,) of a group among its candidates.

    Arguments:
        mask: (num_items, M) bool, what may be used of the items.
        world: the processes that share the work; all get all ranks.
    """
    rows, sizes = group.candidates, world.sizes(len(group.users))
    if model.user_starts is not None:  # every rank ranks for the users that it has
        starts = torch.tensor(model.user_starts, device=group.users.device)
        sizes = torch.searchsorted(group.users, starts).diff().tolist()
    begin = sum(sizes[: world.rank])
    part = slice(begin, begin + sizes[world.rank])
    at_once = GPU_SCORES
    if (
        rows.device.type == "cpu"
    ):  # a cache's, but no fewer than the rows that a matrix product is fast with
        at_once = max(CPU_SCORES, min(CPU_ROWS * len(rows), MOST_CPU_SCORES))
    score = model.scorer(
        tables.features, rows, mask, max_users=max(1, at_once // max(1, len(rows)))
    )
    mine = positive_ranks(
        score,
        group.users[part],
        group.positions[part],
        num_candidates=len(rows),
        max_elements=at_once,
    )
    return world.all_gather(mine, sizes)


def evaluate_group(
    model: Learner, tables: Tables, group: Group, mask: Tensor, world: World = SINGLE_PROCESS
) -> tuple[dict[str, Any], PerUser]:
    """Rank a group and measure it: means for a report, and each user's values."""
    per_user = per_user_metrics(group.users, rank_group(model, tables, group, mask, world))
    return _section(model, per_user), per_user


def _section(model: Learner, per_user: PerUser) -> dict[str, Any]:
    means = mean_metrics(per_user)
    untrained = ~model.trained_users.cpu()[per_user["users"]]
    return {"users": means.pop("users"), "untrained_users": int(untrained.sum()), **means}


def evaluate_test(
    model: Learner, tables: Tables, monitor: str, world: World = SINGLE_PROCESS
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
    sections["validation"], _ = evaluate_group(model, tables, tables.validation, tables.mask, world)
    ranks = rank_group(model, tables, tables.test, tables.mask, world)
    per_user["test"] = per_user_metrics(tables.test.users, ranks)
    sections["test"] = _section(model, per_user["test"])
    imposed = _imposed(model, tables, monitor, world)
    per_user["test_complete"] = imposed.pop(None)
    sections["test_complete"] = _section(model, per_user["test_complete"])
    sections["test_all_cold"], _ = evaluate_group(
        model, tables, tables.all_cold, tables.mask, world
    )
    sections["by_pattern"] = _by_pattern(model, tables, ranks)
    sections["imposed"] = {
        name: _section(model, imposed[name]) for name in tables.modalities if name in imposed
    }
    per_user |= {f"imposed/{name}": imposed[name] for name in sections["imposed"]}
    sections["drops"] = drop_intervals(per_user, tables.modalities, monitor)
    return sections, per_user


def _imposed(
    model: Learner, tables: Tables, monitor: str, world: World
) -> dict[str | None, PerUser]:
    """Hide nothing (None) and each modality in turn from all candidates, by the library's robustness report.

    Its features are the rows of the items, since the model knows the features themselves; its units are the users.
    """
    measured: list[PerUser] = []

    def predict(_features: dict[str, Tensor], mask: Tensor) -> Tensor:
        measured.append(
            per_user_metrics(tables.test.users, rank_group(model, tables, tables.test, mask, world))
        )
        return measured[-1][monitor]

    rows = torch.arange(len(tables.natural_mask), device=tables.natural_mask.device)
    report = robustness_report(
        predict,
        dict.fromkeys(tables.modalities, rows),
        torch.unique(tables.test.users),
        lambda values, _users: values.mean().item(),
        mask=tables.natural_mask,
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


def _by_pattern(model: Learner, tables: Tables, ranks: Tensor) -> dict[str, Any]:
    """Split the ranks of the test positives by which modalities their item has."""
    group, found = tables.test, {}
    items = group.candidates[group.positions]
    for pattern, rows in rows_by_pattern(tables.mask).items():
        chosen = torch.isin(items, rows)
        if chosen.any():
            section = _section(model, per_user_metrics(group.users[chosen], ranks[chosen]))
            count = len(torch.unique(items[chosen]))
            found[pattern_name(pattern, tables.modalities)] = {"items": count, **section}
    return found


def grouped_metrics(model: Learner, tables: Tables, mask: Tensor) -> dict[str, Any]:
    """Measure the test items under a mask, all of them and by how many modalities an item misses of those it has.

    Returns:
        ``overall``, and ``missing 0``, ``missing 1``, ...: positives of those items, ranked among all candidates.
    """
    group = tables.test
    ranks = rank_group(model, tables, group, mask)
    missing = (tables.natural_mask & ~mask).sum(dim=1)[group.candidates[group.positions]]
    found = {"overall": _section(model, per_user_metrics(group.users, ranks))}
    for count in torch.unique(missing).tolist():
        chosen = missing == count
        found[f"missing {count}"] = _section(
            model, per_user_metrics(group.users[chosen], ranks[chosen])
        )
    return found


def drop_intervals(
    per_user: Mapping[str, PerUser], modalities: tuple[str, ...], monitor: str
) -> dict[str, Any]:
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
