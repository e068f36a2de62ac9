"""The comparison of all systems: its runs, its tables, and the tests on held-out splits."""

import csv
import dataclasses

import numpy as np
import pytest
from scipy import stats

from milk_recsys.config.method import find_method
from milk_recsys.study import claims, field, tables
from milk_recsys.study.bench.score import systems
from milk_recsys.study.plan import FRESH_SEED, NAMES, TUNING_SEED
from milk_recsys.study.records import p_text
from milk_recsys.study.results import write_results
from milk_recsys.study.spaces import (
    ABLATIONS,
    CLOSED,
    FIELD,
    FORMER,
    METHODS,
    SPACES,
    WINNER,
    WITHOUT,
)
from milk_recsys.study.store import Store
from tests.recsys.methods.tiny_baselines import UNTRAINED
from tests.recsys.test_reproduce import DATASET, make_plan, run_plan

FEW = ("milk", "erm", "content_knn", "random", "knn", "ridge", "keep")


@pytest.fixture(scope="module")
def plan():
    return make_plan(("field",), methods=FEW, settings=("ftmt", "mtmt"))


@pytest.fixture(scope="module")
def store(plan, tmp_path_factory):
    return run_plan(plan, tmp_path_factory.mktemp("field"))


def table(path):
    with path.open() as file:
        return {row["method"]: row for row in csv.DictReader(file)}


def test_every_planned_run_is_made_once(plan, store):
    keys = [(x["phase"], x["method"], x["setting"], x["number"]) for x in store.lines]
    assert len(keys) == len(set(keys)) == plan.total() == plan.done(store)
    part = make_plan(("table2",), methods=FEW[:4], decide=False)
    assert part.done(store) == part.total() < len(keys)
    assert not list(plan.with_factors(store).ready(store))
    for method in FEW:
        assert len(store.of("timing", method)) == 1
        assert store.of("timing", method)[0]["score_seconds"] > 0
        assert len(store.of("repeat", method, "mtmt")) == plan.repeats


def test_finalists_are_compared_on_held_out_splits(plan, store):
    finalists = plan.finalists(store)
    assert finalists[:3] == [WINNER, "milk", "erm"]
    assert set(finalists[3:]) == {"content_knn", "knn", "ridge"}
    assert {x["method"] for x in store.lines if x["phase"] == "fresh"} == set(finalists)
    seeds = {x["options"]["split_seed"] for x in store.lines if x["phase"] == "fresh"}
    assert seeds == {FRESH_SEED, FRESH_SEED + 1}
    others = {x["options"]["split_seed"] for x in store.lines if x["phase"] != "fresh"}
    assert others == {0, 1, TUNING_SEED}


def test_the_study_of_the_paper_has_no_run_of_the_comparison_of_all_systems():
    assert "field" not in NAMES
    assert (
        *METHODS,
        "knn",
        "marec",
        "ridge",
        "sibrar",
        "i3mrec",
        "dgmrec",
        "aldi",
        "keep",
        "fease",
        "fease_u",
        "linmap",
        "graph_imputation",
    ) == FIELD
    assert set(CLOSED) | {WINNER} <= set(FIELD) - set(METHODS)
    assert set(SPACES) == set(FIELD)
    assert {m for m in FIELD if find_method(m).limits} == set(FIELD) - UNTRAINED
    assert len(METHODS) == 15  # the seeds of trials made before depend on this number


def test_the_table(plan, store, tmp_path):
    write_results(plan, store, DATASET, tmp_path)
    rows = table(tmp_path / "field.csv")
    assert set(rows) == set(FEW)
    means = [np.mean([x["test"]["ndcg@20"] for x in store.ranked("repeat", m)]) for m in rows]
    assert means == sorted(means, reverse=True)
    values = [[x["test"]["ndcg@20"] for x in store.ranked("repeat", m)] for m in ("erm", "milk")]
    wider = (1 / 2 + 1 / 8) ** 0.5  # factor for splits that share most of their items
    half = stats.t.ppf(0.975, 1) * np.std(values[1], ddof=1) * wider
    assert rows["milk"]["FTMT ndcg@20"] == f"{np.mean(values[1]):.3f} ± {half:.3f}"
    p = {m: field._ratios(plan, store, m, "milk").p for m in rows if m != "milk"}
    t = stats.ttest_rel(*np.log(np.maximum(values, 1e-12))).statistic / (2**0.5 * wider)
    assert p["erm"] == pytest.approx(2 * stats.t.sf(abs(t), 1))
    corrected = dict(zip(p, claims.holm(list(p.values())), strict=True))
    assert {m: rows[m]["p against milk"] for m in p} == {m: p_text(v) for m, v in corrected.items()}
    assert rows["milk"]["p against milk"] == ""
    best = next(m for m in rows if m in CLOSED)
    assert rows[best][f"p against {best}"] == ""
    for name in ("field", "field_drop"):
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000
    patterns = table(tmp_path / "field_patterns.csv")
    assert {f"all without {name}" for name in DATASET.modalities} <= set(patterns["milk"])
    assert not (tmp_path / "verdicts.md").exists()


