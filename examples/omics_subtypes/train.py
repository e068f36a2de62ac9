"""Subtypes of breast cancer from three assays, of which test patients have two: seven ways to train, tuned alike.

    python examples/omics_subtypes/train.py                         # TCGA breast cancer
    python examples/omics_subtypes/train.py --dataset uci_mfeat     # six views of handwritten digits

150 training patients have micro-RNA, messenger RNA and protein; none of the 70 test patients has protein. The data are
found in the folder named by the environment variable INVMOD_DATA; docs/data.md says where they come from and what is
in them. The ways to train are in examples/missing_study.py. Writes table.md and the runs into `--out`; a study that was
stopped goes on where it was.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from torch import Tensor

from missing_study import Problem, Study, accuracy, balanced_accuracy, summary, table

VIEWS = ("fou", "fac", "kar", "pix", "zer", "mor")
ASSAYS = ("mirna", "mrna", "protein")


@dataclass(frozen=True)
class Options:
    """Compare ways to train where a modality is missing from all test samples."""

    dataset: Literal["tcga_breast", "uci_mfeat"] = "tcga_breast"
    """Which data set."""
    out: Path | None = None
    """Folder of the study; docs/results/DATASET where not given."""
    seeds: int = 10
    """Splits on which the chosen configurations are trained."""
    epochs: int = 0
    """Epochs of every training; 60 for tcga_breast and 20 for uci_mfeat where 0."""


def load(name: str) -> dict[str, Any]:
    """The arrays of a data set.

    Raises:
        SystemExit: the data are not there; says what to do.
    """
    folder = os.environ.get("INVMOD_DATA")
    if not folder:
        raise SystemExit(
            "error: the environment variable INVMOD_DATA is not set. Set it to the folder of data sets."
        )
    path = Path(folder) / name / f"{name}.npz"
    if not path.exists():
        raise SystemExit(
            f"error: there is no file {path}. docs/data.md says where {name} comes from."
        )
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def tcga_problem(epochs: int) -> Problem:
    """100 of the 150 training patients for training, 50 for validation; the 70 test patients are always the same."""
    arrays = load("tcga_breast")
    features = {}
    for name in ASSAYS:
        train = torch.tensor(arrays[f"{name}_train"])
        test = torch.full((70, train.shape[1]), torch.nan)
        if f"{name}_test" in arrays:
            test = torch.tensor(arrays[f"{name}_test"])
        features[name] = torch.cat([train, test])

    def split(seed: int) -> tuple[Tensor, Tensor, Tensor]:
        order = torch.randperm(150, generator=torch.Generator().manual_seed(1000 + seed))
        return order[:100], order[100:], torch.arange(150, 220)

    targets = torch.tensor(np.concatenate([arrays["label_train"], arrays["label_test"]]))
    return Problem("tcga_breast", features, targets, split, balanced_accuracy, epochs or 60)


def mfeat_problem(epochs: int) -> Problem:
    """Half of the 2,000 digits for training, a quarter each for validation and test."""
    arrays = load("uci_mfeat")

    def split(seed: int) -> tuple[Tensor, Tensor, Tensor]:
        order = torch.randperm(2000, generator=torch.Generator().manual_seed(1000 + seed))
        train, validation, test = order.tensor_split([1000, 1500])
        return train, validation, test

    features = {name: torch.tensor(arrays[name]) for name in VIEWS}
    return Problem(
        "uci_mfeat", features, torch.tensor(arrays["label"]), split, accuracy, epochs or 20
    )


def over_patients(
    found: dict[str, dict[str, Any]], problem: Problem, *, resamples: int = 2000
) -> str:
    """Balanced accuracy of all test patients as they are, with bootstrap intervals over the patients.

    A resample draws patients, and takes the mean over the splits of the metric on them; differences are paired.
    """
    targets = problem.targets[problem.split(0)[2]]
    names = list(found)
    predicted = {
        method: np.array([next(iter(run["predictions"].values())) for run in entry["runs"]])
        for method, entry in found.items()
    }
    classes, y = targets.unique().numpy(), targets.numpy()
    rng = np.random.default_rng(0)
    draws = [np.arange(len(y)), *(rng.integers(len(y), size=len(y)) for _ in range(resamples))]
    values = np.array(
        [
            [_balanced(predicted[method][:, rows], y[rows], classes) for method in names]
            for rows in draws
        ]
    )
    lines = ["| method | balanced accuracy | against ERM |", "| --- | --- | --- |"]
    for column, method in enumerate(names):
        low, high = np.quantile(values[1:, column], [0.025, 0.975])
        shift = values[:, column] - values[:, names.index("ERM")]
        d_low, d_high = np.quantile(shift[1:], [0.025, 0.975])
        against = "" if method == "ERM" else f"{shift[0]:+.3f} [{d_low:+.3f}, {d_high:+.3f}]"
        lines.append(f"| {method} | {values[0, column]:.3f} [{low:.3f}, {high:.3f}] | {against} |")
    note = f"The {len(y)} test patients with the two assays that they have; 95% bootstrap intervals over the patients."
    return "\n".join([*lines, "", note]) + "\n"


def _balanced(predicted: Any, y: Any, classes: Any) -> float:
    right = predicted == y
    return float(np.mean([right[:, y == c].mean() for c in classes if (y == c).any()]))


def main(options: Options) -> None:
    """Run what is missing, and write the tables."""
    make = tcga_problem if options.dataset == "tcga_breast" else mfeat_problem
    problem = make(options.epochs)
    out = options.out or Path("docs/results") / options.dataset
    found = Study(
        problem, out, seeds=options.seeds, shown=70 if options.dataset == "tcga_breast" else 0
    ).run()
    if options.dataset == "tcga_breast":
        what = f"Balanced accuracy on 70 test patients without protein, {options.seeds} splits; hidden besides protein."
        text = table(summary(found), what) + "\n" + over_patients(found, problem)
    else:
        text = table(summary(found), f"Accuracy on test digits, {options.seeds} splits.")
    (out / "table.md").write_text(text, encoding="utf-8")
    print(f"\n{text}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(tyro.cli(Options))
