"""Compare methods on digits whose quadrants may be missing, on ten splits.

    python examples/digits_quadrants/train.py             # about 25 minutes on one core
    python examples/digits_quadrants/train.py --seeds 2   # fewer splits

scikit-learn's 1,797 digits of 8 by 8 pixels are cut into four quadrants, which are the modalities.
Any of them may be hidden from a trained model. The trained methods are in
examples/missing_losses.py, the kernel regressions in examples/missing_kernels.py. They can be
imported after `make install` or `pip install -e .`; otherwise add the folder examples/ to
PYTHONPATH.

The command writes table.md, digits.png, runs.jsonl.gz and calibration.jsonl into `--out`. A study
that was stopped resumes from its runs.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
import tyro
from sklearn.datasets import load_digits
from torch import Tensor

from invmod.missingness import pattern_name
from invmod.robustness.document import figure_png
from missing_calibration import CalibrationStudy, calibration_table
from missing_methods import Problem, accuracy
from missing_study import Study, share_of_test_rows
from missing_tables import comparison_tables, summary, table

QUADRANTS = {
    "top left": (slice(0, 4), slice(0, 4)),
    "top right": (slice(0, 4), slice(4, 8)),
    "bottom left": (slice(4, 8), slice(0, 4)),
    "bottom right": (slice(4, 8), slice(4, 8)),
}


@dataclass(frozen=True)
class Options:
    """Compare methods on digits whose quadrants may be hidden."""

    out: Path = Path("docs/results/digits_quadrants")
    """Folder of the results."""
    seeds: int = 10
    """Number of splits on which the chosen configurations are trained."""
    epochs: int = 40
    """Number of epochs of every run."""


def digits_problem(epochs: int) -> Problem:
    """Cut the digits into quadrants; half of them are for training."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32) / 16

    def split(seed: int) -> tuple[Tensor, Tensor, Tensor]:
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(1000 + seed))
        train, validation, test = order.tensor_split([900, 1350])
        return train, validation, test

    return Problem(
        name="digits_quadrants",
        features={
            name: images[:, rows, columns].flatten(1) for name, (rows, columns) in QUADRANTS.items()
        },
        targets=torch.tensor(digits.target),
        split=split,
        metric=accuracy,
        epochs=epochs,
    )


def draw(results: dict[str, dict[str, Any]], problem: Problem, path: Path) -> None:
    """Draw test digits of the first split under hidden quadrants, with the methods' predictions.

    For each pattern the picture shows one of the first eight test digits: the one that the fewest
    methods, but at least one, predict correctly. So the picture shows differences between methods
    and not their accuracies.
    """
    from matplotlib import pyplot as plt

    names = tuple(problem.features)
    patterns = [
        (1, 1, 1, 1),
        (0, 1, 1, 1),
        (1, 1, 0, 1),
        (0, 1, 1, 0),
        (0, 0, 1, 1),
        (1, 0, 0, 0),
        (0, 0, 0, 1),
    ]
    test = problem.split(0)[2]
    # In inches: a digit is about 1.2 high, and a line of predictions 0.16.
    height = 1.75 + 0.16 * len(results)
    figure, axes = plt.subplots(1, len(patterns), figsize=(10, height))
    for column, (ax, pattern) in enumerate(zip(axes, patterns, strict=True)):
        key = pattern_name([bool(available) for available in pattern], names)
        predictions = {
            method: entry["runs"][0]["predictions"][key] for method, entry in results.items()
        }
        num_correct = [
            sum(classes[row] == int(problem.targets[test[row]]) for classes in predictions.values())
            for row in range(len(predictions["ERM"]))
        ]
        # A digit that no method predicts correctly comes last in the order.
        row = min(range(len(num_correct)), key=lambda row: num_correct[row] or len(predictions) + 1)
        image = torch.full((8, 8), torch.nan)  # NaN pixels show the background of the axes
        for available, (name, (rows, columns)) in zip(pattern, QUADRANTS.items(), strict=True):
            if available:
                image[rows, columns] = problem.features[name][test[row]].reshape(4, 4)
        ax.imshow(image.numpy(), cmap="gray_r", vmin=0, vmax=1)
        ax.set_facecolor("#f0d9b5")
        truth = int(problem.targets[test[row]])
        ax.set_title(f"a {truth}", fontsize=9)
        ax.set(xticks=[], yticks=[])
        for line, (method, classes) in enumerate(predictions.items()):
            predicted = classes[row]
            ax.text(
                0.5,
                -0.14 - 0.13 * line,
                str(predicted),
                transform=ax.transAxes,
                ha="center",
                va="center",
                fontsize=9,
                color="black" if predicted == truth else "#c0392b",
                fontweight="normal" if predicted == truth else "bold",
            )
            if column == 0:
                ax.text(
                    -0.25,
                    -0.14 - 0.13 * line,
                    method,
                    transform=ax.transAxes,
                    ha="right",
                    va="center",
                    fontsize=9,
                )
    figure.subplots_adjust(
        left=0.22, right=0.99, bottom=1 - 1.45 / height, top=1 - 0.2 / height, wspace=0.12
    )
    with mpl.rc_context({"savefig.bbox": "tight"}):
        path.write_bytes(figure_png(figure))
    plt.close(figure)


def main(options: Options) -> None:
    """Train the runs that are not stored yet, then write the table and the picture."""
    problem = digits_problem(options.epochs)
    results = Study(problem, options.out, seeds=options.seeds).run()
    text = table(summary(results), f"Accuracy on test digits, {options.seeds} splits.")
    text += "\n" + comparison_tables(results, share_of_test_rows(problem), "accuracy")
    config = results["environments"]["config"]
    lines = CalibrationStudy(problem, options.out, config, seeds=options.seeds).run()
    text += "\n" + calibration_table(lines)
    (options.out / "table.md").write_text(text, encoding="utf-8")
    draw(results, problem, options.out / "digits.png")
    print(f"\n{text}\nThe picture is {options.out / 'digits.png'}.")


if __name__ == "__main__":
    torch.set_num_threads(1)
    mpl.use("agg")
    main(tyro.cli(Options))
