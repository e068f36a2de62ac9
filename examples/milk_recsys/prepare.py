"""Convert the paper's data sets as published, or your own tables, for `milk-recsys train`.

    milk-recsys prepare amazon --reviews reviews_Baby_5.json.gz --metadata meta_Baby.json.gz \
        --images image_features_Baby.b --out data/baby --expect baby
    milk-recsys prepare mmrec --folder baby --out data/baby
    milk-recsys prepare text --folder Baby --out data/baby
    milk-recsys prepare table --pairs sales.parquet --features image=vectors.parquet --out data/shop

In a checkout `python examples/milk_recsys/prepare.py` is the same command.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

# As a script, this file needs the folder above it on the path to import `milk_recsys`.
if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import tyro

from milk_recsys.base.errors import DataError
from milk_recsys.catalogue.dataset import Dataset
from milk_recsys.catalogue.importers.amazon import prepare_amazon
from milk_recsys.catalogue.importers.layouts import prepare_mmrec, prepare_text
from milk_recsys.catalogue.importers.tables import prepare_table
from milk_recsys.catalogue.importers.write import Draft, drafting
from milk_recsys.catalogue.split import read_split
from milk_recsys.config.options import DataOptions, OptionError, Options, validate
from milk_recsys.study.paper import TABLE_1

Expected = Literal["baby", "clothing", "tiktok"]


@dataclasses.dataclass(frozen=True)
class Amazon:
    """Amazon product data of 2014: reviews, metadata, visual features."""

    reviews: Path
    """File reviews_*_5.json.gz."""
    metadata: Path
    """File meta_*.json.gz."""
    out: Path
    """Folder for the data set; it must not exist yet."""
    images: Path | None = None
    """File image_features_*.b; by default the data set has only text."""
    encoder: Path | None = None
    """Folder of a local sentence encoder; by default, TF-IDF and an SVD are fitted."""
    text_dim: int = 384
    """Width of the text features from the SVD."""
    split_seed: int = 0
    """Seed of the split on whose warm items the text features are fitted."""
    setting: Literal["ftft", "ftmt", "mtmt"] = "ftmt"
    """Setting of that split."""
    keep_filled: bool = False
    """Keep rows that were probably filled in, instead of marking them as missing."""
    expect: Expected | None = None
    """Compare the counts with the paper's Table 1."""


@dataclasses.dataclass(frozen=True)
class Mmrec:
    """Data set in MMRec's layout: one .inter file, image_feat.npy, text_feat.npy."""

    folder: Path
    """Folder with the files."""
    out: Path
    """Folder for the data set; it must not exist yet."""
    keep_filled: bool = False
    """Keep rows that were probably filled in, instead of marking them as missing."""
    expect: Expected | None = None
    """Compare the counts with the paper's Table 1."""


@dataclasses.dataclass(frozen=True)
class Text:
    """Text files train.txt, val.txt, test.txt with lines `user item item ...`, and *_feat.npy."""

    folder: Path
    """Folder with the files."""
    out: Path
    """Folder for the data set; it must not exist yet."""
    split: Literal["keep", "draw"] = "keep"
    """Split of new items: keep that of the files, or let train.py draw one."""
    keep_filled: bool = False
    """Keep rows that were probably filled in, instead of marking them as missing."""
    expect: Expected | None = None
    """Compare the counts with the paper's Table 1."""


@dataclasses.dataclass(frozen=True)
class Table:
    """Pairs in a CSV or Parquet table with ids of any type, and features in other files."""

    pairs: Path
    """Table with a column of users and one of items."""
    features: tuple[str, ...]
    """NAME=FILE for each modality: a table with item ids and numbers, or .npy with --item-ids."""
    out: Path
    """Folder for the data set; it must not exist yet."""
    user_column: str = "user"
    """Name of the column of users."""
    item_column: str = "item"
    """Name of the column of items, in all tables."""
    item_ids: Path | None = None
    """Text file with the item id of each row of the .npy files."""
    keep_filled: bool = False
    """Keep rows that were probably filled in, instead of marking them as missing."""
    expect: Expected | None = None
    """Compare the counts with the paper's Table 1."""


Source = (
    Annotated[Amazon, tyro.conf.subcommand("amazon")]
    | Annotated[Mmrec, tyro.conf.subcommand("mmrec")]
    | Annotated[Text, tyro.conf.subcommand("text")]
    | Annotated[Table, tyro.conf.subcommand("table")]
)


def main(argv: Sequence[str] | None = None, *, prog: str = "prepare.py") -> int:
    """Run the command line.

    Returns:
        The exit status of `run_command`. (Options that cannot be parsed exit with status 2 at
        once.)
    """
    args = sys.argv[1:] if argv is None else list(argv)
    return run_command(tyro.cli(Source, args=args, prog=prog, description=__doc__))


