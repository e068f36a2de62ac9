"""Evaluation: rank new items for every user and compute metrics.

Items are ranked with the setting's missing modalities, with all modalities that the data have, and
with each modality hidden in turn.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from invmod import robustness_report
from invmod.missingness import pattern_name, rows_by_pattern
from milk_recsys.base.distributed import SINGLE_PROCESS, World
from milk_recsys.base.statistics import paired_difference
from milk_recsys.catalogue.tables import Group, Tables
from milk_recsys.methods.contract import Learner
from milk_recsys.ranking.metrics import mean_metrics, per_user_metrics, positive_ranks

__all__ = [
    "PerUser",
    "compared_metrics",
    "evaluate_group",
    "evaluate_test",
    "grouped_metrics",
    "paired_differences",
    "scores_at_once",
    "shard_of_users",
]

PerUser = dict[str, Tensor]
# Number of scores in memory: a CPU's cache, or enough parallel work for a GPU.
CPU_SCORES, GPU_SCORES = 2**18, 2**26
# On a CPU, matrix products of fewer than CPU_ROWS users are slow, so a block may exceed the cache.
CPU_ROWS, MAX_CPU_SCORES = 256, 2**25


@torch.no_grad()
def rank_group(
    model: Learner, tables: Tables, group: Group, mask: Tensor, world: World = SINGLE_PROCESS
) -> Tensor:
    """Rank the positives (P,) of a group among its candidates.

    Arguments:
        mask: (num_items, M) bool, the modalities that may be used.
        world: the processes among which the pairs are divided. All of them return all ranks.
    """
    rows = group.candidates
    part, sizes = shard_of_users(model, group.users, world)
    at_once = scores_at_once(rows)
    score = model.scorer(
        tables.features, rows, mask, max_users=max(1, at_once // max(1, len(rows)))
    )
    local = positive_ranks(
        score,
        group.users[part],
        group.positions[part],
        num_candidates=len(rows),
        max_elements=at_once,
    )
    return world.all_gather(local, sizes)


def shard_of_users(model: Learner, users: Tensor, world: World) -> tuple[slice, list[int]]:
    """Return this process's part of the users (n,), which are sorted, and the sizes of all parts.

    With a sharded table, each process ranks for the users whose rows it has.
    """
    sizes = world.sizes(len(users))
    if model.user_starts is not None:
        starts = torch.tensor(model.user_starts, device=users.device)
        sizes = torch.searchsorted(users, starts).diff().tolist()
    begin = sum(sizes[: world.rank])
    return slice(begin, begin + sizes[world.rank]), sizes


def scores_at_once(candidates: Tensor) -> int:
    """Return the number of scores of these candidates that are in memory at a time."""
    if candidates.device.type != "cpu":
        return GPU_SCORES
    return max(CPU_SCORES, min(CPU_ROWS * len(candidates), MAX_CPU_SCORES))


def evaluate_group(
    model: Learner, tables: Tables, group: Group, mask: Tensor, world: World = SINGLE_PROCESS
) -> tuple[dict[str, Any], PerUser]:
    """Rank a group; return the means of the metrics for a report, and each user's values."""
    per_user = per_user_metrics(group.users, rank_group(model, tables, group, mask, world))
    return _section(model, per_user), per_user


def _section(model: Learner, per_user: PerUser) -> dict[str, Any]:
    means = mean_metrics(per_user)
    untrained = ~model.trained_users.cpu()[per_user["users"]]
    return {"users": means.pop("users"), "untrained_users": int(untrained.sum()), **means}


