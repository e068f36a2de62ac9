"""The few sums over a batch that risk- and derivative-based objectives are made of. They add up over its parts."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, distributed

from invmod._checks import check_floating, check_integers, environment_count

_FUNCTION = "environment_statistics"


def environment_statistics(
    losses: Tensor,
    env: Tensor | None = None,
    *,
    num_envs: int | None = None,
    derivatives: Tensor | None = None,
    halves: Tensor | None = None,
    paired: bool = False,
    mask: Tensor | None = None,
    weights: Tensor | None = None,
) -> dict[str, Tensor]:
    r"""Sums over the samples of each environment: a dictionary that adds up over the parts of a batch.

    With losses l, derivatives h and sample weights w (1 where none are given, 0 where the mask is False):

    =======================  =====================================================  ========  ======================
    entry                    sum over the samples of e                              shape     there with
    =======================  =====================================================  ========  ======================
    ``weight``               :math:`\sum_i w_i`, the count n_e without weights      (E,)      always
    ``weight_square``        :math:`\sum_i w_i^2`                                   (E,)      always
    ``loss``                 :math:`\sum_i w_i l_i`                                 (E,)      always
    ``loss_square``          :math:`\sum_i w_i^2 l_i^2`                             (E,)      not ``paired``
    ``loss_product``         :math:`\sum_i w_i^2 l_{ei} l_{fi}`                     (E, E)    ``paired``
    ``derivative``           :math:`\sum_i w_i h_i`                                 (E,)      ``derivatives``
    ``derivative_square``    :math:`\sum_i w_i^2 h_i^2`                             (E,)      ``derivatives``
    ``half_weight``          ``weight`` over the samples of one half                (E,)      ``halves``
    ``half_derivative``      ``derivative`` over the samples of one half            (E,)      ``halves``
    =======================  =====================================================  ========  ======================

    The second moments carry squared weights, because that is what unbiased estimates of a squared mean and of the noise
    of a mean need. All sums are in float64, autocast or not: in float32 their differences cancel.

    Every risk- and derivative-based objective is a function of this dictionary: `invmod.risks_from_statistics` and what
    takes risks, `invmod.irm_penalty_from_statistics`, `invmod.vrex_penalty_debiased_from_statistics`.

    Arguments:
        losses: (n,) with `env`, or (E, N) where every environment scores the same N samples.
        env: (n,) integers from 0, the environment of each sample; None with losses (E, N).
        num_envs: E; one more than the largest index where None. Give it: an environment that a part of a batch lacks
            keeps its place, and under `torch.compile` it must be given.
        derivatives: h in the shape of the losses, of `invmod.irm_derivatives`.
        halves: bool, in the shape of the losses or (N,): which samples are in the first half of the split estimator. An
            independent coin for each sample, or its position in the whole batch being even.
        paired: whether to keep the products between environments; with losses (E, N).
        mask: bool, True where a sample counts; in the shape of the losses or (N,), with `paired` (N,). What lies
            elsewhere, NaN included, changes neither a sum nor a gradient.
        weights: not negative, in the same shapes as the mask; 0 is as good as masked. They are importances, not
            counts: two samples of weight 1 are worth more than one of weight 2.

    Returns:
        a dictionary of float64 tensors. An environment without samples has sums of 0, and so has an empty batch.

    Raises:
        TypeError: a tensor has a wrong dtype.
        ValueError: shapes do not fit, an index is out of range, a weight is negative or not finite, or `halves` is
            given without `derivatives`. Under `torch.compile`, where values cannot raise, such an index or weight makes
            every ``weight`` NaN. On a GPU these checks wait for the device.

    Example:
        >>> s = environment_statistics(torch.tensor([1.0, 3.0, 5.0]), torch.tensor([0, 0, 1]), num_envs=2)
        >>> s["weight"], s["loss"]
        (tensor([2., 1.], dtype=torch.float64), tensor([4., 5.], dtype=torch.float64))
    """
    rows, counted, flaw = _rows(losses, env, num_envs)
    if paired and env is not None:
        raise ValueError(f"{_FUNCTION}: with paired=True give losses (E, N) without `env`.")
    allowed = [losses.shape[-1:]] if paired else [losses.shape, losses.shape[-1:]]
    if mask is not None:
        counted = counted & _like("mask", mask, allowed, torch.bool)
    w = counted.double()
    if weights is not None:
        w = torch.where(counted, _like("weights", weights, allowed, None).double(), 0.0)
        flaw = flaw + _flaw(
            (w >= 0) & w.isfinite(), "weights", "finite and not negative where the mask is True"
        )
    keep = counted & (w != 0)
    loss = torch.where(keep, rows, 0.0)
    statistics = {
        "weight": w.sum(dim=1) + flaw,
        "weight_square": w.square().sum(dim=1),
        "loss": (w * loss).sum(dim=1),
    }
    if paired:
        with torch.autocast(device_type=losses.device.type, enabled=False):
            statistics["loss_product"] = (w * loss) @ (w * loss).T
    else:
        statistics["loss_square"] = (w * loss).square().sum(dim=1)
    if derivatives is None:
        if halves is not None:
            raise ValueError(f"{_FUNCTION}: `halves` split the `derivatives`, which are None.")
        return statistics
    h = w * torch.where(keep, _like("derivatives", derivatives, [losses.shape], None).double(), 0.0)
    statistics |= {"derivative": h.sum(dim=1), "derivative_square": h.square().sum(dim=1)}
    if halves is not None:
        half = _like("halves", halves, [losses.shape, losses.shape[-1:]], torch.bool)
        statistics |= {
            "half_weight": (w * half).sum(dim=1),
            "half_derivative": (h * half).sum(dim=1),
        }
    return statistics


def merge_statistics(*parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Add up the statistics of the parts of a batch: those of the whole.

    Arguments:
        parts: dictionaries of `invmod.environment_statistics` with the same entries, at least one.

    Returns:
        a new dictionary.

    Raises:
        ValueError: no part, or parts whose entries differ in name or shape.

    Example:
        >>> a = environment_statistics(torch.tensor([1.0, 2.0]), torch.tensor([0, 1]), num_envs=2)
        >>> b = environment_statistics(torch.tensor([4.0]), torch.tensor([0]), num_envs=2)  # without environment 1
        >>> merge_statistics(a, b)["loss"]
        tensor([5., 2.], dtype=torch.float64)
    """
    shapes = [{name: tuple(entry.shape) for name, entry in part.items()} for part in parts]
    if not parts or any(shape != shapes[0] for shape in shapes):
        raise ValueError(
            "merge_statistics: needs one or more parts of the same entries and shapes, "
            f"got {shapes}. Give `num_envs` to every part."
        )
    return {name: torch.stack([part[name] for part in parts]).sum(dim=0) for name in parts[0]}


