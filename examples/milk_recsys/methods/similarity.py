"""Similarity of warm and new items from the modalities that both have."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["shared_similarity"]

# Smallest weight of a modality, relative to the largest: it decides between the modalities of two
# items only if they share no other one.
MIN_WEIGHT = 1e-6


def shared_similarity(
    warm: Sequence[Tensor], warm_mask: Tensor, new: Sequence[Tensor], mask: Tensor, weights: Tensor
) -> Tensor:
    """Return the mean similarity over the modalities that a warm and a new item share.

        H_ic = sum_m mu_m a_im a_cm max(cos(x_im, x_cm), 0) / sum_m mu_m a_im a_cm

    where x_im and a_im are the features of item i in modality m and whether it has them, and mu_m
    is the weight of the modality. H_ic is 0 if the items share no modality. Because of the
    denominator, an item with few modalities is not less similar to all others.

    Arguments:
        warm, new: rows of length 1, or 0 where the item lacks the modality, (n, d_m) and (C, d_m)
            for each modality.
        warm_mask, mask: a, (n, M) and (C, M) bool.
        weights: mu (M,), non-negative. Modalities of weight 0 count equally between two items that
            share no other.

    Returns:
        H (n, C).
    """
    weights = weights.clamp(min=max(float(weights.max()) * MIN_WEIGHT, MIN_WEIGHT**2))
    shared = (warm_mask * weights) @ mask.to(weights.dtype).T
    total = torch.zeros_like(shared)
    for weight, x, y in zip(weights.tolist(), warm, new, strict=True):
        total.add_((x @ y.T).clamp_(min=0), alpha=weight)
    # Without a shared modality the numerator is 0 and so is the quotient.
    return total.div_(shared.clamp_(min=torch.finfo(shared.dtype).tiny))
