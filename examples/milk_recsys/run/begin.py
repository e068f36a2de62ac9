"""The start of a run: its options, its folder and its data.

This module does not import torch, so that errors in options or data are reported at once.
"""

import dataclasses
import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from milk_recsys.base.errors import DataError
from milk_recsys.base.files import read_json, write_json
from milk_recsys.base.launch import delay_nonzero_exit, silence_other_ranks
from milk_recsys.base.lock import check_free
from milk_recsys.base.reading import exists
from milk_recsys.base.terminal import (
    print_error,
    print_line,
    refuse_empty_values,
    reporting_errors,
)
from milk_recsys.catalogue.dataset import Dataset, read_dataset
from milk_recsys.catalogue.synthetic import embedded_dataset
from milk_recsys.config.command_line import given_options, parse_options
from milk_recsys.config.options import OptionError, Options, to_json, validate_method
from milk_recsys.run.folder import run_files, start_folder, write_names

__all__ = ["begin", "dataset_facts", "open_run", "start_folder", "write_config", "write_names"]

# Files that are written before config.json. A folder without config.json does not
# contain a run yet.
BEFORE_CONFIG = {"users.tsv", "items.tsv", "encoders", "split.npz"}


def begin(argv: Sequence[str], *, prog: str = "train.py") -> tuple[Options, Dataset]:
    """Parse a command line, read the data and check the folder.

    Prints an error and exits with status 2 if the input is invalid. Exits with status 0 if the run
    to resume is already finished.
    """
    with silence_other_ranks():
        try:
            with reporting_errors():
                return _begin(argv, prog)
        except SystemExit as exit_:
            delay_nonzero_exit(exit_.code)
            raise


def _begin(argv: Sequence[str], prog: str) -> tuple[Options, Dataset]:
    refuse_empty_values(argv)
    options = parse_options(argv, prog=prog)
    try:
        out = options.run.out or _new_folder(options.run.model)
        given = given_options(argv)
        finished = options.run.resume and all(
            exists(out / name) for name in ("config.json", "metrics.json", "report.html")
        )
        folder = options.data.folder
        # The data of a finished run may have been moved away, but given ones must be the same.
        if not finished or folder is None or "data" in given or exists(folder):
            options, dataset = open_run(options.replace(out=out).resolved())
        if finished:
            print_line(f"The run in {out} is finished; its report is {out / 'report.html'}.")
            raise SystemExit(0)
        notes = (*dataset.notes, *options.notes(given))
        return options, dataclasses.replace(dataset, notes=notes)
    except (DataError, OptionError) as error:
        print_error(error)
        raise SystemExit(2) from None


def open_run(options: Options) -> tuple[Options, Dataset]:
    """Read the data, and check the folder ``options.run.out``.

    The folder must not contain a run, except with ``options.run.resume``. Nothing is written here;
    `start_folder` is the first to write, after all checks.

    Raises:
        DataError: the data are invalid, or differ from those with which the run was started.
        OptionError: the folder contains a run and ``options.run.resume`` is False, or it contains
            results but no config.json.
    """
    if options.run.out is None:
        raise OptionError("--out must name a folder for the results.")
    check_free(options.run.out)
    existing = run_files(options.run.out)
    if existing and not options.run.resume:
        raise OptionError(
            f"--out: {options.run.out} holds a run ({', '.join(existing)}), which is never "
            "overwritten. Give --resume to resume it, or another --out."
        )
    config = options.run.out / "config.json"
    if not config.exists() and set(existing) - BEFORE_CONFIG:
        raise OptionError(
            f"--out: {options.run.out} holds {', '.join(existing)}, but no config.json: there is "
            "no run to resume. Choose another --out."
        )
    dataset = (
        embedded_dataset()
        if options.data.folder is None
        else read_dataset(options.data.folder, empty_items=options.data.empty_items)
    )
    validate_method(options, len(dataset.modalities))
    if config.exists():
        facts, before = dataset_facts(dataset), _facts_of_run(config)
        changed = [name for name in facts if before.get(name) != facts[name]]
        if changed:
            raise DataError(
                f"{options.run.out}: the run was started with other data; changed: "
                f"{', '.join(changed)}. Give the same data to resume it, or another --out."
            )
    return options, dataset


def _facts_of_run(config: Path) -> dict[str, Any]:
    """Return what config.json says of the data set of its run."""
    values = read_json(config)
    facts = values.get("dataset") if isinstance(values, dict) else None
    if facts is not None and not isinstance(facts, dict):
        raise DataError(f"{config}: is not the config of a run; `dataset` must be an object.")
    return facts or {}


def write_config(options: Options, dataset: Dataset) -> None:
    """Write config.json, whose presence marks the folder as that of a run."""
    if options.run.out is not None:
        write_json(
            options.run.out / "config.json", {**to_json(options), "dataset": dataset_facts(dataset)}
        )


def _new_folder(model: str) -> Path:
    """Return a folder ``runs/<time>-<model>`` that does not exist yet."""
    stem = Path("runs") / f"{datetime.datetime.now():%Y%m%d-%H%M%S}-{model}"
    folder, count = stem, 1
    while folder.exists():
        count += 1
        folder = stem.with_name(f"{stem.name}-{count}")
    return folder


def dataset_facts(dataset: Dataset) -> dict[str, Any]:
    """Return the sizes of a data set and the fingerprint of its pairs, masks and features."""
    return {
        "name": dataset.name,
        "users": dataset.num_users,
        "items": dataset.num_items,
        "pairs": len(dataset.interactions),
        "modalities": {name: x.shape[1] for name, x in dataset.features.items()},
        "missing_in_nature": {
            name: int(count)
            for name, count in zip(
                dataset.modalities, (~dataset.natural_mask).sum(axis=0), strict=True
            )
        },
        "fingerprint": dataset.fingerprint,
        # Absent unless needed, so that runs of earlier versions have the same facts.
        **({"content_zeros": list(dataset.content_zeros)} if dataset.content_zeros else {}),
    }
