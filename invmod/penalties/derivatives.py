"""Penalties of the derivatives of a loss by a dummy scale: IRM."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Loss = Literal["bce", "ce", "mse", "bpr"] | Callable[[Tensor, Tensor | None], Tensor]


def irm_penalty(logits: Tensor, targets: Tensor | None, *, loss: Loss = "bce") -> Tensor:
    r"""IRMv1 of one environment: the squared derivative of its risk by a scale s of the logits, at s = 1.

    .. math::
        \Big( \frac{1}{n} \sum_i h_i \Big)^2, \qquad h_i = \frac{\partial}{\partial s} \ell(s z_i, y_i) \Big|_{s = 1}

    in closed form, without a double backward:

    =========  ======================================  ==========================================
    ``loss``   logits and targets                      :math:`h_i`
    =========  ======================================  ==========================================
    ``"bce"``  any shape, targets in [0, 1] or bool    :math:`z (\sigma(z) - y)`
    ``"ce"``   (n, K) and int64 classes (n,)           :math:`\sum_k p_k z_k - z_y`
    ``"mse"``  any equal shapes                        :math:`2 z (z - y)`
    ``"bpr"``  margins d of any shape, targets None    :math:`-d \, \sigma(-d)`
    =========  ======================================  ==========================================

    Arguments:
        logits: see the table.
        targets: see the table. The values are not checked: a class outside 0..K-1 fails in the gather, with torch's
            own error.
        loss: a name of the table, or a callable ``loss(logits, targets) -> scalar`` (the mean over samples), which goes
            through a dummy scale and one `torch.autograd.grad`. Works under `torch.no_grad` and
            `torch.inference_mode` as well.

    Returns:
        a scalar in float32 or wider. It is the biased estimator: the square of a mean.

    Raises:
        TypeError: logits are not floating point, classes are not integers, or a callable returns no tensor.
        ValueError: shapes do not fit, no sample, targets given with ``"bpr"``, an unknown loss, or a callable that
            returns something else than a scalar that depends on the logits.

    References:
        Arjovsky et al., Invariant Risk Minimization, 2019, the practical version IRMv1.

    Example:
        >>> irm_penalty(torch.tensor([2.0, 1.0]), torch.tensor([1.0, 1.0]), loss="mse")  # (2 * 2 * 1 + 0) / 2 = 2
        tensor(4.)
        >>> irm_penalty(torch.zeros(4), None, loss="bpr")
        tensor(0.)
    """
    if not logits.is_floating_point():
        raise TypeError(f"irm_penalty: `logits` must be floating point, got {logits.dtype}.")
    if logits.numel() == 0:
        raise ValueError("irm_penalty: `logits` is empty; an environment needs a sample.")
    z = logits.to(torch.promote_types(logits.dtype, torch.float32))
    with torch.autocast(device_type=z.device.type, enabled=False):
        if callable(loss):
            return _dummy_scale_derivative(z, targets, loss).square()
        return _scale_derivatives(z, targets, loss).mean().square()


def _scale_derivatives(z: Tensor, targets: Tensor | None, loss: str) -> Tensor:
    """Return h, elementwise."""
    if loss == "bpr":
        if targets is not None:
            raise ValueError("irm_penalty: with loss='bpr' the logits are margins and `targets` must be None.")
        return -z * torch.sigmoid(-z)
    if loss not in ("bce", "ce", "mse"):
        raise ValueError(f"irm_penalty: `loss` must be 'bce', 'ce', 'mse', 'bpr' or a callable, got {loss!r}.")
    if targets is None:
        raise ValueError(f"irm_penalty: loss={loss!r} needs `targets`, got None.")
    if loss == "ce":
        return _cross_entropy_derivatives(z, targets)
    if targets.shape != z.shape:
        raise ValueError(
            f"irm_penalty: with loss={loss!r} `targets` must have the shape of `logits` "
            f"{tuple(z.shape)}, got {tuple(targets.shape)}."
        )
    y = targets.to(z.dtype)
    return z * (torch.sigmoid(z) - y) if loss == "bce" else 2 * z * (z - y)


def _cross_entropy_derivatives(z: Tensor, targets: Tensor) -> Tensor:
    if z.ndim != 2 or targets.shape != z.shape[:1]:
        raise ValueError(
            "irm_penalty: with loss='ce' `logits` must be (n, K) and `targets` (n,), "
            f"got {tuple(z.shape)} and {tuple(targets.shape)}."
        )
    if targets.dtype != torch.int64:
        raise TypeError(f"irm_penalty: with loss='ce' `targets` must be classes in int64, got {targets.dtype}.")
    return (F.softmax(z, dim=1) * z).sum(dim=1) - z.gather(1, targets[:, None])[:, 0]


def _dummy_scale_derivative(
    z: Tensor, targets: Tensor | None, loss: Callable[[Tensor, Tensor | None], Tensor]
) -> Tensor:
    with torch.inference_mode(False), torch.enable_grad():
        z = z.clone() if z.is_inference() else z  # an inference tensor cannot be saved for a backward pass
        targets = targets.clone() if isinstance(targets, Tensor) and targets.is_inference() else targets
        scale = torch.ones((), dtype=z.dtype, device=z.device, requires_grad=True)
        risk = loss(scale * z, targets)
        if not isinstance(risk, Tensor):
            raise TypeError(f"irm_penalty: a callable `loss` must return a scalar tensor, got {type(risk).__name__}.")
        if risk.ndim != 0 or not risk.requires_grad:
            raise ValueError(
                "irm_penalty: a callable `loss` must return a scalar that depends on the logits it is given, the mean "
                f"over samples, got shape {tuple(risk.shape)}{'' if risk.requires_grad else ' without a gradient'}."
            )
        (derivative,) = torch.autograd.grad(risk, scale, create_graph=z.requires_grad, allow_unused=True)
    if derivative is None:
        raise ValueError(
            "irm_penalty: a callable `loss` must return a scalar that depends on the logits it is given. "
            "Use its argument, not a tensor from outside."
        )
    return derivative
