"""Evaluation of every model under one condition: its predictions under a mask, and the metric."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from invmod.missingness import hide_features
from invmod.missingness.sentinels import IntegerFill
from invmod.robustness.arguments import Array, Predict
from invmod.robustness.resampling import Floats, MetricScores, Resamples, UnitScores, interval

ModelScores = UnitScores | MetricScores


@dataclass(frozen=True)
class Evaluation:
    """The models, data and settings shared by all conditions of one report, already checked.

    Attributes:
        predictors: name -> model; the first model is the baseline.
        features: name -> tensor (N, ...).
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
    """

    predictors: dict[str, Predict]
    features: dict[str, Tensor]
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

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names, in the order of the mask's columns."""
        return tuple(self.features)

    def scores(self, mask: Tensor, where: str) -> dict[str, ModelScores]:
        """Return model name -> scores, with the cells hidden where the mask is False.

        Arguments:
            mask: bool (N, M).
            where: the condition in words, for error messages.
        """
        hidden = hide_features(self.features, mask, self.modalities, integer_fill=self.integer_fill)
        # `hide_features` returns new tensors, so a model cannot change the caller's features.
        given: dict[str, Any] = (
            dict(hidden) if self.given_as_tensors else {n: x.numpy() for n, x in hidden.items()}
        )
        return {
            model: self._score(
                self._predictions(model, predictor, dict(given), mask, where), model, where
            )
            for model, predictor in self.predictors.items()
        }

    def resampled(self, scores: ModelScores) -> Floats:
        """Return the metric of each bootstrap resample, (B,)."""
        return scores.resampled(self.resamples) if self.resamples.count else np.empty(0)

    def interval(self, resampled: Floats) -> tuple[float, float] | None:
        """Return the percentile interval, or None without resamples."""
        return interval(resampled, self.confidence) if len(resampled) else None

    def drop(self, complete: float, value: float) -> float | None:
        """Return the loss relative to the complete pattern's metric, or None if that is 0."""
        loss = complete - value if self.higher_is_better else value - complete
        return loss / abs(complete) if complete else None

    def _predictions(
        self, model: str, predictor: Predict, given: dict[str, Any], mask: Tensor, where: str
    ) -> Any:
        try:
            with torch.no_grad():
                # The mask is copied, because a model may write into it.
                predictions = predictor(
                    given, mask.clone() if self.given_as_tensors else mask.numpy().copy()
                )
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
                f"robustness_report: predictions of {model!r} must have the first axis of "
                f"`targets`, {len(self.targets)} units, got shape {tuple(predictions.shape)} "
                f"{where}."
            )
        if _has_nan(predictions):
            raise ValueError(
                f"robustness_report: predictions of {model!r} have NaN {where}. Hidden cells are "
                "NaN in the features: impute them, or exclude them by the mask."
            )
        return predictions

    def _score(self, predictions: Any, model: str, where: str) -> ModelScores:
        value = float(self.metric(predictions, self.targets))
        if not np.isfinite(value):
            raise ValueError(f"robustness_report: the metric of {model!r} is {value} {where}.")
        if self.per_unit is None:
            return MetricScores(self.metric, predictions, self.targets, value)
        values = self.per_unit(predictions, self.targets)
        values = np.asarray(
            values.cpu() if isinstance(values, Tensor) else values, dtype=np.float64
        )
        if values.shape != (len(self.targets),):
            raise ValueError(
                f"robustness_report: `per_unit` must return ({len(self.targets)},) values, one "
                f"per unit, got {values.shape}."
            )
        # The tolerance allows for a metric that was computed in float32.
        if not np.isclose(values.mean(), value, rtol=1e-5, atol=1e-8):
            raise ValueError(
                "robustness_report: the mean of `per_unit` must be the metric, got "
                f"{values.mean():.6g} and {value:.6g} for {model!r} {where}."
            )
        return UnitScores(values)


def _has_nan(predictions: Any) -> bool:
    if isinstance(predictions, Tensor):
        return predictions.is_floating_point() and bool(predictions.isnan().any())
    return predictions.dtype.kind == "f" and bool(np.isnan(predictions).any())
