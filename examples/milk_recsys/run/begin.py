"""The beginning of a run: options, the folder for its results, the data. No torch, so that errors come at once."""

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
from milk_recsys.catalogue.synthetic import embedded_dataset
from milk_recsys.config.command_line import given_options, parse_options
from milk_recsys.config.options import OptionError, Options, to_json, validate_method

__all__ = ["begin", "open_run", "start_folder", "write_config"]

RUN_FILES = (
    "users.tsv",
    "config.json",
    "metrics.json",
    "history.jsonl",
    "split.npz",
    "model.safetensors",
    "checkpoint.safetensors",
    "report.html",
    "curves.png",
    "robustness.png",
    "compare",
)
BEFORE_CONFIG = {
    "users.tsv",
    "split.npz",
}  # what is written before config.json, which makes a folder a run's


def begin(argv: Sequence[str], *, prog: str = "train.py") -> tuple[Options, Dataset]:
    """Parse a command line, read its data and open its folder.

    Prints what is wrong and exits with status 2 where something is; exits with 0 where the run to go on with is
    finished already.
    """
    with silence_other_ranks():
        try:
            return _begin(argv, prog)
        except SystemExit as ends:
            delay_nonzero_exit(ends.code)
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
        options, dataset = open_run(options.but(out=out).resolved())
        notes = (*dataset.notes, *options.notes(given_options(argv)))
        return options, dataclasses.replace(dataset, notes=notes)
    except (DataError, OptionError) as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


def open_run(options: Options) -> tuple[Options, Dataset]:
    """Read the data, and check that the folder ``options.run.out`` is free, or holds the run to go on with.

    Nothing is written: that begins with `start_folder`, once everything is checked.

    Raises:
        DataError: the data are bad, or not those that the run was started with.
        OptionError: the folder holds a run and ``options.run.resume`` is False.
    """
    if options.run.out is None:
        raise OptionError("--out must name a folder for the results.")
    held = [name for name in RUN_FILES if (options.run.out / name).exists()]
    if held and not options.run.resume:
        raise OptionError(
            f"--out: {options.run.out} holds a run ({', '.join(held)}), which is never overwritten. "
            "Give --resume to resume it, or another --out."
        )
    config = options.run.out / "config.json"
    if not config.exists() and set(held) - BEFORE_CONFIG:
        raise OptionError(
            f"--out: {options.run.out} holds {', '.join(held)}, but no config.json: there is no run to "
            "resume. Choose another --out."
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
                f"{options.run.out}: the run was started with other data; changed: {', '.join(changed)}. Give the same "
                "data to go on, or another --out."
            )
    return options, dataset


def start_folder(out: Path, dataset: Dataset) -> None:
    """Make the folder of a run, or clear that of a killed one of temporary files.

    Raises:
        OptionError: the folder cannot be made.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OptionError(
            f"--out: {out} cannot be made ({error.strerror}). Name another folder."
        ) from None
    for leftover in (*out.glob(".*.tmp"), *out.glob("compare/.*.tmp")):
        leftover.unlink()
    if dataset.user_names is not None:
        _write_user_names(out / "users.tsv", dataset.user_names)


def write_config(options: Options, dataset: Dataset) -> None:
    """Write config.json: from now on the folder holds a run."""
    if options.run.out is not None:
        write_json(
            options.run.out / "config.json", {**to_json(options), "dataset": dataset_facts(dataset)}
        )


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
    """Count what a data set has; the fingerprint covers pairs, masks and features."""
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
    }
