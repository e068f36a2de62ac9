"""Checks of the arguments of `PatternKernelRidge`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal, TypeVar

import torch
from torch import Tensor

from invmod._checks import check_choice, check_count, check_integers, check_known, check_tensor
from invmod.regression.kernels import KERNELS, Kernel, KernelName

Auto = Literal["auto"]
Value = TypeVar("Value")
FUNCTION = "PatternKernelRidge"
CURVED: tuple[KernelName, ...] = ("gaussian", "angle")  # The kernels that have a width.
MAX_LANDMARKS = 20_000  # Largest number of landmarks of a modality.
MAX_ROWS = 20_000  # A kernel of this size takes 3.2 GB in float64, and three are held at once.
MAX_CHECKED = 2**24  # Number of entries of features that are checked at once.
# Widths that are compared where the width of a modality is "auto".
WIDTHS = (0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)


def by_modality(
    argument: str, value: Value | Mapping[str, Value], modalities: tuple[str, ...]
) -> dict[str, Value]:
    """Return modality name -> value; one value holds for all, and absent names are an error."""
    if not isinstance(value, Mapping):
        return dict.fromkeys(modalities, value)
    check_known(FUNCTION, argument, value, modalities)
    if absent := [name for name in modalities if name not in value]:
        raise KeyError(f"{FUNCTION}: `{argument}` lacks the modalities {absent}.")
    return {name: value[name] for name in modalities}


def candidate_kernels(
    kernel: KernelName | Auto | Mapping[str, KernelName | Auto],
    width: float | Auto | Mapping[str, float | Auto],
    modalities: tuple[str, ...],
) -> list[list[Kernel]]:
    """Return the kernels of each modality that are compared; a single one is not a choice.

    Raises:
        KeyError: a mapping has an unknown modality, or lacks one.
        ValueError: a kernel is unknown, or a width is not a finite number above 0.
    """
    kernels = by_modality("kernel", kernel, modalities)
    widths = by_modality("width", width, modalities)
    candidates = []
    for name in modalities:
        kind, size = kernels[name], widths[name]
        check_choice(FUNCTION, "kernel", kind, ("auto", *KERNELS))
        sizes = WIDTHS if size == "auto" else (checked_positive(FUNCTION, "width", size),)
        kinds: tuple[KernelName, ...] = ("linear", *CURVED) if kind == "auto" else (kind,)  # type: ignore[assignment]
        candidates.append([Kernel(k, g) for k in kinds for g in (sizes if k in CURVED else (0.0,))])
    return candidates


def checked_positive(function: str, argument: str, value: object) -> float:
    """Return `value` as a float; raise unless it is a finite number above 0."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        # `set_choice` has no "auto".
        auto = " or 'auto'" if function == FUNCTION else ""
        raise TypeError(f"{function}: `{argument}` must be a number{auto}, got {value!r}.")
    if not 0 < value < math.inf:
        raise ValueError(f"{function}: `{argument}` must be finite and above 0, got {value}.")
    return float(value)


def fixed_weights(
    weights: Literal["auto", "equal"] | Mapping[str, float], modalities: tuple[str, ...]
) -> tuple[float, ...] | None:
    """Return the weights (M,) if they are equal or a mapping; None if they are to be chosen.

    Raises:
        KeyError: a modality is unknown or absent.
        ValueError: a weight is negative or not finite, or the weights are all 0.
    """
    if isinstance(weights, str):
        check_choice(FUNCTION, "weights", weights, ("auto", "equal"))
        return (1.0,) * len(modalities) if weights == "equal" else None
    by_name: dict[str, float] = by_modality("weights", weights, modalities)
    return tuple(checked_weights(FUNCTION, by_name, modalities).values())


def checked_weights(
    function: str, weights: Mapping[str, float], modalities: tuple[str, ...]
) -> dict[str, float]:
    """Return modality name -> weight as floats.

    Raises:
        KeyError: a modality is unknown.
        TypeError: `weights` is not a mapping to numbers.
        ValueError: a weight is negative or not finite, or the weights are all 0.
    """
    if not isinstance(weights, Mapping):
        raise TypeError(
            f"{function}: `weights` must be a mapping of modality names to weights, got "
            f"{type(weights).__name__}."
        )
    check_known(function, "weights", weights, modalities)
    values = {name: float(weight) for name, weight in weights.items()}
    if not all(0 <= value < math.inf for value in values.values()) or not any(values.values()):
        raise ValueError(
            f"{function}: `weights` must be finite, not negative and not all 0, got {values}."
        )
    return values


def check_dtype(dtype: torch.dtype) -> None:
    """Raise unless systems of equations can be solved in the dtype."""
    if dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"{FUNCTION}: `dtype` must be torch.float64 or torch.float32, got {dtype}. Features of "
            "any dtype are converted to it."
        )


def check_num_rows(function: str, num_rows: int) -> None:
    """Raise if a kernel of the training rows does not fit in memory."""
    if num_rows > MAX_ROWS:
        raise ValueError(
            f"{function}: a kernel of {num_rows:,} training rows does not fit; at most "
            f"{MAX_ROWS:,} are possible. Approximate it with `landmarks` and `neighbours`, or "
            "choose some of the rows with `rows`."
        )


