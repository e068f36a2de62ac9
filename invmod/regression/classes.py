"""Probabilities of classes from the scores of a regression on their indicators."""

from __future__ import annotations

import torch
from torch import Tensor

SHARPNESS = (1e-2, 1e4)  # smallest and largest factor
STEPS = 60  # bisections; each halves the logarithm of the range


def fitted_sharpness(scores: Tensor, indicators: Tensor, row_weights: Tensor) -> float:
    r"""Fit the factor s of the probabilities softmax(s f) to the scores f of held-out rows.

    It minimises the weighted mean log loss, which is convex in s. Its derivative is the difference
    between the mean score under the probabilities and the score of the true class, and increases
    with s, so a bisection finds its root.

    Arguments:
        scores: f (q, C), from a regression that the rows had no part in.
        indicators: (q, C), 1 for the class of a row and 0 for others.
        row_weights: (q,).

    Returns:
        s, between 0.01 (nearly equal probabilities) and 10,000.

    References:
        Guo, Pleiss, Sun and Weinberger, On Calibration of Modern Neural Networks, ICML 2017
        (temperature scaling, with the temperature 1 / s).
    """
    known = scores.isfinite().all(dim=1)
    scores, indicators = scores[known].double(), indicators[known].double()
    weighted = row_weights[known].double()[:, None] * scores
    low, high = (torch.tensor(end, dtype=torch.float64).log() for end in SHARPNESS)
    for _ in range(STEPS):
        middle = (low + high) / 2
        probabilities = torch.softmax(middle.exp() * scores, dim=1)
        if ((probabilities - indicators) * weighted).sum() < 0:
            low = middle
        else:
            high = middle
    return float(((low + high) / 2).exp())
