"""Standard deviation of columns, exactly 0 for the columns that are constant up to rounding."""

from __future__ import annotations

import torch
from torch import Tensor

# A column of float64 counts as constant if its standard deviation is at most this share of its
# largest absolute entry. Rounding alone produces some 1e-16; the factor leaves room for long sums.
CONSTANT_BELOW = 1e-12


def standard_deviation(x: Tensor) -> Tensor:
    """Return the standard deviations over the first axis of x (n, ...), n at least 1, in float64.

    A column is constant, with deviation 0, if its entries are equal or its deviation is at most
    1e-12 of its largest absolute entry. NaN and infinities give NaN.

    Example:
        >>> x = torch.tensor([[0.1, 1.0], [0.1, 2.0], [0.1, 3.0]], dtype=torch.float64)
        >>> x[:, 0].std() > 0, standard_deviation(x)
        (tensor(True), tensor([0.0000, 0.8165], dtype=torch.float64))
    """
    x = x.to(torch.float64)
    largest = x.abs().amax(dim=0)
    # Dividing by the largest entry keeps the squares of large values from overflowing.
    relative = (x / torch.where(largest > 0, largest, 1.0)).std(dim=0, correction=0)
    constant = (x == x[:1]).all(dim=0) | (relative <= CONSTANT_BELOW)
    return torch.where(constant, 0.0, relative * largest)


def scale_or_one(x: Tensor) -> Tensor:
    """Return the standard deviations over the first axis of x (n, ...), or 1 where constant.

    Example:
        >>> scale_or_one(torch.tensor([[0.1, 1.0], [0.1, 2.0]], dtype=torch.float64))
        tensor([1.0000, 0.5000], dtype=torch.float64)
    """
    deviation = standard_deviation(x)
    # The comparison is with 0 and not above 0, so that NaN stays NaN.
    return torch.where(deviation == 0, 1.0, deviation)
