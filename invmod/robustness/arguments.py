"""Checks of the arguments of `robustness_report`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from invmod._checks import check_count, check_names
from invmod.missingness import mask_from_features
from invmod.missingness.arrays import count_rows
from invmod.missingness.masks import mask_columns
from invmod.missingness.sentinels import IntegerFill
from invmod.robustness.inputs import (
    Array,
    Feature,
    TensorFeature,
    as_tensor,
    checked_array,
)

Predict = Callable[[dict[str, Any], Any], Any]


def checked_predictors(predict: Predict | Mapping[str, Predict]) -> dict[str, Predict]:
    """Return name -> model; a single model is named "model"."""
    predictors = dict(predict) if isinstance(predict, Mapping) else {"model": predict}
    if not predictors:
        raise ValueError("robustness_report: `predict` must have at least one model.")
    for name, predictor in predictors.items():
        if not callable(predictor):
            raise TypeError(
                f"robustness_report: the model {name!r} must be callable, got "
                f"{type(predictor).__name__}."
            )
        if isinstance(predictor, nn.Module) and predictor.training:
            raise ValueError(
                f"robustness_report: the model {name!r} is in training mode. Call its `eval()` "
                "first."
            )
    return predictors


def checked_features(
    features: Mapping[str, Feature | None],
) -> tuple[bool, dict[str, TensorFeature]]:
    """Return whether the features are tensors, and the features as tensors."""
    if not isinstance(features, Mapping):
        raise TypeError(
            "robustness_report: `features` must be a mapping of names to tensors or arrays, got "
            f"{type(features).__name__}."
        )
    # Keys make one level of all arrays, those of mappings too.
    arrays = {
        (name, key): checked_array(_label(name, key), x)
        for name, feature in features.items()
        for key, x in _parts(name, feature)
    }
    kinds = {isinstance(x, Tensor) for x in arrays.values()}
    if len(kinds) != 1:
        got = {name: type(x).__name__ for name, x in features.items()}
        raise TypeError(
            "robustness_report: `features` must be all tensors or all NumPy arrays, at least one "
            f"of them not None, got {got}."
        )
    check_names("robustness_report", tuple(features))
    tensors: dict[str, TensorFeature] = dict.fromkeys(features)
    for (name, key), array in arrays.items():
        x = as_tensor(_label(name, key), array)
        if x.ndim == 0 or len(x) == 0:
            raise ValueError(
                f"robustness_report: {_label(name, key)} must have at least one row, got shape "
                f"{tuple(x.shape)}."
            )
        part = tensors[name]
        if key is None:
            tensors[name] = x
        elif isinstance(part, dict):
            part[key] = x
        else:
            tensors[name] = {key: x}
    return kinds.pop(), tensors


def _parts(name: str, feature: Feature | None) -> list[tuple[str | None, Any]]:
    """Return the arrays of a feature with their keys; an array that is no mapping has None."""
    if feature is None:
        return []
    if not isinstance(feature, Mapping):
        return [(None, feature)]
    if not feature:
        raise ValueError(
            f"robustness_report: the mapping of {name!r} is empty. Use None for a modality that is "
            "missing in all rows."
        )
    return list(feature.items())


def _label(name: object, key: object) -> str:
    return f"the feature of {name!r}" + ("" if key is None else f", key {key!r},")


def checked_mask(
    mask: Array | Mapping[str, Array] | None,
    features: dict[str, TensorFeature],
    integer_fill: IntegerFill = "auto",
) -> Tensor:
    """Return the natural mask: `mask`, or if it is None, that of `mask_from_features`."""
    modalities = tuple(features)
    if mask is None:
        return mask_from_features(features, modalities, integer_fill=integer_fill)
    natural_mask: Tensor | dict[str, Tensor]
    if isinstance(mask, Mapping):
        natural_mask = {
            name: as_tensor("`mask`", checked_array(f"the mask of {name!r}", column))
            for name, column in mask.items()
        }
    else:
        natural_mask = as_tensor("`mask`", checked_array("`mask`", mask))
    given = {name: x for name, x in features.items() if x is not None}
    rows = count_rows("robustness_report", given)
    columns = mask_columns("robustness_report", natural_mask, modalities, rows)
    for index, name in enumerate(modalities):
        if name not in given and bool(columns[:, index].any()):
            raise ValueError(
                f"robustness_report: the feature of {name!r} is None, so it is missing in all "
                f"rows, but `mask` is True in {int(columns[:, index].sum())} of them. Pass the "
                "feature, or False in these rows."
            )
    return columns


def checked_targets(targets: Any) -> Array:
    """Return the targets; raise unless they are an array with at least one unit."""
    given = checked_array("`targets`", targets)
    if given.ndim == 0 or len(given) == 0:
        raise ValueError(
            f"robustness_report: `targets` must have at least one unit, got {tuple(given.shape)}."
        )
    return given


def checked_predictions(predictions: Any, num_units: int, model: str, where: str) -> Array:
    """Return the predictions of a model; raise unless they fit the targets and have no NaN."""
    given = checked_array(f"predictions of {model}", predictions, where)
    if given.ndim == 0 or len(given) != num_units:
        raise ValueError(
            f"robustness_report: predictions of {model} must have the first axis of `targets`, "
            f"{num_units} units, got shape {tuple(given.shape)} {where}."
        )
    if has_nan(given):
        raise ValueError(
            f"robustness_report: predictions of {model} have NaN {where}. Hidden cells are NaN in "
            "the features: impute them, or exclude them by the mask."
        )
    return given


def has_nan(x: Array) -> bool:
    """Return whether floating-point or complex entries are NaN."""
    if isinstance(x, Tensor):
        return (x.is_floating_point() or x.is_complex()) and bool(x.isnan().any())
    return x.dtype.kind in "fc" and bool(np.isnan(x).any())


def checked_counts(num_draws: int, num_resamples: int) -> tuple[int, int]:
    """Return the numbers of draws and of resamples as ints, after checking their range."""
    if isinstance(num_resamples, bool) or not isinstance(num_resamples, Integral):
        raise TypeError(
            f"robustness_report: `num_resamples` must be an int, got {num_resamples!r}."
        )
    if num_resamples < 0:
        raise ValueError(
            f"robustness_report: `num_resamples` must not be negative, got {num_resamples}."
        )
    return check_count("robustness_report", "num_draws", num_draws), int(num_resamples)


def checked_confidence(confidence: float) -> float:
    """Return the confidence as a float, after checking that it lies between 0 and 1."""
    if not 0 < confidence < 1:
        raise ValueError(f"robustness_report: `confidence` must lie in (0, 1), got {confidence}.")
    return float(confidence)


def drawn_seed(generator: torch.Generator | None) -> int:
    """Return a seed drawn from the generator; None is the global generator."""
    device = "cpu" if generator is None else generator.device
    return int(torch.randint(2**62, (), generator=generator, device=device))
