"""Helpers of the alignment losses: checks of input, pairs of modalities, and reductions."""

from __future__ import annotations

from itertools import combinations
from numbers import Integral
from typing import Literal

import torch
from torch import Tensor

from invmod._checks import check_z, describe_type
from invmod.missingness.masks import check_mask

PairReduction = Literal["none", "sum", "item_mean", "mean"]


def prepare_inputs(
    function: str, z: Tensor, mask: Tensor | None, anchor: int | None, stop_gradient: bool
) -> tuple[Tensor, Tensor]:
    """Check the arguments; return z in float32 or wider and a mask (N, M).

    With `stop_gradient` the anchor's column of z is detached.
    """
    check_z(function, z, ndim=3)
    if anchor is not None and (isinstance(anchor, bool) or not isinstance(anchor, Integral)):
        raise TypeError(
            f"{function}: `anchor` must be the position of a modality or None, got {anchor!r}."
        )
    if anchor is not None and not 0 <= anchor < z.shape[1]:
        raise ValueError(f"{function}: `anchor` must lie in [0, {z.shape[1]}), got {anchor}.")
    if stop_gradient and anchor is None:
        raise ValueError(f"{function}: `stop_gradient` detaches the `anchor`; give one.")
    if mask is None:
        mask = torch.ones(z.shape[:2], dtype=torch.bool, device=z.device)
    else:
        check_mask(function, mask, z.shape[0], z.shape[1])
    z = z.to(torch.promote_types(z.dtype, torch.float32))
    if stop_gradient and anchor is not None:
        # An assignment into z would change the caller's tensor.
        z = torch.cat(
            [z[:, :anchor], z[:, anchor : anchor + 1].detach(), z[:, anchor + 1 :]], dim=1
        )
    return z, mask


def modality_pairs(num_modalities: int, anchor: int | None) -> list[tuple[int, int]]:
    """Return the pairs of modalities to compare: all, or the anchor with each of the others."""
    if anchor is None:
        return list(combinations(range(num_modalities), 2))
    return [(anchor, m) for m in range(num_modalities) if m != anchor]


def num_pairs(mask: Tensor, anchor: int | None, dtype: torch.dtype) -> Tensor:
    """Return the number of available pairs of each sample, (N,)."""
    n = mask.sum(dim=1).to(dtype)
    # A sample without the anchor has no pair, whatever else it has.
    return pairs_among(n) if anchor is None else mask[:, anchor] * (n - 1)


def pairs_among(n: Tensor) -> Tensor:
    """Return n (n - 1) / 2, the number of pairs among n modalities."""
    return n * (n - 1) / 2


def reduce_losses(
    function: str,
    s: Tensor,
    counts: Tensor,
    weights: Tensor | None,
    reduction: str,
    allowed: tuple[str, ...],
) -> Tensor:
    """Reduce the samples' losses s (N,), each a sum over `counts` (N,) pairs."""
    if weights is not None:
        check_weights(function, weights, s.shape[0])
        weights = weights.to(s.dtype)
        s, counts = weights * s, weights * counts
    match reduction:
        case "none":
            return s
        case "sum":
            return s.sum()
        case "item_mean":
            return s.sum() / (max(s.shape[0], 1) if weights is None else divisor(weights))
        case "mean":
            return s.sum() / divisor(counts)
        case _:
            names = ", ".join(map(repr, allowed))
            raise ValueError(f"{function}: `reduction` must be one of {names}, got {reduction!r}.")


def divisor(weights: Tensor) -> Tensor:
    """Return the sum of the weights, or 1 if it is 0, because the numerator is 0 as well then."""
    total = weights.sum()
    return torch.where(total == 0, 1.0, total)


def check_weights(function: str, weights: Tensor, num_rows: int) -> None:
    """Raise unless `weights` is a real tensor (N,)."""
    if not isinstance(weights, Tensor) or weights.is_complex():
        raise TypeError(
            f"{function}: `weights` must be a tensor of real numbers, got {describe_type(weights)}"
        )
    if weights.shape != (num_rows,):
        raise ValueError(
            f"{function}: `weights` must have shape (N,) = ({num_rows},), "
            f"got {tuple(weights.shape)}."
        )


def unit_vectors(z: Tensor, mask: Tensor) -> Tensor:
    """Return z / |z| where it is available and not 0, else 0.

    The squares neither overflow nor underflow, and no gradient enters the other cells. An available
    vector with NaN gives NaN.
    """
    available = torch.where(mask[..., None], z, 0.0)
    largest = (
        available.detach().abs().amax(dim=-1, keepdim=True)
        if z.shape[-1]
        else available.sum(-1, keepdim=True)
    )
    # NaN > 0 is False, so a test for lengths above 0 would turn NaN into 0 and hide it.
    zero = largest == 0
    # Dividing by the largest entry keeps the squares in range. The scale is detached, because a
    # direction does not depend on it. Vectors of length 0 are cut off from the graph: the gradient
    # of their norm would be NaN.
    scaled = torch.where(zero, 0.0, available) / torch.where(zero, 1.0, largest)
    squares = scaled.square().sum(dim=-1, keepdim=True)
    return scaled * torch.where(zero, 1.0, squares).rsqrt()
