"""Checks of the arguments of `robustness_report`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from invmod.missingness import hide_features, mask_from_features

Array = Tensor | NDArray[Any]
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


def checked_features(features: Mapping[str, Array]) -> tuple[bool, dict[str, Tensor]]:
    """Return whether the features are tensors, and the features as tensors."""
    kinds = {isinstance(x, Tensor) for x in features.values()}
    if not all(isinstance(x, (Tensor, np.ndarray)) for x in features.values()) or len(kinds) != 1:
        got = {name: type(x).__name__ for name, x in features.items()}
        raise TypeError(
            f"robustness_report: `features` must be all tensors or all NumPy arrays, got {got}."
        )
    return kinds.pop(), {name: torch.as_tensor(x) for name, x in features.items()}


def checked_mask(mask: Array | None, features: dict[str, Tensor]) -> Tensor:
    """Return the natural mask: `mask`, or if it is None, a mask that is False for rows of NaN."""
    modalities = tuple(features)
    if mask is None:
        return mask_from_features(features, modalities)
    if not isinstance(mask, (Tensor, np.ndarray)):
        raise TypeError(
            f"robustness_report: `mask` must be a tensor or an array, got {type(mask).__name__}."
        )
    natural_mask = torch.as_tensor(mask)
    # The result is not used: the call checks the dtype and the shape of the mask.
    hide_features(features, natural_mask, modalities, integer_fill=0)
    return natural_mask


def checked_targets(targets: Any) -> Array:
    """Return the targets; raise unless they are an array with at least one unit."""
    if not isinstance(targets, (Tensor, np.ndarray)):
        raise TypeError(
            "robustness_report: `targets` must be a tensor or an array, got "
            f"{type(targets).__name__}."
        )
    if targets.ndim == 0 or len(targets) == 0:
        raise ValueError(
            f"robustness_report: `targets` must have at least one unit, got {tuple(targets.shape)}."
        )
    return targets


def check_counts(num_draws: int, num_resamples: int) -> None:
    """Check the numbers of draws and of resamples."""
    if num_draws < 1:
        raise ValueError(f"robustness_report: `num_draws` must be at least 1, got {num_draws}.")
    if num_resamples < 0:
        raise ValueError(
            f"robustness_report: `num_resamples` must not be negative, got {num_resamples}."
        )


def check_confidence(confidence: float) -> None:
    """Check that the confidence is a probability."""
    if not 0 < confidence < 1:
        raise ValueError(f"robustness_report: `confidence` must lie in (0, 1), got {confidence}.")


def drawn_seed(generator: torch.Generator | None) -> int:
    """Return a seed drawn from the generator; None is the global generator."""
    device = "cpu" if generator is None else generator.device
    return int(torch.randint(2**62, (), generator=generator, device=device))
