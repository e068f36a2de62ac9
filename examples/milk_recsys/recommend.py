"""Recommend items with a finished run: the best items per user and the best users per item.

    milk-recsys recommend --run runs/20250101-120000-milk --items new_items
    milk-recsys recommend --help

In a checkout `python examples/milk_recsys/recommend.py` is the same command.

The folder of new items has the layout of a data set without interactions:
`features/<modality>.npy`, (n, dim), in which a row of NaN means that the item lacks this modality.
A modality without a file is missing for all items. If there is a `dataset.json`, its `modalities`
name the files to read. `items.tsv` (header `item<TAB>name`) names the items. `prepare.py items`
writes such a folder from raw tables. The training data are not needed.
"""

from __future__ import annotations

import sys
from pathlib import Path

# As a script, this file needs the folder above it on the path to import `milk_recsys`.
if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import dataclasses
from collections.abc import Callable, Sequence
from typing import Annotated, Literal

import tyro

from milk_recsys.base.errors import DataError
from milk_recsys.base.files import replacing
from milk_recsys.base.launch import MAX_THREADS
from milk_recsys.base.manual import parse
from milk_recsys.base.terminal import print_error, print_line, reporting_errors
from milk_recsys.exporting.tables import write_table

__all__ = ["RecommendOptions", "main", "recommend"]


@dataclasses.dataclass(frozen=True)
class RecommendOptions:
    """Recommend new items, and known ones if wanted, with a finished run.

        milk-recsys recommend --run runs/shop --items new_items

    Writes users.parquet with the best items of every user, and items.parquet with the best users of
    every item. A user without a training pair has a random vector. In the rows of such a user
    `trained` is false, and no item lists the user.

    Files of users, items and pairs are tables with the columns user and item, or lines of text.
    They hold names, ids of the source, or numbers where there are neither.

    Arguments:
        run: Folder of a finished run (--out of the command train).
        items: Folder of new items: features/<modality>.npy, or dataset.json with the file names;
            and items.tsv. `prepare items` writes it. Needed without --include-warm.
        top: Length of each list.
        users: File of the users whose lists are made, and who may be in the lists of items.
        exclude: File of pairs that must not be listed, for example orders of today.
        available: File of the items that may be listed, for example the stock. Known items in it
            are left out without --include-warm.
        include_warm: List known items as well. Those that a user has are left out.
        out: Folder for the two tables.
        format: Parquet, or TSV (tab-separated text with a header).
        formulas: With --format tsv, put an apostrophe before names that begin with =, +, -, @ or an
            apostrophe (quote), so that a spreadsheet runs none as a formula; or write names as
            they are (keep).
        overwrite: Replace existing tables.
        empty_items: Items without any modality: stop with an error, or leave these items out.
        data: Folder of the data set. Runs of methods without vectors of users and items need it:
            all but KEEP, MILK and its ablations.
        device: Device to compute on; auto is a GPU if there is one.
        threads: Number of CPU threads.
    """

    run: Path
    items: Annotated[
        Path | None, tyro.conf.arg(help_behavior_hint="(needed without --include-warm)")
    ] = None
    top: int = 20
    users: Annotated[Path | None, tyro.conf.arg(help_behavior_hint="(default: all)")] = None
    exclude: Annotated[Path | None, tyro.conf.arg(help_behavior_hint="(default: none)")] = None
    available: Annotated[Path | None, tyro.conf.arg(help_behavior_hint="(default: all)")] = None
    include_warm: bool = False
    out: Annotated[
        Path | None, tyro.conf.arg(help_behavior_hint="(default: RUN/recommendations)")
    ] = None
    format: Literal["parquet", "tsv"] = "parquet"
    formulas: Literal["keep", "quote"] = "keep"
    overwrite: bool = False
    empty_items: Literal["error", "drop"] = "error"
    data: Annotated[Path | None, tyro.conf.arg(help_behavior_hint="(default: none)")] = None
    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Annotated[
        int | None, tyro.conf.arg(help_behavior_hint="(default: torch's choice)")
    ] = None


