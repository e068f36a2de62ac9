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
    """Arguments and sampling shared by the generators of Dirichlet rows.

    Both have E = ``include_uniform + num_draws * num_modalities`` rows.
    """

    def __init__(
        self,
        num_modalities: int,
        alpha: float | Sequence[float] = 1.0,
        *,
        num_draws: int = 1,
        include_uniform: bool = True,
        min_weight: float = 0.0,
    ) -> None:
        kind = type(self).__name__
        num_modalities = check_count(kind, "num_modalities", num_modalities)
        num_draws = check_count(kind, "num_draws", num_draws)
        self.num_modalities, self.num_draws = num_modalities, num_draws
        if isinstance(min_weight, bool) or not isinstance(min_weight, (int, float, Real)):
            raise TypeError(f"{kind}: `min_weight` must be a number, got {min_weight!r}.")
        if not 0 <= min_weight < 1 / num_modalities:
            raise ValueError(
                f"{kind}: `min_weight` must lie in [0, 1/M) = [0, {1 / num_modalities:.6g}), "
                f"got {min_weight}."
            )
        self.alpha = _concentration(kind, alpha, num_modalities)
        self.include_uniform = include_uniform
        self.min_weight = min_weight
        self.num_envs = int(include_uniform) + num_draws * num_modalities

    def _sample(
        self,
        sample_shape: int | Sequence[int],
        gather_index: NDArray[np.int64],
        draws: int,
        generator: torch.Generator | None,
        device: torch.device | str | None,
        dtype: torch.dtype | None,
    ) -> Tensor:
        """Gather the E * M weights of each sample from ``draws * M`` drawn numbers and 1/M.

        `gather_index` (E * M,) points into the drawn numbers; the index ``draws * M`` means 1/M.
        """
        kind = type(self).__name__
        dtype, shape = checked_dtype(kind, dtype), checked_shape(kind, sample_shape)
        drawn = _dirichlet(self.alpha, (math.prod(shape), draws), generator)
        # The shifted rows of a cycle repeat the same numbers, so only the distinct ones are cast.
        # One gather then builds all rows. Half precision is rounded from float64 by torch.
        distinct = np.empty(
            (drawn.shape[0], drawn.shape[1] + 1),
            np.float32 if dtype == torch.float32 else np.float64,
        )
        distinct[:, :-1], distinct[:, -1] = (
            _apply_min_weight(drawn, self.min_weight, self.num_modalities),
            1 / self.num_modalities,
        )
        weights = np.take(distinct, gather_index, axis=1).reshape(
            *shape, self.num_envs, self.num_modalities
        )
        return torch.as_tensor(weights, device=device, dtype=dtype)

    def _uniform_index(self, draws: int) -> NDArray[np.int64]:
        """Return the gather index of the uniform row (empty without one): the position of 1/M."""
        return np.full(self.include_uniform * self.num_modalities, draws * self.num_modalities)

    def __repr__(self) -> str:
        alpha = self.alpha.tolist()
        return (
            f"{type(self).__name__}({self.num_modalities}, alpha="
            f"{alpha[0] if len(set(alpha)) == 1 else alpha}, num_draws={self.num_draws}, "
            f"include_uniform={self.include_uniform}, min_weight={self.min_weight})"
        )


