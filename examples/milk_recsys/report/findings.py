"""Findings of a run in sentences: how good it is, what each modality is worth, and the limits."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from milk_recsys.config.method import find_method
from milk_recsys.report.ablation import level_answer, robustness_answer
from milk_recsys.report.values import (
    FEW_CUSTOMERS,
    Answer,
    Estimate,
    Loss,
    loss_difference,
    losses_of,
    modalities_of,
    num_customers,
    overlap,
    title_of,
    value_of,
)
from milk_recsys.report.verdict import verdict_answer
from milk_recsys.report.words import finite, listed, metric_name, number, pattern, percent

__all__ = ["Findings", "find"]


@dataclass(frozen=True)
class Findings:
    """Statements and estimates that the page and the pictures show in addition to the plain tables.

    Attributes:
        metric: metric of all values here, as in metrics.json.
        name, rival: titles of the model and of its ablation; None without an ablation.
        losses: loss of the model for each hidden modality, the largest first.
        rival_losses: loss of the ablation for each hidden modality.
        loss_differences: for each modality, the loss of the ablation minus the loss of the model.
        verdict: whether the model is good enough to use.
        worth: which modality is worth most.
        gaps: what the setting's missing modalities cost.
        ablation: comparison with the ablation; empty without one.
        caveats: limits of the results, one sentence or two each.
    """

    metric: str
    name: str
    rival: str | None
    losses: list[Loss]
    rival_losses: dict[str, Loss]
    loss_differences: dict[str, Estimate]
    verdict: Answer
    worth: Answer
    gaps: Answer
    ablation: list[Answer]
    caveats: list[str]


def find(metrics: Mapping[str, Any]) -> Findings:
    """Return the findings of a metrics.json, for its monitored metric or else NDCG@20."""
    compare = metrics.get("compare")
    metric = _metric(metrics, compare)
    name, rival = title_of(metrics["model"]), None
    if compare:
        rival = title_of(compare["model"])
        rival = f"{rival} (ablation)" if rival == name else rival
    losses = sorted(losses_of(metrics, metric), key=lambda loss: -loss.estimate.value)
    rival_losses = {loss.modality: loss for loss in losses_of(compare, metric)} if compare else {}
    loss_differences = {
        loss.modality: loss_difference(
            loss, rival_losses[loss.modality], (compare or {}).get("difference") or {}, metric
        )
        for loss in losses
        if loss.modality in rival_losses
    }
    ablation = []
    if compare and rival:
        names = (name, rival)
        ablation = [
            robustness_answer(losses, rival_losses, loss_differences, names, metric, compare),
            level_answer(metrics, compare, names, metric),
        ]
    return Findings(
        metric=metric,
        name=name,
        rival=rival,
        losses=losses,
        rival_losses=rival_losses,
        loss_differences=loss_differences,
        verdict=verdict_answer(metrics, name, metric),
        worth=_costliest_answer(losses, name, metric, metrics),
        gaps=_setting_answer(metrics, metric),
        ablation=ablation,
        caveats=_caveats(metrics, bool(loss_differences)),
    )


def _costliest_answer(
    losses: Sequence[Loss], name: str, metric: str, metrics: Mapping[str, Any]
) -> Answer:
    """Name the modality with the largest loss, and state whether the loss is significant."""
    question = "Which modality is worth most, and which is worth nothing?"
    if not losses and len(modalities_of(metrics)) == 1:
        only = modalities_of(metrics)[0]
        return Answer(
            question,
            f"There is only one modality, “{only}”: without it an item has no content to be "
            "ranked by.",
        )
    if not losses:
        return Answer(question, "Not measured: this run has no values with a modality hidden.")
    worst, label = losses[0], metric_name(metric)
    details = [_loss_sentence(worst, name, label, num_customers(metrics))]
    details += _against_next(losses)
    if worst.estimate.value <= 0:
        headline = f"None: hiding a modality does not lower {label} in this run."
    elif len(losses) == 1:
        headline = (
            f"There is only one modality, “{worst.modality}”. Without it {_falls(worst, label)}."
        )
    elif worst.estimate.excludes_zero is False:
        headline = (
            f"“{worst.modality}” has the largest loss, but this loss is not statistically "
            "significant."
        )
    elif overlap(worst, losses[1]):
        headline = (
            f"“{worst.modality}” has the largest loss: without it {_falls(worst, label)}. Its "
            f"interval and that of “{losses[1].modality}” overlap, so their order is uncertain."
        )
    else:
        headline = f"“{worst.modality}”: without it {_falls(worst, label)}."
    return Answer(question, headline, details)


def _falls(loss: Loss, label: str) -> str:
    """Return the clause "NDCG@20 falls by ..."."""
    share = "" if loss.relative is None else f" ({percent(loss.relative)})"
    verb = "falls" if loss.estimate.value > 0 else "rises"
    return f"{label} {verb} by {number(abs(loss.estimate.value))}{share}"


def _loss_sentence(loss: Loss, name: str, label: str, customers: int | None) -> str:
    """Describe the change with a modality hidden: both values, the difference, its interval."""
    if loss.estimate.value == 0:
        return (
            f"With “{loss.modality}” hidden from all test items, {label} of {name} remains "
            f"{number(loss.complete)}."
        )
    lost = loss.estimate.value > 0
    change = loss.estimate if lost else -loss.estimate
    word = "loss" if lost else "gain"
    share = (
        ""
        if loss.relative is None
        else f" ({percent(abs(loss.relative))} of the value with complete items)"
    )
    text = (
        f"With “{loss.modality}” hidden from all test items, {label} of {name} changes from "
        f"{number(loss.complete)} to {number(loss.hidden)}: a {word} of "
        f"{number(change.value)}{share}"
    )
    if change.excludes_zero is None:
        return f"{text}. No interval over customers was computed, so its significance is unknown."
    noun = "customer" if customers == 1 else "customers"
    over = "over customers" if customers is None else f"over {customers:,} {noun}"
    verdict = (
        "which excludes 0"
        if change.excludes_zero
        else f"which includes 0: the {word} is not statistically significant"
    )
    return f"{text}, with a 95% interval {over} of {change.interval}, {verdict}."


def _against_next(losses: Sequence[Loss]) -> list[str]:
    """Compare the largest loss with the second largest, by whether their intervals overlap."""
    if len(losses) < 2:
        return []
    worst, second = losses[:2]
    if second.estimate.value <= 0:
        return ["The value is not lower when any of the other modalities is hidden."]
    share = "" if second.relative is None else f", {percent(second.relative)}"
    text = (
        f"The second largest loss is that of “{second.modality}” "
        f"({number(second.estimate.value)}{share}; 95% interval {second.estimate.interval})"
    )
    if second.estimate.low is None or worst.estimate.low is None:
        return [f"{text}."]
    if overlap(worst, second):
        return [
            f"{text}. The two intervals overlap, so this run does not show which of the two losses "
            "is larger."
        ]
    return [f"{text}. The two intervals do not overlap."]


def _setting_answer(metrics: Mapping[str, Any], metric: str) -> Answer:
    """Compare the metric under the setting with the metric on complete test items."""
    setting = str(metrics["setting"]).upper()
    question = "How much worse are the lists if new items arrive incomplete?"
    here, complete = value_of(metrics, "test", metric), value_of(metrics, "test_complete", metric)
    removed = sum(
        (((metrics.get("missingness") or {}).get("removed") or {}).get("test") or {}).values()
    )
    if not removed:
        return Answer(question, f"Not tried: the setting {setting} removes nothing from new items.")
    if here is None or complete is None:
        return Answer(question, "Not measured: a value is missing.")
    share = f" ({percent(abs(complete - here) / complete)})" if complete > 0 else ""
    side = "lower" if here <= complete else "higher"
    times = f"{removed:,} {'time' if removed == 1 else 'times'}"
    return Answer(
        question,
        f"{metric_name(metric)} is {number(here)} with gaps and {number(complete)} with complete "
        f"items: {number(abs(complete - here))} {side}{share}.",
        [
            f"To imitate items that arrive incomplete, the setting {setting} removed a modality "
            f"from a test item {times}. The figures “with gaps” are measured in this way."
        ],
    )


def _caveats(metrics: Mapping[str, Any], compared: bool) -> list[str]:
    """Return the limits of the results, as sentences."""
    caveats = [
        "The intervals come from resampling the test customers of this run. They do not include "
        "the variation between splits and between training seeds: for a claim about the models, "
        "repeat the run over several of both."
    ]
    if compared and not ((metrics.get("compare") or {}).get("difference") or {}).get("drops"):
        caveats.append(
            "The interval of the difference between two losses is combined from two paired "
            "intervals, so it is wider than necessary."
        )
    test = metrics.get("test") or {}
    if finite(test.get("untrained_users")):
        single = test["untrained_users"] == 1
        verb, vectors = (
            ("has", "that vector keeps its") if single else ("have", "their vectors keep their")
        )
        effect = (
            f"{vectors} random initial values"
            if find_method(metrics["model"]).trains
            else "nothing is known about their preferences"
        )
        caveats.append(
            f"{test['untrained_users']:,} of the {test['users']:,} test customers {verb} no "
            f"training pair; {effect}."
        )
    by_pattern = metrics.get("by_pattern") or {}
    small_patterns = [
        f"“{pattern(key, modalities_of(metrics))}”"
        for key, part in by_pattern.items()
        if (part.get("users") or 0) < FEW_CUSTOMERS
    ]
    if small_patterns:
        caveats.append(
            f"The values of the pattern {listed(small_patterns)} are means over fewer than "
            f"{FEW_CUSTOMERS} customers and are uncertain."
        )
    if len(by_pattern) > 1:
        caveats.append(
            "Patterns contain different items, so compare models within a pattern, not patterns "
            "with each other. To measure the cost of a missing modality, compare the same items "
            "with it and with it hidden."
        )
    return caveats


def _metric(metrics: Mapping[str, Any], compare: Mapping[str, Any] | None) -> str:
    """Return the monitored metric, or NDCG@20 if `drops` has only that one."""
    monitor = str(metrics["monitor"])
    drops = [d for part in (metrics, compare or {}) for d in (part.get("drops") or {}).values()]
    if all(monitor in drop for drop in drops) or not all("ndcg@20" in drop for drop in drops):
        return monitor
    return "ndcg@20"
