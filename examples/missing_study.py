"""What digits_quadrants and omics_subtypes share: seven ways to train one classifier, tuned alike, and their tables.

The classifier is the same for all: an encoder for each modality, the mean of what is there, a linear head. The ways
differ in what one training step minimises, `step_loss`, which is where the parts of invmod come together:

    ERM           the loss on complete samples
    dropout       random subsets of modalities, one for each sample
    alignment     ERM, and the modalities of a sample drawn together
    environments  the mean loss over cyclic-mixup environments
    V-REx         the same, and the variance of the losses over environments (MILK without alignment)
    MILK          the same, and alignment
    masks, V-REx  as V-REx, over masks (one left, one missing) in the place of mixup weights

Each way has six configurations, tried on two tuning splits and chosen by the mean of the metric over all patterns of
missing modalities on validation rows; the chosen one is trained on ten other splits and measured on their test rows.
Every run is a line of runs.jsonl in the store as soon as it is there: a study that was stopped goes on.
"""

import datetime
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
    """A classification data set with modalities.

    Arguments:
        name: of the data set.
        features: modality name -> float32 (N, D_m), NaN where missing.
        targets: int64 (N,).
        split: seed -> training, validation and test rows.
        metric: of predictions and targets.
        epochs: of every training.
    """

    name: str
    features: dict[str, Tensor]
    targets: Tensor
    split: Callable[[int], tuple[Tensor, Tensor, Tensor]]
    metric: Callable[[Tensor, Tensor], float]
    epochs: int


def accuracy(predictions: Tensor, targets: Tensor) -> float:
    """Share of right classes."""
    return (predictions == targets).double().mean().item()


def balanced_accuracy(predictions: Tensor, targets: Tensor) -> float:
    """Mean over the classes of the share of their samples that is right; classes without a sample do not count."""
    classes = targets.unique()
    return float(
        np.mean([(predictions[targets == c] == c).double().mean().item() for c in classes])
    )


# ------------------------------------------------------------------------------------------------------- the model