def test_the_former_version_of_the_winner_is_compared_but_not_run(plan, store, tmp_path):
    assert FORMER not in FIELD
    both = Store(tmp_path)
    for line in store.lines:
        both.add(line)
        if line["method"] == "ridge":
            options = {**line["options"], "model": FORMER}
            both.add({**line, "method": FORMER, "options": options})
    assert plan.systems(store) == [*FEW]
    assert plan.systems(both) == [*FEW, FORMER]
    assert plan.finalists(both) == plan.finalists(store)
    assert plan.done(both) == plan.done(store) == plan.total()
    rows = {row["method"]: row for row in field.table_field(plan, both)}
    same = [name for name in rows[FORMER] if not name.startswith(("method", "p against"))]
    assert [rows[FORMER][name] for name in same] == [rows["ridge"][name] for name in same]
    assert FORMER in {row["method"] for row in field.table_patterns(plan, both)}
    assert rows["keep"].keys() == rows[FORMER].keys()
    fresh = [row["claim"] for row in field.table_fresh(plan, both)]
    assert f"{WINNER} ranks new items better than {FORMER}" in fresh
    assert {line["method"] for line in systems(both, "ftmt")[FORMER].values()} == {FORMER}
    trials = [row["method"] for row in tables.table_search(plan, both)]
    assert trials.count(FORMER) == trials.count("ridge") == 1


def test_the_winner_without_its_parts(plan, store):
    rows = {row["variant"]: row for row in field.table_without(plan, store)}
    assert list(rows) == [WINNER, *WITHOUT]
    for name, change in WITHOUT.items():
        chosen = plan._chosen(store, WINNER)
        other = change(chosen) if callable(change) else change
        assert all(line["tuned"] == chosen | other for line in store.of("repeat", name))
        mine, whole = (
            np.log([x["test"]["ndcg@20"] for x in store.of("repeat", m)]) for m in (name, WINNER)
        )
        assert (
            rows[name]["FTMT, change from keep"] == f"{100 * np.expm1((mine - whole).mean()):+.1f}%"
        )
    assert rows[WINNER]["FTMT, change from keep"] == ""


def test_the_verdicts_on_held_out_splits(plan, store):
    rows = field.table_fresh(plan, store)
    assert len(rows) == 2 * (len(plan.finalists(store)) - 1)
    assert rows[0]["claim"] == "keep ranks new items better than milk"
    mine, theirs = claims.pairs_of(store, ("keep", "milk"), "ftmt", "fresh")
    assert [x["number"] for x in mine] == [x["number"] for x in theirs] == [0, 1]
    ratio = np.mean(
        [
            np.log(a["test"]["ndcg@20"] / b["test"]["ndcg@20"])
            for a, b in zip(mine, theirs, strict=True)
        ]
    )
    assert rows[0]["mean log ratio [95%]"].startswith(f"{ratio:+.3f}")


def test_the_worst_drop_is_that_of_the_modality_with_the_largest_loss():
    line = {
        "test_complete": {"ndcg@20": 0.5},
        "imposed": {"text": {"ndcg@20": 0.2}, "image": {"ndcg@20": 0.45}},
    }
    assert field.worst_drop(line) == pytest.approx(0.6)
    assert field.percent_lost([line, line]) == "-60%"
    assert field.percent_lost([{**line, "imposed": {}}]) == ""


@pytest.mark.slow
def test_one_modality_has_a_table_without_drops(tmp_path):
    features = dict(list(DATASET.features.items())[:1])
    dataset = dataclasses.replace(
        DATASET, features=features, natural_mask=DATASET.natural_mask[:, :1]
    )
    plan = make_plan(("field",), methods=("milk", "knn", "keep"), settings=("ftmt",))
    store = run_plan(plan, tmp_path / "runs", dataset)
    write_results(plan, store, dataset, tmp_path)
    assert {
        row["most useful modality hidden"] for row in table(tmp_path / "field.csv").values()
    } == {""}
    assert all("With its most useful" not in row["claim"] for row in field.table_fresh(plan, store))
    assert (tmp_path / "field.png").exists()
    assert not (tmp_path / "field_drop.png").exists()


def test_means_and_p_values_use_the_same_repeats(plan, store):
    more = [
        {**x, "number": 7, "test": {**x["test"], "ndcg@20": 0.9}}
        for x in store.of("repeat", "milk", limit=1)
    ]
    wider = dataclasses.replace(plan, repeats=2)
    store_with = type("More", (), {"__getattr__": lambda self, name: getattr(store, name)})()
    store_with.ranked = lambda *args, limit=None, **kw: (
        store.ranked(*args, limit=limit, **kw)
        + (more if args[1] == "milk" and limit is None else [])
    )
    assert len(field._ratios(wider, store_with, "erm", "milk").values) == 2
    assert (
        field._ratios(wider, store_with, "erm", "milk").p
        == field._ratios(plan, store, "erm", "milk").p
    )


def test_there_are_no_finalists_without_decide_or_before_all_methods_have_their_repeats(
    plan, store, tmp_path
):
    some = run_plan(
        make_plan(("table2",), methods=("keep", "knn"), decide=False), tmp_path / "some"
    )
    assert make_plan(("field",), methods=FEW).finalists(some) == []
    assert make_plan(("field",), methods=FEW, decide=False).finalists(store) == []
    assert set(ABLATIONS) & set(plan.finalists(store)) == {"milk", "erm"}
