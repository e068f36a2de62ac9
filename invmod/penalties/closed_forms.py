"""Derivatives of named losses with respect to a scale of the logits, in closed form."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor

from invmod._checks import check_tensor, has_known_values

# Soft targets, such as those of mixup in half precision, may leave [0, 1] by about this much.
ROUNDING = 1e-2


def bpr_derivatives(d: Tensor) -> Tensor:
    """Return h of margins d."""
    d = _finite(d)
    return -d * torch.sigmoid(-d)


def _finite(z: Tensor) -> Tensor:
    """Replace infinite entries by the largest finite numbers, because infinity times 0 is NaN.

    The products of the closed forms then have their limits. NaN stays NaN, and the replaced entries
    have gradient 0.
    """
    # A finite sum says that there is nothing to replace, for less time than the replacement and its
    # gradient take.
    total = _known_values(z, lambda values: (values.sum(),))
    if total is not None and math.isfinite(total[0]):
        return z
    limit = torch.finfo(z.dtype).max
    return z.clamp(-limit, limit)


def check_ignore_index(function: str, loss: object, ignore_index: int | None) -> None:
    """Raise if targets are to be ignored by a loss that cannot."""
    if ignore_index is not None and (callable(loss) or loss == "bpr"):
        kind = "a callable" if callable(loss) else repr(loss)
        raise ValueError(
            f"{function}: `ignore_index` needs a loss with targets and a closed form, got {kind}. "
            "Select the samples that count before the call, or ignore targets in the callable."
        )


def closed_form(
    function: str, z: Tensor, targets: Tensor | None, loss: str, ignore_index: int | None
) -> tuple[Tensor, Tensor | int]:
    """Return the derivatives h of a named loss, and the number of ignored targets, whose h is 0."""
    if targets is None:
        raise ValueError(f"{function}: loss={loss!r} needs `targets`, got None.")
    check_tensor(function, "targets", targets)
    _check_targets(function, z, targets, loss)
    if ignore_index is None:
        _check_values(function, z, targets, loss)
        return _derivatives(_finite(z), targets, loss), 0
    ignored = targets == ignore_index
    # Replace the ignored logits and targets before the computation: NaN times 0 is NaN, and the
    # index of an ignored class may be out of range.
    z = torch.where(ignored[..., None] if loss == "ce" else ignored, 0.0, z)
    targets = torch.where(ignored, 0, targets)
    _check_values(function, z, targets, loss)
    h = _derivatives(_finite(z), targets, loss)
    return torch.where(ignored, 0.0, h), ignored.sum()


def _derivatives(z: Tensor, targets: Tensor, loss: str) -> Tensor:
    """Return h of checked arguments."""
    if loss == "ce":
        # This is the mean logit under the softmax minus the target's logit.
        mean = (F.softmax(z, dim=-1) * z).sum(dim=-1)
        return mean - z.gather(-1, targets[..., None])[..., 0]
    # By the chain rule, h = z * (derivative of the loss with respect to z), elementwise.
    y = targets.to(z.dtype)
    return z * (torch.sigmoid(z) - y) if loss == "bce" else 2 * z * (z - y)


def _check_targets(function: str, z: Tensor, targets: Tensor, loss: str) -> None:
    if loss != "ce":
        if targets.shape != z.shape:
            raise ValueError(
                f"{function}: with loss={loss!r} `targets` must have the shape of `logits` "
                f"{tuple(z.shape)}, got {tuple(targets.shape)}."
            )
        return
    if z.ndim < 2 or targets.shape != z.shape[:-1]:
        raise ValueError(
            f"{function}: with loss='ce' `logits` must be (n, K) and `targets` (n,), "
            f"got {tuple(z.shape)} and {tuple(targets.shape)}."
        )
    if targets.dtype != torch.int64:
        raise TypeError(
            f"{function}: with loss='ce' `targets` must be classes in int64, got {targets.dtype}."
        )


def _check_values(function: str, z: Tensor, targets: Tensor, loss: str) -> None:
    """Raise if targets that count are no classes or, for "bce", no probabilities."""
    if loss == "ce":
        check_classes(function, targets, z.shape[-1])
    elif loss == "bce":
        low, high = _known_range(targets)
        if low < -ROUNDING or high > 1 + ROUNDING:
            raise ValueError(
                f"{function}: with loss='bce' `targets` must lie in [0, 1], got "
                f"{_outside(low if low < -ROUNDING else high)}."
            )


def check_classes(function: str, targets: Tensor, num_classes: int) -> None:
    """Raise if a target is no class, where its value is known; ignored ones are replaced before."""
    low, high = _known_range(targets)
    if low < 0 or high >= num_classes:
        raise ValueError(
            f"{function}: `targets` must lie in [0, K) = [0, {num_classes}), got "
            f"{_outside(low if low < 0 else high)}."
        )


def _known_range(targets: Tensor) -> tuple[float, float]:
    """Return the smallest and the largest target, or (0, 0) if there is none or it is unknown."""
    known = _known_values(targets, torch.aminmax) if targets.numel() else None
    return (0, 0) if known is None else (known[0], known[1])


def _known_values(
    x: Tensor, statistics: Callable[[Tensor], Iterable[Tensor]]
) -> list[float] | None:
    """Return scalar statistics of `x` as numbers, or None where no branch may depend on them.

    On a GPU, reading them would wait for the device.
    """
    if x.device.type != "cpu" or not has_known_values(x):
        return None
    try:
        return [value.item() for value in statistics(x.detach())]
    except RuntimeError:
        # Under `torch.func.vmap` and in fake tensors single values cannot be read.
        return None


def _outside(value: float) -> str:
    """Return the value that is out of range, with the advice for targets that do not count."""
    return f"{value:g}. Pass `ignore_index={value:g}` if these targets do not count"
