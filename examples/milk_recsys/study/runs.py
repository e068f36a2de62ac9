"""One run of a study: audit, training and evaluation, with the line for the results file."""

from __future__ import annotations

import dataclasses
import datetime
import hashlib
import tempfile
import time
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch

from invmod import RidgeImputer, ZeroImputer
from milk_recsys.base.checkpoint import load_state, save_state
from milk_recsys.base.device import choose_device
from milk_recsys.catalogue.dataset import Dataset
from milk_recsys.catalogue.split import Split, draw_split
from milk_recsys.catalogue.tables import Tables, build_tables
from milk_recsys.config.options import Options, to_json, validate
from milk_recsys.methods.contract import Learner
from milk_recsys.methods.factors import Factorisation, Factors
from milk_recsys.methods.milk.learner import Learner as MilkLearner
from milk_recsys.methods.warm import WarmData
from milk_recsys.ranking.metrics import NonFiniteScores
from milk_recsys.run.evaluation import evaluate_group, evaluate_test, grouped_metrics
from milk_recsys.run.loop import Diverged, train_model, versions
from milk_recsys.run.progress import Progress
from milk_recsys.study.audit import audit, leaks_by_option
from milk_recsys.study.records import MONITOR, Run, digest, hashes_of
from milk_recsys.study.spaces import ABLATIONS

__all__ = ["execute", "train_once"]

MISSING_SHARES = (0.1, 0.45, 0.45)
"""Shares of the test items that miss none, one and two modalities in Figure 3."""


