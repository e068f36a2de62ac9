"""Single results of a robustness report: of a pattern, a missing rate, a profile, a comparison."""

from __future__ import annotations

from dataclasses import dataclass

Interval = tuple[float, float] | None


@dataclass(frozen=True)
class PatternResult:
    """The result of one model under one pattern of missing modalities.

    Attributes:
        model: name of the model.
        pattern: M bools, True for an available modality.
        name: the available modalities, such as ``"text+image"``. A modality whose name would be
            ambiguous is quoted.
        value: the metric.
        interval: of the metric, or None without resamples.
        drop: loss relative to the complete pattern, positive if the metric is worse; None if the
            complete metric is 0.
        empty_rows: number of rows of the features that have no modality under the pattern.
        num_undefined: number of bootstrap resamples in which the metric is undefined (NaN). The
            interval comes from the others.

    Example:
        >>> PatternResult("model", (True, False), "text", 0.5, (0.4, 0.6), 0.25, 0).num_missing
        1
    """

    model: str
    pattern: tuple[bool, ...]
    name: str
    value: float
    interval: Interval
    drop: float | None
    empty_rows: int
    num_undefined: int = 0

    @property
    def num_missing(self) -> int:
        """Number of missing modalities."""
        return self.pattern.count(False)


@dataclass(frozen=True)
class RateResult:
    """The result of one model at one missing rate.

    Attributes:
        model: name of the model.
        modality: the modality with hidden cells; None for all modalities.
        rate: nominal missing rate of each cell.
        effective_rate: hidden share of the available cells of these modalities, mean over draws.
        value: the metric, mean over draws.
        interval: of the mean metric, or None without resamples.
        num_undefined: number of bootstrap resamples in which the metric is undefined (NaN).

    Example:
        >>> RateResult("model", None, 0.5, 0.43, 0.8, None).modality is None
        True
    """

    model: str
    modality: str | None
    rate: float
    effective_rate: float
    value: float
    interval: Interval
    num_undefined: int = 0


@dataclass(frozen=True)
class ProfileResult:
    """The result of one model under a profile, which has a missing rate for each modality.

    Attributes:
        model: name of the model.
        name: name of the profile.
        rates: M nominal missing rates, in the order of the report's modalities.
        effective_rates: M hidden shares of the available cells, means over draws.
        value: the metric, mean over draws.
        interval: of the mean metric, or None without resamples.
        drop: loss relative to the complete pattern, positive if the metric is worse; None if the
            complete metric is 0.
        num_undefined: number of bootstrap resamples in which the metric is undefined (NaN).

    Example:
        >>> ProfileResult("model", "phone", (0.6, 0.1), (0.57, 0.05), 0.8, None, 0.1).rates
        (0.6, 0.1)
    """

    model: str
    name: str
    rates: tuple[float, ...]
    effective_rates: tuple[float, ...]
    value: float
    interval: Interval
    drop: float | None
    num_undefined: int = 0


@dataclass(frozen=True)
class ModelDifference:
    """The metric of `model` minus that of `baseline`, the first model, under one pattern.

    Attributes:
        model, baseline: names of the models.
        pattern: M bools, True for an available modality.
        name: the available modalities, as in `PatternResult`.
        value: the difference.
        interval: of the paired difference, or None without resamples.
        p_value: two-sided p-value of the permutation test, or None without resamples.
        adjusted_p_value: p-value corrected for all patterns and comparisons of the report.
        num_undefined: number of bootstrap resamples in which the difference is undefined (NaN).

    Example:
        >>> interval = (0.05, 0.15)
        >>> result = ModelDifference(
        ...     "ours", "theirs", (True, False), "text", 0.1, interval, 0.001, 0.004
        ... )
        >>> result.adjusted_p_value
        0.004
    """

    model: str
    baseline: str
    pattern: tuple[bool, ...]
    name: str
    value: float
    interval: Interval
    p_value: float | None
    adjusted_p_value: float | None
    num_undefined: int = 0


@dataclass(frozen=True)
class Violation:
    """A step at which a model becomes worse although it has one modality more.

    Attributes:
        model: name of the model.
        pattern: M bools, True for an available modality.
        name: the available modalities, as in `PatternResult`.
        added: the modality without which the model is better.
        value: the metric under the pattern.
        value_without: the metric under the pattern without the added modality.
        loss: how much worse the metric is with the modality, above 0.
        interval: of the loss, or None without resamples.
        p_value: one-sided p-value of the loss, or None without resamples.
        adjusted_p_value: p-value corrected for all such steps and models of the report.

    Example:
        >>> both = (True, True)
        >>> Violation("m", both, "text+audio", "audio", 0.7, 0.8, 0.1, None, None, None).loss
        0.1
    """

    model: str
    pattern: tuple[bool, ...]
    name: str
    added: str
    value: float
    value_without: float
    loss: float
    interval: Interval
    p_value: float | None
    adjusted_p_value: float | None
