"""Fitting of a method on a data set in memory."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from milk_recsys.base.checkpoint import load_state
from milk_recsys.base.device import choose_device
from milk_recsys.base.distributed import SINGLE_PROCESS
from milk_recsys.base.errors import DataError, plural
from milk_recsys.catalogue.frame_rows import read_feature_rows
from milk_recsys.catalogue.frames import Catalogue
from milk_recsys.catalogue.importers.ids import Ids
from milk_recsys.catalogue.importers.row_options import RowOptions
from milk_recsys.catalogue.split import draw_split, split_facts
from milk_recsys.catalogue.tables import build_tables
from milk_recsys.config.method import load
from milk_recsys.config.options import Options, validate, validate_method
from milk_recsys.estimator.abilities import need
from milk_recsys.estimator.fitted import Fitted
from milk_recsys.estimator.user_content import UserContent
from milk_recsys.run.begin import dataset_facts
from milk_recsys.run.evaluation import evaluate_test
from milk_recsys.run.learner_scorer import ScoresModel
from milk_recsys.run.loop import check_learner, train_model, versions
from milk_recsys.run.progress import Progress

__all__ = ["fit_catalogue", "fit_user_content"]


def fit_catalogue(
    catalogue: Catalogue, options: Options, rows: RowOptions
) -> tuple[Fitted, dict[str, Any], list[str]]:
    """Fit a method; with held-out items also measure it.

    Returns:
        the fitted model, the content of metrics.json, and notes.
    """
    need(options.definition, "recommend", "fit")
    dataset, device = catalogue.dataset, choose_device(options.run.device)
    validate(options)
    validate_method(options, len(dataset.modalities))
    if options.run.threads:
        torch.set_num_threads(options.run.threads)
    split, notes = draw_split(dataset, options.data)
    tables = build_tables(dataset, split, options, device)
    check_learner(options, device, SINGLE_PROCESS)
    with tempfile.TemporaryDirectory() as folder:
        learner, record = train_model(options, tables, Path(folder), Progress(quiet=True))
        tensors, _ = load_state(Path(folder) / "model.safetensors", device)
    model: Any
    dims = {name: x.shape[1] for name, x in dataset.features.items()}
    if options.definition.scorer is None:
        model = ScoresModel(cast(Any, learner))
    else:
        model = load(options.definition.scorer)(options, dims, dataset.num_users, tensors)
    metrics: dict[str, Any] = {
        "model": options.run.model,
        "data": dataset.name,
        **record,
        "versions": versions(device),
        "missingness": {"modalities": list(dataset.modalities), **split_facts(dataset, split)},
        "fit_all": options.data.fit_all,
    }
    if not options.data.fit_all:
        metrics |= evaluate_test(learner, tables, options.loop.monitor)[0]
    fitted = Fitted(
        options,
        model,
        dims,
        dataset.content_zeros,
        Ids(catalogue.user_ids),
        Ids([catalogue.item_ids[item] for item in split.warm.tolist()]),
        dataset_facts(dataset),
        catalogue.columns,
        rows,
    )
    return fitted, metrics, notes


def fit_user_content(
    fitted: Fitted, features: Mapping[str, Any], columns: Mapping[str, tuple[str, ...]]
) -> list[str]:
    """Fit the regression of users' vectors on features of users; return notes.

    Arguments:
        features: modality -> frame with the column of users, or a pair (ids, array).
        columns: modality -> columns of its frame.
    """
    need(fitted.options.definition, "user_features", "fit")
    key = fitted.rows.user_column
    ids, arrays, used = read_feature_rows(features, key, None, columns, "user_features")
    numbers = [fitted.users.find(name) for name in ids.names]
    trained = fitted.scorer.trained_users
    rows = [k for k, n in enumerate(numbers) if n is not None and trained[n]]
    if not rows:
        raise DataError(
            f"user_features: none of its {plural(len(ids), 'id', 'ids')} is a user with pairs. Its "
            f"ids are like {ids.names[:2]}, those of the users like {fitted.users.names[:2]}."
        )
    users = torch.tensor([numbers[k] for k in rows], device=fitted.scorer.device)
    tensors = {
        name: torch.from_numpy(np.ascontiguousarray(x[rows], dtype=np.float64)).to(users.device)
        for name, x in arrays.items()
    }
    vectors = fitted.scorer.user_vectors(users)
    fitted.user_content = UserContent.fitted(tensors, users, vectors, used, fitted.options.run.seed)
    unused = len(ids) - len(rows)
    return [f"user_features: {plural(unused, 'user', 'users')} without pairs."] if unused else []
