"""What a run's figures say in words: what a missing modality costs, and what can be told from noise."""

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
"""A mean over fewer users than this is pointed out as uncertain."""


def _title(model: str) -> str:
    """Return the name of a method in a report; that of one's own, which is not there any more, as it is."""
    return find_method(model).title if model in method_names() else model


@dataclass(frozen=True)
class Estimate:
    """A difference with its 95% interval over users, where one was computed."""

    value: float
    low: float | None = None
    high: float | None = None

    @property
    def excludes_zero(self) -> bool | None:
        """Whether the interval lies on one side of 0; None without an interval."""
        if self.low is None or self.high is None:
            return None
        return self.low > 0 or self.high < 0

    @property
    def interval(self) -> str:
        """The interval as "low to high"; "no interval" without one."""
        if self.low is None or self.high is None:
            return "no interval"
        return f"{number(self.low)} to {number(self.high)}"

    def __neg__(self) -> "Estimate":
        flipped = [None if end is None else -end for end in (self.high, self.low)]
        return Estimate(-self.value, *flipped)


@dataclass(frozen=True)
class Loss:
    """What hiding one modality from every test item costs a model."""

    modality: str
    complete: float
    hidden: float
    loss: Estimate  # complete - hidden

    @property
    def relative(self) -> float | None:
        """The loss as a share of the complete figure; None where that is 0."""
        return self.loss.value / self.complete if self.complete > 0 else None


@dataclass(frozen=True)
class Answer:
    """A question, its answer in a sentence, and what supports it."""

    question: str
    headline: str
    details: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Findings:
    """Everything the page and the pictures say beyond the plain tables.

    `losses` and `rival_losses` (of the ablation) are sorted by the model's own loss, largest first; `less`
    says by how much less the model loses than the ablation, a modality each.
    """

    metric: str
    name: str
    rival: str | None
    losses: list[Loss]
    rival_losses: dict[str, Loss]
    less: dict[str, Estimate]
    answers: list[Answer]
    caveats: list[str]


def find(metrics: Mapping[str, Any]) -> Findings:
    """Findings of a run's metrics.json, about its monitored metric (NDCG@20 where drops lack that one)."""
    compare = metrics.get("compare")
    metric = _metric(metrics, compare)
    name = _title(metrics["model"])
    rival = None
    if compare:
        rival = _title(compare["model"])
        rival = f"{rival} (ablation)" if rival == name else rival
    losses = sorted(_losses(metrics, metric), key=lambda loss: -loss.loss.value)
    rival_losses = {loss.modality: loss for loss in _losses(compare, metric)} if compare else {}
    less = {
        loss.modality: _loses_less(
            loss, rival_losses[loss.modality], (compare or {}).get("difference") or {}, metric
        )
        for loss in losses
        if loss.modality in rival_losses
    }
    floor = metrics.get("floor")
    answers = [_floor_answer(metrics, floor, name, metric)] if floor else []
    answers.append(_hurts_most(losses, name, metric, metrics))
    if compare and rival:
        answers.append(
            _robustness_answer(losses, rival_losses, less, (name, rival), metric, compare)
        )
        answers.append(_level_answer(metrics, compare, (name, rival), metric))
    answers.append(_setting_answer(metrics, name, metric))
    return Findings(
        metric, name, rival, losses, rival_losses, less, answers, _caveats(metrics, bool(less))
    )


# ---------------------------------------------------------------------------------- the answers


