"""Penalties of features or logits: CORAL, MMD, information bottleneck, spectral decoupling."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from invmod._checks import check_choice, check_floating
from invmod._precision import centre, without_autocast
from invmod.penalties.groups import centre_within, check_samples, env_shares


def coral_penalty(
    features_a: Tensor,
    features_b: Tensor,
    *,
    means: bool = False,
    normalisation: Literal["paper", "mean"] = "paper",
) -> Tensor:
    r"""Squared distance between the covariances of two environments' features (CORAL).

    .. math::
        \frac{1}{4 D^2} \lVert C_a - C_b \rVert_F^2, \qquad
        C = \frac{1}{n - 1} \sum_i (f_i - \bar f) (f_i - \bar f)^\top

    where :math:`f_i` are the features of an environment. For more than two environments, average
    the penalty over the pairs.

    Arguments:
        features_a, features_b: (n_a, D) and (n_b, D), at least two samples each.
        means: whether to add :math:`\frac{1}{D} \lVert \bar f_a - \bar f_b \rVert^2`, which is not
            in the paper. Both normalisations add the same term.
        normalisation: ``"paper"``, the equation above, or ``"mean"``, the mean over entries
            :math:`\frac{1}{D^2} \lVert C_a - C_b \rVert_F^2`, which is 4 times as large.

    Returns:
        a scalar in float32 or wider. For features of width 1, the covariances are variances.

    Raises:
        TypeError: features are not floating point.
        ValueError: shapes do not fit, there are fewer than two samples, or the normalisation is
            unknown.

    References:
        Sun and Saenko, Deep CORAL: Correlation Alignment for Deep Domain Adaptation, ECCV Workshops
        2016, Eq. 1-3.

    Example:
        >>> a = torch.tensor([[0.0], [2.0]])  # variance 2, mean 1
        >>> b = torch.tensor([[1.0], [5.0]])  # variance 8, mean 3
        >>> coral_penalty(a, b)  # 6^2 / 4
        tensor(9.)
        >>> coral_penalty(a, b, normalisation="mean", means=True)  # 6^2 + 2^2
        tensor(40.)
    """
    a, b = _check_pair("coral_penalty", features_a, features_b, least=2)
    check_choice("coral_penalty", "normalisation", normalisation, ("paper", "mean"))
    with without_autocast(a):
        squares = (_covariance(a) - _covariance(b)).square().mean()
    penalty = squares / 4 if normalisation == "paper" else squares
    return penalty + (a.mean(dim=0) - b.mean(dim=0)).square().mean() if means else penalty


def _covariance(f: Tensor) -> Tensor:
    centred = centre(f)
    return centred.T @ centred / (f.shape[0] - 1)


def mmd_penalty(features_a: Tensor, features_b: Tensor, *, gammas: Sequence[float]) -> Tensor:
    r"""Squared maximum mean discrepancy of two environments' features, with Gaussian kernels.

    .. math::
        \frac{1}{n_a^2} \sum_{i, j} k(a_i, a_j) + \frac{1}{n_b^2} \sum_{i, j} k(b_i, b_j)
        - \frac{2}{n_a n_b} \sum_{i, j} k(a_i, b_j), \qquad
        k(x, y) = \sum_\gamma \exp(-\gamma \lVert x - y \rVert^2)

    where :math:`a_i` and :math:`b_i` are the features of the two environments and :math:`\gamma`
    runs over `gammas`. This is the biased V-statistic, which includes i = j. It is non-negative
    except for rounding errors, and its expectation is positive even if both environments have the
    same distribution. For more than two environments, average the penalty over the pairs.

    Arguments:
        features_a, features_b: (n_a, D) and (n_b, D).
        gammas: positive inverse squared widths of the kernels. Several values over different powers
            of ten reduce the dependence on the scale of the features.

    Returns:
        a scalar in float32 or wider. A single sample is a point mass: two environments of one
        sample each, at distance d, give :math:`2 \sum_\gamma (1 - \exp(-\gamma d^2))`.

    Raises:
        TypeError: features are not floating point.
        ValueError: shapes do not fit, there is no sample or no gamma, or a gamma is not positive
            and finite.

    References:
        Gretton et al., A Kernel Two-Sample Test, JMLR 2012, Eq. 5; Li et al., Domain Generalization
        with Adversarial Feature Learning, CVPR 2018.

    Example:
        >>> a, b = torch.tensor([[0.0]]), torch.tensor([[1.0]])
        >>> mmd_penalty(a, b, gammas=[1.0])  # 2 - 2 / e
        tensor(1.2642)
    """
    a, b = _check_pair("mmd_penalty", features_a, features_b, least=1)
    gammas = [float(gamma) for gamma in gammas]
    if not gammas or not all(0 < gamma < math.inf for gamma in gammas):
        raise ValueError(
            f"mmd_penalty: `gammas` must be one or more positive numbers, got {gammas}."
        )
    with without_autocast(a):
        x = torch.cat([a, b])
        # Distances are computed as differences of squares; centring keeps a large common offset
        # from cancelling their digits.
        x = x - x.mean(dim=0)
        squares = x.square().sum(dim=1)
        distances = (squares[:, None] + squares - 2 * (x @ x.T)).clamp_min(0)
        kernel = torch.stack([torch.exp(-gamma * distances) for gamma in gammas]).sum(dim=0)
    n = a.shape[0]
    return kernel[:n, :n].mean() + kernel[n:, n:].mean() - 2 * kernel[:n, n:].mean()


def information_bottleneck_penalty(
    values: Tensor, env: Tensor, *, num_envs: int | None = None, correction: int = 1
) -> Tensor:
    r"""Mean variance within the environments (the bottleneck of IB-ERM and IB-IRM).

    .. math::
        \frac{1}{E D} \sum_e \sum_d \frac{1}{n_e - \mathrm{correction}}
        \sum_{i \in e} (v_{id} - \bar v_{ed})^2

    where :math:`v_{id}` are the values, :math:`n_e` is the number of samples of environment e and
    :math:`\bar v_{ed}` is the mean of its values.

    Arguments:
        values: (n,) or (n, D): logits, as in the papers' experiments, or features, as in most
            implementations. These are different penalties.
        env: (n,) integers, the environment of each sample, from 0.
        num_envs: E; the largest index plus one if None. Pass it so that the absence of the last
            environment is detected; it is required under `torch.compile`. On a GPU both checks
            synchronise with the device.
        correction: 1 for the unbiased variance, 0 for the population variance.

    Returns:
        a scalar in float32 or wider, computed from centred squares. All environments have equal
        weight, independent of their size; with one environment it is that environment's variance.
        Under `torch.compile`, where a check of values cannot raise, it is NaN if an environment has
        too few samples or an index is out of range.

    Raises:
        TypeError: values are not floating point, or the index is not an integer.
        ValueError: shapes do not fit, an environment has fewer than two samples or at most
            `correction` samples, an index is out of range, or `correction` is negative.

    References:
        Ahuja et al., Invariance Principle Meets Information Bottleneck for Out-of-Distribution
        Generalization, NeurIPS 2021.

    Example:
        >>> values, env = torch.tensor([0.0, 2.0, 1.0, 5.0]), torch.tensor([0, 0, 1, 1])
        >>> information_bottleneck_penalty(values, env)  # variances 2 and 8
        tensor(5.)
    """
    function = "information_bottleneck_penalty"
    if correction < 0:
        raise ValueError(f"{function}: `correction` must not be negative, got {correction}.")
    columns = values[:, None] if isinstance(values, Tensor) and values.ndim == 1 else values
    v = check_samples(function, "values", columns, "(n, D)")
    least = max(2, correction + 1)
    shares = env_shares(function, env, v.shape[0], num_envs=num_envs, least=least, dtype=v.dtype)
    with without_autocast(v):
        # Centring before squaring avoids the cancellation in E[v^2] - E[v]^2.
        variances = (shares @ centre_within(v, shares, env).square()).mean(dim=1)
    # The rows of `shares` sum to 1, so `variances` has ddof 0; the factor changes it to
    # `correction`.
    counts = (shares > 0).sum(dim=1).to(v.dtype)
    return (variances * (counts / (counts - correction))).mean()


def spectral_decoupling_penalty(logits: Tensor) -> Tensor:
    r"""Mean square of the logits (spectral decoupling).

    .. math::
        \frac{1}{|z|} \sum z^2

    where z are the logits and :math:`|z|` is their number. The paper's term is half of the sum of
    squares: to reproduce a weight :math:`\lambda` of the paper, multiply this penalty by
    :math:`\lambda |z| / 2`.

    Arguments:
        logits: any shape, with at least one entry; all entries have equal weight.

    Returns:
        a scalar in float32 or wider.

    Raises:
        TypeError: logits are not floating point.
        ValueError: no logits.

    References:
        Pezeshki et al., Gradient Starvation: A Learning Proclivity in Neural Networks, NeurIPS
        2021.

    Example:
        >>> spectral_decoupling_penalty(torch.tensor([1.0, -3.0]))
        tensor(5.)
    """
    check_floating("spectral_decoupling_penalty", "logits", logits)
    if logits.numel() == 0:
        raise ValueError("spectral_decoupling_penalty: `logits` is empty; a mean needs an entry.")
    return logits.to(torch.promote_types(logits.dtype, torch.float32)).square().mean()


def _check_pair(
    function: str, features_a: Tensor, features_b: Tensor, *, least: int
) -> tuple[Tensor, Tensor]:
    a = check_samples(function, "features_a", features_a, "(n, D)", least=least)
    b = check_samples(function, "features_b", features_b, "(n, D)", least=least)
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            f"{function}: `features_a` and `features_b` must have the same width, "
            f"got {tuple(a.shape)} and {tuple(b.shape)}."
        )
    dtype = torch.promote_types(a.dtype, b.dtype)
    return a.to(dtype), b.to(dtype)
