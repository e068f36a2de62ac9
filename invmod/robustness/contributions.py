"""How evenly the modalities contribute to a model: Shapley values over the patterns."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Contributions:
    r"""The contribution of each modality to the metric, and how even the contributions are.

    .. math::
        \phi_m = \sum_{S \not\ni m} \frac{|S|! \, (M - |S| - 1)!}{M!} \,
        (v_{S \cup m} - v_S), \qquad
        \mathrm{evenness} = - \frac{1}{\log M} \sum_m s_m \log s_m, \quad
        s_m = \frac{\max(\phi_m, 0)}{\sum_j \max(\phi_j, 0)}

    where :math:`v_S` is the metric with exactly the modalities S, with its sign reversed if a lower
    metric is better. The values :math:`\phi_m` (Shapley) sum to :math:`v` of all modalities minus
    :math:`v` of none. The evenness lies in [0, 1]: 1 if all modalities contribute equally, 0 if one
    contributes everything. It is in the manner of the modality equity index of MissBench, whose
    description in words it follows.

    Attributes:
        model: name of the model.
        values: modality -> :math:`\phi_m`; below 0 if the model is better without it.
        evenness: None for one modality, or if no modality contributes anything.
        clipped: the modalities with a value below 0, which count as 0 in the evenness.

    References:
        Shapley, A value for n-person games, 1953; MissBench, arXiv:2603.09874.

    Example:
        >>> contribution = Contributions("m", {"text": 0.3, "audio": 0.0}, 0.0, ())
        >>> max(contribution.values, key=contribution.values.get)
        'text'
    """

    model: str
    values: dict[str, float]
    evenness: float | None
    clipped: tuple[str, ...]


def contributions(
    model: str,
    modalities: tuple[str, ...],
    metric: Mapping[tuple[bool, ...], float],
    *,
    empty: float,
    higher_is_better: bool,
) -> Contributions:
    """Return the exact Shapley values of a model's metric over all patterns.

    Arguments:
        model: name.
        modalities: the M names.
        metric: pattern -> metric, for all non-empty patterns.
        empty: the metric without any modality.
        higher_is_better: whether a larger metric is better.

    Raises:
        ValueError: a pattern was not evaluated, or `empty` is not finite.
    """
    m = len(modalities)
    values = dict(metric)
    if len(values) != 2**m - 1:
        raise ValueError(
            "RobustnessReport.contributions: needs all patterns of the modalities, "
            f'{2**m - 1}, got {len(values)}. Pass `patterns="all"` to `robustness_report` with at '
            "most 8 modalities."
        )
    if not math.isfinite(empty):
        raise ValueError(
            f"RobustnessReport.contributions: `empty` must be a finite number, got {empty!r}."
        )
    values[(False,) * m] = float(empty)
    sign = 1.0 if higher_is_better else -1.0
    phi = dict.fromkeys(modalities, 0.0)
    for pattern, value in values.items():
        size = sum(pattern)
        for place, name in enumerate(modalities):
            if not pattern[place]:
                more = (*pattern[:place], True, *pattern[place + 1 :])
                weight = math.factorial(size) * math.factorial(m - size - 1) / math.factorial(m)
                phi[name] += sign * weight * (values[more] - value)
    clipped = tuple(name for name, value in phi.items() if value < 0)
    return Contributions(model, phi, _evenness(list(phi.values())), clipped)


def _evenness(phi: list[float]) -> float | None:
    positive = [max(value, 0.0) for value in phi]
    total = sum(positive)
    if len(phi) < 2 or not total > 0:
        return None
    shares = [value / total for value in positive if value > 0]
    # The subtraction from 0 avoids -0.0 if one modality contributes everything.
    return 0.0 - sum(share * math.log(share) for share in shares) / math.log(len(phi))
