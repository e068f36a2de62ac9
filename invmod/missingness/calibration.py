"""Rates per modality, scores of rows, and logistic models calibrated to a given rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Real
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from invmod._checks import check_known
from invmod._scale import standard_deviation
from invmod.missingness.arrays import Feature, as_tensor, device_of, each_array

Rates: TypeAlias = float | Sequence[float] | Tensor | NDArray[Any] | Mapping[str, float]
Score: TypeAlias = Callable[[Any], Tensor]


def rate_columns(
    function: str, rates: Rates, num_modalities: int, names: tuple[str, ...] | None
) -> list[float]:
    """Return the M rates after checking that they are numbers in [0, 1]."""
    if isinstance(rates, Mapping):
        if names is None:
            raise TypeError(
                f"{function}: a mapping of `rates` needs `modalities`, the names of the mask's "
                "columns."
            )
        check_known(function, "rates", rates, names)
        columns = [rates.get(name, 0.0) for name in names]
    else:
        # A tensor or an array becomes a number or a list; a scalar one is one number for all.
        plain = rates.tolist() if isinstance(rates, (Tensor, np.ndarray)) else rates
        columns = list(plain) if isinstance(plain, Iterable) else [plain] * num_modalities
    if len(columns) != num_modalities:
        raise ValueError(
            f"{function}: `rates` must be one number or one for each of the {num_modalities} "
            f"modalities, got {len(columns)}."
        )
    for rate in columns:
        if isinstance(rate, bool) or not isinstance(rate, Real):
            raise TypeError(f"{function}: `rates` must be numbers, got {rate!r}.")
        if not 0 <= rate <= 1:
            raise ValueError(f"{function}: `rates` must lie in [0, 1], got {rate}.")
    return [float(rate) for rate in columns]


def checked_score(
    function: str,
    strength: float,
    score: Score | Mapping[str, Score] | None,
    names: tuple[str, ...],
) -> Callable[[str], Score | None]:
    """Return name -> score function after checking `strength` and `score`."""
    if isinstance(strength, bool) or not isinstance(strength, Real):
        raise TypeError(f"{function}: `strength` must be a number, got {strength!r}.")
    if not math.isfinite(strength):
        raise ValueError(f"{function}: `strength` must be finite, got {strength}.")
    if not isinstance(score, Mapping):
        if score is not None and not callable(score):
            raise TypeError(
                f"{function}: `score` must be a function or name -> function, got "
                f"{type(score).__name__}."
            )
        return dict.fromkeys(names, score).get
    check_known(function, "score", score, names)
    return score.get


def calibrated(logits: Tensor, available: Tensor, rate: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Shift each column of `logits` (n, M) so that its mean probability equals its rate.

    The mean is over the available cells of the column. Returns the probabilities p (n, M) and
    q = 1 - p, which is computed separately because 1 - p loses all digits when p is close to 1.
    """
    p = torch.zeros_like(logits)
    q = torch.zeros_like(logits)
    for m, r in enumerate(rate):
        if r in (0.0, 1.0):
            p[:, m], q[:, m] = r, 1 - r
            continue
        available_rows = available[:, m]
        shifted = logits[:, m] + (
            _intercept(logits[available_rows, m], r) if available_rows.any() else 0.0
        )
        p[:, m], q[:, m] = shifted.sigmoid(), (-shifted).sigmoid()
    return p, q


def _intercept(logits: Tensor, rate: float) -> float:
    """Solve mean(sigmoid(b + logits)) = rate for b by Newton's method, safeguarded by bisection."""
    # With all logits equal to x, the solution is b = logit(rate) - x. The mean is monotone in b, so
    # the solution for any logits lies between those for the largest and the smallest logit.
    middle = math.log(rate) - math.log1p(-rate)
    low, high = middle - float(logits.max()), middle - float(logits.min())
    b = min(max(middle, low), high)
    # The loop ends when b is accurate or when no floating-point number is left inside the bracket;
    # about ten iterations are common.
    while True:
        p = (b + logits).sigmoid()
        error, slope = float(p.mean()) - rate, float((p * (1 - p)).mean())
        low, high = (low, b) if error > 0 else (b, high)
        # A Newton step that leaves the bracket is replaced by the midpoint of the bracket.
        step = b - error / slope if slope > 0 else math.inf
        last, b = b, step if low < step < high else (low + high) / 2
        if abs(error) <= 1e-14 * min(rate, 1 - rate) or b in (last, low, high):
            return last


def scaled_scores(
    function: str,
    name: str,
    feature: Feature | None,
    rows: Tensor,
    score_of: Callable[[str], Score | None],
) -> Tensor:
    """Return the scores (n,) of `rows` of one modality, with mean 0 and standard deviation 1."""
    if feature is None:
        raise KeyError(f"{function}: `features` lacks {name!r}; the rates depend on its values.")
    score, where = score_of(name), f"{function}, modality {name!r}"
    x = each_array(
        feature, lambda part: as_tensor(where, part) if isinstance(part, np.ndarray) else part
    )
    if score is None and not (isinstance(x, Tensor) and x.is_floating_point()):
        kind = f"features of dtype {x.dtype}" if isinstance(x, Tensor) else "mappings"
        raise TypeError(f"{where}: {kind} need a `score`, a function of rows (n, ...) to (n,).")
    if len(rows) == 0:
        return torch.zeros(0, dtype=torch.float64, device=rows.device)
    # Autocast would run a matrix product of the caller's score function in half precision.
    with torch.autocast(device_type=device_of(x).type, enabled=False), torch.no_grad():
        given = each_array(x, lambda part: part[rows.to(part.device)])
        s = (
            given.reshape(len(rows), -1).mean(1, dtype=torch.float64)
            if score is None
            else score(given)
        )
    if not isinstance(s, Tensor) or s.shape != (len(rows),):
        got = tuple(s.shape) if isinstance(s, Tensor) else type(s).__name__
        raise ValueError(
            f"{where}: `score` must return a tensor of shape ({len(rows)},), got {got}."
        )
    s = s.to(device=rows.device, dtype=torch.float64)
    if not s.isfinite().all():
        row = int(rows[(~s.isfinite()).nonzero()[0, 0]])
        raise ValueError(
            f"{where}: the scores must be finite, got {float(s[~s.isfinite()][0])} first in row "
            f"{row}."
        )
    if len(s) == 1:
        return torch.zeros_like(s)
    deviation = standard_deviation(s)
    if deviation == 0:
        raise ValueError(
            f"{where}: the scores are all {float(s[0])} up to rounding, so no rate can depend on "
            "them. Give a `score`."
        )
    # The largest score is divided out first, so that the mean of large scores does not overflow.
    largest = s.abs().max()
    return (s / largest - (s / largest).mean()) / (deviation / largest)
