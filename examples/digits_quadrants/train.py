"""Digits of which quadrants may be hidden: seven ways to train, tuned alike, on ten splits.

    python examples/digits_quadrants/train.py             # the whole study, some ten minutes on one core
    python examples/digits_quadrants/train.py --seeds 2   # less of it

scikit-learn's 1,797 digits of 8 by 8 pixels are cut into four quadrants, the modalities; any of them may be hidden from
a trained model. The ways to train are in examples/missing_study.py. Writes table.md, digits.png and the runs into
`--out`; a study that was stopped goes on where it was.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
import tyro
from sklearn.datasets import load_digits
from torch import Tensor

from missing_study import Problem, Study, accuracy, summary, table  # isort: skip

import invmod
from invmod.robustness.document import figure_png

QUADRANTS = {
    "top left": (slice(0, 4), slice(0, 4)),
    "top right": (slice(0, 4), slice(4, 8)),
    "bottom left": (slice(4, 8), slice(0, 4)),
    "bottom right": (slice(4, 8), slice(4, 8)),
}


@dataclass(frozen=True)
class Options:
    """Compare ways to train on digits whose quadrants may be hidden."""

    out: Path = Path("docs/results/digits_quadrants")
    """Folder of the study."""
    seeds: int = 10
    """Splits on which the chosen configurations are trained."""
    epochs: int = 40
    """Epochs of every training."""


def digits_problem(epochs: int) -> Problem:
    """The data, cut; half of it for training, a quarter each for validation and test."""
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


def draw(found: dict[str, dict[str, Any]], problem: Problem, path: Path) -> None:
    """Test digits of the first split under hidden quadrants, with what each way of training says of them.

    Under each pattern that digit is shown, of the first eight, on which the fewest ways are right but some are; so the
    picture shows differences, not rates.
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
    figure, axes = plt.subplots(1, len(patterns), figsize=(9, 2.9))
    for column, (ax, pattern) in enumerate(zip(axes, patterns, strict=True)):
        key = invmod.pattern_name([bool(there) for there in pattern], names)
        predicted = {
            method: entry["runs"][0]["predictions"][key] for method, entry in found.items()
        }
        right = [
            sum(
                of_method[row] == int(problem.targets[test[row]])
                for of_method in predicted.values()
            )
            for row in range(len(predicted["ERM"]))
        ]
        row = min(range(len(right)), key=lambda row: right[row] or len(predicted) + 1)
        image = torch.full((8, 8), torch.nan)
        for there, (name, (rows, columns)) in zip(pattern, QUADRANTS.items(), strict=True):
            if there:
                image[rows, columns] = problem.features[name][test[row]].reshape(4, 4)
        ax.imshow(image.numpy(), cmap="gray_r", vmin=0, vmax=1)
        ax.set_facecolor("#f0d9b5")
        truth = int(problem.targets[test[row]])
        ax.set_title(f"a {truth}", fontsize=9)
        ax.set(xticks=[], yticks=[])
        for line, (method, of_method) in enumerate(predicted.items()):
            answer = of_method[row]
            ax.text(
                0.5,
                -0.14 - 0.13 * line,
                str(answer),
                transform=ax.transAxes,
                ha="center",
                va="center",
                fontsize=9,
                color="black" if answer == truth else "#c0392b",
                fontweight="normal" if answer == truth else "bold",
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
    figure.subplots_adjust(left=0.14, right=0.99, bottom=0.4, top=0.93, wspace=0.12)
    with mpl.rc_context({"savefig.bbox": "tight"}):
        path.write_bytes(figure_png(figure))
    plt.close(figure)


def main(options: Options) -> None:
    """Run what is missing, and write the table and the picture."""
    problem = digits_problem(options.epochs)
    found = Study(problem, options.out, seeds=options.seeds).run()
    text = table(summary(found), f"Accuracy on test digits, {options.seeds} splits.")
    (options.out / "table.md").write_text(text, encoding="utf-8")
    draw(found, problem, options.out / "digits.png")
    print(f"\n{text}\nThe picture is {options.out / 'digits.png'}.")


if __name__ == "__main__":
    torch.set_num_threads(1)
    mpl.use("agg")
    main(tyro.cli(Options))
