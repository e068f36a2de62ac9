"""Findings of a run in sentences: losses when modalities are missing, and their significance."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from milk_recsys.config.method import find_method, method_names

__all__ = [
    "FEW_USERS",
    "Answer",
    "Estimate",
    "Findings",
    "Loss",
    "find",
    "finite",
    "metric_name",
    "number",
    "pattern",
]

FEW_USERS = 30
"""A mean over fewer users than this is marked as uncertain."""


def _title(model: str) -> str:
    """Return the title of a method; the name itself if the method is no longer registered."""
    return find_method(model).title if model in method_names() else model


@dataclass(frozen=True)
class Estimate:
    """A difference with its 95% interval over users, if one was computed."""

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def excludes_zero(self) -> bool | None:
        """Whether the interval excludes 0; None without an interval."""
        if self.low is None or self.high is None:
            return None
        return self.low > 0 or self.high < 0

    @property
    def interval(self) -> str:
        """The interval as "low to high"; "no interval" if there is none."""
        if self.low is None or self.high is None:
            return "no interval"
        return f"{number(self.low)} to {number(self.high)}"

    def __neg__(self) -> "Estimate":
        # The ends change places as well as signs.
        flipped = [None if end is None else -end for end in (self.high, self.low)]
        return Estimate(-self.value, *flipped)


@dataclass(frozen=True)
class Loss:
    """Loss of a model's metric when one modality is hidden from all test items."""

    modality: str
    complete: float
    hidden: float
    estimate: Estimate  # complete - hidden

    @property
    def relative(self) -> float | None:
        """The loss as a share of the value with complete items; None if that value is 0."""
        return self.estimate.value / self.complete if self.complete > 0 else None


@dataclass(frozen=True)
class Answer:
    """A question, its answer in one sentence, and the sentences that support it."""

    question: str
    headline: str
    details: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Findings:
    """Statements and estimates that the page and the pictures show in addition to the plain tables.

    Attributes:
        metric: metric of all values here, as in metrics.json.
        name, rival: titles of the model and of its ablation; None without an ablation.
        losses: loss of the model for each hidden modality, the largest first.
        rival_losses: loss of the ablation for each hidden modality.
        loss_differences: for each modality, the loss of the ablation minus the loss of the model.
        answers: the questions of the page with their answers.
        caveats: limits of the results, one sentence or two each.
    """

    metric: str
    name: str
    rival: str | None
    losses: list[Loss]
    rival_losses: dict[str, Loss]
    loss_differences: dict[str, Estimate]
    answers: list[Answer]
    caveats: list[str]


def find(metrics: Mapping[str, Any]) -> Findings:
    """Return the findings of a metrics.json, for its monitored metric or else NDCG@20."""
    compare = metrics.get("compare")
    metric = _metric(metrics, compare)
    name = _title(metrics["model"])
    rival = None
    if compare:
        rival = _title(compare["model"])
        rival = f"{rival} (ablation)" if rival == name else rival
    losses = sorted(_losses(metrics, metric), key=lambda loss: -loss.estimate.value)
    rival_losses = {loss.modality: loss for loss in _losses(compare, metric)} if compare else {}
    loss_differences = {
        loss.modality: _loss_difference(
            loss, rival_losses[loss.modality], (compare or {}).get("difference") or {}, metric
        )
        for loss in losses
        if loss.modality in rival_losses
    }
    untrained = metrics.get("floor")
    answers = [_untrained_answer(metrics, untrained, name, metric)] if untrained else []
    answers.append(_costliest_answer(losses, name, metric, metrics))
    if compare and rival:
        answers.append(
            _robustness_answer(
                losses, rival_losses, loss_differences, (name, rival), metric, compare
            )
        )
        answers.append(_level_answer(metrics, compare, (name, rival), metric))
    answers.append(_setting_answer(metrics, name, metric))
    return Findings(
        metric,
        name,
        rival,
        losses,
        rival_losses,
        loss_differences,
        answers,
        _caveats(metrics, bool(loss_differences)),
    )


# ---------------------------------------------------------------------------------- the answers


def _costliest_answer(
    losses: Sequence[Loss], name: str, metric: str, metrics: Mapping[str, Any]
) -> Answer:
    """Name the modality with the largest loss, and state whether the loss is significant."""
    question = "Which missing modality lowers the metric most, and by how much?"
    if not losses and len(_modalities(metrics)) == 1:
        only = _modalities(metrics)[0]
        return Answer(
            question,
            f"There is only one modality, “{only}”: without it an item has no content to be "
            "ranked by.",
        )
    if not losses:
        return Answer(question, "Not measured: this run has no values with a modality hidden.")
    worst, label = losses[0], metric_name(metric)
    details = [_loss_sentence(worst, name, label, _users(metrics))]
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
    elif _overlap(worst, losses[1]):
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


