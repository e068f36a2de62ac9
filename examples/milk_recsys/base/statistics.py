"""Statistics over users."""

from __future__ import annotations

import numpy as np
from scipy.stats import bootstrap  # type: ignore[import-untyped]
from torch import Tensor

__all__ = ["paired_difference"]


def paired_difference(a: Tensor, b: Tensor) -> dict[str, float]:
    """Mean of a - b over users, with its 95% bootstrap percentile interval.

    Arguments:
        a, b: (users,) values of the same users in the same order.

    Returns:
        ``difference``, ``low`` and ``high``; all equal if there is no variation to resample.
    """
    values = (a - b).numpy()
    mean = float(values.mean())
    if len(values) < 2 or (values == values[0]).all():
        return {"difference": mean, "low": mean, "high": mean}
    interval = bootstrap(
        (values,),
        np.mean,
        n_resamples=1000,
        batch=max(1, 2**22 // len(values)),
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return {"difference": mean, "low": float(interval.low), "high": float(interval.high)}
