"""A run of a study, its hashes, its metric, the format of means, and the error `Leak`.

This module does not import torch.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from milk_recsys.catalogue.split import Split
from milk_recsys.config.options import Options

if TYPE_CHECKING:
    from milk_recsys.catalogue.tables import Tables

__all__ = ["MONITOR", "Leak", "Run", "digest", "hashes_of", "mean_sd", "p_text"]

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


def digest(*arrays: npt.NDArray[Any]) -> str:
    """Return the first 16 hexadecimal digits of the SHA-256 of the bytes of arrays.

    The bytes are those of each array in row-major order, one array after the other.
    """
    hashed = hashlib.sha256()
    for array in arrays:
        hashed.update(np.ascontiguousarray(array).data)
    return hashed.hexdigest()[:16]


def hashes_of(split: Split, tables: Tables) -> dict[str, str]:
    """Return the hashes that identify what a run was trained and evaluated on.

    Returns:
        ``split``: of the warm, validation and test item ids (int64) and the mask (bool);
        ``candidates``: of the candidates and of the users and positions of the positive pairs
        (int64), of the test items and then of the validation items.
    """
    groups = [
        x.cpu().numpy()
        for group in (tables.test, tables.validation)
        for x in (group.candidates, group.users, group.positions)
    ]
    return {
        "split": digest(split.warm, split.validation, split.test, split.mask),
        "candidates": digest(*groups),
    }


def mean_sd(values: Any) -> str:
    """Write a mean with the standard deviation of the sample."""
    spread = f" ± {np.std(values, ddof=1):.3f}" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{spread}"


def p_text(p: float) -> str:
    """Write a p-value with three decimals.

    Example:
        >>> p_text(0.0449), p_text(7.2e-05)
        ('0.045', '< 0.001')
    """
    return "< 0.001" if p < 0.001 else f"{p:.3f}"