def _hurts_most(
    losses: Sequence[Loss], name: str, metric: str, metrics: Mapping[str, Any]
) -> Answer:
    """Which modality costs most, by how much, and whether that is more than noise."""
    question = "Which modality hurts most when it is missing, and by how much?"
    if not losses and len(_modalities(metrics)) == 1:
        only = _modalities(metrics)[0]
        return Answer(
            question, f"There is one modality, “{only}”: with it hidden nothing is left to rank by."
        )
    if not losses:
        return Answer(question, "This run does not tell: it has no figures with a modality hidden.")
    worst, label = losses[0], metric_name(metric)
    details = [_loss_sentence(worst, name, label, _users(metrics))]
    details += _against_next(losses)
    if worst.loss.value <= 0:
        headline = f"None: hiding a modality does not lower {label} in this run."
    elif len(losses) == 1:
        headline = f"There is one modality, “{worst.modality}”, so nothing to rank. Without it {_falls(worst, label)}."
    elif worst.loss.excludes_zero is False:
        headline = (
            f"“{worst.modality}” costs most, but even its loss cannot be told apart from noise."
        )
    elif _overlap(worst, losses[1]):
        headline = (
            f"“{worst.modality}” by the figures, where {_falls(worst, label)}, but the order of "
            f"“{worst.modality}” and “{losses[1].modality}” cannot be told."
        )
    else:
        headline = f"“{worst.modality}”: without it {_falls(worst, label)}."
    return Answer(question, headline, details)


def _falls(loss: Loss, label: str) -> str:
    share = "" if loss.relative is None else f" ({percent(loss.relative)})"
    verb = "falls" if loss.loss.value > 0 else "rises"
    return f"{label} {verb} by {number(abs(loss.loss.value))}{share}"


def _loss_sentence(loss: Loss, name: str, label: str, users: int | None) -> str:
    """One modality hidden: from, to, the change with its interval, and what the interval says."""
    lost = loss.loss.value > 0
    change = loss.loss if lost else -loss.loss
    word = "loss" if lost else "gain"
    share = (
        "" if loss.relative is None else f" ({percent(abs(loss.relative))} of the complete figure)"
    )
    text = (
        f"Hidden from every test item, “{loss.modality}” takes {name}’s {label} from {number(loss.complete)} to "
        f"{number(loss.hidden)}: a {word} of {number(change.value)}{share}"
    )
    if change.excludes_zero is None:
        return f"{text}. No interval over users was computed, so chance is not ruled out."
    over = "over users" if users is None else f"over {users:,} {'user' if users == 1 else 'users'}"
    verdict = (
        "which excludes 0"
        if change.excludes_zero
        else f"which includes 0: the {word} cannot be told apart from noise"
    )
    return f"{text}, with a 95% interval {over} of {change.interval}, {verdict}."


def _against_next(losses: Sequence[Loss]) -> list[str]:
    """How the runner-up compares, and whether the order of the two is settled."""
    if len(losses) < 2:
        return []
    worst, second = losses[:2]
    share = "" if second.relative is None else f", {percent(second.relative)}"
    text = f"Next is “{second.modality}” ({number(second.loss.value)}{share}; 95% interval {second.loss.interval})"
    if second.loss.low is None or worst.loss.low is None:
        return [f"{text}."]
    if _overlap(worst, second):
        return [
            f"{text}. The two intervals overlap, so which of the two costs more cannot be told from this run."
        ]
    return [f"{text}. The two intervals do not overlap."]


