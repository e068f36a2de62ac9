"""V-REx penalties: the variance of the risks (E,), and its debiased estimate from losses."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from einops import reduce
from torch import Tensor

from invmod._checks import check_risks, describe_type


def vrex_penalty(risks: Tensor, *, correction: int = 0) -> Tensor:
    r"""Variance of the risks over environments (V-REx).

    .. math::
        \mathrm{Var}(R) = \frac{1}{E - \mathrm{correction}} \sum_e (R_e - \bar R)^2

    where :math:`R_e` is the risk of environment e and :math:`\bar R` is the mean of the risks.

    Arguments:
        risks: (E,).
        correction: 0 for the population variance of the paper, 1 for the unbiased variance. Check
            which of the two a published penalty weight refers to: for E = 3 the unbiased variance
            is 1.5 times the population variance.

    Returns:
        a scalar in float32 or wider. One environment has variance 0 under ``correction=0``.

    Raises:
        TypeError: risks are not floating point.
        ValueError: risks are not (E,), or E <= correction.

    References:
        Krueger et al., Out-of-Distribution Generalization via Risk Extrapolation, ICML 2021, Eq. 8;
        Bai et al., SIGIR 2024, second term of Eq. 14.

    Example:
        >>> vrex_penalty(torch.tensor([1.0, 2.0, 3.0]))
        tensor(0.6667)
        >>> vrex_penalty(torch.tensor([1.0, 2.0, 3.0]), correction=1)
        tensor(1.)
    """
    check_risks("vrex_penalty", risks)
    if correction < 0:
        raise ValueError(f"vrex_penalty: `correction` must not be negative, got {correction}.")
    num_envs = risks.shape[0]
    if num_envs <= correction:
        raise ValueError(
            f"vrex_penalty: needs more than `correction` = {correction} environments, got "
            f"{num_envs}."
        )
    wide = risks.to(torch.promote_types(risks.dtype, torch.float32))
    return (wide - wide.mean()).square().sum() / (num_envs - correction)


def vrex_penalty_debiased(losses: Tensor | Sequence[Tensor], *, paired: bool) -> Tensor:
    r"""Variance of the risks over environments, minus the bias from the noise of measured risks.

    .. math::
        \frac{1}{E - 1} \sum_e (\hat R_e - \bar R)^2 \; - \;
        \begin{cases}
            \frac{1}{E} \sum_e s_e^2 / n_e & \text{independent samples} \\
            \frac{1}{n (E - 1)} \sum_e \mathrm{Var}_i(l_{ei} - \bar l_i) & \text{paired samples}
        \end{cases}

    where :math:`\hat R_e` is the mean loss of environment e, :math:`s_e^2` is the variance of its
    :math:`n_e` losses, :math:`l_{ei}` is the loss of sample i and :math:`\bar l_i` is its mean over
    environments. All variances have ddof 1. Both forms are unbiased estimates of the ddof-1
    variance of the true risks, so they can be negative. They are not clamped, because clamping
    would reintroduce a bias.

    Samples are *paired* if every environment scores the same samples, as in MILK. Their noise is
    then shared, and the correction for independent samples would subtract far too much.

    Arguments:
        losses: (E, N), one loss per environment and sample; for ``paired=False`` also a sequence of
            E vectors (n_e,).
        paired: whether column i of `losses` is the same sample in every environment.

    Returns:
        a scalar in float32 or wider. For masks, weights or micro-batches use
        `invmod.objectives.environment_statistics` and
        `invmod.objectives.vrex_penalty_debiased_from_statistics`.

    Raises:
        TypeError: losses are not floating point, or a sequence is given as paired.
        ValueError: shapes do not fit, there are fewer than two environments, or an environment has
            fewer than two samples.

    References:
        Krueger et al., ICML 2021, Eq. 8, for the variance that is corrected.

    Example:
        >>> losses = torch.tensor([[0.0, 2.0], [2.0, 4.0]])  # risks 1 and 3, variance 2
        >>> vrex_penalty_debiased(losses, paired=False)  # 2 - s^2 / n = 2 - 2 / 2
        tensor(1.)
        >>> vrex_penalty_debiased(losses, paired=True)  # every sample differs by 2, without noise
        tensor(2.)
    """
    if not isinstance(losses, (Tensor, Sequence)):
        raise TypeError(
            "vrex_penalty_debiased: `losses` must be a floating-point tensor (E, N) or a sequence "
            f"of them, got {describe_type(losses)}"
        )
    if isinstance(losses, Tensor) and losses.ndim != 2:
        raise ValueError(
            f"vrex_penalty_debiased: `losses` must have shape (E, N), got {tuple(losses.shape)}."
        )
    if paired and not isinstance(losses, Tensor):
        raise TypeError(
            "vrex_penalty_debiased: with paired=True `losses` must be one tensor (E, N)."
        )
    if len(losses) < 2:
        raise ValueError(
            f"vrex_penalty_debiased: needs at least two environments, got {len(losses)}."
        )
    for e, row in enumerate(losses):
        _check_losses(e, row)
    if not isinstance(losses, Tensor):
        wide = [row.to(torch.promote_types(row.dtype, torch.float32)) for row in losses]
        # A common shift changes no variance, and the means of small numbers keep their digits.
        wide = [row - wide[0].detach().mean() for row in wide]
        noise = torch.stack([row.var() / row.shape[0] for row in wide])
        return torch.stack([row.mean() for row in wide]).var() - noise.mean()
    matrix = losses.to(torch.promote_types(losses.dtype, torch.float32))
    # A common shift changes no variance, and the means of small numbers keep their digits.
    matrix = matrix - matrix.detach().mean()
    num_envs, num_samples = matrix.shape
    variance = reduce(matrix, "e n -> e", "mean").var()
    if not paired:
        return variance - matrix.var(dim=1).mean() / num_samples
    # Noise that all environments share shifts every risk equally and adds nothing to their
    # variance, so only the deviations from the mean over environments count.
    deviations = matrix - reduce(matrix, "e n -> n", "mean")
    return variance - deviations.var(dim=1).sum() / (num_samples * (num_envs - 1))


def _check_losses(e: int, row: Tensor) -> None:
    if not isinstance(row, Tensor) or not row.is_floating_point():
        raise TypeError(
            "vrex_penalty_debiased: `losses` must be a floating-point tensor (E, N) or a sequence "
            f"of them, got for environment {e}: {describe_type(row)}"
        )
    if row.ndim != 1 or row.shape[0] < 2:
        raise ValueError(
            "vrex_penalty_debiased: each environment needs a vector of at least two losses, "
            f"got shape {tuple(row.shape)} in environment {e}."
        )
