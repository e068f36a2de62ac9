"""Samples of several environments in one batch: an index (n,) says which is whose."""

from __future__ import annotations

import torch
from torch import Tensor

from invmod._checks import check_floating, check_integers, environment_count


def check_samples(function: str, name: str, values: Tensor, axes: str, *, least: int = 1) -> Tensor:
    """Return a floating-point matrix in float32 or wider; raise where it is none or has too few rows or no column."""
    check_floating(function, name, values)
    if values.ndim != 2 or values.shape[0] < least or values.shape[1] == 0:
        rows, columns = axes.strip("()").split(", ")
        raise ValueError(
            f"{function}: `{name}` must have shape {axes} with {rows} >= {least} and {columns} >= 1, "
            f"got {tuple(values.shape)}."
        )
    return values.to(torch.promote_types(values.dtype, torch.float32))


def env_shares(
    function: str,
    env: Tensor,
    num_samples: int,
    *,
    num_envs: int | None,
    least: int,
    dtype: torch.dtype,
) -> Tensor:
    r"""Return what takes samples to means of environments: (E, n), 1 / n_e where a sample belongs to e, else 0.

    Raises unless `env` is an integer vector (n,) of 0..E-1 in which each environment has `least` samples. While
    `torch.compile` traces, values cannot raise: an environment with too few samples is a row of NaN, and an index out
    of range makes all of it NaN.
    """
    check_integers(function, "env", env)
    if env.shape != (num_samples,):
        raise ValueError(
            f"{function}: `env` must have shape (n,) = ({num_samples},), the environment of each sample, "
            f"got {tuple(env.shape)}."
        )
    num_envs = environment_count(function, env, num_envs)
    member = env == torch.arange(num_envs, device=env.device)[:, None]
    counts = member.sum(dim=1)
    whole = counts.sum() == num_samples
    if torch.compiler.is_compiling():
        nan = torch.full((), float("nan"), dtype=dtype, device=env.device)
        return torch.where(
            ((counts >= least) & whole)[:, None], member.to(dtype) / counts[:, None], nan
        )
    if not whole:
        raise ValueError(
            f"{function}: `env` must be in 0..{num_envs - 1}, got {int(env.min())} to {int(env.max())}. "
            "Number the environments from 0."
        )
    if (counts < least).any():
        raise ValueError(
            f"{function}: each environment needs at least {least} samples, got {counts.tolist()}. "
            "Leave an absent environment out of the numbering, or draw every batch from all of them."
        )
    return member.to(dtype) / counts[:, None]


def without_autocast(x: Tensor) -> torch.autocast:
    """Return a context in which matrix products stay in the dtype of x."""
    return torch.autocast(device_type=x.device.type, enabled=False)
