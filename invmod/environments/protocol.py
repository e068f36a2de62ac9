"""Protocol of the generators of environments, and checks of the arguments that they share."""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Sequence
from numbers import Integral
from typing import Protocol

import torch
from torch import Tensor

from invmod._checks import describe_type

USE_SUBSETS = "Use subsets such as `RandomSubsetEnvs`, or `fuse` with weights."


class Environments(Protocol):
    """Type of any generator of E environments over M modalities, for annotations.

    A class of your own that has these three members is such a generator. It need not inherit from
    `Environments`; a type checker compares the members.

    Example:
        >>> from invmod.environments import Environments, LeaveOneOutEnvs, UnionEnvs
        >>> class FirstOrUniform:
        ...     num_envs = 2
        ...     def __init__(self, num_modalities: int) -> None:
        ...         self.num_modalities = num_modalities
        ...     def sample(self, sample_shape=(), *, generator=None, device=None, dtype=None):
        ...         first = torch.zeros(self.num_modalities, device=device, dtype=dtype)
        ...         first[0] = 1.0
        ...         rows = torch.stack([first, torch.full_like(first, 1 / self.num_modalities)])
        ...         return rows.expand(*sample_shape, -1, -1)
        >>> envs: Environments = FirstOrUniform(2)
        >>> UnionEnvs(envs, LeaveOneOutEnvs(2)).sample()
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
    one_axis = isinstance(sample_shape, (int, Integral))
    sizes = (sample_shape,) if one_axis else tuple(sample_shape)  # type: ignore[arg-type]
    shape = tuple(operator.index(size) for size in sizes)  # type: ignore[arg-type]
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


def check_has_masks(function: str, envs: object) -> None:
    """Raise unless the environments are subsets of the modalities."""
    if not hasattr(envs, "sample_masks"):
        raise TypeError(f"{function}: {envs!r} has weights only, no masks. {USE_SUBSETS}")


def takes_mask(draw: Callable[..., Tensor]) -> bool:
    """Return whether a method that draws environments takes the mask of the data."""
    return "mask" in inspect.signature(draw).parameters


def check_env_mask(function: str, mask: Tensor, num_modalities: int) -> None:
    """Raise unless `mask` is a bool tensor (N, num_modalities)."""
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        raise TypeError(f"{function}: `mask` must be a bool tensor, got {describe_type(mask)}")
    if mask.ndim != 2 or mask.shape[1] != num_modalities:
        raise ValueError(
            f"{function}: `mask` must have shape (N, M) with M = {num_modalities}, "
            f"got {tuple(mask.shape)}."
        )
