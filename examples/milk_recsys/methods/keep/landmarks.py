"""The regression of KEEP on many warm items, through a kernel that landmarks span.

It is ridge regression on the L features k_p(i, landmarks) C'^-1 of each warm item i, where C C' is
the kernel (L, L) between landmarks (Cholesky). Inner products of these features are the projected
kernel (the Nystroem approximation).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

JITTER = 1e-3  # Added to the diagonal of the kernel between landmarks, so that it is definite.
BLOCK = 4096  # Number of kernel rows that are computed at once.


def projected_coefficients(
    kernel: Callable[[Tensor], Tensor], k: Tensor, targets: Tensor, ridge: float
) -> Tensor:
    """Return the coefficients (L, r) by which k_p(c, landmarks) gives predictions.

    Arguments:
        kernel: maps positions of warm items (N,) to their kernel with the landmarks, (N, L).
        k: the kernel between landmarks (L, L), which is overwritten.
        targets: (n, r), for all warm items.
        ridge: the ridge penalty l.
    """
    k.diagonal().add_(JITTER)
    root = torch.linalg.cholesky(k)
    system = ridge * torch.eye(len(root), dtype=root.dtype, device=root.device)
    right = torch.zeros(len(root), targets.shape[1], dtype=root.dtype, device=root.device)
    # Add up the normal equations over blocks, so that the (n, L) features are never held at once.
    for block in torch.arange(len(targets), device=root.device).split(BLOCK):
        features = torch.linalg.solve_triangular(root, kernel(block).T, upper=False)
        system.addmm_(features, features.T)
        right.addmm_(features, targets[block])
    # C'^-1 turns coefficients of the features into coefficients of the kernel.
    coefficients = torch.cholesky_solve(right, torch.linalg.cholesky(system))
    return torch.linalg.solve_triangular(root.T, coefficients, upper=True)
