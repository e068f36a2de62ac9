"""The data of a robustness report: results, queries and JSON.

Tables, plots and pages are functions of a report in separate modules, which this module does not
import.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from invmod._files import write_text

if TYPE_CHECKING:
    import matplotlib.figure
    import polars

VERSION = 1

Interval = tuple[float, float] | None


@dataclass(frozen=True)
class PatternResult:
    """The result of one model under one pattern of missing modalities.

    Attributes:
        model: name of the model.
        pattern: M bools, True for an available modality.
        name: the available modalities, such as ``"text+image"``.
        value: the metric.
        interval: of the metric, or None without resamples.
        drop: loss relative to the complete pattern, positive if the metric is worse; None if the
            complete metric is 0.
        empty_rows: number of rows of the features that have no modality under the pattern.

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


@dataclass(frozen=True)
class ModelDifference:
    """The metric of `model` minus that of `baseline`, the first model, under one pattern.

    Attributes:
        model, baseline: names of the models.
        name: the available modalities.
        value: the difference.
        interval: of the paired difference, or None without resamples.
        p_value: two-sided p value of the permutation test, or None without resamples.
        adjusted_p_value: p value corrected for all patterns and comparisons of the report.

    Example:
        >>> interval = (0.05, 0.15)
        >>> result = ModelDifference("ours", "theirs", "text", 0.1, interval, 0.001, 0.004)
        >>> result.adjusted_p_value
        0.004
    """

    model: str
    baseline: str
    name: str
    value: float
    interval: Interval
    p_value: float | None
    adjusted_p_value: float | None


