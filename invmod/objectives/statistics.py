"""Additive statistics: sums over a batch that determine objectives of risks and derivatives.

The statistics of a batch are the sums of the statistics of its micro-batches or ranks.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, distributed

from invmod._checks import (
    check_floating,
    check_integers,
    check_tensor,
    describe_type,
    environment_count,
    has_known_values,
)
from invmod._precision import without_autocast

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
    r"""Sums over the samples of each environment, which are additive over the parts of a batch.

    With losses l, derivatives h and sample weights w (1 if none are given, 0 where the mask is
    False):

    =====================  ===========================================  ======  =================
    entry                  sum over the samples of environment e        shape   present with
    =====================  ===========================================  ======  =================
    ``weight``             :math:`\sum_i w_i`; n_e without weights      (E,)    always
    ``weight_square``      :math:`\sum_i w_i^2`                         (E,)    always
    ``loss``               :math:`\sum_i w_i l_i`                       (E,)    always
    ``loss_square``        :math:`\sum_i w_i^2 l_i^2`                   (E,)    ``paired=False``
    ``loss_product``       :math:`\sum_i w_i^2 l_{ei} l_{fi}`           (E, E)  ``paired=True``
    ``derivative``         :math:`\sum_i w_i h_i`                       (E,)    ``derivatives``
    ``derivative_square``  :math:`\sum_i w_i^2 h_i^2`                   (E,)    ``derivatives``
    ``half_weight``        ``weight`` over the samples of one half      (E,)    ``halves``
    ``half_derivative``    ``derivative`` over the samples of one half  (E,)    ``halves``
    =====================  ===========================================  ======  =================

    The second moments contain squared weights, because unbiased estimates of a squared mean and of
    the variance of a mean need them. All sums are computed in float64, also under autocast, because
    differences of float32 sums lose their digits.

    Every objective of risks or derivatives is a function of this dictionary: use
    `invmod.objectives.risks_from_statistics` for objectives of risks, or
    `invmod.objectives.irm_penalty_from_statistics` and
    `invmod.objectives.vrex_penalty_debiased_from_statistics`.

    Arguments:
        losses: (n,) with `env`, or (E, N) if every environment scores the same N samples.
        env: (n,) integers from 0, the environment of each sample; None with losses (E, N).
        num_envs: E; the largest index plus one if None. Always pass it for parts of a batch, so
            that an environment without samples in a part still has an entry. It is required under
            `torch.compile`.
        derivatives: h in the shape of the losses, of `invmod.penalties.irm_derivatives`.
        halves: bool, in the shape of the losses or (N,): True for the samples in the first half of
            the split estimator. Choose the halves by an independent fair coin per sample, or by the
            parity of the sample's position in the whole batch.
        paired: whether to compute the products between environments; requires losses (E, N).
        mask: bool, True for the samples to include; in the shape of the losses or (N,), with
            `paired` (N,). Masked values, NaN included, change neither a sum nor the gradient with
            respect to the losses. A loss that was computed from NaN still gives the weights of its
            model a gradient of NaN, because its backward pass multiplies the zero by NaN: replace
            missing inputs before the model.
        weights: non-negative, in the same shapes as the mask; 0 is equivalent to a masked sample.
            They are importance weights, not counts: two samples of weight 1 carry more information
            than one sample of weight 2.

    Returns:
        a dictionary of float64 tensors. All sums of an environment without samples, or of an empty
        batch, are 0.

    Raises:
        TypeError: a tensor has a wrong dtype.
        ValueError: shapes do not fit, an index is out of range, a weight is negative or not finite,
            or `halves` is given without `derivatives`. Under `torch.compile`, where a check of
            values cannot raise, such an index or weight makes every ``weight`` NaN. On a GPU these
            checks synchronise with the device.

    Example:
        >>> env = torch.tensor([0, 0, 1])
        >>> s = environment_statistics(torch.tensor([1.0, 3.0, 5.0]), env, num_envs=2)
        >>> s["weight"], s["loss"]
        (tensor([2., 1.], dtype=torch.float64), tensor([4., 5.], dtype=torch.float64))
    """
    # NaN is added to `weight` at the end if an argument is invalid and the check cannot raise.
    rows, counted, nan_if_invalid = _losses_by_environment(losses, env, num_envs)
    if paired and env is not None:
        raise ValueError(f"{_FUNCTION}: paired=True needs losses (E, N) without `env`.")
    allowed = [losses.shape[-1:]] if paired else [losses.shape, losses.shape[-1:]]
    if mask is not None:
        counted = counted & _checked_tensor("mask", mask, allowed, torch.bool)
    w = counted.double()
    if weights is not None:
        w = torch.where(counted, _checked_tensor("weights", weights, allowed, None).double(), 0.0)
        nan_if_invalid = nan_if_invalid + _nan_if_invalid(
            (w >= 0) & w.isfinite(), "weights", "finite and not negative where the mask is True"
        )
    # 0 * NaN is NaN, so excluded losses and derivatives are replaced by 0 before they are weighted.
    keep = counted & (w != 0)
    loss = torch.where(keep, rows, 0.0)
    statistics = {
        "weight": w.sum(dim=1) + nan_if_invalid,
        "weight_square": w.square().sum(dim=1),
        "loss": (w * loss).sum(dim=1),
    }
    if paired:
        # Autocast would compute the matrix product in half precision.
        with without_autocast(losses):
            statistics["loss_product"] = (w * loss) @ (w * loss).T
    else:
        statistics["loss_square"] = (w * loss).square().sum(dim=1)
    if derivatives is None:
        if halves is not None:
            raise ValueError(f"{_FUNCTION}: `halves` needs `derivatives`, but they are None.")
        return statistics
    h = w * torch.where(
        keep, _checked_tensor("derivatives", derivatives, [losses.shape], None).double(), 0.0
    )
    statistics["derivative"] = h.sum(dim=1)
    statistics["derivative_square"] = h.square().sum(dim=1)
    if halves is not None:
        half = _checked_tensor("halves", halves, [losses.shape, losses.shape[-1:]], torch.bool)
        statistics["half_weight"] = (w * half).sum(dim=1)
        statistics["half_derivative"] = (h * half).sum(dim=1)
    return statistics


def merge_statistics(*parts: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Sum the statistics of the parts of a batch.

    Arguments:
        parts: dictionaries of `invmod.objectives.environment_statistics` with the same entries, at
            least one.

    Returns:
        a new dictionary, the statistics of the whole batch.

    Raises:
        TypeError: an entry is not a tensor.
        ValueError: there is no part, or the parts' entries differ in name or shape.

    Example:
        >>> a = environment_statistics(torch.tensor([1.0, 2.0]), torch.tensor([0, 1]), num_envs=2)
        >>> b = environment_statistics(torch.tensor([4.0]), torch.tensor([0]), num_envs=2)
        >>> merge_statistics(a, b)["loss"]
        tensor([5., 2.], dtype=torch.float64)
    """
    for part in parts:
        for name, entry in part.items():
            check_tensor("merge_statistics", name, entry)
    shapes = [{name: tuple(entry.shape) for name, entry in part.items()} for part in parts]
    if not parts or any(shape != shapes[0] for shape in shapes):
        raise ValueError(
            "merge_statistics: needs one or more parts with the same entries and shapes, "
            f"got {shapes}. Pass `num_envs` for every part."
        )
    return {name: torch.stack([part[name] for part in parts]).sum(dim=0) for name in parts[0]}