def _robustness_answer(
    losses: Sequence[Loss],
    rival_losses: Mapping[str, Loss],
    less: Mapping[str, Estimate],
    names: tuple[str, str],
    metric: str,
    compare: Mapping[str, Any],
) -> Answer:
    """Whether the model loses less than its ablation where it hurts most."""
    name, rival = names
    question = f"Does {name} lose less than its ablation, {rival}, which has neither of MILK’s two modules?"
    if not losses and not rival_losses:
        return Answer(question, "This run does not tell: no modality was hidden.")
    if not losses or losses[0].modality not in less:
        return Answer(
            question,
            "This run does not tell: the two have no figures with the same modality hidden.",
        )
    worst = losses[0]
    modality = worst.modality
    theirs, gap = rival_losses[modality], less[modality]
    amount = f"{number(abs(gap.value))} {'less' if gap.value >= 0 else 'more'}"
    if gap.excludes_zero is None:
        headline = (
            f"By the figures {name} loses {amount}; without an interval chance is not ruled out."
        )
    elif not gap.excludes_zero:
        headline = f"It cannot be told: with “{modality}” hidden the two losses cannot be told apart from equal ones."
    else:
        headline = f"{'Yes' if gap.value > 0 else 'No'}: with “{modality}” hidden {name} loses {amount} than {rival}."
    shift = gap if gap.value >= 0 else -gap
    details = [
        f"With “{modality}” hidden {name} loses {_amount(worst)} and {rival} {_amount(theirs)}: {name} loses {amount} "
        f"(95% interval {shift.interval}{_verdict(gap)})."
    ]
    left = _difference(compare, ("imposed", modality), metric, worst.hidden - theirs.hidden)
    details.append(
        f"What is left with “{modality}” hidden is {number(worst.hidden)} for {name} and {number(theirs.hidden)} for "
        f"{rival}, a difference of {signed(left)}{_verdict(left)}."
    )
    if gap.value > 0 and worst.hidden < theirs.hidden:
        details.append(
            f"Losing less is no gain here: {name} starts lower and still ends lower than {rival}."
        )
    return Answer(question, headline, details + _other_modalities(less, modality, name))


