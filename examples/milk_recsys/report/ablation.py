"""Answers on the model and its ablation, which were trained on the same split."""

from collections.abc import Mapping, Sequence
from typing import Any

from milk_recsys.report.values import (
    Answer,
    Estimate,
    Loss,
    amount,
    difference,
    signed,
    significance,
    value_of,
)
from milk_recsys.report.words import listed, metric_name, number

__all__ = ["level_answer", "robustness_answer"]


def robustness_answer(
    losses: Sequence[Loss],
    rival_losses: Mapping[str, Loss],
    loss_differences: Mapping[str, Estimate],
    names: tuple[str, str],
    metric: str,
    compare: Mapping[str, Any],
) -> Answer:
    """Compare the losses of the model and its ablation, for the modality with the largest loss."""
    name, rival = names
    question = (
        f"Does {name} lose less than its ablation, {rival}, which has neither module of MILK?"
    )
    if not losses and not rival_losses:
        return Answer(question, "Not measured: no modality was hidden in this run.")
    if not losses or losses[0].modality not in loss_differences:
        return Answer(
            question,
            "Not measured: the two models have no values with the same modality hidden.",
        )
    worst = losses[0]
    modality = worst.modality
    theirs, gap = rival_losses[modality], loss_differences[modality]
    change = f"{number(abs(gap.value))} {'less' if gap.value >= 0 else 'more'}"
    if gap.excludes_zero is None:
        headline = (
            f"On average {name} loses {change}; there is no interval, so the significance is "
            "unknown."
        )
    elif not gap.excludes_zero:
        headline = (
            f"There is no significant difference between the two losses with “{modality}” hidden."
        )
    else:
        headline = (
            f"{'Yes' if gap.value > 0 else 'No'}: with “{modality}” hidden {name} loses {change} "
            f"than {rival}."
        )
    # The sentence has "less" or "more", so the interval is that of the absolute difference.
    shift = gap if gap.value >= 0 else -gap
    details = [
        f"With “{modality}” hidden {name} loses {amount(worst)} and {rival} loses "
        f"{amount(theirs)}: {name} loses {change} (95% interval {shift.interval}"
        f"{significance(gap)})."
    ]
    left = difference(compare, ("imposed", modality), metric, worst.hidden - theirs.hidden)
    details.append(
        f"With “{modality}” hidden {metric_name(metric)} is {number(worst.hidden)} for {name} and "
        f"{number(theirs.hidden)} for {rival}, a difference of {signed(left)}{significance(left)}."
    )
    if gap.value > 0 and worst.hidden < theirs.hidden:
        details.append(
            f"The smaller loss is not an advantage here: {name} is below {rival} even with "
            f"“{modality}” hidden."
        )
    return Answer(question, headline, details + _other_modalities(loss_differences, modality, name))


def _other_modalities(loss_differences: Mapping[str, Estimate], worst: str, name: str) -> list[str]:
    """Write a sentence on the modalities other than the one with the largest loss."""
    groups: dict[str, list[str]] = {}
    for modality, gap in loss_differences.items():
        if modality != worst:
            clear = gap.excludes_zero
            verdict = (
                f"{name} loses {'less' if gap.value > 0 else 'more'}"
                if clear
                else "no significant difference"
            )
            groups.setdefault("no interval" if clear is None else verdict, []).append(
                f"“{modality}”"
            )
    if not groups:
        return []
    parts = [f"{verdict} for {listed(group)}" for verdict, group in groups.items()]
    return [f"For the other modalities: {'; '.join(parts)}."]


def level_answer(
    metrics: Mapping[str, Any], compare: Mapping[str, Any], names: tuple[str, str], metric: str
) -> Answer:
    """Compare the model and its ablation, under the setting and with complete test items."""
    name, rival = names
    question = (
        "Which of the two ranks new items better under the setting "
        f"{str(metrics['setting']).upper()}?"
    )
    gaps: dict[str, Estimate] = {}
    details = []
    for part, words in (
        ("test", "Under the setting"),
        ("test_complete", "With complete test items"),
    ):
        ours, theirs = value_of(metrics, part, metric), value_of(compare, part, metric)
        if ours is None or theirs is None:
            continue
        gap = gaps[part] = difference(compare, (part,), metric, ours - theirs)
        details.append(
            f"{words} {name} reaches {metric_name(metric)} {number(ours)} and {rival} reaches "
            f"{number(theirs)}, a difference of {signed(gap)}{significance(gap)}."
        )
    gap_here = gaps.get("test")
    if gap_here is None:
        return Answer(question, "Not measured: a value is missing.", details)
    ahead, size = (name if gap_here.value > 0 else rival), number(abs(gap_here.value))
    if gap_here.excludes_zero:
        headline = f"{ahead}, by {size} on {metric_name(metric)}."
    elif gap_here.excludes_zero is None:
        headline = (
            f"{ahead} on average, by {size}; there is no interval, so the significance is unknown."
        )
    else:
        headline = f"There is no significant difference (it is {size})."
    return Answer(question, headline, details)