def evaluate_test(
    model: Learner, tables: Tables, monitor: str, world: World = SINGLE_PROCESS
) -> tuple[dict[str, Any], dict[str, PerUser]]:
    """Compute the metrics of validation and test set for all sections of a report.

    Returns:
        sections:
            ``validation`` and ``test``: with the setting's missing modalities;
            ``test_complete``: with all modalities that the data have;
            ``test_all_cold``: with all cold items as candidates;
            ``by_pattern``: the positives whose item has a pattern, ranked among all candidates;
            ``imposed``: with each modality hidden from all candidates in turn (empty if there is
            only one modality, without which nothing could be ranked);
            ``drops``: the loss of accuracy by hiding each modality, see `drop_intervals`.
        per_user: users' values in ``test``, ``test_complete`` and ``imposed/<modality>``.
    """
    sections: dict[str, Any] = {}
    per_user: dict[str, PerUser] = {}
    sections["validation"], _ = evaluate_group(model, tables, tables.validation, tables.mask, world)
    # The ranks are used twice: a rank does not depend on the other positives, so `by_pattern` only
    # selects from them.
    ranks = rank_group(model, tables, tables.test, tables.mask, world)
    per_user["test"] = per_user_metrics(tables.test.users, ranks)
    sections["test"] = _section(model, per_user["test"])
    imposed = _imposed(model, tables, monitor, world)
    per_user["test_complete"] = imposed.pop(None)
    sections["test_complete"] = _section(model, per_user["test_complete"])
    # With --candidates all_cold the two groups are one, and it is ranked already.
    sections["test_all_cold"] = (
        dict(sections["test"])
        if tables.all_cold is tables.test
        else evaluate_group(model, tables, tables.all_cold, tables.mask, world)[0]
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
    """Compute users' metrics with no modality hidden, and with each hidden from all candidates.

    Returns:
        hidden modality (None for no modality) -> users' values.
    """
    # The library's `robustness_report` calls `predict` once per pattern, with users as units. The
    # learner has the features, so row numbers stand for them in the report, and only masks matter.
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
    # The name of the hidden modality of each pattern; None for the complete pattern.
    hidden = [
        next((n for n, kept in zip(tables.modalities, r.pattern, strict=True) if not kept), None)
        for r in report.patterns
    ]
    return dict(zip(hidden, measured, strict=True))


def _by_pattern(model: Learner, tables: Tables, ranks: Tensor) -> dict[str, Any]:
    """Split the ranks of the test positives by the pattern of modalities of their item."""
    group, sections = tables.test, {}
    items = group.candidates[group.positions]
    for pattern, rows in rows_by_pattern(tables.mask).items():
        chosen = torch.isin(items, rows)
        if chosen.any():
            section = _section(model, per_user_metrics(group.users[chosen], ranks[chosen]))
            count = len(torch.unique(items[chosen]))
            sections[pattern_name(pattern, tables.modalities)] = {"items": count, **section}
    return sections


def grouped_metrics(model: Learner, tables: Tables, mask: Tensor) -> dict[str, Any]:
    """Compute the metrics of the test items, overall and by number of hidden modalities.

    Returns:
        ``overall``, and ``missing 0``, ``missing 1``, ...: the positives whose item has that many
        modalities hidden by the mask, ranked among all candidates.
    """
    group = tables.test
    ranks = rank_group(model, tables, group, mask)
    missing = (tables.natural_mask & ~mask).sum(dim=1)[group.candidates[group.positions]]
    sections = {"overall": _section(model, per_user_metrics(group.users, ranks))}
    for count in torch.unique(missing).tolist():
        chosen = missing == count
        sections[f"missing {count}"] = _section(
            model, per_user_metrics(group.users[chosen], ranks[chosen])
        )
    return sections


def compared_metrics(monitor: str) -> tuple[str, ...]:
    """Return the metrics that are compared between models and between conditions, each once."""
    return tuple(dict.fromkeys(("ndcg@20", "recall@20", monitor)))


def paired_differences(a: PerUser, b: PerUser, monitor: str) -> dict[str, dict[str, float]]:
    """Return the mean of a - b over users for each compared metric; see `paired_difference`."""
    return {name: paired_difference(a[name], b[name]) for name in compared_metrics(monitor)}


def drop_intervals(
    per_user: Mapping[str, PerUser], modalities: tuple[str, ...], monitor: str
) -> dict[str, Any]:
    """Return the loss of accuracy by hiding each modality from all candidates.

    Returns:
        modality -> metric -> ``complete`` and ``hidden`` means, their ``difference`` with its 95%
        bootstrap interval over users (``low``, ``high``), and the ``relative`` loss.
    """
    drops: dict[str, Any] = {}
    complete = per_user["test_complete"]
    for name in modalities:
        hidden = per_user.get(f"imposed/{name}")
        if hidden is None:
            continue
        drops[name] = {}
        for metric in compared_metrics(monitor):
            before, after = complete[metric].mean().item(), hidden[metric].mean().item()
            drops[name][metric] = {
                "complete": before,
                "hidden": after,
                **paired_difference(complete[metric], hidden[metric]),
                "relative": (before - after) / before if before else None,
            }
    return drops
