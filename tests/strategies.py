"""Shared helpers of the library's tests: Hypothesis draws a seed, a generator makes the tensors."""

from collections.abc import Callable
from typing import TypeVar

import torch
from hypothesis import settings
from hypothesis import strategies as st
from torch import Tensor, nn

T = TypeVar("T", bound=Callable[..., object])
Module = TypeVar("Module", bound=nn.Module)

NAN = float("nan")
NUM_MODALITIES = st.integers(1, 8)
NUM_ROWS = st.integers(0, 6)
NUM_ENVS = st.integers(1, 5)


class Seeded(torch.Generator):
    """A generator that shows its seed, so that a failing example can be run again."""

    def __repr__(self) -> str:
        return f"seeded({self.initial_seed()})"


def seeded(seed: int) -> torch.Generator:
    return Seeded().manual_seed(seed)


def laws(function: T) -> T:
    """Check a property on up to thirty examples; no deadline, since machines differ in speed."""
    return settings(max_examples=30, deadline=None)(function)


def generators() -> st.SearchStrategy[torch.Generator]:
    return st.integers(0, 2**32 - 1).map(seeded)


def normal(generator: torch.Generator, *shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)


def randomised(module: Module, generator: torch.Generator) -> Module:
    """Return the module with random parameters, in its own dtype."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(normal(generator, *parameter.shape))
    return module


def simplex_rows(
    generator: torch.Generator, *shape: int, dtype: torch.dtype = torch.float64
) -> Tensor:
    """Draw rows that sum to 1, in which some entries are exactly 0."""
    weights = torch.rand(shape, generator=generator, dtype=torch.float64)
    weights[weights < 0.2] = 0.0
    weights[..., 0] += 0.1
    return (weights / weights.sum(dim=-1, keepdim=True)).to(dtype)


def random_mask(
    generator: torch.Generator, num_rows: int, num_modalities: int, share: float = 0.6
) -> Tensor:
    return torch.rand((num_rows, num_modalities), generator=generator) < share


def poison(x: Tensor, mask: Tensor, value: float) -> Tensor:
    """Copy x (N, M, ...) and set it to `value` wherever the mask is False."""
    poisoned = x.detach().clone()
    poisoned[~mask] = value
    return poisoned


def gradients(output: Tensor, *inputs: Tensor) -> list[Tensor]:
    """Compute gradients of a fixed linear combination of the output.

    All its coefficients differ, so that entries with exchanged gradients are detected.
    """
    flat = output.reshape(-1)
    coefficients = torch.linspace(0.5, 2.0, len(flat), dtype=flat.dtype, device=flat.device)
    return list(torch.autograd.grad((flat * coefficients).sum(), inputs))
