"""Penalties of the derivatives of a loss by a dummy scale: IRM."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from invmod._checks import check_floating

SampleLoss = Literal["bce", "ce", "mse"] | Callable[[Tensor, Tensor | None], Tensor]
Estimator = Literal["square", "split", "ustat"]
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
        a scalar in float32 or wider. It is the biased estimator: the square of a mean. For the unbiased ones, or
        several environments at once: `invmod.irm_derivatives` and `invmod.irm_penalty_from_derivatives`.

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
    check_floating("irm_penalty", "logits", logits)
    if logits.numel() == 0:
        raise ValueError("irm_penalty: `logits` is empty; an environment needs a sample.")
    z = logits.to(torch.promote_types(logits.dtype, torch.float32))
    with torch.autocast(device_type=z.device.type, enabled=False):
        if callable(loss):
            return _dummy_scale_derivative(z, targets, loss).square()
        if loss == "bpr":
            if targets is not None:
                raise ValueError(
                    "irm_penalty: with loss='bpr' the logits are margins and `targets` must be None."
                )
            return _bpr(z).mean().square()
        if loss not in ("bce", "ce", "mse"):
            raise ValueError(
                f"irm_penalty: `loss` must be 'bce', 'ce', 'mse', 'bpr' or a callable, got {loss!r}."
            )
        if loss == "ce" and z.ndim > 2:
            raise ValueError(
                f"irm_penalty: with loss='ce' `logits` must be (n, K), got {tuple(z.shape)}."
            )
        return _closed_form("irm_penalty", z, targets, loss).mean().square()


def irm_derivatives(logits: Tensor, targets: Tensor | None, *, loss: SampleLoss = "bce") -> Tensor:
    r"""The derivative of each sample's loss by a scale s of its logits, at s = 1: what IRMv1 is made of.

    .. math::
        h_i = \frac{\partial}{\partial s} \ell(s z_i, y_i) \Big|_{s = 1}

    in the closed forms of `invmod.irm_penalty`, without a double backward. `invmod.irm_penalty_from_derivatives` makes
    a penalty of them, `invmod.environment_statistics` sums that are exact in pieces.

    Arguments:
        logits: any shape; with ``"ce"`` (..., K).
        targets: the shape of `logits`, in [0, 1] or bool (``"bce"``) or any number (``"mse"``); with ``"ce"`` int64
            classes (...). The values are not checked.
        loss: ``"bce"``, ``"ce"``, ``"mse"`` (the square, without a half), or a callable ``loss(logits, targets) ->
            losses``, one for each sample: its shape is that of `logits` or lacks some of its last axes. Each logit gets
            its own dummy scale, and one `torch.autograd.grad` gives all of h.

    Returns:
        h in float32 or wider, one number for each loss. An empty batch gives an empty h.

    Raises:
        TypeError: logits are not floating point, classes are not int64, or a callable returns no tensor.
        ValueError: shapes do not fit, targets are None with a named loss, an unknown loss, or a callable whose losses
            have another shape or do not depend on the logits.

    References:
        Arjovsky et al., Invariant Risk Minimization, 2019, the practical version IRMv1.

    Example:
        >>> irm_derivatives(torch.tensor([2.0, 1.0]), torch.tensor([1.0, 1.0]), loss="mse")  # 2 z (z - y)
        tensor([4., 0.])
        >>> irm_derivatives(torch.tensor([2.0, 1.0]), None, loss=lambda z, _: z**3)  # z * 3 z^2
        tensor([24.,  3.])
    """
    check_floating("irm_derivatives", "logits", logits)
    z = logits.to(torch.promote_types(logits.dtype, torch.float32))
    with torch.autocast(device_type=z.device.type, enabled=False):
        if callable(loss):
            return _dummy_scales(z, targets, loss)
        if loss not in ("bce", "ce", "mse"):
            raise ValueError(
                f"irm_derivatives: `loss` must be 'bce', 'ce', 'mse' or a callable, got {loss!r}."
            )
        return _closed_form("irm_derivatives", z, targets, loss)


def irm_derivatives_bpr(margins: Tensor) -> Tensor:
    r"""The derivatives of `invmod.irm_derivatives` for the pairwise ranking loss BPR.

    .. math::
        \ell(d) = -\log \sigma(d), \qquad h = -d \, \sigma(-d), \qquad d = s^+ - s^-

    The scale multiplies the scores. A shift of the scores leaves the margins, so IRM under BPR is blind to shifts.

    Arguments:
        margins: d, of any shape: the score of what was chosen less that of what was not.

    Returns:
        h in the shape of the margins, in float32 or wider.

    Raises:
        TypeError: margins are not floating point.

    References:
        Rendle et al., BPR: Bayesian Personalized Ranking from Implicit Feedback, UAI 2009; Arjovsky et al., 2019.

    Example:
        >>> irm_derivatives_bpr(torch.tensor([0.0, 1.0]))  # -1 / (1 + e)
        tensor([-0.0000, -0.2689])
    """
    check_floating("irm_derivatives_bpr", "margins", margins)
    return _bpr(margins.to(torch.promote_types(margins.dtype, torch.float32)))


def irm_penalty_from_derivatives(h: Tensor, *, estimator: Estimator = "square") -> Tensor:
    r"""IRMv1 from the derivatives of the samples: an estimate of the square of their mean.

    =============  =================================================================  ===============================
    ``estimator``  of one environment                                                 bias
    =============  =================================================================  ===============================
    ``"square"``   :math:`\bar h^2`                                                   up by :math:`\mathrm{Var}(h)/n`
    ``"split"``    mean over even positions times mean over odd ones                  none; shuffle the samples first
    ``"ustat"``    :math:`\frac{(\sum h)^2 - \sum h^2}{n (n - 1)}`                    none
    =============  =================================================================  ===============================

    The unbiased ones can be negative and are not clamped: a clamp brings the bias back. ``"ustat"`` averages the
    product over all pairs of samples: where the mean of h is 0 it has half the variance of the split.

    Arguments:
        h: (n,), or (E, n) for E environments of n samples each.
        estimator: see the table.

    Returns:
        a scalar in float32 or wider; for (E, n) the mean over environments. For environments of unequal size, masks,
        weights or pieces: `invmod.irm_penalty_from_statistics`.

    Raises:
        TypeError: h is not floating point.
        ValueError: h has another shape, n < 2, no environment, or an unknown estimator.

    References:
        Arjovsky et al., Invariant Risk Minimization, 2019. The split is that of its released code.

    Example:
        >>> h = torch.tensor([1.0, 2.0, 3.0])
        >>> irm_penalty_from_derivatives(h)
        tensor(4.)
        >>> irm_penalty_from_derivatives(h, estimator="split")  # (1 + 3) / 2 * 2
        tensor(4.)
        >>> irm_penalty_from_derivatives(h, estimator="ustat")  # (36 - 14) / 6
        tensor(3.6667)
    """
    check_floating("irm_penalty_from_derivatives", "h", h)
    if h.ndim not in (1, 2) or h.shape[-1] < 2 or h.shape[0] == 0:
        raise ValueError(
            "irm_penalty_from_derivatives: `h` must have shape (n,) or (E, n) with n >= 2 and E >= 1, "
            f"got {tuple(h.shape)}."
        )
    wide = h.to(torch.promote_types(h.dtype, torch.float32))
    if estimator == "square":
        return wide.mean(dim=-1).square().mean()
    if estimator == "split":
        return (wide[..., ::2].mean(dim=-1) * wide[..., 1::2].mean(dim=-1)).mean()
    if estimator == "ustat":  # equal to the equation, without the difference of two large sums
        return (wide.mean(dim=-1).square() - wide.var(dim=-1) / wide.shape[-1]).mean()
    raise ValueError(
        f"irm_penalty_from_derivatives: `estimator` must be 'square', 'split' or 'ustat', got {estimator!r}."
    )


def _bpr(d: Tensor) -> Tensor:
    return -d * torch.sigmoid(-d)


def _closed_form(function: str, z: Tensor, targets: Tensor | None, loss: str) -> Tensor:
    """Return h of a named loss, elementwise."""
    if targets is None:
        raise ValueError(f"{function}: loss={loss!r} needs `targets`, got None.")
    if loss == "ce":
        return _cross_entropy(function, z, targets)
    if targets.shape != z.shape:
        raise ValueError(
            f"{function}: with loss={loss!r} `targets` must have the shape of `logits` "
            f"{tuple(z.shape)}, got {tuple(targets.shape)}."
        )
    y = targets.to(z.dtype)
    return z * (torch.sigmoid(z) - y) if loss == "bce" else 2 * z * (z - y)


def _cross_entropy(function: str, z: Tensor, targets: Tensor) -> Tensor:
    if z.ndim < 2 or targets.shape != z.shape[:-1]:
        raise ValueError(
            f"{function}: with loss='ce' `logits` must be (n, K) and `targets` (n,), "
            f"got {tuple(z.shape)} and {tuple(targets.shape)}."
        )
    if targets.dtype != torch.int64:
        raise TypeError(
            f"{function}: with loss='ce' `targets` must be classes in int64, got {targets.dtype}."
        )
    return (F.softmax(z, dim=-1) * z).sum(dim=-1) - z.gather(-1, targets[..., None])[..., 0]


def _dummy_scales(
    z: Tensor, targets: Tensor | None, loss: Callable[[Tensor, Tensor | None], Tensor]
) -> Tensor:
    with torch.inference_mode(False), torch.enable_grad():
        z, targets = _outside_inference(z, targets)
        scales = torch.ones_like(z, requires_grad=True)
        losses = loss(scales * z, targets)
        if not isinstance(losses, Tensor):
            raise TypeError(
                f"irm_derivatives: a callable `loss` must return a tensor, got {type(losses).__name__}."
            )
        if losses.ndim == 0 or losses.shape != z.shape[: losses.ndim] or not losses.requires_grad:
            raise ValueError(
                "irm_derivatives: a callable `loss` must return one loss for each sample, of the leading axes of "
                f"`logits` {tuple(z.shape)} and without a reduction, "
                f"got shape {tuple(losses.shape)}{'' if losses.requires_grad else ' without a gradient'}."
            )
        (h,) = torch.autograd.grad(
            losses.sum(), scales, create_graph=z.requires_grad, allow_unused=True
        )
    if h is None:
        raise ValueError(
            "irm_derivatives: a callable `loss` must return losses that depend on the logits it is given. "
            "Use its argument, not a tensor from outside."
        )
    return h.flatten(losses.ndim).sum(dim=-1) if losses.ndim < z.ndim else h


def _outside_inference(z: Tensor, targets: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Copy inference tensors: they cannot be saved for a backward pass."""
    z = z.clone() if z.is_inference() else z
    return z, targets.clone() if isinstance(targets, Tensor) and targets.is_inference() else targets


def _dummy_scale_derivative(
    z: Tensor, targets: Tensor | None, loss: Callable[[Tensor, Tensor | None], Tensor]
) -> Tensor:
    with torch.inference_mode(False), torch.enable_grad():
        z, targets = _outside_inference(z, targets)
        scale = torch.ones((), dtype=z.dtype, device=z.device, requires_grad=True)
        risk = loss(scale * z, targets)
        if not isinstance(risk, Tensor):
            raise TypeError(
                f"irm_penalty: a callable `loss` must return a scalar tensor, got {type(risk).__name__}."
            )
        if risk.ndim != 0 or not risk.requires_grad:
            raise ValueError(
                "irm_penalty: a callable `loss` must return a scalar that depends on the logits it is given, the mean "
                f"over samples, got shape {tuple(risk.shape)}{'' if risk.requires_grad else ' without a gradient'}."
            )
        (derivative,) = torch.autograd.grad(
            risk, scale, create_graph=z.requires_grad, allow_unused=True
        )
    if derivative is None:
        raise ValueError(
            "irm_penalty: a callable `loss` must return a scalar that depends on the logits it is given. "
            "Use its argument, not a tensor from outside."
        )
    return derivative