class CyclicMixupEnvs(_DirichletRows):
    r"""Dirichlet weights and their cyclic shifts: every modality dominates some environment.

    Row :math:`e = 0` is the uniform row. Each draw then gives M rows:

    .. math::
        w_1 &\sim \mathrm{Dirichlet}(\alpha_1, \dots, \alpha_M) \\
        w_{k+1} &= (w_k^M, w_k^1, \dots, w_k^{M-1}), \qquad k = 1, \dots, M - 1 \\
        w &\leftarrow \epsilon + (1 - M \epsilon) \, w

    where :math:`w_k^m` is the weight of modality m in row k, :math:`\alpha` is the concentration
    and :math:`\epsilon` is `min_weight`. The mean over the M rows of a draw is uniform. A small
    :math:`\alpha` puts nearly all weight on one modality (in float32 the remaining weights may
    underflow to 0, which `invmod.fuse` handles). A large :math:`\alpha` gives nearly equal weights.

    Arguments:
        num_modalities: M, at least 1.
        alpha: Dirichlet concentration, one number or M of them, finite and positive. 1 draws
            uniformly from the simplex. Values from 1e-6 to 1e6 are safe, because the draw is
            computed in log space in float64.
        num_draws: number of independent draws in a sample, each with its M shifts.
        include_uniform: put the uniform row first.
        min_weight: lower bound :math:`\epsilon` of every weight, in [0, 1/M).

    Attributes:
        num_envs: E, the rows of a sample: ``include_uniform + num_draws * num_modalities``.
        num_modalities: M.

    Raises:
        TypeError: an argument has a wrong type.
        ValueError: an argument is outside its range.

    References:
        Bai et al., Multimodality Invariant Learning for Multimedia-Based New Item Recommendation,
        SIGIR 2024, Eq. 9-12.

    Example:
        >>> envs = CyclicMixupEnvs(3)
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
        """Draw environments. In a training loop, draw a whole epoch with ``sample((steps,))``.

        Arguments:
            sample_shape: leading shape of independent samples.
            generator: source of the draw; None means the global generator. A generator gives the
                same weights for every `device` and `dtype`, up to rounding.
            device, dtype: device and dtype of the result; None means the defaults of torch.

        Returns:
            (\\*sample_shape, E, M) with rows on the simplex, never NaN.

        Raises:
            TypeError: `dtype` is not floating point.
            ValueError: `sample_shape` is negative.
        """
        index = self._gather_index()
        return self._sample(sample_shape, index, self.num_draws, generator, device, dtype)

    def _gather_index(self) -> NDArray[np.int64]:
        """Return the positions of a sample's E * M weights among its drawn numbers and 1/M."""
        m, draws = np.arange(self.num_modalities), np.arange(self.num_draws)
        # Row k of a cycle is the draw rolled by k places, the circle shift of Eq. 10 and 11.
        shifts = (m[None, :] - m[:, None]) % self.num_modalities
        rows = (draws[:, None, None] * self.num_modalities + shifts).reshape(-1)
        return np.concatenate([self._uniform_index(self.num_draws), rows])


