"""Environments drawn from a Dirichlet distribution."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from invmod._checks import check_count
from invmod.environments.protocol import checked_dtype, checked_shape


class _DirichletRows:
    """What the two kinds share: E = ``include_uniform + num_draws * num_modalities`` rows from a Dirichlet."""

    def __init__(
        self,
        num_modalities: int,
        alpha: float | Sequence[float] = 0.1,
        *,
        num_draws: int = 1,
        include_uniform: bool = True,
        min_weight: float = 0.0,
    ) -> None:
        kind = type(self).__name__
        self.num_modalities = check_count(kind, "num_modalities", num_modalities)
        self.num_draws = check_count(kind, "num_draws", num_draws)
        if isinstance(min_weight, bool) or not isinstance(min_weight, (int, float, Real)):
            raise TypeError(f"{kind}: `min_weight` must be a number, got {min_weight!r}.")
        if not 0 <= min_weight < 1 / num_modalities:
            raise ValueError(
                f"{kind}: `min_weight` must lie in [0, 1/M) = [0, {1 / num_modalities:.6g}), got {min_weight}."
            )
        self.alpha = _concentration(kind, alpha, num_modalities)
        self.include_uniform = include_uniform
        self.min_weight = min_weight
        self.num_envs = int(include_uniform) + num_draws * num_modalities

    def _sample(
        self,
        sample_shape: int | Sequence[int],
        places: NDArray[np.int64],
        draws: int,
        generator: torch.Generator | None,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> Tensor:
        """Gather a sample's E M weights from its drawn ones, (draws * M) of them, and 1/M behind these."""
        kind = type(self).__name__
        dtype, shape = checked_dtype(kind, dtype), checked_shape(kind, sample_shape)
        drawn = _dirichlet(self.alpha, (math.prod(shape), draws), generator)
        # A sample's distinct weights, cast once, and 1/M behind them; the rows are one gather from these.
        cells = np.empty(
            (drawn.shape[0], drawn.shape[1] + 1),
            np.float32 if dtype == torch.float32 else np.float64,
        )
        cells[:, :-1], cells[:, -1] = (
            _with_floor(drawn, self.min_weight, self.num_modalities),
            1 / self.num_modalities,
        )
        weights = np.take(cells, places, axis=1).reshape(*shape, self.num_envs, self.num_modalities)
        return torch.as_tensor(weights, device=device, dtype=dtype)

    def _uniform(self, draws: int) -> NDArray[np.int64]:
        """Where the weights of the uniform row lie: all behind the drawn ones."""
        return np.full(self.include_uniform * self.num_modalities, draws * self.num_modalities)

    def __repr__(self) -> str:
        alpha = self.alpha.tolist()
        return (
            f"{type(self).__name__}({self.num_modalities}, alpha="
            f"{alpha[0] if len(set(alpha)) == 1 else alpha}, num_draws={self.num_draws}, "
            f"include_uniform={self.include_uniform}, min_weight={self.min_weight})"
        )


