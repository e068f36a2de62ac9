"""A comparison of seven training methods, shared by digits_quadrants and omics_subtypes.

All methods train the same classifier: one encoder per modality, the mean of the available
embeddings, a linear head. They differ only in the loss of a training step, `step_loss`, which is
composed of parts of invmod:

    ERM           loss on samples as they are
    dropout       loss under a random subset of modalities for each sample
    alignment     loss of ERM, plus an alignment loss, which pulls a sample's embeddings together
    environments  mean loss over cyclic-mixup environments
    V-REx         mean loss over environments, plus its variance (MILK without alignment)
    MILK          mean loss over environments, plus its variance, plus the alignment loss
    masks, V-REx  like V-REx, with masks (one modality left, one missing) instead of mixup weights

Each method has six configurations, which are tuned on two splits. The configuration with the best
mean of the metric over all patterns of missing modalities on validation rows is trained on ten
other splits and evaluated on their test rows. Every run is appended to runs.jsonl when it ends, so
a study that was stopped resumes from there. A finished study moves its runs to runs.jsonl.gz, which
is a twentieth of the size.
"""

import datetime
import gzip
import json
import os
import platform
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from scipy import stats
from torch import Tensor, nn

import invmod

__all__ = ["METHODS", "Problem", "Study", "accuracy", "balanced_accuracy"]

EMBEDDING_DIM = 32
LEARNING_RATE = 3e-3
BATCH_SIZE = 100
TUNING_SEEDS = (100, 101)

METHODS: dict[str, list[dict[str, float]]] = {
    "ERM": [{"weight_decay": w} for w in (0.0, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)],
    "dropout": [{"rate": r} for r in (0.1, 0.2, 0.35, 0.5, 0.65, 0.8)],
    "alignment": [{"alignment": w} for w in (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)],
    "environments": [{"alpha": a} for a in (0.03, 0.1, 0.3, 1.0, 3.0, 10.0)],
    "V-REx": [{"alpha": a, "penalty": b} for a, b in product((0.1, 1.0), (0.1, 1.0, 10.0))],
    "MILK": [
        {"alpha": 0.1, "penalty": b, "alignment": w}
        for b, w in product((0.1, 1.0), (0.003, 0.01, 0.03))
    ],
    "masks, V-REx": [{"penalty": b} for b in (0.0, 0.03, 0.1, 0.3, 1.0, 3.0)],
}


@dataclass(frozen=True)
class Problem:
    """A classification problem with several modalities.

    Arguments:
        name: name of the data set.
        features: modality name -> float32 (N, D_m), NaN where missing.
        targets: int64 (N,), the class of each sample.
        split: maps a seed to training, validation and test rows.
        metric: maps predictions and targets to a number; higher is better.
        epochs: number of epochs of every run.
    """

    name: str
    features: dict[str, Tensor]
    targets: Tensor
    split: Callable[[int], tuple[Tensor, Tensor, Tensor]]
    metric: Callable[[Tensor, Tensor], float]
    epochs: int


def accuracy(predictions: Tensor, targets: Tensor) -> float:
    """Share of correct predictions."""
    return (predictions == targets).double().mean().item()


def balanced_accuracy(predictions: Tensor, targets: Tensor) -> float:
    """Mean over the classes in `targets` of the share of correct predictions."""
    classes = targets.unique()
    return float(
        np.mean([(predictions[targets == c] == c).double().mean().item() for c in classes])
    )


# --- the model ------------------------------------------------------------------------------------


class Classifier(nn.Module):
    """One encoder per modality, fusion by a weighted mean, and a linear head."""

    def __init__(self, dims: Mapping[str, int], num_classes: int) -> None:
        super().__init__()
        self.encoders = invmod.ModalityEncoders.mlp(dict(dims), embedding_dim=EMBEDDING_DIM)
        self.head = nn.Linear(EMBEDDING_DIM, num_classes)

    def forward(self, features: Mapping[str, Tensor], mask: Tensor) -> Tensor:
        """Compute logits (N, C) from the mean of the available embeddings."""
        return self.head(invmod.masked_mean(self.encoders(features, mask), mask))


