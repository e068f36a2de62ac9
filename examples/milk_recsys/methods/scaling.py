"""Column-wise standardisation of content and of frozen factors, fitted on warm rows."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["Columns", "standardise_nonzero_rows"]

# Standard deviations up to this value are rounding errors of a constant column.
TINY = 1e-5


class Columns:
    """Standardise columns and clip the result to [-clip, clip].

    The constructor computes the mean and the standard deviation of each column of its rows. A
    column that is constant in these rows becomes 0.

    Example:
        >>> columns = Columns(torch.tensor([[1.0, 5.0], [3.0, 5.0]]), clip=2.0)
        >>> columns(torch.tensor([[1.0, 5.0], [9.0, 6.0]])).tolist()
        [[-1.0, 0.0], [2.0, 0.0]]
    """

    def __init__(self, rows: Tensor, *, clip: float) -> None:
        self.mean, self.std, self.clip = rows.mean(dim=0), rows.std(dim=0, correction=0), clip

    def __call__(self, rows: Tensor) -> Tensor:
        """Return the standardised rows (n, F)."""
        # Dividing by infinity turns a constant column into 0, without a branch.
        scaled = (rows - self.mean) / torch.where(self.std > TINY, self.std, torch.inf)
        return scaled.clamp(-self.clip, self.clip)


def standardise_nonzero_rows(factors: Tensor, *, clip: float, tiny: float = 0.0) -> Tensor:
    """Standardise the columns of factors (n, D) over the nonzero rows; a zero row stays 0.

    A zero row belongs to a user or an item without training pairs. It must not move the mean, and
    it must stay recognisable as "no factors".

    Arguments:
        factors: (n, D).
        clip: largest magnitude of the result.
        tiny: magnitudes below this become 0.
    """
    known = (factors != 0).any(dim=1)
    scaled = Columns(factors[known], clip=clip)(factors)
    return torch.where(known[:, None] & (scaled.abs() >= tiny), scaled, 0.0)
