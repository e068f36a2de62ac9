"""IRM penalties: functions of the derivatives of a loss with respect to a dummy scale."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from invmod._checks import check_floating
from invmod._precision import without_autocast
from invmod.penalties.closed_forms import bpr_derivatives, check_ignore_index, closed_form

SampleLoss = Literal["bce", "ce", "mse"] | Callable[[Tensor, Tensor | None], Tensor]
Estimator = Literal["square", "split", "ustat"]
Loss = Literal["bce", "ce", "mse", "bpr"] | Callable[[Tensor, Tensor | None], Tensor]


def irm_penalty(
    logits: Tensor,
    targets: Tensor | None,
    *,
    loss: Loss = "bce",
    ignore_index: int | None = None,
) -> Tensor:
    r"""IRMv1 penalty of one environment: its risk's squared derivative by a scale of the logits.

    .. math::
        \Big( \frac{1}{n} \sum_i h_i \Big)^2, \qquad
        h_i = \frac{\partial}{\partial s} \ell(s z_i, y_i) \Big|_{s = 1}

    where s is a scale of the logits :math:`z_i`, :math:`y_i` are the targets and :math:`\ell` is
    the loss. The derivatives are computed in closed form, without a double backward:

    =========  ======================================  ==========================================
    ``loss``   logits and targets                      :math:`h_i`
    =========  ======================================  ==========================================
    ``"bce"``  any shape, targets in [0, 1] or bool    :math:`z (\sigma(z) - y)`
    ``"ce"``   (n, K) and int64 classes (n,)           :math:`\sum_k p_k z_k - z_y`
    ``"mse"``  any equal shapes                        :math:`2 z (z - y)`
    ``"bpr"``  margins d of any shape, targets None    :math:`-d \, \sigma(-d)`
    =========  ======================================  ==========================================

    An infinite logit counts as the largest finite number of its dtype, in all of these losses: h is
    0, the limit, where the prediction is right, and so large that its square is infinite where it
    is wrong. Classes can therefore be excluded by logits of minus infinity. NaN gives NaN.

    Arguments:
        logits: see the table.
        targets: see the table. A class outside 0..K-1, or a target of ``"bce"`` outside [0, 1], is
            an error on the CPU. On a GPU, where a check would wait for the device, and in compiled
            code such a class is PyTorch's own error, and such a target of ``"bce"`` is none.
        loss: a name of the table, or a callable ``loss(logits, targets) -> scalar`` (the mean over
            samples), which is differentiated with a dummy scale and one `torch.autograd.grad`.
            Works under `torch.no_grad` and `torch.inference_mode` as well.
        ignore_index: targets equal to this number do not count, as in
            `torch.nn.functional.cross_entropy`: their derivatives are left out of the mean, and
            their logits, NaN included, change neither the value nor the gradient with respect to
            the logits. Not for ``"bpr"``, which has no targets, nor for a callable, which ignores
            targets itself.

    Returns:
        a scalar in float32 or wider, NaN if all targets are ignored. It is the biased estimator,
        the square of a mean. For unbiased estimators, or several environments at once, use
        `invmod.penalties.irm_derivatives` and `invmod.penalties.irm_penalty_from_derivatives`.

    Raises:
        TypeError: logits are not a floating-point tensor, targets are not a tensor, classes are not
            integers, or a callable does not return a tensor.
        ValueError: shapes do not fit, there is no sample, targets are out of range or given with
            ``"bpr"``, the loss is unknown or cannot ignore targets, or a callable does not return a
            scalar that depends on the logits.

    References:
        Arjovsky et al., Invariant Risk Minimization, 2019, the practical version IRMv1.

    Example:
        >>> z, y = torch.tensor([2.0, 1.0]), torch.tensor([1.0, 1.0])
        >>> irm_penalty(z, y, loss="mse")  # (2 * 2 * 1 + 0) / 2 = 2
        tensor(4.)
        >>> irm_penalty(z, torch.tensor([1.0, -100.0]), loss="mse", ignore_index=-100)
        tensor(16.)
        >>> irm_penalty(torch.zeros(4), None, loss="bpr")
        tensor(0.)
    """
    check_floating("irm_penalty", "logits", logits)
    check_ignore_index("irm_penalty", loss, ignore_index)
    if logits.numel() == 0:
        raise ValueError("irm_penalty: `logits` is empty; an environment needs a sample.")
    z = logits.to(torch.promote_types(logits.dtype, torch.float32))
    with without_autocast(z):
        if callable(loss):
            return _dummy_scale_derivative(z, targets, loss).square()
        if loss == "bpr":
            if targets is not None:
                raise ValueError(
                    "irm_penalty: with loss='bpr', `logits` are margins and `targets` must be None."
                )
            return bpr_derivatives(z).mean().square()
        if loss not in ("bce", "ce", "mse"):
            raise ValueError(
                "irm_penalty: `loss` must be 'bce', 'ce', 'mse', 'bpr' or a callable, got "
                f"{loss!r}."
            )
        if loss == "ce" and z.ndim > 2:
            raise ValueError(
                f"irm_penalty: with loss='ce' `logits` must be (n, K), got {tuple(z.shape)}."
            )
        h, num_ignored = closed_form("irm_penalty", z, targets, loss, ignore_index)
        mean = h.mean() if ignore_index is None else h.sum() / (h.numel() - num_ignored)
        return mean.square()


def irm_derivatives(
    logits: Tensor,
    targets: Tensor | None,
    *,
    loss: SampleLoss = "bce",
    ignore_index: int | None = None,
) -> Tensor:
    r"""Derivatives of the samples' losses with respect to a scale of their logits, for IRMv1.

    .. math::
        h_i = \frac{\partial}{\partial s} \ell(s z_i, y_i) \Big|_{s = 1}

    where s is the scale, :math:`z_i` and :math:`y_i` are the logits and the target of sample i and
    :math:`\ell` is the loss, in the closed forms of `invmod.irm_penalty`, without a double
    backward. `invmod.penalties.irm_penalty_from_derivatives` computes a penalty from them;
    `invmod.objectives.environment_statistics` computes additive sums, which give exact gradients
    over micro-batches and ranks.

    Arguments:
        logits: any shape; with ``"ce"`` (..., K).
        targets: the shape of `logits`, in [0, 1] or bool (``"bce"``) or any number (``"mse"``);
            with ``"ce"`` int64 classes (...). Values are checked as in `invmod.irm_penalty`.
        loss: ``"bce"``, ``"ce"``, ``"mse"`` (the square, without a factor 1/2), or a callable
            ``loss(logits, targets) -> losses`` that returns one loss per sample, in the shape of
            `logits` or of its leading axes. Each logit has its own dummy scale, so one
            `torch.autograd.grad` gives all of h.
        ignore_index: h is 0, without a gradient, where the target is this number. A 0 would still
            count in a mean, so leave these samples out of what follows: select
            ``h[targets != ignore_index]``, or pass ``mask=targets != ignore_index`` to
            `invmod.objectives.environment_statistics`. Not for a callable, which ignores targets
            itself.

    Returns:
        h in float32 or wider, one number per loss. An empty batch gives an empty h. Infinite logits
        and NaN are treated as in `invmod.irm_penalty`.

    Raises:
        TypeError: logits are not a floating-point tensor, targets are not a tensor, classes are not
            int64, or a callable does not return a tensor.
        ValueError: shapes do not fit, targets are out of range, or None with a named loss, the loss
            is unknown or cannot ignore targets, or the losses of a callable have a wrong shape or
            do not depend on the logits.

    References:
        Arjovsky et al., Invariant Risk Minimization, 2019, the practical version IRMv1.

    Example:
        >>> z, y = torch.tensor([2.0, 1.0]), torch.tensor([1.0, 1.0])
        >>> irm_derivatives(z, y, loss="mse")  # 2 z (z - y)
        tensor([4., 0.])
        >>> irm_derivatives(z, None, loss=lambda z, _: z**3)  # z * 3 z^2
        tensor([24.,  3.])
    """
    check_floating("irm_derivatives", "logits", logits)
    check_ignore_index("irm_derivatives", loss, ignore_index)
    z = logits.to(torch.promote_types(logits.dtype, torch.float32))
    with without_autocast(z):
        if callable(loss):
            return _dummy_scales(z, targets, loss)
        if loss not in ("bce", "ce", "mse"):
            raise ValueError(
                f"irm_derivatives: `loss` must be 'bce', 'ce', 'mse' or a callable, got {loss!r}."
            )
        return closed_form("irm_derivatives", z, targets, loss, ignore_index)[0]


def irm_derivatives_bpr(margins: Tensor) -> Tensor:
    r"""IRMv1 derivatives, as in `irm_derivatives`, for the pairwise ranking loss BPR.

    .. math::
        \ell(d) = -\log \sigma(d), \qquad h = -d \, \sigma(-d), \qquad d = s^+ - s^-

    where :math:`s^+` and :math:`s^-` are the scores of the positive and the negative item. The
    dummy scale multiplies the scores. Adding a constant to all scores does not change the margins,
    so IRM with BPR is invariant to such shifts.

    Arguments:
        margins: d, of any shape: the score of the positive item minus that of the negative item.

    Returns:
        h in the shape of the margins, in float32 or wider. An infinite margin counts as the largest
        finite number of its dtype: h is 0 for plus infinity.

    Raises:
        TypeError: margins are not floating point.

    References:
        Rendle et al., BPR: Bayesian Personalized Ranking from Implicit Feedback, UAI 2009; Arjovsky
        et al., 2019.

    Example:
        >>> irm_derivatives_bpr(torch.tensor([0.0, 1.0]))  # -1 / (1 + e)
        tensor([-0.0000, -0.2689])
    """
    check_floating("irm_derivatives_bpr", "margins", margins)
    return bpr_derivatives(margins.to(torch.promote_types(margins.dtype, torch.float32)))


def irm_penalty_from_derivatives(h: Tensor, *, estimator: Estimator = "square") -> Tensor:
    r"""IRMv1 penalty from the samples' derivatives: an estimate of the square of their mean.

    =============  ===============================================  ===============================
    ``estimator``  estimate for one environment                     bias
    =============  ===============================================  ===============================
    ``"square"``   :math:`\bar h^2`                                 :math:`+\mathrm{Var}(h)/n`
    ``"split"``    mean of even positions times mean of odd ones    none; shuffle the samples first
    ``"ustat"``    :math:`\frac{(\sum h)^2 - \sum h^2}{n (n - 1)}`  none
    =============  ===============================================  ===============================

    The unbiased estimates can be negative. They are not clamped, because clamping would reintroduce
    a bias. ``"ustat"`` averages the product over all pairs of samples; if the mean of h is 0, it
    has half the variance of ``"split"``.

    Arguments:
        h: (n,), or (E, n) for E environments of n samples each.
        estimator: see the table.

    Returns:
        a scalar in float32 or wider; for (E, n) the mean over environments. For environments of
        unequal size, masks, weights or micro-batches use
        `invmod.objectives.irm_penalty_from_statistics`.

    Raises:
        TypeError: h is not floating point.
        ValueError: h has another shape, n < 2, there is no environment, or the estimator is
            unknown.

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
            "irm_penalty_from_derivatives: `h` must have shape (n,) or (E, n) with n >= 2 and E "
            f">= 1, got {tuple(h.shape)}."
        )
    wide = h.to(torch.promote_types(h.dtype, torch.float32))
    if estimator == "square":
        return wide.mean(dim=-1).square().mean()
    if estimator == "split":
        return (wide[..., ::2].mean(dim=-1) * wide[..., 1::2].mean(dim=-1)).mean()
    # This form equals the equation, but does not subtract two large sums.
    if estimator == "ustat":
        return (wide.mean(dim=-1).square() - wide.var(dim=-1) / wide.shape[-1]).mean()
    raise ValueError(
        "irm_penalty_from_derivatives: `estimator` must be 'square', 'split' or 'ustat', got "
        f"{estimator!r}."
    )


