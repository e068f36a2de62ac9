"""The data of a robustness report and queries of them.

Tables, plots and pages are functions of a report in separate modules, which this module does not
import.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from invmod._files import write_text
from invmod.missingness import pattern_name
from invmod.robustness import gate, storage
from invmod.robustness.contributions import Contributions, contributions
from invmod.robustness.gate import PatternKey
from invmod.robustness.results import (
    Interval,
    ModelDifference,
    PatternResult,
    ProfileResult,
    RateResult,
    Violation,
)

if TYPE_CHECKING:
    import matplotlib.figure
    import polars

__all__ = [
    "Interval",
    "ModelDifference",
    "PatternResult",
    "ProfileResult",
    "RateResult",
    "RobustnessReport",
]


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
        profiles: one `ProfileResult` per profile of unequal missing rates and model.
        worse_with_more: one `Violation` per step between two patterns at which one modality more
            makes a model worse.

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
    profiles: tuple[ProfileResult, ...] = ()
    worse_with_more: tuple[Violation, ...] = ()

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

    def result(self, pattern: PatternKey, model: str | None = None) -> PatternResult:
        """Return a model's result under one pattern.

        Arguments:
            pattern: collection of the names of the available modalities, or M bools.
            model: name; None is the first model.

        Raises:
            KeyError: the report has no such model or pattern, or a name is not a modality.
            TypeError: the pattern is a string or no collection.
            ValueError: the pattern has a wrong number of bools, or a name twice.
        """
        wanted = gate.pattern_of(pattern, self.modalities)
        for result in self.results(model):
            if result.pattern == wanted:
                return result
        raise KeyError(
            "RobustnessReport.result: the pattern "
            f"{pattern_name(wanted, self.modalities)} was not evaluated. Pass it in `patterns` to "
            "`robustness_report`."
        )

    def profile(self, name: str, model: str | None = None) -> ProfileResult:
        """Return a model's result under a profile of missing rates; None is the first model.

        Raises:
            KeyError: the report has no such model or profile.
        """
        model = self._model(model)
        for profile in self.profiles:
            if (profile.name, profile.model) == (name, model):
                return profile
        names = list(dict.fromkeys(profile.name for profile in self.profiles))
        raise KeyError(
            f"RobustnessReport.profile: there is no profile {name!r} among {names}. Pass "
            "`rates={name: {modality: rate}}` to `robustness_report`."
        )

    def worst(self, model: str | None = None) -> PatternResult:
        """Return the result with the worst metric, the first one in case of ties."""
        choose = min if self.higher_is_better else max
        return choose(self.results(model), key=lambda result: result.value)

    def tied_for_worst(self, model: str | None = None) -> tuple[PatternResult, ...]:
        """Return all results whose metric equals that of `worst`, which is the first of them."""
        worst = self.worst(model).value
        return tuple(
            result
            for result in self.results(model)
            if math.isclose(result.value, worst, rel_tol=1e-12, abs_tol=0.0)
        )

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

    def violations(
        self, *, significance: float | None = None, model: str | None = None
    ) -> tuple[Violation, ...]:
        """Return the steps at which one modality more makes a model worse, the surest first.

        Each step adds one modality to a pattern. The one-sided p-values are corrected for all steps
        between evaluated patterns, by max-T, and for the number of models.

        Arguments:
            significance: only steps with a corrected p-value of at most this level in (0, 1), such
                as 0.05 for 5%. None is all steps, also those that chance explains.
            model: name; None is every model.

        Raises:
            KeyError: the report has no such model.
            TypeError: `significance` is not a number.
            ValueError: `significance` is out of range, or given for a report without tests.
        """
        name = None if model is None else self._model(model)
        if significance is not None:
            significance = gate.checked_significance(significance)
        if significance is not None and not self.num_resamples:
            raise ValueError(
                "RobustnessReport.violations: `significance` needs p-values, but the report has "
                "none. Pass `num_resamples` to `robustness_report`."
            )
        chosen = [
            violation
            for violation in self.worse_with_more
            if name in (None, violation.model)
            and (significance is None or _p_value(violation) <= significance)
        ]
        return tuple(sorted(chosen, key=lambda v: (_p_value(v), -v.loss)))

    def contributions(self, *, empty: float, model: str | None = None) -> Contributions:
        """Return the share of each modality in a model's metric; see `Contributions`.

        Arguments:
            empty: the metric without any modality, such as that of the best constant prediction.
            model: name; None is the first model.

        Raises:
            KeyError: the report has no such model.
            ValueError: the report does not have all non-empty patterns, or `empty` is not finite.
        """
        return contributions(
            self._model(model),
            self.modalities,
            {result.pattern: result.value for result in self.results(model)},
            empty=empty,
            higher_is_better=self.higher_is_better,
        )

    def require(
        self,
        *,
        worst: float | None = None,
        worst_drop: float | None = None,
        complete: float | None = None,
        pattern: Mapping[PatternKey, float] | None = None,
        profile: Mapping[str, float] | None = None,
        model: str | None = None,
    ) -> None:
        """Raise unless the report meets all given bounds; use it as a line of a test suite.

        A bound of the metric is a minimum if a higher metric is better, and a maximum if a lower
        one is. A value that equals its bound meets it. Bounds are compared with values, not with
        intervals; the message has both.

        Arguments:
            worst: bound of the metric under the worst pattern.
            worst_drop: largest allowed relative loss of the worst pattern, not negative: 0.2 is
                20%. At most 1 if a higher metric is better and no value of it is negative. An
                undefined drop (the complete metric is 0) does not meet it.
            complete: bound of the metric with all modalities.
            pattern: pattern -> bound of the metric under it, where a pattern is a tuple or
                frozenset of the names of its available modalities, or M bools.
            profile: name of a profile of missing rates -> bound of the metric under it.
            model: the model that must meet the bounds; None means every model of the report.

        Raises:
            RobustnessError: a bound is not met. The message has all such bounds, each with its
                pattern, value and interval.
            KeyError: the report has no such model, pattern, profile or modality.
            TypeError: a bound is not a number, or a pattern is not a collection of names.
            ValueError: no bound is given, a bound is not finite, `worst_drop` is out of range, or
                a pattern has two bounds.

        Example:
            >>> results = (
            ...     PatternResult("m", (True, True), "a+b", 0.8, (0.7, 0.9), 0.0, 0),
            ...     PatternResult("m", (True, False), "a", 0.4, (0.3, 0.5), 0.5, 0),
            ... )
            >>> report = RobustnessReport(
            ...     ("m",), ("a", "b"), "accuracy", True, 10, 10, 0.95, 3, 9, False, results
            ... )
            >>> report.require(complete=0.75, worst=0.4, pattern={("a",): 0.4})
            >>> report.require(worst=0.6)  # doctest: +ELLIPSIS
            Traceback (most recent call last):
            ...
            invmod.robustness.gate.RobustnessError: accuracy does not meet 1 bound ...
              worst: m under the pattern a is 0.4000 [0.3000, 0.5000], must be at least 0.6000.
        """
        gate.require(
            self,
            worst=worst,
            worst_drop=worst_drop,
            complete=complete,
            pattern=pattern,
            profile=profile,
            model=None if model is None else self._model(model),
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
        return storage.report_to_json(self)

    @classmethod
    def from_json(cls, text: str) -> RobustnessReport:
        """Return the report that `to_json` wrote, with this or an earlier version.

        Raises:
            ValueError: the text is not JSON, or not a report of a version that this invmod reads;
                the message gives the reason.
        """
        return storage.report_from_json(text, cls)

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


def _p_value(violation: Violation) -> float:
    """Return the corrected p-value, 1 if there is none."""
    return 1.0 if violation.adjusted_p_value is None else violation.adjusted_p_value
