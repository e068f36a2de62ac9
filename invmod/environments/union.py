"""Environments of several kinds, combined."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from invmod.environments.protocol import (
    Environments,
    check_env_mask,
    check_has_masks,
    takes_mask,
)


class UnionEnvs:
    """Environments of several kinds, concatenated along the axis E.

    `sample` and `sample_masks` also take the `mask` of the data, for the generators that draw from
    the modalities of each sample (`KOfAvailableEnvs`).

    Arguments:
        envs: at least one generator of environments, all of the same number of modalities.

    Attributes:
        num_envs: E, the sum of the `num_envs` of all generators.
        num_modalities: M.

    Raises:
        ValueError: no generator is given, or their `num_modalities` differ.

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
        sizes = [env.num_modalities for env in envs]
        if len(set(sizes)) > 1:
            raise ValueError(
                f"UnionEnvs: all `envs` must have the same `num_modalities`, got {sizes}."
            )
        self.envs = envs
        self.num_modalities = sizes[0]
        self.num_envs = sum(env.num_envs for env in envs)

    def sample(
        self,
        sample_shape: Sequence[int] = (),
        *,
        mask: Tensor | None = None,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Draw weights from each generator in turn.

        Arguments:
            sample_shape: leading shape of independent samples.
            mask: bool (N, M), True for the modalities that a sample has. It is passed to the
                generators that take one; the rows of the others are the same for all N samples.
            generator: source of the draws; None means the global generator.
            device: device of the result. None means the device of the mask, or the default device
                without a mask.
            dtype: dtype of the result; None means the default dtype.

        Returns:
            (\\*sample_shape, E, M) with rows on the simplex; with a mask
            (\\*sample_shape, N, E, M).

        Raises:
            TypeError: `dtype` is not floating point, or the mask is not a bool tensor.
            ValueError: `sample_shape` is negative, or the mask is not (N, M).
        """
        options = {"generator": generator, "dtype": dtype}
        return self._concatenate("sample", sample_shape, mask, device, options)

    def sample_masks(
        self,
        sample_shape: Sequence[int] = (),
        *,
        mask: Tensor | None = None,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Draw masks from each generator in turn: bool (\\*sample_shape, E, M).

        The arguments are those of `sample`; with a mask the result is (\\*sample_shape, N, E, M).

        Raises:
            TypeError: one of the generators has weights only, or the mask is not a bool tensor.
            ValueError: `sample_shape` is negative, or the mask is not (N, M).
        """
        for env in self.envs:
            check_has_masks("UnionEnvs.sample_masks", env)
        return self._concatenate(
            "sample_masks", sample_shape, mask, device, {"generator": generator}
        )

    def _concatenate(
        self,
        method: str,
        sample_shape: Sequence[int],
        mask: Tensor | None,
        device: torch.device | str | None,
        options: dict[str, Any],
    ) -> Tensor:
        """Call `method` of each generator and concatenate the results."""
        if mask is None:
            parts = [
                getattr(env, method)(sample_shape, device=device, **options) for env in self.envs
            ]
            return torch.cat(parts, dim=-2)
        check_env_mask(f"UnionEnvs.{method}", mask, self.num_modalities)
        options["device"] = mask.device if device is None else device
        parts = []
        for env in self.envs:
            draw = getattr(env, method)
            if takes_mask(draw):
                parts.append(draw(sample_shape, mask=mask, **options))
            else:
                rows = draw(sample_shape, **options)
                # Rows that do not depend on the sample get an axis N by repetition.
                parts.append(rows.unsqueeze(-3).expand(*rows.shape[:-2], mask.shape[0], -1, -1))
        return torch.cat(parts, dim=-2)

    def __repr__(self) -> str:
        return f"UnionEnvs({', '.join(map(repr, self.envs))})"