def _dummy_scales(
    z: Tensor, targets: Tensor | None, loss: Callable[[Tensor, Tensor | None], Tensor]
) -> Tensor:
    """Return h of a callable loss without a reduction: one dummy scale per logit."""
    with torch.inference_mode(False), torch.enable_grad():
        z, targets = _outside_inference(z, targets)
        scales = torch.ones_like(z, requires_grad=True)
        losses = loss(scales * z, targets)
        if not isinstance(losses, Tensor):
            raise TypeError(
                "irm_derivatives: a callable `loss` must return a tensor, got "
                f"{type(losses).__name__}."
            )
        if losses.ndim == 0 or losses.shape != z.shape[: losses.ndim] or not losses.requires_grad:
            raise ValueError(
                "irm_derivatives: a callable `loss` must return one loss per sample, in the "
                f"shape of the leading axes of `logits` {tuple(z.shape)} and without a reduction, "
                "got shape "
                f"{tuple(losses.shape)}{'' if losses.requires_grad else ' without a gradient'}."
            )
        # Sample i depends only on its own scales, so the gradient of the sum contains every h.
        (h,) = torch.autograd.grad(
            losses.sum(), scales, create_graph=z.requires_grad, allow_unused=True
        )
    if h is None:
        raise ValueError(
            "irm_derivatives: a callable `loss` must return losses that depend on the logits "
            "passed to it. Use its argument, not a tensor from outside."
        )
    # If a loss depends on several logits, the derivative by their common scale is the sum over
    # them.
    return h.flatten(losses.ndim).sum(dim=-1) if losses.ndim < z.ndim else h


