"""New pairs, users and items in a finished run of KEEP, without a fit from the start.

    from milk_recsys import update_run
    update_run("runs/20250101-120000-keep", data="shop", out="runs/20250102")

The folder ``out`` is used like that of any finished run: by `load_run`, and by recommend.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from milk_recsys.base.checkpoint import load_state, save_state
from milk_recsys.base.errors import DataError, OptionError
from milk_recsys.base.files import read_json, replacing, write_json
from milk_recsys.catalogue.dataset import Dataset, read_dataset
from milk_recsys.catalogue.npy import map_npy
from milk_recsys.catalogue.pairs import pair_blocks
from milk_recsys.catalogue.split import Split, grown_split
from milk_recsys.catalogue.split_file import read_split, stored_split, write_split
from milk_recsys.catalogue.tsv import read_names
from milk_recsys.config.options import Options
from milk_recsys.methods.keep.scoring import scoring_model
from milk_recsys.methods.keep.update import update_model
from milk_recsys.run.begin import write_config
from milk_recsys.run.folder import claimed_folder, run_files, start_folder
from milk_recsys.run.loop import versions
from milk_recsys.run.scorer import read_config

__all__ = ["update_run"]

Ids = npt.NDArray[np.int64]
ORDER = "warm.npy"  # Ids of the training items in the order of the model, if it is not increasing.


def update_run(run: Path | str, data: Path | str, out: Path | str) -> dict[str, Any]:
    """Add the new pairs, users and items of a data set to a finished run of KEEP.

    Nothing is chosen again; `methods.keep.update` describes what stays and what is exact. Items of
    the run that were held out for validation or test stay held out. All other items with pairs are
    training items. Pairs that the data set no longer has stay in the model. When counts or content
    have changed much, train a new run.

    Arguments:
        run: the folder of a finished run of KEEP, or of an earlier update.
        data: the folder of a data set that has grown: its users and items have the ids that they
            had, and new ones follow.
        out: a folder for the results, which holds no run.

    Returns:
        the content of metrics.json in the folder `out`: numbers of new pairs, users and items, and
        the options that the run chose.

    Raises:
        DataError: the run is not finished or of another method, or the data set does not fit.
        OptionError: `out` holds a run, or cannot be created.
    """
    run, data, out = Path(run), Path(data), Path(out)
    if existing := run_files(out):
        raise OptionError(f"update_run: {out} holds a run ({', '.join(existing)}). Name another.")
    options, dims, num_users = _finished(run)
    dataset = read_dataset(data, empty_items=options.data.empty_items)
    before, order = _split_of(run)
    _check_grown(run, dataset, dims, num_users, len(before.mask))
    split = grown_split(before, dataset)
    tensors, _ = load_state(run / "model.safetensors")
    model = scoring_model(options, dims, num_users, tensors)
    new = np.setdiff1d(split.warm, order)
    order = np.concatenate([order, new])
    pairs = _numbered(dataset, order)
    content = {
        name: torch.from_numpy(np.ascontiguousarray(x[new])) for name, x in dataset.features.items()
    }
    added = update_model(
        model,
        pairs,
        features=content if len(new) else None,
        mask=torch.from_numpy(split.mask[new]) if len(new) else None,
        num_users=dataset.num_users,
    )
    options = options.replace(data=data, out=out)
    facts = {"new_pairs": added, "new_users": dataset.num_users - num_users, "new_items": len(new)}
    metrics = {
        "model": options.run.model,
        "data": dataset.name,
        "update": {"run": str(run), **facts},
        "chosen": model.chosen,
        "versions": versions(torch.device("cpu")),
    }
    with claimed_folder(out, resumes=False):
        start_folder(out, dataset)
        write_split(out / "split.npz", split)
        fit_all = options.data.fit_all
        read_split(out / "split.npz", dataset, options.data.setting, fit_all=fit_all)
        with replacing(out / ORDER) as temporary, temporary.open("wb") as file:
            np.save(file, order)
        save_state(out / "model.safetensors", model.state_dict(), {"epoch": 0, "model": "keep"})
        write_config(options, dataset)
        write_json(out / "metrics.json", metrics)
    return metrics


def _finished(run: Path) -> tuple[Options, dict[str, int], int]:
    """Return the options of a finished run, its modalities with their widths, and its users."""
    absent = [
        name
        for name in ("config.json", "split.npz", "model.safetensors", "metrics.json")
        if not (run / name).exists()
    ]
    if absent:
        raise DataError(f"{run}: lacks {', '.join(absent)}. Name the folder of a finished run.")
    options, dims, num_users, _ = read_config(run / "config.json")
    if options.run.model != "keep":
        raise DataError(
            f"{run}: holds a run of {options.run.model}, which must be trained again. Only runs of "
            "keep can be updated."
        )
    return options, dims, num_users


def _split_of(run: Path) -> tuple[Split, Ids]:
    """Return the split of a run, and its training items in the order of the model."""
    config = read_json(run / "config.json")
    path = run / "split.npz"
    split = stored_split(path)
    if split.cut is not None:
        raise DataError(
            f"{run}: was trained on the pairs before a cut (--split-by first_seen), to measure how "
            "it ranks later items. Train a run with --fit-all to update it."
        )
    if len(split.mask) != config["dataset"]["items"]:
        raise DataError(f"{path}: does not fit config.json in its folder.")
    if not (run / ORDER).exists():
        return split, split.warm
    order = np.array(map_npy(run / ORDER, str(run / ORDER), "item ids", "Update the run again."))
    if order.ndim != 1 or not np.array_equal(np.sort(order), split.warm):
        raise DataError(f"{run / ORDER}: does not fit split.npz in its folder.")
    return split, order.astype(np.int64)


def _check_grown(
    run: Path, dataset: Dataset, dims: dict[str, int], num_users: int, num_items: int
) -> None:
    """Raise unless the data set is that of the run with users and items appended."""
    widths = {name: x.shape[1] for name, x in dataset.features.items()}
    if widths != dims:
        raise DataError(f"the data must have the modalities of {run}, {dims}, got {widths}.")
    if dataset.num_users < num_users or dataset.num_items < num_items:
        raise DataError(
            f"the data must have at least the {num_users} users and {num_items} items of {run}, "
            f"got {dataset.num_users} and {dataset.num_items}."
        )
    names = read_names(run / "users.tsv", "user", num_users, [])
    if names is not None and dataset.user_names is not None:
        pairs = zip(names, dataset.user_names, strict=False)
        changed = [user for user, (one, other) in enumerate(pairs) if one != other]
        if changed:
            raise DataError(
                f"user {changed[0]} has another name in the data than in {run}: users must keep "
                "their ids, and new ones must follow."
            )


def _numbered(dataset: Dataset, order: Ids) -> Tensor:
    """Return the pairs (P, 2) of the training items, with the numbers of the items in the model."""
    number = np.full(dataset.num_items, -1, dtype=np.int64)
    number[order] = np.arange(len(order))
    blocks = [np.zeros((0, 2), dtype=np.int64)]
    for _, block in pair_blocks(dataset.interactions):
        kept = np.stack([block[:, 0], number[block[:, 1]]], axis=1)
        blocks.append(kept[kept[:, 1] >= 0])
    return torch.from_numpy(np.concatenate(blocks))
