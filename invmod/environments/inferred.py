"""Environments inferred from the errors of a reference model, for data without given ones."""

from __future__ import annotations

from torch import Tensor

from invmod._checks import check_floating, has_known_values


def infer_environments(h: Tensor) -> Tensor:
    r"""The two environments in which a reference model is least invariant (EIIL).

    .. math::
        q = \arg\max_{q \in [0, 1]^n} \; \Big( \frac{1}{n} \sum_i q_i h_i \Big)^2
            + \Big( \frac{1}{n} \sum_i (1 - q_i) h_i \Big)^2,
        \qquad q_i = \mathbf 1 [h_i > 0]

    where :math:`h_i` is the derivative of the loss of sample i with respect to a dummy scale of the
    reference model's logits, and :math:`q_i` is the probability that sample i belongs to
    environment 1. The objective is convex in :math:`\sum_i q_i h_i`, so its maximum lies at an end
    of the range: all positive h form one environment and all others the second one. Swapping the
    labels gives the same value; this function always returns the labelling above. Both sums are
    divided by the number of *all* samples. Dividing each by the size of its environment would give
    a different optimum.

    Arguments:
        h: (n,) derivatives of a reference model (one trained without an invariance penalty), for
            example from `invmod.penalties.irm_derivatives`.

    Returns:
        (n,) int64 of 0 and 1, on the device of h. A derivative of exactly 0 belongs to
        environment 0. If no h is positive, or all are, there is only one environment. This happens
        if the reference model fits every sample of its training set; no environments can be
        inferred from such a model.

    Raises:
        TypeError: h is not floating point.
        ValueError: h is not (n,), or contains NaN (not checked under `torch.compile`, where a NaN
            goes to environment 0).

    References:
        Creager, Jacobsen and Zemel, Environment Inference for Invariant Learning, ICML 2021.

    Example:
        >>> import torch
        >>> infer_environments(torch.tensor([0.5, -2.0, 0.0, 1.0]))
        tensor([1, 0, 0, 1])
    """
    check_floating("infer_environments", "h", h)
    if h.ndim != 1:
        raise ValueError(
            "infer_environments: `h` must have shape (n,), one derivative a sample, "
            f"got {tuple(h.shape)}."
        )
    if has_known_values(h) and h.isnan().any():
        raise ValueError(
            "infer_environments: `h` has a NaN, which belongs to no environment. "
            "Fix the reference model."
        )
    return (h > 0).long()
