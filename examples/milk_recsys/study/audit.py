"""Leak audit: check by experiment that a run learns nothing from the test items.

A method is fitted twice on the same training pairs: with the data as they are, and with the
interactions of the test items deleted and their features replaced by NaN. Imputation, scaling,
graphs, clusters, pre-trained vectors and the towers after one epoch must be bit-identical, and so
must the metrics on the validation items. In addition, no training negative may be a new item, and
the score of an item must not depend on the other new items scored with it.

    audit(options, dataset, split)    # raises Leak, which names the tensor that differs

The audit trains on a few hundred users, so that it takes seconds.
"""

from __future__ import annotations

import copy
import dataclasses
import math
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from milk_recsys.base.random_state import epoch_seed
from milk_recsys.catalogue.dataset import Dataset
from milk_recsys.catalogue.split import Split
from milk_recsys.catalogue.tables import Tables, build_tables
from milk_recsys.config.method import Method
from milk_recsys.config.options import DataOptions, Options
from milk_recsys.methods.contract import EpochLearner, Learner
from milk_recsys.methods.learner import make_learner
from milk_recsys.ranking.negatives import sample_negatives
from milk_recsys.run.evaluation import evaluate_group
from milk_recsys.run.loop import train_epoch
from milk_recsys.study.records import Leak

__all__ = ["Leak", "audit", "leaks_by_option", "pairs_of_few_users", "without_test"]

USERS = 200  # number of users in the training pairs of the audit
FACTOR_EPOCHS = 2
FEW_LANDMARKS = {"landmarks": 64, "neighbours": 16}
"""Options of KEEP if it has too many warm items for an exact fit."""
Make = Callable[[Options, Tables], Any]


def leaks_by_option(options: DataOptions) -> str | None:
    """Describe the leak that the options of a run allow on purpose; None if there is none."""
    if options.negatives == "all":
        return "negatives are drawn from all items, the test items among them (--negatives all)"
    return None


def audit(
    options: Options, dataset: Dataset, split: Split, *, make: Make = make_learner
) -> tuple[str, ...]:
    """Fit everything with and without the test items, and compare.

    Arguments:
        options: of the run; `leaks_by_option` must be None.
        make: function that builds a learner; tests pass another one.

    Returns:
        the names of the tensors that were compared.

    Raises:
        Leak: a tensor or a metric differs; the message names it.
    """
    # Pairs that a split by time does not use have no part in either copy.
    dataset, split = split.used(dataset), dataclasses.replace(split, cut=None)
    small = dataclasses.replace(dataset, interactions=pairs_of_few_users(dataset))
    options = _short(options)
    device = torch.device("cpu")
    given = build_tables(small, split, options, device)
    # The mask of the blind copy has no modality of a test item either.
    blind_mask = split.mask.copy()
    blind_mask[split.test] = False
    blind = build_tables(
        without_test(small, split), dataclasses.replace(split, mask=blind_mask), options, device
    )
    _check_negatives(given, split)
    learners = [make(options, tables) for tables in (given, blind)]
    for learner in learners:
        learner.prepare()
        if options.definition.trains:
            train_epoch(cast(EpochLearner, learner), 0)
    names = compare(*(dict(tensors_of(learner)) for learner in learners))
    _check_validation(learners, (given, blind), options.data.candidates)
    if options.definition.independent_scores:
        _check_independent_scores(learners[0], given)
    return names


def without_test(dataset: Dataset, split: Split) -> Dataset:
    """Return the data set without pairs of the test items, and with NaN as their features."""
    test = np.zeros(dataset.num_items, dtype=np.bool_)
    test[split.test] = True
    pairs = np.asarray(dataset.interactions)
    features = {}
    for name, x in dataset.features.items():
        features[name] = np.array(x)
        features[name][test] = np.nan
    natural_mask = dataset.natural_mask & ~test[:, None]
    return dataclasses.replace(
        dataset,
        interactions=pairs[~test[pairs[:, 1]]],
        features=features,
        natural_mask=natural_mask,
        abs_max={},
    )


def pairs_of_few_users(dataset: Dataset) -> Any:
    """Return the pairs of `USERS` users, drawn with a fixed seed, in the order of the data set."""
    pairs = np.asarray(dataset.interactions)
    users = np.unique(pairs[:, 0])
    chosen = np.random.default_rng(0).permutation(users)[:USERS]
    return pairs[np.isin(pairs[:, 0], chosen)]


def _short(options: Options) -> Options:
    """Return the options with smaller values for the slow parts of a fit."""
    own: dict[str, int] = {}
    if "factor_epochs" in options.definition.fields:
        own["factor_epochs"] = FACTOR_EPOCHS
    if set(FEW_LANDMARKS) <= set(options.definition.fields):
        own |= FEW_LANDMARKS
    return options.replace(device="cpu", eval_users=None, **own)


# --- comparison -----------------------------------------------------------------------------------


