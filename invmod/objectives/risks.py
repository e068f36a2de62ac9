"""Objectives that are functions of the risks (E,) and a penalty."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from invmod._checks import check_choice, check_risks


def invariant_objective(
    risks: Tensor,
    *,
    penalty: Callable[[Tensor], Tensor] | Tensor,
    penalty_weight: float,
    risk_reduction: Literal["mean", "sum"] = "mean",
) -> Tensor:
    r"""Mean risk plus a weighted penalty.

    .. math::
        \frac{1}{E} \sum_e R_e + \beta \, \mathrm{penalty}(R)

    where :math:`R_e` are the risks and :math:`\beta` is `penalty_weight`.

    Arguments:
        risks: (E,).
        penalty: a function of the risks, such as `invmod.vrex_penalty`, or an already computed
            scalar tensor, such as the mean of `invmod.irm_penalty` over environments.
        penalty_weight: :math:`\beta`, not negative.
        risk_reduction: ``"mean"``, or ``"sum"`` as in the authors' released code. To change from
            the sum to the mean with the same optimum, divide all other weights by E.

    Returns:
        a scalar in float32 or wider.

    Raises:
        TypeError: risks or the penalty have a wrong type.
        ValueError: risks are not (E,), the penalty is not a scalar, or its weight is negative.

    References:
        Krueger et al., ICML 2021; Bai et al., SIGIR 2024, Eq. 14.

    Example:
        >>> from invmod.penalties import vrex_penalty
        >>> invariant_objective(torch.tensor([1.0, 3.0]), penalty=vrex_penalty, penalty_weight=10.0)
        tensor(12.)
    """
    check_risks("invariant_objective", risks)
    if not penalty_weight >= 0:
        raise ValueError(
            f"invariant_objective: `penalty_weight` must not be negative, got {penalty_weight}."
        )
    check_choice("invariant_objective", "risk_reduction", risk_reduction, ("mean", "sum"))
    # Half-precision risks are reduced in float32, where differences of risks keep their digits.
    wide = risks.to(torch.promote_types(risks.dtype, torch.float32))
    value = penalty(wide) if callable(penalty) else penalty
    if not isinstance(value, Tensor):
        raise TypeError(
            "invariant_objective: `penalty` must be a callable of the risks or a scalar tensor, "
            f"got {type(value).__name__}."
        )
    if value.ndim != 0:
        raise ValueError(
            "invariant_objective: the penalty must be a scalar tensor, "
            f"got shape {tuple(value.shape)}. Reduce it over environments first."
        )
    risk = wide.mean() if risk_reduction == "mean" else wide.sum()
    return risk + penalty_weight * value


def mmrex_objective(risks: Tensor, *, lambda_min: float) -> Tensor:
    r"""Minimax risk extrapolation (MM-REx): the largest affine combination of the risks.

    .. math::
        \max_{\sum_e \lambda_e = 1, \; \lambda_e \geq \lambda_{\min}} \sum_e \lambda_e R_e
        = (1 - E \lambda_{\min}) \max_e R_e + \lambda_{\min} \sum_e R_e

    Arguments:
        risks: (E,).
        lambda_min: lower bound of the coefficients, at most 1 / E. The objective is the mean risk
            for 1 / E and the largest risk for 0; negative values, the usual choice, extrapolate
            beyond the largest risk.

    Returns:
        a scalar in float32 or wider. Risks that tie for the largest share its gradient equally.

    Raises:
        TypeError: risks are not floating point.
        ValueError: risks are not (E,), or `lambda_min` is more than 1 / E or not finite.

    References:
        Krueger et al., Out-of-Distribution Generalization via Risk Extrapolation, ICML 2021, Eq.
        6-7.

    Example:
        >>> mmrex_objective(torch.tensor([1.0, 3.0]), lambda_min=-1.0)  # 3 * 3 - 4
        tensor(5.)
        >>> mmrex_objective(torch.tensor([1.0, 3.0]), lambda_min=0.5)
        tensor(2.)
    """
    check_risks("mmrex_objective", risks)
    num_envs = risks.shape[0]
    if not (math.isfinite(lambda_min) and lambda_min <= 1 / num_envs):
        raise ValueError(
            f"mmrex_objective: `lambda_min` must be finite and at most 1 / E = {1 / num_envs:g}, "
            f"got {lambda_min}."
        )
    wide = risks.to(torch.promote_types(risks.dtype, torch.float32))
    return (1 - num_envs * lambda_min) * wide.amax() + lambda_min * wide.sum()


def worst_case_objective(risks: Tensor) -> Tensor:
    r"""The largest risk, for robust optimisation over the given environments.

    .. math::
        \max_e R_e

    Arguments:
        risks: (E,).

    Returns:
        a scalar in float32 or wider. Risks that tie for the largest share the gradient equally.

    Raises:
        TypeError: risks are not floating point.
        ValueError: risks are not (E,).

    References:
        Ben-Tal, El Ghaoui and Nemirovski, Robust Optimization, 2009. `invmod.GroupDRO` is a smooth
        alternative.

    Example:
        >>> worst_case_objective(torch.tensor([1.0, 3.0, 2.0]))
        tensor(3.)
    """
    check_risks("worst_case_objective", risks)
    return risks.to(torch.promote_types(risks.dtype, torch.float32)).amax()
