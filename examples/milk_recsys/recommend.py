"""Recommend new items with a finished run: the best items per user and the best users per item.

    milk-recsys recommend --run runs/20250101-120000-milk --items new_items
    milk-recsys recommend --help

In a checkout `python examples/milk_recsys/recommend.py` is the same command.

The folder of new items has the layout of a data set without interactions:
`features/<modality>.npy`, (n, dim), in which a row of NaN means that the item lacks this modality.
A modality without a file is missing for all items. If there is a `dataset.json`, its `modalities`
name the files to read. `items.tsv` (header `item<TAB>name`) names the items. The training data are
not needed.
"""

from __future__ import annotations

import sys
from pathlib import Path

# As a script, this file needs the folder above it on the path to import `milk_recsys`.
if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import tyro

from milk_recsys.base.errors import DataError, plural
from milk_recsys.base.files import replacing
from milk_recsys.base.launch import MAX_THREADS
from milk_recsys.base.terminal import print_error, print_line, reporting_errors
from milk_recsys.catalogue.new_items import Items, read_items

# torch and polars take seconds to import; functions import them once the options have been read.
if TYPE_CHECKING:
    import polars as pl

    from milk_recsys.run.scorer import Best, Scorer

__all__ = ["RecommendOptions", "main", "recommend"]

ROWS_AT_ONCE = 2**18  # Number of rows of a result table that are collected before writing.
ITEMS_AT_ONCE = 2**14  # Number of items whose features are read at a time.


@dataclasses.dataclass(frozen=True)
class RecommendOptions:
    """Recommend new items with a finished run.

    Writes users.parquet with the best new items of every user, and items.parquet with the best
    users of every new item. A user without a training pair has a random vector. In the rows of such
    a user `trained` is false, and no item lists the user.

    Arguments:
        run: Folder of a finished run (--out of the command train).
        items: Folder of new items: features/<modality>.npy, or dataset.json with the file names;
            and items.tsv.
        top: Length of each list.
        out: Folder for the two tables.
        format: Parquet, or TSV (tab-separated text with a header).
        formulas: With --format tsv, put an apostrophe before names that begin with =, +, -, @ or an
            apostrophe (quote), so that a spreadsheet runs none as a formula; or write names as
            they are (keep).
        overwrite: Replace existing tables.
        empty_items: Items without any modality: stop with an error, or leave these items out.
        device: Device to compute on; auto is a GPU if there is one.
        threads: Number of CPU threads.
    """

    run: Path
    items: Path
    top: int = 20
    out: Annotated[
        Path | None, tyro.conf.arg(help_behavior_hint="(default: RUN/recommendations)")
    ] = None
    format: Literal["parquet", "tsv"] = "parquet"
    formulas: Literal["keep", "quote"] = "keep"
    overwrite: bool = False
    empty_items: Literal["error", "drop"] = "error"
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
    options = tyro.cli(
        RecommendOptions,
        args=sys.argv[1:] if argv is None else list(argv),
        prog=prog,
        config=(tyro.conf.DisallowNone, tyro.conf.OmitArgPrefixes),
    )
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
    """Read a run and new items, and write both tables.

    Arguments:
        options: the options of the command.
        log: function that prints notes, and at the end the paths of the tables.

    Raises:
        DataError: the run, the items or an option cannot be used, or a table exists already.
    """
    users_path, items_path = _tables(options)

    import torch

    from milk_recsys.run.scorer import load_run

    if options.threads:
        torch.set_num_threads(options.threads)
    scorer = load_run(options.run, device=options.device)
    items = read_items(
        options.items,
        scorer.dims,
        content_zeros=scorer.content_zeros,
        empty_items=options.empty_items,
    )
    # This check comes after the input has been read, so that errors in the input are reported
    # first.
    _check_free(users_path, items_path, options)
    for note in (*items.notes, *_notes(scorer, len(items.ids), options.top)):
        log(f"note: {note}")

    # Features are read from the memory maps in blocks; only the vectors of all items are in memory.
    vectors = torch.cat(
        [
            scorer.embed({name: x[rows] for name, x in items.features.items()})
            for rows in np.array_split(
                items.ids, np.arange(ITEMS_AT_ONCE, len(items.ids), ITEMS_AT_ONCE)
            )
        ]
    )
    quotes = options.format == "tsv" and options.formulas == "quote"
    frames = _Frames(scorer, items, quotes=quotes)
    try:
        users_path.parent.mkdir(parents=True, exist_ok=True)
        # Both temporary files are renamed only when both are complete.
        with replacing(users_path) as users_file, replacing(items_path) as items_file:
            _write(
                users_file,
                map(frames.of_users, scorer.best_items(vectors, options.top)),
                options.format,
            )
            _write(
                items_file,
                map(frames.of_items, scorer.best_users(vectors, options.top)),
                options.format,
            )
    except OSError as error:
        raise DataError(
            f"{users_path.parent}: cannot be written to ({error.strerror or error})."
        ) from None
    users = plural(scorer.num_users, "user", "users")
    new = plural(len(items.ids), "new item", "new items")
    log(f"{users} and {new}: {users_path}, {items_path}")


