"""The robustness report as data: its results, questions about them, and JSON.

Tables, plots and pages are functions of a report, in modules of their own; nothing here imports them.
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
    """One model under one pattern of missing modalities.

    Attributes:
        model: its name.
        pattern: M bools, True where a modality is left.
        name: the modalities that are left, ``"text+image"``.
        value: the metric.
        interval: of the metric, or None without resamples.
        drop: relative loss against the complete pattern, positive where worse; None where the complete metric is 0.
        empty_rows: rows of the features that the pattern leaves with nothing, because they had nothing else.

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
        """How many modalities are missing."""
        return self.pattern.count(False)


@dataclass(frozen=True)
class RateResult:
    """One model at one missing rate.

    Attributes:
        model: its name.
        modality: the one of which cells are hidden; None for all of them.
        rate: nominal, of each cell.
        effective_rate: share of the available cells of these modalities that is hidden, mean over draws.
        value: the metric, mean over draws.
        interval: of that mean, or None without resamples.

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
    """A model against the first one under one pattern: metric of `model` minus metric of `baseline`.

    Attributes:
        model, baseline: their names.
        name: the modalities that are left.
        value: the difference.
        interval: of the difference, paired, or None without resamples.
        p_value: two-sided, of the permutation test; None without resamples.
        adjusted_p_value: corrected for all patterns and comparisons of the report.

    Example:
        >>> ModelDifference("ours", "theirs", "text", 0.1, (0.05, 0.15), 0.001, 0.004).adjusted_p_value
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
        models, modalities: names.
        metric: name of the metric.
        higher_is_better: whether a larger metric is better.
        num_rows, num_units: N of the features, U of the targets.
        confidence: of the intervals.
        num_draws: draws behind each point of a curve.
        num_resamples: bootstrap resamples, and permutations.
        patterns_sampled: whether the patterns are a sample of all.
        patterns: one `PatternResult` a pattern and model, those with more modalities first.
        rates: one `RateResult` a curve, rate and model.
        differences: one `ModelDifference` a later model and pattern.

    Example:
        >>> results = (PatternResult("m", (True, True), "a+b", 0.8, None, 0.0, 0),
        ...     PatternResult("m", (True, False), "a", 0.4, None, 0.5, 0))
        >>> report = RobustnessReport(("m",), ("a", "b"), "accuracy", True, 10, 10, 0.95, 3, 0, False, results)
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

    # Deprecated methods: the package `invmod.robustness` sets them, see `invmod/robustness/deprecated.py`.
    plot_patterns: ClassVar[Callable[..., matplotlib.figure.Figure]]
    plot_rates: ClassVar[Callable[..., matplotlib.figure.Figure]]
    save_html: ClassVar[Callable[..., None]]
    to_frame: ClassVar[Callable[..., polars.DataFrame]]

    # --- questions

    def results(self, model: str | None = None) -> tuple[PatternResult, ...]:
        """Return the patterns of a model, of the first one where None.

        Raises:
            KeyError: no such model.
        """
        model = self._model(model)
        return tuple(result for result in self.patterns if result.model == model)

    def complete(self, model: str | None = None) -> PatternResult:
        """Return what a model does with all modalities, of the first model where None."""
        return next(result for result in self.results(model) if all(result.pattern))

    def worst(self, model: str | None = None) -> PatternResult:
        """Return the pattern with the worst metric; the first of several."""
        choose = min if self.higher_is_better else max
        return choose(self.results(model), key=lambda result: result.value)

    def by_num_missing(self, model: str | None = None) -> dict[int, float]:
        """Return number of missing modalities -> mean metric over the patterns with so many missing."""
        groups: dict[int, list[float]] = {}
        for result in self.results(model):
            groups.setdefault(result.num_missing, []).append(result.value)
        return {count: sum(values) / len(values) for count, values in sorted(groups.items())}

    def curve(
        self, modality: str | None = None, model: str | None = None
    ) -> tuple[RateResult, ...]:
        """Return the points of one curve, of all modalities where None.

        Raises:
            KeyError: no such curve or model.
        """
        model = self._model(model)
        points = tuple(
            point for point in self.rates if point.modality == modality and point.model == model
        )
        if not points:
            raise KeyError(
                f"RobustnessReport.curve: there is no curve of {modality!r}; give `rates` to the report."
            )
        return points

    def area(self, modality: str | None = None, model: str | None = None) -> float:
        r"""Return the area under a curve over the effective rate, divided by the width: the mean metric along it.

        .. math::
            \frac{1}{r_K - r_1} \sum_{k=1}^{K-1} (r_{k+1} - r_k) \, \frac{v_k + v_{k+1}}{2}

        Raises:
            KeyError: no such curve or model.
            ValueError: the curve has no width, with one point or none that hides anything.
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
        """Return the report as JSON, from which `from_json` makes an equal one."""
        return json.dumps(
            {"format": "invmod robustness report", "version": VERSION, **dataclasses.asdict(self)},
            indent=1,
        )

    @classmethod
    def from_json(cls, text: str) -> RobustnessReport:
        """Make a report of what `to_json` returned.

        Raises:
            ValueError: it is not JSON, or not a report of this version; the message says what is wrong.
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
                f"RobustnessReport.from_json: the report has version {version!r}, this invmod reads {VERSION}."
            )
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
        """Write the report as JSON: to a temporary name first, so that a file that is there is never half replaced."""
        write_text(path, self.to_json() + "\n")

    @classmethod
    def load(cls, path: str | Path) -> RobustnessReport:
        """Read a report that `save` wrote.

        Raises:
            FileNotFoundError: there is no such file.
            ValueError: it holds no report; the message has the path.
        """
        try:
            return cls.from_json(Path(path).read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error


def _tuples(given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the same with tuples in the place of JSON's lists."""
    return {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
