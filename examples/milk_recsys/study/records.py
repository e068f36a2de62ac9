"""A run of a study, its metric, the format of means, and the error `Leak`.

This module does not import torch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from milk_recsys.config.options import Options

__all__ = ["MONITOR", "Leak", "Run", "mean_sd"]

MONITOR = "ndcg@20"


class Leak(ValueError):
    """A run uses information about the test items that must be hidden from it."""


@dataclasses.dataclass(frozen=True)
class Run:
    """A run of a plan.

    Attributes:
        phase: "factors", "trial", "repeat", "fresh", "timing", or "sweep <option>=<value>".
        method: as in `spaces.METHODS`, or a variant's name.
        number: of the trial or the repeat.
        tuned: options that were searched or swept; all others follow from `options`.
    """

    phase: str
    method: str
    number: int
    options: Options
    tuned: Mapping[str, Any]

    @property
    def key(self) -> tuple[str, str, str, int]:
        """The values that identify the run in a results file."""
        return self.phase, self.method, self.options.data.setting, self.number

    @property
    def tested(self) -> bool:
        """Whether the run may be evaluated on the test items."""
        return self.phase not in ("trial", "factors")


def mean_sd(values: Any) -> str:
    """Write a mean with the standard deviation of the sample."""
    spread = f" ± {np.std(values, ddof=1):.4f}" if len(values) > 1 else ""
    return f"{np.mean(values):.4f}{spread}"
