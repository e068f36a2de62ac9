"""A comparison of training methods on equal budgets, shared by digits_quadrants and omics_subtypes.

The trained methods are in examples/missing_losses.py and examples/missing_methods.py, the kernel
regressions in examples/missing_kernels.py, the tables in examples/missing_tables.py.

Each trained method has six configurations, which are tuned on two splits. The configuration with
the best mean of the metric over all patterns of missing modalities on validation rows is trained on
ten other splits and evaluated on their test rows. A kernel regression is fitted on the same ten
splits and is not tuned. Every run is appended to runs.jsonl when it ends, so
a study that was stopped resumes from there. A finished study moves its runs to runs.jsonl.gz, which
is a twentieth of the size.
"""

import gzip
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from invmod.missingness import hide_features, mask_from_features
from invmod.robustness import PatternResult, robustness_report
from missing_kernels import ENCODER, KERNEL_METHODS, fit_kernel_ridge
from missing_methods import METHODS, Problem, train

__all__ = ["Study", "measure", "share_of_test_rows"]

TUNING_SEEDS = (100, 101)


def measure(
    problem: Problem, predict: Callable[..., Tensor], rows: Tensor
) -> tuple[PatternResult, ...]:
    """Compute the metric on some rows under every pattern of their modalities.

    `predict` returns probabilities, and the metric takes the most probable classes. A modality that
    none of the rows has is in no pattern.
    """
    mask = mask_from_features(problem.features, tuple(problem.features))[rows]
    present = [name for index, name in enumerate(problem.features) if mask[:, index].any()]
    patterns = [
        [name for name, kept in zip(present, choice, strict=True) if kept]
        for choice in product((True, False), repeat=len(present))
        if any(choice)
    ]
    report = robustness_report(
        lambda features, mask: predict(features, mask).argmax(dim=1),
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
        kernels: names of the kernel regressions.
    """

    problem: Problem
    folder: Path
    seeds: int = 10
    shown: int = 8
    kernels: Sequence[str] = tuple(KERNEL_METHODS)

    def __post_init__(self) -> None:
        """Check the number of splits."""
        if self.seeds < 1:
            raise SystemExit(f"error: `seeds` must be at least 1, got {self.seeds}.")

    def run(self, log: Callable[[str], None] = print) -> dict[str, dict[str, Any]]:
        """Train or fit the runs that are not stored yet.

        Returns:
            method -> its chosen configuration, the tuning scores of all configurations, and the
            runs of the chosen one. A kernel regression on embeddings has the configuration and the
            scores of the method that trains the encoder. The other one has no scores.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        stored = self._stored_runs()
        results: dict[str, dict[str, Any]] = {}
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
            results[method] = self._chosen(stored, method, configs[best], scores, log)
        for method in self.kernels:
            embedded = KERNEL_METHODS[method].embedded
            encoder = results[ENCODER] if embedded else {"config": {}, "tuning": []}
            results[method] = self._chosen(
                stored, method, encoder["config"], encoder["tuning"], log
            )
        self._compress()
        return results

    def _chosen(
        self,
        stored: dict[str, dict[str, Any]],
        method: str,
        config: Mapping[str, float],
        scores: list[float],
        log: Callable[[str], None],
    ) -> dict[str, Any]:
        """Return the results of a method with the chosen configuration."""
        runs = [self._run(stored, method, config, seed) for seed in range(self.seeds)]
        worst = np.mean([min(run["test"].values()) for run in runs])
        log(f"{method}: {dict(config)}, worst pattern {worst:.3f}")
        return {"config": config, "tuning": scores, "runs": runs}

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
        """Return a stored run, or make it and append it to runs.jsonl."""
        if (key := run_key(method, config, seed)) in stored:
            return stored[key]
        _, validation, test = self.problem.split(seed)
        if method in KERNEL_METHODS:
            predict = fit_kernel_ridge(self.problem, KERNEL_METHODS[method], config, seed)
        else:
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
        self, predict: Callable[..., Tensor], test: Tensor, results: Iterable[PatternResult]
    ) -> dict[str, list[int]]:
        """Predict the classes of the first test rows under every pattern.

        Pictures and intervals over samples are made from these predictions.
        """
        rows = test[: self.shown]
        names = tuple(self.problem.features)
        features = {name: x[rows] for name, x in self.problem.features.items()}
        observed = mask_from_features(features, names)
        predictions = {}
        for result in results:
            mask = observed & torch.tensor(result.pattern)
            hidden = hide_features(features, mask, names)
            predictions[result.name] = predict(hidden, mask).argmax(dim=1).tolist()
        return predictions


def share_of_test_rows(problem: Problem) -> float:
    """Return the number of test rows of a split divided by that of its training rows."""
    rows, _, test = problem.split(0)
    return len(test) / len(rows)


def replace_file(path: Path, data: bytes) -> None:
    """Replace a file at once: if the process is killed, the old file is still there."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    temporary.write_bytes(data)
    temporary.replace(path)


def run_key(method: str, config: Mapping[str, float], seed: int) -> str:
    """Identify a run by method, configuration and seed."""
    return json.dumps([method, dict(config), seed], sort_keys=True)
