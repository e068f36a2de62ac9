"""Penalties of the risks (E,)."""

from __future__ import annotations

import torch
from torch import Tensor


def check_risks(function: str, risks: Tensor) -> None:
    """Raise unless `risks` is a floating-point vector (E,) with at least one environment."""
    if not isinstance(risks, Tensor) or not risks.is_floating_point():
        what = risks.dtype if isinstance(risks, Tensor) else type(risks).__name__
        raise TypeError(f"{function}: `risks` must be a floating-point tensor, got {what}.")
    if risks.ndim != 1 or risks.shape[0] == 0:
        raise ValueError(
            f"{function}: `risks` must have shape (E,), one risk per environment and at least one, "
            f"got {tuple(risks.shape)}."
        )


def vrex_penalty(risks: Tensor, *, correction: int = 0) -> Tensor:
    r"""Variance of the risks over environments (V-REx).

    .. math::
        \mathrm{Var}(R) = \frac{1}{E - \mathrm{correction}} \sum_e (R_e - \bar R)^2

    Arguments:
        risks: (E,).
        correction: 0 is the population variance of the paper, 1 the unbiased one. Published strengths belong to one
            of them: at E = 3 the unbiased variance is 1.5 times the other.

    Returns:
        a scalar in float32 or wider. One environment has variance 0 under ``correction=0``.

    Raises:
        TypeError: risks are not floating point.
        ValueError: risks are not (E,), or E <= correction.

    References:
        Krueger et al., Out-of-Distribution Generalization via Risk Extrapolation, ICML 2021, Eq. 8; Bai et al.,
        SIGIR 2024, second term of Eq. 14.

    Example:
        >>> vrex_penalty(torch.tensor([1.0, 2.0, 3.0]))
        tensor(0.6667)
        >>> vrex_penalty(torch.tensor([1.0, 2.0, 3.0]), correction=1)
        tensor(1.)
    """
    check_risks("vrex_penalty", risks)
    if correction < 0:
        raise ValueError(f"vrex_penalty: `correction` must not be negative, got {correction}.")
    num_envs = risks.shape[0]
    if num_envs <= correction:
        raise ValueError(f"vrex_penalty: needs more than `correction` = {correction} environments, got {num_envs}.")
    wide = risks.to(torch.promote_types(risks.dtype, torch.float32))
    return (wide - wide.mean()).square().sum() / (num_envs - correction)