def _other_modalities(less: Mapping[str, Estimate], worst: str, name: str) -> list[str]:
    """A sentence on the modalities other than the one that hurts most."""
    groups: dict[str, list[str]] = {}
    for modality, gap in less.items():
        if modality != worst:
            clear = gap.excludes_zero
            verdict = (
                f"{name} loses {'less' if gap.value > 0 else 'more'}"
                if clear
                else "cannot be told apart"
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
    """Which of the two ranks the test items better, under the setting and with nothing removed."""
    name, rival = names
    question = f"Which of the two ranks new items better under the setting {str(metrics['setting']).upper()}?"
    gaps: dict[str, Estimate] = {}
    details = []
    for part, words in (
        ("test", "Under the setting"),
        ("test_complete", "With nothing removed from the test items"),
    ):
        ours, theirs = _value(metrics, part, metric), _value(compare, part, metric)
        if ours is None or theirs is None:
            continue
        gap = gaps[part] = _difference(compare, (part,), metric, ours - theirs)
        details.append(
            f"{words} {name} reaches {metric_name(metric)} {number(ours)} and {rival} {number(theirs)}, "
            f"a difference of {signed(gap)}{_verdict(gap)}."
        )
    gap_here = gaps.get("test")
    if gap_here is None:
        return Answer(question, "This run does not tell: a figure is missing.", details)
    ahead, amount = (name if gap_here.value > 0 else rival), number(abs(gap_here.value))
    if gap_here.excludes_zero:
        headline = f"{ahead}, by {amount} on {metric_name(metric)}."
    elif gap_here.excludes_zero is None:
        headline = (
            f"{ahead} by the figures, by {amount}; without an interval chance is not ruled out."
        )
    else:
        headline = f"It cannot be told: the difference of {amount} cannot be told apart from 0."
    return Answer(question, headline, details)


def _floor_answer(
    metrics: Mapping[str, Any], floor: Mapping[str, Any], name: str, metric: str
) -> Answer:
    """Whether the model is better than what trains nothing."""
    rival, label = _title(floor["model"]), metric_name(metric)
    question = f"Is {name} better than {rival}, which trains nothing?"
    ours, theirs = _value(metrics, "test", metric), _value(floor, "test", metric)
    if ours is None or theirs is None:
        return Answer(
            question, "This run does not tell: a figure is missing.", [floor.get("left_out", "")]
        )
    gap = _difference(floor, ("test",), metric, ours - theirs)
    amount = number(abs(gap.value))
    if not gap.excludes_zero:
        headline = f"It cannot be told: the difference of {amount} cannot be told apart from 0."
    elif gap.value > 0:
        headline = f"Yes, by {amount} on {label}."
    else:
        headline = (
            f"No: {rival} is better, by {amount} on {label}. Use that, or find out what is wrong."
        )
    side = "higher" if gap.value > 0 else "lower"
    share = f" ({percent(abs(gap.value) / theirs)} {side})" if theirs > 0 else ""
    return Answer(
        question,
        headline,
        [
            f"Under the setting {name} reaches {label} {number(ours)} and {rival} {number(theirs)}, a difference "
            f"of {signed(gap)}{_verdict(gap)}{share}.",
            f"{rival[0].upper()}{rival[1:]} sums how like a new item is to each item that a user has, by the "
            "modalities that it has. Every run ranks by it too: what does not beat it has not earned its place.",
        ],
    )


def _setting_answer(metrics: Mapping[str, Any], name: str, metric: str) -> Answer:
    """What the setting's own missingness costs."""
    setting = str(metrics["setting"]).upper()
    question = f"What does the missingness of the setting {setting} cost {name}?"
    here, complete = _value(metrics, "test", metric), _value(metrics, "test_complete", metric)
    removed = sum(
        (((metrics.get("missingness") or {}).get("removed") or {}).get("test") or {}).values()
    )
    if not removed:
        return Answer(question, "Nothing: it removes no modality from a test item.")
    if here is None or complete is None:
        return Answer(question, "This run does not tell: a figure is missing.")
    share = f" ({percent((complete - here) / complete)})" if complete > 0 else ""
    return Answer(
        question,
        f"{metric_name(metric)} is {number(here)} under it and {number(complete)} with nothing removed: "
        f"{number(abs(complete - here))} {'lower' if here <= complete else 'higher'}{share}.",
        [
            f"It takes {removed:,} of the modality entries of the test items; hiding a modality takes it from every one."
        ],
    )


def _caveats(metrics: Mapping[str, Any], compared: bool) -> list[str]:
    """What the figures do not cover."""
    caveats = [
        "The intervals resample the test users of this one run. They say nothing of another split or another "
        "training seed: for a claim about the models, repeat the run over several of both."
    ]
    if compared and not ((metrics.get("compare") or {}).get("difference") or {}).get("drops"):
        caveats.append(
            "The interval of the difference between two losses is put together from two paired intervals and is wider "
            "than it need be."
        )
    test = metrics.get("test") or {}
    if finite(test.get("untrained_users")):
        alone = test["untrained_users"] == 1
        drawn = f"{'that vector is as it was' if alone else 'their vectors are as they were'} drawn at the start"
        caveats.append(
            f"{test['untrained_users']:,} of the {test['users']:,} test users {'has' if alone else 'have'} no training "
            f"pair; {'nothing is known of what they like' if not find_method(metrics['model']).trains else drawn}."
        )
    by_pattern = metrics.get("by_pattern") or {}
    few = [
        f"“{pattern(key, _modalities(metrics))}”"
        for key, part in by_pattern.items()
        if (part.get("users") or 0) < FEW_USERS
    ]
    if few:
        caveats.append(
            f"Fewer than {FEW_USERS} users are behind the figures of the pattern {_listed(few)}: they are uncertain."
        )
    if len(by_pattern) > 1:
        caveats.append(
            "Patterns hold different items, so compare models within a pattern; what hiding costs is told by the same "
            "items with and without the modality."
        )
    return caveats


# ----------------------------------------------------------------------------- reading figures


def _metric(metrics: Mapping[str, Any], compare: Mapping[str, Any] | None) -> str:
    """The monitored metric, or NDCG@20 where the drops are known for that one alone."""
    monitor = str(metrics["monitor"])
    drops = [d for part in (metrics, compare or {}) for d in (part.get("drops") or {}).values()]
    if all(monitor in drop for drop in drops) or not all("ndcg@20" in drop for drop in drops):
        return monitor
    return "ndcg@20"


def _losses(part: Mapping[str, Any], metric: str) -> Iterable[Loss]:
    """A loss for each modality with figures, from `drops`, else from `imposed` without an interval."""
    drops, imposed = part.get("drops") or {}, part.get("imposed") or {}
    for modality in dict.fromkeys([*imposed, *drops]):
        drop = (drops.get(modality) or {}).get(metric) or {}
        complete = finite(drop.get("complete", _value(part, "test_complete", metric)))
        hidden = finite(drop.get("hidden", (imposed.get(modality) or {}).get(metric)))
        if complete is not None and hidden is not None:
            yield Loss(modality, complete, hidden, _estimate(complete - hidden, drop))


def _loses_less(mine: Loss, theirs: Loss, difference: Mapping[str, Any], metric: str) -> Estimate:
    """By how much less the model loses, paired over users where that was computed.

    Otherwise from what was: with hidden and complete the paired differences (model minus ablation), it is hidden -
    complete, and the interval from hidden.low - complete.high to hidden.high - complete.low is a cautious one.
    """
    value = theirs.loss.value - mine.loss.value
    paired = ((difference.get("drops") or {}).get(mine.modality) or {}).get(metric)
    if paired:  # model minus ablation: what it loses more
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
    """Model minus ablation at `path` of the differences, with its interval where there is one."""
    found: Any = compare.get("difference")
    for key in (*path, metric):
        found = (found or {}).get(key)
    return _estimate(value, found)


def _estimate(value: float, found: Mapping[str, Any] | None) -> Estimate:
    """A value with the `low` and `high` of what was found, where both are numbers."""
    low, high = finite((found or {}).get("low")), finite((found or {}).get("high"))
    return Estimate(value) if low is None or high is None else Estimate(value, low, high)


def _value(part: Mapping[str, Any], key: str, metric: str) -> float | None:
    return finite((part.get(key) or {}).get(metric))


def _users(metrics: Mapping[str, Any]) -> int | None:
    return (metrics.get("test_complete") or metrics.get("test") or {}).get("users")


def _modalities(metrics: Mapping[str, Any]) -> Sequence[str]:
    return (metrics.get("missingness") or {}).get("modalities") or ()


def finite(value: Any) -> float | None:
    """A number as a float; None for null, NaN, an infinity or anything else."""
    if isinstance(value, (int, float)) and math.isfinite(value):
        return float(value)
    return None


def _overlap(first: Loss, second: Loss) -> bool:
    return (
        first.loss.low is not None
        and second.loss.high is not None
        and first.loss.low <= second.loss.high
    )


# --------------------------------------------------------------------------------------- words


def pattern(key: str, modalities: Sequence[str]) -> str:
    """A missing pattern in words: what is there, or what is not, whichever is shorter.

    Example:
        >>> [pattern(key, ("text", "image", "audio")) for key in ("text+image+audio", "text+audio", "audio", "none")]
        ['all modalities', 'without image', 'only audio', 'no modality']
    """
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
    """A metric as it is written in prose: NDCG@20, Recall@10, hit rate@10, MRR@20."""
    kind, _, k = metric.partition("@")
    return {"ndcg": "NDCG", "recall": "Recall", "hit": "hit rate", "mrr": "MRR"}.get(
        kind, kind
    ) + f"@{k}"


def number(value: Any, digits: int = 4) -> str:
    """A figure with a true minus sign; an en dash where there is none."""
    known = finite(value)
    return "–" if known is None else f"{known:.{digits}f}".replace("-", "−")


def percent(share: float) -> str:
    """A share as a percentage with one decimal."""
    return f"{100 * share:.1f}%".replace("-", "−")


def signed(estimate: Estimate) -> str:
    """A difference with its sign and interval."""
    value = f"{estimate.value:+.4f}".replace("-", "−")
    return value if estimate.low is None else f"{value} (95% interval {estimate.interval})"


def _amount(loss: Loss) -> str:
    return number(loss.loss.value) + (
        "" if loss.relative is None else f" ({percent(loss.relative)})"
    )


def _verdict(estimate: Estimate) -> str:
    if estimate.excludes_zero is None:
        return "; no interval, so chance is not ruled out"
    return (
        ", which excludes 0"
        if estimate.excludes_zero
        else ", which includes 0: cannot be told apart from noise"
    )


def _listed(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
