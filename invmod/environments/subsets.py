"""Environments that are subsets of the modalities: weights spread evenly over a subset, or the subset as a mask."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from numbers import Real

import torch
from torch import Tensor
from typing_extensions import override

from invmod._checks import check_count
from invmod.environments.protocol import checked_dtype, checked_shape


def even_weights(masks: Tensor, dtype: torch.dtype) -> Tensor:
    """Return weights (..., M): 1/k on the k modalities of a subset, 1/M everywhere for an empty one."""
    kept = torch.where(masks.any(dim=-1, keepdim=True), masks, True)
    return kept.to(dtype) / kept.sum(dim=-1, keepdim=True).to(dtype)


class _SubsetEnvs(ABC):
    """Weights follow from masks: one draw gives the same subsets as either."""

    num_envs: int
    num_modalities: int

    @abstractmethod
    def _masks(self, shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
        """Draw masks (*shape, E, M)."""

    def sample(
        self,
        sample_shape: Sequence[int] = (),
        *,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Draw weights, for models that fuse linearly: those of `sample_masks` with the same seed, spread evenly.

        Arguments:
            sample_shape: leading shape of independent samples; ``(N,)`` gives every sample its own environments.
            generator: seeds the draw; the global generator where None.
            device, dtype: of the result; the default device and dtype where None.

        Returns:
            (\\*sample_shape, E, M) with rows on the simplex, 1/k on the k modalities that are there.

        Raises:
            TypeError: `dtype` is not floating point.
            ValueError: `sample_shape` is negative.
        """
        kind = type(self).__name__
        dtype, shape = checked_dtype(kind, dtype), checked_shape(kind, sample_shape)
        return _placed(even_weights(self._masks(shape, generator), dtype), device)

    def sample_masks(
        self,
        sample_shape: Sequence[int] = (),
        *,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Draw masks, for any other model: bool (\\*sample_shape, E, M), True where a modality is there.

        Arguments:
            sample_shape: leading shape of independent samples; ``(N,)`` gives every sample its own environments.
            generator: seeds the draw; the global generator where None.
            device: of the result; the default device where None.

        Raises:
            ValueError: `sample_shape` is negative.
        """
        shape = checked_shape(type(self).__name__, sample_shape, "sample_masks")
        return _placed(self._masks(shape, generator), device)


class OneHotEnvs(_SubsetEnvs):
    r"""Each modality alone: E = M environments, :math:`w_e = (0, \dots, 1, \dots, 0)` with the 1 at m = e.

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
    r"""All modalities but one: E = M environments, :math:`w_{em} = 1 / (M - 1)` where :math:`m \neq e`, else 0.

    Arguments:
        num_modalities: M, at least 2: without its only modality a sample has nothing.

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
                "LeaveOneOutEnvs: `num_modalities` must be at least 2, or nothing is left; got 1."
            )

    @override
    def _masks(self, shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
        return ~torch.eye(self.num_modalities, dtype=torch.bool, device="cpu").repeat(*shape, 1, 1)

    def __repr__(self) -> str:
        return f"LeaveOneOutEnvs({self.num_modalities})"


class RandomSubsetEnvs(_SubsetEnvs):
    r"""Modality dropout as environments: each modality is missing by chance, and never are all.

    With rates :math:`r_m`, and :math:`a_m` = 1 where modality m is there, independently for every environment,

    .. math::
        P(a) = \frac{\prod_m (1 - r_m)^{a_m} \, r_m^{1 - a_m}}{1 - \prod_m r_m}, \qquad a \neq 0

    These are Bernoulli draws on the condition that something is left, drawn exactly, with one uniform number a
    modality. A modality is missing with probability
    :math:`(r_m - \prod_j r_j) / (1 - \prod_j r_j)`, a little less than its rate. Modalities in `keep` are always there;
    with one of those the others are plain Bernoulli draws.

    Arguments:
        num_modalities: M, at least 1.
        rates: how often each is missing, in [0, 1]; one number or M of them. What is in `keep` has rate 0.
        keep: positions of the modalities that are always there.
        num_envs: E, independent environments in a sample.

    Attributes:
        num_envs: E.
        num_modalities: M.
        rates: the M rates, a tuple.

    Raises:
        TypeError: an argument of a wrong type.
        ValueError: an argument outside its range, or all rates are 1: no modality would ever be there.

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
        rates: float | Sequence[float] = 0.5,
        keep: Sequence[int] = (),
        num_envs: int = 1,
    ) -> None:
        kind = "RandomSubsetEnvs"
        self.num_modalities = check_count(kind, "num_modalities", num_modalities)
        self.num_envs = check_count(kind, "num_envs", num_envs)
        given = list(rates) if isinstance(rates, Sequence) else [rates] * num_modalities
        if len(given) != num_modalities:
            raise ValueError(
                f"{kind}: `rates` must be one number or {num_modalities} of them, got {len(given)}."
            )
        for rate in given:
            if isinstance(rate, bool) or not isinstance(rate, (int, float, Real)):
                raise TypeError(f"{kind}: `rates` must be numbers, got {rate!r}.")
            if not 0 <= rate <= 1:
                raise ValueError(f"{kind}: `rates` must lie in [0, 1], got {rate}.")
        for position in keep:
            if isinstance(position, bool) or not isinstance(position, int):
                raise TypeError(
                    f"{kind}: `keep` must have positions of modalities, got {position!r}."
                )
            if not 0 <= position < num_modalities:
                raise ValueError(
                    f"{kind}: `keep` must have positions in [0, {num_modalities}), got {position}."
                )
        self.rates = tuple(0.0 if m in keep else float(rate) for m, rate in enumerate(given))
        if all(rate == 1 for rate in self.rates):
            raise ValueError(
                f"{kind}: all `rates` are 1, so no modality would ever be there. Lower one."
            )

    @override
    def _masks(self, shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
        rates = torch.tensor(self.rates, dtype=torch.float64, device="cpu")
        # P(a_m = 1 | nothing is there before m) = (1 - r_m) / (1 - r_m r_(m+1) ... r_M): 1 for the last.
        missing_from = rates.flip(0).cumprod(0).flip(0)
        first = torch.where(missing_from < 1, (1 - rates) / (1 - missing_from), 0.0)
        drawn = _random((*shape, self.num_envs, self.num_modalities), generator)
        mask = drawn >= rates
        starts = drawn >= 1 - first
        nothing = torch.ones(mask.shape[:-1], dtype=torch.bool, device="cpu")
        for m in range(self.num_modalities):
            mask[..., m] = torch.where(nothing, starts[..., m], mask[..., m])
            nothing &= ~mask[..., m]
        return mask

    def __repr__(self) -> str:
        return (
            f"RandomSubsetEnvs({self.num_modalities}, rates={self.rates}, num_envs={self.num_envs})"
        )


class KOfAvailableEnvs:
    r"""k modalities of those that a sample has: a subset :math:`S_{en}` drawn uniformly for every sample.

    .. math::
        S_{en} \subseteq \{m : a_{nm} = 1\}, \qquad |S_{en}| = \min\Big(k, \sum_m a_{nm}\Big), \qquad
        w_{nem} = \frac{\mathbf 1 [m \in S_{en}]}{|S_{en}|}

    A mask that hides modalities without looking at what a sample has may hide all that is left. This one looks: give
    the data's own mask, and every sample keeps something that it has. Where a sample has fewer than k, it keeps all.
    Where it has nothing, its masks are all False, and its weights, which must lie somewhere on the simplex, are 1/M
    (`invmod.fuse` with the mask gives 0 for it).

    Arguments:
        num_modalities: M, at least 1.
        k: how many are left, in [1, M].
        num_envs: E, independent subsets of each sample.

    Attributes:
        num_envs: E.
        num_modalities: M.
        k: as given.

    Raises:
        TypeError: an argument of a wrong type.
        ValueError: an argument outside its range.

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
        """Draw weights: those of `sample_masks` with the same seed, spread evenly over each subset.

        Arguments:
            sample_shape: leading shape of independent samples.
            mask: bool (N, M), what each sample has; where None, everything.
            generator: seeds the draw; the global generator where None.
            device, dtype: of the result; the mask's device (the default one without a mask) and the default dtype where
                None.

        Returns:
            (\\*sample_shape, N, E, M) with rows on the simplex; (\\*sample_shape, E, M) without a mask.

        Raises:
            TypeError: `dtype` is not floating point, or the mask is not bool.
            ValueError: `sample_shape` is negative, or the mask is not (N, M).
        """
        dtype = checked_dtype("KOfAvailableEnvs", dtype)
        masks = self._masks("sample", sample_shape, mask, generator)
        return _placed(even_weights(masks, dtype), _device(device, mask))

    def sample_masks(
        self,
        sample_shape: Sequence[int] = (),
        *,
        mask: Tensor | None = None,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
    ) -> Tensor:
        """Draw masks: bool (\\*sample_shape, N, E, M), True where a modality is left; without a mask no axis N.

        Arguments and errors are those of `sample`.
        """
        return _placed(
            self._masks("sample_masks", sample_shape, mask, generator), _device(device, mask)
        )

    def _masks(
        self,
        method: str,
        sample_shape: Sequence[int],
        mask: Tensor | None,
        generator: torch.Generator | None,
    ) -> Tensor:
        shape = checked_shape("KOfAvailableEnvs", sample_shape, method)
        rows = (1, self.num_modalities) if mask is None else self._checked(method, mask).shape
        available = torch.ones(rows, dtype=torch.bool, device="cpu") if mask is None else mask.cpu()
        keys = _random((*shape, rows[0], self.num_envs, self.num_modalities), generator)
        keys = torch.where(available[:, None, :], keys, 2.0)  # behind all that are there
        places = keys.argsort(dim=-1).argsort(dim=-1)
        masks = (places < self.k) & available[:, None, :]
        return masks.squeeze(-3) if mask is None else masks

    def _checked(self, method: str, mask: Tensor) -> Tensor:
        where = f"KOfAvailableEnvs.{method}"
        if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
            got = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
            raise TypeError(f"{where}: `mask` must be a bool tensor, got {got}.")
        if mask.ndim != 2 or mask.shape[1] != self.num_modalities:
            raise ValueError(
                f"{where}: `mask` must have shape (N, M) with M = {self.num_modalities}, got {tuple(mask.shape)}."
            )
        return mask

    def __repr__(self) -> str:
        return f"KOfAvailableEnvs({self.num_modalities}, k={self.k}, num_envs={self.num_envs})"


def _device(device: torch.device | str | None, mask: Tensor | None) -> torch.device | str | None:
    return mask.device if device is None and mask is not None else device


def _random(shape: tuple[int, ...], generator: torch.Generator | None) -> Tensor:
    """Uniform numbers in [0, 1) on the CPU, from the given generator: the same for every device of the result."""
    device = "cpu" if generator is None else generator.device
    return torch.rand(shape, generator=generator, device=device, dtype=torch.float64).cpu()


def _placed(x: Tensor, device: torch.device | str | None) -> Tensor:
    return x.to(torch.get_default_device() if device is None else device)
