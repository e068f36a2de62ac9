"""Environments that are drawn from the modalities that each sample has."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from invmod._checks import check_count
from invmod.environments.protocol import check_env_mask, checked_dtype, checked_shape
from invmod.environments.subsets import even_weights, to_device, uniform_numbers


class KOfAvailableEnvs:
    r"""k of the modalities that a sample has: a subset drawn uniformly for every sample.

    .. math::
        S_{en} \subseteq \{m : a_{nm} = 1\}, \qquad
        |S_{en}| = \min\Big(k, \sum_m a_{nm}\Big), \qquad
        w_{nem} = \frac{\mathbf 1 [m \in S_{en}]}{|S_{en}|}

    where :math:`S_{en}` is the subset of sample n in environment e, :math:`a_{nm}` is 1 if sample n
    has modality m, and :math:`w_{nem}` are the fusion weights.

    Environments that ignore the missing modalities of a sample may hide everything that it has.
    This class takes the mask of the data, so that every sample keeps at least one modality that it
    has. A sample with fewer than k modalities keeps all of them. For a sample without any modality
    the masks are all False; its weights must lie on the simplex and are 1/M (`invmod.fuse` with
    the mask returns 0 for it).

    Arguments:
        num_modalities: M, at least 1.
        k: number of modalities to keep, in [1, M].
        num_envs: E, the number of independent subsets of each sample.

    Attributes:
        num_envs: E.
        num_modalities: M.
        k: the argument `k`.

    Raises:
        TypeError: an argument has a wrong type.
        ValueError: an argument is outside its range.

    Example:
        >>> mask = torch.tensor([[True, True, True], [False, True, False]])
        >>> masks = KOfAvailableEnvs(3, k=2, num_envs=4).sample_masks(mask=mask)  # (N, E, M)
        >>> masks.sum(dim=-1)
        tensor([[2, 2, 2, 2],
                [1, 1, 1, 1]])
    """

    def __init__(self, num_modalities: int, *, k: int, num_envs: int = 1) -> None:
        kind = "KOfAvailableEnvs"
        self.num_modalities = check_count(kind, "num_modalities", num_modalities)
        self.k = check_count(kind, "k", k)
        self.num_envs = check_count(kind, "num_envs", num_envs)
        if k > num_modalities:
            raise ValueError(
                f"{kind}: `k` must be at most `num_modalities` = {num_modalities}, got {k}."
            )

    def sample(
        self,
        sample_shape: Sequence[int] = (),
        *,
        mask: Tensor | None = None,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Draw weights that are spread evenly over the subsets.

        With the same seed the subsets are those of `sample_masks`.

        Arguments:
            sample_shape: leading shape of independent samples.
            mask: bool (N, M), True for the modalities that a sample has. None means all.
            generator: source of the draw; None means the global generator.
            device: device of the result. None means the device of the mask, or the default device
                without a mask.
            dtype: dtype of the result; None means the default dtype.

        Returns:
            (\\*sample_shape, N, E, M) with rows on the simplex; without a mask
            (\\*sample_shape, E, M).

        Raises:
            TypeError: `dtype` is not floating point, or the mask is not bool.
            ValueError: `sample_shape` is negative, or the mask is not (N, M).
        """
        dtype = checked_dtype("KOfAvailableEnvs", dtype)
        masks = self._masks("sample", sample_shape, mask, generator)
        return to_device(even_weights(masks, dtype), _result_device(device, mask))

    def sample_masks(
        self,
        sample_shape: Sequence[int] = (),
        *,
        mask: Tensor | None = None,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Draw masks: bool (\\*sample_shape, N, E, M), True for the modalities that are kept.

        Without `mask` the result has no axis N. Arguments and errors are those of `sample`.
        """
        return to_device(
            self._masks("sample_masks", sample_shape, mask, generator), _result_device(device, mask)
        )

    def _masks(
        self,
        method: str,
        sample_shape: Sequence[int],
        mask: Tensor | None,
        generator: torch.Generator | None,
    ) -> Tensor:
        shape = checked_shape("KOfAvailableEnvs", sample_shape, method)
        if mask is not None:
            check_env_mask(f"KOfAvailableEnvs.{method}", mask, self.num_modalities)
        rows = (1, self.num_modalities) if mask is None else tuple(mask.shape)
        available = torch.ones(rows, dtype=torch.bool, device="cpu") if mask is None else mask.cpu()
        # A uniform subset of size k: give every modality a random key and keep the k smallest. Keys
        # lie in [0, 1), so a key of 2 sorts unavailable modalities last.
        keys = uniform_numbers((*shape, rows[0], self.num_envs, self.num_modalities), generator)
        keys = torch.where(available[:, None, :], keys, 2.0)
        # The second argsort inverts the sorting permutation and gives the rank of each key.
        ranks = keys.argsort(dim=-1).argsort(dim=-1)
        masks = (ranks < self.k) & available[:, None, :]
        # Without a mask one sample stands for all, and its axis is removed again.
        return masks.squeeze(-3) if mask is None else masks

    def __repr__(self) -> str:
        return f"KOfAvailableEnvs({self.num_modalities}, k={self.k}, num_envs={self.num_envs})"


def _result_device(
    device: torch.device | str | None, mask: Tensor | None
) -> torch.device | str | None:
    """Return `device`; if it is None, return the device of the mask, or None without a mask."""
    return mask.device if device is None and mask is not None else device
