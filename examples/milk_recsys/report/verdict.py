"""Whether a model is good enough to use: its values beside content kNN and a random order."""

from collections.abc import Mapping
from typing import Any

from milk_recsys.report.values import (
    Answer,
    Estimate,
    difference,
    estimate,
    signed,
    significance,
    title_of,
    value_of,
)
from milk_recsys.report.words import listed, metric_name, number, percent

__all__ = ["candidates_of", "chance_difference", "few_candidates", "verdict_answer"]

COMPARISONS = {
    "content_knn": "This is content kNN, a comparison that needs no training. Train KEEP to see "
    "whether more is possible.",
    "random": "This is a random order, a comparison. Train KEEP to see what is possible.",
}
"""Verdicts on the methods with which the others are compared."""
QUESTION = "Is it good enough to use?"
RANDOM = "a random order"
EASY = 0.2
"""If a random order finds more than this share of the items in 20 places, the reader is warned."""


def verdict_answer(metrics: Mapping[str, Any], name: str, metric: str) -> Answer:
    """Compare the model with content kNN, which needs no training, and with a random order."""
    if metrics["model"] in COMPARISONS:
        warning = few_candidates(metrics)
        return Answer(QUESTION, COMPARISONS[metrics["model"]], [warning] if warning else [])
    untrained = metrics.get("floor") or {}
    ours, theirs = value_of(metrics, "test", metric), value_of(untrained, "test", metric)
    if ours is None:
        return Answer(QUESTION, "Not measured: a value is missing.")
    random, rival = chance_difference(metrics, metric), None
    if theirs is not None:
        rival = difference(untrained, ("test",), metric, ours - theirs)
    knn = title_of(untrained["model"]) if untrained else ""
    details = [_in_customers(metrics, name, knn)] if random else []
    details.append(_levels(metrics, name, knn, metric, rival, random))
    if untrained and rival is None:
        reason = untrained.get("left_out") or "a value is missing."
        details.append(f"{_capital(knn)} was not evaluated: {reason}")
    return Answer(
        QUESTION,
        _headline(name, knn, metric, rival, random),
        [text for text in (*details, few_candidates(metrics)) if text],
    )


def _headline(
    name: str, knn: str, metric: str, rival: Estimate | None, random: Estimate | None
) -> str:
    label = metric_name(metric)
    if random is not None and not random.low_above_zero:
        return f"No. {_capital(name)} is not better than {RANDOM}. Look for the cause."
    if rival is None:
        return "Not compared." if random is None else f"{_capital(name)} is better than {RANDOM}."
    also = "" if random is None else f", and better than {RANDOM}"
    amount = number(abs(rival.value))
    if rival.excludes_zero is None:
        return (
            f"Not clear. {name} differs from {knn}, which needs no training, by {amount} on "
            f"{label}; there is no interval, so the significance is unknown."
        )
    if not rival.excludes_zero:
        return (
            f"Not clear. There is no significant difference between {name} and {knn}, which needs "
            f"no training (it is {amount} on {label})."
        )
    if rival.value < 0:
        return (
            f"No. {_capital(knn)}, which needs no training, is better, by {amount} on {label}. Do "
            f"not use {name} before you have found the cause."
        )
    return f"Yes. {_capital(name)} is better than {knn}, which needs no training{also}."


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _in_customers(metrics: Mapping[str, Any], name: str, knn: str) -> str:
    """Return the hit rate in words, which needs no metric."""
    values = {
        name: value_of(metrics, "test", "hit@10"),
        knn: value_of(metrics.get("floor") or {}, "test", "hit@10"),
        RANDOM: value_of(metrics["chance"], "test", "hit@10"),
    }
    shown = {label: percent(value) for label, value in values.items() if value is not None}
    if name not in shown:
        return ""
    texts = [f"{value} with {label}" for label, value in shown.items() if label != RANDOM]
    texts += [f"{value} in {label}" for label, value in shown.items() if label == RANDOM]
    first, *others = texts
    where = f"among the first 10 of the {candidates_of(metrics):,} candidates"
    return (
        f"Of the customers who took new items, {first.partition(' ')[0]} find one of these {where} "
        f"with {name}, {listed(others)}."
    )


def _levels(
    metrics: Mapping[str, Any],
    name: str,
    knn: str,
    metric: str,
    rival: Estimate | None,
    random: Estimate | None,
) -> str:
    """Return the values of the three systems, and both differences."""
    levels, gaps = [f"{name} {number(value_of(metrics, 'test', metric))}"], []
    if rival is not None:
        levels.append(f"{knn} {number(value_of(metrics['floor'], 'test', metric))}")
        gaps.append(f" Difference from {knn}: {signed(rival)}{significance(rival)}.")
    if random is not None:
        levels.append(f"{RANDOM} {number(value_of(metrics['chance'], 'test', metric))}")
        gaps.append(f" Difference from {RANDOM}: {signed(random)}{significance(random)}.")
    return f"{metric_name(metric)}: {listed(levels)}.{''.join(gaps)}"


def chance_difference(metrics: Mapping[str, Any], metric: str) -> Estimate | None:
    """Return the model's value minus that of a random order; None for a run without it."""
    chance = metrics.get("chance") or {}
    ours, level = value_of(metrics, "test", metric), value_of(chance, "test", metric)
    if ours is None or level is None:
        return None
    ends = ((chance.get("difference") or {}).get("test") or {}).get(metric)
    return estimate(ours - level, ends)


def candidates_of(metrics: Mapping[str, Any], part: str = "test") -> int:
    """Return the number of items that are ranked in a part of the run; 0 if it is not known."""
    section = (metrics.get("chance") or {}).get(part) or {}
    return int(section.get("candidates") or 0)


def few_candidates(metrics: Mapping[str, Any]) -> str | None:
    """Return a warning if a random order already reaches high values; None if it does not."""
    count = candidates_of(metrics)
    level = value_of(metrics.get("chance") or {}, "test", "recall@20")
    if level is None or level <= EASY:
        return None
    if count <= 20:
        places, which = (
            ("20 places", "Recall@20 and hit rate@20 are")
            if count > 10
            else ("10 and the first 20 places", "Recall and hit rate, at 10 and at 20, are")
        )
        return (
            f"There are only {count} candidates, so the first {places} hold all of them: {which} "
            "1 for every order, a random one included, and say nothing about the model."
        )
    return (
        f"There are only {count} candidates, so lists are easy to fill: a random order already "
        f"puts {percent(level)} of the items that a customer took among the first 20. Judge by the "
        "distance to the random order, not by the distance to 1."
    )
