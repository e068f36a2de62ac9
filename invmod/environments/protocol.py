"""Protocol of the generators of environments, and checks of the arguments that they share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor


class Environments(Protocol):
    """Type of any generator of E environments over M modalities, for annotations.

    A class of your own that has these three members is such a generator. It need not inherit from
    `Environments`; a type checker compares the members.

    Example:
        >>> import invmod
        >>> class FirstOrUniform:
        ...     num_envs = 2
        ...     def __init__(self, num_modalities: int) -> None:
        ...         self.num_modalities = num_modalities
        ...     def sample(self, sample_shape=(), *, generator=None, device=None, dtype=None):
        ...         first = torch.zeros(self.num_modalities, device=device, dtype=dtype)
        ...         first[0] = 1.0
        ...         rows = torch.stack([first, torch.full_like(first, 1 / self.num_modalities)])
        ...         return rows.expand(*sample_shape, -1, -1)
        >>> envs: invmod.Environments = FirstOrUniform(2)
        >>> invmod.UnionEnvs(envs, invmod.LeaveOneOutEnvs(2)).sample()
        tensor([[1.0000, 0.0000],
                [0.5000, 0.5000],
                [0.0000, 1.0000],
                [1.0000, 0.0000]])
    """

    @property
    def num_envs(self) -> int:
        """E, the number of rows in a sample."""

    @property
    def num_modalities(self) -> int:
        """M, the number of entries in a row."""

    def sample(
        self,
        sample_shape: Sequence[int] = (),
        *,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Draw weights on the simplex, (\\*sample_shape, E, M)."""


def checked_shape(
    kind: str, sample_shape: int | Sequence[int], method: str = "sample"
) -> tuple[int, ...]:
    """Return the leading shape of a sample as a tuple."""
    shape = (sample_shape,) if isinstance(sample_shape, int) else tuple(sample_shape)
    if any(size < 0 for size in shape):
        raise ValueError(
            f"{kind}.{method}: `sample_shape` must not be negative, got {sample_shape}."
        )
    return shape


def checked_dtype(kind: str, dtype: torch.dtype | None) -> torch.dtype:
    """Return `dtype`, or the default dtype for None; raise unless it is floating point."""
    if dtype is not None and not dtype.is_floating_point:
        raise TypeError(f"{kind}.sample: `dtype` must be floating point, got {dtype}.")
    return dtype or torch.get_default_dtype()
