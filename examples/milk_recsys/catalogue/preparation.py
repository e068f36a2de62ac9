"""Preparation of feature rows: scaling and imputation, fitted on warm items."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from milk_recsys.config.options import PreparationOptions

__all__ = ["prepare_scale", "scale_and_impute", "scale_rows"]

Imputer = Callable[[Mapping[str, Tensor], Tensor], tuple[dict[str, Tensor], Tensor]]


def scale_rows(
    features: Mapping[str, Tensor], norm_floor: float, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Convert rows to `dtype` and scale them to unit length, except rows shorter than the floor.

    Scaling a row that is almost zero would only amplify its rounding errors.
    """
    scaled = {}
    for name, x in features.items():
        # The conversion comes first because the norm of a float16 row can overflow.
        norm = torch.linalg.vector_norm(x.to(dtype), dim=1, keepdim=True)
        scaled[name] = x.to(dtype) / torch.where(norm < norm_floor, 1.0, norm)
    return scaled


def prepare_scale(
    features: Mapping[str, Tensor], options: PreparationOptions, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Scale rows to unit length if the options request it, else return them unchanged."""
    return (
        scale_rows(features, options.norm_floor, dtype)
        if options.scale_features
        else dict(features)
    )


def scale_and_impute(
    features: Mapping[str, Tensor],
    mask: Tensor,
    imputer: Imputer,
    options: PreparationOptions,
    dtype: torch.dtype,
) -> dict[str, Tensor]:
    """Scale and impute rows (N, d), in the order that the options set.

    Arguments:
        mask: (N, M) bool, the modalities that may be used.
        imputer: fitted on warm items; returns the filled features and their mask.
    """
    rows = {name: x.to(dtype) for name, x in features.items()}
    if options.scale_before_impute:
        return imputer(prepare_scale(rows, options, dtype), mask)[0]
    return prepare_scale(imputer(rows, mask)[0], options, dtype)
