"""Checks of targets."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from invmod.calibration.scores import INTERVAL_SCORES, Score


def checked_targets(
    function: str, targets: Any, score: Score, num_rows: int, num_classes: int | None
) -> NDArray[Any]:
    """Return the targets (n,) as a float64 or int64 array.

    Arguments:
        function: name for error messages.
        targets: numbers, or indices of classes.
        score: a score of numbers or of classes.
        num_rows: n.
        num_classes: C, if it is known already.
    """
    if isinstance(targets, Tensor):
        targets = targets.detach().cpu()
        targets = (targets.double() if targets.is_floating_point() else targets).numpy()
    if not isinstance(targets, np.ndarray):
        raise TypeError(
            f"{function}: `targets` must be a tensor or an array, got {type(targets).__name__}."
        )
    if targets.shape != (num_rows,):
        raise ValueError(
            f"{function}: `targets` must have shape (N,) = ({num_rows},), one number or class for "
            f"each row, got {targets.shape}."
        )
    if score in INTERVAL_SCORES:
        if targets.dtype.kind not in "fiu" or not np.isfinite(targets).all():
            raise ValueError(
                f"{function}: with score={score!r} `targets` must be finite numbers, got dtype "
                f"{targets.dtype}{' with NaN or infinities' if targets.dtype.kind == 'f' else ''}."
            )
        return targets.astype(np.float64)
    if targets.dtype.kind not in "iu":
        raise TypeError(
            f"{function}: with score={score!r} `targets` must be integer indices of classes, got "
            f"dtype {targets.dtype}."
        )
    check_range(function, targets, num_classes)
    return targets.astype(np.int64)


def check_range(function: str, targets: NDArray[Any], num_classes: int | None) -> None:
    """Raise unless indices of classes lie in [0, C)."""
    if len(targets) == 0:
        return
    low, high = int(targets.min()), int(targets.max())
    if low < 0 or (num_classes is not None and high >= num_classes):
        raise ValueError(
            f"{function}: `targets` must be indices in [0, {num_classes or 'C'}), one for each "
            f"column of the model's probabilities, got {low} to {high}."
        )
