"""Controlled experiments: a kernel regression in closed form, or a trained model?

    python examples/closed_or_trained/train.py labels    # features made with the training labels
    python examples/closed_or_trained/train.py clusters  # several rows of each patient
    python examples/closed_or_trained/train.py size      # 50 to 900 training rows
    python examples/closed_or_trained/train.py missing   # cells of training rows are missing
    python examples/closed_or_trained/train.py images    # raw pictures, in which things move

Each takes less than five minutes on one core. The trained model is the classifier of
examples/missing_losses.py with the method "environments", whose six configurations are compared on
the validation rows of each split. The command writes table.md and experiment.jsonl into
docs/results/closed_or_trained_STUDY. A study that was stopped resumes from its runs.
"""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
import torch
import tyro

from closed_or_trained import problems
from missing_kernels import ENCODER, Predict, fit_regression, unchanged
from missing_methods import METHODS, Problem, train
from missing_study import measure
from missing_tables import by_number_hidden, half_width, made_text, pair

# --- the ways -------------------------------------------------------------------------------------


class Fitted(NamedTuple):
    """A fitted way.

    Attributes:
        predict: a function from features and mask to probabilities (N, C).
        trials: number of configurations that were compared on validation rows.
        seconds: CPU time of all trials and of the fit.
    """

    predict: Predict
    trials: int
    seconds: float


class Repetition:
    """A problem with one split, and the model that is trained on it."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem

    @cached_property
    def trained(self) -> Fitted:
        """The best configuration of `ENCODER` on the validation rows.

        Every repetition has data of its own, so all trainings have the same seed.
        """
        start = time.process_time()
        models = [train(self.problem, ENCODER, config, 0) for config in METHODS[ENCODER]]
        validation = self.problem.split(0)[1]
        scores = [
            np.mean([r.value for r in measure(self.problem, model, validation)]) for model in models
        ]
        best = models[int(np.argmax(scores))]
        return Fitted(best, len(models), time.process_time() - start)


def trained(repetition: Repetition) -> Fitted:
    """Train a model."""
    return repetition.trained


def regression(repetition: Repetition, **options: Any) -> Fitted:
    """Fit a kernel regression on features."""
    start = time.process_time()
    predict = fit_regression(repetition.problem, 0, unchanged, **options)
    return Fitted(predict, 0, time.process_time() - start)


def on_embeddings(repetition: Repetition, **options: Any) -> Fitted:
    """Fit a kernel regression on the embeddings of the trained model."""
    model, trials, seconds = repetition.trained
    start = time.process_time()
    predict = fit_regression(repetition.problem, 0, model.embeddings, **options)
    return Fitted(predict, trials, seconds + time.process_time() - start)


Fit = Callable[[Repetition], Fitted]
VALIDATED = partial(regression, validation=True)


@dataclass(frozen=True)
class Experiment:
    """A controlled experiment.

    Arguments:
        levels: name of a level -> function that makes the problem of a repetition.
        ways: name of a way -> function that fits it to a problem.
        repetitions: number of repetitions.
    """

    levels: Mapping[str, Callable[[int], Problem]]
    ways: Mapping[str, Fit]
    repetitions: int = 5


EXPERIMENTS = {
    "labels": Experiment(
        {"": problems.labels},
        {
            ENCODER: trained,
            "kernel ridge": regression,
            "kernel ridge, equal weights": partial(regression, weights="equal"),
            "kernel ridge, validation": VALIDATED,
        },
    ),
    "clusters": Experiment(
        {"": problems.clusters},
        {
            ENCODER: trained,
            "kernel ridge": regression,
            "kernel ridge, groups": partial(regression, groups=problems.group_numbers()),
            "kernel ridge, validation": VALIDATED,
        },
        repetitions=10,
    ),
    "size": Experiment(
        {f"{n} rows": partial(problems.size, num_rows=n) for n in (50, 100, 200, 400, 900)},
        {ENCODER: trained, "kernel ridge": regression},
        repetitions=3,
    ),
    "missing": Experiment(
        {f"{rate:.0%} missing": partial(problems.missing, rate=rate) for rate in (0.0, 0.3, 0.6)},
        {
            ENCODER: trained,
            "kernel ridge": regression,
            "kernel ridge, complete rows": partial(regression, rows="superset"),
        },
        repetitions=3,
    ),
    "images": Experiment(
        {"": problems.images},
        {
            ENCODER: trained,
            "kernel ridge": regression,
            "kernel ridge on z": on_embeddings,
            "kernel ridge on z, validation": partial(on_embeddings, validation=True),
        },
        repetitions=3,
    ),
}


# --- runs and tables ------------------------------------------------------------------------------


def run(experiment: Experiment, path: Path) -> list[dict[str, Any]]:
    """Fit all ways that are not stored yet, and append each to the file of runs."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    # The last line may have been cut short when the command was stopped.
    complete = text[: text.rfind("\n") + 1]
    path.write_text(complete, encoding="utf-8")
    stored = {key(line): line for line in map(json.loads, complete.splitlines())}
    lines = []
    for level, make in experiment.levels.items():
        for repetition in range(experiment.repetitions):
            problem = Repetition(make(repetition))
            for way, fit in experiment.ways.items():
                line = {"level": level, "way": way, "repetition": repetition}
                if key(line) not in stored:
                    stored[key(line)] = line | fitted(problem, fit)
                    with path.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(stored[key(line)]) + "\n")
                lines.append(stored[key(line)])
    return lines


