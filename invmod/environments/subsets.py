"""Environments that are subsets of the modalities, as even weights over the subset or as masks."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from numbers import Integral, Real

import torch
from torch import Tensor
from typing_extensions import override

from invmod._checks import check_count
from invmod.environments.protocol import check_env_mask, checked_dtype, checked_shape


def even_weights(masks: Tensor, dtype: torch.dtype) -> Tensor:
    """Return weights (..., M): 1/k on the k modalities of a subset; an empty subset gets 1/M."""
    # An empty subset is replaced by the full one, because weights must lie on the simplex.
    kept = torch.where(masks.any(dim=-1, keepdim=True), masks, True)
    return kept.to(dtype) / kept.sum(dim=-1, keepdim=True).to(dtype)


class _SubsetEnvs(ABC):
    """Base of environments whose weights are computed from masks.

    With the same seed, `sample` and `sample_masks` describe the same subsets.
    """

    num_envs: int
    num_modalities: int

    @abstractmethod
    def _masks(self, shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
        """Draw masks (*shape, E, M) on the CPU."""

    def sample(
        self,
        sample_shape: Sequence[int] = (),
        *,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Draw weights, for models that fuse linearly.

        With the same seed, the weights are spread evenly over the subsets of `sample_masks`.

        Arguments:
            sample_shape: leading shape of independent samples; with ``(N,)`` every sample has its
                own environments.
            generator: source of the draw; None means the global generator.
            device, dtype: device and dtype of the result; None means the defaults of torch.

        Returns:
            (\\*sample_shape, E, M) with rows on the simplex, 1/k on the k modalities of the subset.

        Raises:
            TypeError: `dtype` is not floating point.
            ValueError: `sample_shape` is negative.
        """
        kind = type(self).__name__
        dtype, shape = checked_dtype(kind, dtype), checked_shape(kind, sample_shape)
        return _to_device(even_weights(self._masks(shape, generator), dtype), device)

    def sample_masks(
        self,
        sample_shape: Sequence[int] = (),
        *,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Draw masks, for models that do not fuse linearly.

        Arguments:
            sample_shape: leading shape of independent samples; with ``(N,)`` every sample has its
                own environments.
            generator: source of the draw; None means the global generator.
            device: device of the result; None means the default device.

        Returns:
            bool (\\*sample_shape, E, M), True for the modalities of the subset.

        Raises:
            ValueError: `sample_shape` is negative.
        """
        shape = checked_shape(type(self).__name__, sample_shape, "sample_masks")
        return _to_device(self._masks(shape, generator), device)


class OneHotEnvs(_SubsetEnvs):
    r"""Each modality alone, in E = M environments.

    Environment e has the weights :math:`w_e = (0, \dots, 1, \dots, 0)` with the 1 at m = e.

    Arguments:
        num_modalities: M, at least 1.

    Attributes:
        num_envs: E = M.
        num_modalities: M.

    Raises:
        TypeError, ValueError: `num_modalities` is not an int of at least 1.

    Example:
        >>> OneHotEnvs(2).sample()
        tensor([[1., 0.],
                [0., 1.]])
        >>> OneHotEnvs(2).sample_masks()
        tensor([[ True, False],
                [False,  True]])
    """

    def __init__(self, num_modalities: int) -> None:
        self.num_envs = self.num_modalities = check_count(
            "OneHotEnvs", "num_modalities", num_modalities
        )

    @override
    def _masks(self, shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
        return torch.eye(self.num_modalities, dtype=torch.bool, device="cpu").repeat(*shape, 1, 1)

    def __repr__(self) -> str:
        return f"OneHotEnvs({self.num_modalities})"


class LeaveOneOutEnvs(_SubsetEnvs):
    r"""All modalities except one, in E = M environments.

    Environment e has the weights :math:`w_{em} = 1 / (M - 1)` where :math:`m \neq e`, else 0.

    Arguments:
        num_modalities: M, at least 2, because leaving out the only modality leaves nothing.

    Attributes:
        num_envs: E = M.
        num_modalities: M.

    Raises:
        TypeError, ValueError: `num_modalities` is not an int of at least 2.

    Example:
        >>> LeaveOneOutEnvs(3).sample()
        tensor([[0.0000, 0.5000, 0.5000],
                [0.5000, 0.0000, 0.5000],
                [0.5000, 0.5000, 0.0000]])
    """

    def __init__(self, num_modalities: int) -> None:
        self.num_envs = self.num_modalities = check_count(
            "LeaveOneOutEnvs", "num_modalities", num_modalities
        )
        if num_modalities < 2:
            raise ValueError(
                "LeaveOneOutEnvs: `num_modalities` must be at least 2, or nothing is left, got 1."
            )

    @override
    def _masks(self, shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
        return ~torch.eye(self.num_modalities, dtype=torch.bool, device="cpu").repeat(*shape, 1, 1)

    def __repr__(self) -> str:
        return f"LeaveOneOutEnvs({self.num_modalities})"


class RandomSubsetEnvs(_SubsetEnvs):
    r"""Modality dropout as environments: modalities are missing at random, but never all of them.

    Each environment independently draws a subset a with probability

    .. math::
        P(a) = \frac{\prod_m (1 - r_m)^{a_m} \, r_m^{1 - a_m}}{1 - \prod_m r_m}, \qquad a \neq 0

    where :math:`a_m` is 1 if modality m is available and :math:`r_m` is its missing rate. These are
    independent Bernoulli draws, conditioned on at least one modality being available. The draw is
    exact, without rejection, and uses one uniform number per modality. A modality is missing with
    probability :math:`(r_m - \prod_j r_j) / (1 - \prod_j r_j)`, slightly less than its rate.
    Modalities in `keep` are always available; with at least one of them the condition always holds,
    and the others are unconditional Bernoulli draws.

    Arguments:
        num_modalities: M, at least 1.
        rates: probability in [0, 1] that a modality is missing, before the condition; one number
            or M of them, also as a tensor or an array. Modalities in `keep` have rate 0.
        keep: positions of the modalities that are always available.
        num_envs: E, the number of independent environments in a sample.

    Attributes:
        num_envs: E.
        num_modalities: M.
        rates: the M rates, a tuple.

    Raises:
        TypeError: an argument has a wrong type.
        ValueError: an argument is outside its range, or all rates are 1, so that no modality would
            ever be available.

    References:
        Neverova et al., ModDrop: Adaptive Multi-Modal Gesture Recognition, TPAMI 2016.

    Example:
        >>> envs = RandomSubsetEnvs(3, rates=(0.9, 0.9, 0.0), num_envs=4)
        >>> masks = envs.sample_masks(generator=torch.Generator().manual_seed(0))
        >>> masks.shape, bool(masks[:, 2].all())
        (torch.Size([4, 3]), True)
    """

    def __init__(
        self,
        num_modalities: int,
        *,
        rates: float | Sequence[float] | Tensor = 0.5,
        keep: Sequence[int] = (),
        num_envs: int = 1,
    ) -> None:
        kind = "RandomSubsetEnvs"
        num_modalities = check_count(kind, "num_modalities", num_modalities)
        self.num_modalities, self.num_envs = num_modalities, check_count(kind, "num_envs", num_envs)
        # A tensor or an array becomes a number or a list of Python numbers.
        given = rates.tolist() if hasattr(rates, "tolist") else rates
        rate_list = list(given) if isinstance(given, Sequence) else [given] * num_modalities
        if len(rate_list) != num_modalities:
            raise ValueError(
                f"{kind}: `rates` must be one number or {num_modalities} of them, "
                f"got {len(rate_list)}."
            )
        for rate in rate_list:
            if isinstance(rate, bool) or not isinstance(rate, (int, float, Real)):
                raise TypeError(f"{kind}: `rates` must be numbers, got {rate!r}.")
            if not 0 <= float(rate) <= 1:
                raise ValueError(f"{kind}: `rates` must lie in [0, 1], got {rate}.")
        for position in keep:
            if isinstance(position, bool) or not isinstance(position, (int, Integral)):
                raise TypeError(
                    f"{kind}: `keep` must have positions of modalities, got {position!r}."
                )
            if not 0 <= position < num_modalities:
                raise ValueError(
                    f"{kind}: `keep` must have positions in [0, {num_modalities}), got {position}."
                )
        self.rates = tuple(0.0 if m in keep else float(rate) for m, rate in enumerate(rate_list))
        if all(rate == 1 for rate in self.rates):
            raise ValueError(
                f"{kind}: all `rates` are 1, so no modality would ever be available. Lower one."
            )

    @override
    def _masks(self, shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
        rates = torch.tensor(self.rates, dtype=torch.float64, device="cpu")
        # The condition "not all are missing" is applied modality by modality. It holds as soon as
        # one modality is available, and the rest are plain Bernoulli draws. Before that,
        # P(a_m = 1 | modalities before m are missing) = (1 - r_m) / (1 - r_m r_(m+1) ... r_M),
        # which is 1 for the last modality.
        all_missing_from = rates.flip(0).cumprod(0).flip(0)
        p_first = torch.where(all_missing_from < 1, (1 - rates) / (1 - all_missing_from), 0.0)
        # One uniform number per modality decides both cases, with two different thresholds.
        drawn = _uniform_numbers((*shape, self.num_envs, self.num_modalities), generator)
        mask = drawn >= rates
        is_first = drawn >= 1 - p_first
        none_so_far = torch.ones(mask.shape[:-1], dtype=torch.bool, device="cpu")
        for m in range(self.num_modalities):
            mask[..., m] = torch.where(none_so_far, is_first[..., m], mask[..., m])
            none_so_far &= ~mask[..., m]
        return mask

    def __repr__(self) -> str:
        return (
            f"RandomSubsetEnvs({self.num_modalities}, rates={self.rates}, num_envs={self.num_envs})"
        )


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
        return _to_device(even_weights(masks, dtype), _result_device(device, mask))

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
        return _to_device(
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
        keys = _uniform_numbers((*shape, rows[0], self.num_envs, self.num_modalities), generator)
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


def _uniform_numbers(shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    """Draw uniform numbers in [0, 1) and return them on the CPU.

    They depend on the generator alone, so the result is the same on every device.
    """
    device = "cpu" if generator is None else generator.device
    return torch.rand(shape, generator=generator, device=device, dtype=torch.float64).cpu()


def _to_device(x: Tensor, device: torch.device | str | None) -> Tensor:
    """Move x to `device`, or to the default device where it is None."""
    return x.to(torch.get_default_device() if device is None else device)
