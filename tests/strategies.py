"""Hypothesis strategies and helpers shared by the tests.

Hypothesis draws a seed; a generator with this seed makes the tensors.
"""

from collections.abc import Callable
from typing import TypeVar

import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor

T = TypeVar("T", bound=Callable[..., object])

NAN = float("nan")
NUM_MODALITIES = st.integers(1, 8)
NUM_ROWS = st.integers(0, 6)
NUM_ENVS = st.integers(1, 5)


class Seeded(torch.Generator):
    """A generator whose repr is its seed, so that a failing example can be repeated."""

    def __repr__(self) -> str:
        return f"seeded({self.initial_seed()})"


def seeded(seed: int) -> torch.Generator:
    return Seeded().manual_seed(seed)


def laws(function: T) -> T:
    """Check a law on thirty examples without a deadline, because test machines can be slow."""
    return settings(max_examples=30, deadline=None)(function)


def generators() -> st.SearchStrategy[torch.Generator]:
    return st.integers(0, 2**32 - 1).map(seeded)


def normal(generator: torch.Generator, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def simplex_rows(
    generator: torch.Generator, *shape: int, dtype: torch.dtype = torch.float64
) -> Tensor:
    """Rows that sum to 1, with some entries exactly 0."""
    weights = torch.rand(shape, generator=generator, dtype=torch.float64)
    weights[weights < 0.2] = 0.0
    weights[..., 0] += 0.1
    return (weights / weights.sum(dim=-1, keepdim=True)).to(dtype)


def random_mask(
    generator: torch.Generator, num_rows: int, num_modalities: int, share: float = 0.6
) -> Tensor:
    return torch.rand((num_rows, num_modalities), generator=generator) < share


def poison(x: Tensor, mask: Tensor, value: float) -> Tensor:
    """A copy of x (N, M, ...) with `value` in the cells where the mask is False."""
    poisoned = x.detach().clone()
    poisoned[~mask] = value
    return poisoned


def gradients(output: Tensor, *inputs: Tensor) -> list[Tensor]:
    """Gradients of a fixed linear combination of the output with unequal coefficients."""
    flat = output.reshape(-1)
    coefficients = torch.linspace(0.5, 2.0, max(flat.numel(), 1), dtype=flat.dtype)[: flat.numel()]
    return list(torch.autograd.grad((flat * coefficients).sum(), inputs))
