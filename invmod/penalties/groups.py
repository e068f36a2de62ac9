"""Checks and means for a batch with samples of several environments, given an index (n,)."""

from __future__ import annotations

import torch
from torch import Tensor

from invmod._checks import (
    check_floating,
    check_integers,
    environment_count,
    values_are_known,
)


def check_samples(function: str, name: str, values: Tensor, axes: str, *, least: int = 1) -> Tensor:
    """Return a floating-point matrix in float32 or wider.

    Raises unless `values` is a floating-point matrix with at least `least` rows and one column.
    """
    check_floating(function, name, values)
    if values.ndim != 2 or values.shape[0] < least or values.shape[1] == 0:
        rows, columns = axes.strip("()").split(", ")
        raise ValueError(
            f"{function}: `{name}` must have shape {axes} with {rows} >= {least} and {columns} >= "
            f"1, got {tuple(values.shape)}."
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
    counted: Tensor | None = None,
) -> Tensor:
    r"""Return the matrix (E, n) whose product with samples (n, D) gives the environments' means.

    Entry (e, i) is 1 / n_e if sample i belongs to environment e, and 0 otherwise. With `counted`,
    bool (n,), samples where it is False belong to no environment.

    Raises unless `env` is an integer vector (n,) of 0..E-1 in which each environment has at least
    `least` samples. Under `torch.compile` and on the meta device, a check of values cannot raise:
    instead, the row of an environment with too few samples is NaN, and an index out of range makes
    the whole matrix NaN.
    """
    check_integers(function, "env", env)
    if env.shape != (num_samples,):
        raise ValueError(
            f"{function}: `env` must have shape (n,) = ({num_samples},), the environment of each "
            f"sample, got {tuple(env.shape)}."
        )
    num_envs = environment_count(function, env, num_envs)
    member = env == torch.arange(num_envs, device=env.device)[:, None]
    in_range = member.sum() == num_samples  # an index out of range belongs to no environment
    if counted is not None:
        member = member & counted
    counts = member.sum(dim=1)
    # A branch on values would break the graph of torch.compile, so invalid rows are set to NaN.
    if not values_are_known(env):
        nan = torch.full((), float("nan"), dtype=dtype, device=env.device)
        return torch.where(
            ((counts >= least) & in_range)[:, None], member.to(dtype) / counts[:, None], nan
        )
    if not in_range:
        raise ValueError(
            f"{function}: `env` must be in 0..{num_envs - 1}, got {int(env.min())} to "
            f"{int(env.max())}. Number the environments from 0."
        )
    if (counts < least).any():
        raise ValueError(
            f"{function}: each environment needs at least {least} samples, got {counts.tolist()}. "
            "Leave an absent environment out of the numbering, or draw every batch from all "
            "environments."
        )
    return member.to(dtype) / counts[:, None]


def centre_within(values: Tensor, shares: Tensor, env: Tensor) -> Tensor:
    """Subtract from each row of values (n, D) the mean of its environment.

    The mean is subtracted twice, for the reason given at `invmod._precision.centre`.
    """
    for _ in range(2):
        values = values - (shares @ values).index_select(0, env.long())
    return values