class Classifier(nn.Module):
    """Encoders, fusion by weights, a linear head."""

    def __init__(self, dims: Mapping[str, int], num_classes: int) -> None:
        super().__init__()
        self.encoders = invmod.ModalityEncoders.mlp(dict(dims), embedding_dim=EMBEDDING_DIM)
        self.head = nn.Linear(EMBEDDING_DIM, num_classes)

    def forward(self, features: Mapping[str, Tensor], mask: Tensor) -> Tensor:
        """Return the logits (N, C) of the mean of what is there."""
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
    """What a training step of a method minimises."""
    m = mask.shape[1]
    if method == "dropout":
        keep = invmod.RandomSubsetEnvs(m, rates=config["rate"]).sample_masks(
            (len(mask),), generator=generator
        )[:, 0]
        keep = torch.where((keep & mask).any(dim=1, keepdim=True), keep & mask, mask)
        return F.cross_entropy(model(features, keep), targets)

    z = model.encoders(features, mask)  # (N, M, D)
    if method in ("ERM", "alignment"):
        loss = F.cross_entropy(model.head(invmod.masked_mean(z, mask)), targets)
    elif method == "masks, V-REx":
        envs = (
            invmod.UnionEnvs(invmod.LeaveOneOutEnvs(m), invmod.OneHotEnvs(m))
            if m > 2
            else invmod.OneHotEnvs(m)
        )
        allowed = [mask, *(mask & row for row in envs.sample_masks())]
        rows = [there.any(dim=1) for there in allowed]  # a mask may leave a sample with nothing
        risks = torch.stack(
            [
                F.cross_entropy(model.head(invmod.masked_mean(z[some], there[some])), targets[some])
                for there, some in zip(allowed, rows, strict=True)
                if some.any()
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
    """Train on the training rows of a split, and return a predictor of features and mask.

    Features are standardised with what is observed in training rows.
    """
    names = tuple(problem.features)
    mask = invmod.mask_from_features(problem.features, names)
    rows = problem.split(seed)[0]
    scaled, moments = {}, {}
    for index, (name, x) in enumerate(problem.features.items()):
        seen = x[rows[mask[rows, index]]]
        moments[name] = seen.mean(dim=0), seen.std(dim=0).clamp(min=1e-6)
        scaled[name] = (x - moments[name][0]) / moments[name][1]

    generator = torch.Generator().manual_seed(seed)
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
    """The metric on some rows under every pattern of the modalities that any of them has."""
    mask = invmod.mask_from_features(problem.features, tuple(problem.features))[rows]
    ever = [name for index, name in enumerate(problem.features) if mask[:, index].any()]
    patterns = [
        [name for name, kept in zip(ever, choice, strict=True) if kept]
        for choice in product((True, False), repeat=len(ever))
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
    hidden = [
        name not in ever for name in problem.features
    ]  # what no row has is hidden from all, and not by a pattern
    return tuple(r for r in report.patterns if not any(np.logical_and(r.pattern, hidden)))


# ------------------------------------------------------------------------------------------------------- the study


@dataclass(frozen=True)
class Study:
    """The runs of one problem, each a line of ``store/runs.jsonl``."""

    problem: Problem
    store: Path
    seeds: int = 10
    shown: int = 8

    def __post_init__(self) -> None:
        """Refuse a study of nothing."""
        if self.seeds < 1:
            raise SystemExit(f"error: `seeds` must be at least 1, got {self.seeds}.")

    def run(self, say: Callable[[str], None] = print) -> dict[str, dict[str, Any]]:
        """Do what is not in the store yet, and return method -> chosen configuration and runs."""
        self.store.mkdir(parents=True, exist_ok=True)
        known = self._known()
        found = {}
        for method, configs in METHODS.items():
            scores = [
                float(
                    np.mean(
                        [
                            self._run(known, method, config, seed)["validation"]
                            for seed in TUNING_SEEDS
                        ]
                    )
                )
                for config in configs
            ]
            best = int(np.argmax(scores))
            runs = [self._run(known, method, configs[best], seed) for seed in range(self.seeds)]
            found[method] = {"config": configs[best], "tuning": scores, "runs": runs}
            worst = np.mean([min(run["test"].values()) for run in runs])
            say(f"{method}: {configs[best]}, worst pattern {worst:.3f}")
        return found

    def _known(self) -> dict[str, dict[str, Any]]:
        """Return the runs of the store; a last line that was cut off when the study was stopped is dropped."""
        path = self.store / "runs.jsonl"
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if path.exists() else []
        whole = [line for line in lines if line.endswith("\n")]
        if len(whole) < len(lines):
            temporary = path.with_name(f".runs.{os.getpid()}.tmp")
            temporary.write_text("".join(whole), encoding="utf-8")
            temporary.replace(path)
        runs = [json.loads(line) for line in whole]
        return {key(run["method"], run["config"], run["seed"]): run for run in runs}

    def _run(
        self, known: dict[str, dict[str, Any]], method: str, config: Mapping[str, float], seed: int
    ) -> dict[str, Any]:
        if (name := key(method, config, seed)) in known:
            return known[name]
        _, validation, test = self.problem.split(seed)
        predict = train(self.problem, method, config, seed)
        on_validation = measure(self.problem, predict, validation)
        result: dict[str, Any] = {
            "method": method,
            "config": dict(config),
            "seed": seed,
            "validation": float(np.mean([r.value for r in on_validation])),
        }
        if seed not in TUNING_SEEDS:  # a tuning run never sees test rows
            on_test = measure(self.problem, predict, test)
            result["test"] = {r.name: r.value for r in on_test}
            result["predictions"] = self._predictions(predict, test, on_test)
        with (self.store / "runs.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(result) + "\n")
        known[name] = result
        return result

    def _predictions(
        self, predict: Callable[..., Tensor], test: Tensor, results: Iterable[invmod.PatternResult]
    ) -> dict[str, list[int]]:
        """Predictions for the first test rows under every pattern, for pictures and intervals over samples."""
        rows = test[: self.shown]
        names = tuple(self.problem.features)
        given = {name: x[rows] for name, x in self.problem.features.items()}
        observed = invmod.mask_from_features(given, names)
        found = {}
        for result in results:
            mask = observed & torch.tensor(result.pattern)
            found[result.name] = predict(invmod.hide_features(given, mask, names), mask).tolist()
        return found


def key(method: str, config: Mapping[str, float], seed: int) -> str:
    """What tells runs apart."""
    return json.dumps([method, dict(config), seed], sort_keys=True)


# ------------------------------------------------------------------------------------------------------- the tables


def by_number_hidden(values: Mapping[str, float]) -> dict[int, float]:
    """Number of hidden modalities -> mean over the patterns with so many."""
    most = max(name.count("+") for name in values)
    groups: dict[int, list[float]] = {}
    for name, value in values.items():
        groups.setdefault(most - name.count("+"), []).append(value)
    return {count: float(np.mean(group)) for count, group in sorted(groups.items())}


def half_width(values: npt.ArrayLike) -> float:
    """Half of the 95% t interval of a mean."""
    x = np.asarray(values, dtype=float)
    return (
        float(stats.t.ppf(0.975, len(x) - 1) * x.std(ddof=1) / len(x) ** 0.5)
        if len(x) > 1
        else float("nan")
    )


def summary(found: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """One row a method: means and intervals over seeds, and paired differences from ERM on the worst pattern."""
    rows = []
    worst = {
        method: [min(run["test"].values()) for run in entry["runs"]]
        for method, entry in found.items()
    }
    for method, entry in found.items():
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


def table(rows: Iterable[Mapping[str, Any]], what: str) -> str:
    """The summary as a table in Markdown."""
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
    return (
        "\n".join([*lines, "", f"{what} Means over seeds ± half of a 95% t interval. Made {made}."])
        + "\n"
    )


def pair(value: tuple[float, float], *, signed: bool = False) -> str:
    """A mean and half of its interval."""
    mean, half = value
    shown = f"{mean:+.3f}" if signed else f"{mean:.3f}"
    return shown if half != half else f"{shown} ± {half:.3f}"
