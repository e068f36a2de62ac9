"""Expected metrics of a random order of new items, for the sections of a report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from invmod.missingness import pattern_name, rows_by_pattern
from milk_recsys.catalogue.tables import Group, Tables
from milk_recsys.ranking.chance import chance_metrics
from milk_recsys.run.evaluation import PerUser, paired_differences

__all__ = ["evaluate_chance"]


def evaluate_chance(
    tables: Tables, per_user: Mapping[str, PerUser], monitor: str
) -> dict[str, Any]:
    """Return the expected metrics of a random order of the candidates.

    Arguments:
        per_user: users' values in ``test``, from `evaluate_test`.

    Returns:
        ``validation``, ``test``, ``test_all_cold``: ``candidates`` (their number), and the means
            over users of each metric's expectation;
        ``by_pattern``: pattern -> the same for the positives whose item has the pattern;
        ``difference``: the model's values in ``test`` minus their expectation, paired over users.
    """
    groups = {
        "validation": tables.validation,
        "test": tables.test,
        "test_all_cold": tables.all_cold,
    }
    sections: dict[str, Any] = {name: _chance(group) for name, group in groups.items()}
    items = tables.test.candidates[tables.test.positions]
    sections["by_pattern"] = {
        pattern_name(pattern, tables.modalities): _chance(tables.test, torch.isin(items, rows))
        for pattern, rows in rows_by_pattern(tables.mask).items()
        if torch.isin(items, rows).any()
    }
    _, counts = torch.unique(tables.test.users, return_counts=True)
    expected = chance_metrics(counts, len(tables.test.candidates))
    sections["difference"] = {"test": paired_differences(per_user["test"], expected, monitor)}
    return sections


def _chance(group: Group, chosen: Tensor | None = None) -> dict[str, float]:
    """Return the expected metrics of a group, or of some of its positives, in a random order."""
    users = group.users if chosen is None else group.users[chosen]
    _, counts = torch.unique(users, return_counts=True)
    expected = chance_metrics(counts, len(group.candidates))
    means = {name: values.mean().item() for name, values in expected.items()}
    return {"candidates": len(group.candidates), **means}
