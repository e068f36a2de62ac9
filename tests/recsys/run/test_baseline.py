"""The untrained baseline of a run: which sections it has, and why it is left out."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from milk_recsys.base.distributed import SINGLE_PROCESS
from milk_recsys.catalogue.features import ItemFeatures
from milk_recsys.catalogue.split import draw_split
from milk_recsys.catalogue.tables import build_tables
from milk_recsys.config.options import Options
from milk_recsys.run import baseline, begin
from milk_recsys.run.evaluation import evaluate_test

SECTIONS = {
    "validation",
    "test",
    "test_complete",
    "test_all_cold",
    "by_pattern",
    "imposed",
    "drops",
}


@pytest.fixture(scope="module")
def small(
    tmp_path_factory: pytest.TempPathFactory, write_dataset: Callable[..., Path]
) -> SimpleNamespace:
    data = write_dataset(tmp_path_factory.mktemp("data") / "tiny", items=120, pairs_per_user=20)
    options = Options.of(data=data, device="cpu")
    dataset = begin.read_dataset(data)
    split, _ = draw_split(dataset, options.data)
    tables = build_tables(dataset, split, options, torch.device("cpu"))
    return SimpleNamespace(options=options, dataset=dataset, tables=tables)


def evaluate(small: SimpleNamespace) -> dict[str, object]:
    learner, reason = baseline.untrained_baseline(small.options, small.tables)
    assert learner is not None
    assert reason is None
    _, values = evaluate_test(learner, small.tables, "ndcg@20")
    return baseline.evaluate_baseline(learner, small.options, small.tables, values, SINGLE_PROCESS)


def test_every_section_of_a_small_catalogue(small: SimpleNamespace) -> None:
    section = evaluate(small)
    assert section.keys() == SECTIONS | {"model", "difference"}
    # The values compared are its own.
    gap = section["difference"]["test"]["ndcg@20"]  # type: ignore[index]
    assert gap == {"difference": 0.0, "low": 0.0, "high": 0.0}


def test_the_test_items_alone_of_a_larger_catalogue(
    small: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = evaluate(small)
    # 96 training items times 12 test items.
    monkeypatch.setattr(baseline, "MAX_SIMILARITIES", 96 * 12)
    section = evaluate(small)
    assert section.keys() == {"model", "test", "difference"}
    assert section["test"] == whole["test"]


def test_the_reasons_to_leave_it_out(
    small: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = small.options.replace(model="content_knn")
    assert baseline.untrained_baseline(own, small.tables) == (None, None)
    mapped = ItemFeatures(small.dataset.features, torch.device("cpu"), mapped=True)
    tables = dataclasses.replace(small.tables, features=mapped)
    assert "in memory" in str(baseline.untrained_baseline(small.options, tables)[1])
    monkeypatch.setattr(baseline, "MAX_SIMILARITIES", 96 * 12 - 1)
    assert "too many pairs" in str(baseline.untrained_baseline(small.options, small.tables)[1])
