"""Variants of KEEP's regression, measured against KEEP.

Each part changes the regression on content and leaves the rest of KEEP as it was fitted:

- gradient metric: the features of each modality are stretched along the directions in which the
  regression of the complete pattern changes most (average gradient outer product, to the power q),
  and the regression is solved again. With z_j the unit row of item j, k_m the kernel of modality m
  and W the coefficients of E, the product is M_m = Z_m' [(K_m K_m) o (W W')] Z_m. Rows become
  z V diag(e / e_1 + 1e-6)^(q/2) V' with M = V diag(e) V', again of length 1, and all widths are
  multiplied by 1.5 and all ridges by 0.5.
- marginal likelihood: weights, widths and ridge of each pattern minimise the negative log
  likelihood of the 64 leading vectors as draws of a Gaussian process, n log tr(Q E E') + log det of
  the inverse of Q, by L-BFGS, on up to 2,000 warm items.
- softmax residuals: the regression also predicts the residuals of the training pairs after a
  softmax over warm items. With probabilities p_u of user u over warm items, from the smoothed
  pairs at the temperature of the highest likelihood, the target of an item is its column of
  A E' + step * D_u^-b (R - d_u p_u) D_i^-b.
- without popularity: KEEP has a predicted popularity; here it is removed.

q and the step have the best validation NDCG@20 on the split. This favours the parts, since
KEEP itself uses no validation item. All are compared on the same splits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.keep_parts.problem import (
    Kernel,
    Pattern,
    Problem,
    Rows,
    kernel_between,
    regularised,
)
from milk_recsys.methods.keep.vectors import COMPARED, damped, gram, spectrum

POWERS = (0.2, 0.35, 0.5)
WIDTH_FACTOR, RIDGE_FACTOR, FLOOR = 1.5, 0.5, 1e-6
STEPS = (0.03, 0.1, 0.3)
TEMPERATURES = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
MAX_FITTED = 2000  # Number of warm items in the marginal likelihood.
ITERATIONS = 25


def as_it_is(problem: Problem) -> float:
    """KEEP."""
    return problem.ndcg("test", problem.kernels())


def without_popularity(problem: Problem) -> float:
    """KEEP without the predicted popularity."""
    return problem.ndcg("test", problem.kernels(), exponent=0.0)


def gradient_products(warm: Rows, pattern: Pattern, kernel: Kernel, items: Tensor) -> list[Tensor]:
    """Return M_m (d_m, d_m) of each modality of the pattern, up to a factor."""
    root = torch.linalg.cholesky(regularised(warm, pattern, kernel))
    coefficients = torch.cholesky_solve(items, root)
    weights = coefficients @ coefficients.T
    products = []
    for m, width in zip(pattern, kernel.widths, strict=True):
        k = kernel_between(warm, warm, (m,), Kernel([1.0], [width], 0.0))
        products.append(warm.x[m].T @ ((k @ k) * weights) @ warm.x[m])
    return products


def gradient_metric(problem: Problem) -> float:
    """KEEP with features that are stretched along the gradients of its regression."""
    kernels = problem.kernels()
    full = max(kernels, key=len)
    spectra = [
        torch.linalg.eigh(product.double())
        for product in gradient_products(problem.warm, full, kernels[full], problem.net.items)
    ]
    adjusted = {
        pattern: Kernel(
            kernel.weights,
            [WIDTH_FACTOR * float(width) for width in kernel.widths],
            RIDGE_FACTOR * float(kernel.ridge),
        )
        for pattern, kernel in kernels.items()
    }

    def stretched(power: float) -> Callable[[Rows], Rows]:
        maps = []
        for values, vectors in spectra:
            scale = (values.clamp(min=0) / values[-1] + FLOOR) ** (power / 2)
            maps.append(((vectors * scale) @ vectors.T).to(problem.warm.x[0]))
        return lambda rows: Rows(
            [F.normalize(x @ a, dim=1) for x, a in zip(rows.x, maps, strict=True)], rows.mask
        )

    best = max(POWERS, key=lambda q: problem.ndcg("validation", adjusted, change=stretched(q)))
    return problem.ndcg("test", adjusted, change=stretched(best))


def likelihood_kernel(rows: Rows, pattern: Pattern, start: Kernel, targets: Tensor) -> Kernel:
    """Return the kernel with the highest marginal likelihood of targets (n, r)."""
    with_any = rows.mask[:, list(pattern)].any(dim=1)
    # In float64, and within bounds: a line search may try nearly singular kernels.
    rows = rows.of(with_any)
    rows = Rows([x.double() for x in rows.x], rows.mask)
    targets, size = targets[with_any].double(), len(pattern)
    # Weights of 0 would stay 0, so the descent starts from equal ones.
    theta = torch.cat([torch.zeros(size), torch.tensor([*start.widths, start.ridge]).log()])
    theta = theta.double().requires_grad_()

    def kernel() -> tuple[Tensor, Tensor, Tensor]:
        others = theta[size:].clamp(-10, 10).exp()
        return theta[:size].softmax(dim=0), others[:-1], others[-1]

    optimiser = torch.optim.LBFGS([theta], max_iter=ITERATIONS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimiser.zero_grad()
        root = torch.linalg.cholesky(regularised(rows, pattern, Kernel(*kernel())))
        fitted = (targets * torch.cholesky_solve(targets, root)).sum()
        # The scale of the targets is profiled out; the prior keeps log parameters near 0.
        loss: Tensor = 2 * root.diagonal().log().sum() + len(targets) * fitted.log()
        loss = loss + 1e-3 * theta.square().sum()
        loss.backward()
        return loss

    optimiser.step(closure)
    mu, gamma, ridge = (x.detach().tolist() for x in kernel())
    return Kernel(mu, gamma, ridge)


def marginal_likelihood(problem: Problem) -> float:
    """KEEP with weights, widths and ridges of the highest marginal likelihood."""
    x = damped(problem.pairs, problem.popularity)
    leading = spectrum(gram(x), min(COMPARED, *x.shape))
    targets = leading.item_vectors(float(problem.net.shrinkage))
    order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(0))[:MAX_FITTED]
    kernels = {
        pattern: likelihood_kernel(problem.warm.of(order), pattern, kernel, targets[order])
        for pattern, kernel in problem.kernels().items()
    }
    return problem.ndcg("test", kernels)


def softmax_residuals(problem: Problem) -> float:
    """KEEP whose targets have the residuals of a softmax over warm items, too."""
    pairs = problem.pairs.to_dense()
    counts = [pairs.sum(dim=dim).clamp(min=1) for dim in (1, 0)]
    smoothed = problem.net.users.weight @ problem.net.items.T
    scale = smoothed.std()

    def probabilities(temperature: float) -> Tensor:
        return (temperature * smoothed / scale).softmax(dim=1)

    def likelihood(temperature: float) -> float:
        return float((pairs * probabilities(temperature).clamp(min=1e-30).log()).sum())

    left = pairs - counts[0][:, None] * probabilities(max(TEMPERATURES, key=likelihood))
    b = problem.popularity
    left = left * counts[0][:, None] ** -b * counts[1] ** -b
    kernels = problem.kernels()

    def targets(step: float) -> Tensor:
        return (smoothed + step * left).T

    best = max(STEPS, key=lambda s: problem.ndcg("validation", kernels, targets=targets(s)))
    return problem.ndcg("test", kernels, targets=targets(best))


PARTS: Mapping[str, Callable[[Problem], float]] = {
    "KEEP": as_it_is,
    "without popularity": without_popularity,
    "gradient metric": gradient_metric,
    "marginal likelihood": marginal_likelihood,
    "softmax residuals": softmax_residuals,
}
