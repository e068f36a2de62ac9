"""What the page says to the one who decides: verdict, worth of modalities, lists, next steps."""

import json
from pathlib import Path
from typing import Any

import pytest

from milk_recsys.config.options import Options, to_json
from milk_recsys.report.advice import next_steps, options_of, own_options
from milk_recsys.report.findings import find
from milk_recsys.report.glossary import glossary, meaning
from milk_recsys.report.page import write_report
from milk_recsys.report.shares import example_sentences, share_findings, share_sources, share_tables
from milk_recsys.report.systems import quality_rows, sections_of, systems_of
from milk_recsys.report.words import breakable, number
from milk_recsys.report.worth import pattern_findings, weight_rows, worth_answer, worth_rows
from tests.recsys.report.test_report import (
    HIDDEN,
    METRICS,
    Page,
    drop,
    gap,
    model_part,
    page_of,
    plausible,
    section,
    write_run,
)


def chance_section(level: float, candidates: int) -> dict[str, Any]:
    shares = (0.9, 1.3, 0.8, 1.0, 1.2, 1.6, 0.7, 0.8)
    values = {name: level * share for name, share in zip(METRICS, shares, strict=True)}
    full = {"recall@20": 1.0, "hit@20": 1.0} if candidates <= 20 else {}
    return {"candidates": candidates, **values, **full}


def whole(
    *, ours: float = 0.452, knn: float = 0.33, random: float = 0.06, candidates: int = 60
) -> dict[str, Any]:
    """A metrics.json of KEEP with all that a run records."""
    metrics = plausible(model="keep")
    metrics["test"] = section(ours)
    metrics["floor"] = {
        "model": "content_knn",
        **model_part(knn + 0.02, knn, {name: 0.8 * left for name, left in HIDDEN.items()}),
        "difference": {"test": gap(ours - knn)},
    }
    parts = ("validation", "test", "test_all_cold")
    metrics["chance"] = {
        **{part: chance_section(random, candidates) for part in parts},
        "by_pattern": {key: chance_section(random, candidates) for key in metrics["by_pattern"]},
        "difference": {"test": gap(ours - random)},
    }
    weights = {"text+image+audio": [0.9, 0.1, 0.0], "text+audio": [1.0, 0.0], "audio": [1.0]}
    metrics["chosen"] = {"patterns": {key: {"weights": each} for key, each in weights.items()}}
    metrics["lists"] = lists(candidates)
    metrics |= {"date": "2026-03-05T14:02:00+01:00", "seconds": 12.34567}
    return metrics


def lists(candidates: int) -> dict[str, Any]:
    shares = {"covered": candidates - 3, "top_tenth": 0.4, "popular_tenth": 0.2}
    places = {"model": 0.05, "floor": 0.3, "taken": 0.2}
    rest = {name: 1 - share for name, share in places.items()}
    return {
        "length": 10,
        "users": 800,
        "candidates": candidates,
        "shares": dict.fromkeys(("model", "floor", "random", "taken"), shares),
        "by_pattern": {
            "text+image+audio": {"items": candidates - 15, **rest},
            "image+audio": {"items": 15, **places},
        },
        "most_listed": [{"item": 7, "name": "Blue <hat>", "listed": 0.4, "taken": 0.1}],
        "example": {
            "user": 3,
            "name": None,
            "value": 0.4,
            "had": [{"item": 1, "name": "Red hat"}, {"item": 2, "name": None}],
            "num_had": 9,
            "num_taken": 4,
            "items": [
                {"item": 7, "name": "Blue <hat>", "taken": True, "missing": []},
                {"item": 8, "name": None, "taken": False, "missing": ["text", "audio"]},
            ],
            "hits": {"model": 1, "floor": 0, "random": 0.6667},
        },
    }


# ---------------------------------------------------------------------------------- the verdict


