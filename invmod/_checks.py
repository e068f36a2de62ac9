"""Argument checks shared by several modules of the library.

The message of every error names the public function, the argument, the rule and the value received.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from numbers import Integral

import torch
from torch import Tensor


def has_known_values(x: Tensor) -> bool:
    """Return whether a Python branch may depend on the values of `x`.

    They are unknown on the meta device, and in code that is compiled, exported or traced a branch
    would be fixed to the values of the example input.
    """
    # Asked first, so that compiled code never contains the question about tracing.
    if x.is_meta or torch.compiler.is_compiling():
        return False
    return not torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]


def check_count(function: str, argument: str, count: int) -> int:
    """Return `count` as an int; raise unless it is an int of at least 1."""
    # bool is a subclass of int, so it is excluded explicitly.
    if isinstance(count, bool) or not isinstance(count, (int, Integral)):
        raise TypeError(f"{function}: `{argument}` must be an int, got {count!r}.")
    if count < 1:
        raise ValueError(f"{function}: `{argument}` must be at least 1, got {count}.")
    return int(count)


def check_choice(function: str, argument: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise unless `value` is one of the two or more `choices`."""
    if value not in choices:
        *others, last = map(repr, choices)
        raise ValueError(
            f"{function}: `{argument}` must be {', '.join(others)} or {last}, got {value!r}."
        )


def check_floating(function: str, argument: str, x: Tensor) -> None:
    """Raise unless `x` is a floating-point tensor."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        raise TypeError(
            f"{function}: `{argument}` must be a floating-point tensor, got {describe_type(x)}"
        )


def check_integers(function: str, argument: str, x: Tensor) -> None:
    """Raise unless `x` is a tensor of integers; bool does not count as one."""
    if (
        not isinstance(x, Tensor)
        or x.is_floating_point()
        or x.is_complex()
        or x.dtype == torch.bool
    ):
        raise TypeError(
            f"{function}: `{argument}` must be a tensor of integers, got {describe_type(x)}"
        )


def check_tensor(function: str, argument: str, x: object) -> None:
    """Raise unless `x` is a tensor."""
    if not isinstance(x, Tensor):
        raise TypeError(f"{function}: `{argument}` must be a tensor, got {describe_type(x)}")


def describe_type(x: object) -> str:
    """Return the end of an error message: the dtype or type of x, and how to convert an array."""
    if isinstance(x, Tensor):
        return f"{x.dtype}."
    # Lists and arrays are not converted silently, because a converted copy has no gradient.
    advice = " Convert it with `torch.as_tensor(...)`." if hasattr(x, "__len__") else ""
    return f"{type(x).__name__}.{advice}"


def values_are_known(x: Tensor) -> bool:
    """Return whether a check may read the values of x.

    It may not while a graph is compiled or exported, nor on the meta device, which has no values.
    """
    return not torch.compiler.is_compiling() and not x.is_meta


def check_feature(function: str, name: str, x: object) -> None:
    """Raise unless the feature of the modality `name` is a tensor (N, ...)."""
    if not isinstance(x, Tensor):
        raise TypeError(
            f"{function}: the feature of {name!r} must be a tensor, got {type(x).__name__}."
        )
    if x.ndim == 0:
        raise ValueError(
            f"{function}: the feature of {name!r} must have shape (N, ...), got a scalar."
        )


def check_z(function: str, z: Tensor, *, ndim: int | None = None) -> None:
    """Raise unless `z` is floating point, of shape (N, M, ...) with at least one modality.

    With ``ndim=3`` the shape must be (N, M, D).
    """
    check_floating(function, "z", z)
    if (z.ndim < 2 if ndim is None else z.ndim != ndim) or z.shape[1] == 0:
        shape = "(N, M, ...)" if ndim is None else "(N, M, D)"
        raise ValueError(
            f"{function}: `z` must have shape {shape} with at least one modality, got "
            f"{tuple(z.shape)}."
        )


def check_risks(function: str, risks: Tensor) -> None:
    """Raise unless `risks` is a floating-point vector (E,) with at least one environment."""
    check_floating(function, "risks", risks)
    if risks.ndim != 1 or risks.shape[0] == 0:
        raise ValueError(
            f"{function}: `risks` must have shape (E,), one risk per environment and at least one, "
            f"got {tuple(risks.shape)}."
        )


def environment_count(function: str, env: Tensor, num_envs: int | None) -> int:
    """Return the number of environments E for an environment index `env` (n,).

    This is `num_envs`, or the largest index plus one if `num_envs` is None.
    """
    if num_envs is not None:
        return check_count(function, "num_envs", num_envs)
    if env.is_meta:
        raise ValueError(
            f"{function}: `env` is on the meta device and has no values to count. Pass `num_envs`."
        )
    num_envs = int(env.max()) + 1 if env.shape[0] else 0
    if num_envs < 1:
        raise ValueError(
            f"{function}: needs an environment, got {env.shape[0]} samples. Pass "
            "`num_envs` if they may be absent."
        )
    return num_envs


def check_names(function: str, modalities: Sequence[str]) -> tuple[str, ...]:
    """Return the modality names as a tuple; raise unless they are one or more distinct strings."""
    # A string is a sequence of its characters, so it would pass all of the following checks.
    if isinstance(modalities, str):
        raise TypeError(
            f"{function}: `modalities` must be a sequence of names, got the string {modalities!r}. "
            f"Use `[{modalities!r}]` for one modality."
        )
    names = tuple(modalities)
    if not names:
        raise ValueError(f"{function}: `modalities` must name at least one modality, got none.")
    for name in names:
        if not isinstance(name, str):
            raise TypeError(f"{function}: modality names must be strings, got {name!r}.")
    if len(set(names)) != len(names):
        raise ValueError(f"{function}: modality names must be distinct, got {names}.")
    return names


def check_known(
    function: str, argument: str, given: Iterable[str], modalities: tuple[str, ...]
) -> None:
    """Raise unless every name in `given` is one of `modalities`."""
    unknown = [name for name in given if name not in modalities]
    if unknown:
        raise KeyError(
            f"{function}: `{argument}` has modalities {unknown} that are not among {modalities}. "
            f"Add them to `modalities` or leave them out of `{argument}`."
        )


def checked_rows(function: str, rows: Tensor | None, num_rows: int, device: torch.device) -> Tensor:
    """Return the row numbers as int64 on `device`, after checking type, range and distinctness."""
    if rows is None:
        return torch.arange(num_rows, device=device)
    if not isinstance(rows, Tensor):
        raise TypeError(
            f"{function}: `rows` must be row numbers, an int64 tensor of shape (n,), got "
            f"{type(rows).__name__}."
        )
    if rows.dtype != torch.int64 or rows.ndim != 1:
        raise TypeError(
            f"{function}: `rows` must be row numbers, int64 of shape (n,), "
            f"got {rows.dtype} of shape {tuple(rows.shape)}."
        )
    if not has_known_values(rows):
        return rows.to(device)
    if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < num_rows:
        raise ValueError(
            f"{function}: `rows` must lie in [0, {num_rows}), got values from {int(rows.min())} "
            f"to {int(rows.max())}."
        )
    if len(torch.unique(rows)) != len(rows):
        raise ValueError(f"{function}: `rows` must be distinct, got some twice.")
    return rows.to(device)
