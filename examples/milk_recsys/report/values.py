"""Values of a metrics.json: differences with their intervals, and losses by hidden modalities."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from milk_recsys.config.method import find_method, method_names
from milk_recsys.report.words import finite, number, percent

__all__ = [
    "FEW_CUSTOMERS",
    "Answer",
    "Estimate",
    "Loss",
    "amount",
    "difference",
    "estimate",
    "loss_difference",
    "losses_of",
    "modalities_of",
    "num_customers",
    "overlap",
    "signed",
    "significance",
    "title_of",
    "value_of",
]

FEW_CUSTOMERS = 30
"""A mean over fewer customers than this is marked as uncertain."""


def title_of(model: str) -> str:
    """Return the title of a method; the name itself if the method is no longer registered."""
    return find_method(model).title if model in method_names() else model


@dataclass(frozen=True)
class Answer:
    """A question, its answer in one sentence, and the sentences that support it."""

    question: str
    headline: str
    details: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Estimate:
    """A difference with its 95% interval over customers, if one was computed."""

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
    def low_above_zero(self) -> bool:
        """Whether the value is above 0, and so is its interval if there is one."""
        return self.value > 0 and (self.low is None or self.low > 0)

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


def losses_of(part: Mapping[str, Any], metric: str) -> Iterable[Loss]:
    """Yield the loss for each hidden modality, from `drops`, or from `imposed` (no interval)."""
    drops, imposed = part.get("drops") or {}, part.get("imposed") or {}
    for modality in dict.fromkeys([*imposed, *drops]):
        drop = (drops.get(modality) or {}).get(metric) or {}
        complete = finite(drop.get("complete", value_of(part, "test_complete", metric)))
        hidden = finite(drop.get("hidden", (imposed.get(modality) or {}).get(metric)))
        if complete is not None and hidden is not None:
            yield Loss(modality, complete, hidden, estimate(complete - hidden, drop))


def loss_difference(
    mine: Loss, theirs: Loss, difference: Mapping[str, Any], metric: str
) -> Estimate:
    """Return the loss of the ablation minus the loss of the model.

    Its interval is the one paired over customers if `difference` has it. Otherwise it is combined
    from two other paired differences (model minus ablation): hidden, with the modality hidden, and
    complete, with complete items. The estimate is then hidden - complete, and the interval from
    hidden.low - complete.high to hidden.high - complete.low is conservative.
    """
    value = theirs.estimate.value - mine.estimate.value
    paired = ((difference.get("drops") or {}).get(mine.modality) or {}).get(metric)
    if paired:
        # The file has the loss of the model minus that of the ablation, so the sign changes.
        return -estimate(-value, paired)
    hidden = estimate(0.0, ((difference.get("imposed") or {}).get(mine.modality) or {}).get(metric))
    complete = estimate(0.0, (difference.get("test_complete") or {}).get(metric))
    if hidden.low is None or hidden.high is None or complete.low is None or complete.high is None:
        return Estimate(value)
    return Estimate(value, hidden.low - complete.high, hidden.high - complete.low)


def difference(
    compare: Mapping[str, Any], path: Sequence[str], metric: str, value: float
) -> Estimate:
    """Return the entry of `difference` at `path`: model minus ablation, with its interval."""
    entry: Any = compare.get("difference")
    for key in (*path, metric):
        entry = (entry or {}).get(key)
    return estimate(value, entry)


def estimate(value: float, ends: Mapping[str, Any] | None) -> Estimate:
    """Return a value with the interval from `low` to `high` of `ends`, if both are numbers."""
    low, high = finite((ends or {}).get("low")), finite((ends or {}).get("high"))
    return Estimate(value) if low is None or high is None else Estimate(value, low, high)


def value_of(part: Mapping[str, Any], key: str, metric: str) -> float | None:
    """Return the metric of a section; None if it is missing or not finite."""
    return finite((part.get(key) or {}).get(metric))


def num_customers(metrics: Mapping[str, Any]) -> int | None:
    """Return the number of test customers."""
    return (metrics.get("test_complete") or metrics.get("test") or {}).get("users")


def modalities_of(metrics: Mapping[str, Any]) -> Sequence[str]:
    """Return the names of the modalities."""
    return (metrics.get("missingness") or {}).get("modalities") or ()


def overlap(first: Loss, second: Loss) -> bool:
    """Return whether the interval of the larger loss reaches down to that of the smaller one."""
    return (
        first.estimate.low is not None
        and second.estimate.high is not None
        and first.estimate.low <= second.estimate.high
    )


def signed(estimate: Estimate) -> str:
    """Return a difference with its sign and its interval, if it has one."""
    value = number(estimate.value, plus=True)
    return value if estimate.low is None else f"{value} (95% interval {estimate.interval})"


def amount(loss: Loss) -> str:
    """Return a loss as a number with its share in parentheses."""
    return number(loss.estimate.value) + (
        "" if loss.relative is None else f" ({percent(loss.relative)})"
    )


def significance(estimate: Estimate) -> str:
    """Return the end of a sentence on a difference: whether it is significant."""
    if estimate.excludes_zero is None:
        return "; no interval, so the significance is unknown"
    return ", which excludes 0" if estimate.excludes_zero else ", which includes 0: not significant"
