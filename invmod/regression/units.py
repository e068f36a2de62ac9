"""Centre and scale of the features of a modality, and rows that are scaled when they are read."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from invmod._scale import standard_deviation

MAX_COLUMNS = 2**25  # Number of float64 entries of the columns whose units are computed at once.


class Units(NamedTuple):
    """Centre and scale (d,) of the entries of a modality."""

    centre: Tensor
    scale: Tensor

    @property
    def constant(self) -> bool:
        """Whether the modality is constant in the training rows, so that it has no information."""
        return bool(self.scale.isinf().all()) and self.scale.numel() > 0

    def to(self, device: torch.device, dtype: torch.dtype) -> Units:
        """Return the units on a device, in a dtype."""
        return Units(self.centre.to(device, dtype), self.scale.to(device, dtype))

    def apply(self, x: Tensor, available: Tensor) -> Tensor:
        """Return the centred and scaled rows (N, d), which are 0 where `available` is False."""
        scaled = (x.to(self.centre) - self.centre) / self.scale
        # Select instead of multiplying, so that NaN in a missing cell becomes 0.
        return torch.where(available[:, None], scaled, 0.0)


def fitted_units(x: Tensor, rows: Tensor, row_weights: Tensor, *, standardize: bool) -> Units:
    """Return the units of some rows of x (N, d), in float64.

    Scaled rows have the weighted mean square length 1. With `standardize` each entry is divided by
    its standard deviation as well. An entry that is constant then has an infinite scale, so that it
    is 0 in all rows. If all entries are constant, all scales are infinite.

    Arguments:
        x: the rows, some columns of which are copied at a time.
        rows: positions (n,) of the rows that count, at least one.
        row_weights: (n,) of these rows.
    """
    if not x.shape[1]:
        none = row_weights.new_zeros(0, dtype=torch.float64)
        return Units(none, none)
    shares = row_weights.to(torch.float64) / row_weights.sum()
    width = max(1, MAX_COLUMNS // len(rows))
    parts = [
        _column_units(x[:, at : at + width], rows, shares) for at in range(0, x.shape[1], width)
    ]
    centre, deviation = (torch.cat(part) for part in zip(*parts, strict=True))
    varies = deviation > 0
    if not varies.any():
        return Units(centre, torch.full_like(centre, torch.inf))
    if standardize:
        return Units(centre, torch.where(varies, deviation * varies.sum().sqrt(), torch.inf))
    return Units(centre, torch.full_like(centre, float(deviation.square().sum().sqrt())))


def _column_units(x: Tensor, rows: Tensor, shares: Tensor) -> tuple[Tensor, Tensor]:
    """Return weighted means and standard deviations of columns, with constant entries exact."""
    x = x.index_select(0, rows).to(torch.float64)
    # The deviation without weights finds the constant entries, and keeps squares from overflowing.
    deviation = standard_deviation(x)
    varies = deviation > 0
    centre = torch.where(varies, shares @ x, x[0])
    relative = torch.where(varies, (x - centre) / deviation, 0.0)
    return centre, deviation * (shares @ relative.square()).sqrt()


class ScaledRows:
    """Rows that are centred and scaled when they are read, so that they can stay in a file.

    Arguments:
        x: (n, d) as given, in any dtype and with any content where `observed` is False.
        observed: bool (n,).
        units: centre and scale.
    """

    def __init__(self, x: Tensor, observed: Tensor, units: Units) -> None:
        self._x, self._observed, self._units = x, observed, units
        self.shape = x.shape

    def __len__(self) -> int:
        """Return n."""
        return len(self._x)

    def __getitem__(self, at: Tensor) -> Tensor:
        """Return the rows at some positions (...), as (..., d); 0 where they are missing."""
        flat = at.reshape(-1)
        rows = self._units.apply(self._x.index_select(0, flat), self._observed[flat])
        return rows.reshape(*at.shape, self.shape[1])
