"""Risks and penalties as functions of the additive statistics of a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from invmod.penalties import vrex_penalty

_ENOUGH = 1 + 1e-9  # effective samples: one sample has 1, whatever its weight


def risks_from_statistics(
    statistics: Mapping[str, Tensor], *, absent: Literal["raise", "nan"] = "raise"
) -> Tensor:
    r"""The risk of each environment: what every risk-based objective takes.

    .. math::
        R_e = \frac{\sum_i w_i l_i}{\sum_i w_i}

    Arguments:
        statistics: of `invmod.environment_statistics`, of the whole batch.
        absent: what to do with an environment without samples: ``"raise"``, or ``"nan"``: a risk of NaN without a
            gradient, for `invmod.GroupDRO` with ``present=~risks.isnan()`` or to be selected away.

    Returns:
        (E,) in float64. Under `torch.compile`, where values cannot raise, ``"raise"`` is ``"nan"``.

    Raises:
        KeyError: the statistics lack an entry.
        ValueError: an environment has no sample, or `absent` is unknown.

    Example:
        >>> from invmod import environment_statistics
        >>> s = environment_statistics(torch.tensor([1.0, 3.0, 5.0]), torch.tensor([0, 0, 1]), num_envs=2)
        >>> risks_from_statistics(s)
        tensor([2., 5.], dtype=torch.float64)
    """
    function = "risks_from_statistics"
    if absent not in ("raise", "nan"):
        raise ValueError(f"{function}: `absent` must be 'raise' or 'nan', got {absent!r}.")
    weight, loss = _entries(function, statistics, "weight", "loss")
    if absent == "raise":
        _require(function, weight > 0, "a sample")
    return _ratio(loss, weight)


def irm_penalty_from_statistics(
    statistics: Mapping[str, Tensor], *, estimator: Literal["square", "split", "ustat"] = "square"
) -> Tensor:
    r"""IRMv1 of environments of any size, with masks and weights, in pieces: the mean of their estimates.

    .. math::
        \Big( \frac{\sum_i w_i h_i}{\sum_i w_i} \Big)^2, \qquad
        \frac{\sum_{i \in A} w_i h_i}{\sum_{i \in A} w_i} \cdot \frac{\sum_{i \in B} w_i h_i}{\sum_{i \in B} w_i},
        \qquad
        \frac{(\sum_i w_i h_i)^2 - \sum_i w_i^2 h_i^2}{(\sum_i w_i)^2 - \sum_i w_i^2}

    ``"square"``, ``"split"`` into the halves A and B, and ``"ustat"``; see `invmod.irm_penalty_from_derivatives`, which
    this equals. With weights that do not depend on h the last two stay unbiased.

    Arguments:
        statistics: of `invmod.environment_statistics` with derivatives, and for ``"split"`` with halves; of the whole
            batch.
        estimator: one of the three.

    Returns:
        a scalar in float64. Under `torch.compile` an environment with too few samples makes it NaN.

    Raises:
        KeyError: the statistics lack an entry.
        ValueError: an environment has fewer than two samples, a half of it has none, or an unknown estimator.

    References:
        Arjovsky et al., Invariant Risk Minimization, 2019.

    Example:
        >>> from invmod import environment_statistics
        >>> h = torch.tensor([[1.0, 2.0, 3.0]])
        >>> s = environment_statistics(torch.zeros(1, 3), derivatives=h)
        >>> irm_penalty_from_statistics(s, estimator="ustat")  # (36 - 14) / 6
        tensor(3.6667, dtype=torch.float64)
    """
    function = "irm_penalty_from_statistics"
    if estimator not in ("square", "split", "ustat"):
        raise ValueError(
            f"{function}: `estimator` must be 'square', 'split' or 'ustat', got {estimator!r}."
        )
    weight, weight_square, total = _entries(
        function, statistics, "weight", "weight_square", "derivative"
    )
    if estimator == "split":
        half_weight, half = _entries(function, statistics, "half_weight", "half_derivative")
        _require(function, (half_weight > 0) & (half_weight < weight), "a sample in each half")
        return (_ratio(half, half_weight) * _ratio(total - half, weight - half_weight)).mean()
    enough = _enough(weight, weight_square)
    _require(function, enough, "at least two samples")
    if estimator == "square":
        return torch.where(enough, _ratio(total, weight).square(), float("nan")).mean()
    (square,) = _entries(function, statistics, "derivative_square")
    return _product_of_two(total.square(), square, weight, weight_square).mean()


def vrex_penalty_debiased_from_statistics(statistics: Mapping[str, Tensor]) -> Tensor:
    r"""`invmod.vrex_penalty_debiased` with masks and weights, in pieces: paired where the statistics are.

    .. math::
        \frac{1}{E - 1} \sum_e (R_e - \bar R)^2 - c, \qquad
        c = \frac{\mathrm{tr}\, C}{E}
        \;\; \text{or, paired,} \;\;
        \frac{\mathrm{tr}\, C - \mathbf 1^\top C \mathbf 1 / E}{E - 1}

    where C is the estimated covariance of the measured risks,

    .. math::
        C_{ef} = R_e R_f - \frac{S_e S_f - \sum_i w_i^2 l_{ei} l_{fi}}{(\sum_i w_i)^2 - \sum_i w_i^2},
        \qquad S_e = \sum_i w_i l_{ei}

    (without weights the ddof-1 covariance of the losses over n). The last fraction is the mean product of two
    different samples, which no noise inflates. Unbiased, and never clamped.

    Arguments:
        statistics: of `invmod.environment_statistics`, of the whole batch; with ``paired=True`` there for samples
            that environments share.

    Returns:
        a scalar in float64. Under `torch.compile` an environment with too few samples makes it NaN.

    Raises:
        KeyError: the statistics lack an entry.
        ValueError: fewer than two environments, or one with fewer than two samples.

    References:
        Krueger et al., ICML 2021, Eq. 8, for the variance that is corrected.

    Example:
        >>> from invmod import environment_statistics
        >>> losses = torch.tensor([[0.0, 2.0], [2.0, 4.0]])
        >>> vrex_penalty_debiased_from_statistics(environment_statistics(losses, paired=True))
        tensor(2., dtype=torch.float64)
    """
    function = "vrex_penalty_debiased_from_statistics"
    weight, weight_square, loss = _entries(function, statistics, "weight", "weight_square", "loss")
    num_envs = weight.shape[0]
    if num_envs < 2:
        raise ValueError(f"{function}: needs at least two environments, got {num_envs}.")
    _require(function, _enough(weight, weight_square), "at least two samples")
    risks = _ratio(loss, weight)
    variance = vrex_penalty(risks, correction=1)
    if "loss_product" not in statistics:
        (square,) = _entries(function, statistics, "loss_square")
        noise = risks.square() - _product_of_two(loss.square(), square, weight, weight_square)
        return variance - noise.mean()
    product = statistics["loss_product"]
    covariance = torch.outer(risks, risks) - _product_of_two(
        torch.outer(loss, loss), product, weight, weight_square
    )
    return variance - (covariance.diagonal().sum() - covariance.sum() / num_envs) / (num_envs - 1)


def _product_of_two(
    total_square: Tensor, square: Tensor, weight: Tensor, weight_square: Tensor
) -> Tensor:
    """Return the weighted mean product of two different samples; NaN where there are no two."""
    enough = _enough(weight, weight_square)
    pairs = torch.where(enough, weight.square() - weight_square, 1.0)
    return torch.where(enough, (total_square - square) / pairs, float("nan"))


def _ratio(total: Tensor, weight: Tensor) -> Tensor:
    """Return total / weight; NaN, with no gradient, where nothing was weighed."""
    return torch.where(weight > 0, total / torch.where(weight > 0, weight, 1.0), float("nan"))


def _enough(weight: Tensor, weight_square: Tensor) -> Tensor:
    return weight.square() > weight_square * _ENOUGH


def _entries(function: str, statistics: Mapping[str, Tensor], *names: str) -> list[Tensor]:
    for name in names:
        if name not in statistics:
            raise KeyError(
                f"{function}: `statistics` has no entry {name!r}, only {list(statistics)}. "
                "Give `environment_statistics` what it is formed from."
            )
    return [statistics[name] for name in names]


def _require(function: str, right: Tensor, what: str) -> None:
    if not torch.compiler.is_compiling() and not right.all():
        lacking = (~right).nonzero()[:, 0].tolist()
        raise ValueError(
            f"{function}: each environment needs {what}, environments {lacking} have not. "
            "Draw every batch from all of them, or leave an absent one out."
        )