@dataclass(frozen=True)
class RobustnessReport:
    """The results of `robustness_report`. ``print(report)`` shows them as a table.

    Attributes:
        models, modalities: names of the models and modalities.
        metric: name of the metric.
        higher_is_better: whether a larger metric is better.
        num_rows, num_units: number of rows N of the features and of units U of the targets.
        confidence: confidence level of the intervals.
        num_draws: number of draws for each point of a curve.
        num_resamples: number of bootstrap resamples and of permutations.
        patterns_sampled: whether the patterns are a random sample of all patterns.
        patterns: one `PatternResult` per pattern and model; patterns with more modalities come
            first.
        rates: one `RateResult` per curve, rate and model.
        differences: one `ModelDifference` per pattern and model except the first.

    Example:
        >>> results = (
        ...     PatternResult("m", (True, True), "a+b", 0.8, None, 0.0, 0),
        ...     PatternResult("m", (True, False), "a", 0.4, None, 0.5, 0),
        ... )
        >>> report = RobustnessReport(
        ...     ("m",), ("a", "b"), "accuracy", True, 10, 10, 0.95, 3, 0, False, results
        ... )
        >>> report.complete().value, report.worst().name, report.by_num_missing()
        (0.8, 'a', {0: 0.8, 1: 0.4})
        >>> RobustnessReport.from_json(report.to_json()) == report
        True
    """

    models: tuple[str, ...]
    modalities: tuple[str, ...]
    metric: str
    higher_is_better: bool
    num_rows: int
    num_units: int
    confidence: float
    num_draws: int
    num_resamples: int
    patterns_sampled: bool
    patterns: tuple[PatternResult, ...]
    rates: tuple[RateResult, ...] = ()
    differences: tuple[ModelDifference, ...] = ()

    # The package `invmod.robustness` sets these deprecated methods, see
    # `invmod/robustness/deprecated.py`.
    plot_patterns: ClassVar[Callable[..., matplotlib.figure.Figure]]
    plot_rates: ClassVar[Callable[..., matplotlib.figure.Figure]]
    save_html: ClassVar[Callable[..., None]]
    to_frame: ClassVar[Callable[..., polars.DataFrame]]

    # --- queries

    def results(self, model: str | None = None) -> tuple[PatternResult, ...]:
        """Return a model's results under all patterns; None is the first model.

        Raises:
            KeyError: the report has no such model.
        """
        model = self._model(model)
        return tuple(result for result in self.patterns if result.model == model)

    def complete(self, model: str | None = None) -> PatternResult:
        """Return a model's result with all modalities; None is the first model."""
        return next(result for result in self.results(model) if all(result.pattern))

    def worst(self, model: str | None = None) -> PatternResult:
        """Return the result with the worst metric, the first one in case of ties."""
        choose = min if self.higher_is_better else max
        return choose(self.results(model), key=lambda result: result.value)

    def by_num_missing(self, model: str | None = None) -> dict[int, float]:
        """Return number of missing modalities -> mean metric over the patterns of that number."""
        groups: dict[int, list[float]] = {}
        for result in self.results(model):
            groups.setdefault(result.num_missing, []).append(result.value)
        return {count: sum(values) / len(values) for count, values in sorted(groups.items())}

    def curve(
        self, modality: str | None = None, model: str | None = None
    ) -> tuple[RateResult, ...]:
        """Return the points of one curve; `modality` None is the curve of all modalities.

        Raises:
            KeyError: the report has no such curve or model.
        """
        model = self._model(model)
        points = tuple(
            point for point in self.rates if point.modality == modality and point.model == model
        )
        if not points:
            raise KeyError(
                f"RobustnessReport.curve: there is no curve of {modality!r}; pass `rates` to "
                "`robustness_report`."
            )
        return points

    def area(self, modality: str | None = None, model: str | None = None) -> float:
        r"""Return the mean metric along a curve: its area divided by its width.

        .. math::
            \frac{1}{r_K - r_1} \sum_{k=1}^{K-1} (r_{k+1} - r_k) \, \frac{v_k + v_{k+1}}{2}

        where :math:`r_k` are the effective rates and :math:`v_k` the values of the K points.

        Raises:
            KeyError: the report has no such curve or model.
            ValueError: the curve has no width, because it has one point or no point with hidden
                cells.
        """
        points = self.curve(modality, model)
        width = points[-1].effective_rate - points[0].effective_rate
        if not width > 0:
            raise ValueError(
                f"RobustnessReport.area: the curve of {modality!r} has no width, so no area."
            )
        pairs = itertools.pairwise(points)
        return (
            sum((b.effective_rate - a.effective_rate) * (a.value + b.value) / 2 for a, b in pairs)
            / width
        )

    def _model(self, model: str | None) -> str:
        if model is not None and model not in self.models:
            raise KeyError(
                f"RobustnessReport: there is no model {model!r} among {list(self.models)}."
            )
        return self.models[0] if model is None else model

    # --- files

    def to_json(self) -> str:
        """Return the report as JSON, which `from_json` converts back to an equal report."""
        return json.dumps(
            {"format": "invmod robustness report", "version": VERSION, **dataclasses.asdict(self)},
            indent=1,
        )

    @classmethod
    def from_json(cls, text: str) -> RobustnessReport:
        """Return the report that `to_json` wrote.

        Raises:
            ValueError: the text is not JSON, or not a report of this version; the message gives the
                reason.
        """
        try:
            given = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"RobustnessReport.from_json: this is not JSON: {error}.") from error
        if not isinstance(given, dict) or given.pop("format", None) != "invmod robustness report":
            raise ValueError(
                "RobustnessReport.from_json: this is JSON, but not a robustness report."
            )
        if (version := given.pop("version", None)) != VERSION:
            raise ValueError(
                f"RobustnessReport.from_json: the report has version {version!r}, this invmod "
                f"reads {VERSION}."
            )
        # JSON has neither tuples nor dataclasses, so both are restored here.
        kinds = {"patterns": PatternResult, "rates": RateResult, "differences": ModelDifference}
        try:
            for key, kind in kinds.items():
                given[key] = tuple(kind(**_tuples(entry)) for entry in given[key])
            return cls(**_tuples(given))
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(
                f"RobustnessReport.from_json: the report is damaged: {error}."
            ) from error

    def save(self, path: str | Path) -> None:
        """Write the report as JSON; an existing file is replaced atomically."""
        write_text(path, self.to_json() + "\n")

    @classmethod
    def load(cls, path: str | Path) -> RobustnessReport:
        """Read a report that `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: the file is not a report; the message contains the path.
        """
        try:
            return cls.from_json(Path(path).read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


def _tuples(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of the mapping in which JSON's lists are tuples."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