@pytest.mark.parametrize(
    ("levels", "headline"),
    [
        (
            {},
            "Yes. KEEP is better than content kNN, which needs no training, and better than a "
            "random order.",
        ),
        (
            {"knn": 0.48},
            "No. Content kNN, which needs no training, is better, by 0.0280 on NDCG@20. Do "
            "not use KEEP before you have found the cause.",
        ),
        (
            {"knn": 0.449},
            "Not clear. There is no significant difference between KEEP and content kNN, which "
            "needs no training (it is 0.0030 on NDCG@20).",
        ),
        (
            {"random": 0.45},
            "No. KEEP is not better than a random order. Look for the cause.",
        ),
        (
            {"random": 0.5, "knn": 0.3},
            "No. KEEP is not better than a random order. Look for the cause.",
        ),
    ],
)
def test_the_verdict(levels: dict[str, float], headline: str) -> None:
    assert find(whole(**levels)).verdict.headline == headline


@pytest.mark.parametrize(
    ("model", "start"),
    [("content_knn", "This is content kNN"), ("random", "This is a random order")],
)
def test_the_verdict_on_a_comparison_names_it(model: str, start: str) -> None:
    metrics = whole(random=0.38, candidates=24) | {"model": model, "floor": None}
    verdict = find(metrics).verdict
    assert verdict.headline.startswith(start)
    assert verdict.details[0].startswith("There are only 24 candidates")


def test_a_modality_without_effect_is_not_called_a_gain() -> None:
    drops = {name: drop(0.48, 0.48, 0.0) for name in HIDDEN}
    answer = find(whole() | {"drops": drops}).worth
    assert answer.headline.startswith("None: hiding a modality does not lower")
    assert answer.details[0].endswith("NDCG@20 of KEEP remains 0.4800.")
    assert number(-0.0) == "0.0000"


def test_the_verdict_without_the_untrained_baseline() -> None:
    metrics = whole()
    metrics["floor"] = None
    assert find(metrics).verdict.headline == "KEEP is better than a random order."


def test_the_verdict_gives_all_three_levels_in_customers_and_in_the_metric() -> None:
    details = find(whole()).verdict.details
    assert details[0] == (
        "Of the customers who took new items, 54.2% find one of these among the first 10 of the 60 "
        "candidates with KEEP, 39.6% with content kNN and 7.2% in a random order."
    )
    assert details[1].startswith("NDCG@20: KEEP 0.4520, content kNN 0.3300 and a random order")
    assert len(details) == 2


@pytest.mark.parametrize(
    ("candidates", "level", "text"),
    [
        (24, 0.38, "There are only 24 candidates, so lists are easy to fill: a random order alre"),
        (20, 0.38, "so the first 20 places hold all of them: Recall@20 and hit rate@20 are 1"),
        (8, 0.6, "so the first 10 and the first 20 places hold all of them: Recall and hit rate"),
    ],
)
def test_few_candidates_are_said(candidates: int, level: float, text: str) -> None:
    metrics = whole(ours=0.8, knn=0.7, random=level, candidates=candidates)
    assert any(text in detail for detail in find(metrics).verdict.details)
    if candidates == 20:
        rows = quality_rows(metrics, find(metrics), systems_of(metrics, find(metrics)))
        notes = {metric: "(always 100%" in label for label, metric, _ in rows}
        assert notes == {"hit@10": False, "recall@10": False, "recall@20": True, "ndcg@20": False}


# ------------------------------------------------------------------------------- the modalities


def test_the_use_of_each_modality() -> None:
    metrics = whole()
    rows = {row.modality: row for row in worth_rows(metrics, find(metrics))}
    assert list(rows) == ["text", "image", "audio"]
    assert rows["text"].use == "worth most"
    assert rows["image"].use == "useful"
    assert rows["audio"].use == "not used if “text” and “image” are there"
    assert [row.used for row in rows.values()] == [True, True, False]
    headline = worth_answer(find(metrics), list(rows.values())).headline
    assert headline.endswith("Not used: “audio”.")


