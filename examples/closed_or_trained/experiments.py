"""The methods and the experiments of examples/closed_or_trained/train.py."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import numpy as np

from closed_or_trained import problems
from missing_kernels import ENCODER, Predict, fit_regression, unchanged
from missing_methods import METHODS, Problem, train
from missing_study import measure

__all__ = [
    "EXPERIMENTS",
    "Experiment",
    "Fit",
    "Repetition",
    "on_embeddings",
    "regression",
    "trained",
]


class Fitted(NamedTuple):
    """A fitted method.

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
        methods: name of a method -> function that fits it to a problem.
        repetitions: number of repetitions.
        as_they_are: evaluate test rows with the modalities that they have, and hide none of them.
    """

    levels: Mapping[str, Callable[[int], Problem]]
    methods: Mapping[str, Fit]
    repetitions: int = 5
    as_they_are: bool = False


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
    "informative": Experiment(
        {"": problems.informative},
        {
            ENCODER: trained,
            "kernel ridge": regression,
            "kernel ridge, exact rows": partial(regression, rows="exact"),
        },
        repetitions=3,
        as_they_are=True,
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
