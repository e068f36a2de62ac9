"""Objectives of the upper tail of losses or risks: CVaR and EQRM."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from invmod._checks import check_floating, check_risks

# Four refinements into 128 cells locate the quantile to 128^-4 = 4e-9 of the range of the risks,
# close enough for Newton's method to converge.
_CELLS, _REFINEMENTS = 128, 4
# One Newton step gives the exact first derivative, two give the exact second derivative.
_NEWTON_STEPS = 2


def cvar_objective(losses: Tensor, *, tail_fraction: float) -> Tensor:
    r"""Conditional value at risk (CVaR): the mean of the worst fraction of the losses.

    .. math::
        \min_\eta \; \eta + \frac{1}{a n} \sum_i (l_i - \eta)_+
        = \frac{1}{a n} \sum_{i=1}^{n} \min(\max(a n - i + 1, 0), 1) \; l_{(i)}

    where a is `tail_fraction`, :math:`x_+ = \max(x, 0)`, and
    :math:`l_{(1)} \geq l_{(2)} \geq \dots` are the sorted losses. If a n is not an integer, the
    loss at the boundary of the tail has a fractional weight.

    Arguments:
        losses: (n,), the losses of the samples of a batch; or risks (E,), for the mean over the
            worst environments.
        tail_fraction: a, above 0 and at most 1. The objective is the mean loss for 1 and the
            largest loss for values up to 1 / n.

    Returns:
        a scalar in float32 or wider. Among equal losses at the boundary, those with the smallest
        index receive the gradient.

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
    # The k-th largest loss has weight 1 inside the tail, 0 outside, and a fraction at its boundary.
    tail = max(tail_fraction * num_samples, 1.0)
    ordered = wide.sort(descending=True, stable=True).values
    rank = torch.arange(num_samples, dtype=wide.dtype, device=wide.device)
    return (ordered * (tail - rank).clamp(0, 1)).sum() / tail


def eqrm_objective(risks: Tensor, *, quantile: float) -> Tensor:
    r"""Empirical quantile risk minimisation (EQRM): a quantile of the estimated risk distribution.

    .. math::
        q: \quad \frac{1}{E} \sum_e \Phi(u_e) = p, \qquad u_e = \frac{q - R_e}{b}, \qquad
        b = 1.06 \, s \, E^{-1/5}

    The result q is the quantile p of a Gaussian kernel density estimate of the risks :math:`R_e`,
    where :math:`\Phi` is the standard normal distribution function, b is the bandwidth and s is the
    standard deviation of the risks (ddof 1). Its gradient follows from the implicit function
    theorem, including the dependence of the bandwidth on the risks:

    .. math::
        \frac{\partial q}{\partial R_e}
        = \frac{\varphi(u_e) + \big( \sum_j \varphi(u_j) \, u_j \big) \,
        \partial b / \partial R_e}{\sum_j \varphi(u_j)}

    where :math:`\varphi` is the standard normal density. The gradient sums to 1 over the
    environments. Differentiating through the iterations of a bisection would give the right value
    but a wrong gradient.

    Arguments:
        risks: (E,), at least two.
        quantile: p, strictly between 0 and 1: the share of environments whose risk should not
            exceed the result.

    Returns:
        a scalar in float32 or wider, solved in float64; it can be differentiated twice. If all
        risks are equal, the result is that risk, with gradient 1 / E. A NaN or infinite risk gives
        NaN.

    Raises:
        TypeError: risks are not floating point.
        ValueError: risks are not (E,), there is only one, or `quantile` is not in (0, 1).

    References:
        Eastwood et al., Probable Domain Generalization via Quantile Risk Minimization, NeurIPS
        2022. The bandwidth follows Silverman's rule.

    Example:
        >>> eqrm_objective(torch.tensor([1.0, 2.0, 3.0]), quantile=0.5)  # by symmetry
        tensor(2.)
        >>> eqrm_objective(torch.tensor([2.0, 2.0]), quantile=0.9)
        tensor(2.)
    """
    check_risks("eqrm_objective", risks)
    if risks.shape[0] < 2:
        raise ValueError(
            "eqrm_objective: needs at least two environments, got 1. One risk does not determine a "
            "distribution."
        )
    if not 0 < quantile < 1:
        raise ValueError(
            f"eqrm_objective: `quantile` must be strictly between 0 and 1, got {quantile}."
        )
    wide = risks.double()
    low, high = wide.detach().amin(), wide.detach().amax()
    equal = low == high
    span = torch.where(equal, 1.0, high - low)
    # An upper quantile is solved as a lower quantile of the negated risks: the distribution
    # function is accurate near 0, but rounds to 1 in the upper tail.
    upper = quantile > 0.5
    base, sign, level = (high, -1.0, 1 - quantile) if upper else (low, 1.0, quantile)
    # The quantile is equivariant to shift and scale, so it is solved for risks scaled to [0, 1].
    unit = sign * (wide - base) / span
    variance = torch.where(equal, 1.0, unit.var())
    bandwidth = 1.06 * variance.sqrt() * risks.shape[0] ** -0.2
    solved = base + sign * span * _kernel_quantile(unit, bandwidth, level)
    value = torch.where(equal, wide.mean(), solved)
    return value.to(torch.promote_types(risks.dtype, torch.float32))


def _kernel_quantile(x: Tensor, bandwidth: Tensor, quantile: float) -> Tensor:
    """Return the quantile of a Gaussian kernel density estimate of x (E,), differentiable twice.

    A grid search without gradients brackets the solution. Newton steps with gradients then start
    from this constant, which gives the derivatives of the implicit function.
    """
    fixed, width = x.detach(), bandwidth.detach()
    # The quantile of each kernel is its centre plus `reach`; that of the mixture lies between them.
    reach = width * torch.special.ndtri(torch.full_like(width, quantile))
    low, high = fixed.amin() + reach, fixed.amax() + reach
    steps = torch.linspace(0, 1, _CELLS + 1, dtype=x.dtype, device=x.device)
    for _ in range(_REFINEMENTS):
        grid = low + (high - low) * steps
        below = _normal_cdf((grid[:, None] - fixed) / width).mean(dim=1) < quantile
        cell = below.sum().clamp(1, _CELLS)  # q lies between grid points cell - 1 and cell
        low, high = grid.gather(0, cell[None] - 1)[0], grid.gather(0, cell[None])[0]
    q: Tensor = (low + high) / 2
    for _ in range(_NEWTON_STEPS):
        u = (q - x) / bandwidth
        density = torch.exp(-u.square() / 2).mean() / (math.sqrt(2 * math.pi) * bandwidth)
        q = q - (_normal_cdf(u).mean() - quantile) / density
    return q


def _normal_cdf(x: Tensor) -> Tensor:
    """Return the standard normal distribution function, accurate in its lower tail.

    `torch.special.ndtr` is exactly 0 below -8.3, because it subtracts numbers near 1.
    """
    return torch.erfc(-x / math.sqrt(2)) / 2
