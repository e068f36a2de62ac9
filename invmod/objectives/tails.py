"""Objectives of the upper tail: of losses, of risks, or of the distribution that risks come from."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from invmod._checks import check_floating, check_risks

_CELLS, _REFINEMENTS = (
    128,
    4,
)  # leaves 128^-4 = 4e-9 of the range of the risks, from where Newton's steps converge
_NEWTON_STEPS = (
    2  # the first is exact enough for the gradient, the second for the gradient of the gradient
)


def cvar_objective(losses: Tensor, *, tail_fraction: float) -> Tensor:
    r"""Conditional value at risk (CVaR): the mean of the worst fraction of the losses.

    .. math::
        \min_\eta \; \eta + \frac{1}{a n} \sum_i (l_i - \eta)_+
        = \frac{1}{a n} \sum_{i=1}^{n} \min(\max(a n - i + 1, 0), 1) \; l_{(i)}

    with a the fraction and :math:`l_{(1)} \geq l_{(2)} \geq \dots`: the loss at the boundary counts in part.

    Arguments:
        losses: (n,), of the samples of a batch; or risks (E,), for the mean of the worst environments.
        tail_fraction: a, above 0 and at most 1, where it is the mean; up to 1 / n it is the largest loss.

    Returns:
        a scalar in float32 or wider. Of equal losses at the boundary those that come first take the gradient.

    Raises:
        TypeError: losses are not floating point.
        ValueError: losses are not (n,) with n >= 1, or the fraction is not in (0, 1].

    References:
        Rockafellar and Uryasev, Optimization of Conditional Value-at-Risk, Journal of Risk 2000.

    Example:
        >>> losses = torch.tensor([1.0, 4.0, 2.0, 3.0])
        >>> cvar_objective(losses, tail_fraction=0.5)  # (4 + 3) / 2
        tensor(3.5000)
        >>> cvar_objective(losses, tail_fraction=0.375)  # (4 + 3 / 2) / 1.5
        tensor(3.6667)
    """
    check_floating("cvar_objective", "losses", losses)
    if losses.ndim != 1 or losses.shape[0] == 0:
        raise ValueError(
            f"cvar_objective: `losses` must have shape (n,) with n >= 1, got {tuple(losses.shape)}."
        )
    if not 0 < tail_fraction <= 1:
        raise ValueError(
            f"cvar_objective: `tail_fraction` must be above 0 and at most 1, got {tail_fraction}."
        )
    wide = losses.to(torch.promote_types(losses.dtype, torch.float32))
    num_samples = wide.shape[0]
    tail = max(tail_fraction * num_samples, 1.0)
    ordered = wide.sort(descending=True, stable=True).values
    rank = torch.arange(num_samples, dtype=wide.dtype, device=wide.device)
    return (ordered * (tail - rank).clamp(0, 1)).sum() / tail


def eqrm_objective(risks: Tensor, *, quantile: float) -> Tensor:
    r"""Empirical quantile risk minimisation (EQRM): a quantile of the distribution that the risks come from.

    .. math::
        q: \quad \frac{1}{E} \sum_e \Phi(u_e) = p, \qquad u_e = \frac{q - R_e}{b}, \qquad b = 1.06 \, s \, E^{-1/5}

    the quantile p of a Gaussian kernel density on the risks, with s their standard deviation of ddof 1. The gradient is
    that of the implicit function, bandwidth included:

    .. math::
        \frac{\partial q}{\partial R_e} = \frac{\varphi(u_e) + \big( \sum_j \varphi(u_j) \, u_j \big)
        \, \partial b / \partial R_e}{\sum_j \varphi(u_j)}

    It sums to 1. A bisection that autograd follows has the right value and the wrong gradient.

    Arguments:
        risks: (E,), at least two.
        quantile: p, strictly between 0 and 1; the share of environments that should do at least as well.

    Returns:
        a scalar in float32 or wider, solved in float64; it can be differentiated twice. Equal risks give that risk,
        with gradient 1 / E. A risk that is NaN or infinite gives NaN.

    Raises:
        TypeError: risks are not floating point.
        ValueError: risks are not (E,), there is only one, or `quantile` is not in (0, 1).

    References:
        Eastwood et al., Probable Domain Generalization via Quantile Risk Minimization, NeurIPS 2022; the bandwidth is
        Silverman's rule.

    Example:
        >>> eqrm_objective(torch.tensor([1.0, 2.0, 3.0]), quantile=0.5)  # by symmetry
        tensor(2.)
        >>> eqrm_objective(torch.tensor([2.0, 2.0]), quantile=0.9)
        tensor(2.)
    """
    check_risks("eqrm_objective", risks)
    if risks.shape[0] < 2:
        raise ValueError(
            "eqrm_objective: needs at least two environments, got 1: one risk has no distribution."
        )
    if not 0 < quantile < 1:
        raise ValueError(
            f"eqrm_objective: `quantile` must be strictly between 0 and 1, got {quantile}."
        )
    wide = risks.double()
    low, high = wide.detach().amin(), wide.detach().amax()
    equal = low == high
    span = torch.where(equal, 1.0, high - low)
    upper = (
        quantile > 0.5
    )  # turned round: near 1 the distribution function has no digits left, near 0 it has all
    base, sign, level = (high, -1.0, 1 - quantile) if upper else (low, 1.0, quantile)
    unit = (
        sign * (wide - base) / span
    )  # in [0, 1]: the quantile moves with the risks' shift and scale
    variance = torch.where(equal, 1.0, unit.var())
    bandwidth = 1.06 * variance.sqrt() * risks.shape[0] ** -0.2
    solved = base + sign * span * _kernel_quantile(unit, bandwidth, level)
    value = torch.where(equal, wide.mean(), solved)
    return value.to(torch.promote_types(risks.dtype, torch.float32))


def _kernel_quantile(x: Tensor, bandwidth: Tensor, quantile: float) -> Tensor:
    """Narrow it down without gradients, then take Newton's steps with them: the implicit function's gradient."""
    fixed, width = x.detach(), bandwidth.detach()
    reach = width * torch.special.ndtri(torch.full_like(width, quantile))
    low, high = fixed.amin() + reach, fixed.amax() + reach
    steps = torch.linspace(0, 1, _CELLS + 1, dtype=x.dtype, device=x.device)
    for _ in range(_REFINEMENTS):
        grid = low + (high - low) * steps
        below = torch.special.ndtr((grid[:, None] - fixed) / width).mean(dim=1) < quantile
        cell = below.sum().clamp(1, _CELLS)  # q lies between this grid point and the one before
        low, high = grid.gather(0, cell[None] - 1)[0], grid.gather(0, cell[None])[0]
    q: Tensor = (low + high) / 2
    for _ in range(_NEWTON_STEPS):
        u = (q - x) / bandwidth
        density = torch.exp(-u.square() / 2).mean() / (math.sqrt(2 * math.pi) * bandwidth)
        q = q - (torch.special.ndtr(u).mean() - quantile) / density
    return q
