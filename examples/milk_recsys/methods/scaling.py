"""Scaling by column, fitted on warm rows: content, and frozen factors whose zero rows stay zero."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Columns", "standardise_nonzero_rows"]

TINY = 1e-5


class Columns:
    """Standardise columns by the mean and the standard deviation of the rows given first, and clip.

    A column that is the same in all rows becomes 0.

    Example:
        >>> columns = Columns(torch.tensor([[1.0, 5.0], [3.0, 5.0]]), clip=2.0)
        >>> columns(torch.tensor([[1.0, 5.0], [9.0, 6.0]])).tolist()
        [[-1.0, 0.0], [2.0, 0.0]]
    """

    def __init__(self, rows: Tensor, *, clip: float) -> None:
        self.mean, self.std, self.clip = rows.mean(dim=0), rows.std(dim=0, correction=0), clip

    def __call__(self, rows: Tensor) -> Tensor:
        """Return the rows (n, F) scaled."""
        scaled = (rows - self.mean) / torch.where(self.std > TINY, self.std, torch.inf)
        return scaled.clamp(-self.clip, self.clip)


def standardise_nonzero_rows(factors: Tensor, *, clip: float, tiny: float = 0.0) -> Tensor:
    """Standardise factors (n, D) by column over the rows that are not 0; a zero row stays 0.

    Arguments:
        clip: largest magnitude.
        tiny: smaller magnitudes become 0.
    """
    known = (factors != 0).any(dim=1)
    scaled = Columns(factors[known], clip=clip)(factors)
    return torch.where(known[:, None] & (scaled.abs() >= tiny), scaled, 0.0)
