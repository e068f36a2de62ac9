"""Landmarks: a few training rows whose kernels approximate the kernel between all rows.

With the kernel K of n rows and L of them as landmarks, the features F (n, L) have

    F F' = K_nL K_LL^-1 K_Ln,      F = K_nL C^-T,      K_LL = C C' (Cholesky)

which equals K in the rows and columns of landmarks (the Nystroem approximation).

References:
    Chen, Epperly, Tropp and Webber, Randomly pivoted Cholesky: practical approximation of a kernel
    matrix with few entry evaluations, Communications on Pure and Applied Mathematics 78, 2025.
    Epperly, Tropp and Webber, Embrace rejection: kernel matrix approximation by accelerated
    randomly pivoted Cholesky, 2024.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from invmod.regression.solving import cholesky_factor

BLOCKS = 10  # A block has a tenth as many candidates as landmarks are wanted.


def random_pivots(
    columns: Callable[[Tensor], Tensor],
    diagonal: Tensor,
    count: int,
    generator: torch.Generator,
) -> Tensor:
    """Return landmarks drawn by randomly pivoted Cholesky, in the order of their drawing.

    Each landmark is drawn with a probability that is proportional to its error so far,
    K_ii - (F F')_ii. Candidates are drawn in blocks, and accepted with the probability by which
    the landmarks before them in the block have reduced their error; this draws from the same
    distribution as one after the other.

    Arguments:
        columns: maps positions (b,) to the kernel of all rows with these, (n, b).
        diagonal: the diagonal of the kernel (n,).
        count: maximum number of landmarks.
        generator: draws them, on the CPU.

    Returns:
        int64 (L,), on the device of the diagonal. L is less than `count` if fewer rows span the
        kernel up to rounding.
    """
    n, device = len(diagonal), diagonal.device
    count = min(count, n)
    errors = diagonal.clamp(min=0)
    smallest = n * torch.finfo(diagonal.dtype).eps * float(errors.max()) if n else 0.0
    factor = diagonal.new_zeros(n, count)
    chosen: list[int] = []
    while len(chosen) < count and float(errors.max()) > smallest:
        size = max(1, count // BLOCKS)
        drawn = torch.multinomial(errors.cpu().double(), size, True, generator=generator)
        accepted_by = torch.rand(size, generator=generator, dtype=torch.float64).tolist()
        drawn = drawn.to(device)
        known = factor[:, : len(chosen)]
        block = columns(drawn) - known @ known[drawn].T
        # A tracked error that vanishes when it is computed again is rounding. It becomes 0, so that
        # the row is not drawn again.
        errors[drawn[block[drawn].diagonal() <= smallest]] = 0
        accepted = _accepted(block[drawn], accepted_by, smallest)[: count - len(chosen)]
        if not accepted:
            continue
        new = drawn[accepted]
        root = cholesky_factor(block[new][:, accepted], "a kernel between landmarks", 0.0)
        added = torch.linalg.solve_triangular(root, block[:, accepted].T, upper=False).T
        factor[:, len(chosen) : len(chosen) + len(accepted)] = added
        errors = (errors - added.square().sum(dim=1)).clamp(min=0)
        errors[new] = 0
        chosen += new.tolist()
    return torch.tensor(chosen, dtype=torch.int64, device=device)


def _accepted(h: Tensor, chances: list[float], smallest: float) -> list[int]:
    """Return which candidates of a block are accepted.

    Arguments:
        h: residual kernel (b, b) between the candidates, given the landmarks of earlier blocks.
        chances: uniform numbers, one for each candidate.
        smallest: error below which a row counts as spanned.
    """
    h, before, accepted = h.clone(), h.diagonal().tolist(), []
    for i, chance in enumerate(chances):
        error = float(h[i, i])
        if error > smallest and error > chance * before[i]:
            accepted.append(i)
            h -= torch.outer(h[:, i], h[i]) / error
    return accepted