def _loss_sentence(loss: Loss, name: str, label: str, users: int | None) -> str:
    """Describe the change with a modality hidden: both values, the difference, its interval."""
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
        return f"{text}. No interval over users was computed, so its significance is unknown."
    over = "over users" if users is None else f"over {users:,} {'user' if users == 1 else 'users'}"
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
    if _overlap(worst, second):
        return [
            f"{text}. The two intervals overlap, so this run does not show which of the two losses "
            "is larger."
        ]
    return [f"{text}. The two intervals do not overlap."]


def _robustness_answer(
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
    amount = f"{number(abs(gap.value))} {'less' if gap.value >= 0 else 'more'}"
    if gap.excludes_zero is None:
        headline = (
            f"On average {name} loses {amount}; there is no interval, so the significance is "
            "unknown."
        )
    elif not gap.excludes_zero:
        headline = (
            f"There is no significant difference between the two losses with “{modality}” hidden."
        )
    else:
        headline = (
            f"{'Yes' if gap.value > 0 else 'No'}: with “{modality}” hidden {name} loses {amount} "
            f"than {rival}."
        )
    # The sentence has "less" or "more", so the interval is that of the absolute difference.
    shift = gap if gap.value >= 0 else -gap
    details = [
        f"With “{modality}” hidden {name} loses {_amount(worst)} and {rival} loses "
        f"{_amount(theirs)}: {name} loses {amount} (95% interval {shift.interval}{_verdict(gap)})."
    ]
    left = _difference(compare, ("imposed", modality), metric, worst.hidden - theirs.hidden)
    details.append(
        f"With “{modality}” hidden {metric_name(metric)} is {number(worst.hidden)} for {name} and "
        f"{number(theirs.hidden)} for {rival}, a difference of {signed(left)}{_verdict(left)}."
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
    parts = [f"{verdict} for {_listed(group)}" for verdict, group in groups.items()]
    return [f"For the other modalities: {'; '.join(parts)}."]


def _level_answer(
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
        ours, theirs = _value(metrics, part, metric), _value(compare, part, metric)
        if ours is None or theirs is None:
            continue
        gap = gaps[part] = _difference(compare, (part,), metric, ours - theirs)
        details.append(
            f"{words} {name} reaches {metric_name(metric)} {number(ours)} and {rival} reaches "
            f"{number(theirs)}, a difference of {signed(gap)}{_verdict(gap)}."
        )
    gap_here = gaps.get("test")
    if gap_here is None:
        return Answer(question, "Not measured: a value is missing.", details)
    ahead, amount = (name if gap_here.value > 0 else rival), number(abs(gap_here.value))
    if gap_here.excludes_zero:
        headline = f"{ahead}, by {amount} on {metric_name(metric)}."
    elif gap_here.excludes_zero is None:
        headline = (
            f"{ahead} on average, by {amount}; there is no interval, so the significance is "
            "unknown."
        )
    else:
        headline = f"There is no significant difference (it is {amount})."
    return Answer(question, headline, details)


def _untrained_answer(
    metrics: Mapping[str, Any], untrained: Mapping[str, Any], name: str, metric: str
) -> Answer:
    """Compare the model with the untrained baseline."""
    rival, label = _title(untrained["model"]), metric_name(metric)
    question = f"Is {name} better than {rival}, which needs no training?"
    ours, theirs = _value(metrics, "test", metric), _value(untrained, "test", metric)
    if ours is None or theirs is None:
        return Answer(
            question, "Not measured: a value is missing.", [untrained.get("left_out", "")]
        )
    gap = _difference(untrained, ("test",), metric, ours - theirs)
    amount = number(abs(gap.value))
    if not gap.excludes_zero:
        headline = f"There is no significant difference (it is {amount})."
    elif gap.value > 0:
        headline = f"Yes, by {amount} on {label}."
    else:
        headline = (
            f"No: {rival} is better, by {amount} on {label}. Use {rival}, or look for the cause."
        )
    side = "higher" if gap.value > 0 else "lower"
    share = f" ({percent(abs(gap.value) / theirs)} {side})" if theirs > 0 else ""
    return Answer(
        question,
        headline,
        [
            f"Under the setting {name} reaches {label} {number(ours)} and {rival} reaches "
            f"{number(theirs)}, a difference of {signed(gap)}{_verdict(gap)}{share}.",
            f"{rival[0].upper()}{rival[1:]} scores a new item by its similarity to the items of a "
            f"user, over the modalities that the new item has. If a model does not beat {rival}, "
            f"use {rival}.",
        ],
    )


def _setting_answer(metrics: Mapping[str, Any], name: str, metric: str) -> Answer:
    """Compare the metric under the setting with the metric on complete test items."""
    setting = str(metrics["setting"]).upper()
    question = f"How much does {name} lose under the missing modalities of {setting}?"
    here, complete = _value(metrics, "test", metric), _value(metrics, "test_complete", metric)
    removed = sum(
        (((metrics.get("missingness") or {}).get("removed") or {}).get("test") or {}).values()
    )
    if not removed:
        return Answer(question, "Nothing: this setting removes no modality from a test item.")
    if here is None or complete is None:
        return Answer(question, "Not measured: a value is missing.")
    share = f" ({percent(abs(complete - here) / complete)})" if complete > 0 else ""
    return Answer(
        question,
        f"{metric_name(metric)} is {number(here)} under {setting} and {number(complete)} with "
        f"complete items: {number(abs(complete - here))} "
        f"{'lower' if here <= complete else 'higher'}{share}.",
        [
            f"{setting} removes {removed:,} modality entries from the test items. A hidden "
            "modality is removed from all of them."
        ],
    )


def _caveats(metrics: Mapping[str, Any], compared: bool) -> list[str]:
    """Return the limits of the results, as sentences."""
    caveats = [
        "The intervals come from resampling the test users of this run. They do not include the "
        "variation between splits and between training seeds: for a claim about the models, "
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
            f"{test['untrained_users']:,} of the {test['users']:,} test users {verb} no training "
            f"pair; {effect}."
        )
    by_pattern = metrics.get("by_pattern") or {}
    small_patterns = [
        f"“{pattern(key, _modalities(metrics))}”"
        for key, part in by_pattern.items()
        if (part.get("users") or 0) < FEW_USERS
    ]
    if small_patterns:
        caveats.append(
            f"The values of the pattern {_listed(small_patterns)} are means over fewer than "
            f"{FEW_USERS} users and are uncertain."
        )
    if len(by_pattern) > 1:
        caveats.append(
            "Patterns contain different items, so compare models within a pattern, not patterns "
            "with each other. To measure the cost of a missing modality, compare the same items "
            "with it and with it hidden."
        )
    return caveats


# ----------------------------------------------------------------------------- reading values


def _metric(metrics: Mapping[str, Any], compare: Mapping[str, Any] | None) -> str:
    """Return the monitored metric, or NDCG@20 if `drops` has only that one."""
    monitor = str(metrics["monitor"])
    drops = [d for part in (metrics, compare or {}) for d in (part.get("drops") or {}).values()]
    if all(monitor in drop for drop in drops) or not all("ndcg@20" in drop for drop in drops):
        return monitor
    return "ndcg@20"


def _losses(part: Mapping[str, Any], metric: str) -> Iterable[Loss]:
    """Yield the loss for each hidden modality, from `drops`, or from `imposed` (no interval)."""
    drops, imposed = part.get("drops") or {}, part.get("imposed") or {}
    for modality in dict.fromkeys([*imposed, *drops]):
        drop = (drops.get(modality) or {}).get(metric) or {}
        complete = finite(drop.get("complete", _value(part, "test_complete", metric)))
        hidden = finite(drop.get("hidden", (imposed.get(modality) or {}).get(metric)))
        if complete is not None and hidden is not None:
            yield Loss(modality, complete, hidden, _estimate(complete - hidden, drop))


def _loss_difference(
    mine: Loss, theirs: Loss, difference: Mapping[str, Any], metric: str
) -> Estimate:
    """Return the loss of the ablation minus the loss of the model.

    Its interval is the one paired over users if `difference` has it. Otherwise it is combined from
    two other paired differences (model minus ablation): hidden, with the modality hidden, and
    complete, with complete items. The estimate is then hidden - complete, and the interval from
    hidden.low - complete.high to hidden.high - complete.low is conservative.
    """
    value = theirs.estimate.value - mine.estimate.value
    paired = ((difference.get("drops") or {}).get(mine.modality) or {}).get(metric)
    if paired:
        # The file has the loss of the model minus that of the ablation, so the sign changes.
        return -_estimate(-value, paired)
    hidden = _estimate(
        0.0, ((difference.get("imposed") or {}).get(mine.modality) or {}).get(metric)
    )
    complete = _estimate(0.0, (difference.get("test_complete") or {}).get(metric))
    if hidden.low is None or hidden.high is None or complete.low is None or complete.high is None:
        return Estimate(value)
    return Estimate(value, hidden.low - complete.high, hidden.high - complete.low)


def _difference(
    compare: Mapping[str, Any], path: Sequence[str], metric: str, value: float
) -> Estimate:
    """Return the entry of `difference` at `path`: model minus ablation, with its interval."""
    entry: Any = compare.get("difference")
    for key in (*path, metric):
        entry = (entry or {}).get(key)
    return _estimate(value, entry)


def _estimate(value: float, ends: Mapping[str, Any] | None) -> Estimate:
    """Return a value with the interval from `low` to `high` of `ends`, if both are numbers."""
    low, high = finite((ends or {}).get("low")), finite((ends or {}).get("high"))
    return Estimate(value) if low is None or high is None else Estimate(value, low, high)


def _value(part: Mapping[str, Any], key: str, metric: str) -> float | None:
    return finite((part.get(key) or {}).get(metric))


def _users(metrics: Mapping[str, Any]) -> int | None:
    """Return the number of test users."""
    return (metrics.get("test_complete") or metrics.get("test") or {}).get("users")


def _modalities(metrics: Mapping[str, Any]) -> Sequence[str]:
    return (metrics.get("missingness") or {}).get("modalities") or ()


def finite(value: Any) -> float | None:
    """Return a finite number as a float; None for all else, such as null or NaN."""
    if isinstance(value, (int, float)) and math.isfinite(value):
        return float(value)
    return None


def _overlap(first: Loss, second: Loss) -> bool:
    """Return whether the interval of the larger loss reaches down to that of the smaller one."""
    return (
        first.estimate.low is not None
        and second.estimate.high is not None
        and first.estimate.low <= second.estimate.high
    )


# --------------------------------------------------------------------------------------- text


def pattern(key: str, modalities: Sequence[str]) -> str:
    """Describe a pattern by its available or by its missing modalities, whichever are fewer.

    Arguments:
        key: the available modalities joined by "+", or "none".
        modalities: names of all modalities, in the order in which a key joins them.

    Example:
        >>> names = ("text", "image", "audio")
        >>> [pattern(key, names) for key in ("text+image+audio", "text+audio", "audio", "none")]
        ['all modalities', 'without image', 'only audio', 'no modality']
    """
    # A name may contain "+", so the names are removed from the front one by one instead of
    # splitting the key.
    rest, missing = f"{key}+", []
    for modality in modalities:
        if rest.startswith(f"{modality}+"):
            rest = rest[len(modality) + 1 :]
        else:
            missing.append(modality)
    if rest == "none+" and len(missing) == len(modalities):
        return "no modality"
    if rest:
        return key
    if not missing:
        return "all modalities"
    if len(missing) < len(modalities) - 1 or len(modalities) == 2:
        return f"without {_listed(missing)}"
    return f"only {key}"


def metric_name(metric: str) -> str:
    """Return the name of a metric in prose: NDCG@20, Recall@10, hit rate@10 or MRR@20."""
    kind, _, k = metric.partition("@")
    return {"ndcg": "NDCG", "recall": "Recall", "hit": "hit rate", "mrr": "MRR"}.get(
        kind, kind
    ) + f"@{k}"


def number(value: Any, digits: int = 4, *, plus: bool = False) -> str:
    """Return a number as text (with a plus sign if `plus`); an en dash if it is not finite."""
    from invmod.robustness.numbers import true_minus  # `invmod` imports torch: see page.py.

    known = finite(value)
    return "–" if known is None else true_minus(f"{known:{'+' if plus else ''}.{digits}f}")


def percent(share: float) -> str:
    """Return a share as a percentage with one decimal."""
    from invmod.robustness import numbers  # `invmod` imports torch: see page.py.

    return numbers.true_minus(numbers.percent(share))


def signed(estimate: Estimate) -> str:
    """Return a difference with its sign and its interval, if it has one."""
    value = number(estimate.value, plus=True)
    return value if estimate.low is None else f"{value} (95% interval {estimate.interval})"


def _amount(loss: Loss) -> str:
    """Return a loss as a number with its share in parentheses."""
    return number(loss.estimate.value) + (
        "" if loss.relative is None else f" ({percent(loss.relative)})"
    )


def _verdict(estimate: Estimate) -> str:
    """Return the end of a sentence on a difference: whether it is significant."""
    if estimate.excludes_zero is None:
        return "; no interval, so the significance is unknown"
    return ", which excludes 0" if estimate.excludes_zero else ", which includes 0: not significant"


def _listed(words: Sequence[str]) -> str:
    """Join words with commas and a final "and"."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