def run_command(source: Amazon | Mmrec | Text | Table) -> int:
    """Write the data set, check it by reading it, and print a summary.

    Returns:
        The exit status: 0 for success, 2 for invalid input, 130 after an interruption.
    """
    try:
        with drafting(
            source.out, source.out.name, describe(source), keep_filled=source.keep_filled
        ) as draft:
            fill(draft, source)
            # An error while reading, as while writing, removes the temporary folder of the draft.
            dataset = draft.read()
            notes = [*draft.notes, *dataset.notes]
            if source.expect:
                notes += compare(dataset, draft.folder, source.expect)
    except (DataError, OptionError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted; nothing was written", file=sys.stderr)
        return 130
    for note in dict.fromkeys(notes):
        print(f"note: {note}")
    missing = ", ".join(
        f"{name} {int(n)}"
        for name, n in zip(dataset.modalities, (~dataset.natural_mask).sum(0), strict=True)
    )
    print(
        f"{source.out}: {dataset.num_users:,} users, {dataset.num_items:,} items, "
        f"{len(dataset.interactions):,} pairs; missing: {missing}"
    )
    return 0


def fill(draft: Draft, source: Amazon | Mmrec | Text | Table) -> None:
    """Write the data set of a source into a draft."""
    if isinstance(source, Amazon):
        options = DataOptions(split_seed=source.split_seed, setting=source.setting)
        validate(Options(data=options))
        if source.text_dim < 1:
            raise OptionError(f"--text-dim must be at least 1, got {source.text_dim}.")
        files = (source.reviews, source.metadata, source.images)
        prepare_amazon(
            draft, *files, options=options, text_dim=source.text_dim, encoder=source.encoder
        )
    elif isinstance(source, Mmrec):
        prepare_mmrec(draft, source.folder)
    elif isinstance(source, Text):
        prepare_text(draft, source.folder, keep_split=source.split == "keep")
    else:
        prepare_table(
            draft,
            source.pairs,
            features_of(source.features),
            user_column=source.user_column,
            item_column=source.item_column,
            item_ids=source.item_ids,
        )


def features_of(given: tuple[str, ...]) -> dict[str, Path]:
    """Parse NAME=FILE arguments into modality -> file."""
    files: dict[str, Path] = {}
    for word in given:
        # The name becomes part of a file name, so it must not contain a slash.
        name, mark, file = word.partition("=")
        name = name.strip()
        if not (name and mark and file) or "/" in name or name in files:
            raise OptionError(f"--features must be NAME=FILE, each name once, got {word!r}.")
        files[name] = Path(file)
    if not files:
        raise OptionError("--features is needed: NAME=FILE for at least one modality.")
    return files


def describe(source: Amazon | Mmrec | Text | Table) -> str:
    """Return the source of a data set, for its manifest."""
    if isinstance(source, Amazon):
        return f"prepare.py amazon: {source.reviews.name}, {source.metadata.name}"
    if isinstance(source, Table):
        return f"prepare.py table: {source.pairs.name}"
    return f"prepare.py {type(source).__name__.lower()}: {source.folder.name}"


def compare(dataset: Dataset, folder: Path, expect: str) -> list[str]:
    """Return notes that compare counts with the paper's Table 1.

    With a kept split, these are the users, items and interactions of each part; else only the
    number of items.
    """
    stated = TABLE_1[expect]
    pairs = np.asarray(dataset.interactions)
    if (folder / "split.npz").exists():
        split, _ = read_split(folder / "split.npz", dataset, "mtmt")
        parts = {"train": split.warm, "validation": split.validation, "test": split.test}
        comparisons = {}
        for part, items in parts.items():
            part_pairs = pairs[np.isin(pairs[:, 1], items)]
            counts = (len(np.unique(part_pairs[:, 0])), len(items), len(part_pairs))
            for label, count, paper in zip(
                ("users", "items", "interactions"), counts, stated[part], strict=True
            ):
                # The paper does not state every count.
                if paper:
                    comparisons[f"{part} {label}"] = (count, paper)
    else:
        comparisons = {
            "items": (
                int((dataset.item_counts > 0).sum()),
                sum(counts[1] for counts in stated.values()),
            )
        }
    return [
        f"{label}: {count:,}, {'as' if count == paper else f'but {paper:,}'} in the paper's "
        f"Table 1 ({expect})."
        for label, (count, paper) in comparisons.items()
    ]


if __name__ == "__main__":
    sys.exit(main())