def _tables(options: RecommendOptions) -> tuple[Path, Path]:
    """Return the paths of the two tables, after checking the options on the output."""
    for name in ("top", "threads"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise DataError(f"--{name} must be at least 1, got {value}.")
    if (options.threads or 1) > MAX_THREADS:
        raise DataError(f"--threads must be at most {MAX_THREADS}, got {options.threads}.")
    out = options.out or options.run / "recommendations"
    if out.exists() and not out.is_dir():
        raise DataError(f"--out: {out} is a file. Name a folder.")
    if out.resolve() in (options.run.resolve(), options.items.resolve()):
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


def _notes(scorer: Scorer, num_items: int, top: int) -> Iterator[str]:
    trained = int(scorer.trained_users.sum())
    if trained < scorer.num_users:
        untrained = scorer.num_users - trained
        words = (
            ("has", "that user's list is", "the user")
            if untrained == 1
            else ("have", "their lists are", "them")
        )
        yield (
            f"{untrained} of {plural(scorer.num_users, 'user', 'users')} {words[0]} no training "
            f"pair; {words[1]} random (`trained` is false), and no item lists {words[2]}."
        )
    if top > num_items:
        items = plural(num_items, "new item", "new items")
        there = f"there {'is' if num_items == 1 else 'are'} only {items}"
        yield f"--top {top}: {there}, so each user's list is shorter."
    if top > trained:
        users = plural(trained, "user has", "users have")
        yield f"--top {top}: only {users} a training pair, so each item's list is shorter."


# --- the tables -----------------------------------------------------------------------------------


class _Frames:
    """Converts blocks of lists to data frames, with names of users and items if there are any."""

    def __init__(self, scorer: Scorer, items: Items, *, quotes: bool = False) -> None:
        import polars as pl

        self.trained, self.ids = scorer.trained_users.numpy(), items.ids
        names = {"user": scorer.user_names, "item": items.names}
        self.names = {
            kind: pl.Series(_quoted(known) if quotes else known, dtype=pl.String)
            for kind, known in names.items()
            if known is not None
        }

    def of_users(self, best: Best) -> pl.DataFrame:
        """Return a frame with user, user_name, trained, rank, item, item_name, score."""
        users, items = best.rows.numpy(), self.ids[best.indices.numpy()]
        return self._frame("user", users, "item", items, best, {"trained": self.trained[users]})

    def of_items(self, best: Best) -> pl.DataFrame:
        """Return a frame with item, item_name, rank, user, user_name, score."""
        return self._frame(
            "item", self.ids[best.rows.numpy()], "user", best.indices.numpy(), best, {}
        )

    def _frame(
        self,
        owner_kind: str,
        owners: npt.NDArray[np.int64],
        listed_kind: str,
        listed: npt.NDArray[np.int64],
        best: Best,
        further: Mapping[str, npt.NDArray[Any]],
    ) -> pl.DataFrame:
        """Return one row per entry of the lists (owners, length), in the order of the ranks."""
        import polars as pl

        length = listed.shape[1]
        columns: dict[str, Any] = self._named(owner_kind, np.repeat(owners, length))
        columns |= {name: np.repeat(values, length) for name, values in further.items()}
        columns["rank"] = np.tile(np.arange(1, length + 1, dtype=np.int32), len(owners))
        columns |= self._named(listed_kind, listed.ravel())
        columns["score"] = best.scores.numpy().ravel()
        return pl.DataFrame(columns)

    def _named(self, kind: str, ids: npt.NDArray[np.int64]) -> dict[str, Any]:
        known = self.names.get(kind)
        return {kind: ids} if known is None else {kind: ids, f"{kind}_name": known.gather(ids)}


def _quoted(names: Iterable[str]) -> list[str]:
    """Put an apostrophe before names that a spreadsheet would run as formulas.

    A name with an apostrophe of its own gets a second one, so that removing one restores all names.
    """
    return [f"'{name}" if name.startswith(("=", "+", "-", "@", "'")) else name for name in names]


def _write(path: Path, frames: Iterable[pl.DataFrame], kind: str) -> None:
    """Write data frames as one table, without holding all rows in memory."""
    with (_parquet if kind == "parquet" else _tsv)(path) as write:
        for frame in _grouped(frames):
            write(frame)


def _grouped(frames: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """Join small frames, so that a Parquet file has few row groups."""
    import polars as pl

    collected: list[pl.DataFrame] = []
    for frame in frames:
        collected.append(frame)
        if sum(map(len, collected)) >= ROWS_AT_ONCE:
            yield pl.concat(collected)
            collected = []
    if collected:
        yield pl.concat(collected)


@contextmanager
def _parquet(path: Path) -> Iterator[Callable[[pl.DataFrame], None]]:
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    writer: Any = None

    def write(frame: pl.DataFrame) -> None:
        nonlocal writer
        # The writer is created with the first frame because it needs the schema.
        table = frame.to_arrow()
        writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd")
        writer.write_table(table)

    try:
        yield write
    finally:
        if writer is not None:
            writer.close()


@contextmanager
def _tsv(path: Path) -> Iterator[Callable[[pl.DataFrame], None]]:
    with path.open("wb") as file:

        def write(frame: pl.DataFrame) -> None:
            # Names contain neither tabs nor line ends, so no quotes are needed; the readers of
            # names accept none.
            frame.write_csv(
                file, separator="\t", include_header=file.tell() == 0, quote_style="never"
            )

        yield write


if __name__ == "__main__":
    with reporting_errors():
        sys.exit(main())
