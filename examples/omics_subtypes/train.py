"""Compare methods on breast cancer subtypes, where all test patients lack an assay.

    python examples/omics_subtypes/train.py                         # TCGA breast cancer
    python examples/omics_subtypes/train.py --dataset uci_mfeat     # six views of digits

The 150 training patients have micro-RNA, messenger RNA and protein; the 70 test patients lack
protein. The environment variable INVMOD_DATA must name the folder of the data sets; docs/data.md
describes them and their source. The trained methods are in examples/missing_losses.py, the kernel
regressions in examples/missing_kernels.py. They can be imported after `make install` or
`pip install -e .`; otherwise add the folder examples/ to PYTHONPATH.

The command writes table.md, runs.jsonl.gz and calibration.jsonl into `--out`. A study that was
stopped resumes from its runs.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import tyro
from torch import Tensor

from missing_calibration import CalibrationStudy, calibration_table
from missing_kernels import KERNEL_METHODS
from missing_methods import Problem, accuracy, balanced_accuracy
from missing_study import Study, share_of_test_rows
from missing_tables import comparison_tables, summary, table

# With six views a kernel regression has 63 patterns to solve, which takes a minute and a half, so
# one regression on embeddings has to do.
KERNELS = {
    "tcga_breast": tuple(KERNEL_METHODS),
    "uci_mfeat": ("kernel ridge", "kernel ridge on z, validation"),
}
VIEWS = ("fou", "fac", "kar", "pix", "zer", "mor")
ASSAYS = ("mirna", "mrna", "protein")


@dataclass(frozen=True)
class Options:
    """Compare methods on samples with missing modalities."""

    dataset: Literal["tcga_breast", "uci_mfeat"] = "tcga_breast"
    """Data set: breast cancer without protein at test time, or six views of digits."""
    out: Path | None = None
    """Folder of the results; default: docs/results/DATASET."""
    seeds: int = 10
    """Number of splits on which the chosen configurations are trained."""
    epochs: int = 0
    """Number of epochs of every run; 0 means 60 for tcga_breast and 20 for uci_mfeat."""


def load(name: str) -> dict[str, Any]:
    """Read the arrays of a data set.

    Raises:
        SystemExit: INVMOD_DATA is not set, or the file does not exist.
    """
    folder = os.environ.get("INVMOD_DATA")
    if not folder:
        raise SystemExit(
            "error: the environment variable INVMOD_DATA is not set. "
            "Set it to the folder of the data sets."
        )
    path = Path(folder) / name / f"{name}.npz"
    if not path.exists():
        raise SystemExit(
            f"error: there is no file {path}. docs/data.md describes where to find {name}."
        )
    with np.load(path, allow_pickle=False) as arrays:
        return dict(arrays)


def tcga_problem(epochs: int) -> Problem:
    """Read breast cancer subtypes; a split divides the 150 training patients into 100 and 50.

    The 50 are for validation. The 70 test patients are the same in all splits.
    """
    arrays = load("tcga_breast")
    features = {}
    for name in ASSAYS:
        train = torch.tensor(arrays[f"{name}_train"])
        # No array for an assay means that no test patient has it; NaN marks it as missing.
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
    """Read the six views of digits; half of the 2,000 digits are for training."""
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
    results: dict[str, dict[str, Any]], problem: Problem, *, resamples: int = 2000
) -> str:
    """Tabulate balanced accuracy of all test patients, with bootstrap intervals over the patients.

    A resample draws patients with replacement and averages the metric on them over the splits.
    Differences are paired: all methods are evaluated on the same resamples.
    """
    targets = problem.targets[problem.split(0)[2]]
    names = list(results)
    # The first pattern of a run has all modalities of the test patients; a method has an array
    # (splits, patients).
    predicted = {
        method: np.array([next(iter(run["predictions"].values())) for run in entry["runs"]])
        for method, entry in results.items()
    }
    classes, y = targets.unique().numpy(), targets.numpy()
    rng = np.random.default_rng(0)
    # Row 0 of `values` is the estimate on all patients; the other rows are resamples.
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
        difference = values[:, column] - values[:, names.index("ERM")]
        d_low, d_high = np.quantile(difference[1:], [0.025, 0.975])
        cell = "" if method == "ERM" else f"{difference[0]:+.3f} [{d_low:+.3f}, {d_high:+.3f}]"
        lines.append(f"| {method} | {values[0, column]:.3f} [{low:.3f}, {high:.3f}] | {cell} |")
    note = (
        f"The {len(y)} test patients with the two assays that they have; "
        "95% bootstrap intervals over the patients."
    )
    return "\n".join([*lines, "", note]) + "\n"


def _balanced(predicted: Any, y: Any, classes: Any) -> float:
    """Mean balanced accuracy over splits, of predictions (splits, n) for targets y (n,).

    A resample may lack a class, which then does not count.
    """
    correct = predicted == y
    return float(np.mean([correct[:, y == c].mean() for c in classes if (y == c).any()]))


def main(options: Options) -> None:
    """Train the runs that are not stored yet, then write the tables."""
    make = tcga_problem if options.dataset == "tcga_breast" else mfeat_problem
    problem = make(options.epochs)
    out = options.out or Path("docs/results") / options.dataset
    results = Study(
        problem,
        out,
        seeds=options.seeds,
        shown=70 if options.dataset == "tcga_breast" else 0,
        kernels=KERNELS[options.dataset],
    ).run()
    if options.dataset == "tcga_breast":
        caption = (
            f"Balanced accuracy on 70 test patients without protein, {options.seeds} splits; "
            "hidden assays are in addition to protein."
        )
        text = table(summary(results), caption) + "\n" + over_patients(results, problem)
    else:
        text = table(summary(results), f"Accuracy on test digits, {options.seeds} splits.")
    metric = problem.metric.__name__.replace("_", " ")
    text += "\n" + comparison_tables(results, share_of_test_rows(problem), metric)
    config = results["environments"]["config"]
    lines = CalibrationStudy(problem, out, config, seeds=options.seeds).run()
    text += "\n" + calibration_table(lines)
    (out / "table.md").write_text(text, encoding="utf-8")
    print(f"\n{text}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(tyro.cli(Options))
