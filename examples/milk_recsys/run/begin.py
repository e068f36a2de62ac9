"""The start of a run: its options, its folder and its data.

This module does not import torch, so that errors in options or data are reported at once.
"""

import dataclasses
import datetime
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from milk_recsys.base.errors import DataError
from milk_recsys.base.files import read_json, replacing, write_json
from milk_recsys.base.launch import delay_nonzero_exit, silence_other_ranks
from milk_recsys.catalogue.dataset import Dataset, read_dataset
from milk_recsys.catalogue.encoders.saved import copy_encoders
from milk_recsys.catalogue.synthetic import embedded_dataset
from milk_recsys.catalogue.tsv import read_source_ids
from milk_recsys.config.command_line import given_options, parse_options
from milk_recsys.config.options import OptionError, Options, to_json, validate_method

__all__ = ["begin", "dataset_facts", "open_run", "start_folder", "write_config", "write_names"]

RUN_FILES = (
    "users.tsv",
    "items.tsv",
    "encoders",
    "config.json",
    "metrics.json",
    "history.jsonl",
    "split.npz",
    "warm.npy",
    "model.safetensors",
    "checkpoint.safetensors",
    "report.html",
    "curves.png",
    "robustness.png",
    "compare",
)
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
            return _begin(argv, prog)
        except SystemExit as exit_:
            delay_nonzero_exit(exit_.code)
            raise


def _begin(argv: Sequence[str], prog: str) -> tuple[Options, Dataset]:
    options = parse_options(argv, prog=prog)
    try:
        out = options.run.out or _new_folder(options.run.model)
        if options.run.resume and all(
            (out / name).exists() for name in ("config.json", "metrics.json", "report.html")
        ):
            print(f"The run in {out} is finished; its report is {out / 'report.html'}.")
            raise SystemExit(0)
        options, dataset = open_run(options.replace(out=out).resolved())
        notes = (*dataset.notes, *options.notes(given_options(argv)))
        return options, dataclasses.replace(dataset, notes=notes)
    except (DataError, OptionError) as error:
        print(f"error: {error}", file=sys.stderr)
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
    existing = [name for name in RUN_FILES if (options.run.out / name).exists()]
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
        facts, before = dataset_facts(dataset), read_json(config).get("dataset") or {}
        changed = [name for name in facts if before.get(name) != facts[name]]
        if changed:
            raise DataError(
                f"{options.run.out}: the run was started with other data; changed: "
                f"{', '.join(changed)}. Give the same data to resume it, or another --out."
            )
    return options, dataset


def start_folder(out: Path, dataset: Dataset) -> None:
    """Create the folder of a run, and remove temporary files that a killed run left in it.

    The names of users and items and the encoders of the data set are copied into it, so that new
    items can be encoded and recommended without the data set.

    Raises:
        OptionError: the folder cannot be created.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(
            f"--out: {out} cannot be created ({error.strerror}). Name another folder."
        ) from None
    for leftover in (*out.glob(".*.tmp"), *out.glob("compare/.*.tmp")):
        leftover.unlink()
    if dataset.folder is not None:
        copy_encoders(dataset.folder, out)
    for kind, names in (("user", dataset.user_names), ("item", dataset.item_names)):
        if names is not None:
            write_names(out / f"{kind}s.tsv", kind, names, _source_ids(dataset, kind, len(names)))


def write_config(options: Options, dataset: Dataset) -> None:
    """Write config.json, whose presence marks the folder as that of a run."""
    if options.run.out is not None:
        write_json(
            options.run.out / "config.json", {**to_json(options), "dataset": dataset_facts(dataset)}
        )


def _source_ids(dataset: Dataset, kind: str, count: int) -> Sequence[str] | None:
    """Return the ids of items in the source of the data set, if they are not its names."""
    if dataset.folder is None or kind != "item":
        return None
    return read_source_ids(dataset.folder / "items.tsv", "item", count)


def write_names(
    path: Path, kind: str, names: Sequence[str], ids: Sequence[str] | None = None
) -> None:
    """Write names in the format of a data set, so that a scorer needs the run alone.

    Arguments:
        kind: user or item.
        ids: ids in the source, if they are not the names.
    """
    columns = [names] if ids is None else [names, ids]
    rows = ("\t".join(cells) for cells in zip(*columns, strict=True))
    header = "\t".join([kind, "name", "id"][: 1 + len(columns)])
    lines = [header, *(f"{number}\t{row}" for number, row in enumerate(rows))]
    with replacing(path) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")


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
