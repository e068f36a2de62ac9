"""Summarise the three studies of real data for docs/closed_or_trained.md.

    python examples/closed_or_trained/summary.py

The command reads runs.jsonl.gz of docs/results/digits_quadrants, tcga_breast and uci_mfeat, and
writes docs/results/closed_or_trained_sets/table.md.
"""

import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import tyro

from missing_kernels import ENCODER, KERNEL_METHODS
from missing_methods import METHODS
from missing_study import TUNING_SEEDS
from missing_tables import MEASURES, made_text

SETS = {
    "digits_quadrants": "digits in quadrants, accuracy",
    "tcga_breast": "breast cancer, balanced accuracy",
    "uci_mfeat": "six views of digits, accuracy",
}
Values = dict[str, npt.NDArray[np.float64]]


@dataclass(frozen=True)
class Options:
    """Summarise the stored runs of the three studies."""

    results: Path = Path("docs/results")
    """Folder of the results."""


def measured(path: Path) -> dict[str, Values]:
    """Return method -> name of a measure -> its values on test rows, one per split (10,)."""
    runs = map(json.loads, gzip.decompress(path.read_bytes()).decode().splitlines())
    by_method: dict[str, dict[int, Sequence[float]]] = {}
    for run in runs:
        if run["seed"] not in TUNING_SEEDS:
            values = list(run["test"].values())
            by_method.setdefault(run["method"], {})[run["seed"]] = values
    return {
        method: {
            name: np.array([function(values) for values in splits.values()])
            for name, (_, function) in MEASURES.items()
        }
        for method, splits in by_method.items()
    }


def rows_of(title: str, values: Mapping[str, Values]) -> list[str]:
    """Return the rows of one data set."""
    means = {
        method: {name: float(each.mean()) for name, each in of_method.items()}
        for method, of_method in values.items()
    }
    best = {name: max(means[method][name] for method in METHODS) for name in MEASURES}
    lines = {f"best of {len(METHODS)} trained methods in each column": best}
    # Not every study has all kernel regressions.
    lines |= {method: means[method] for method in (ENCODER, *KERNEL_METHODS) if method in means}
    return [
        f"| {title} | {method} | {' | '.join(f'{line[name]:.3f}' for name in MEASURES)} |"
        for method, line in lines.items()
    ]


def summary_table(results: Path) -> str:
    """Format the means over splits of all data sets as a table in Markdown."""
    titles = [title for title, _ in MEASURES.values()]
    lines = [f"| data | method | {' | '.join(titles)} |", f"|{' --- |' * (2 + len(titles))}"]
    for name, title in SETS.items():
        lines += rows_of(title, measured(results / name / "runs.jsonl.gz"))
    note = (
        "Means over ten splits. Made from the results files by "
        f"`python examples/closed_or_trained/summary.py`, {made_text()}."
    )
    return "\n".join([*lines, "", note]) + "\n"


def main(options: Options) -> None:
    """Write and print the table."""
    path = options.results / "closed_or_trained_sets" / "table.md"
    path.parent.mkdir(exist_ok=True)
    text = summary_table(options.results)
    path.write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    main(tyro.cli(Options))