class CyclicMixupEnvs(_DirichletRows):
    r"""Dirichlet weights and their cyclic shifts, so that every modality dominates some environment.

    With :math:`e = 0` the uniform row, each draw gives M rows:

    .. math::
        w_1 &\sim \mathrm{Dirichlet}(\alpha_1, \dots, \alpha_M) \\
        w_{k+1} &= (w_k^M, w_k^1, \dots, w_k^{M-1}), \qquad k = 1, \dots, M - 1 \\
        w &\leftarrow \epsilon + (1 - M \epsilon) \, w

    The mean over the M rows of a draw is uniform. Small :math:`\alpha` puts nearly all weight on one modality (and in
    float32 the rest may underflow to 0, which `invmod.fuse` deals with), large :math:`\alpha` gives nearly equal
    weights.

    Arguments:
        num_modalities: M, at least 1.
        alpha: Dirichlet concentration, one number or M of them, finite and positive. Works from 1e-6 to 1e6: the draw
            is made in log space in float64.
        num_draws: independent draws in a sample, each with its M shifts.
        include_uniform: put the uniform row in front.
        min_weight: floor :math:`\epsilon` in [0, 1/M) under every weight.

    Attributes:
        num_envs: E, the rows of a sample: ``include_uniform + num_draws * num_modalities``.
        num_modalities: M.

    Raises:
        TypeError: an argument of a wrong type.
        ValueError: an argument outside its range.

    References:
        Bai et al., Multimodality Invariant Learning for Multimedia-Based New Item Recommendation, SIGIR 2024, Eq. 9-12.

    Example:
        >>> envs = CyclicMixupEnvs(3, alpha=0.5)
        >>> weights = envs.sample(generator=torch.Generator().manual_seed(0))
        >>> weights.shape, weights[0]
        (torch.Size([4, 3]), tensor([0.3333, 0.3333, 0.3333]))
        >>> bool((weights[2] == weights[1].roll(1)).all())
        True
    """

    def sample(
        self,
        sample_shape: Sequence[int] = (),
        *,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Draw environments; for a training loop draw an epoch at once with ``sample((steps,))``.

        Arguments:
            sample_shape: leading shape of independent samples.
            generator: seeds the draw; the global generator where None. One generator gives the same weights for
                every `device` and `dtype`, up to rounding.
            device, dtype: of the result; the default device and dtype where None.

        Returns:
            (\\*sample_shape, E, M) with rows on the simplex, never NaN.

        Raises:
            TypeError: `dtype` is not floating point.
            ValueError: `sample_shape` is negative.
        """
        return self._sample(sample_shape, self._places(), self.num_draws, generator, device, dtype)

    def _places(self) -> NDArray[np.int64]:
        """Where each of the (E M) weights of a sample lies among its ``num_draws * M`` drawn ones and 1/M."""
        m, draws = np.arange(self.num_modalities), np.arange(self.num_draws)
        shifts = (m[None, :] - m[:, None]) % self.num_modalities  # row k = roll by k
        rows = (draws[:, None, None] * self.num_modalities + shifts).reshape(-1)
        return np.concatenate([self._uniform(self.num_draws), rows])


class DirichletEnvs(_DirichletRows):
    r"""Independent Dirichlet weights, as many as `CyclicMixupEnvs` with the same arguments has.

    With :math:`e = 0` the uniform row, and M rows for each of the draws that cyclic mixup would shift:

    .. math::
        w_e \sim \mathrm{Dirichlet}(\alpha_1, \dots, \alpha_M), \qquad
        w \leftarrow \epsilon + (1 - M \epsilon) \, w

    What the shifts of cyclic mixup give is missing here: a sample's rows need not have a uniform mean, and a modality
    may dominate none of them. The two differ in that alone, which makes this the baseline to compare with.

    Arguments:
        num_modalities: M, at least 1.
        alpha: Dirichlet concentration, one number or M of them, finite and positive.
        num_draws: a sample has ``num_draws * num_modalities`` independent draws.
        include_uniform: put the uniform row in front.
        min_weight: floor :math:`\epsilon` in [0, 1/M) under every weight.

    Attributes:
        num_envs: E, the rows of a sample: ``include_uniform + num_draws * num_modalities``.
        num_modalities: M.

    Raises:
        TypeError: an argument of a wrong type.
        ValueError: an argument outside its range.

    References:
        Bai et al., SIGIR 2024, Eq. 9 and 10: its draw, without the cyclic shifts.

    Example:
        >>> envs = DirichletEnvs(3, alpha=0.5)
        >>> envs.num_envs == CyclicMixupEnvs(3, alpha=0.5).num_envs == 4
        True
        >>> envs.sample((2,), generator=torch.Generator().manual_seed(0)).shape
        torch.Size([2, 4, 3])
    """

    def sample(
        self,
        sample_shape: Sequence[int] = (),
        *,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Draw environments, as `CyclicMixupEnvs.sample` does: (\\*sample_shape, E, M)."""
        draws = self.num_draws * self.num_modalities
        places = np.concatenate([self._uniform(draws), np.arange(draws * self.num_modalities)])
        return self._sample(sample_shape, places, draws, generator, device, dtype)


def _concentration(
    kind: str, alpha: float | Sequence[float], num_modalities: int
) -> NDArray[np.float64]:
    try:
        given = np.asarray(alpha)
    except (TypeError, ValueError) as error:  # such as lists of unequal lengths
        raise TypeError(
            f"{kind}: `alpha` must be a number or a sequence of them, got {alpha!r}."
        ) from error
    if given.dtype.kind not in "iuf":
        raise TypeError(f"{kind}: `alpha` must be a number or a sequence of them, got {alpha!r}.")
    if given.ndim > 1 or given.size not in (1, num_modalities):
        raise ValueError(
            f"{kind}: `alpha` must be one number or {num_modalities} of them, got {alpha}."
        )
    values = given.astype(np.float64).reshape(-1).tolist()
    if not all(math.isfinite(value) and value > 0 for value in values):
        raise ValueError(f"{kind}: `alpha` must be finite and positive, got {alpha}.")
    return np.broadcast_to(np.asarray(values), (num_modalities,)).copy()


def _with_floor(
    weights: NDArray[np.float64], floor: float, num_modalities: int
) -> NDArray[np.float64]:
    return floor + (1 - num_modalities * floor) * weights if floor else weights


def _dirichlet(
    alpha: NDArray[np.float64], shape: tuple[int, int], generator: torch.Generator | None
) -> NDArray[np.float64]:
    r"""Draw Dirichlet rows in log space, so that no concentration gives NaN: (samples, draws * M).

    :math:`\log G_a = \log G_{a+1} + \log(U) / a` with :math:`G_a \sim \mathrm{Gamma}(a, 1)` and U uniform; then a
    softmax. -log U is drawn as an exponential, which is never infinite. numpy's samplers are vectorised and take a
    private stream; its seed comes from the torch generator.
    """
    device = None if generator is None else generator.device
    seed = int(torch.randint(2**63 - 1, (), generator=generator, device=device))
    stream = np.random.default_rng(seed)
    size = (shape[0] * shape[1], len(alpha))
    common = (alpha == alpha[0]).all()  # a scalar draws the same numbers, faster
    log_g = stream.standard_gamma(float(alpha[0]) + 1 if common else alpha + 1, size)
    np.log(log_g, out=log_g)
    log_g -= stream.standard_exponential(size) / alpha
    log_g = np.ascontiguousarray(
        log_g.T
    )  # numpy reduces the first axis of (M, draws) several times as fast
    log_g -= log_g.max(axis=0)
    np.exp(log_g, out=log_g)
    log_g /= log_g.sum(axis=0)
    return log_g.T.reshape(shape[0], shape[1] * len(alpha))