@pytest.mark.parametrize(
    ("change", "use"),
    [
        ({"difference": 0.0, "low": 0.0, "high": 0.0}, "not used: no list changes without it"),
        ({"difference": 0.001, "low": -0.01, "high": 0.02}, "no measurable use"),
        ({"difference": -0.02, "low": -0.03, "high": -0.01}, "lists are better without it"),
        ({"difference": 0.02, "low": None, "high": None}, "significance unknown"),
    ],
)
def test_the_use_of_a_modality_of_a_method_without_weights(
    change: dict[str, float | None], use: str
) -> None:
    metrics = whole()
    del metrics["chosen"]
    drop = metrics["drops"]["audio"]["ndcg@20"]
    drop |= change | {"hidden": drop["complete"] - (change["difference"] or 0.0)}
    rows = {row.modality: row.use for row in worth_rows(metrics, find(metrics))}
    assert rows["audio"] == use


def test_a_single_modality_is_not_measured() -> None:
    metrics = plausible({"text": 0.0})
    (row,) = worth_rows(metrics, find(metrics))
    assert (row.modality, row.loss, row.use) == ("text", None, "not measured")


def test_the_weights_of_patterns() -> None:
    assert weight_rows(whole()) == [
        ("all modalities", ["0.900", "0.100", "0.000"]),
        ("without image", ["1.000", "–", "0.000"]),
        ("only audio", ["–", "–", "1.000"]),
    ]
    assert weight_rows(plausible()) == []


def test_patterns_in_which_a_comparison_is_better() -> None:
    metrics = whole()
    assert pattern_findings(metrics, find(metrics)) == []
    metrics["floor"]["by_pattern"]["text+audio"]["ndcg@20"] = 0.99
    (sentence,) = pattern_findings(metrics, find(metrics))
    assert "“without image”: there KEEP (" in sentence
    assert sentence.endswith("is below content kNN (0.9900).")
    metrics["by_pattern"]["text+audio"]["users"] = 12
    assert pattern_findings(metrics, find(metrics)) == []


# ------------------------------------------------------------------------------------ the lists


def test_items_that_are_hardly_listed_are_said() -> None:
    metrics = whole()
    sentences = share_findings(metrics)
    assert (
        sentences[0] == "57 of the 60 new items are in at least one of the 800 lists of 10 places."
    )
    assert sentences[-1] == (
        "Items of the pattern “without text” get 5.0% of the places, but they are 20.0% of what "
        "customers took: customers rarely see them."
    )
    metrics["lists"]["by_pattern"]["image+audio"]["model"] = 0.15
    assert share_findings(metrics)[-1].startswith("No pattern gets less than half")


def test_a_random_order_gives_every_item_the_same_share() -> None:
    metrics = whole()
    sources = share_sources(metrics, find(metrics))
    assert list(sources.values()) == ["KEEP", "content kNN", "random order", "really taken"]
    _, patterns = share_tables(metrics, sources)
    assert patterns[1] == ("without text", 15, ["5.0%", "30.0%", "25.0%", "20.0%"])


def test_the_list_of_one_customer() -> None:
    metrics = whole()
    had, took, middle = example_sentences(metrics, find(metrics))
    assert had == "Customer 3 had Red hat, item 2 and 7 more."
    assert "took 4 of the 60 new items" in took
    assert "KEEP lists 1 of them in 10 places; content kNN lists 0, a random order 0.7" in took
    assert "about half of the customers have a better list" in middle


# ----------------------------------------------------------------------------------- next steps


def steps_of(metrics: dict[str, Any], **options: Any) -> list[tuple[str, str | None]]:
    findings = find(metrics)
    chosen = Options.of(metrics["model"], **options).resolved()
    worth = worth_rows(metrics, findings)
    steps = next_steps(metrics, findings, worth, chosen, Path("runs/my run"))
    return [(step.text, step.command) for step in steps]


