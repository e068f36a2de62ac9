"""Penalties of gradients: of each environment's risk, or of each sample's loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from invmod.penalties.groups import check_samples, env_shares, without_autocast

Reduction = Literal["mean", "sum"]


def iga_penalty(gradients: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    r"""How far the gradients of the risks lie from their mean (IGA).

    .. math::
        \frac{1}{E} \sum_e \lVert g_e - \bar g \rVert^2, \qquad g_e = \nabla_\theta R_e

    with ``reduction="sum"``, and divided by P with ``"mean"``. Environments are averaged in both.

    Arguments:
        gradients: (E, P), the gradient of each environment's risk by all parameters, or by some. Make them with
            ``create_graph=True``, else nothing can be learnt from the penalty.
        reduction: over the P parameters.

    Returns:
        a scalar in float32 or wider. One environment has penalty 0, with zero gradient.

    Raises:
        TypeError: gradients are not floating point.
        ValueError: gradients are not (E, P) with an environment and a parameter, or an unknown reduction.

    References:
        Koyama and Yamaguchi, When is invariance useful in an Out-of-Distribution Generalization problem?, 2020.

    Example:
        >>> g = torch.tensor([[1.0, 0.0], [3.0, 4.0]])  # mean (2, 2), each at a squared distance of 1 + 4
        >>> iga_penalty(g, reduction="sum"), iga_penalty(g)
        (tensor(5.), tensor(2.5000))
    """
    return _spread(
        "iga_penalty", check_samples("iga_penalty", "gradients", gradients, "(E, P)"), reduction
    )


def fishr_penalty(
    gradients: Tensor, env: Tensor, *, num_envs: int | None = None, reduction: Reduction = "mean"
) -> Tensor:
    r"""How far the variances of per-sample gradients lie from their mean over environments (Fishr).

    .. math::
        \frac{1}{E} \sum_e \lVert v_e - \bar v \rVert^2, \qquad
        v_e = \frac{1}{n_e} \sum_{i \in e} (g_i - \bar g_e)^2 \in \mathbb R^P

    with ``reduction="sum"``, and divided by P with ``"mean"``. Environments are averaged in both, and the variance is
    the population's. For a linear head under cross entropy `invmod.fishr_penalty_linear` needs no g.

    Arguments:
        gradients: (n, P), the gradient of each sample's own loss (not divided by n), as of
            `invmod.per_sample_gradients`.
        env: (n,) integers, the environment of each sample, from 0.
        num_envs: E; one more than the largest index where None. Give it, so that an absent last environment is an
            error; under `torch.compile` it must be given. On a GPU both checks wait for the device.
        reduction: over the P parameters.

    Returns:
        a scalar in float32 or wider, from centred squares. One environment has penalty 0, with zero gradient. Under
        `torch.compile`, where values cannot raise, it is NaN where an environment has fewer than two samples or an
        index is out of range.

    Raises:
        TypeError: gradients are not floating point, or the index is not an integer.
        ValueError: shapes do not fit, an environment has fewer than two samples, an index is out of range, or an
            unknown reduction.

    References:
        Rame, Dancette and Cord, Fishr: Invariant Gradient Variances for Out-of-Distribution Generalization, ICML 2022.

    Example:
        >>> g = torch.tensor([[1.0], [3.0], [0.0], [4.0]])  # variances 1 and 4, each 1.5 from their mean
        >>> fishr_penalty(g, torch.tensor([0, 0, 1, 1]), num_envs=2)
        tensor(2.2500)
    """
    g = check_samples("fishr_penalty", "gradients", gradients, "(n, P)")
    shares = env_shares("fishr_penalty", env, g.shape[0], num_envs=num_envs, least=2, dtype=g.dtype)
    with without_autocast(g):
        centred = g - (shares @ g).index_select(0, env.long())
        return _spread("fishr_penalty", shares @ centred.square(), reduction)


def fishr_penalty_linear(
    features: Tensor,
    logits: Tensor,
    targets: Tensor,
    env: Tensor,
    *,
    num_envs: int | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    r"""Fishr of a linear head with a bias under cross entropy, without per-sample gradients.

    .. math::
        v_e^W = \frac{(a^{2})^\top f^{2}}{n_e} - \Big( \frac{a^\top f}{n_e} \Big)^{2}, \qquad
        v_e^b = \frac{1}{n_e} \sum_{i \in e} a_i^2 - \Big( \frac{1}{n_e} \sum_{i \in e} a_i \Big)^2, \qquad
        a = \mathrm{softmax}(z) - \mathrm{onehot}(y)

    over the samples of e, squares elementwise; then as `invmod.fishr_penalty` on :math:`v_e = (v_e^W, v_e^b)`, P = K D
    + K. The differences cancel where gradients hardly vary (in float32 by orders of magnitude), so all of it is summed
    in float64.

    Arguments:
        features: f (n, D), what the head sees.
        logits: z (n, K), what it says: ``head(features)``, K >= 2. For one logit z give two columns, 0 and z.
        targets: int64 classes (n,). The values are not checked: one outside 0..K-1 fails with torch's own error.
        env: (n,) integers, the environment of each sample, from 0.
        num_envs, reduction: as in `invmod.fishr_penalty`.

    Returns:
        a scalar in float32 or wider; one environment, and an edge under `torch.compile`, as in `invmod.fishr_penalty`.

    Raises:
        TypeError: features or logits are not floating point, or classes or the index are not integers.
        ValueError: shapes do not fit, an environment has fewer than two samples, an index is out of range, or an
            unknown reduction.

    References:
        Rame, Dancette and Cord, Fishr: Invariant Gradient Variances for Out-of-Distribution Generalization, ICML 2022.

    Example:
        At logits of 0 a is ±1/2, so a * f is ±f/2; with f = 1, 1 and 2, 2 and both classes in each environment the
        variances are 1/4 and 1 for each of two weights, 1/4 and 1/4 for each of two biases.

        >>> f, y = torch.tensor([[1.0], [1.0], [2.0], [2.0]]), torch.tensor([0, 1, 0, 1])
        >>> fishr_penalty_linear(f, torch.zeros(4, 2), y, torch.tensor([0, 0, 1, 1]), reduction="sum")  # 2 * .375^2
        tensor(0.2812)
    """
    function = "fishr_penalty_linear"
    dtype = torch.promote_types(
        check_samples(function, "features", features, "(n, D)").dtype,
        check_samples(function, "logits", logits, "(n, K)").dtype,
    )
    num_samples, num_classes = logits.shape
    if num_classes < 2:
        raise ValueError(
            f"{function}: `logits` must have at least two columns. For one logit z give two, 0 and z."
        )
    if features.shape[0] != num_samples or targets.shape != (num_samples,):
        raise ValueError(
            f"{function}: `features` (n, D), `logits` (n, K) and `targets` (n,) must have the same n, "
            f"got {tuple(features.shape)}, {tuple(logits.shape)} and {tuple(targets.shape)}."
        )
    if targets.dtype != torch.int64:
        raise TypeError(f"{function}: `targets` must be classes in int64, got {targets.dtype}.")
    shares = env_shares(function, env, num_samples, num_envs=num_envs, least=2, dtype=torch.float64)
    with without_autocast(features):
        f = F.pad(
            features.double(), (0, 1), value=1.0
        )  # the bias is the weight of a feature that is 1
        a = F.softmax(logits.double(), dim=1) - F.one_hot(targets, num_classes)
        v = _sums(shares, a.square(), f.square()) - _sums(shares, a, f).square()
        return _spread(function, rearrange(v, "e c d -> e (c d)"), reduction).to(dtype)


def _sums(shares: Tensor, a: Tensor, f: Tensor) -> Tensor:
    """Return the mean of a_k f_d in each environment, (E, K, D), as one matrix product."""
    weighted = rearrange(shares[:, :, None] * a, "e n c -> (e c) n")
    return rearrange(weighted @ f, "(e c) d -> e c d", c=a.shape[1])


def _spread(function: str, rows: Tensor, reduction: Reduction) -> Tensor:
    """Return the mean over E of the squared distance of rows (E, P) to their mean, summed or averaged over P."""
    if reduction not in ("mean", "sum"):
        raise ValueError(f"{function}: `reduction` must be 'mean' or 'sum', got {reduction!r}.")
    squares = (rows - rows.mean(dim=0)).square().mean(dim=0)
    return squares.mean() if reduction == "mean" else squares.sum()


def per_sample_gradients(
    sample_loss: Callable[..., Tensor],
    parameters: Mapping[str, Tensor],
    *batch: Tensor,
    chunk_size: int | None = None,
) -> Tensor:
    r"""The gradient of each sample's loss by the parameters, all samples at once.

    .. math::
        g_i = \nabla_\theta \, \ell(\theta; x_i, y_i, \dots)

    by `torch.func.vmap` over `torch.func.grad`: what `invmod.fishr_penalty` needs where the head is not linear or the
    loss is not cross entropy. It can be differentiated again, by the parameters and by the batch.

    Arguments:
        sample_loss: ``sample_loss(parameters, x, y, ...) -> scalar`` for one sample, without a batch axis;
            `torch.func.functional_call` runs a module with the parameters. What mixes samples (batch normalisation in
            training mode) or draws random numbers (dropout) has no place in it.
        parameters: name -> tensor, such as ``dict(head.named_parameters())``.
        batch: tensors (n, ...), which are taken apart along their first axis.
        chunk_size: how many samples at a time, to bound memory; all where None.

    Returns:
        (n, P), the parameters flattened in the order of the mapping; (0, P) for an empty batch.

    Raises:
        ValueError: no parameter, no batch, or tensors of different lengths.

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
            "per_sample_gradients: `parameters` is empty; give at least one name -> tensor."
        )
    if not batch or len({x.shape[:1] for x in batch}) != 1 or batch[0].ndim == 0:
        raise ValueError(
            "per_sample_gradients: `batch` must be one or more tensors (n, ...) of one length, "
            f"got shapes {[tuple(x.shape) for x in batch]}."
        )
    if batch[0].shape[0] == 0:
        return torch.cat([p.reshape(-1) for p in parameters.values()])[None][:0]
    one = torch.func.grad(sample_loss)
    over = (None, *(0 for _ in batch))
    rows = torch.func.vmap(one, in_dims=over, chunk_size=chunk_size)(dict(parameters), *batch)
    return torch.cat([rows[name].flatten(1) for name in parameters], dim=1)