def step_loss(
    method: str,
    config: Mapping[str, float],
    model: Classifier,
    features: Mapping[str, Tensor],
    mask: Tensor,
    targets: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """Compute the loss of a training step; here the methods differ.

    Arguments:
        method: a key of `METHODS`.
        config: one of its configurations.
        model: the classifier.
        features: the features of a batch, modality name -> (N, D_m).
        mask: (N, M), True where a modality is available.
        targets: (N,), the classes.
        generator: draws the masks or weights.
    """
    m = mask.shape[1]
    if method == "dropout":
        keep = invmod.RandomSubsetEnvs(m, rates=config["rate"]).sample_masks(
            (len(mask),), generator=generator
        )[:, 0]
        # A sample whose subset contains none of its available modalities keeps all of them.
        keep = torch.where((keep & mask).any(dim=1, keepdim=True), keep & mask, mask)
        return F.cross_entropy(model(features, keep), targets)

    z = model.encoders(features, mask)  # (N, M, D)
    if method in ("ERM", "alignment"):
        loss = F.cross_entropy(model.head(invmod.masked_mean(z, mask)), targets)
    elif method == "masks, V-REx":
        # With two modalities "one missing" and "one left" are the same masks.
        envs = (
            invmod.UnionEnvs(invmod.LeaveOneOutEnvs(m), invmod.OneHotEnvs(m))
            if m > 2
            else invmod.OneHotEnvs(m)
        )
        env_masks = [mask, *(mask & row for row in envs.sample_masks())]
        # A mask may hide all modalities of a sample. Each risk is a mean over the other samples.
        env_rows = [env_mask.any(dim=1) for env_mask in env_masks]
        risks = torch.stack(
            [
                F.cross_entropy(
                    model.head(invmod.masked_mean(z[rows], env_mask[rows])), targets[rows]
                )
                for env_mask, rows in zip(env_masks, env_rows, strict=True)
                if rows.any()
            ]
        )
        loss = invmod.invariant_objective(
            risks, penalty=invmod.vrex_penalty, penalty_weight=config["penalty"]
        )
    else:
        envs = invmod.CyclicMixupEnvs(m, config["alpha"])
        h = invmod.fuse(z, envs.sample(generator=generator), mask)  # (E, N, D)
        risks = torch.stack([F.cross_entropy(model.head(h_e), targets) for h_e in h])  # (E,)
        loss = invmod.invariant_objective(
            risks, penalty=invmod.vrex_penalty, penalty_weight=config.get("penalty", 0.0)
        )
    if "alignment" in config:
        loss = loss + config["alignment"] * invmod.pairwise_alignment_loss(z, mask)
    return loss


def train(
    problem: Problem, method: str, config: Mapping[str, float], seed: int
) -> Callable[..., Tensor]:
    """Train on the training rows of a split.

    Features are standardised with mean and standard deviation of the available training rows.

    Returns:
        a function from features and mask to predicted classes (N,).
    """
    names = tuple(problem.features)
    mask = invmod.mask_from_features(problem.features, names)
    rows = problem.split(seed)[0]
    scaled, moments = {}, {}
    for index, (name, x) in enumerate(problem.features.items()):
        available = x[rows[mask[rows, index]]]
        # A constant column has a standard deviation of 0 (or 1e-17), by which nothing can be
        # divided.
        moments[name] = available.mean(dim=0), available.std(dim=0).clamp(min=1e-6)
        scaled[name] = (x - moments[name][0]) / moments[name][1]

    generator = torch.Generator().manual_seed(seed)
    # Layers draw their initial weights from the global generator, whose state is restored
    # afterwards.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Classifier(
            {name: x.shape[1] for name, x in scaled.items()}, int(problem.targets.max()) + 1
        )
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=LEARNING_RATE, weight_decay=config.get("weight_decay", 1e-4)
    )
    for _ in range(problem.epochs):
        for batch in rows[torch.randperm(len(rows), generator=generator)].split(BATCH_SIZE):
            x = {name: values[batch] for name, values in scaled.items()}
            loss = step_loss(
                method, config, model, x, mask[batch], problem.targets[batch], generator
            )
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    model.eval()

    def predict(features: Mapping[str, Tensor], mask: Tensor) -> Tensor:
        x = {
            name: (values - moments[name][0]) / moments[name][1]
            for name, values in features.items()
        }
        with torch.no_grad():
            return model(x, mask).argmax(dim=1)

    return predict


