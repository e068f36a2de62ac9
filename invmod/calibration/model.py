"""Calls of the model: rows of one pattern in, checked outputs as float64 arrays out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from invmod.calibration.ranks import Floats
from invmod.calibration.scores import Score
from invmod.calibration.table import Table, Tensors
from invmod.missingness import hide_features, pattern_name
from invmod.missingness.arrays import each_array
from invmod.missingness.sentinels import IntegerFill

Pattern = tuple[bool, ...]
Predict = Callable[[dict[str, Any], Any], Any]

# Sums of probabilities in half precision differ from 1 by up to about this much.
SUM_TOLERANCE = 1e-2


@dataclass(frozen=True)
class MaskedModel:
    """A user's model, called on rows of which only the modalities of one pattern are shown.

    Attributes:
        predict: function of features and a mask.
        modalities: names in the order of the mask's columns.
        score: decides which outputs the model must return.
        integer_fill: fill value of hidden cells of integers and bools.
        templates: name -> the calibration's feature with no rows, which holds its shape and dtype;
            None for a feature that was None.
    """

    predict: Predict
    modalities: tuple[str, ...]
    score: Score
    integer_fill: IntegerFill
    templates: Mapping[str, Tensors | None]

    def outputs(self, function: str, table: Table, rows: Tensor, pattern: Pattern) -> Floats:
        """Return the outputs for some rows, of which only the pattern's modalities are shown."""
        device = table.mask.device
        mask = torch.tensor(pattern, device=device).repeat(len(rows), 1)
        chosen = {
            name: each_array(feature, lambda x: x[rows.to(x.device)])
            for name, feature in table.features.items()
        }
        # New tensors: a model that writes into its input cannot change the caller's features.
        hidden = hide_features(chosen, mask, self.modalities, integer_fill=self.integer_fill)
        # A feature whose shape is unknown is None in the calibration, and for the model too.
        shown = {name: hidden.get(name) for name in self.modalities}
        where = f"under the pattern {pattern_name(pattern, self.modalities)}"
        try:
            with torch.no_grad():
                if table.given_as_tensors:
                    outputs = self.predict(shown, mask)
                else:
                    arrays = {name: each_array(x, Tensor.numpy) for name, x in shown.items()}
                    outputs = self.predict(arrays, mask.numpy())
        except Exception as error:
            error.add_note(f"{function}: raised by the model {where}.")
            raise
        return self._checked(function, outputs, len(rows), where)

    def _checked(self, function: str, outputs: Any, num_rows: int, where: str) -> Floats:
        if isinstance(outputs, Tensor):
            outputs = outputs.detach().to("cpu", torch.float64).numpy()
        if not isinstance(outputs, np.ndarray):
            raise TypeError(
                f"{function}: the model must return a tensor or an array, got "
                f"{type(outputs).__name__} {where}."
            )
        shape, rule = {
            "absolute": ("(N,)", outputs.ndim == 1),
            "quantiles": ("(N, 2)", outputs.ndim == 2 and outputs.shape[1] == 2),
        }.get(self.score, ("(N, C) with C >= 2", outputs.ndim == 2 and outputs.shape[1] >= 2))
        if not rule or len(outputs) != num_rows:
            raise ValueError(
                f"{function}: with score={self.score!r} the model must return {shape} for "
                f"N = {num_rows} rows, got {outputs.shape} {where}."
            )
        values: Floats = outputs.astype(np.float64)
        if not np.isfinite(values).all():
            raise ValueError(
                f"{function}: the model's outputs have NaN or infinities {where}. Hidden cells are "
                "NaN in the features: impute them, or exclude them by the mask."
            )
        if self.score in ("probability", "cumulative"):
            check_probabilities(function, values, where)
        return values


def check_probabilities(function: str, values: Floats, where: str) -> None:
    """Raise unless all rows are probabilities that sum to 1."""
    sums = values.sum(axis=1)
    if (values < 0).any() or (abs(sums - 1) > SUM_TOLERANCE).any():
        raise ValueError(
            f"{function}: the model must return probabilities that sum to 1 in each row, got "
            f"values from {values.min():.3g} to {values.max():.3g} and sums from {sums.min():.3g} "
            f"to {sums.max():.3g} {where}. Use `logits.softmax(dim=1)`."
        )


def check_predict(function: str, predict: Predict) -> None:
    """Raise unless the model is callable and, if it is a module, in evaluation mode."""
    if not callable(predict):
        raise TypeError(f"{function}: `predict` must be callable, got {type(predict).__name__}.")
    if isinstance(predict, nn.Module) and predict.training:
        raise ValueError(f"{function}: `predict` is in training mode. Call its `eval()` first.")
