"""Rates by name, scores of rows, and the intercepts that make a logistic model meet a rate."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Real
from typing import TypeAlias

import torch
from torch import Tensor

from invmod._checks import check_known

Rates: TypeAlias = float | Sequence[float] | Mapping[str, float]
Score: TypeAlias = Callable[[Tensor], Tensor]


def rate_columns(
    function: str, rates: Rates, num_modalities: int, names: tuple[str, ...] | None
) -> list[float]:
    """Return the M rates after checking that they are numbers in [0, 1]."""
    if isinstance(rates, Mapping):
        if names is None:
            raise TypeError(
                f"{function}: `rates` by name need `modalities`, the names of the mask's columns."
            )
        check_known(function, "rates", rates, names)
        columns = [rates.get(name, 0.0) for name in names]
    elif isinstance(rates, Iterable) and not (isinstance(rates, Tensor) and rates.ndim == 0):
        columns = rates.tolist() if isinstance(rates, Tensor) else list(rates)
    else:
        columns = [rates.item() if isinstance(rates, Tensor) else rates] * num_modalities
    if len(columns) != num_modalities:
        raise ValueError(
            f"{function}: `rates` must be one number or one for each of the {num_modalities} modalities, "
            f"got {len(columns)}."
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
                f"{function}: `score` must be a function or name -> function, got {type(score).__name__}."
            )
        return dict.fromkeys(names, score).get
    check_known(function, "score", score, names)
    return score.get


def calibrated(logits: Tensor, available: Tensor, rate: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Shift each column of logits (n, M) so that the mean probability of its available cells is its rate: (p, q)."""
    p = torch.zeros_like(logits)
    q = torch.zeros_like(logits)
    for m, r in enumerate(rate):
        if r in (0.0, 1.0):
            p[:, m], q[:, m] = r, 1 - r
            continue
        there = available[:, m]
        shifted = logits[:, m] + (_intercept(logits[there, m], r) if there.any() else 0.0)
        p[:, m], q[:, m] = shifted.sigmoid(), (-shifted).sigmoid()
    return p, q


def _intercept(logits: Tensor, rate: float) -> float:
    """Find b with mean sigmoid(b + logits) = rate: Newton's steps, halving the bracket where one leaves it."""
    middle = math.log(rate) - math.log1p(-rate)
    low, high = middle - float(logits.max()), middle - float(logits.min())
    b = min(max(middle, low), high)
    while True:  # ends where b is exact or no number is left in the bracket; ten steps are common
        p = (b + logits).sigmoid()
        error, slope = float(p.mean()) - rate, float((p * (1 - p)).mean())
        low, high = (low, b) if error > 0 else (b, high)
        step = b - error / slope if slope > 0 else math.inf
        last, b = b, step if low < step < high else (low + high) / 2
        if abs(error) <= 1e-14 * min(rate, 1 - rate) or b in (last, low, high):
            return last


def scaled_scores(
    function: str,
    name: str,
    x: Tensor | None,
    rows: Tensor,
    score_of: Callable[[str], Score | None],
) -> Tensor:
    """Return the scores (n,) of the given rows of one modality, scaled to mean 0 and standard deviation 1."""
    if x is None:
        raise KeyError(f"{function}: `features` lacks {name!r}, on whose values the rates depend.")
    chosen, where = score_of(name), f"{function}, modality {name!r}"
    if chosen is None and not x.is_floating_point():
        raise TypeError(
            f"{where}: features of dtype {x.dtype} need a `score`, a function of rows (n, ...) to (n,)."
        )
    if len(rows) == 0:
        return torch.zeros(0, dtype=torch.float64, device=rows.device)
    given = x.detach()[rows.to(x.device)]
    with torch.autocast(device_type=x.device.type, enabled=False), torch.no_grad():
        s = (
            given.reshape(len(rows), -1).mean(1, dtype=torch.float64)
            if chosen is None
            else chosen(given)
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
            f"{where}: the scores must be finite, got {float(s[~s.isfinite()][0])} first in row {row}."
        )
    if len(s) == 1:
        return torch.zeros_like(s)
    if s.min() == s.max():
        raise ValueError(
            f"{where}: the scores are all {float(s[0])}, so no rate can depend on them. Give a `score`."
        )
    centred = s / s.abs().max()  # large values do not overflow in the squares
    centred = centred - centred.mean()
    return centred / centred.square().mean().sqrt()