def measure(
    problem: Problem, predict: Callable[..., Tensor], rows: Tensor
) -> tuple[invmod.PatternResult, ...]:
    """Compute the metric on some rows under every pattern of their modalities.

    A modality that none of the rows has is in no pattern.
    """
    mask = invmod.mask_from_features(problem.features, tuple(problem.features))[rows]
    present = [name for index, name in enumerate(problem.features) if mask[:, index].any()]
    patterns = [
        [name for name, kept in zip(present, choice, strict=True) if kept]
        for choice in product((True, False), repeat=len(present))
        if any(choice)
    ]
    report = invmod.robustness_report(
        predict,
        {name: x[rows] for name, x in problem.features.items()},
        problem.targets[rows],
        problem.metric,
        mask=mask,
        patterns=patterns,
        rates=(),
        num_resamples=0,
    )
    # The report also has the complete pattern, which contains modalities that no row has.
    absent = [name not in present for name in problem.features]
    return tuple(r for r in report.patterns if not any(np.logical_and(r.pattern, absent)))


# --- the study ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Study:
    """The comparison of all methods on one problem.

    Arguments:
        problem: the data, the splits and the metric.
        folder: folder of ``runs.jsonl`` and ``runs.jsonl.gz``, which have a line for each run.
        seeds: number of splits on which the chosen configurations are trained.
        shown: number of test rows whose predictions are stored.
    """

    problem: Problem
    folder: Path
    seeds: int = 10
    shown: int = 8

    def __post_init__(self) -> None:
        """Check the number of splits."""
        if self.seeds < 1:
            raise SystemExit(f"error: `seeds` must be at least 1, got {self.seeds}.")

    def run(self, log: Callable[[str], None] = print) -> dict[str, dict[str, Any]]:
        """Train the runs that are not stored yet.

        Returns:
            method -> its chosen configuration, the tuning scores of all configurations, and the
            runs of the chosen one.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        stored = self._stored_runs()
        results = {}
        for method, configs in METHODS.items():
            scores = [
                float(
                    np.mean(
                        [
                            self._run(stored, method, config, seed)["validation"]
                            for seed in TUNING_SEEDS
                        ]
                    )
                )
                for config in configs
            ]
            best = int(np.argmax(scores))
            runs = [self._run(stored, method, configs[best], seed) for seed in range(self.seeds)]
            results[method] = {"config": configs[best], "tuning": scores, "runs": runs}
            worst = np.mean([min(run["test"].values()) for run in runs])
            log(f"{method}: {configs[best]}, worst pattern {worst:.3f}")
        self._compress()
        return results

    def _stored_runs(self) -> dict[str, dict[str, Any]]:
        """Return the runs of both files by their `run_key`.

        If the study was stopped while it wrote the last line of runs.jsonl, that line is dropped
        from the file.
        """
        path = self.folder / "runs.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
        complete = [line for line in lines if line.endswith("\n")]
        if len(complete) < len(lines):
            replace_file(path, "".join(complete).encode())
        runs = [json.loads(line) for line in (*self._compressed_lines(), *complete)]
        return {run_key(run["method"], run["config"], run["seed"]): run for run in runs}

    def _compressed_lines(self) -> list[str]:
        """Return the lines of runs.jsonl.gz."""
        path = self.folder / "runs.jsonl.gz"
        if not path.exists():
            return []
        return gzip.decompress(path.read_bytes()).decode().splitlines(keepends=True)

    def _compress(self) -> None:
        """Move the lines of runs.jsonl to runs.jsonl.gz."""
        path = self.folder / "runs.jsonl"
        if not path.exists():
            return
        lines = self._compressed_lines()
        lines += path.read_text(encoding="utf-8").splitlines(keepends=True)
        # `dict.fromkeys` drops the duplicates of an earlier call that was killed before `unlink`.
        data = gzip.compress("".join(dict.fromkeys(lines)).encode(), mtime=0)
        replace_file(path.with_name("runs.jsonl.gz"), data)
        path.unlink()

    def _run(
        self, stored: dict[str, dict[str, Any]], method: str, config: Mapping[str, float], seed: int
    ) -> dict[str, Any]:
        """Return a stored run, or train it and append it to runs.jsonl."""
        if (key := run_key(method, config, seed)) in stored:
            return stored[key]
        _, validation, test = self.problem.split(seed)
        predict = train(self.problem, method, config, seed)
        on_validation = measure(self.problem, predict, validation)
        result: dict[str, Any] = {
            "method": method,
            "config": dict(config),
            "seed": seed,
            "validation": float(np.mean([r.value for r in on_validation])),
        }
        # Test rows must have no part in the choice of a configuration.
        if seed not in TUNING_SEEDS:
            on_test = measure(self.problem, predict, test)
            result["test"] = {r.name: r.value for r in on_test}
            result["predictions"] = self._predictions(predict, test, on_test)
        with (self.folder / "runs.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")
        stored[key] = result
        return result

    def _predictions(
        self, predict: Callable[..., Tensor], test: Tensor, results: Iterable[invmod.PatternResult]
    ) -> dict[str, list[int]]:
        """Predict the classes of the first test rows under every pattern.

        Pictures and intervals over samples are made from these predictions.
        """
        rows = test[: self.shown]
        names = tuple(self.problem.features)
        features = {name: x[rows] for name, x in self.problem.features.items()}
        observed = invmod.mask_from_features(features, names)
        predictions = {}
        for result in results:
            mask = observed & torch.tensor(result.pattern)
            hidden = invmod.hide_features(features, mask, names)
            predictions[result.name] = predict(hidden, mask).tolist()
        return predictions


def replace_file(path: Path, data: bytes) -> None:
    """Replace a file at once: if the process is killed, the old file is still there."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(data)
    temporary.replace(path)


