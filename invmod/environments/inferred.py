"""Environments that nobody gave: inferred from what a reference model gets wrong."""

from __future__ import annotations

import torch
from torch import Tensor

from invmod._checks import check_floating


def infer_environments(h: Tensor) -> Tensor:
    r"""The two environments in which a reference model is least invariant (EIIL).

    .. math::
        q = \arg\max_{q \in [0, 1]^n} \; \Big( \frac{1}{n} \sum_i q_i h_i \Big)^2
            + \Big( \frac{1}{n} \sum_i (1 - q_i) h_i \Big)^2,
        \qquad q_i = \mathbf 1 [h_i > 0]

    with h the derivative of each sample's loss by a dummy scale of the reference model's logits. The objective is
    convex in :math:`\sum_i q_i h_i`, so its maximum lies at an end: all positive h in one environment and all others in
    the other. The swapped labelling is as good; this one is fixed. Both sums are divided by the number of *all*
    samples; divided by those of each environment they have another optimum.

    Arguments:
        h: (n,) derivatives of a reference model (one trained without an invariance penalty), as of
            `invmod.irm_derivatives`.

    Returns:
        (n,) int64 of 0 and 1, on the device of h; a derivative of exactly 0 belongs to environment 0, and no samples
        give no labels. Where no h is positive, or all are, there is one environment only: a reference model that
        fits every sample of its training set can be like that, and then nothing can be inferred from it.

    Raises:
        TypeError: h is not floating point.
        ValueError: h is not (n,), or has a NaN (not checked under `torch.compile`, where a NaN goes to environment 0).

    References:
        Creager, Jacobsen and Zemel, Environment Inference for Invariant Learning, ICML 2021.

    Example:
        >>> infer_environments(torch.tensor([0.5, -2.0, 0.0, 1.0]))
        tensor([1, 0, 0, 1])
    """
    check_floating("infer_environments", "h", h)
    if h.ndim != 1:
        raise ValueError(
            f"infer_environments: `h` must have shape (n,), one derivative a sample, got {tuple(h.shape)}."
        )
    if not torch.compiler.is_compiling() and h.isnan().any():
        raise ValueError(
            "infer_environments: `h` has a NaN, which belongs to no environment. Mend the reference model."
        )
    return (h > 0).long()
