"""Availability masks: which modality of which sample may be used.

A mask is a bool tensor (N, M); True means available. Its columns follow a sequence of modality
names given by the caller, never the order of a dictionary. Every function that takes a mask
together with names also accepts a mapping ``name -> (N,)``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor

MaskLike: TypeAlias = Tensor | Mapping[str, Tensor]

ROWS_AT_ONCE = 65_536  # bounds the temporary memory of passes over a whole feature table


def _check_bool(function: str, mask: Tensor) -> None:
    """Raise unless `mask` is a bool tensor."""
    if not isinstance(mask, Tensor):
        raise TypeError(f"{function}: `mask` must be a tensor, got {type(mask).__name__}.")
    if mask.dtype != torch.bool:
        raise TypeError(
            f"{function}: `mask` must have dtype torch.bool, got {mask.dtype}. "
            "Use `mask.bool()` (True means available)."
        )


def check_any_mask(function: str, mask: Tensor) -> None:
    """Raise unless `mask` is a bool tensor with two axes."""
    _check_bool(function, mask)
    if mask.ndim != 2:
        raise ValueError(f"{function}: `mask` must have shape (N, M), got {tuple(mask.shape)}.")


def check_mask(function: str, mask: Tensor, num_rows: int, num_modalities: int) -> None:
    """Raise unless `mask` is a bool tensor (num_rows, num_modalities)."""
    check_any_mask(function, mask)
    if mask.shape != (num_rows, num_modalities):
        raise ValueError(
            f"{function}: `mask` must have shape (N, M) = ({num_rows}, {num_modalities}), got "
            f"{tuple(mask.shape)}."
        )


def first_column(mask: Any) -> Any:
    """Return the first column of a mapping, None if it is empty, or anything else as it is."""
    if not isinstance(mask, Mapping):
        return mask
    return next(iter(mask.values())) if mask else None


def mask_columns(function: str, mask: MaskLike, modalities: Sequence[str], num_rows: int) -> Tensor:
    """Return `mask`, a tensor or a mapping ``name -> (N,)``, as a checked bool tensor (N, M)."""
    if isinstance(mask, Mapping):
        unknown = [name for name in mask if name not in modalities]
        absent = [name for name in modalities if name not in mask]
        if unknown or absent:
            raise KeyError(
                f"{function}: `mask` must have exactly the modalities {tuple(modalities)}; "
                f"unknown: {unknown}, absent: {absent}."
            )
        columns = [mask[name] for name in modalities]
        for name, column in zip(modalities, columns, strict=True):
            where = f"{function}, modality {name!r}"
            _check_bool(where, column)
            if column.shape != (num_rows,):
                raise ValueError(
                    f"{where}: `mask` must have shape (N,) = ({num_rows},), got "
                    f"{tuple(column.shape)}."
                )
        return torch.stack(columns, dim=1)
    check_mask(function, mask, num_rows, len(modalities))
    return mask


def append_axes(x: Tensor, like: Tensor) -> Tensor:
    """Append axes of length 1 to x (N, ...), so that it broadcasts against `like`."""
    return x.reshape(*x.shape, *(1,) * (like.ndim - x.ndim))


def pattern_codes(mask: Tensor) -> Tensor:
    """Return the pattern of each row of a mask (N, M) as a binary number (N,), lowest digit first.

    Example:
        >>> pattern_codes(torch.tensor([[True, False], [False, True], [True, True]]))
        tensor([1, 2, 3])
    """
    codes = torch.zeros_like(mask[:, 0], dtype=torch.int64)
    # The digits are Python numbers, because programs that AOTInductor of torch 2.13 compiles have
    # wrong powers of an integer tensor.
    for index, column in enumerate(mask.unbind(dim=1)):
        codes = codes + 2**index * column.long()
    return codes


def rows_by_pattern(mask: Tensor) -> dict[tuple[bool, ...], Tensor]:
    """Group rows by their pattern of available modalities.

    Arguments:
        mask: bool (N, M).

    Returns:
        pattern -> int64 row numbers in ascending order, for the patterns that occur. Patterns with
        more modalities come first; among patterns of equal size, those with the earlier modalities
        come first.

    Raises:
        TypeError: the mask is not bool.
        ValueError: the mask is not (N, M) with at least one modality.

    Example:
        >>> rows_by_pattern(torch.tensor([[True, False], [True, True], [True, False]]))
        {(True, True): tensor([1]), (True, False): tensor([0, 2])}
    """
    check_any_mask("rows_by_pattern", mask)
    if mask.shape[1] == 0:
        raise ValueError(
            "rows_by_pattern: `mask` must have shape (N, M) with at least one modality, got "
            f"{tuple(mask.shape)}."
        )
    # `group` (N,) is the index of each row's pattern among the distinct patterns.
    patterns, group = torch.unique(mask, dim=0, return_inverse=True)
    rows = {
        tuple(pattern.tolist()): (group == index).nonzero()[:, 0]
        for index, pattern in enumerate(patterns)
    }
    return dict(sorted(rows.items(), key=lambda item: (sum(item[0]), item[0]), reverse=True))


def pattern_name(pattern: Sequence[bool], modalities: Sequence[str]) -> str:
    """Return the name of a pattern: its modalities joined by "+", or "none".

    Different patterns have different names: a modality whose name has a "+" or a quotation mark, is
    empty or is "none" is quoted.

    Example:
        >>> pattern_name((True, False, True), ["text", "image", "audio"])
        'text+audio'
        >>> pattern_name((False, False), ["text", "image"])
        'none'
        >>> pattern_name((False, False, True), ["a", "b", "a+b"])
        '"a+b"'
    """
    if len(pattern) != len(modalities):
        raise ValueError(
            f"pattern_name: `pattern` has {len(pattern)} entries for {len(modalities)} modalities."
        )
    available = [name for name, has in zip(modalities, pattern, strict=True) if has]
    return "+".join(map(_quoted_if_ambiguous, available)) or "none"


def _quoted_if_ambiguous(name: str) -> str:
    """Return a modality's name, quoted if a joined name with it could mean another pattern."""
    ambiguous = name in ("", "none") or "+" in name or '"' in name
    # JSON's string form escapes quotation marks, so that the joined name can be read in one way.
    return json.dumps(name, ensure_ascii=False) if ambiguous else name
