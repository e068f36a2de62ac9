"""Convert the paper's data sets as published, or your own tables, for `milk-recsys train`.

    milk-recsys prepare table --pairs sales.csv --features image=vectors.parquet \\
        --text title=products.csv:title,brand --out data/shop
    milk-recsys prepare amazon --reviews reviews_Baby_5.json.gz --metadata meta_Baby.json.gz \\
        --images image_features_Baby.b --out data/baby --expect baby
    milk-recsys prepare recbole --folder ml-100k --out data/movies
    milk-recsys prepare items --run runs/shop --table new_products.csv --out new_items

In a checkout `python examples/milk_recsys/prepare.py` is the same command.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

# As a script, this file needs the folder above it on the path to import `milk_recsys`.
if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np

from milk_recsys.base.errors import DataError, OptionError
from milk_recsys.base.terminal import print_error, print_line, reporting_errors
from milk_recsys.catalogue.dataset import Dataset
from milk_recsys.catalogue.importers.amazon import Amazon
from milk_recsys.catalogue.importers.command_line import parse_source
from milk_recsys.catalogue.importers.layouts import Mmrec, Text
from milk_recsys.catalogue.importers.new_items import NewItems
from milk_recsys.catalogue.importers.sources import HM, MovieLens, RecBole
from milk_recsys.catalogue.importers.tables import Table
from milk_recsys.catalogue.importers.write import drafting
from milk_recsys.catalogue.split_file import read_split
from milk_recsys.study.paper import TABLE_1

DataSource = Amazon | Mmrec | Text | Table | RecBole | MovieLens | HM
SOURCES: dict[str, type[DataSource | NewItems]] = {
    "table": Table,
    "amazon": Amazon,
    "recbole": RecBole,
    "movielens": MovieLens,
    "hm": HM,
    "mmrec": Mmrec,
    "text": Text,
    "items": NewItems,
}


def main(argv: Sequence[str] | None = None, *, prog: str = "prepare.py") -> int:
    """Run the command line.

    Returns:
        The exit status of `run_command`. (Options that cannot be parsed exit with status 2 at
        once.)
    """
    args = sys.argv[1:] if argv is None else list(argv)
    return run_command(parse_source(args, SOURCES, prog=prog, description=__doc__))


def run_command(source: DataSource | NewItems) -> int:
    """Write the data set or the new items, check them by reading, and print a summary.

    Returns:
        The exit status: 0 for success, 2 for invalid input, 130 after an interruption.
    """
    try:
        summary = source.write() if isinstance(source, NewItems) else write_dataset(source)
    except (DataError, OptionError) as error:
        print_error(error)
        return 2
    except KeyboardInterrupt:
        print("\ninterrupted; nothing was written", file=sys.stderr)
        return 130
    for line in dict.fromkeys(summary):
        print_line(line)
    return 0


def write_dataset(source: DataSource) -> list[str]:
    """Write a data set; return the lines to print: warnings, notes and a summary."""
    with drafting(
        source.out,
        source.out.name,
        source.describe(),
        keep_filled=source.keep_filled,
        filled=source.filled_by_name,
    ) as draft:
        source.fill(draft)
        # An error while reading, as while writing, removes the temporary folder of the draft.
        dataset = draft.read()
        unknown = draft.filled.keys() - set(dataset.modalities)
        if unknown:
            raise OptionError(f"--filled: {min(unknown)!r} is no modality of the data set.")
        notes = [*draft.notes, *dataset.notes]
        if source.expect:
            notes += compare(dataset, draft.folder, source.expect)
    missing = ", ".join(
        f"{name} {int(n)}"
        for name, n in zip(dataset.modalities, (~dataset.natural_mask).sum(0), strict=True)
    )
    return [
        *(f"warning: {text}" for text in draft.warnings),
        *(f"note: {text}" for text in notes),
        f"{source.out}: {dataset.num_users:,} users, {dataset.num_items:,} items, "
        f"{len(dataset.interactions):,} pairs; missing: {missing}",
    ]


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
    with reporting_errors():
        sys.exit(main())