def checked_approximation(
    landmarks: int | None, neighbours: int | None, probes: int | None
) -> tuple[int | None, int, int | None]:
    """Return the numbers of landmarks, neighbours (0 without them) and probes."""
    if landmarks is not None:
        landmarks = check_count(FUNCTION, "landmarks", landmarks)
        if landmarks > MAX_LANDMARKS:
            raise ValueError(
                f"{FUNCTION}: `landmarks` must be at most {MAX_LANDMARKS:,}, got {landmarks:,}."
            )
    if neighbours is not None and landmarks is None:
        raise ValueError(
            f"{FUNCTION}: `neighbours` needs `landmarks`, got neighbours={neighbours} and "
            "landmarks=None. Give the number of landmarks, such as 1024."
        )
    if probes is not None and neighbours is None:
        raise ValueError(
            f"{FUNCTION}: `probes` needs `neighbours`, got probes={probes} and neighbours=None. "
            "Give the number of neighbours, such as 256."
        )
    return (
        landmarks,
        0 if neighbours is None else check_count(FUNCTION, "neighbours", neighbours),
        None if probes is None else check_count(FUNCTION, "probes", probes),
    )


def check_targets(function: str, targets: Tensor, num_rows: int) -> None:
    """Raise unless the targets are numbers (N,) or (N, r), or classes (N,)."""
    check_tensor(function, "targets", targets)
    if targets.is_complex():
        raise TypeError(f"{function}: `targets` must be real, got {targets.dtype}.")
    classes = not targets.is_floating_point()
    if targets.ndim not in ((1,) if classes else (1, 2)) or targets.shape[0] != num_rows:
        shape = "(N,), since integers and bools are classes," if classes else "(N,) or (N, r)"
        raise ValueError(
            f"{function}: `targets` must have shape {shape} with N = {num_rows}, got "
            f"{tuple(targets.shape)}."
        )


def classes_of(function: str, targets: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the classes (C,) in ascending order; none for floating-point targets.

    Raises:
        ValueError: the dtype, in which the state keeps the classes, cannot tell them apart.
    """
    if targets.is_floating_point():
        return targets[:0].long()
    classes: Tensor = torch.unique(targets).long()
    if not torch.equal(classes.to(dtype).long(), classes):
        raise ValueError(
            f"{function}: `targets` has classes up to {int(classes.abs().max()):,}, which are not "
            f"exact in {dtype}. Number them from 0, for example with `torch.unique(targets, "
            "return_inverse=True)`."
        )
    return classes


def answers(targets: Tensor, classes: Tensor, dtype: torch.dtype) -> Tensor:
    """Return targets as (n, r), and classes as indicators (n, C)."""
    if len(classes):
        return (targets[:, None] == classes).to(dtype)
    return targets.reshape(targets.shape[0], -1).to(dtype)


def check_observed(function: str, name: str, x: Tensor, rows: Tensor, *, needed: bool) -> None:
    """Raise unless the feature of a modality is real and finite in some rows, one if needed."""
    if x.is_complex():
        raise TypeError(f"{function}: the feature of {name!r} must be real, got {x.dtype}.")
    if needed and not len(rows):
        raise ValueError(
            f"{function}: modality {name!r} is observed in none of the training rows, so it cannot "
            "be fitted. Give rows that have it, or leave the modality out."
        )
    blocks = torch.split(rows, max(1, MAX_CHECKED // max(1, x[:1].numel())))
    if x.is_floating_point() and not all(x[block].isfinite().all() for block in blocks):
        raise ValueError(
            f"{function}: modality {name!r} has NaN or an infinity in a row that the mask marks as "
            "observed. Make the mask with `mask_from_features`."
        )


def checked_row_weights(function: str, row_weights: Tensor | None, targets: Tensor) -> Tensor:
    """Return the row weights (N,) in float64, 1 if they are None.

    Raises:
        TypeError: they are not a tensor.
        ValueError: the shape is wrong, or a weight is not finite or not above 0.
    """
    if row_weights is None:
        return torch.ones(len(targets), dtype=torch.float64, device=targets.device)
    check_tensor(function, "row_weights", row_weights)
    if row_weights.shape != (len(targets),):
        raise ValueError(
            f"{function}: `row_weights` must have shape (N,) = ({len(targets)},), got "
            f"{tuple(row_weights.shape)}."
        )
    if not (row_weights.isfinite() & (row_weights > 0)).all():
        raise ValueError(
            f"{function}: `row_weights` must be finite and above 0. Leave rows out with `rows`."
        )
    return row_weights.to(targets.device, torch.float64)


def group_numbers(function: str, groups: Tensor | None, targets: Tensor) -> Tensor | None:
    """Return the group number of each row, int64 (N,), or None."""
    if groups is None:
        return None
    check_integers(function, "groups", groups)
    if groups.shape != (len(targets),):
        raise ValueError(
            f"{function}: `groups` must have shape (N,) = ({len(targets)},), got "
            f"{tuple(groups.shape)}."
        )
    numbers: Tensor = torch.unique(groups.to(targets.device), return_inverse=True)[1]
    return numbers