def main(argv: Sequence[str] | None = None, *, prog: str = "recommend.py") -> int:
    """Run the command line.

    Returns:
        The exit status: 0 for success, 2 for invalid input, 130 after an interruption. (Options
        that cannot be parsed exit with status 2 at once.)
    """
    options = parse(RecommendOptions, argv, prog=prog, page="milk")
    try:
        recommend(options)
    except DataError as error:
        print_error(error)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted; nothing was written", file=sys.stderr)
        return 130
    return 0


def recommend(options: RecommendOptions, log: Callable[[str], None] = print_line) -> None:
    """Read a run and the items, and write both tables.

    Arguments:
        options: the options of the command.
        log: function that prints notes, and at the end the paths of the tables.

    Raises:
        DataError: the run, a file or an option cannot be used, or a table exists already.
    """
    users_path, items_path = _tables(options)

    # torch and polars take seconds to import, so options are checked before.
    import torch

    from milk_recsys.exporting.catalogue import open_run_with_items
    from milk_recsys.exporting.choices import available_items, chosen_users, pairs_to_exclude
    from milk_recsys.exporting.lists import ListFrames, Lists

    if options.threads:
        torch.set_num_threads(options.threads)
    served = open_run_with_items(
        options.run,
        options.items,
        include_warm=options.include_warm,
        empty_items=options.empty_items,
        device=options.device,
        data=options.data,
    )
    users = chosen_users(served, options.users)
    notes: list[str] = []
    kept = available_items(served, options.available, notes)
    excluded = pairs_to_exclude(served, options.exclude, notes)
    # This check comes after the input has been read, so that errors in the input are reported
    # first.
    _check_free(users_path, items_path, options)
    lists = Lists(served, options.top, users, kept, excluded)
    for note in (*served.notes, *notes, *lists.notes()):
        log(f"note: {note}")
    quotes = options.format == "tsv" and options.formulas == "quote"
    frames = ListFrames(served, lists.places, quotes=quotes)
    try:
        users_path.parent.mkdir(parents=True, exist_ok=True)
        # Both temporary files are renamed only when both are complete.
        with replacing(users_path) as users_file, replacing(items_path) as items_file:
            write_table(users_file, map(frames.of_users, lists.of_users()), options.format)
            write_table(items_file, map(frames.of_items, lists.of_items()), options.format)
    except OSError as error:
        raise DataError(
            f"{users_path.parent}: cannot be written to ({error.strerror or error})."
        ) from None
    log(f"{lists.counted}: {users_path}, {items_path}")


def _tables(options: RecommendOptions) -> tuple[Path, Path]:
    """Return the paths of the two tables, after checking the options on the output."""
    if options.items is None and not options.include_warm:
        raise DataError(
            "--items: name a folder of new items, or give --include-warm for the known items."
        )
    for name in ("top", "threads"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise DataError(f"--{name} must be at least 1, got {value}.")
    if (options.threads or 1) > MAX_THREADS:
        raise DataError(f"--threads must be at most {MAX_THREADS}, got {options.threads}.")
    out = options.out or options.run / "recommendations"
    if out.exists() and not out.is_dir():
        raise DataError(f"--out: {out} is a file. Name a folder.")
    folders = [path.resolve() for path in (options.run, options.items) if path is not None]
    if out.resolve() in folders:
        raise DataError(
            f"--out: {out} is also an input folder, and may hold users.tsv or items.tsv. "
            "Name another."
        )
    return out / f"users.{options.format}", out / f"items.{options.format}"


def _check_free(users_path: Path, items_path: Path, options: RecommendOptions) -> None:
    existing = [str(path) for path in (users_path, items_path) if path.exists()]
    if existing and not options.overwrite:
        raise DataError(
            f"{', '.join(existing)}: must not exist yet. Give --overwrite to replace tables, or "
            "another --out."
        )


if __name__ == "__main__":
    with reporting_errors():
        sys.exit(main())
