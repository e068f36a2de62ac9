"""Does a run learn anything from the test items? An audit that looks at what comes out, not at what code says.

Everything is fitted twice on the same training pairs: with the data as they are, and with the test items' interactions
deleted and their features replaced by NaN. Imputation, scaling, graphs, clusters, pre-trained vectors and towers after
an epoch must be the same bit for bit, and so must the figures on the validation items. Besides, no negative may be a
new item, and an item's score may not depend on which other new items are scored beside it.

    audit(options, dataset, split)    # raises Leak, which names what differs

It trains on a few hundred users, so that it takes seconds.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from milk_recsys.base.random_state import epoch_seed
from milk_recsys.catalogue.dataset import Dataset
from milk_recsys.catalogue.split import Split
from milk_recsys.catalogue.tables import Tables, build_tables
from milk_recsys.config.method import Method
from milk_recsys.config.options import Options
from milk_recsys.methods.contract import Learner
from milk_recsys.methods.learner import make_learner
from milk_recsys.ranking.negatives import sample_negatives
from milk_recsys.run.evaluation import evaluate_group
from milk_recsys.run.loop import train_epoch

__all__ = ["Leak", "audit", "leaks_by_option", "without_test"]

USERS = 200  # whose pairs the audit trains on
FACTOR_EPOCHS = 2
LANDMARKS = 512  # of KEEP, where there are too many warm items for all of them
Make = Callable[[Options, Tables], Any]


class Leak(ValueError):
    """A run knows something about the test items that it must not know."""


def leaks_by_option(options: Options) -> str | None:
    """Say how a run leaks because its options ask for it, or None."""
    if options.data.negatives == "all":
        return "negatives are drawn from all items, the test items among them (--negatives all)"
    return None


def audit(
    options: Options, dataset: Dataset, split: Split, *, make: Make = make_learner
) -> tuple[str, ...]:
    """Fit everything with and without the test items, and compare.

    Arguments:
        options: of the run; `leaks_by_option` must be None.
        make: what builds a learner; another one is for tests.

    Returns:
        the names of what was compared.

    Raises:
        Leak: something differs; the message names it.
    """
    few = dataclasses.replace(dataset, interactions=_few_users(dataset))
    options = _short(options)
    device = torch.device("cpu")
    given = build_tables(few, split, options, device)
    unseen = split.mask.copy()
    unseen[split.test] = False
    blind = build_tables(
        without_test(few, split), dataclasses.replace(split, mask=unseen), options, device
    )
    _check_negatives(given, split)
    learners = [make(options, tables) for tables in (given, blind)]
    for learner in learners:
        learner.prepare()
        if options.card.trains:
            train_epoch(learner, 0)
    names = compare(*(dict(tensors_of(learner)) for learner in learners))
    _check_validation(learners, (given, blind), options)
    if options.run.model != "random":  # which looks at places and nothing else
        _check_company(learners[0], given)
    return names


def without_test(dataset: Dataset, split: Split) -> Dataset:
    """Return the data set without its test items' interactions, and with NaN for their features."""
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


def _few_users(dataset: Dataset) -> Any:
    """Return the pairs of the first users, in an order of the data set's own."""
    pairs = np.asarray(dataset.interactions)
    users = np.unique(pairs[:, 0])
    chosen = np.random.default_rng(0).permutation(users)[:USERS]
    return pairs[np.isin(pairs[:, 0], chosen)]


def _short(options: Options) -> Options:
    """Return the options with the parts that take long made smaller."""
    less = {"factor_epochs": FACTOR_EPOCHS, "landmarks": LANDMARKS}
    own = {name: value for name, value in less.items() if name in options.card.fields}
    return options.but(device="cpu", eval_users=None, **own)


# --- what is compared -------------------------------------------------------------------------------------------------


def compare(given: Mapping[str, Tensor], blind: Mapping[str, Tensor]) -> tuple[str, ...]:
    """Compare tensors by name, bit for bit, NaN with NaN.

    Raises:
        Leak: a tensor differs, or only one side has it.
    """
    odd = sorted(set(given) ^ set(blind))
    if odd:
        raise Leak(f"leak: `{odd[0]}` is there only with the test items, or only without them.")
    for name, x in given.items():
        y = blind[name]
        same = (
            x.shape == y.shape
            and x.dtype == y.dtype
            and bool(((x == y) | ((x != x) & (y != y))).all())
        )
        if not same:
            raise Leak(
                f"leak: `{name}` is another one where the test items' interactions and features are taken away, so it "
                "is fitted on them. Fit it on warm items alone."
            )
    return tuple(given)


def tensors_of(
    thing: Any, name: str = "", seen: set[int] | None = None
) -> Iterator[tuple[str, Tensor]]:
    """Yield all tensors that can be reached from an object, by their path: through attributes, containers, closures."""
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
    """Yield what an object holds, by name."""
    if isinstance(thing, Mapping):
        yield from ((str(key), thing[key]) for key in thing if isinstance(key, (str, int)))
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
    users = torch.arange(tables.num_users).repeat_interleave(20)
    generator = torch.Generator().manual_seed(epoch_seed(0, 0))
    drawn = sample_negatives(users, tables.rows, tables.pool, generator=generator)
    cold = drawn[torch.isin(drawn, torch.from_numpy(split.cold))]
    if len(cold):
        raise Leak(
            f"leak: item {int(cold[0])} is a negative of training, but it is new. Draw from warm items alone."
        )


def _check_validation(
    models: list[Learner], tables: tuple[Tables, Tables], options: Options
) -> None:
    """Validation, which picks the epoch and the options, may not know of the test items."""
    if (
        options.data.candidates != "test"
    ):  # by option, new items compete with those of the other half
        return
    found = [
        evaluate_group(m, t, t.validation, t.mask)[0] for m, t in zip(models, tables, strict=True)
    ]
    if found[0] != found[1]:
        name = next(key for key in found[0] if found[0][key] != found[1][key])
        raise Leak(
            f"leak: `{name}` on the validation items changes where the test items are taken away. Rank validation "
            "items among themselves, for all their users."
        )


@torch.no_grad()
def _check_company(model: Learner, tables: Tables) -> None:
    """An item's score depends on the item and on what was learnt, not on the other new items."""
    items, users = tables.test.candidates, torch.unique(tables.test.users)[:50]
    half = torch.arange(0, len(items), 2)
    together = model.scorer(tables.features, items, tables.mask)(users)[:, half].clone()
    apart = model.scorer(tables.features, items[half], tables.mask)(users)
    if not torch.allclose(
        together, apart, rtol=1e-3, atol=1e-5 * float(together.abs().max()) + 1e-12
    ):
        raise Leak(
            "leak: an item's score changes with the other new items that are scored. Score each by itself."
        )
