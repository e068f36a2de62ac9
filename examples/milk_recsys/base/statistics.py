"""Bootstrap intervals over users. No torch is imported here, because reading results needs none."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy.stats import bootstrap  # type: ignore[import-untyped]

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["mean_interval", "paired_difference"]

NUM_RESAMPLES = 1000
MAX_ELEMENTS = 2**22  # Number of resampled values in memory.


def mean_interval(values: npt.NDArray[np.floating]) -> tuple[float, float] | None:
    """Return the 95% bootstrap percentile interval of the mean of values (users,).

    None if there is no variation to resample.
    """
    if len(values) < 2 or (values == values[0]).all():
        return None
    interval = bootstrap(
        (values,),
        np.mean,
        n_resamples=NUM_RESAMPLES,
        batch=max(1, MAX_ELEMENTS // len(values)),
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(interval.low), float(interval.high)


def paired_difference(a: Tensor, b: Tensor) -> dict[str, float]:
    """Mean of a - b over users, with its 95% bootstrap percentile interval.

    Arguments:
        a, b: (users,) values of the same users in the same order.

    Returns:
        ``difference``, ``low`` and ``high``; all equal if there is no variation to resample.
    """
    values = (a - b).numpy()
    mean = float(values.mean())
    low, high = mean_interval(values) or (mean, mean)
    return {"difference": mean, "low": low, "high": high}
