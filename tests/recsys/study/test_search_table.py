"""The search may try texts as well as numbers, and the table of chosen options shows both."""

from types import SimpleNamespace

from milk_recsys.study.proposals import propose
from milk_recsys.study.spaces import SPACES
from milk_recsys.study.tables import table_search

SPACE = SPACES["graph_imputation"]


def trials(count):
    """Make trials one after the other; the score of `heat` is the best."""
    lines = []
    for number in range(count):
        tuned = propose(SPACE, (26, number), lines, "validation")
        score = 0.5 if tuned["diffusion"] == "heat" else 0.1
        lines.append({"number": number, "tuned": tuned, "validation": {"ndcg@20": score}})
    return lines


def test_texts_are_proposed_and_shown():
    lines = trials(8)
    assert {line["tuned"]["diffusion"] for line in lines} <= set(SPACE["diffusion"].values)
    assert len({line["tuned"]["diffusion"] for line in lines}) > 1
    lines[3]["tuned"] = {"diffusion": "heat", "neighbours": 20, "ridge": 1.23456, "smoothing": 30.0}
    lines[3]["validation"] = {"ndcg@20": 0.75}
    store = SimpleNamespace(of=lambda phase, method: lines)
    plan = SimpleNamespace(systems=lambda _store: ["graph_imputation"])
    (row,) = table_search(plan, store)
    assert row["chosen"] == "diffusion heat, neighbours 20, ridge 1.23, smoothing 30"
    assert (row["the best"], row["validation ndcg@20"]) == ("4", "0.750")