def _outside_inference(z: Tensor, targets: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Clone inference tensors, because autograd cannot save them for a backward pass."""
    z = z.clone() if z.is_inference() else z
    return z, targets.clone() if isinstance(targets, Tensor) and targets.is_inference() else targets


def _dummy_scale_derivative(
    z: Tensor, targets: Tensor | None, loss: Callable[[Tensor, Tensor | None], Tensor]
) -> Tensor:
    """Return the derivative of a callable mean loss with respect to one dummy scale."""
    with torch.inference_mode(False), torch.enable_grad():
        z, targets = _outside_inference(z, targets)
        scale = torch.ones((), dtype=z.dtype, device=z.device, requires_grad=True)
        risk = loss(scale * z, targets)
        if not isinstance(risk, Tensor):
            raise TypeError(
                "irm_penalty: a callable `loss` must return a scalar tensor, got "
                f"{type(risk).__name__}."
            )
        if risk.ndim != 0 or not risk.requires_grad:
            raise ValueError(
                "irm_penalty: a callable `loss` must return a scalar, the mean over samples, "
                "that depends on the logits passed to it, got shape "
                f"{tuple(risk.shape)}{'' if risk.requires_grad else ' without a gradient'}."
            )
        (derivative,) = torch.autograd.grad(
            risk, scale, create_graph=z.requires_grad, allow_unused=True
        )
    if derivative is None:
        raise ValueError(
            "irm_penalty: a callable `loss` must return a scalar that depends on the logits "
            "passed to it. Use its argument, not a tensor from outside."
        )
    return derivative
