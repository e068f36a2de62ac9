"""Fill by a few hidden factors that all modalities share: probabilistic PCA, fitted with whatever is missing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from invmod._checks import check_count
from invmod.imputation.joint import JointImputer, shapes_differ
from invmod.missingness import rows_by_pattern

NOISE_FLOOR = 1e-6  # of the mean square entry: where few rows are fitted exactly, the likelihood has no maximum


class _Model(NamedTuple):
    """The parameters of the factor model."""

    loadings: Tensor  # W (D, K)
    mean: Tensor  # mu (D,)
    variances: Tensor  # sigma^2 (M,)


class PPCAImputer(JointImputer):
    r"""Fill by probabilistic PCA, fitted with whatever is missing.

    .. math::
        x_m = W_m b + \mu_m + \sigma_m \epsilon_m, \qquad b, \epsilon_m \sim \mathcal N(0, I)

    so that, for a row with the modalities S, factors and fills are

    .. math::
        V_S = \Big( I + \sum_{m \in S} \frac{W_m^\top W_m}{\sigma_m^2} \Big)^{-1}, \qquad
        \hat b = V_S \sum_{m \in S} \frac{W_m^\top (x_m - \mu_m)}{\sigma_m^2}, \qquad
        \hat x_m = W_m \hat b + \mu_m

    The parameters maximise the likelihood of what is observed, by EM: each step is in closed form, takes every pattern
    as it is, and never lowers the likelihood. It starts from the principal directions of the training rows with means
    in the holes; on complete rows with shared noise that is the solution already. The noise is at least 1e-6 of the
    mean square entry, since few rows can be fitted exactly. A row that has nothing gets the mean.

    Arguments:
        modalities: the M names in the order of the mask's columns.
        num_components: K, at least 1 and below D.
        noise: ``"modality"``: each modality has its own :math:`\sigma_m`. ``"shared"``: all have one, as in
            probabilistic PCA to the letter; other scales of entries then matter more.
        standardize: divide each entry by its standard deviation over the observed training rows. Fills come back in the
            units of the input either way; do not scale before and here as well.
        tolerance: stop when the mean log likelihood of a row grows by less.
        max_iterations: stop after so many steps at the latest.

    Attributes:
        log_likelihoods: of the observed entries, per row, before each step and after the last; not part of the state.

    Raises:
        TypeError, ValueError: an argument of a wrong type or outside its range; in `fit`, a K that is not below D.

    References:
        Tipping and Bishop, Probabilistic Principal Component Analysis, JRSS B 61(3), 1999; Roweis, EM Algorithms for
        PCA and SPCA, NeurIPS 1997, for missing entries.

    Example:
        >>> b = torch.tensor([[-2.0], [-1.0], [0.0], [1.0], [2.0]])
        >>> mask = torch.ones(5, 2, dtype=torch.bool)
        >>> imputer = PPCAImputer(["x", "y"], num_components=1, noise="shared").fit({"x": b, "y": -3 * b}, mask)
        >>> mask[4, 1] = False
        >>> imputer({"x": b, "y": -3 * b}, mask)[0]["y"][4].round(decimals=2)
        tensor([-6.])
    """

    def __init__(
        self,
        modalities: Sequence[str],
        *,
        num_components: int,
        noise: Literal["modality", "shared"] = "modality",
        standardize: bool = True,
        tolerance: float = 1e-6,
        max_iterations: int = 500,
    ) -> None:
        super().__init__(modalities, standardize=standardize)
        check_count("PPCAImputer", "num_components", num_components)
        check_count("PPCAImputer", "max_iterations", max_iterations)
        self.num_components, self.max_iterations = num_components, max_iterations
        if noise not in ("modality", "shared"):
            raise ValueError(f"PPCAImputer: `noise` must be 'modality' or 'shared', got {noise!r}.")
        if not tolerance >= 0:
            raise ValueError(f"PPCAImputer: `tolerance` must not be negative, got {tolerance}.")
        self.noise, self.tolerance = noise, tolerance
        self.log_likelihoods: list[float] = []

    @override
    def _more_state(self) -> list[str]:
        return ["loadings", "mean", "variances"]

    @override
    def _learn(self, x: Tensor, a: Tensor) -> dict[str, Tensor]:
        if self.num_components >= x.shape[1]:
            raise ValueError(
                f"PPCAImputer.fit: `num_components` must be below the {x.shape[1]} entries of a row, "
                f"got {self.num_components}."
            )
        groups = list(rows_by_pattern(a).items())
        floor = NOISE_FLOOR * max(float(x.square().mean()), torch.finfo(torch.float64).tiny)
        model, found = self._start(x, floor), []
        for _ in range(self.max_iterations):
            following, likelihood = self._step(x, groups, model, floor)
            found.append(likelihood)
            if len(found) > 1 and found[-1] - found[-2] < self.tolerance:
                break
            model = following
        else:
            found.append(self._step(x, groups, model, floor)[1])
        self.log_likelihoods = found
        return model._asdict()

    def _start(self, x: Tensor, floor: float) -> _Model:
        """Return probabilistic PCA of the rows as they are, with means in the holes."""
        mean = x.mean(dim=0)
        _, s, directions = torch.linalg.svd(x - mean, full_matrices=False)
        k, dim = self.num_components, x.shape[1]
        spectrum = torch.zeros(dim, dtype=x.dtype, device=x.device)
        spectrum[: len(s)] = s.square() / x.shape[0]
        rest = spectrum[k:].mean().clamp(min=floor)
        loadings = torch.zeros(dim, k, dtype=x.dtype, device=x.device)
        kept = min(k, len(s))
        loadings[:, :kept] = directions[:kept].T * (spectrum[:kept] - rest).clamp(min=0).sqrt()
        return _Model(loadings, mean, rest.repeat(len(self.modalities)))

    def _step(
        self, x: Tensor, groups: list[tuple[tuple[bool, ...], Tensor]], model: _Model, floor: float
    ) -> tuple[_Model, float]:
        """Return the parameters after a step of EM, and the log likelihood per row before it."""
        k, num = self.num_components, len(self.modalities)
        parts = torch.split(torch.arange(x.shape[1], device=x.device), self._sizes())
        inner = x.new_zeros(
            num, k + 1, k + 1
        )  # sums of (b, 1)(b, 1)' over the rows that have a modality
        cross = x.new_zeros(x.shape[1], k + 1)  # of x (b, 1)'
        squares, counts, total = x.new_zeros(num), x.new_zeros(num), x.new_zeros(())
        for pattern, rows in groups:
            b, v, likelihood = self._factors(x[rows], pattern, model)
            total = total + likelihood
            one = torch.cat([b, b.new_ones(len(b), 1)], dim=1)
            moment = one.T @ one
            moment[:k, :k] += len(b) * v
            for m, there in enumerate(pattern):
                if there:
                    inner[m] += moment
                    cross[parts[m]] += x[rows][:, parts[m]].T @ one
                    squares[m] += x[rows][:, parts[m]].square().sum()
                    counts[m] += len(b) * len(parts[m])
        solved = [torch.linalg.solve(inner[m], cross[part].T).T for m, part in enumerate(parts)]
        errors = torch.stack(
            [squares[m] - (solved[m] * cross[part]).sum() for m, part in enumerate(parts)]
        )  # at the optimum of W and mu, the expected squared errors are this
        if self.noise == "shared":
            errors, counts = errors.sum().expand(num), counts.sum().expand(num)
        both = torch.cat(solved)
        return _Model(both[:, :k], both[:, k], (errors / counts).clamp(min=floor)), float(
            total / len(x)
        )

    def _factors(
        self, x: Tensor, pattern: tuple[bool, ...], model: _Model
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the mean (n, K) and covariance (K, K) of the factors given what is there, and its log likelihood."""
        sizes = torch.tensor(self._sizes(), dtype=x.dtype, device=x.device)
        there = torch.tensor(pattern, dtype=x.dtype, device=x.device)
        precision = self._expanded((there / model.variances)[None])[0]  # (D,), 0 where missing
        deviations = x - model.mean
        weighted = model.loadings * precision[:, None]
        v_inverse = (
            torch.eye(self.num_components, dtype=x.dtype, device=x.device)
            + model.loadings.T @ weighted
        )
        v = torch.linalg.inv(v_inverse)
        projected = deviations @ weighted
        b = projected @ v
        log_det = (
            torch.linalg.slogdet(v_inverse).logabsdet
            + (there * sizes * model.variances.log()).sum()
        )
        quadratic = (deviations.square() @ precision).sum() - (projected * b).sum()
        constant = (there * sizes).sum() * math.log(2 * math.pi)
        return b, v, -(len(x) * (constant + log_det) + quadratic) / 2

    @override
    def _predict(self, x: Tensor, a: Tensor) -> Tensor:
        model = _Model(*(self.get_buffer(name) for name in self._more_state()))
        fills = torch.zeros_like(x)
        for pattern, rows in rows_by_pattern(a).items():
            b, _, _ = self._factors(x[rows], pattern, model)
            fills[rows] = b @ model.loadings.T + model.mean
        return fills

    @override
    def _what_is_wrong_with(self, sizes: list[int], state: dict[str, Any]) -> str:
        dim, num = sum(sizes), len(sizes)
        shapes = {"loadings": (dim, self.num_components), "mean": (dim,), "variances": (num,)}
        return shapes_differ("PPCAImputer", state, shapes)
