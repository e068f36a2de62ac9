"""Compare MILK with its ablations on one data set: tune each on validation, repeat over splits, tabulate.

    python examples/milk_recsys/study.py --data $INVMOD_DATA/lfm2k --out docs/results/lfm2k

Every method gets the same number of trials, on one split that is not among the repeats, judged by validation alone.
A repeat is a pair of a split seed and a training seed. Every run is a line of ``runs.jsonl``; a killed study goes on
where it stopped, with the same result as one that was not killed.
"""

from __future__ import annotations

import dataclasses
import datetime
import math
import platform
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

if not __package__:  # started as a script: `milk_recsys` lies in the folder above, not in this one
    sys.path[0] = str(Path(__file__).resolve().parents[1])

import numpy as np
import optuna
import torch
import tyro
from matplotlib.figure import Figure
from scipy import stats  # type: ignore[import-untyped]

from milk_recsys.data import Dataset, read_dataset
from milk_recsys.errors import DataError
from milk_recsys.evaluation import build_tables, evaluate_test
from milk_recsys.files import replacing
from milk_recsys.model import choose_device
from milk_recsys.options import Options, validate
from milk_recsys.progress import Progress
from milk_recsys.split import draw_split
from milk_recsys.train import History, train_model, versions

MODELS = ("milk", "align", "envs", "erm")
MONITOR = "ndcg@20"

LOG_SPACES: Mapping[str, tuple[float, float]] = {
    "lr": (1e-3, 3e-2),
    "alpha": (1e-2, 1e2),
    "penalty_weight": (1e-1, 1e2),
    "alignment_weight": (5e-3, 5.0),
}
TUNED: Mapping[str, tuple[str, ...]] = {
    "milk": ("lr", "alpha", "penalty_weight", "alignment_weight"),
    "align": ("lr", "alignment_weight"),
    "envs": ("lr", "alpha", "penalty_weight"),
    "erm": ("lr",),
}


@dataclasses.dataclass(frozen=True)
class Study:
    """Tune MILK and its ablations on validation, then repeat each over splits."""

    data: Path
    """Folder of a data set."""
    out: Path
    """Folder for the store and the tables; a study that it holds is continued."""
    trials: int = 12
    """Trials of each method, on the tuning split."""
    repeats: int = 5
    """Pairs of split seed and training seed: (0, 0), (1, 1), ..."""
    tuning_seed: int = 1000
    """Split seed and training seed of all trials; not one of the repeats'."""
    setting: str = "ftmt"
    """Setting of missing modalities."""
    epochs: int = 500
    """Most epochs of a run."""
    threads: int | None = None
    """Number of CPU threads."""


def main(study: Study) -> int:
    """Run what the store lacks, and write the tables."""
    if study.threads:
        torch.set_num_threads(study.threads)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        dataset = read_dataset(study.data, empty_items="drop")
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    study.out.mkdir(parents=True, exist_ok=True)
    store = History(study.out / "runs.jsonl")
    store.mend()
    for model in MODELS:
        for number in range(study.trials):
            if _found(store, "trial", model, number) is None:
                values = propose(model, number, _runs(store, "trial", model))
                store.add(_run(study, dataset, "trial", model, number, study.tuning_seed, values))
    for number in range(study.repeats):
        for model in MODELS:
            if _found(store, "repeat", model, number) is None:
                values = best_trial(_runs(store, "trial", model))["tuned"]
                store.add(_run(study, dataset, "repeat", model, number, number, values))
    write_results(study, store)
    print((study.out / "table.md").read_text(encoding="utf-8"))
    return 0


def propose(model: str, number: int, before: list[dict[str, Any]]) -> dict[str, Any]:
    """Propose the values of a trial from the trials before it, alike whether or not the study was interrupted."""
    seed = int(np.random.SeedSequence([MODELS.index(model), number]).generate_state(1)[0])
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=6)
    search = optuna.create_study(direction="maximize", sampler=sampler)
    spaces = {name: optuna.distributions.FloatDistribution(*LOG_SPACES[name], log=True) for name in TUNED[model]}
    for line in before:
        value = line["validation"][MONITOR]
        search.add_trial(optuna.trial.create_trial(params=line["tuned"], distributions=dict(spaces), value=value))
    return dict(search.ask(dict(spaces)).params)