def all_reduce_statistics(
    statistics: Mapping[str, Tensor], *, group: distributed.ProcessGroup | None = None
) -> dict[str, Tensor]:
    """Add up the statistics of all ranks: those of the whole batch, on every rank.

    One all-reduce for the whole dictionary. Every rank needs the same entries in the same order.

    Arguments:
        statistics: of this rank; detached here.
        group: the process group; the default one where None.

    Returns:
        a new dictionary, detached, the same on every rank.

    Raises:
        ValueError: there is no entry.
        RuntimeError: there is no process group.

    Example:
        >>> statistics = environment_statistics(torch.tensor([[1.0, 3.0]]))
        >>> if torch.distributed.is_initialized():
        ...     statistics = all_reduce_statistics(statistics)
        >>> statistics["loss"]
        tensor([4.], dtype=torch.float64)
    """
    if not statistics:
        raise ValueError("all_reduce_statistics: `statistics` has no entry.")
    if not (distributed.is_available() and distributed.is_initialized()):
        raise RuntimeError(
            "all_reduce_statistics: there is no process group. Call `torch.distributed.init_process_group` first; on "
            "one process the statistics are already those of the whole batch."
        )
    flat = torch.cat([entry.detach().reshape(-1) for entry in statistics.values()])
    distributed.all_reduce(flat, group=group)
    pieces = torch.split(flat, [entry.numel() for entry in statistics.values()])
    return {
        name: piece.view(entry.shape)
        for (name, entry), piece in zip(statistics.items(), pieces, strict=True)
    }


def _rows(
    losses: Tensor, env: Tensor | None, num_envs: int | None
) -> tuple[Tensor, Tensor, Tensor | float]:
    """Return losses (E, N) in float64 and which of them count: with an index, row e counts the samples of e."""
    check_floating(_FUNCTION, "losses", losses)
    if env is None:
        if losses.ndim != 2 or losses.shape[0] == 0 or num_envs not in (None, losses.shape[0]):
            raise ValueError(
                f"{_FUNCTION}: without `env`, `losses` must have shape (E, N) with E >= 1, and E = `num_envs` where "
                f"that is given, got {tuple(losses.shape)} and {num_envs}."
            )
        return losses.double(), torch.ones_like(losses, dtype=torch.bool), 0.0
    check_integers(_FUNCTION, "env", env)
    if losses.ndim != 1 or env.shape != losses.shape:
        raise ValueError(
            f"{_FUNCTION}: with `env` both must have shape (n,), got losses {tuple(losses.shape)} and env "
            f"{tuple(env.shape)}."
        )
    num_envs = environment_count(_FUNCTION, env, num_envs)
    member = env == torch.arange(num_envs, device=env.device)[:, None]
    return (
        losses.double().expand(num_envs, -1),
        member,
        _flaw(member.any(dim=0), "env", f"in 0..{num_envs - 1}"),
    )


def _like(name: str, x: Tensor, shapes: list[torch.Size], dtype: torch.dtype | None) -> Tensor:
    """Return x; raise unless it has one of the shapes, and the dtype or any floating-point one."""
    if not isinstance(x, Tensor) or (x.dtype != dtype if dtype else not x.is_floating_point()):
        what = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise TypeError(
            f"{_FUNCTION}: `{name}` must be a tensor of {dtype or 'floating-point numbers'}, got {what}."
        )
    if x.shape not in shapes:
        expected = " or ".join(str(tuple(shape)) for shape in dict.fromkeys(shapes))
        raise ValueError(f"{_FUNCTION}: `{name}` must have shape {expected}, got {tuple(x.shape)}.")
    return x


def _flaw(right: Tensor, name: str, rule: str) -> Tensor | float:
    """Raise unless `right` is True everywhere; under `torch.compile` return NaN in that case. Else 0."""
    if torch.compiler.is_compiling():
        return torch.where(right.all(), 0.0, float("nan"))
    if not right.all():
        raise ValueError(
            f"{_FUNCTION}: `{name}` must be {rule}, but {int((~right).sum())} entries are not."
        )
    return 0.0