def key(line: Mapping[str, Any]) -> tuple[str, str, int]:
    """Identify a run."""
    return line["level"], line["way"], line["repetition"]


def fitted(repetition: Repetition, fit: Fit) -> dict[str, Any]:
    """Fit one way; return its metric by pattern, number of trials, and seconds."""
    predict, trials, seconds = fit(repetition)
    # A kernel regression solves a pattern when it meets it first, which belongs to the fit.
    start = time.process_time()
    results = measure(repetition.problem, predict, repetition.problem.split(0)[2])
    seconds += time.process_time() - start
    test = {r.name: r.value for r in results}
    return {"test": test, "trials": trials, "seconds": round(seconds, 2)}


def results_table(experiment: Experiment, lines: list[dict[str, Any]], command: str) -> str:
    """Format the means over repetitions as a table in Markdown."""
    several = len(experiment.levels) > 1
    counts = list(by_number_hidden(lines[0]["test"]))
    names = list(lines[0]["test"])
    # With two modalities the patterns themselves are shown.
    few = len(names) == 3
    titles = names if few else [*(f"{c} hidden" if c else "complete" for c in counts), "worst"]
    header = [*(["training rows"] if several else []), "method", *titles]
    header += [f"{titles[0]}, against {ENCODER}", "trials", "seconds"]
    rows = [f"| {' | '.join(header)} |", f"|{' --- |' * len(header)}"]
    for level in experiment.levels:
        baseline: list[float] = []
        for way in experiment.ways:
            of_way = [x for x in lines if x["level"] == level and x["way"] == way]
            if few:
                columns = [[x["test"][name] for x in of_way] for name in names]
            else:
                hidden = [by_number_hidden(x["test"]) for x in of_way]
                columns = [[h[count] for h in hidden] for count in counts]
                columns.append([min(x["test"].values()) for x in of_way])
            baseline = baseline or columns[0]  # the first way is `ENCODER`
            difference = np.subtract(columns[0], baseline)
            cells = [*([level] if several else []), way]
            cells += [pair((float(np.mean(column)), half_width(column))) for column in columns]
            mean = float(difference.mean()), half_width(difference)
            cells.append("" if way == ENCODER else pair(mean, signed=True))
            seconds = float(np.mean([x["seconds"] for x in of_way]))
            cells += [str(of_way[0]["trials"]), f"{seconds:.1f}"]
            rows.append(f"| {' | '.join(cells)} |")
    note = (
        f"Accuracy on test rows, means over {experiment.repetitions} repetitions ± half of a 95% t "
        "interval; differences are paired. Trials: number of configurations that were compared on "
        "validation rows. Seconds: CPU time of all trials, the fit, and the predictions of all "
        f"patterns. Made by `{command}`, {made_text()}."
    )
    return "\n".join([*rows, "", note]) + "\n"


@dataclass(frozen=True)
class Options:
    """Compare a kernel regression with a trained model in a controlled experiment."""

    study: Annotated[
        Literal["labels", "clusters", "size", "missing", "images"], tyro.conf.Positional
    ]
    """Experiment: features made with labels, rows in clusters, size of data, missing cells, or
    raw pictures."""
    out: Path | None = None
    """Folder of the results; default: docs/results/closed_or_trained_STUDY."""


def main(options: Options) -> None:
    """Fit the ways that are not stored yet, then write the table."""
    out = options.out or Path(f"docs/results/closed_or_trained_{options.study}")
    out.mkdir(parents=True, exist_ok=True)
    experiment = EXPERIMENTS[options.study]
    lines = run(experiment, out / "experiment.jsonl")
    command = f"python examples/closed_or_trained/train.py {options.study}"
    text = results_table(experiment, lines, command)
    (out / "table.md").write_text(text, encoding="utf-8")
    print(text)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(tyro.cli(Options))
