"""Balance of learning between modalities: norms of the gradients of their modules."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from invmod._checks import check_floating


def modality_gradient_norms(modules: Mapping[str, nn.Module]) -> Tensor:
    r"""Size of the gradient of each modality's module, comparable between modules.

    .. math::
        g_m = \frac{\lVert \nabla_{\theta_m} \rVert}{\sqrt{|\theta_m|}}

    where :math:`\theta_m` are the parameters of the module of modality m and :math:`|\theta_m|` is
    their number, so that a wide module does not seem to learn more than a narrow one. Call it after
    ``loss.backward()`` and before the optimiser's step, and collect the results of an epoch for
    `modality_learning_index`.

    Arguments:
        modules: name -> module, in the order of the modalities.

    Returns:
        (M,) in float32 or wider, without a gradient. A module without any gradient has size 0. NaN
        in a gradient gives NaN.

    Raises:
        ValueError: there is no module, or a module has no parameter that requires a gradient.

    References:
        MissBench, 2026 (arXiv 2603.09874), whose index of learning compares gradients of modality
        modules. The division by the number of parameters is ours.

    Example:
        >>> modules = {"a": nn.Linear(3, 1, bias=False), "b": nn.Linear(3, 1, bias=False)}
        >>> (modules["a"](torch.ones(1, 3)) + 2 * modules["b"](torch.ones(1, 3))).sum().backward()
        >>> modality_gradient_norms(modules)
        tensor([1., 2.])
    """
    if not modules:
        raise ValueError("modality_gradient_norms: `modules` is empty; pass name -> module.")
    return torch.stack([_gradient_norm(name, module) for name, module in modules.items()])


def _gradient_norm(name: str, module: nn.Module) -> Tensor:
    parameters = [p for p in module.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError(
            f"modality_gradient_norms: the module of {name!r} has no parameter that requires a "
            "gradient. Leave frozen modules out."
        )
    zero = parameters[0].detach().new_zeros((), dtype=torch.float64)
    squares = [p.grad.detach().double().square().sum() for p in parameters if p.grad is not None]
    norm = (sum(squares, zero) / sum(p.numel() for p in parameters)).sqrt()
    return norm.to(torch.promote_types(parameters[0].dtype, torch.float32))


def modality_learning_index(norms: Tensor) -> Tensor:
    r"""How unevenly the modalities learn, from the sizes of their gradients during training.

    .. math::
        \frac{1}{T} \sum_t \frac{\mathrm{std}_m \, g_{tm}}{\mathrm{mean}_m \, g_{tm}}

    where :math:`g_{tm}` is the size of the gradient of modality m at step t and the standard
    deviation has ddof 0. It is 0 if all modalities learn equally, and :math:`\sqrt{M - 1}` if one
    learns alone. Multiplying all gradients by one number does not change it.

    Arguments:
        norms: (T, M) or (M,) for one step, of `modality_gradient_norms`, not negative.

    Returns:
        a scalar in float32 or wider. Steps without any gradient do not count; if there is no other
        step it is NaN, as it is for a norm of NaN.

    Raises:
        TypeError: norms are not a floating-point tensor.
        ValueError: norms are not (T, M) with at least one step and one modality.

    References:
        MissBench, 2026 (arXiv 2603.09874), which defines the index in words: the dispersion of
        gradient norms over modality modules. The formula is our reading of them.

    Example:
        >>> modality_learning_index(torch.tensor([[1.0, 3.0], [2.0, 2.0]]))  # (1 / 2 + 0) / 2
        tensor(0.2500)
    """
    function = "modality_learning_index"
    check_floating(function, "norms", norms)
    if norms.ndim not in (1, 2) or norms.numel() == 0:
        raise ValueError(
            f"{function}: `norms` must have shape (T, M) or (M,), one size of a gradient per step "
            f"and modality, got {tuple(norms.shape)}."
        )
    wide = norms.to(torch.promote_types(norms.dtype, torch.float32))
    rows = wide[None] if wide.ndim == 1 else wide
    mean = rows.mean(dim=1)
    # A mean of 0 has no dispersion to divide. NaN is not 0, so it stays in the result.
    counts = mean != 0
    ratios = rows.std(dim=1, correction=0) / torch.where(counts, mean, 1.0)
    return torch.where(counts, ratios, 0.0).sum() / counts.sum()
