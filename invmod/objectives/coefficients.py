"""Coefficients that give an objective's exact gradient over micro-batches or ranks.

The coefficients are the gradient of the objective with respect to the risks or additive statistics
of the whole batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor

from invmod._checks import check_choice, check_risks, check_tensor, describe_type


def risk_coefficients(risks: Tensor, objective: Callable[[Tensor], Tensor]) -> Tensor:
    r"""Gradient of an objective with respect to its risks.

    .. math::
        a_e = \frac{\partial J}{\partial R_e}
        \qquad\Rightarrow\qquad
        \nabla_\theta J(R) = \sum_e a_e \nabla_\theta R_e

    where J is the objective, :math:`R_e` is the risk of environment e, :math:`a_e` is its
    coefficient and :math:`\theta` are the parameters. An objective that is not linear in the risks
    is not the mean of its values on the parts of a batch. The coefficients give its exact gradient
    nevertheless:

    1. Compute the risks of the whole batch without gradients, over micro-batches or data-parallel
       ranks.

    2. Compute the coefficients.

    3. For each part, backpropagate ``(a * local_risks).sum()``. The local risks are the part's sums
       of losses, divided by the sample counts of the whole batch; repeat the forward pass with the
       same random state as in step 1.

    If an objective needs more than risks, use `invmod.objectives.statistics_coefficients`; this
    function is its special case with one statistic.

    Arguments:
        risks: (E,), of the whole batch; detached here.
        objective: a differentiable function of the risks, returning a scalar.

    Returns:
        (E,), detached; in the dtype of the risks. Works under `torch.no_grad` as well.

    Raises:
        TypeError: risks are not floating point.
        ValueError: risks are not (E,), or the objective is not a scalar that depends on them.

    Example:
        >>> from invmod.penalties import vrex_penalty
        >>> risk_coefficients(torch.tensor([1.0, 3.0]), lambda r: r.mean() + vrex_penalty(r))
        tensor([-0.5000,  1.5000])
    """
    check_risks("risk_coefficients", risks)
    _, coefficients = _coefficients(
        "risk_coefficients", "risks", {"risks": risks}, lambda s: objective(s["risks"])
    )
    return coefficients["risks"]


def vrex_coefficients(
    risks: Tensor,
    *,
    penalty_weight: float,
    correction: int = 0,
    risk_reduction: Literal["mean", "sum"] = "mean",
) -> Tensor:
    r"""Coefficients of V-REx in closed form, as an alternative to `invmod.risk_coefficients`.

    .. math::
        a_e = \frac{\partial J}{\partial R_e}
        = \frac{1}{E} + \frac{2 \beta}{E - \mathrm{correction}} (R_e - \bar R)

    where J is `invmod.invariant_objective` with `invmod.vrex_penalty`, :math:`\bar R` is the mean
    of the risks, and the first term is 1 with ``risk_reduction="sum"``. No autograd graph is built
    and the host does not wait for the device, so the function can be captured in a CUDA graph.

    Arguments:
        risks: (E,), of the whole batch; detached here.
        penalty_weight: :math:`\beta`, not negative.
        correction: 0 for the population variance of the paper, 1 for the unbiased variance, as in
            `invmod.vrex_penalty`.
        risk_reduction: ``"mean"``, or ``"sum"`` as in the authors' released code.

    Returns:
        (E,), detached; in the dtype of the risks, computed in float32 or wider.

    Raises:
        TypeError: risks are not floating point.
        ValueError: risks are not (E,), the weight or the correction is negative, the reduction is
            unknown, or E <= correction with a weight above 0. A weight of 0 needs no variance, so
            it accepts any E.

    References:
        Krueger et al., Out-of-Distribution Generalization via Risk Extrapolation, ICML 2021, Eq. 8.

    Example:
        >>> risks = torch.tensor([1.0, 3.0])
        >>> vrex_coefficients(risks, penalty_weight=1.0)  # 1 / 2 + 2 / 2 * (-1, 1)
        tensor([-0.5000,  1.5000])
        >>> vrex_coefficients(risks, penalty_weight=1.0, correction=1, risk_reduction="sum")
        tensor([-1.,  3.])
    """
    check_risks("vrex_coefficients", risks)
    if not penalty_weight >= 0:
        raise ValueError(
            f"vrex_coefficients: `penalty_weight` must not be negative, got {penalty_weight}."
        )
    if correction < 0:
        raise ValueError(f"vrex_coefficients: `correction` must not be negative, got {correction}.")
    check_choice("vrex_coefficients", "risk_reduction", risk_reduction, ("mean", "sum"))
    num_envs = risks.shape[0]
    if penalty_weight > 0 and num_envs <= correction:
        raise ValueError(
            f"vrex_coefficients: needs more than `correction` = {correction} environments, got "
            f"{num_envs}."
        )
    base = 1 / num_envs if risk_reduction == "mean" else 1.0
    # With a weight of 0 the slope is 0 for every divisor; the product below still propagates a NaN
    # in the risks.
    slope = 2 * penalty_weight / max(num_envs - correction, 1)
    with torch.inference_mode(False), torch.no_grad():
        wide = risks.to(torch.promote_types(risks.dtype, torch.float32))
        return ((wide - wide.mean()) * slope + base).to(risks.dtype)


def statistics_coefficients(
    statistics: Mapping[str, Tensor], objective: Callable[[dict[str, Tensor]], Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    r"""Value of an objective of additive statistics, and its gradient with respect to each of them.

    .. math::
        c_k = \frac{\partial J}{\partial S_k}, \quad S_k = \sum_p S_k^{(p)}
        \qquad\Rightarrow\qquad
        \nabla_\theta J(S) = \sum_p \sum_k \langle c_k, \nabla_\theta S_k^{(p)} \rangle

    where J is the objective, :math:`S_k^{(p)}` is statistic k of part p of the batch and
    :math:`c_k` is its coefficient. Compute the statistics of each part without gradients
    (`invmod.objectives.environment_statistics`), sum them (`invmod.objectives.merge_statistics`,
    `invmod.objectives.all_reduce_statistics`), call this function, and backpropagate
    `invmod.objectives.statistics_surrogate` for each part, in a forward pass with the same random
    state as the first.

    Arguments:
        statistics: name -> tensor, of the whole batch; detached here.
        objective: a differentiable function of such a dictionary, returning a scalar. It is called
            once.

    Returns:
        the value, detached, and a dictionary of coefficients with the names and shapes of the
        statistics, detached; 0 for an entry that the objective does not use. Works under
        `torch.no_grad` as well.

    Raises:
        TypeError: an entry is not floating point.
        ValueError: there is no entry, or the objective is not a scalar that depends on an entry.

    Example:
        >>> from invmod.objectives import environment_statistics, risks_from_statistics
        >>> from invmod.penalties import vrex_penalty
        >>> s = environment_statistics(torch.tensor([[0.0, 2.0], [2.0, 4.0]]))  # risks 1 and 3
        >>> value, c = statistics_coefficients(s, lambda s: vrex_penalty(risks_from_statistics(s)))
        >>> value, c["loss"]  # each risk is its sum over 2
        (tensor(1., dtype=torch.float64), tensor([-0.5000,  0.5000], dtype=torch.float64))
    """
    function = "statistics_coefficients"
    if not statistics:
        raise ValueError(f"{function}: `statistics` has no entry.")
    for name, entry in statistics.items():
        if not isinstance(entry, Tensor) or not entry.is_floating_point():
            raise TypeError(
                f"{function}: `statistics` must be floating-point tensors, got for {name!r}: "
                f"{describe_type(entry)}"
            )
    return _coefficients(function, "statistics", dict(statistics), objective)


def statistics_surrogate(
    coefficients: Mapping[str, Tensor], statistics: Mapping[str, Tensor]
) -> Tensor:
    r"""Scalar to backpropagate for one part of a batch: its statistics weighted by coefficients.

    .. math::
        \sum_k \langle c_k, S_k^{(p)} \rangle

    where :math:`c_k` are the coefficients and :math:`S_k^{(p)}` the statistics of part p. Only the
    gradient of this scalar has a meaning: summed over the parts, it is the gradient of the
    objective of the whole batch. If your training framework averages gradients over ranks, multiply
    the scalar by the number of ranks.

    Arguments:
        coefficients: of `invmod.objectives.statistics_coefficients`.
        statistics: of this part, with gradients.

    Returns:
        a scalar, of the widest dtype among them.

    Raises:
        TypeError: an entry is not a tensor.
        ValueError: the names or shapes differ.

    Example:
        >>> coefficients = {"loss": torch.tensor([2.0, -1.0])}
        >>> statistics_surrogate(coefficients, {"loss": torch.tensor([3.0, 4.0])})
        tensor(2.)
    """
    if not coefficients or coefficients.keys() != statistics.keys():
        raise ValueError(
            "statistics_surrogate: coefficients and statistics must have the same names, at "
            f"least one, got {list(coefficients)} and {list(statistics)}."
        )
    for name, c in coefficients.items():
        check_tensor("statistics_surrogate", f"coefficients[{name!r}]", c)
        check_tensor("statistics_surrogate", f"statistics[{name!r}]", statistics[name])
        if c.shape != statistics[name].shape:
            raise ValueError(
                f"statistics_surrogate: {name!r} must have one shape, got {tuple(c.shape)} for "
                f"the coefficients and {tuple(statistics[name].shape)} for the statistics."
            )
    return torch.stack([(c * statistics[name]).sum() for name, c in coefficients.items()]).sum()


def _coefficients(
    function: str,
    what: str,
    entries: dict[str, Tensor],
    objective: Callable[[dict[str, Tensor]], Tensor],
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the value of `objective` and its gradient with respect to each entry, both detached.

    `what` names the entries in error messages.
    """
    # The caller may be in no_grad or inference mode; tensors made there cannot record a graph, so
    # the entries are cloned with both modes off.
    with torch.inference_mode(False), torch.enable_grad():
        copies = {name: entry.detach().clone().requires_grad_() for name, entry in entries.items()}
        value = objective(dict(copies))
        if not isinstance(value, Tensor) or value.ndim != 0 or not value.requires_grad:
            raise ValueError(
                f"{function}: `objective` must return a scalar tensor that depends on the {what} "
                "passed to it."
            )
        gradients = torch.autograd.grad(value, list(copies.values()), allow_unused=True)
    if all(gradient is None for gradient in gradients):
        raise ValueError(
            f"{function}: `objective` does not depend on the {what} passed to it. "
            "Use its argument, not a tensor from outside."
        )
    zipped = zip(copies.items(), gradients, strict=True)
    return value.detach(), {
        name: torch.zeros_like(x) if g is None else g.detach() for (name, x), g in zipped
    }
