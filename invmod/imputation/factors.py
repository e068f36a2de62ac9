"""Fill by latent factors that all modalities share (probabilistic PCA on incomplete rows)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from typing_extensions import override

from invmod._checks import check_choice, check_count
from invmod.imputation.joint import expand_columns, shape_error
from invmod.imputation.maps import LinearJointImputer
from invmod.missingness import rows_by_pattern

# Lower bound of the noise variance, relative to the mean square entry. Without a bound, rows that
# are fitted exactly have an infinite likelihood, and there is no maximum.
NOISE_FLOOR = 1e-6

# Lower bound of the floor itself: its inverse must be finite.
SMALLEST_FLOOR = 1e-280


class _Model(NamedTuple):
    """The parameters of the factor model."""

    loadings: Tensor  # W (D, K)
    mean: Tensor  # mu (D,)
    variances: Tensor  # sigma^2 (M,)


class PPCAImputer(LinearJointImputer):
    r"""Fill by probabilistic PCA, fitted on incomplete rows.

    .. math::
        x_m = W_m b + \mu_m + \sigma_m \epsilon_m, \qquad b, \epsilon_m \sim \mathcal N(0, I)

    where :math:`x_m` are the :math:`D_m` entries of modality m, b are the K latent factors of a
    row, :math:`W_m` are loadings, :math:`\mu_m` is a mean and :math:`\sigma_m` the standard
    deviation of the noise. For a row with the available modalities S, factors and fills are

    .. math::
        V_S = \Big( I + \sum_{m \in S} \frac{W_m^\top W_m}{\sigma_m^2} \Big)^{-1}, \qquad
        \hat b = V_S \sum_{m \in S} \frac{W_m^\top (x_m - \mu_m)}{\sigma_m^2}, \qquad
        \hat x_m = W_m \hat b + \mu_m

    where :math:`V_S` is the posterior covariance of the factors and :math:`\hat b` their posterior
    mean.

    The parameters maximise the likelihood of the observed entries by expectation maximisation (EM).
    Each step has a closed form, handles every pattern of missing modalities exactly, and never
    lowers the likelihood. EM starts from the principal directions of the training rows with means
    in the missing cells. For complete rows and shared noise this start is already the solution. The
    noise variance is at least 1e-6 of the mean square entry, because a few rows could be fitted
    exactly otherwise.

    A row without any modality is filled with the model's mean :math:`\mu`. Under missingness at
    random, it estimates the mean over all rows, including those that lack the modality. It differs
    from the mean of the observed rows: if images exist mostly for large values of a correlated
    text, the observed mean is too large and :math:`\mu` is not.

    The fills are computed for the patterns of a call, so this form cannot be exported or compiled
    into one graph. `linear_maps` returns the form that can.

    Arguments:
        modalities: the M names in the order of the mask's columns.
        num_components: K, at least 1 and below D, the number of entries of all modalities.
        noise: ``"modality"``: each modality has its own :math:`\sigma_m`. ``"shared"``: all
            modalities share one :math:`\sigma`, as in the original probabilistic PCA; the result
            then depends more on the scales of the entries.
        standardize: divide each entry by its standard deviation over the observed training rows.
            Fills are returned in the units of the input in both cases. Do not standardize the
            features twice.
        tolerance: stop when the mean log likelihood per row grows by less than this.
        max_iterations: maximum number of EM steps.

    Attributes:
        log_likelihoods: log likelihood of the observed entries per row, before each step and after
            the last one; not part of the state.

    Raises:
        TypeError, ValueError: an argument has a wrong type or is outside its range. In `fit`: K is
            not below D.

    References:
        Tipping and Bishop, Probabilistic Principal Component Analysis, JRSS B 61(3), 1999; Roweis,
        EM Algorithms for PCA and SPCA, NeurIPS 1997, for missing entries.

    Example:
        >>> b = torch.tensor([[-2.0], [-1.0], [0.0], [1.0], [2.0]])
        >>> mask = torch.ones(5, 2, dtype=torch.bool)
        >>> imputer = PPCAImputer(["x", "y"], num_components=1, noise="shared")
        >>> imputer = imputer.fit({"x": b, "y": -3 * b}, mask)
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
        self.num_components = check_count("PPCAImputer", "num_components", num_components)
        self.max_iterations = check_count("PPCAImputer", "max_iterations", max_iterations)
        check_choice("PPCAImputer", "noise", noise, ("modality", "shared"))
        if not tolerance >= 0:
            raise ValueError(f"PPCAImputer: `tolerance` must not be negative, got {tolerance}.")
        self.noise, self.tolerance = noise, tolerance
        self.log_likelihoods: list[float] = []

    @override
    def _model_state_names(self) -> list[str]:
        return ["loadings", "mean", "variances"]

    @override
    def _fit_table(self, x: Tensor, a: Tensor, sizes: list[int]) -> dict[str, Tensor]:
        if self.num_components >= x.shape[1]:
            raise ValueError(
                f"PPCAImputer.fit: `num_components` must be below the {x.shape[1]} entries of a "
                f"row, got {self.num_components}."
            )
        groups = list(rows_by_pattern(a).items())
        # Constant rows have no scale of their own; they are fitted exactly with any floor.
        mean_square = float(x.square().mean())
        floor = max(NOISE_FLOOR * mean_square, SMALLEST_FLOOR) if mean_square else NOISE_FLOOR
        model, log_likelihoods = self._start(x, floor), []
        for _ in range(self.max_iterations):
            # A step returns the likelihood of the model that it started from, so the loop ends with
            # the model whose likelihood was measured last.
            next_model, likelihood = self._step(x, groups, model, floor, sizes)
            log_likelihoods.append(likelihood)
            if len(log_likelihoods) > 1 and likelihood - log_likelihoods[-2] < self.tolerance:
                break
            model = next_model
        else:
            log_likelihoods.append(self._step(x, groups, model, floor, sizes)[1])
        self.log_likelihoods = log_likelihoods
        return model._asdict()

    def _start(self, x: Tensor, floor: float) -> _Model:
        """Return the solution of probabilistic PCA for x, where missing cells hold 0, the mean."""
        mean = x.mean(dim=0)
        _, s, directions = torch.linalg.svd(x - mean, full_matrices=False)
        k, dim = self.num_components, x.shape[1]
        # The eigenvalues of the covariance; those beyond the number of rows are 0. In the solution
        # of Tipping and Bishop the noise is the mean of the discarded ones, and the loadings are
        # the kept directions with the noise subtracted from their eigenvalues.
        spectrum = torch.zeros(dim, dtype=x.dtype, device=x.device)
        spectrum[: len(s)] = s.square() / x.shape[0]
        noise = spectrum[k:].mean().clamp(min=floor)
        loadings = torch.zeros(dim, k, dtype=x.dtype, device=x.device)
        kept = min(k, len(s))
        loadings[:, :kept] = directions[:kept].T * (spectrum[:kept] - noise).clamp(min=0).sqrt()
        return _Model(loadings, mean, noise.repeat(len(self.modalities)))

    def _step(
        self,
        x: Tensor,
        groups: list[tuple[tuple[bool, ...], Tensor]],
        model: _Model,
        floor: float,
        sizes: list[int],
    ) -> tuple[_Model, float]:
        """Return the parameters after one EM step, and the log likelihood per row before it.

        Given the factors, each modality is a linear regression of x on (b, 1), whose coefficients
        are its loadings and mean. The E step collects the expected moments of these regressions,
        pattern by pattern; the M step solves them.
        """
        k, num = self.num_components, len(self.modalities)
        columns = torch.split(torch.arange(x.shape[1], device=x.device), sizes)
        # Expectations of (b, 1)(b, 1)^T and x (b, 1)^T, summed over the rows that have a modality.
        factor_moments = x.new_zeros(num, k + 1, k + 1)
        cross_moments = x.new_zeros(x.shape[1], k + 1)
        squares, counts, total = x.new_zeros(num), x.new_zeros(num), x.new_zeros(())
        for pattern, rows in groups:
            values = x[rows]
            b, v, likelihood = self._factors(values, pattern, model, sizes)
            total = total + likelihood
            factors_and_one = torch.cat([b, b.new_ones(len(b), 1)], dim=1)
            # E[b b^T] is the product of the means plus the posterior covariance V_S of each row.
            moment = factors_and_one.T @ factors_and_one
            moment[:k, :k] += len(b) * v
            for m, available in enumerate(pattern):
                if available:
                    part = values[:, columns[m]]
                    factor_moments[m] += moment
                    cross_moments[columns[m]] += part.T @ factors_and_one
                    squares[m] += part.square().sum()
                    counts[m] += len(b) * len(columns[m])
        coefficients = [
            torch.linalg.solve(factor_moments[m], cross_moments[part].T).T
            for m, part in enumerate(columns)
        ]
        # At the optimal W and mu the expected squared error simplifies to this difference.
        errors = torch.stack(
            [
                squares[m] - (coefficients[m] * cross_moments[part]).sum()
                for m, part in enumerate(columns)
            ]
        )
        if self.noise == "shared":
            errors, counts = errors.sum().expand(num), counts.sum().expand(num)
        stacked = torch.cat(coefficients)
        next_model = _Model(stacked[:, :k], stacked[:, k], (errors / counts).clamp(min=floor))
        return next_model, float(total / len(x))

    def _factors(
        self, x: Tensor, pattern: tuple[bool, ...], model: _Model, sizes: list[int]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the posterior of the factors for rows x (n, D) of one pattern.

        Returns:
            the posterior means (n, K), the covariance (K, K) that all rows of the pattern share,
            and the log likelihood of the observed entries, summed over the rows.
        """
        counts = torch.tensor(sizes, dtype=x.dtype, device=x.device)
        available = torch.tensor(pattern, dtype=x.dtype, device=x.device)
        # Precisions (D,) of the noise. Missing entries have precision 0 and drop out of all sums.
        precision = expand_columns((available / model.variances)[None], sizes)[0]
        deviations = x - model.mean
        weighted = model.loadings * precision[:, None]
        v_inverse = (
            torch.eye(self.num_components, dtype=x.dtype, device=x.device)
            + model.loadings.T @ weighted
        )
        v = torch.linalg.inv(v_inverse)
        projected = deviations @ weighted
        b = projected @ v
        # Log density of N(0, W W^T + noise) by the lemmas of Sylvester and Woodbury: a determinant
        # and an inverse of size K instead of D.
        log_det = (
            torch.linalg.slogdet(v_inverse).logabsdet
            + (available * counts * model.variances.log()).sum()
        )
        quadratic = (deviations.square() @ precision).sum() - (projected * b).sum()
        constant = (available * counts).sum() * math.log(2 * math.pi)
        return b, v, -(len(x) * (constant + log_det) + quadratic) / 2

    @override
    def _predict(self, x: Tensor, a: Tensor) -> Tensor:
        model = _Model(*(self.get_buffer(name) for name in self._model_state_names()))
        fills = torch.zeros_like(x)
        for pattern, rows in rows_by_pattern(a).items():
            b, _, _ = self._factors(x[rows], pattern, model, self._sizes())
            fills[rows] = b @ model.loadings.T + model.mean
        return fills

    @override
    def _model_state_error(self, sizes: list[int], state: dict[str, Any]) -> str:
        dim, num = sum(sizes), len(sizes)
        shapes = {"loadings": (dim, self.num_components), "mean": (dim,), "variances": (num,)}
        return shape_error("PPCAImputer", state, shapes)
