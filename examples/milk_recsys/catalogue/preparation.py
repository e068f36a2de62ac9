"""Preparation of feature rows: scaling, imputation and compression, fitted on warm items."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from milk_recsys.config.options import PreparationOptions

__all__ = ["leading_directions", "prepare_scale", "scale_and_impute", "scale_rows"]

Imputer = Callable[[Mapping[str, Tensor], Tensor], tuple[dict[str, Tensor], Tensor]]


def scale_rows(
    features: Mapping[str, Tensor], norm_floor: float, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Scale rows to unit length in a precision, but for those shorter than the floor, which would become noise."""
    scaled = {}
    for name, x in features.items():
        norm = torch.linalg.vector_norm(
            x.to(dtype), dim=1, keepdim=True
        )  # float16 rows overflow in their norms
        scaled[name] = x.to(dtype) / torch.where(norm < norm_floor, 1.0, norm)
    return scaled


def prepare_scale(
    features: Mapping[str, Tensor], options: PreparationOptions, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Scale rows as the options say; without scaling they are returned as they are."""
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
    """Scale and impute rows (N, d), in the order that the options say.

    Arguments:
        mask: (N, M) bool, the modalities that may be used.
        imputer: fitted on warm items.
    """
    rows = {name: x.to(dtype) for name, x in features.items()}
    if options.scale_before_impute:
        return imputer(prepare_scale(rows, options, dtype), mask)[0]
    return prepare_scale(imputer(rows, mask)[0], options, dtype)


def leading_directions(gram: Tensor, count: int) -> Tensor:
    """Return the leading eigenvectors (d, count) of a Gram matrix (d, d), by subspace iteration from a fixed start.

    References:
        Halko, Martinsson and Tropp, SIAM Review 2011, algorithm 4.4: nearly exact where eigenvalues fall off.
    """
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(
        len(gram), min(count + 16, len(gram)), generator=generator, dtype=gram.dtype
    )
    space = torch.linalg.qr(start.to(gram.device)).Q
    for _ in range(8):
        space = torch.linalg.qr(gram @ space).Q
    directions = torch.linalg.eigh(space.T @ gram @ space).eigenvectors[:, -count:]
    found: Tensor = space @ directions
    return found
