"""The lists of users: equality with sorted scores, shares that add up, the example of one user."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from milk_recsys import train
from milk_recsys.catalogue.split_file import read_split
from milk_recsys.catalogue.tables import build_tables
from milk_recsys.config.options import Options
from milk_recsys.methods.learner import make_learner
from milk_recsys.run import begin, lists
from milk_recsys.run.evaluation import evaluate_group
from milk_recsys.run.progress import Progress


@pytest.fixture(scope="module")
def ran(
    tmp_path_factory: pytest.TempPathFactory, write_dataset: Callable[..., Path]
) -> SimpleNamespace:
    root = tmp_path_factory.mktemp("lists")
    data = write_dataset(root / "data", items=120, pairs_per_user=20)
    options, dataset = begin.open_run(
        Options.of(model="keep", data=data, out=root / "run", compare="none", device="cpu")
    )
    metrics = train.run(options, dataset, Progress(quiet=True))
    split, _ = read_split(root / "run/split.npz", dataset, "ftmt")
    tables = build_tables(dataset, split, options, torch.device("cpu"))
    learner = make_learner(options, tables)
    learner.prepare()
    return SimpleNamespace(learner=learner, tables=tables, dataset=dataset, metrics=metrics)


def scores_of(ran: SimpleNamespace, users: torch.Tensor) -> torch.Tensor:
    tables = ran.tables
    scorer = ran.learner.scorer(tables.features, tables.test.candidates, tables.mask)
    scores: torch.Tensor = scorer(users)
    return scores


@pytest.mark.slow
def test_a_list_has_the_highest_scores(ran: SimpleNamespace) -> None:
    users = lists.listed_users(ran.learner, ran.tables)
    best = lists.top_lists(ran.learner, ran.tables, users)
    order = scores_of(ran, users).sort(dim=1, descending=True, stable=True).indices
    assert best.shape == (len(users), 3)
    assert torch.equal(best, order[:, :3])


def test_the_length_of_a_list() -> None:
    assert [lists.list_length(n) for n in (1, 4, 24, 39, 40, 5000)] == [1, 1, 6, 9, 10, 10]


def test_evenly_spaced_users_if_there_are_many(
    ran: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    everyone = lists.listed_users(ran.learner, ran.tables)
    monkeypatch.setattr(lists, "MAX_USERS", 7)
    chosen = lists.listed_users(ran.learner, ran.tables)
    assert len(chosen) == 7
    assert chosen[0] == everyone[0]
    assert chosen[-1] == everyone[-1]
    assert (chosen.diff() > 0).all()


def test_shares_of_places(ran: SimpleNamespace) -> None:
    section = ran.metrics["lists"]
    for source in ("model", "floor", "taken"):
        total = sum(pattern[source] for pattern in section["by_pattern"].values())
        assert total == pytest.approx(1)
        shares = section["shares"][source]
        assert 0 < shares["popular_tenth"] <= shares["top_tenth"] <= 1
        assert 1 <= shares["covered"] <= section["candidates"] == 12
    assert sum(pattern["items"] for pattern in section["by_pattern"].values()) == 12
    listed = [each["listed"] for each in section["most_listed"]]
    assert listed == sorted(listed, reverse=True)
    assert all(each["name"].startswith("item ") for each in section["most_listed"])


def test_the_shares_of_known_counts() -> None:
    counts, taken = np.array([5, 0, 3, 2] + [0] * 16), np.array([0, 1, 7, 2] + [0] * 16)
    shares = lists._shares(counts, taken)
    assert shares == {"covered": 3, "top_tenth": 0.8, "popular_tenth": 0.5}


def test_the_shares_of_random_lists_against_simulation() -> None:
    users, length, candidates, draws = 15, 6, 24, 400
    rng = np.random.default_rng(1)
    measured = []
    for _ in range(draws):
        drawn = rng.random((users, candidates)).argsort(axis=1)[:, :length]
        counts = np.bincount(drawn.ravel(), minlength=candidates)
        measured.append(lists._shares(counts, np.arange(candidates)))
    expected = lists._random_shares(users, length, candidates)
    for name, value in expected.items():
        mean = np.mean([each[name] for each in measured])
        assert value == pytest.approx(mean, rel=0.03), name


def test_the_example_is_the_list_of_the_user_with_the_median_value(ran: SimpleNamespace) -> None:
    tables, example = ran.tables, ran.metrics["lists"]["example"]
    _, values = evaluate_group(ran.learner, tables, tables.test, tables.mask)
    users = lists.listed_users(ran.learner, tables)
    own = values["ndcg@20"][torch.isin(values["users"], users)]
    assert example["value"] == pytest.approx(float(own.median()))
    user = example["user"]
    assert example["name"] == ran.dataset.user_names[user]
    pairs = ran.dataset.interactions
    items = set(pairs[pairs[:, 0] == user, 1].tolist())
    warm, cold = set(tables.warm.tolist()), set(tables.test.candidates.tolist())
    assert example["num_had"] == len(items & warm)
    assert example["num_taken"] == len(items & cold)
    assert {each["item"] for each in example["had"]} <= items & warm
    best = scores_of(ran, torch.tensor([user])).argsort(descending=True)[0, :3]
    assert [each["item"] for each in example["items"]] == tables.test.candidates[best].tolist()
    assert [each["taken"] for each in example["items"]] == [
        each["item"] in items for each in example["items"]
    ]
    assert example["hits"]["model"] == sum(each["taken"] for each in example["items"])
    assert example["hits"]["random"] == pytest.approx(len(items & cold) * 3 / 12)


def test_no_lists_without_a_trained_user(ran: SimpleNamespace) -> None:
    class Untrained:
        trained_users = torch.zeros(ran.tables.num_users, dtype=torch.bool)

    learners: dict[str, Any] = {"model": Untrained()}
    assert lists.evaluate_lists(learners, ran.tables, ran.dataset, {}, "ndcg@20") is None


def test_a_random_order_in_the_metrics_of_a_run(ran: SimpleNamespace) -> None:
    chance = ran.metrics["chance"]
    assert chance["test"]["candidates"] == 12
    assert chance["test"]["recall@10"] == pytest.approx(10 / 12)
    assert chance["test"]["recall@20"] == 1
    assert chance["test_all_cold"]["candidates"] == 24
    assert chance["by_pattern"].keys() == ran.metrics["by_pattern"].keys()
    gap = chance["difference"]["test"]["ndcg@20"]
    level = ran.metrics["test"]["ndcg@20"] - chance["test"]["ndcg@20"]
    assert gap["difference"] == pytest.approx(level)
    assert gap["low"] <= level <= gap["high"]
    assert ran.metrics["seconds"] > 0
