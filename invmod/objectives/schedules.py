"""Schedules of the penalty weight.

Each schedule depends on the step only, so a resumed run continues with the same weights.
"""

from __future__ import annotations

import math


def constant_schedule(step: int, *, value: float) -> float:
    r"""Constant weight.

    .. math::
        \beta(t) = v

    Arguments:
        step: t, from 0.
        value: v, not negative.

    Raises:
        ValueError: the step is negative, or the weight is negative or not finite.

    Example:
        >>> constant_schedule(7, value=2.0)
        2.0
    """
    _check_not_negative("constant_schedule", step, value=value)
    return value


def step_schedule(step: int, *, first: float, last: float, at: int) -> float:
    r"""Piecewise constant weight with one jump, so that the penalty can start after a warm-up.

    .. math::
        \beta(t) = \begin{cases} v_0 & t < t_0 \\ v_1 & t \geq t_0 \end{cases}

    Adam's moment estimates belong to the old objective, so reset them at the jump. If the last
    weight is large, divide the whole objective by it to keep the scale of the gradient.

    Arguments:
        step: t, from 0.
        first, last: :math:`v_0` and :math:`v_1`, not negative.
        at: :math:`t_0`, the first step that has the last weight.

    Raises:
        ValueError: a step or a weight is negative, or a weight is not finite.

    References:
        Arjovsky et al., 2019, and Krueger et al., ICML 2021, who use this annealing.

    Example:
        >>> [step_schedule(t, first=1.0, last=100.0, at=2) for t in range(4)]
        [1.0, 1.0, 100.0, 100.0]
    """
    _check_not_negative("step_schedule", step, first=first, last=last, at=at)
    return first if step < at else last


def linear_schedule(
    step: int, *, first: float, last: float, num_steps: int, begin: int = 0
) -> float:
    r"""Linear interpolation between two weights.

    .. math::
        \beta(t) = v_0 + (v_1 - v_0) \, x, \qquad x = \min(\max((t - t_0) / n, 0), 1)

    Arguments:
        step: t, from 0.
        first, last: :math:`v_0` up to step :math:`t_0` and :math:`v_1` from step :math:`t_0 + n`
            on, not negative.
        num_steps: n, at least 1.
        begin: :math:`t_0`.

    Raises:
        ValueError: a step or a weight is negative, a weight is not finite, or `num_steps` is below
            1.

    Example:
        >>> [linear_schedule(t, first=0.0, last=4.0, num_steps=2, begin=1) for t in range(5)]
        [0.0, 0.0, 2.0, 4.0, 4.0]
    """
    _check_not_negative("linear_schedule", step, first=first, last=last, begin=begin)
    x = _progress("linear_schedule", step, num_steps, begin)
    return first * (1 - x) + last * x


def exponential_schedule(
    step: int, *, first: float, last: float, num_steps: int, begin: int = 0
) -> float:
    r"""Geometric interpolation between two weights: the same factor at every step.

    .. math::
        \beta(t) = v_0^{1 - x} \, v_1^{x}, \qquad x = \min(\max((t - t_0) / n, 0), 1)

    If the weights span several orders of magnitude, each of them takes the same number of steps.

    Arguments:
        step: t, from 0.
        first, last: :math:`v_0` up to step :math:`t_0` and :math:`v_1` from step :math:`t_0 + n`
            on, above 0.
        num_steps: n, at least 1.
        begin: :math:`t_0`.

    Raises:
        ValueError: a step is negative, a weight is not above 0 or not finite, or `num_steps` is
            below 1.

    Example:
        >>> [exponential_schedule(t, first=1.0, last=100.0, num_steps=2) for t in range(4)]
        [1.0, 10.0, 100.0, 100.0]
    """
    _check_not_negative("exponential_schedule", step, first=first, last=last, begin=begin)
    if first == 0 or last == 0:
        raise ValueError(f"exponential_schedule: weights must be above 0, got {first} and {last}.")
    x = _progress("exponential_schedule", step, num_steps, begin)
    return float(first ** (1 - x) * last**x)


def _check_not_negative(function: str, step: int, **values: float) -> None:
    for name, value in {"step": step, **values}.items():
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{function}: `{name}` must be finite and not negative, got {value}.")


def _progress(function: str, step: int, num_steps: int, begin: int) -> float:
    if not num_steps >= 1:
        raise ValueError(f"{function}: `num_steps` must be at least 1, got {num_steps}.")
    return min(max((step - begin) / num_steps, 0.0), 1.0)
