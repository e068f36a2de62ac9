"""Environments that are given, fixed, or put together from others."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from typing_extensions import override

from invmod._checks import check_count
from invmod.environments.protocol import Environments, checked_dtype, checked_shape


class GivenEnvs:
    """Weights given by hand: every sample has these rows.

    Arguments:
        weights: (E, M), each row on the simplex (its sum within 1e-4 of 1), as a tensor or nested lists. Kept in
            float64 and on the CPU, divided by their sums.

    Attributes:
        num_envs: E.
        num_modalities: M.
        weights: float64 (E, M).

    Raises:
        TypeError: the weights are not numbers.
        ValueError: not (E, M) with E and M at least 1, or a row is not on the simplex.

    Example:
        >>> envs = GivenEnvs([[0.5, 0.5], [0.9, 0.1]])
        >>> envs.num_envs, envs.sample((3,)).shape
        (2, torch.Size([3, 2, 2]))
    """

    def __init__(self, weights: Tensor | Sequence[Sequence[float]]) -> None:
        kind = type(self).__name__
        try:
            given = (
                weights.detach()
                if isinstance(weights, Tensor)
                else torch.from_numpy(np.array(weights, np.float64))
            )
            rows = given.to("cpu", torch.float64, copy=True)
        except (TypeError, ValueError, RuntimeError) as error:
            raise TypeError(f"{kind}: `weights` must be (E, M) numbers: {error}") from error
        if rows.ndim != 2 or 0 in rows.shape:
            raise ValueError(
                f"{kind}: `weights` must have shape (E, M), at least one each, got {tuple(rows.shape)}."
            )
        wrong = (
            (~(rows >= 0).all(dim=1) | ~((rows.sum(dim=1) - 1).abs() <= 1e-4))
            .nonzero()[:, 0]
            .tolist()
        )
        if wrong:
            raise ValueError(
                f"{kind}: each row of `weights` must be non-negative and sum to 1; rows {wrong} do not, "
                f"the first is {rows[wrong[0]].tolist()}."
            )
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
        """Return the rows, (\\*sample_shape, E, M), a tensor of its own; nothing is drawn from `generator`."""
        kind = type(self).__name__
        dtype, shape = checked_dtype(kind, dtype), checked_shape(kind, sample_shape)
        rows = self.weights.to(torch.get_default_device() if device is None else device, dtype)
        return rows.repeat(*shape, 1, 1)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.weights.tolist()})"


class UniformEnvs(GivenEnvs):
    r"""The uniform row :math:`w = (1/M, \dots, 1/M)` alone: plain training, the baseline of every comparison.

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
    """One draw of other environments, kept for a whole run.

    The draw happens here and once. A run that is resumed makes it again from a generator with the same seed, or takes
    the `weights` that it kept: ``GivenEnvs(weights)`` gives the same rows.

    Arguments:
        envs: what to draw from.
        generator: seeds the draw; it is asked for, so that no run depends on what was drawn before it.

    Attributes:
        num_envs, num_modalities: those of `envs`.
        weights: float64 (E, M), the draw.

    Raises:
        TypeError: `generator` is not a `torch.Generator`.

    Example:
        >>> from invmod import CyclicMixupEnvs
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
            TypeError: the environments drawn from are not subsets of the modalities.
        """
        if not self._has_masks:
            raise TypeError(f"FixedEnvs.sample_masks: {self._source} has weights only, no masks.")
        return self.sample(sample_shape, device=device) > 0

    @override
    def __repr__(self) -> str:
        return f"FixedEnvs({self._source})"


class UnionEnvs:
    """Environments of several kinds, one behind the other.

    Arguments:
        envs: at least one generator of environments, all of the same number of modalities.

    Attributes:
        num_envs: the sum of theirs.
        num_modalities: M.

    Raises:
        ValueError: none is given, or their `num_modalities` differ.

    Example:
        >>> from invmod import LeaveOneOutEnvs, UniformEnvs
        >>> UnionEnvs(UniformEnvs(3), LeaveOneOutEnvs(3)).sample()
        tensor([[0.3333, 0.3333, 0.3333],
                [0.0000, 0.5000, 0.5000],
                [0.5000, 0.0000, 0.5000],
                [0.5000, 0.5000, 0.0000]])
    """

    def __init__(self, *envs: Environments) -> None:
        if not envs:
            raise ValueError("UnionEnvs: give at least one generator of environments.")
        sizes = [each.num_modalities for each in envs]
        if len(set(sizes)) > 1:
            raise ValueError(f"UnionEnvs: all must have the same `num_modalities`, got {sizes}.")
        self.envs = envs
        self.num_modalities = sizes[0]
        self.num_envs = sum(each.num_envs for each in envs)

    def sample(
        self,
        sample_shape: Sequence[int] = (),
        *,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Draw from each in turn, (\\*sample_shape, E, M); arguments are those of `CyclicMixupEnvs.sample`."""
        parts = [
            e.sample(sample_shape, generator=generator, device=device, dtype=dtype)
            for e in self.envs
        ]
        return torch.cat(parts, dim=-2)

    def sample_masks(
        self,
        sample_shape: Sequence[int] = (),
        *,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Draw masks from each in turn, bool (\\*sample_shape, E, M).

        Raises:
            TypeError: one of them has weights only.
        """
        without = [each for each in self.envs if not hasattr(each, "sample_masks")]
        if without:
            raise TypeError(f"UnionEnvs.sample_masks: {without[0]!r} has weights only, no masks.")
        parts = [
            each.sample_masks(  # type: ignore[attr-defined]
                sample_shape, generator=generator, device=device
            )
            for each in self.envs
        ]
        return torch.cat(parts, dim=-2)

    def __repr__(self) -> str:
        return f"UnionEnvs({', '.join(map(repr, self.envs))})"