def run_key(method: str, config: Mapping[str, float], seed: int) -> str:
    """Identify a run by method, configuration and seed."""
    return json.dumps([method, dict(config), seed], sort_keys=True)


# --- the tables -----------------------------------------------------------------------------------


def by_number_hidden(values: Mapping[str, float]) -> dict[int, float]:
    """Average over the patterns with the same number of hidden modalities.

    Arguments:
        values: name of a pattern -> metric.

    Returns:
        number of hidden modalities -> mean of the metric.
    """
    # The name of a pattern joins its modalities by "+", so the longest pattern has the most of
    # them.
    max_joins = max(name.count("+") for name in values)
    groups: dict[int, list[float]] = {}
    for name, value in values.items():
        groups.setdefault(max_joins - name.count("+"), []).append(value)
    return {count: float(np.mean(group)) for count, group in sorted(groups.items())}


def half_width(values: npt.ArrayLike) -> float:
    """Half of the width of the 95% t interval of a mean; NaN for a single value."""
    x = np.asarray(values, dtype=float)
    return (
        float(stats.t.ppf(0.975, len(x) - 1) * x.std(ddof=1) / len(x) ** 0.5)
        if len(x) > 1
        else float("nan")
    )


def summary(results: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Summarise the results of `Study.run`, one row per method.

    A row has means and intervals over splits, by number of hidden modalities and for the worst
    pattern, and the paired difference from ERM on the worst pattern.
    """
    rows = []
    worst = {
        method: [min(run["test"].values()) for run in entry["runs"]]
        for method, entry in results.items()
    }
    for method, entry in results.items():
        hidden = [by_number_hidden(run["test"]) for run in entry["runs"]]
        difference = np.subtract(worst[method], worst["ERM"])
        rows.append(
            {
                "method": method,
                "by_hidden": {
                    count: (
                        float(np.mean([h[count] for h in hidden])),
                        half_width([h[count] for h in hidden]),
                    )
                    for count in hidden[0]
                },
                "worst": (float(np.mean(worst[method])), half_width(worst[method])),
                "difference": (float(difference.mean()), half_width(difference)),
                "config": entry["config"],
            }
        )
    return rows


def table(rows: Iterable[Mapping[str, Any]], caption: str) -> str:
    """Format a summary as a table in Markdown, with a caption below it."""
    rows = list(rows)
    counts = list(rows[0]["by_hidden"])
    header = [
        "method",
        *("complete" if c == 0 else f"{c} hidden" for c in counts),
        "worst pattern",
        "against ERM",
        "chosen",
    ]
    lines = [f"| {' | '.join(header)} |", f"|{' --- |' * len(header)}"]
    for row in rows:
        cells = [pair(row["by_hidden"][count]) for count in counts] + [pair(row["worst"])]
        cells.append("" if row["method"] == "ERM" else pair(row["difference"], signed=True))
        cells.append(", ".join(f"{key} {value:g}" for key, value in row["config"].items()))
        lines.append(f"| {row['method']} | {' | '.join(cells)} |")
    made = f"{datetime.date.today()}, {platform.machine()}, torch {torch.__version__}, one thread"
    note = f"{caption} Means over seeds ± half of a 95% t interval. Made {made}."
    return "\n".join([*lines, "", note]) + "\n"


def pair(value: tuple[float, float], *, signed: bool = False) -> str:
    """Format a mean and half of the width of its interval, without the latter if it is NaN."""
    mean, half = value
    text = f"{mean:+.3f}" if signed else f"{mean:.3f}"
    return text if half != half else f"{text} ± {half:.3f}"  # only NaN differs from itself