def test_the_next_steps_of_a_good_model() -> None:
    steps = steps_of(whole(), data=Path("shop"))
    assert steps[0][1] == "milk-recsys recommend --run 'runs/my run' --items NEW_ITEMS"
    assert steps[1][0].startswith("Give every new item “text” first")
    assert steps[1][0].endswith("Items of the pattern “without text” are hardly listed.")
    assert "“audio”" in steps[2][0]
    assert steps[3][1] == "milk-recsys train --model keep --data shop --split-seed 1"


def test_the_next_steps_of_a_model_that_is_not_good() -> None:
    first, second, *_ = steps_of(whole(knn=0.5))
    assert first[0].startswith("Look at the data")
    assert second[0].startswith("If you use the model nevertheless: make lists")
    steps = steps_of(whole(knn=0.5) | {"model": "gar"}, data=Path("shop"), split_seed=4)
    assert steps[0][1] == "milk-recsys train --model keep --data shop --split-seed 4"
    # Runs of GAR have no vectors, so that lists need the data again.
    lists = [command for _, command in steps if "recommend" in (command or "")]
    assert [command.rpartition("--items ")[2] for command in lists] == ["NEW_ITEMS --data shop"]
    steps = steps_of(whole(knn=0.5) | {"model": "gar"})
    assert not any("recommend" in (command or "") for _, command in steps)


# -------------------------------------------------------------------------------------- the page


def test_only_the_options_that_the_method_takes_are_shown() -> None:
    options = Options.of("keep").resolved()
    shown = own_options({**to_json(options), "dataset": {}}, options)
    assert {"data", "seed", "split_seed", "monitor", "popularity", "rank"} <= set(shown)
    assert not {"epochs", "patience", "negatives", "norm_floor", "method", "dataset"} & set(shown)


def test_options_that_this_version_does_not_know_are_shown_as_stored() -> None:
    config = {"model": "of another package", "depth": 3, "dataset": {}}
    assert options_of(config) is None
    assert own_options(config, None) == {"model": "of another package", "depth": 3}


def test_the_page_of_a_whole_run(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", whole(), epochs=1)
    options = to_json(Options.of("keep", data=Path("my shop")).resolved())
    (run / "config.json").write_text(json.dumps({**options, "dataset": {"users": 812}}))
    page = Page(write_report(run).read_text(encoding="utf-8"))
    for text in (
        "KEEP ranks new items, which nobody has ordered yet, for each customer of embedded. It "
        "learns from past orders",
        "KEEP on test items with gaps: 60 candidates, 812 customers",
        "Blue <hat>",
        "milk-recsys train --model keep --data 'my shop'",
        "5 March 2026, 14:02 (UTC+0100)",
        "12.3",
        "the value that a random order",
    ):
        assert text.lower() in page.text.lower(), text
    assert "epochs1000" not in page.text.replace(" ", "")
    systems = systems_of(whole(), find(whole()))
    assert [system.title for system in systems] == ["KEEP", "content kNN", "random order"]
    for table in sections_of(whole(), systems):
        assert all(None not in values for _, values in table.rows), table.title


def test_every_term_on_hover_is_in_the_glossary(tmp_path: Path) -> None:
    page = page_of(tmp_path / "run", whole(), epochs=1)
    hover = [attributes["title"] for tag, attributes in page.attributes if tag == "abbr"]
    assert len(hover) >= 8
    assert all(hover)
    assert [name for name, _ in glossary(whole())] == [
        "95% interval", "candidates", "content kNN", "customer", "hit rate@K", "modality", "MRR@K",
        "NDCG@K", "new item", "pattern", "random order", "Recall@K", "with gaps",
    ]  # fmt: skip
    assert "first 10 places" in meaning("recall@10")
    assert meaning("unknown") == ""


def test_a_line_may_break_within_a_long_name() -> None:
    assert breakable("clip_image") == ["clip_", "image"]
    assert "".join(breakable("a  name__with-many.signs")) == "a  name__with-many.signs"
    assert max(map(len, breakable("x" * 50))) == 14