def all_reduce_statistics(
    statistics: Mapping[str, Tensor], *, group: distributed.ProcessGroup | None = None
) -> dict[str, Tensor]:
    """Sum the statistics of all ranks; every rank receives those of the whole batch.

    The dictionary takes one all-reduce. Every rank must have the same entries in the same order.

    Arguments:
        statistics: of this rank; detached here.
        group: the process group; None is the default group.

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
            "all_reduce_statistics: there is no process group. Call "
            "`torch.distributed.init_process_group` first; on one process the statistics are "
            "already those of the whole batch."
        )
    # One flat tensor needs a single collective call instead of one per entry.
    flat = torch.cat([entry.detach().reshape(-1) for entry in statistics.values()])
    distributed.all_reduce(flat, group=group)
    reduced = torch.split(flat, [entry.numel() for entry in statistics.values()])
    return {
        name: total.view(entry.shape)
        for (name, entry), total in zip(statistics.items(), reduced, strict=True)
    }


def _losses_by_environment(
    losses: Tensor, env: Tensor | None, num_envs: int | None
) -> tuple[Tensor, Tensor, Tensor | float]:
    """Return losses (E, N) in float64, a bool mask (E, N), and 0, or NaN if an index is invalid.

    With `env`, the losses are repeated for each environment, and row e of the mask is True for the
    samples of environment e.
    """
    check_floating(_FUNCTION, "losses", losses)
    if env is None:
        if losses.ndim != 2 or losses.shape[0] == 0 or num_envs not in (None, losses.shape[0]):
            raise ValueError(
                f"{_FUNCTION}: without `env`, `losses` must have shape (E, N) with E >= 1, and E "
                f"must equal `num_envs` if it is given, got {tuple(losses.shape)} and {num_envs}."
            )
        return losses.double(), torch.ones_like(losses, dtype=torch.bool), 0.0
    check_integers(_FUNCTION, "env", env)
    if losses.ndim != 1 or env.shape != losses.shape:
        raise ValueError(
            f"{_FUNCTION}: with `env`, `losses` and `env` must have shape (n,), got losses "
            f"{tuple(losses.shape)} and env {tuple(env.shape)}."
        )
    num_envs = environment_count(_FUNCTION, env, num_envs)
    # Boolean membership (E, n) instead of an index_add, so that an index out of range adds nothing.
    member = env == torch.arange(num_envs, device=env.device)[:, None]
    return (
        losses.double().expand(num_envs, -1),
        member,
        _nan_if_invalid(member.any(dim=0), "env", f"in 0..{num_envs - 1}"),
    )


def _checked_tensor(
    name: str, x: Tensor, shapes: list[torch.Size], dtype: torch.dtype | None
) -> Tensor:
    """Return x; raise unless it has one of `shapes` and `dtype` (floating point if None)."""
    if not isinstance(x, Tensor) or (x.dtype != dtype if dtype else not x.is_floating_point()):
        raise TypeError(
            f"{_FUNCTION}: `{name}` must be a tensor of {dtype or 'floating-point numbers'}, got "
            f"{describe_type(x)}"
        )
    if x.shape not in shapes:
        expected = " or ".join(str(tuple(shape)) for shape in dict.fromkeys(shapes))
        raise ValueError(f"{_FUNCTION}: `{name}` must have shape {expected}, got {tuple(x.shape)}.")
    return x


def _nan_if_invalid(valid: Tensor, name: str, rule: str) -> Tensor | float:
    """Return 0 if `valid` is all True; otherwise raise or, if values are unknown, return NaN."""
    if not has_known_values(valid):
        return torch.where(valid.all(), 0.0, float("nan"))
    if not valid.all():
        raise ValueError(
            f"{_FUNCTION}: `{name}` must be {rule}, but {int((~valid).sum())} entries are not."
        )
    return 0.0
