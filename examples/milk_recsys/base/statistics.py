"""Bootstrap intervals over users.

Only NumPy is imported: reading results needs no torch, and `scipy.stats`, which has
the same interval, takes 0.7 s to import in every run.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

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
    rng, at_once = np.random.default_rng(0), max(1, MAX_ELEMENTS // len(values))
    means = [
        values[rng.integers(len(values), size=(len(batch), len(values)))].mean(axis=1)
        for batch in np.array_split(np.arange(NUM_RESAMPLES), -(-NUM_RESAMPLES // at_once))
    ]
    low, high = np.percentile(np.concatenate(means), (2.5, 97.5))
    return float(low), float(high)


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
