"""Gradients of environments' risks (IGA), and gradients of samples' losses."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
from torch import Tensor

from invmod._checks import check_choice, check_count, check_tensor
from invmod._precision import centre
from invmod.penalties.groups import check_samples

Reduction = Literal["mean", "sum"]


def iga_penalty(gradients: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    r"""Mean squared distance of the risks' gradients from their mean (IGA).

    .. math::
        \frac{1}{E} \sum_e \lVert g_e - \bar g \rVert^2, \qquad g_e = \nabla_\theta R_e

    where :math:`R_e` is the risk of environment e and :math:`\theta` are the parameters. This is
    the penalty for ``reduction="sum"``; ``"mean"`` divides it by the number of parameters P. Both
    average over environments.

    Arguments:
        gradients: (E, P), the gradient of each environment's risk with respect to all or some of
            the parameters. Compute them with ``create_graph=True``; otherwise the penalty has no
            gradient with respect to the parameters.
        reduction: over the P parameters.

    Returns:
        a scalar in float32 or wider. One environment has penalty 0, with zero gradient.

    Raises:
        TypeError: gradients are not floating point.
        ValueError: gradients are not (E, P) with at least one environment and parameter, or the
            reduction is unknown.

    References:
        Koyama and Yamaguchi, When is invariance useful in an Out-of-Distribution Generalization
        problem?, 2020.

    Example:
        >>> g = torch.tensor([[1.0, 0.0], [3.0, 4.0]])  # mean (2, 2), squared distances 1 + 4
        >>> iga_penalty(g, reduction="sum"), iga_penalty(g)
        (tensor(5.), tensor(2.5000))
    """
    return spread(
        "iga_penalty", check_samples("iga_penalty", "gradients", gradients, "(E, P)"), reduction
    )


def spread(function: str, rows: Tensor, reduction: Reduction) -> Tensor:
    """Return the mean squared distance of rows (E, P) from their mean; `reduction` is over P."""
    check_choice(function, "reduction", reduction, ("mean", "sum"))
    squares = centre(rows).square().mean(dim=0)
    return squares.mean() if reduction == "mean" else squares.sum()


def per_sample_gradients(
    sample_loss: Callable[..., Tensor],
    parameters: Mapping[str, Tensor],
    *batch: Tensor,
    chunk_size: int | None = None,
) -> Tensor:
    r"""Gradient of each sample's loss with respect to the parameters, vectorised over samples.

    .. math::
        g_i = \nabla_\theta \, \ell(\theta; x_i, y_i, \dots)

    where :math:`\theta` are the parameters and :math:`x_i, y_i, \dots` are the tensors of sample i.
    The gradients are computed by `torch.func.vmap` over `torch.func.grad`. Use them with
    `invmod.penalties.fishr_penalty` if the head is not linear or the loss is not cross entropy.
    They can be differentiated again with respect to the parameters and the batch.

    Arguments:
        sample_loss: ``sample_loss(parameters, x, y, ...) -> scalar`` for one sample, without a
            batch axis. Use `torch.func.functional_call` to run a module with the parameters. The
            function must not mix samples (batch normalisation in training mode) or draw random
            numbers (dropout).
        parameters: name -> tensor, such as ``dict(head.named_parameters())``.
        batch: tensors (n, ...), which are split along their first axis.
        chunk_size: number of samples processed at a time, to bound memory; all if None.

    Returns:
        (n, P), the parameters flattened in the order of the mapping; (0, P) for an empty batch.

    Raises:
        TypeError: a parameter or an entry of the batch is not a tensor, or the size of a chunk is
            not an int.
        ValueError: there is no parameter or no batch tensor, the batch tensors differ in length, or
            the size of a chunk is below 1.

    References:
        Rame, Dancette and Cord, ICML 2022, Section 3.

    Example:
        >>> theta = {"w": torch.tensor([1.0, 2.0])}
        >>> x = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
        >>> per_sample_gradients(lambda p, x: (p["w"] @ x).square(), theta, x)  # 2 (w . x) x
        tensor([[2., 0.],
                [6., 6.]])
    """
    if not parameters:
        raise ValueError(
            "per_sample_gradients: `parameters` is empty; pass at least one name -> tensor."
        )
    for x in (*parameters.values(), *batch):
        check_tensor("per_sample_gradients", "parameters` and `batch", x)
    if chunk_size is not None:
        chunk_size = check_count("per_sample_gradients", "chunk_size", chunk_size)
    if not batch or any(x.shape[:1] != batch[0].shape[:1] for x in batch) or batch[0].ndim == 0:
        raise ValueError(
            "per_sample_gradients: `batch` must be one or more tensors (n, ...) of one length, "
            f"got shapes {[tuple(x.shape) for x in batch]}."
        )
    if batch[0].shape[0] == 0:
        # vmap cannot run on an empty batch; this empty result has the right width and dtype.
        return torch.cat([p.reshape(-1) for p in parameters.values()])[None][:0]
    sample_gradient = torch.func.grad(sample_loss)
    in_dims = (None, *(0 for _ in batch))  # the parameters are shared, the batch is split
    vectorised = torch.func.vmap(sample_gradient, in_dims=in_dims, chunk_size=chunk_size)
    rows = vectorised(dict(parameters), *batch)
    return torch.cat([rows[name].flatten(1) for name in parameters], dim=1)
