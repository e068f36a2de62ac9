"""Vectors of fewer dimensions whose inner products are as near to the scores as possible.

With the vectors A (U, D) of users and V (n, D) of items, the scores are S = A V'. The nearest
matrix of rank w (Eckart and Young) is that of the first w singular values of S. It is A P (V Q)'
with matrices P and Q (D, w) that follow from the Gram matrices G = A'A and H = V'V alone: with
the singular value decomposition G^(1/2) H^(1/2) = L diag(s) R',

    P = G^(-1/2) L diag(s)^(1/2),    Q = H^(-1/2) R diag(s)^(1/2),

and the share of the squared norm of S that is kept is the sum of the first w squares of s divided
by the sum of all. P and Q also reduce vectors that are made later, of new customers and items.
"""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

__all__ = ["Reduction", "fit_reduction"]

ROWS_AT_ONCE = 2**14


@dataclasses.dataclass(frozen=True)
class Reduction:
    """Maps to fewer dimensions.

    Attributes:
        users, items: (D, w), by which vectors are multiplied.
        kept: share of the squared norm of all scores that is kept.
    """

    users: Tensor
    items: Tensor
    kept: float


def fit_reduction(users: Tensor, items: Tensor, width: int) -> Reduction:
    """Return the best reduction of vectors (U, D) and (n, D) to at most `width` dimensions.

    Example:
        >>> users = torch.tensor([[2.0, 0.0], [0.0, 1.0]], dtype=torch.float64)
        >>> round(fit_reduction(users, torch.eye(2, dtype=torch.float64), 1).kept, 6)
        0.8
    """
    root_users, inverse_users = _roots(_gram(users))
    root_items, inverse_items = _roots(_gram(items))
    left, s, right = torch.linalg.svd(root_users @ root_items)
    width = min(width, len(s))
    scale = s[:width].sqrt()
    squares = s.square()
    kept = float(squares[:width].sum() / squares.sum()) if squares.sum() > 0 else 1.0
    return Reduction(
        inverse_users @ left[:, :width] * scale,
        inverse_items @ right[:width].T * scale,
        min(1.0, kept),
    )


def _gram(rows: Tensor) -> Tensor:
    """Return the sum of x'x over the rows x, in float64."""
    gram = torch.zeros(rows.shape[1], rows.shape[1], dtype=torch.float64, device=rows.device)
    for start in range(0, len(rows), ROWS_AT_ONCE):
        block = rows[start : start + ROWS_AT_ONCE]
        gram += block.double().T @ block.double()
    return gram


def _roots(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Return the square root of a Gram matrix, and the pseudo-inverse of the root."""
    values, vectors = torch.linalg.eigh(gram)
    # Directions that no vector has are rounding errors; their inverse would be noise.
    present = values > values.max().clamp(min=0) * len(values) * torch.finfo(values.dtype).eps
    roots = torch.where(present, values.clamp(min=0).sqrt(), 0)
    inverse = torch.where(present, 1 / roots.clamp(min=torch.finfo(roots.dtype).tiny), 0)
    return (vectors * roots) @ vectors.T, (vectors * inverse) @ vectors.T
