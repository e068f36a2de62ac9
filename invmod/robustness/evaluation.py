"""Evaluation of every model under one condition: its predictions under a mask, and the metric."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from invmod._distributions import Bounds
from invmod.missingness import hide_features
from invmod.missingness.arrays import each_array
from invmod.missingness.sentinels import IntegerFill
from invmod.robustness.arguments import Predict, checked_predictions
from invmod.robustness.inputs import Array, TensorFeature
from invmod.robustness.intervals import Floats
from invmod.robustness.metrics import checked_number
from invmod.robustness.resampling import Resamples
from invmod.robustness.scores import (
    MetricScores,
    ModelScores,
    UnitScores,
    close,
    copied,
    is_mean_over_units,
    unit_values,
)

UNITS_TRIED = 1000
"""Number of units up to which a metric is tried on single units, if there are fewer resamples."""


@dataclass
class Evaluation:
    """The models, data and settings shared by all conditions of one report, already checked.

    Attributes:
        predictors: name -> model; the first model is the baseline.
        features: name -> tensor (N, ...), mapping of tensors, or None if it is missing in all rows.
        given_as_tensors: whether models receive tensors; otherwise they receive arrays.
        mask: bool (N, M), the natural mask, to which each condition is added.
        targets: (U, ...).
        metric: function of predictions and targets.
        per_unit: function that returns (U,) values whose mean is the metric, or None.
        integer_fill: fill value of hidden cells of integers and bools.
        higher_is_better: whether a larger metric is better.
        confidence: confidence level of the intervals.
        resamples: bootstrap resamples and swaps of the units.
        draw_seed: seed of the cells hidden at the missing rates.
        mean_over_units: whether the metric is a mean over units; None until this was tried.
    """

    predictors: dict[str, Predict]
    features: dict[str, TensorFeature]
    given_as_tensors: bool
    mask: Tensor
    targets: Array
    metric: Callable[[Any, Any], float]
    per_unit: Callable[[Any, Any], Any] | None
    integer_fill: IntegerFill
    higher_is_better: bool
    confidence: float
    resamples: Resamples
    draw_seed: int
    mean_over_units: bool | None = None

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names, in the order of the mask's columns."""
        return tuple(self.features)

    def scores(self, masks: Sequence[Tensor], where: str) -> dict[str, ModelScores]:
        """Return model name -> scores under one condition, which are means over its draws.

        The scores of all models have the same class.

        Arguments:
            masks: bool (N, M), one per draw; cells are hidden where the mask is False.
            where: the condition in words, for error messages.
        """
        predictions: dict[str, list[Any]] = {model: [] for model in self.predictors}
        for mask in masks:
            hidden = hide_features(
                self.features, mask, self.modalities, integer_fill=self.integer_fill
            )
            for model in self.predictors:
                predictions[model].append(self._predictions(model, hidden, mask, where))
        values = {
            model: [self._value(chosen, model, where) for chosen in drawn]
            for model, drawn in predictions.items()
        }
        units = self._unit_scores(predictions, values, where)
        if units is not None:
            return dict(units)
        return {
            model: MetricScores(
                self.metric,
                drawn,
                self.targets,
                float(np.mean(values[model])),
                f"{model!r} {where}",
            )
            for model, drawn in predictions.items()
        }

    def interval(self, scores: ModelScores) -> Bounds | None:
        """Return the interval, or None without resamples."""
        if not self.resamples.count:
            return None
        return scores.interval(self.resamples, self.confidence)

    def drop(self, complete: float, value: float) -> float | None:
        """Return the loss relative to the complete pattern's metric, or None if that is 0."""
        loss = complete - value if self.higher_is_better else value - complete
        return loss / abs(complete) if complete else None

    def _predictions(self, model: str, hidden: Mapping[str, Any], mask: Tensor, where: str) -> Any:
        # Each model gets its own copies, so that it may write into them: filling NaN in place is a
        # common way to impute. `features` and `hidden` stay as they are.
        def own_copy(x: Tensor) -> Any:
            return x.clone() if self.given_as_tensors else x.clone().numpy()

        # A feature of None is absent from `hidden`; the model gets None, as it was given.
        own = {name: each_array(hidden.get(name), own_copy) for name in self.modalities}
        own_mask = own_copy(mask)
        try:
            with torch.no_grad():
                predictions = self.predictors[model](own, own_mask)
        except Exception as error:
            error.add_note(f"robustness_report: raised by the model {model!r} {where}.")
            raise
        # The copy keeps the predictions of a model that returns a buffer and uses it again.
        return copied(checked_predictions(predictions, len(self.targets), repr(model), where))

    def _value(self, predictions: Any, model: str, where: str) -> float:
        # A metric may write into its arguments too, for example by sorting in place.
        returned = self.metric(copied(predictions), copied(self.targets))
        value = checked_number(returned, f"from {model!r} {where}")
        if not np.isfinite(value):
            raise ValueError(f"robustness_report: the metric of {model!r} is {value} {where}.")
        return value

    def _unit_scores(
        self, predictions: dict[str, list[Any]], values: dict[str, list[float]], where: str
    ) -> dict[str, UnitScores] | None:
        """Return the scores from values of units if the metric is a mean over them, else None."""
        if self.per_unit is None and not self._is_mean(predictions):
            return None
        scores = {}
        for model, drawn in predictions.items():
            draws = []
            for chosen, value in zip(drawn, values[model], strict=True):
                units = self._units(chosen)
                mean = math.nan if units is None else float(units.mean())
                if units is not None and close(mean, value):
                    draws.append(UnitScores(units))
                elif self.per_unit is None:
                    return None  # It was a mean over units only for the predictions tried first.
                else:
                    raise ValueError(
                        "robustness_report: the mean of `per_unit` must be the metric, got "
                        f"{mean:.6g} and {value:.6g} for {model!r} {where}."
                    )
            scores[model] = UnitScores.averaged(draws)
        return scores

    def _is_mean(self, predictions: dict[str, list[Any]]) -> bool:
        if self.mean_over_units is None:
            # Single units need U calls of the metric, and large numbers of units are not tried.
            limit = max(self.resamples.count, UNITS_TRIED) if self.resamples.count else 0
            self.mean_over_units = len(self.targets) <= limit and all(
                is_mean_over_units(self.metric, drawn[0], self.targets, self.resamples.seed)
                for drawn in predictions.values()
            )
        return self.mean_over_units

    def _units(self, predictions: Any) -> Floats | None:
        """Return one value per unit, (U,): those of `per_unit`, or the metric of single units."""
        if self.per_unit is None:
            return unit_values(self.metric, predictions, self.targets)
        values = self.per_unit(copied(predictions), copied(self.targets))
        try:
            values = np.asarray(
                values.detach().cpu() if isinstance(values, Tensor) else values, dtype=np.float64
            )
        except (TypeError, ValueError) as error:
            raise TypeError(
                f"robustness_report: `per_unit` must return ({len(self.targets)},) numbers, one "
                f"per unit, got {type(values).__name__}."
            ) from error
        if values.shape != (len(self.targets),):
            raise ValueError(
                f"robustness_report: `per_unit` must return ({len(self.targets)},) values, one "
                f"per unit, got {values.shape}."
            )
        return values
