"""Controlled experiments: a kernel regression in closed form, or a trained model?

    python examples/closed_or_trained/train.py labels    # features made with the training labels
    python examples/closed_or_trained/train.py clusters  # several rows of each patient
    python examples/closed_or_trained/train.py size      # 50 to 900 training rows
    python examples/closed_or_trained/train.py missing   # cells of training rows are missing
    python examples/closed_or_trained/train.py informative  # the class decides what is missing
    python examples/closed_or_trained/train.py images    # raw pictures, in which things move

Each takes less than five minutes on one core. The trained model is the classifier of
examples/missing_losses.py with the method "environments", whose six configurations are compared on
the validation rows of each split. The command writes table.md and experiment.jsonl into
docs/results/closed_or_trained_STUDY. A study that was stopped resumes from its runs.
"""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch
import tyro

from closed_or_trained.experiments import EXPERIMENTS, Experiment, Fit, Repetition
from invmod.missingness import mask_from_features
from missing_kernels import ENCODER
from missing_study import measure
from missing_tables import by_number_hidden, half_width, made_text, pair


def run(experiment: Experiment, path: Path) -> list[dict[str, Any]]:
    """Fit all methods that are not stored yet, and append each to the file of runs."""
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    # The last line may have been cut short when the command was stopped.
    complete = text[: text.rfind("\n") + 1]
    path.write_text(complete, encoding="utf-8")
    stored = {key(line): line for line in map(json.loads, complete.splitlines())}
    lines = []
    for level, make in experiment.levels.items():
        for repetition in range(experiment.repetitions):
            problem = Repetition(make(repetition))
            for method, fit in experiment.methods.items():
                line = {"level": level, "method": method, "repetition": repetition}
                if key(line) not in stored:
                    stored[key(line)] = line | fitted(
                        problem, fit, as_they_are=experiment.as_they_are
                    )
                    with path.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(stored[key(line)]) + "\n")
                lines.append(stored[key(line)])
    return lines


def key(line: Mapping[str, Any]) -> tuple[str, str, int]:
    """Identify a run."""
    return line["level"], line["method"], line["repetition"]


def fitted(repetition: Repetition, fit: Fit, *, as_they_are: bool) -> dict[str, Any]:
    """Fit one method; return its metric by pattern, number of trials, and seconds."""
    predict, trials, seconds = fit(repetition)
    problem = repetition.problem
    rows = problem.split(0)[2]
    # A kernel regression solves a pattern when it meets it first, which belongs to the fit.
    start = time.process_time()
    if as_they_are:
        features = {name: x[rows] for name, x in problem.features.items()}
        probabilities = predict(features, mask_from_features(features, tuple(features)))
        test = {"as they are": problem.metric(probabilities.argmax(dim=1), problem.targets[rows])}
    else:
        test = {r.name: r.value for r in measure(problem, predict, rows)}
    seconds += time.process_time() - start
    return {"test": test, "trials": trials, "seconds": round(seconds, 2)}


def results_table(experiment: Experiment, lines: list[dict[str, Any]], command: str) -> str:
    """Format the means over repetitions as a table in Markdown."""
    several = len(experiment.levels) > 1
    counts = list(by_number_hidden(lines[0]["test"]))
    names = list(lines[0]["test"])
    # With two modalities the patterns themselves are shown.
    few = len(names) <= 3
    titles = names if few else [*(f"{c} hidden" if c else "complete" for c in counts), "worst"]
    header = [*(["training rows"] if several else []), "method", *titles]
    header += [f"{titles[0]}, against {ENCODER}", "trials", "seconds"]
    rows = [f"| {' | '.join(header)} |", f"|{' --- |' * len(header)}"]
    for level in experiment.levels:
        baseline: list[float] = []
        for method in experiment.methods:
            of_method = [x for x in lines if x["level"] == level and x["method"] == method]
            if few:
                columns = [[x["test"][name] for x in of_method] for name in names]
            else:
                hidden = [by_number_hidden(x["test"]) for x in of_method]
                columns = [[h[count] for h in hidden] for count in counts]
                columns.append([min(x["test"].values()) for x in of_method])
            baseline = baseline or columns[0]  # the first method is `ENCODER`
            difference = np.subtract(columns[0], baseline)
            cells = [*([level] if several else []), method]
            cells += [pair((float(np.mean(column)), half_width(column))) for column in columns]
            mean = float(difference.mean()), half_width(difference)
            cells.append("" if method == ENCODER else pair(mean, signed=True))
            seconds = float(np.mean([x["seconds"] for x in of_method]))
            cells += [str(of_method[0]["trials"]), f"{seconds:.1f}"]
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
        Literal["labels", "clusters", "size", "missing", "informative", "images"],
        tyro.conf.Positional,
    ]
    """Experiment: features made with labels, rows in clusters, size of data, cells missing at
    random or by class, or raw pictures."""
    out: Path | None = None
    """Folder of the results; default: docs/results/closed_or_trained_STUDY."""


def main(options: Options) -> None:
    """Fit the methods that are not stored yet, then write the table."""
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