def compare(given: Mapping[str, Tensor], blind: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Check that tensors of the same name are bit-identical, where NaN equals NaN.

    Returns:
        the names of the tensors.

    Raises:
        Leak: a tensor differs, or only one side has it.
    """
    unpaired = sorted(set(given) ^ set(blind))
    if unpaired:
        raise Leak(
            f"leak: `{unpaired[0]}` exists only with the test items, or only without them. Fit it "
            "on warm items alone."
        )
    for name, x in given.items():
        y = blind[name]
        same = (
            x.shape == y.shape
            and x.dtype == y.dtype
            and bool(((x == y) | ((x != x) & (y != y))).all())  # NaN differs from itself
        )
        if not same:
            raise Leak(
                f"leak: `{name}` differs when the interactions and features of the test items are "
                "removed, so it is fitted on them. Fit it on warm items alone."
            )
    return tuple(given)


def tensors_of(
    thing: Any, name: str = "", seen: set[int] | None = None
) -> Iterator[tuple[str, Tensor]]:
    """Yield all tensors that an object refers to, with their paths.

    The search follows attributes, containers and the variables of closures. NumPy arrays of numbers
    are yielded as tensors, and a sparse tensor is yielded as its indices and its values.
    """
    # Ids of the objects visited so far, since references may form cycles.
    seen = set() if seen is None else seen
    if isinstance(thing, np.ndarray) and thing.dtype.kind in "biuf":
        thing = torch.from_numpy(np.array(thing))
    elif id(thing) in seen or isinstance(
        thing, (str, bytes, int, float, bool, type(None), Options, Method)
    ):
        return
    seen.add(id(thing))
    if isinstance(thing, Tensor):
        x = thing.detach()
        if x.layout == torch.strided:
            yield name, x
            return
        rows = x.to_sparse_coo().coalesce()  # type: ignore[no-untyped-call]
        yield f"{name}.indices", rows.indices()
        yield f"{name}.values", rows.values()
        return
    for key, part in _parts(thing):
        yield from tensors_of(part, f"{name}.{key}".lstrip("."), seen)


def _parts(thing: Any) -> Iterator[tuple[str, Any]]:
    """Yield the objects that an object refers to directly, with their names."""
    if isinstance(thing, Mapping):
        yield from ((str(key), thing[key]) for key in thing if isinstance(key, (str, int)))
        # The state of an optimiser has parameters as keys, which have no name: they are counted
        # instead.
        yield from (
            (f"state {n}", v) for n, (k, v) in enumerate(thing.items()) if isinstance(k, Tensor)
        )
    elif isinstance(thing, (list, tuple)):
        yield from ((str(place), part) for place, part in enumerate(thing))
    elif isinstance(thing, types.FunctionType):
        cells = zip(thing.__code__.co_freevars, thing.__closure__ or (), strict=True)
        yield from ((key, cell.cell_contents) for key, cell in cells)
    elif isinstance(thing, types.MethodType):
        yield "self", thing.__self__
    elif hasattr(thing, "__dict__") and not isinstance(
        thing, (type, types.ModuleType, torch.Generator)
    ):
        yield from vars(thing).items()


def _check_negatives(tables: Tables, split: Split) -> None:
    """Raise if a sampled negative is a new item."""
    users = torch.arange(tables.num_users).repeat_interleave(20)
    generator = torch.Generator().manual_seed(epoch_seed(0, 0))
    drawn = sample_negatives(users, tables.rows, tables.pool, generator=generator)
    cold = drawn[torch.isin(drawn, torch.from_numpy(split.cold))]
    if len(cold):
        raise Leak(
            f"leak: item {int(cold[0])} is a training negative, but it is a new item. Sample "
            "negatives from warm items alone."
        )


def _check_validation(
    models: list[Learner], tables: tuple[Tables, Tables], candidates: str
) -> None:
    """Raise if a validation metric, which selects epoch and options, depends on the test items."""
    # With other --candidates the validation items are ranked among all new items, so their metrics
    # may differ.
    if candidates != "test":
        return
    given, blind = (
        evaluate_group(m, t, t.validation, t.mask)[0] for m, t in zip(models, tables, strict=True)
    )
    # A mean over no user is NaN, which is not equal to itself.
    names = [
        key
        for key, x in given.items()
        if x != blind[key] and not (math.isnan(x) and math.isnan(blind[key]))
    ]
    if names:
        raise Leak(
            f"leak: `{names[0]}` on the validation items changes when the test items are removed. "
            "Rank the validation items among themselves, for all their users."
        )


@torch.no_grad()
def _check_independent_scores(model: Learner, tables: Tables) -> None:
    """Raise if the score of an item depends on the other new items that are scored with it."""
    items, users = tables.test.candidates, torch.unique(tables.test.users)[:50]
    half = torch.arange(0, len(items), 2)
    # The first half of the comparison scores all candidates and keeps every second one; the other
    # scores only these, from a copy of the catalogue, so that vectors that a learner keeps for this
    # catalogue are computed again.
    together = model.scorer(tables.features, items, tables.mask)(users)[:, half].clone()
    apart = model.scorer(copy.copy(tables.features), items[half], tables.mask)(users)
    if not torch.allclose(
        together, apart, rtol=1e-3, atol=1e-5 * float(together.abs().max()) + 1e-12
    ):
        raise Leak(
            "leak: the score of an item changes with the other new items that are scored. Score "
            "each item by itself."
        )
