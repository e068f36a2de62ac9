"""Folders of a `Recommender`: those that `save` writes, and runs of train.py.

A saved folder is that of a finished run, which `load_run` opens too, with further files:

    recommender.json           ids of users and items, and how frames are read
    warm.safetensors           of a method without vectors: the pairs and features it was fitted on
    user_content.safetensors   the regression on features of users, if there is one

Nothing is pickled.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch

from milk_recsys.base.checkpoint import load_state, save_state
from milk_recsys.base.device import choose_device
from milk_recsys.base.errors import DataError
from milk_recsys.base.files import read_json, replacing_folder, write_json
from milk_recsys.catalogue.dataset import read_dataset
from milk_recsys.catalogue.importers.ids import Ids
from milk_recsys.catalogue.importers.row_options import RowOptions
from milk_recsys.catalogue.npy import map_npy
from milk_recsys.catalogue.split_file import stored_split
from milk_recsys.catalogue.tables import build_tables
from milk_recsys.catalogue.tsv import read_names
from milk_recsys.config.options import Options, to_json
from milk_recsys.estimator.abilities import need
from milk_recsys.estimator.fitted import Fitted
from milk_recsys.estimator.user_content import UserContent
from milk_recsys.methods.learner import restored
from milk_recsys.methods.stored import warm_data, warm_state
from milk_recsys.methods.warm import WarmData
from milk_recsys.run.folder import write_names
from milk_recsys.run.learner_scorer import ScoresModel
from milk_recsys.run.scorer import finished_config, open_run

__all__ = ["item_numbers", "open_fitted", "save_fitted"]

STATE, USER_CONTENT = "recommender.json", "user_content.safetensors"
WARM = "warm.safetensors"
FORMAT = 1


def save_fitted(fitted: Fitted, metrics: dict[str, Any], folder: Path) -> None:
    """Write a folder, which must not exist yet or be empty; it appears when it is complete.

    Raises:
        DataError: the folder holds something, or cannot be written.
    """
    fitted.share_choices()
    try:
        with replacing_folder(folder) as temporary:
            _write(fitted, metrics, temporary)
    except OSError as error:
        raise DataError(f"save: {folder} cannot be written ({error.strerror or error}).") from None


def _write(fitted: Fitted, metrics: dict[str, Any], folder: Path) -> None:
    content = fitted.user_content
    state = {
        "format": FORMAT,
        "users": fitted.users.names,
        "items": fitted.items.names,
        "columns": {name: list(own) for name, own in fitted.columns.items()},
        "rows": dataclasses.asdict(fitted.rows),
        "user_content": None if content is None else content.facts(),
    }
    facts = {"epoch": metrics.get("best_epoch", 0), "model": fitted.options.run.model}
    if isinstance(fitted.model, ScoresModel):
        learner = fitted.model.learner
        learner.save(folder / "model.safetensors", facts, weights_only=True)
        save_state(folder / WARM, warm_state(learner.data), {"modalities": learner.data.modalities})
    else:
        save_state(folder / "model.safetensors", cast(Any, fitted.model).state_dict(), facts)
    if content is not None:
        save_state(folder / USER_CONTENT, content.state_dict(), {})
    if not any(sign in name for name in fitted.users.names for sign in "\t\r\n"):
        write_names(folder / "users.tsv", "user", fitted.users.names)
    write_json(folder / STATE, state)
    options = fitted.options.replace(out=None, resume=False)
    write_json(folder / "config.json", {**to_json(options), "dataset": fitted.facts})
    write_json(folder / "metrics.json", metrics)


def open_fitted(
    folder: Path, device: torch.device | str, data: Path | None = None
) -> tuple[Fitted, dict[str, Any]]:
    """Open a saved folder, or a finished run of train.py; return also its metrics.json.

    Arguments:
        data: folder of the data set of a run whose method has no vectors.

    Raises:
        DataError: the folder is neither, or a file in it is damaged, or the data are needed and
            are absent or others.
    """
    options, dims, num_users, content_zeros = finished_config(folder)
    config, metrics = read_json(folder / "config.json"), read_json(folder / "metrics.json")
    model: Any
    if options.definition.scorer is None:
        need(options.definition, "recommend", "load")
        warm = _warm(folder, options, choose_device(device), config["dataset"], data)
        model = ScoresModel(restored(warm, options, folder / "model.safetensors"))
    else:
        model = open_run(folder, device).model
    values = (options, model, dims, content_zeros)
    if not (folder / STATE).exists():
        users = Ids(_distinct(folder / "users.tsv", "user", num_users))
        items = Ids(_items_of_run(folder, int(config["dataset"]["items"])))
        return Fitted(*values, users, items, config["dataset"]), metrics
    try:
        state = read_json(folder / STATE)
        users, items = (Ids([str(name) for name in state[kind]]) for kind in ("users", "items"))
        columns = {name: tuple(map(str, own)) for name, own in state["columns"].items()}
        rows = RowOptions(**{**state["rows"], "where": tuple(state["rows"]["where"])})
        if state["format"] != FORMAT or len(users) != num_users:
            raise ValueError(f"format {state['format']}, {len(users)} users")
        content = None
        if state["user_content"] is not None:
            tensors, _ = load_state(folder / USER_CONTENT, model.trained_users.device)
            content = UserContent.loaded(tensors, state["user_content"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise DataError(f"{folder / STATE}: does not fit its folder ({error!r:.200}).") from None
    return Fitted(*values, users, items, config["dataset"], columns, rows, content), metrics


def _warm(
    folder: Path,
    options: Options,
    device: torch.device,
    facts: dict[str, Any],
    data: Path | None,
) -> WarmData:
    """Return the training data of a run: those of its folder, or of the data set in `data`."""
    if (folder / WARM).exists():
        tensors, facts_of_file = load_state(folder / WARM, device)
        try:
            return warm_data(tensors, tuple(facts_of_file["modalities"]), options)
        except (DataError, KeyError, TypeError) as error:
            raise DataError(f"{folder / WARM}: {error}") from None
    if data is None:
        raise DataError(
            f"{folder}: holds a run of {options.run.model}, which has no vectors of users and "
            "items, so its training data are needed. Pass the folder of the data set as `data`, "
            "or --data of recommend."
        )
    dataset = read_dataset(data, empty_items=options.data.empty_items)
    if dataset.fingerprint != facts.get("fingerprint"):
        raise DataError(f"{data}: is not the data set that the run in {folder} was trained on.")
    split = stored_split(folder / "split.npz")
    return WarmData.of_tables(build_tables(dataset, split, options, device), options)


def _items_of_run(folder: Path, num_items: int) -> list[str]:
    """Return ids of the training items of a run of train.py, in the order of the model.

    They are the names in items.tsv if these differ, and else the numbers of the data set.
    """
    warm = item_numbers(folder)
    if warm is None or not len(warm):
        return []
    names = _distinct(folder / "items.tsv", "item", num_items)
    return [names[item] for item in warm.tolist()]


def item_numbers(folder: Path) -> npt.NDArray[np.int64] | None:
    """Return the numbers of the training items of a run in its data set, in the model's order.

    None for a saved recommender, whose items have ids alone.
    """
    if (folder / STATE).exists():
        return None
    path = folder / "split.npz"
    if not path.exists():
        return np.empty(0, dtype=np.int64)
    order = folder / "warm.npy"
    if order.exists():
        ids = map_npy(order, str(order), "item ids", "Update the run again.")
        return np.asarray(ids, dtype=np.int64)
    return np.asarray(stored_split(path).warm, dtype=np.int64)


def _distinct(path: Path, kind: Any, count: int) -> list[str]:
    """Return the names of a file if no two are equal, or else numbers as text."""
    names = read_names(path, kind, count, [])
    if names is None or len(set(names)) < count:
        return [str(number) for number in range(count)]
    return list(names)
