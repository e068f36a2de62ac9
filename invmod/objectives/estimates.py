"""Risks and penalties as functions of the additive statistics of a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from invmod._checks import check_choice, check_tensor, has_known_values
from invmod.penalties import vrex_penalty

# The effective sample size (sum w)^2 / sum w^2 of a single sample is 1 for every weight; the margin
# absorbs rounding.
_MORE_THAN_ONE_SAMPLE = 1 + 1e-9


def risks_from_statistics(
    statistics: Mapping[str, Tensor], *, absent: Literal["raise", "nan"] = "raise"
) -> Tensor:
    r"""Risk of each environment, the argument of every risk-based objective.

    .. math::
        R_e = \frac{\sum_i w_i l_i}{\sum_i w_i}

    where :math:`l_i` and :math:`w_i` are the loss and the weight of sample i of environment e.

    Arguments:
        statistics: of `invmod.objectives.environment_statistics`, of the whole batch.
        absent: how to treat an environment without samples. ``"raise"`` raises an error; ``"nan"``
            gives a risk of NaN without a gradient, which can be excluded by
            ``present=~risks.isnan()`` of `invmod.GroupDRO` or by ``torch.where``.

    Returns:
        (E,) in float64. Under `torch.compile`, where a check of values cannot raise, ``"raise"``
        acts as ``"nan"``.

    Raises:
        KeyError: the statistics lack an entry.
        ValueError: an environment has no sample, or `absent` is unknown.

    Example:
        >>> from invmod.objectives import environment_statistics
        >>> env = torch.tensor([0, 0, 1])
        >>> s = environment_statistics(torch.tensor([1.0, 3.0, 5.0]), env, num_envs=2)
        >>> risks_from_statistics(s)
        tensor([2., 5.], dtype=torch.float64)
    """
    function = "risks_from_statistics"
    check_choice(function, "absent", absent, ("raise", "nan"))
    weight, loss = _entries(function, statistics, "weight", "loss")
    if absent == "raise":
        _require(function, weight > 0, "a sample")
    return _ratio(loss, weight)


def irm_penalty_from_statistics(
    statistics: Mapping[str, Tensor], *, estimator: Literal["square", "split", "ustat"] = "square"
) -> Tensor:
    r"""IRMv1 penalty from additive statistics: the mean of the environments' estimates.

    .. math::
        \Big( \frac{\sum_i w_i h_i}{\sum_i w_i} \Big)^2, \qquad
        \frac{\sum_{i \in A} w_i h_i}{\sum_{i \in A} w_i}
        \cdot \frac{\sum_{i \in B} w_i h_i}{\sum_{i \in B} w_i},
        \qquad
        \frac{(\sum_i w_i h_i)^2 - \sum_i w_i^2 h_i^2}{(\sum_i w_i)^2 - \sum_i w_i^2}

    These are the estimators ``"square"``, ``"split"`` and ``"ustat"``, where :math:`h_i` is the
    derivative and :math:`w_i` the weight of sample i, and A and B are the two halves of an
    environment. The value equals that of `invmod.penalties.irm_penalty_from_derivatives`, but
    environments may differ in size, samples may be masked or weighted, and the batch may be split
    into parts. ``"split"`` and ``"ustat"`` are unbiased if the weights do not depend on h.

    Arguments:
        statistics: of `invmod.objectives.environment_statistics` for the whole batch, with
            derivatives and, for ``"split"``, halves.
        estimator: ``"square"``, ``"split"`` or ``"ustat"``.

    Returns:
        a scalar in float64. Under `torch.compile` an environment with too few samples makes it NaN.

    Raises:
        KeyError: the statistics lack an entry.
        ValueError: an environment has fewer than two samples or an empty half, or the estimator is
            unknown.

    References:
        Arjovsky et al., Invariant Risk Minimization, 2019.

    Example:
        >>> from invmod.objectives import environment_statistics
        >>> h = torch.tensor([[1.0, 2.0, 3.0]])
        >>> s = environment_statistics(torch.zeros(1, 3), derivatives=h)
        >>> irm_penalty_from_statistics(s, estimator="ustat")  # (36 - 14) / 6
        tensor(3.6667, dtype=torch.float64)
    """
    function = "irm_penalty_from_statistics"
    check_choice(function, "estimator", estimator, ("square", "split", "ustat"))
    weight, weight_square, total = _entries(
        function, statistics, "weight", "weight_square", "derivative"
    )
    if estimator == "split":
        half_weight, half = _entries(function, statistics, "half_weight", "half_derivative")
        _require(function, (half_weight > 0) & (half_weight < weight), "a sample in each half")
        return (_ratio(half, half_weight) * _ratio(total - half, weight - half_weight)).mean()
    enough = _has_two_samples(weight, weight_square)
    _require(function, enough, "at least two samples")
    if estimator == "square":
        return torch.where(enough, _ratio(total, weight).square(), float("nan")).mean()
    (square,) = _entries(function, statistics, "derivative_square")
    return _mean_cross_product(total.square(), square, weight, weight_square).mean()


def vrex_penalty_debiased_from_statistics(statistics: Mapping[str, Tensor]) -> Tensor:
    r"""`invmod.penalties.vrex_penalty_debiased` from additive statistics, with masks and weights.

    .. math::
        \frac{1}{E - 1} \sum_e (R_e - \bar R)^2 - c, \qquad
        c = \frac{\mathrm{tr}\, C}{E}
        \;\; \text{or, paired,} \;\;
        \frac{\mathrm{tr}\, C - \mathbf 1^\top C \mathbf 1 / E}{E - 1}

    where :math:`R_e` are the risks, :math:`\bar R` is their mean and C is the estimated covariance
    of their noise,

    .. math::
        C_{ef} = R_e R_f
        - \frac{S_e S_f - \sum_i w_i^2 l_{ei} l_{fi}}{(\sum_i w_i)^2 - \sum_i w_i^2},
        \qquad S_e = \sum_i w_i l_{ei}

    where :math:`l_{ei}` and :math:`w_i` are the losses and the weights of the samples. Without
    weights, C is the ddof-1 covariance of the losses divided by n. The fraction is the mean product
    of the losses of two different samples, so independent noise does not add to it. The estimate is
    unbiased and is never clamped, so it can be negative. The paired form is used if the statistics
    were computed with ``paired=True``.

    Arguments:
        statistics: of `invmod.objectives.environment_statistics`, of the whole batch; computed with
            ``paired=True`` if all environments score the same samples.

    Returns:
        a scalar in float64. Under `torch.compile` an environment with too few samples makes it NaN.

    Raises:
        KeyError: the statistics lack an entry.
        ValueError: there are fewer than two environments, or an environment has fewer than two
            samples.

    References:
        Krueger et al., ICML 2021, Eq. 8, for the variance that is corrected.

    Example:
        >>> from invmod.objectives import environment_statistics
        >>> losses = torch.tensor([[0.0, 2.0], [2.0, 4.0]])
        >>> vrex_penalty_debiased_from_statistics(environment_statistics(losses, paired=True))
        tensor(2., dtype=torch.float64)
    """
    function = "vrex_penalty_debiased_from_statistics"
    weight, weight_square, loss = _entries(function, statistics, "weight", "weight_square", "loss")
    num_envs = weight.shape[0]
    if num_envs < 2:
        raise ValueError(f"{function}: needs at least two environments, got {num_envs}.")
    _require(function, _has_two_samples(weight, weight_square), "at least two samples")
    risks = _ratio(loss, weight)
    variance = vrex_penalty(risks, correction=1)
    # The noise of independent risks adds its mean variance to the variance of the risks. The noise
    # of paired risks is correlated, so its full covariance matrix is needed.
    if "loss_product" not in statistics:
        (square,) = _entries(function, statistics, "loss_square")
        noise = risks.square() - _mean_cross_product(loss.square(), square, weight, weight_square)
        return variance - noise.mean()
    product = statistics["loss_product"]
    covariance = torch.outer(risks, risks) - _mean_cross_product(
        torch.outer(loss, loss), product, weight, weight_square
    )
    return variance - (covariance.diagonal().sum() - covariance.sum() / num_envs) / (num_envs - 1)


def _mean_cross_product(
    total_square: Tensor, square: Tensor, weight: Tensor, weight_square: Tensor
) -> Tensor:
    """Return the weighted mean product of two different samples; NaN for fewer than two samples.

    The sum over pairs i != j of w_i x_i w_j x_j is (sum w x)^2 - sum (w x)^2.
    """
    enough = _has_two_samples(weight, weight_square)
    pairs = torch.where(enough, weight.square() - weight_square, 1.0)
    return torch.where(enough, (total_square - square) / pairs, float("nan"))


def _ratio(total: Tensor, weight: Tensor) -> Tensor:
    """Return total / weight; NaN, without a gradient, where the weight is 0."""
    # The inner `where` keeps the unused branch finite: 0 / 0 would make the gradient NaN.
    return torch.where(weight > 0, total / torch.where(weight > 0, weight, 1.0), float("nan"))


def _has_two_samples(weight: Tensor, weight_square: Tensor) -> Tensor:
    return weight.square() > weight_square * _MORE_THAN_ONE_SAMPLE


def _entries(function: str, statistics: Mapping[str, Tensor], *names: str) -> list[Tensor]:
    for name in names:
        if name not in statistics:
            raise KeyError(
                f"{function}: `statistics` has no entry {name!r}, only {list(statistics)}. "
                "Pass the argument of `environment_statistics` that this entry needs."
            )
        check_tensor(function, f"statistics[{name!r}]", statistics[name])
    return [statistics[name] for name in names]


def _require(function: str, satisfied: Tensor, what: str) -> None:
    """Raise unless every environment satisfies the requirement; a no-op if values are unknown."""
    if has_known_values(satisfied) and not satisfied.all():
        lacking = (~satisfied).nonzero()[:, 0].tolist()
        raise ValueError(
            f"{function}: each environment needs {what}, but environments {lacking} lack it. "
            "Draw every batch from all environments, or leave out an absent one."
        )
