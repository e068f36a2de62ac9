"""The coefficients that make an objective exact in pieces."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from invmod.penalties import check_risks


def risk_coefficients(risks: Tensor, objective: Callable[[Tensor], Tensor]) -> Tensor:
    r"""The gradient of an objective with respect to its risks.

    .. math::
        a_e = \frac{\partial J}{\partial R_e}
        \qquad\Rightarrow\qquad
        \nabla_\theta J(R) = \sum_e a_e \nabla_\theta R_e

    An objective that is not linear in the risks is not the mean of its values on parts of a batch. With these E
    numbers the gradient comes out exactly nevertheless: form the risks of the whole batch without gradients, by
    micro-batches or over data-parallel ranks; form the coefficients; then backpropagate
    ``(a * local_risks).sum()`` for each part, where the local risks are that part's share of the whole batch's mean
    (its sum of losses over the count of the whole batch) and its randomness is replayed.

    Arguments:
        risks: (E,), those of the whole batch; detached here.
        objective: a differentiable function of the risks, returning a scalar.

    Returns:
        (E,), detached; in the dtype of the risks. Works under `torch.no_grad` as well.

    Raises:
        TypeError: risks are not floating point.
        ValueError: risks are not (E,), or the objective is not a scalar that depends on them.

    Example:
        >>> from invmod import vrex_penalty
        >>> risk_coefficients(torch.tensor([1.0, 3.0]), lambda r: r.mean() + vrex_penalty(r))
        tensor([-0.5000,  1.5000])
    """
    check_risks("risk_coefficients", risks)
    with torch.inference_mode(False), torch.enable_grad():
        copy = risks.detach().clone().requires_grad_()
        value = objective(copy)
        if not isinstance(value, Tensor) or value.ndim != 0 or not value.requires_grad:
            raise ValueError(
                "risk_coefficients: `objective` must return a scalar tensor that depends on the risks it is given."
            )
        (coefficients,) = torch.autograd.grad(value, copy, allow_unused=True)
    if coefficients is None:
        raise ValueError(
            "risk_coefficients: `objective` does not depend on the risks it is given. "
            "Use its argument, not a tensor from outside."
        )
    return coefficients
