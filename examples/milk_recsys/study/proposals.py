"""The options that the next trial of a study tries, proposed from the trials before it."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from milk_recsys.base.errors import OptionError
from milk_recsys.config.method import Choice, Interval
from milk_recsys.study.records import MONITOR

if TYPE_CHECKING:
    import optuna

__all__ = ["STARTUP", "check_number_of_trials", "propose"]

STARTUP = 6
"""Number of random trials. Later trials use the results of earlier ones, with Optuna."""


def check_number_of_trials(trials: int) -> None:
    """Refuse a number of trials that needs Optuna where it is not installed.

    Raises:
        OptionError: it is not installed, and there are more trials than the random ones.
    """
    if trials > STARTUP and find_spec("optuna") is None:
        raise OptionError(
            f"--trials {trials} needs optuna, which is not installed: "
            f'pip install "invmod[study]". The first {STARTUP} trials do not need it.'
        )


def propose(
    space: Mapping[str, Interval | Choice],
    seed: tuple[int, int],
    before: Sequence[Mapping[str, Any]],
    judged_by: str,
) -> dict[str, Any]:
    """Propose the options of a trial from the results of the trials before it.

    The proposal depends only on the arguments, so a study that was interrupted makes the same
    trials.

    Arguments:
        space: values to choose from.
        seed: seed of the method, and number of the trial.
        before: earlier trials.
        judged_by: section of a trial whose NDCG@20 is maximised.
    """
    number = int(np.random.SeedSequence(list(seed)).generate_state(1)[0])
    if len(before) < STARTUP:
        return _random(space, number)
    return _informed(space, number, [(line["tuned"], line[judged_by][MONITOR]) for line in before])


def _random(space: Mapping[str, Interval | Choice], seed: int) -> dict[str, Any]:
    """Draw options as Optuna's RandomSampler does, whose numbers published studies have."""
    rng = np.random.RandomState(seed)  # The generator of that sampler.
    drawn: dict[str, Any] = {}
    for name, kind in space.items():
        if isinstance(kind, Choice):
            drawn[name] = kind.values[int(rng.uniform(size=len(kind.values)).argmax())]
        elif kind.low == kind.high:
            drawn[name] = kind.low
        else:
            low, high = (math.log(x) if kind.log else x for x in (kind.low, kind.high))
            value = float(rng.uniform(low, high))
            value = max(math.exp(value), kind.low) if kind.log else value
            drawn[name] = min(value, float(np.nextafter(kind.high, kind.high - 1)))
    return drawn


def _informed(
    space: Mapping[str, Interval | Choice],
    seed: int,
    before: Sequence[tuple[Mapping[str, Any], float]],
) -> dict[str, Any]:
    """Propose options by a tree-structured Parzen estimator (TPE)."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    distributions = {name: _distribution(kind) for name, kind in space.items()}
    sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        search = optuna.create_study(direction="maximize", sampler=sampler)
        for tuned, value in before:
            search.add_trial(
                optuna.trial.create_trial(
                    params=dict(tuned), distributions=distributions, value=value
                )
            )
        return dict(search.ask(distributions).params)


def _distribution(kind: Interval | Choice) -> optuna.distributions.BaseDistribution:
    import optuna

    if isinstance(kind, Interval):
        return optuna.distributions.FloatDistribution(kind.low, kind.high, log=kind.log)
    return optuna.distributions.CategoricalDistribution(kind.values)
