"""The untrained baseline that every run evaluates on its test items: content kNN."""

from __future__ import annotations

from typing import Any, Final

from milk_recsys.base.distributed import World
from milk_recsys.catalogue.tables import Tables
from milk_recsys.config.options import Options
from milk_recsys.methods.contract import Learner
from milk_recsys.methods.learner import make_learner
from milk_recsys.run.evaluation import PerUser, evaluate_group, evaluate_test, paired_differences

__all__ = ["UNTRAINED_BASELINE", "evaluate_baseline", "untrained_baseline"]

UNTRAINED_BASELINE: Final = "content_knn"
# Largest number of similarities (warm items times test items) for which it is evaluated; they take
# 2 GB in float32, twice.
MAX_SIMILARITIES = 2**29


def untrained_baseline(options: Options, tables: Tables) -> tuple[Learner | None, str | None]:
    """Return the untrained baseline, or None with the reason why it is left out.

    Without a reason, the model is the baseline itself.
    """
    if options.run.model == UNTRAINED_BASELINE:
        return None, None
    if tables.blocks is not None:
        return None, ("It needs all training pairs in one process, and --user-blocks divides them.")
    if tables.features.mapped:
        return None, "It needs all features in memory, for which they are too large."
    if _similarities(tables) > MAX_SIMILARITIES:
        return None, "There are too many pairs of a training item and a test item."
    learner = make_learner(options.replace(model=UNTRAINED_BASELINE), tables)
    learner.prepare()
    return learner, None


def _similarities(tables: Tables) -> int:
    """Return the number of similarities that the baseline computes to rank the test items."""
    return len(tables.warm) * len(tables.test.candidates)


def evaluate_baseline(
    learner: Learner, options: Options, tables: Tables, per_user: dict[str, PerUser], world: World
) -> dict[str, Any]:
    """Evaluate the untrained baseline, with paired differences over users.

    All sections of the model are evaluated if that is cheap, else the test items alone.
    """
    if _similarities(tables) * (len(tables.modalities) + 4) <= MAX_SIMILARITIES:
        sections, baseline = evaluate_test(learner, tables, options.loop.monitor, world)
        values = baseline["test"]
    else:
        section, values = evaluate_group(learner, tables, tables.test, tables.mask, world)
        sections = {"test": section}
    difference = paired_differences(per_user["test"], values, options.loop.monitor)
    return {"model": UNTRAINED_BASELINE, **sections, "difference": {"test": difference}}