class DirichletEnvs(_DirichletRows):
    r"""Independent Dirichlet weights, with the same number of rows as `CyclicMixupEnvs`.

    Row :math:`e = 0` is the uniform row. Every other row is an independent draw:

    .. math::
        w_e \sim \mathrm{Dirichlet}(\alpha_1, \dots, \alpha_M), \qquad
        w \leftarrow \epsilon + (1 - M \epsilon) \, w

    where :math:`\alpha` is the concentration and :math:`\epsilon` is `min_weight`. Without the
    cyclic shifts, the mean of a sample's rows need not be uniform, and a modality may dominate none
    of them. The shifts are the only difference between the two classes, so this class is the
    baseline for measuring their effect.

    Arguments:
        num_modalities: M, at least 1.
        alpha: Dirichlet concentration, one number or M of them, finite and positive. 1 draws
            uniformly from the simplex.
        num_draws: a sample has ``num_draws * num_modalities`` independent draws.
        include_uniform: put the uniform row first.
        min_weight: lower bound :math:`\epsilon` of every weight, in [0, 1/M).

    Attributes:
        num_envs: E, the rows of a sample: ``include_uniform + num_draws * num_modalities``.
        num_modalities: M.

    Raises:
        TypeError: an argument has a wrong type.
        ValueError: an argument is outside its range.

    References:
        Bai et al., SIGIR 2024, Eq. 9, without the cyclic shifts of Eq. 10.

    Example:
        >>> envs = DirichletEnvs(3)
        >>> envs.num_envs == CyclicMixupEnvs(3).num_envs == 4
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
        """Draw environments (\\*sample_shape, E, M); arguments as in `CyclicMixupEnvs.sample`."""
        draws = self.num_draws * self.num_modalities
        rows = np.arange(draws * self.num_modalities)
        index = np.concatenate([self._uniform_index(draws), rows])
        return self._sample(sample_shape, index, draws, generator, device, dtype)


def _concentration(
    kind: str, alpha: float | Sequence[float], num_modalities: int
) -> NDArray[np.float64]:
    """Check `alpha`; return it as M numbers."""
    try:
        values = np.asarray(alpha)
    except (TypeError, ValueError) as error:  # such as lists of unequal lengths
        raise TypeError(
            f"{kind}: `alpha` must be a number or a sequence of them, got {alpha!r}."
        ) from error
    if values.dtype.kind not in "iuf":
        raise TypeError(f"{kind}: `alpha` must be a number or a sequence of them, got {alpha!r}.")
    if values.ndim > 1 or values.size not in (1, num_modalities):
        raise ValueError(
            f"{kind}: `alpha` must be one number or {num_modalities} of them, got {alpha}."
        )
    numbers = values.astype(np.float64).reshape(-1).tolist()
    if not all(math.isfinite(number) and number > 0 for number in numbers):
        raise ValueError(f"{kind}: `alpha` must be finite and positive, got {alpha}.")
    return np.broadcast_to(np.asarray(numbers), (num_modalities,)).copy()


def _apply_min_weight(
    weights: NDArray[np.float64], min_weight: float, num_modalities: int
) -> NDArray[np.float64]:
    """Map the simplex affinely to the part of it where every weight is at least `min_weight`."""
    return min_weight + (1 - num_modalities * min_weight) * weights if min_weight else weights


def _dirichlet(
    alpha: NDArray[np.float64], shape: tuple[int, int], generator: torch.Generator | None
) -> NDArray[np.float64]:
    r"""Draw Dirichlet rows in log space, so that no concentration gives NaN: (samples, draws * M).

    A Dirichlet row consists of independent Gamma variables divided by their sum. For a small
    concentration a they underflow, so their logarithms are drawn instead:
    :math:`\log G_a = \log G_{a+1} + \log(U) / a` with :math:`G_a \sim \mathrm{Gamma}(a, 1)` and U
    uniform on (0, 1). A softmax of the logarithms normalises the row. :math:`-\log U` is drawn as
    an exponential variable, which is never infinite.

    numpy's samplers are vectorised. They use a numpy generator of their own, whose seed is drawn
    from the torch generator.
    """
    # torch's own Dirichlet takes no generator, so torch only provides the seed. Without a generator
    # it is drawn on the CPU, because the default device may have no values (meta).
    device = "cpu" if generator is None else generator.device
    seed = int(torch.randint(2**63 - 1, (), generator=generator, device=device))
    rng = np.random.default_rng(seed)
    size = (shape[0] * shape[1], len(alpha))
    # If all concentrations are equal, passing a scalar draws the same numbers faster.
    symmetric = (alpha == alpha[0]).all()
    log_g = rng.standard_gamma(float(alpha[0]) + 1 if symmetric else alpha + 1, size)
    np.log(log_g, out=log_g)
    log_g -= rng.standard_exponential(size) / alpha
    # numpy reduces the first axis of (M, draws) several times as fast as the last of (draws, M).
    log_g = np.ascontiguousarray(log_g.T)
    # Softmax in place. Subtracting the maximum makes the largest term 1, so the sum is never 0.
    log_g -= log_g.max(axis=0)
    np.exp(log_g, out=log_g)
    log_g /= log_g.sum(axis=0)
    return log_g.T.reshape(shape[0], shape[1] * len(alpha))