def best_trial(trials: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the trial with the best validation score, the first of equals."""
    return max(trials, key=lambda line: line["validation"][MONITOR])


def _run(
    study: Study, dataset: Dataset, phase: str, model: str, number: int, seed: int, values: dict[str, Any]
) -> dict[str, Any]:
    """Train and evaluate once; return the line of the store."""
    fixed: dict[str, Any] = {"data": study.data, "model": model, "setting": study.setting, "epochs": study.epochs}
    options = Options(**fixed, seed=seed, split_seed=seed, compare="none", **values)
    validate(options)
    record, sections, facts = train_once(options, dataset)
    tested = ("test", "test_complete", "test_all_cold", "imposed") if phase == "repeat" else ()
    line = {"phase": phase, "model": model, "number": number, "seed": seed, "tuned": values, **record}
    line |= {part: sections[part] for part in ("validation", *tested)}  # a trial must not see the test set
    line |= facts
    print(f"{phase} {number} {model} {values}: validation {sections['validation'][MONITOR]:.4f}", flush=True)
    return line


def train_once(options: Options, dataset: Dataset) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Train on a split drawn from the options and evaluate, leaving no file.

    Returns:
        the record of `train_model`; the sections of `evaluate_test`; and ``seconds``, ``versions`` and ``date``.
    """
    split, _ = draw_split(dataset, options)
    device = choose_device(options.device)
    tables = build_tables(dataset, split, options, device)
    begun = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        trained, record = train_model(options, tables, Path(folder), Progress(quiet=True))
    sections, _ = evaluate_test(trained, tables, MONITOR)
    seconds, date = time.perf_counter() - begun, datetime.date.today().isoformat()
    return record, sections, {"seconds": seconds, "versions": versions(device), "date": date}


def _runs(store: History, phase: str, model: str) -> list[dict[str, Any]]:
    return [line for line in store.read() if line["phase"] == phase and line["model"] == model]


def _found(store: History, phase: str, model: str, number: int) -> dict[str, Any] | None:
    return next((line for line in _runs(store, phase, model) if line["number"] == number), None)


# --- results --------------------------------------------------------------------------------------------------------


def write_results(study: Study, store: History) -> None:
    """Write ``table.md`` and ``search.png`` from the store."""
    with replacing(study.out / "table.md") as temporary:
        temporary.write_text(table(study, store), encoding="utf-8")
    plot_search(study.out / "search.png", {model: _runs(store, "trial", model) for model in MODELS})


def table(study: Study, store: History) -> str:
    """Tabulate means with standard deviations over repeats, the paired difference to erm, and the chosen values."""
    repeats = {model: _runs(store, "repeat", model)[: study.repeats] for model in MODELS}
    lines = [
        "| model | NDCG@20 | Recall@20 | NDCG@20, nothing hidden | NDCG@20, worst modality hidden "
        "| NDCG@20 less erm's [95% interval] | chosen on validation |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for model in MODELS:
        runs = repeats[model]
        chosen = ", ".join(f"{name} {value:.3g}" for name, value in runs[0]["tuned"].items())
        cells = [
            mean_sd([run["test"]["ndcg@20"] for run in runs]),
            mean_sd([run["test"]["recall@20"] for run in runs]),
            mean_sd([run["test_complete"]["ndcg@20"] for run in runs]),
            mean_sd([min(hidden["ndcg@20"] for hidden in run["imposed"].values()) for run in runs]),
            "" if model == "erm" else _difference(runs, repeats["erm"]),
            chosen,
        ]
        lines.append(f"| {model} | " + " | ".join(cells) + " |")
    last = store.read()[-1]
    cpu = f"{platform.machine()}, {last['versions']['device']}"
    lines += [
        "",
        f"Setting {study.setting}, candidates test, {study.trials} trials each on split {study.tuning_seed} and "
        f"{study.repeats} repeats, mean ± standard deviation; the interval is a paired t interval over repeats. "
        f"{last['date']}, {cpu}, torch {last['versions']['torch']}.",
        "",
    ]
    return "\n".join(lines)


def mean_sd(values: Sequence[float]) -> str:
    """Write a mean with the standard deviation of the sample."""
    spread = f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
    return f"{np.mean(values):.4f}{spread}"


def _difference(runs: list[dict[str, Any]], base: list[dict[str, Any]]) -> str:
    """Mean paired difference with its t interval over repeats."""
    values = np.array([a["test"][MONITOR] - b["test"][MONITOR] for a, b in zip(runs, base, strict=True)])
    if len(values) < 2:
        return f"{values.mean():+.4f}"
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    return f"{values.mean():+.4f} [{values.mean() - half:+.4f}, {values.mean() + half:+.4f}]"


def plot_search(path: Path, trials: Mapping[str, list[dict[str, Any]]]) -> None:
    """Plot the best validation score so far against trials: equal trials are not equal chances."""
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    for model, style in zip(MODELS, ("-o", "--s", "-.^", ":D"), strict=True):
        scores = [line["validation"][MONITOR] for line in trials[model]]
        label = f"{model} ({len(TUNED[model])} tuned)"
        axes.plot(range(1, len(scores) + 1), np.maximum.accumulate(scores), style, label=label, markersize=4)
    axes.set(xlabel="trials", ylabel=f"best validation {MONITOR} so far")
    axes.legend()
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Study, description=__doc__)))
