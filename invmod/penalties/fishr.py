"""Fishr penalties: the spread of the variances of samples' gradients over environments."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from invmod._checks import check_tensor
from invmod._precision import without_autocast
from invmod.penalties.closed_forms import check_classes
from invmod.penalties.gradients import Reduction, spread
from invmod.penalties.groups import centre_within, check_samples, env_shares


def fishr_penalty(
    gradients: Tensor, env: Tensor, *, num_envs: int | None = None, reduction: Reduction = "mean"
) -> Tensor:
    r"""Mean squared distance of the environments' gradient variances from their mean (Fishr).

    .. math::
        \frac{1}{E} \sum_e \lVert v_e - \bar v \rVert^2, \qquad
        v_e = \frac{1}{n_e} \sum_{i \in e} (g_i - \bar g_e)^2 \in \mathbb R^P

    where :math:`g_i` is the gradient of the loss of sample i, :math:`\bar g_e` is the mean gradient
    of environment e and squares are elementwise. This is the penalty for ``reduction="sum"``;
    ``"mean"`` divides it by the number of parameters P. Both average over environments and use the
    population variance. For a linear head with cross entropy,
    `invmod.penalties.fishr_penalty_linear` does not need the per-sample gradients.

    Arguments:
        gradients: (n, P), the gradient of each sample's own loss (not divided by n), as returned by
            `invmod.penalties.per_sample_gradients`.
        env: (n,) integers, the environment of each sample, from 0.
        num_envs: E; the largest index plus one if None. Pass it so that the absence of the last
            environment is detected; it is required under `torch.compile`. On a GPU both checks
            synchronise with the device.
        reduction: over the P parameters.

    Returns:
        a scalar in float32 or wider, computed from centred squares. One environment has penalty 0,
        with zero gradient. Under `torch.compile`, where a check of values cannot raise, it is NaN
        if an environment has fewer than two samples or an index is out of range.

    Raises:
        TypeError: gradients are not floating point, or the index is not an integer.
        ValueError: shapes do not fit, an environment has fewer than two samples, an index is out of
            range, or the reduction is unknown.

    References:
        Rame, Dancette and Cord, Fishr: Invariant Gradient Variances for Out-of-Distribution
        Generalization, ICML 2022.

    Example:
        >>> g = torch.tensor([[1.0], [3.0], [0.0], [4.0]])  # variances 1 and 4, both 1.5 from 2.5
        >>> fishr_penalty(g, torch.tensor([0, 0, 1, 1]), num_envs=2)
        tensor(2.2500)
    """
    g = check_samples("fishr_penalty", "gradients", gradients, "(n, P)")
    shares = env_shares("fishr_penalty", env, g.shape[0], num_envs=num_envs, least=2, dtype=g.dtype)
    with without_autocast(g):
        variances = shares @ centre_within(g, shares, env).square()
        return spread("fishr_penalty", variances, reduction)


def fishr_penalty_linear(
    features: Tensor,
    logits: Tensor,
    targets: Tensor,
    env: Tensor,
    *,
    num_envs: int | None = None,
    reduction: Reduction = "mean",
    ignore_index: int | None = None,
) -> Tensor:
    r"""Fishr of a linear head with a bias under cross entropy, without per-sample gradients.

    .. math::
        v_e^W = \frac{(a^{2})^\top f^{2}}{n_e} - \Big( \frac{a^\top f}{n_e} \Big)^{2}, \qquad
        v_e^b = \frac{1}{n_e} \sum_{i \in e} a_i^2
        - \Big( \frac{1}{n_e} \sum_{i \in e} a_i \Big)^2, \qquad
        a = \mathrm{softmax}(z) - \mathrm{onehot}(y)

    where f are the features, z the logits and y the targets of the samples of environment e,
    squares are elementwise, and :math:`v_e^W` and :math:`v_e^b` are the gradient variances of the
    weight and the bias. The penalty is that of `invmod.penalties.fishr_penalty` for
    :math:`v_e = (v_e^W, v_e^b)`, with P = K D + K. If gradients hardly vary, these differences
    cancel, so the variances are computed in float64 and from deviations of a and f.

    Arguments:
        features: f (n, D), the input of the head.
        logits: z (n, K), the output of the head, K >= 2. For a single logit z pass two columns, 0
            and z.
        targets: int64 classes (n,). A class outside 0..K-1 is an error on the CPU; on a GPU, where
            a check would wait for the device, and in compiled code it is PyTorch's own error.
        env: (n,) integers, the environment of each sample, from 0.
        num_envs, reduction: as in `invmod.penalties.fishr_penalty`.
        ignore_index: samples with this target do not count, as in
            `torch.nn.functional.cross_entropy`, for example padded tokens: they belong to no
            environment, and their features and logits, NaN included, change neither the value nor
            the gradient with respect to these arguments.

    Returns:
        a scalar in float32 or wider. The special cases are those of
        `invmod.penalties.fishr_penalty`.

    Raises:
        TypeError: features or logits are not floating-point tensors, or classes or the index are
            not tensors of integers.
        ValueError: shapes do not fit, an environment has fewer than two samples, an index or a
            class is out of range, or the reduction is unknown.

    References:
        Rame, Dancette and Cord, Fishr: Invariant Gradient Variances for Out-of-Distribution
        Generalization, ICML 2022.

    Example:
        For logits of 0, a is ±1/2 and a * f is ±f/2. With features 1, 1 in one environment, 2, 2 in
        the other, and both classes in each, the variances of each of the two weights are 1/4 and 1,
        and those of each of the two biases are 1/4 and 1/4.

        >>> f = torch.tensor([[1.0], [1.0], [2.0], [2.0]])
        >>> z, y, env = torch.zeros(4, 2), torch.tensor([0, 1, 0, 1]), torch.tensor([0, 0, 1, 1])
        >>> fishr_penalty_linear(f, z, y, env, reduction="sum")  # 2 * 0.375^2
        tensor(0.2812)
    """
    function = "fishr_penalty_linear"
    dtype = torch.promote_types(
        check_samples(function, "features", features, "(n, D)").dtype,
        check_samples(function, "logits", logits, "(n, K)").dtype,
    )
    _check_classes(function, features, logits, targets)
    counted = None
    if ignore_index is not None:
        counted = targets != ignore_index
        features, logits = (torch.where(counted[:, None], x, 0.0) for x in (features, logits))
        targets = torch.where(counted, targets, 0)
    check_classes(function, targets, logits.shape[1])
    shares = env_shares(
        function,
        env,
        logits.shape[0],
        num_envs=num_envs,
        least=2,
        dtype=torch.float64,
        counted=counted,
    )
    with without_autocast(features):
        # The bias is treated as the weight of a constant feature 1.
        f = F.pad(features.double(), (0, 1), value=1.0)
        # The gradient of the cross entropy with respect to the weight is the outer product a f^T.
        a = F.softmax(logits.double(), dim=1) - F.one_hot(targets, logits.shape[1])
        v = _product_variances(shares, a, f, env)
        return spread(function, rearrange(v, "e c d -> e (c d)"), reduction).to(dtype)


def _check_classes(function: str, features: Tensor, logits: Tensor, targets: Tensor) -> None:
    num_samples, num_classes = logits.shape
    if num_classes < 2:
        raise ValueError(
            f"{function}: `logits` must have at least two columns. For one logit z pass two "
            "columns, 0 and z."
        )
    check_tensor(function, "targets", targets)
    if features.shape[0] != num_samples or targets.shape != (num_samples,):
        raise ValueError(
            f"{function}: `features` (n, D), `logits` (n, K) and `targets` (n,) must have the "
            f"same n, got {tuple(features.shape)}, {tuple(logits.shape)} and "
            f"{tuple(targets.shape)}."
        )
    if targets.dtype != torch.int64:
        raise TypeError(f"{function}: `targets` must be classes in int64, got {targets.dtype}.")


def _product_variances(shares: Tensor, a: Tensor, f: Tensor, env: Tensor) -> Tensor:
    r"""Return the environments' variances of a_k f_d, (E, K, D), without forming the products.

    .. math::
        a f - \overline{a f} = \bar a \tilde f + \bar f \tilde a + \tilde a \tilde f
        - \overline{\tilde a \tilde f}, \qquad \tilde a = a - \bar a, \quad \tilde f = f - \bar f

    The variance is the mean square of the right-hand side. Written with deviations it keeps its
    digits where gradients hardly vary, unlike the mean square minus the squared mean.
    """
    mean_a, mean_f = (shares @ a)[:, :, None], (shares @ f)[:, None, :]
    a, f = centre_within(a, shares, env), centre_within(f, shares, env)
    a2, f2 = a.square(), f.square()
    covariance = _mean_products(shares, a, f)
    return (
        mean_a.square() * (shares @ f2)[:, None, :]
        + mean_f.square() * (shares @ a2)[:, :, None]
        + _mean_products(shares, a2, f2)
        - covariance.square()
        + 2 * mean_a * mean_f * covariance
        + 2 * mean_a * _mean_products(shares, a, f2)
        + 2 * mean_f * _mean_products(shares, a2, f)
    )


def _mean_products(shares: Tensor, a: Tensor, f: Tensor) -> Tensor:
    """Return the environments' means of a_k f_d, (E, K, D), computed as one matrix product."""
    weighted = rearrange(shares[:, :, None] * a, "e n c -> (e c) n")
    return rearrange(weighted @ f, "(e c) d -> e c d", c=a.shape[1])
