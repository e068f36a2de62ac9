"""The beginning of a run: options, the folder for its results, the data. No torch, so that errors come at once."""

import dataclasses
import datetime
import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from milk_recsys.data import DataError, Dataset, read_dataset
from milk_recsys.files import read_json, replacing, write_json
from milk_recsys.options import OptionError, Options, parse_options, to_json
from milk_recsys.synthetic import embedded_dataset

__all__ = ["begin", "open_run"]

RUN_FILES = (
    "users.tsv",
    "config.json",
    "metrics.json",
    "history.jsonl",
    "split.npz",
    "model.safetensors",
    "checkpoint.safetensors",
)


def begin(argv: Sequence[str]) -> tuple[Options, Dataset]:
    """Parse a command line, read its data and open its folder.

    Prints what is wrong and exits with status 2 where something is; exits with 0 where the run to go on with is
    finished already.
    """
    options = parse_options(argv, prog="train.py")
    try:
        out = options.out or _new_folder(options.model)
        if options.resume and (out / "report.html").exists():
            print(f"The run in {out} is finished; its report is {out / 'report.html'}.")
            raise SystemExit(0)
        return open_run(dataclasses.replace(options, out=out).resolved())
    except (DataError, OptionError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def open_run(options: Options) -> tuple[Options, Dataset]:
    """Read the data and open the folder ``options.out``: a new one, or that of the run to go on with.

    Raises:
        DataError: the data are bad, or not those that the run was started with.
        OptionError: the folder holds a run and ``options.resume`` is False.
    """
    if options.out is None:
        raise OptionError("--out must name a folder for the results.")
    held = [name for name in RUN_FILES if (options.out / name).exists()]
    if held and not options.resume:
        raise OptionError(
            f"--out: {options.out} holds a run ({', '.join(held)}), which is never overwritten. Give --resume to go "
            "on with it, or another --out."
        )
    dataset = (
        embedded_dataset() if options.data is None else read_dataset(options.data, empty_items=options.empty_items)
    )
    if options.min_weight * len(dataset.modalities) >= 1:
        raise OptionError(
            f"--min-weight must be below 1 / {len(dataset.modalities)} modalities, got {options.min_weight}."
        )
    facts = dataset_facts(dataset)
    config = options.out / "config.json"
    if config.exists():
        before = read_json(config)["dataset"]
        changed = [name for name in facts if before.get(name) != facts[name]]
        if changed:
            raise DataError(
                f"{options.out}: the run was started with other data; changed: {', '.join(changed)}. Give the same "
                "data to go on, or another --out."
            )
    else:
        options.out.mkdir(parents=True, exist_ok=True)
        if dataset.user_names is not None:  # first: config.json is what makes the folder a run
            _write_user_names(options.out / "users.tsv", dataset.user_names)
        write_json(config, {**to_json(options), "dataset": facts})
    return options, dataset


def _write_user_names(path: Path, names: Sequence[str]) -> None:
    """Let the users' names travel with the run, as in a data set: what it recommends is told by name."""
    lines = ["user\tname", *(f"{user}\t{name}" for user, name in enumerate(names))]
    with replacing(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")


def _new_folder(model: str) -> Path:
    """Name a folder ``runs/<time>-<model>`` that is not there yet."""
    stem = Path("runs") / f"{datetime.datetime.now():%Y%m%d-%H%M%S}-{model}"
    folder, count = stem, 1
    while folder.exists():
        count += 1
        folder = stem.with_name(f"{stem.name}-{count}")
    return folder


def dataset_facts(dataset: Dataset) -> dict[str, Any]:
    """Count what a data set has; the fingerprint covers pairs and masks."""
    digest = hashlib.sha256(np.ascontiguousarray(dataset.interactions).tobytes())
    digest.update(np.packbits(dataset.observed).tobytes())
    return {
        "name": dataset.name,
        "users": dataset.num_users,
        "items": dataset.num_items,
        "pairs": len(dataset.interactions),
        "modalities": {name: x.shape[1] for name, x in dataset.features.items()},
        "missing_in_nature": {
            name: int(count) for name, count in zip(dataset.modalities, (~dataset.observed).sum(axis=0), strict=True)
        },
        "fingerprint": digest.hexdigest()[:16],
    }
