"""Environments that are given by the caller or drawn once."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from invmod._checks import check_count
from invmod.environments.protocol import USE_SUBSETS, Environments, checked_dtype, checked_shape


class GivenEnvs:
    """Weights given by the caller: every sample has these rows.

    Arguments:
        weights: (E, M), each row on the simplex (its sum within 1e-4 of 1), as a tensor or nested
            lists. They are stored in float64 on the CPU, each row divided by its sum.

    Attributes:
        num_envs: E.
        num_modalities: M.
        weights: float64 (E, M).

    Raises:
        TypeError: the weights are not numbers.
        ValueError: the weights are not (E, M) with E and M at least 1, or a row is not on the
            simplex.

    Example:
        >>> envs = GivenEnvs([[0.5, 0.5], [0.9, 0.1]])
        >>> envs.num_envs, envs.sample((3,)).shape
        (2, torch.Size([3, 2, 2]))
    """

    def __init__(self, weights: Tensor | Sequence[Sequence[float]]) -> None:
        kind = type(self).__name__
        try:
            tensor = (
                weights.detach()
                if isinstance(weights, Tensor)
                else torch.from_numpy(np.array(weights, np.float64))
            )
            rows = tensor.to("cpu", torch.float64, copy=True)
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(f"{kind}: `weights` must be (E, M) numbers: {error}") from error
        if rows.ndim != 2 or 0 in rows.shape:
            raise ValueError(
                f"{kind}: `weights` must have shape (E, M) with E and M at least 1, "
                f"got {tuple(rows.shape)}."
            )
        # Written as "not (x >= 0)", so that NaN counts as a violation.
        bad_rows = (
            (~(rows >= 0).all(dim=1) | ~((rows.sum(dim=1) - 1).abs() <= 1e-4))
            .nonzero()[:, 0]
            .tolist()
        )
        if bad_rows:
            raise ValueError(
                f"{kind}: each row of `weights` must be non-negative and sum to 1; "
                f"rows {bad_rows} do not, the first is {rows[bad_rows[0]].tolist()}."
            )
        # Sums within the tolerance are normalised exactly.
        self.weights = rows / rows.sum(dim=1, keepdim=True)
        self.num_envs, self.num_modalities = self.weights.shape

    def sample(
        self,
        sample_shape: Sequence[int] = (),
        *,
        generator: torch.Generator | None = None,  # noqa: ARG002
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Return the rows as a new tensor (\\*sample_shape, E, M); `generator` is not used."""
        kind = type(self).__name__
        dtype, shape = checked_dtype(kind, dtype), checked_shape(kind, sample_shape)
        rows = self.weights.to(torch.get_default_device() if device is None else device, dtype)
        return rows.repeat(*shape, 1, 1)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.weights.tolist()})"


class UniformEnvs(GivenEnvs):
    r"""Only the uniform row :math:`w = (1/M, \dots, 1/M)`: training without environments.

    This is the baseline to which other environments are compared.

    Arguments:
        num_modalities: M, at least 1.

    Attributes:
        num_envs: 1.
        num_modalities: M.

    Raises:
        TypeError, ValueError: `num_modalities` is not an int of at least 1.

    Example:
        >>> UniformEnvs(4).sample()
        tensor([[0.2500, 0.2500, 0.2500, 0.2500]])
    """

    def __init__(self, num_modalities: int) -> None:
        m = check_count("UniformEnvs", "num_modalities", num_modalities)
        super().__init__(torch.full((1, m), 1 / m, dtype=torch.float64, device="cpu"))

    @override
    def __repr__(self) -> str:
        return f"UniformEnvs({self.num_modalities})"


class FixedEnvs(GivenEnvs):
    """One draw from other environments, fixed for a whole run.

    The constructor draws once. To resume a run, either draw again from a generator with the same
    seed or save `weights`: ``GivenEnvs(weights)`` has the same rows.

    Arguments:
        envs: the environments to draw from.
        generator: source of the draw. It is required, so that the draw does not depend on earlier
            use of the global generator.

    Attributes:
        num_envs, num_modalities: those of `envs`.
        weights: float64 (E, M), the draw.

    Raises:
        TypeError: `generator` is not a `torch.Generator`.

    Example:
        >>> from invmod.environments import CyclicMixupEnvs
        >>> envs = FixedEnvs(CyclicMixupEnvs(3), generator=torch.Generator().manual_seed(0))
        >>> bool((envs.sample() == envs.sample()).all())
        True
    """

    def __init__(self, envs: Environments, *, generator: torch.Generator) -> None:
        if not isinstance(generator, torch.Generator):
            raise TypeError(
                f"FixedEnvs: `generator` must be a torch.Generator, got {type(generator).__name__}."
            )
        super().__init__(envs.sample(generator=generator, device="cpu", dtype=torch.float64))
        self._has_masks = hasattr(envs, "sample_masks")
        self._source = repr(envs)

    def sample_masks(
        self,
        sample_shape: Sequence[int] = (),
        *,
        generator: torch.Generator | None = None,  # noqa: ARG002
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Return the subsets of the draw as masks, bool (\\*sample_shape, E, M).

        Raises:
            TypeError: the environments that were drawn from are not subsets of the modalities.
        """
        if not self._has_masks:
            raise TypeError(
                f"FixedEnvs.sample_masks: {self._source} has weights only, no masks. {USE_SUBSETS}"
            )
        # A subset's weights are 1/k on its k modalities and 0 elsewhere, so the mask is their sign.
        return self.sample(sample_shape, device=device) > 0

    @override
    def __repr__(self) -> str:
        return f"FixedEnvs({self._source})"
