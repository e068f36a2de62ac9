"""The first trials of a study are random and need no further package; published ones are met."""

import importlib.util
import math

import optuna
import pytest

from milk_recsys.base.errors import OptionError
from milk_recsys.config.method import choice, interval, log_range
from milk_recsys.study import proposals
from milk_recsys.study.spaces import FACTORS, SPACES

optuna.logging.set_verbosity(optuna.logging.WARNING)


@pytest.mark.parametrize("name", [*SPACES, "factors"])
def test_random_trials_are_those_of_the_sampler_of_published_studies(name):
    space = SPACES.get(name, FACTORS)
    distributions = {key: proposals._distribution(kind) for key, kind in space.items()}
    for seed in range(20):
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=proposals.STARTUP)
        search = optuna.create_study(direction="maximize", sampler=sampler)
        assert proposals._random(space, seed) == dict(search.ask(distributions).params)


def test_random_trials_have_fixed_numbers_and_stay_in_their_space():
    space = {"lr": log_range(1e-4, 1e-1), "x": interval(-1, 1), "k": choice(4, "eight", 20)}
    first = proposals.propose(space, (3, 0), [], "validation")
    assert first == {
        "lr": pytest.approx(0.08264830156822196, rel=1e-12),
        "x": pytest.approx(0.4512345451032642, rel=1e-12),
        "k": 20,
    }
    drawn = [proposals.propose(space, (3, number), [], "validation") for number in range(200)]
    assert all(1e-4 <= x["lr"] < 1e-1 and -1 <= x["x"] < 1 for x in drawn)
    assert {x["k"] for x in drawn} == {4, "eight", 20}
    mean = sum(math.log10(x["lr"]) for x in drawn) / len(drawn)
    assert mean == pytest.approx(-2.5, abs=0.2)


def test_more_trials_than_the_random_ones_need_the_extra(monkeypatch):
    monkeypatch.setattr(proposals, "find_spec", lambda _name: None)
    proposals.check_number_of_trials(proposals.STARTUP)
    with pytest.raises(OptionError, match=r'--trials 7 needs optuna.*"invmod\[study\]"'):
        proposals.check_number_of_trials(proposals.STARTUP + 1)
    monkeypatch.setattr(proposals, "find_spec", importlib.util.find_spec)
    proposals.check_number_of_trials(50)
