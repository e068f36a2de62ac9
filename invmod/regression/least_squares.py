"""Non-negative least squares from the normal equations."""

from __future__ import annotations

import torch
from torch import Tensor

TOLERANCE = 1e-12


def non_negative_least_squares(products: Tensor, right: Tensor) -> Tensor:
    r"""Minimise :math:`|A x - b|^2` over :math:`x \ge 0`, from :math:`A'A` and :math:`A'b`.

    The method of Lawson and Hanson moves variables in and out of the set of positive ones until the
    gradient of no variable at 0 points upwards. Each step solves the least squares problem of the
    positive variables.

    Arguments:
        products: A'A (m, m); it may be singular.
        right: A'b (m,).

    Returns:
        x (m,), in float64 on the CPU.

    References:
        Lawson and Hanson, Solving Least Squares Problems, 1974, chapter 23.

    Example:
        >>> a = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> non_negative_least_squares(a, torch.tensor([2.0, -1.0]))
        tensor([2., 0.], dtype=torch.float64)
    """
    products, right = products.detach().double().cpu(), right.detach().double().cpu()
    x, positive = torch.zeros_like(right), torch.zeros(len(right), dtype=torch.bool)
    threshold = TOLERANCE * float(right.abs().max()) if len(right) else 0.0
    # Each pass adds a variable; the number of passes is finite, and this bound is never met.
    for _ in range(3 * len(right)):
        gradient = right - products @ x
        candidates = torch.where(positive, -torch.inf, gradient)
        if positive.all() or float(candidates.max()) <= threshold:
            break
        positive[int(candidates.argmax())] = True
        x, positive = _solve_positive(products, right, x, positive)
    return x


def _solve_positive(
    products: Tensor, right: Tensor, x: Tensor, positive: Tensor
) -> tuple[Tensor, Tensor]:
    """Solve for the positive variables; drop those that would become negative, and repeat."""
    positive = positive.clone()
    while positive.any():
        solution = torch.zeros_like(x)
        block = products[positive][:, positive]
        solution[positive] = torch.linalg.pinv(block, hermitian=True) @ right[positive]
        wrong = positive & (solution <= 0)
        if not wrong.any():
            return solution, positive
        # Move from x towards the solution until the first variable becomes 0.
        steps = x[wrong] / (x[wrong] - solution[wrong])
        step = float(steps.min()) if len(steps) else 0.0
        x = x + step * (solution - x)
        positive &= x > 0
    return torch.zeros_like(x), positive