def train_once(
    options: Options, dataset: Dataset, split: Split | None = None, factors: Factors | None = None
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Train and evaluate without leaving a file.

    Arguments:
        split: drawn as the options demand if None.
        factors: pre-trained vectors, for the methods that need them; trained here if None.

    Returns:
        the record of `train_model`; the sections of `evaluate_test`; and ``seconds``,
        ``versions`` and ``date``.
    """
    split = draw_split(dataset, options.data)[0] if split is None else split
    device = choose_device(options.run.device)
    tables = build_tables(dataset, split, options, device)
    begun = time.perf_counter()
    trained, record = _train(options, tables, factors)
    sections, _ = evaluate_test(trained, tables, MONITOR)
    return record, sections, _facts(begun, device)


def _train(
    options: Options, tables: Tables, factors: Factors | None = None
) -> tuple[Learner, dict[str, Any]]:
    """Train in a temporary folder; return the learner and the record of `train_model`."""
    with tempfile.TemporaryDirectory() as folder:
        given = (options, tables, Path(folder), Progress(quiet=True))
        return train_model(*given) if factors is None else train_model(*given, factors=factors)


def _facts(begun: float, device: torch.device) -> dict[str, Any]:
    """Return the seconds since `begun`, the versions of the software, and the date."""
    date = datetime.date.today().isoformat()
    return {"seconds": time.perf_counter() - begun, "versions": versions(device), "date": date}


def execute(run: Run, dataset: Dataset, cache: Path) -> dict[str, Any]:
    """Audit, train and evaluate; return the line for the results file.

    The line of a trial contains no value of the test set. If training diverges, the line has
    the message and a validation score of 0, the worst possible.

    Arguments:
        cache: folder of trained factors, which several methods share.

    Raises:
        Leak: the run uses information about the test items, so no line of it may be stored.
    """
    options = run.options
    validate(options)
    split, _ = draw_split(dataset, options.data)
    device = choose_device(options.run.device)
    tables = build_tables(dataset, split, options, device)
    line: dict[str, Any] = {
        "phase": run.phase,
        "method": run.method,
        "setting": options.data.setting,
        "number": run.number,
        "tuned": dict(run.tuned),
        "options": {
            k: v
            for k, v in to_json(options).items()
            if k not in ("data", "out", "resume", "threads", "tracker")
        },
        **hashes_of(split, tables),
    }
    begun = time.perf_counter()
    if run.phase == "factors":
        factorisation = _factorise(options, tables)
        return (
            line
            | {"held_out": {MONITOR: factorisation.best}, "epochs": factorisation.epoch}
            | _facts(begun, device)
        )
    try:
        line |= _audited(options, dataset, split)
        factors, spent = _shared_factors(options, tables, line["split"], cache)
        begun = time.perf_counter()  # again, so that `seconds` excludes the audit and the factors
        model, record = _train(options, tables, factors)
        line |= record | {"triples": record["epochs"] * tables.num_pairs, "factor_seconds": spent}
        line |= _evaluate(run, model, tables, dataset, split)
    except (Diverged, NonFiniteScores) as error:
        line |= {"diverged": str(error), "validation": {MONITOR: 0.0}}
    return line | _facts(begun, device)


# --- before training ------------------------------------------------------------------------------

_AUDITED: dict[str, int] = {}
"""Number of tensors compared by each audit of this process, by what the audit depends on."""


def _audited(options: Options, dataset: Dataset, split: Split) -> dict[str, Any]:
    """Audit a run, unless a run that differs only in numbers was audited in this process."""
    leak = leaks_by_option(options.data)
    if leak:
        return {"leaky": leak}
    # Numbers such as a learning rate do not change which data a method reads; names and switches
    # may.
    choices = {k: v for k, v in to_json(options).items() if isinstance(v, (str, bool))}
    key = repr((sorted(choices.items()), digest(split.test, split.mask), dataset.fingerprint))
    if key in _AUDITED:
        return {"audit": {"compared": _AUDITED[key], "seconds": 0.0}}
    begun = time.perf_counter()
    _AUDITED[key] = len(audit(options, dataset, split))
    return {"audit": {"compared": _AUDITED[key], "seconds": time.perf_counter() - begun}}


def _factorise(options: Options, tables: Tables) -> Factorisation:
    """Train the matrix factorisation until it stops."""
    factorisation = Factorisation(
        WarmData.of_tables(tables, options), options.method, options.run.seed
    )
    while not factorisation.done:
        factorisation.train_epoch()
    return factorisation


def _shared_factors(
    options: Options, tables: Tables, split: str, cache: Path
) -> tuple[Factors | None, float]:
    """Return the factors, from the cache or trained, and the seconds that their training took.

    The cache has one file for each split, seed and set of options of the factorisation. (None, 0.0)
    is returned for a method that needs no factors.
    """
    if not options.definition.needs_factors:
        return None, 0.0
    own = {k: v for k, v in dataclasses.asdict(options.method).items() if k.startswith("factor_")}
    key = hashlib.sha256(
        repr((split, options.run.seed, options.method.embedding_dim, sorted(own.items()))).encode()
    ).hexdigest()
    file = cache / f"{key[:16]}.safetensors"
    if not file.exists():
        begun = time.perf_counter()
        users, items = _factorise(options, tables).result()
        cache.mkdir(parents=True, exist_ok=True)
        save_state(file, {"users": users, "items": items}, {"seconds": time.perf_counter() - begun})
    state, facts = load_state(file, tables.device)
    return Factors(state["users"], state["items"]), facts["seconds"]


# --- after training -------------------------------------------------------------------------------


def _evaluate(
    run: Run, model: Learner, tables: Tables, dataset: Dataset, split: Split
) -> dict[str, Any]:
    """Return the metrics of a run, of the kinds that its phase needs."""
    if not run.tested:
        return {"validation": evaluate_group(model, tables, tables.validation, tables.mask)[0]}
    if run.phase == "timing":
        return _timed(model, tables)
    sections, per_user = evaluate_test(model, tables, MONITOR)
    kept = ("validation", "test", "test_complete", "test_all_cold", "by_pattern", "imposed")
    values = {name: sections[name] for name in kept}
    values["per_user"] = per_user["test"][MONITOR].numpy().astype(np.float32)
    if len(tables.modalities) >= 3:
        mask = missing_none_one_two(dataset, split, run.options.data.split_seed)
        values["groups"] = grouped_metrics(model, tables, torch.from_numpy(mask).to(tables.device))
    if run.options.run.model in ABLATIONS:  # A figure and a table are about MILK's family alone.
        learner = cast(MilkLearner, model)
        values |= _modalities(learner, tables)
        if run.method == "erm":
            values["imputed"] = _other_imputers(learner, tables)
    return values


def _timed(model: Learner, tables: Tables) -> dict[str, Any]:
    """Measure the seconds to rank the test items for all their users."""
    begun = time.perf_counter()
    evaluate_group(model, tables, tables.test, tables.mask)
    return {"score_seconds": time.perf_counter() - begun}


@torch.no_grad()
def _modalities(learner: MilkLearner, tables: Tables) -> dict[str, Any]:
    """Measure the value of each modality to a model of MILK's family.

    A score is a sum with one term per modality. The share of a modality is

        share_m = mean over u of Var_c(s_ucm) / (sum over m' of Var_c(s_ucm'))

    where s_ucm = p_u . z_cm is the term of user u, test item c and modality m, p_u is the vector
    of the user, z_cm is the vector of the item's modality m, and Var_c is the variance over the
    test items.

    Returns:
        ``alone``: NDCG@20 with that modality and no other for all test items; ``share``: the share
        above.
    """
    alone = {}
    for m, name in enumerate(tables.modalities):
        only = torch.zeros_like(tables.natural_mask)
        only[:, m] = tables.natural_mask[:, m]
        alone[name] = evaluate_group(learner, tables, tables.test, only)[0][MONITOR]
    model = learner.model
    items, users = tables.test.candidates, torch.unique(tables.test.users)
    z = model.encoders(
        model.prepare(tables.features.rows(items), tables.natural_mask[items])
    )  # (C, M, D)
    parts = torch.einsum("ud,cmd->ucm", model.users.weight[users], z).var(dim=1)
    shares = (parts / parts.sum(dim=1, keepdim=True)).mean(dim=0)
    return {"alone": alone, "share": dict(zip(tables.modalities, shares.tolist(), strict=True))}


def _other_imputers(learner: MilkLearner, tables: Tables) -> dict[str, Any]:
    """Evaluate the trained model with other imputations of missing modalities, for Table 3."""
    model = learner.model
    trained: Any = model.imputer
    metrics = {}
    rows = model.scaled(tables.features.rows(tables.warm))
    for name, imputer in (
        ("zero", ZeroImputer(model.modalities)),
        ("map", RidgeImputer(model.modalities)),
    ):
        model.imputer = imputer.fit(rows, tables.mask[tables.warm]).to(model.users.weight.dtype)
        metrics[name] = evaluate_group(learner, tables, tables.test, tables.mask)[0]
    model.imputer = trained
    return metrics


def missing_none_one_two(dataset: Dataset, split: Split, seed: int) -> npt.NDArray[np.bool_]:
    """Draw the mask of Figure 3: 10% of the test items miss no modality, 45% one and 45% two.

    An item keeps at least one of the modalities that it has.
    """
    # The spawn key differs from those of `draw_split`, so that the streams are independent.
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(4,)))
    mask = dataset.natural_mask.copy()
    items = rng.permutation(split.test)
    ends = np.cumsum(np.floor(np.array(MISSING_SHARES) * len(items) + 0.5).astype(int))[:-1]
    for missing, part in enumerate(np.split(items, ends)):
        for item in part:
            available = np.flatnonzero(mask[item])
            mask[item, rng.permutation(available)[: min(missing, len(available) - 1)]] = False
    return mask
