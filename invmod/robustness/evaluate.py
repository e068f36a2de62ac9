"""Run models under every condition and put what comes out into a report."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from invmod.missingness import hide_features, mask_from_features, pattern_name, simulate_mcar
from invmod.robustness.conditions import Patterns, checked_rates, pattern_list
from invmod.robustness.report import ModelDifference, PatternResult, RateResult, RobustnessReport
from invmod.robustness.resampling import (
    Floats,
    MetricScores,
    Resamples,
    UnitScores,
    adjusted_p_values,
    interval,
)

Array = Tensor | NDArray[Any]
Predict = Callable[[dict[str, Any], Any], Any]

RATES = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def robustness_report(
    predict: Predict | Mapping[str, Predict],
    features: Mapping[str, Array],
    targets: Any,
    metric: Callable[[Any, Any], float],
    *,
    mask: Array | None = None,
    patterns: Patterns = "all",
    rates: Sequence[float] = RATES,
    num_draws: int = 3,
    generator: torch.Generator | None = None,
    higher_is_better: bool = True,
    per_unit: Callable[[Any, Any], Any] | None = None,
    integer_fill: int | Mapping[str, int] = -1,
    num_resamples: int = 1000,
    confidence: float = 0.95,
) -> RobustnessReport:
    r"""Measure models complete, under every pattern of missing modalities, and along missing rates.

    With :math:`a` the mask (N, M) and :math:`x` the features, a pattern :math:`b \in \{0, 1\}^M` is imposed on all
    rows, besides what is missing already, and the metric v is taken of what the model says of the rest:

    .. math::
        v_b = \mathrm{metric}\big(\mathrm{predict}(x \text{ with NaN where } a_{nm} b_m = 0, \; a b), \; y\big),
        \qquad \mathrm{drop}_b = \frac{v_{\mathrm{complete}} - v_b}{|v_{\mathrm{complete}}|}

    (with the other sign where lower is better, so that a drop is always a loss). Hidden cells reach the model as NaN,
    and those of integers and bools as `integer_fill`: a model that ignores its mask cannot see them.

    Along missing rates, cells are hidden by `invmod.simulate_mcar`, in all modalities at once and in one at a time. A
    row never loses all that it has: its draw is on that condition, so the share of cells that is hidden
    (`effective_rate`, the axis of the curves) falls short of the nominal rate. The draws of a modality are made from
    the same random numbers at every rate, for every model.

    Intervals are percentiles of the bootstrap over units, the first axis of predictions and targets, which need not be
    the rows of the features (users against items). With several models, each later one is compared with the first under
    each pattern by a permutation test: the two models' predictions of a random half of the units are swapped. The
    p values are corrected for the number of patterns by step-down max-T, and for several comparisons by Bonferroni.

    Arguments:
        predict: called with features (hidden ones as above) and a mask (N, M); returns a tensor or an array whose first
            axis is that of `targets`. Or name -> such a function, to compare. It gets tensors where `features` has
            tensors, arrays where it has arrays. A module must be in evaluation mode. Called without gradients,
            ``P + R (M + 1) num_draws`` times with P patterns and R rates above 0 (one draw less of modalities where
            M = 1).
        features: modality name -> (N, ...), tensors or NumPy arrays of any shape behind the first axis.
        targets: tensor or array, (U, ...).
        metric: of predictions and targets (U, ...); returns a number.
        mask: bool (N, M), what is available without any imposed missingness; where None, rows of NaN are missing.
        patterns: ``"all"``: the :math:`2^M - 1` that leave something, up to M = 8; beyond that 255 of them: the
            complete one, those with one missing and with one left, and random others. Or ``"one_missing"``,
            ``"one_left"``, or a sequence of collections of the names that are left. The complete one is always there.
        rates: nominal missing rates in [0, 1); none: no curves.
        num_draws: draws of hidden cells at each rate, of which the mean is taken.
        generator: seeds draws, patterns and resamples; the global generator where None.
        higher_is_better: whether a larger metric is better.
        per_unit: of predictions and targets, (U,) values whose mean is the metric; makes resampling fast.
        integer_fill: what hidden cells of integers and bools hold, or name -> value.
        num_resamples: B, bootstrap resamples and permutations; 0: neither intervals nor tests.
        confidence: of the intervals, in (0, 1).

    Returns:
        `RobustnessReport`: prints as a table, saves as JSON, draws curves and a heat map, makes a page.

    Raises:
        KeyError: `integer_fill` has a name that `features` lacks.
        TypeError: predictions, targets, features or the mask are of a wrong type.
        ValueError: an argument outside its range, shapes that do not fit, a module in training mode, predictions or a
            metric with NaN (the message names model and condition), or a metric that is not the mean of `per_unit`.

    References:
        Efron and Tibshirani, An Introduction to the Bootstrap, 1993; Westfall and Young, Resampling-Based Multiple
        Testing, 1993.

    Example:
        >>> features = {"a": torch.tensor([[0.0], [1.0]]), "b": torch.tensor([[0.0], [1.0]])}
        >>> def predict(features, mask):  # says what a says, and 0 without it
        ...     return features["a"][:, 0].nan_to_num()
        >>> def accuracy(predictions, targets):
        ...     return (predictions == targets).double().mean().item()
        >>> report = robustness_report(
        ...     predict, features, torch.tensor([0.0, 1.0]), accuracy, rates=(), num_resamples=0)
        >>> {result.name: result.value for result in report.patterns}
        {'a+b': 1.0, 'a': 1.0, 'b': 0.5}
        >>> report.worst().name, report.worst().drop
        ('b', 0.5)
    """
    return _Evaluation(
        predict,
        features,
        targets,
        metric,
        mask,
        generator,
        higher_is_better,
        per_unit,
        integer_fill,
        num_resamples,
        confidence,
    ).report(patterns, checked_rates(rates), num_draws)


class _Evaluation:
    """What all conditions of one report share."""

    def __init__(
        self,
        predict: Predict | Mapping[str, Predict],
        features: Mapping[str, Array],
        targets: Any,
        metric: Callable[[Any, Any], float],
        mask: Array | None,
        generator: torch.Generator | None,
        higher_is_better: bool,
        per_unit: Callable[[Any, Any], Any] | None,
        integer_fill: int | Mapping[str, int],
        num_resamples: int,
        confidence: float,
    ) -> None:
        self.predictors = _checked_predictors(predict)
        self.as_tensors, self.features = _checked_features(features)
        self.modalities = tuple(self.features)
        self.mask = _checked_mask(mask, self.features, self.modalities)
        self.targets = _checked_targets(targets)
        self.metric, self.per_unit, self.integer_fill = metric, per_unit, integer_fill
        self.higher_is_better = higher_is_better
        if num_resamples < 0:
            raise ValueError(f"robustness_report: `num_resamples` must not be negative, got {num_resamples}.")
        if not 0 < confidence < 1:
            raise ValueError(f"robustness_report: `confidence` must lie in (0, 1), got {confidence}.")
        self.confidence = confidence
        self.generator = generator
        self.seeds = [_seed(generator) for _ in range(2)]
        self.resamples = Resamples(len(self.targets), num_resamples, self.seeds[0])

    def report(self, patterns: Patterns, rates: list[float], num_draws: int) -> RobustnessReport:
        if num_draws < 1:
            raise ValueError(f"robustness_report: `num_draws` must be at least 1, got {num_draws}.")
        chosen, sampled = pattern_list(patterns, self.modalities, self.generator)
        results, differences = self._patterns(chosen)
        return RobustnessReport(
            models=tuple(self.predictors),
            modalities=self.modalities,
            metric=getattr(self.metric, "__name__", "metric"),
            higher_is_better=self.higher_is_better,
            num_rows=len(self.mask),
            num_units=len(self.targets),
            confidence=self.confidence,
            num_draws=num_draws,
            num_resamples=self.resamples.count,
            patterns_sampled=sampled,
            patterns=tuple(results),
            rates=tuple(self._curves(rates, num_draws, results)),
            differences=tuple(differences),
        )

    # --- patterns

    def _patterns(self, chosen: list[tuple[bool, ...]]) -> tuple[list[PatternResult], list[ModelDifference]]:
        results: list[PatternResult] = []
        complete: dict[str, float] = {}
        permuted: dict[str, list[Floats]] = {name: [] for name in list(self.predictors)[1:]}
        shifts: dict[str, list[tuple[str, float, tuple[float, float] | None]]] = {name: [] for name in permuted}
        for pattern in chosen:
            name = pattern_name(pattern, self.modalities)
            mask = self.mask & torch.tensor(pattern, device=self.mask.device)
            scores = self._scores(mask, f"under the pattern {name}")
            resampled = {model: self._resampled(of_model) for model, of_model in scores.items()}
            for model, of_model in scores.items():
                complete.setdefault(model, of_model.value)
                results.append(
                    PatternResult(
                        model=model,
                        pattern=pattern,
                        name=name,
                        value=of_model.value,
                        interval=self._interval(resampled[model]),
                        drop=self._drop(complete[model], of_model.value),
                        empty_rows=int((~mask.any(dim=1)).sum()),
                    )
                )
            first = next(iter(scores))
            for model in permuted:
                shift = scores[model].value - scores[first].value
                shifts[model].append((name, shift, self._interval(resampled[model] - resampled[first])))
                if self.resamples.count:
                    permuted[model].append(scores[first].swapped(scores[model], self.resamples))  # type: ignore[arg-type]
        return results, self._differences(shifts, permuted)

    def _differences(
        self,
        shifts: dict[str, list[tuple[str, float, tuple[float, float] | None]]],
        permuted: dict[str, list[Floats]],
    ) -> list[ModelDifference]:
        first = next(iter(self.predictors))
        found = []
        for model, of_model in shifts.items():
            plain, adjusted = (None,) * len(of_model), (None,) * len(of_model)
            if self.resamples.count:
                p_values, corrected = adjusted_p_values(
                    np.array([shift for _, shift, _ in of_model]), np.stack(permuted[model], axis=1)
                )
                plain, adjusted = tuple(p_values.tolist()), tuple(np.minimum(1, corrected * len(shifts)).tolist())
            for (name, shift, bounds), p, corrected_p in zip(of_model, plain, adjusted, strict=True):
                found.append(ModelDifference(model, first, name, shift, bounds, p, corrected_p))
        return found

    # --- rates

    def _curves(self, rates: list[float], num_draws: int, results: list[PatternResult]) -> Iterator[RateResult]:
        """Yield points: of all modalities together, named None, then of one at a time; for each model and rate."""
        if not rates:
            return
        targeted = [None, *self.modalities] if len(self.modalities) > 1 else [None]
        for modality in targeted:
            for rate in rates:
                if rate == 0:
                    yield from self._start(modality, results)
                    continue
                values: dict[str, list[float]] = {model: [] for model in self.predictors}
                totals: dict[str, Floats | None] = dict.fromkeys(self.predictors)
                effective = 0.0
                for draw in range(num_draws):
                    mask, hidden = self._draw(modality, rate, draw)
                    effective += hidden / num_draws
                    where = f"at the missing rate {rate:g} of {modality or 'all modalities'}"
                    for model, scores in self._scores(mask, where).items():
                        values[model].append(scores.value)
                        again, total = self._resampled(scores), totals[model]
                        totals[model] = again if total is None else total + again
                for model, of_model in values.items():
                    total = totals[model]
                    assert total is not None
                    yield RateResult(
                        model, modality, rate, effective, float(np.mean(of_model)), self._interval(total / num_draws)
                    )

    def _start(self, modality: str | None, results: list[PatternResult]) -> Iterator[RateResult]:
        for result in results:
            if all(result.pattern):
                yield RateResult(result.model, modality, 0.0, 0.0, result.value, result.interval)

    def _draw(self, modality: str | None, rate: float, draw: int) -> tuple[Tensor, float]:
        """Return a mask, and the share that it hides of what it could; the same random numbers for every rate."""
        column = len(self.modalities) if modality is None else self.modalities.index(modality)
        generator = torch.Generator().manual_seed((self.seeds[1] + 1009 * draw + 9176 * column) % 2**63)
        rates = {name: rate for name in self.modalities if modality in (None, name)}
        mask = simulate_mcar(self.mask.cpu(), rates, modalities=self.modalities, generator=generator).mask
        columns = [self.modalities.index(name) for name in rates]
        before = int(self.mask.cpu()[:, columns].sum())
        hidden = before - int(mask[:, columns].sum())
        return mask.to(self.mask.device), hidden / max(before, 1)

    # --- one condition

    def _scores(self, mask: Tensor, where: str) -> dict[str, UnitScores | MetricScores]:
        hidden = hide_features(self.features, mask, self.modalities, integer_fill=self.integer_fill)
        given: dict[str, Any] = dict(hidden) if self.as_tensors else {n: x.numpy() for n, x in hidden.items()}
        return {
            model: self._score(self._predictions(model, predictor, dict(given), mask, where), model, where)
            for model, predictor in self.predictors.items()
        }

    def _predictions(self, model: str, predictor: Predict, given: dict[str, Any], mask: Tensor, where: str) -> Any:
        try:
            with torch.no_grad():
                predictions = predictor(given, mask.clone() if self.as_tensors else mask.numpy().copy())
        except Exception as error:
            error.add_note(f"robustness_report: raised by the model {model!r} {where}.")
            raise
        if not isinstance(predictions, (Tensor, np.ndarray)):
            raise TypeError(
                f"robustness_report: predictions of {model!r} must be a tensor or an array, "
                f"got {type(predictions).__name__} {where}."
            )
        if predictions.ndim == 0 or len(predictions) != len(self.targets):
            raise ValueError(
                f"robustness_report: predictions of {model!r} must have the first axis of `targets`, "
                f"{len(self.targets)} units, got shape {tuple(predictions.shape)} {where}."
            )
        if _has_nan(predictions):
            raise ValueError(
                f"robustness_report: predictions of {model!r} have NaN {where}. Hidden cells reach a model as NaN: "
                "impute them or leave them out by the mask."
            )
        return predictions

    def _score(self, predictions: Any, model: str, where: str) -> UnitScores | MetricScores:
        value = float(self.metric(predictions, self.targets))
        if not np.isfinite(value):
            raise ValueError(f"robustness_report: the metric of {model!r} is {value} {where}.")
        if self.per_unit is None:
            return MetricScores(self.metric, predictions, self.targets, value)
        values = self.per_unit(predictions, self.targets)
        values = np.asarray(values.cpu() if isinstance(values, Tensor) else values, dtype=np.float64)
        if values.shape != (len(self.targets),):
            raise ValueError(
                f"robustness_report: `per_unit` must return ({len(self.targets)},) values, one a unit, "
                f"got {values.shape}."
            )
        if not np.isclose(values.mean(), value, rtol=1e-5, atol=1e-8):
            raise ValueError(
                f"robustness_report: the mean of `per_unit` must be the metric, got {values.mean():.6g} and "
                f"{value:.6g} for {model!r} {where}."
            )
        return UnitScores(values)

    def _resampled(self, scores: UnitScores | MetricScores) -> Floats:
        return scores.resampled(self.resamples) if self.resamples.count else np.empty(0)

    def _interval(self, resampled: Floats) -> tuple[float, float] | None:
        return interval(resampled, self.confidence) if len(resampled) else None

    def _drop(self, complete: float, value: float) -> float | None:
        loss = complete - value if self.higher_is_better else value - complete
        return loss / abs(complete) if complete else None


# ------------------------------------------------------------------------------------------------------------ checks


def _seed(generator: torch.Generator | None) -> int:
    device = "cpu" if generator is None else generator.device
    return int(torch.randint(2**62, (), generator=generator, device=device))


def _checked_predictors(predict: Predict | Mapping[str, Predict]) -> dict[str, Predict]:
    predictors = dict(predict) if isinstance(predict, Mapping) else {"model": predict}
    if not predictors:
        raise ValueError("robustness_report: `predict` must have at least one model.")
    for name, predictor in predictors.items():
        if not callable(predictor):
            raise TypeError(f"robustness_report: the model {name!r} must be callable, got {type(predictor).__name__}.")
        if isinstance(predictor, nn.Module) and predictor.training:
            raise ValueError(f"robustness_report: the model {name!r} is in training mode. Call its `eval()` first.")
    return predictors


def _checked_features(features: Mapping[str, Array]) -> tuple[bool, dict[str, Tensor]]:
    """Return whether the features are tensors, and the features as tensors."""
    kinds = {isinstance(x, Tensor) for x in features.values()}
    if not all(isinstance(x, (Tensor, np.ndarray)) for x in features.values()) or len(kinds) != 1:
        got = {name: type(x).__name__ for name, x in features.items()}
        raise TypeError(f"robustness_report: `features` must be all tensors or all NumPy arrays, got {got}.")
    return kinds.pop(), {name: torch.as_tensor(x) for name, x in features.items()}


def _checked_mask(mask: Array | None, features: dict[str, Tensor], modalities: tuple[str, ...]) -> Tensor:
    """Return the mask of what is there without any imposed missingness; `hide_features` checks its shape."""
    if mask is None:
        return mask_from_features(features, modalities)
    if not isinstance(mask, (Tensor, np.ndarray)):
        raise TypeError(f"robustness_report: `mask` must be a tensor or an array, got {type(mask).__name__}.")
    given = torch.as_tensor(mask)
    hide_features(features, given, modalities, integer_fill=0)
    return given


def _checked_targets(targets: Any) -> Any:
    if not isinstance(targets, (Tensor, np.ndarray)):
        raise TypeError(f"robustness_report: `targets` must be a tensor or an array, got {type(targets).__name__}.")
    if targets.ndim == 0 or len(targets) == 0:
        raise ValueError(f"robustness_report: `targets` must have at least one unit, got {tuple(targets.shape)}.")
    return targets


def _has_nan(predictions: Any) -> bool:
    if isinstance(predictions, Tensor):
        return predictions.is_floating_point() and bool(predictions.isnan().any())
    return predictions.dtype.kind == "f" and bool(np.isnan(predictions).any())
