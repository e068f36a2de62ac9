"""Conversion between features with missing rows and availability masks."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor

from invmod._checks import check_names
from invmod.missingness.arrays import (
    Array,
    Feature,
    as_tensor,
    available_rows,
    count_rows,
    device_of,
    each_array,
    given_features,
    row_counts,
)
from invmod.missingness.masks import MaskLike, append_axes, mask_columns
from invmod.missingness.sentinels import Fill, IntegerFill, fill_value, integer_fills


def mask_from_features(
    features: Mapping[str, Feature | None],
    modalities: Sequence[str],
    *,
    num_rows: int | None = None,
    integer_fill: IntegerFill = "auto",
) -> Tensor:
    r"""Derive the mask from the features.

    .. math::
        a_{nm} = 0 \Leftrightarrow \text{all entries of } x_{nm} \text{ are NaN, or } -1
        \text{ if they are signed integers}

    where :math:`x_{nm}` is row n of modality m. A row consists of all axes after the first: an
    image (C, H, W) is missing if all of its entries are NaN. Rows of unsigned integers and bools
    have no value that marks them as missing, so they are available unless `integer_fill` names one.

    Arguments:
        features: modality name -> tensor (N, ...), NumPy array (N, ...), mapping key -> tensor or
            array (for example token ids and their attention mask), or None. A row of a mapping is
            missing if it is missing in one of its entries.
        modalities: the M names in the order of the mask's columns. A name that is not in `features`
            is missing in all rows, as is a name with None.
        num_rows: N; needed only if no modality is given at all.
        integer_fill: the value that marks a missing row of integers or bools. ``"auto"``: -1 for
            signed integers, none for unsigned integers and bools. An int, or name -> int for some
            modalities: this value. None: all rows of integers and bools are available.

    Returns:
        bool tensor (N, M), on the device of the features.

    Raises:
        KeyError: `features` or `integer_fill` has a name that is not in `modalities`.
        TypeError: a feature is not of the types above, an array does not contain numbers, or
            `integer_fill` is not of the types above.
        ValueError: a row has some NaN entries but not all, a value is infinite, the modalities
            differ in their number of rows, `num_rows` is negative, or a fill value is out of the
            range of a feature's dtype.

    Example:
        >>> nan = float("nan")
        >>> features = {"text": torch.tensor([[1.0, 2.0], [nan, nan]]), "image": None}
        >>> mask_from_features(features, ["image", "text"])
        tensor([[False,  True],
                [False, False]])
        >>> words = torch.tensor([[7, 2], [-1, -1]])
        >>> mask_from_features({"words": words}, ["words"])
        tensor([[ True],
                [False]])
        >>> mask_from_features({"words": words}, ["words"], integer_fill=None)
        tensor([[True],
                [True]])
    """
    function = "mask_from_features"
    names = check_names(function, modalities)
    fills = integer_fills(function, integer_fill, names)
    given = given_features(function, features, names)
    total = _common_rows(function, row_counts(given), num_rows)
    device = next((device_of(feature) for feature in given.values()), None)
    nothing = torch.zeros(total, dtype=torch.bool, device=device)
    columns = [
        available_rows(function, name, given[name], fills[name]) if name in given else nothing
        for name in names
    ]
    return torch.stack(columns, dim=1)


def _common_rows(function: str, counts: Mapping[str, int], num_rows: int | None) -> int:
    """Return the number of rows that all modalities, and `num_rows` if it is given, agree on."""
    if num_rows is not None:
        if isinstance(num_rows, bool) or not isinstance(num_rows, (int, Integral)):
            raise TypeError(f"{function}: `num_rows` must be an int, got {num_rows!r}.")
        if num_rows < 0:
            raise ValueError(f"{function}: `num_rows` must not be negative, got {num_rows}.")
    rows = [*counts.values(), *(() if num_rows is None else (int(num_rows),))]
    if not rows:
        raise ValueError(
            f"{function}: no modality is given, so the number of rows is unknown. Pass `num_rows`."
        )
    if any(count != rows[0] for count in rows):
        expected = "" if num_rows is None else f" (num_rows={num_rows})"
        raise ValueError(
            f"{function}: modalities must have equal numbers of rows, got {counts}{expected}."
        )
    return int(rows[0])


def hide_features(
    features: Mapping[str, Feature | None],
    mask: MaskLike,
    modalities: Sequence[str],
    *,
    integer_fill: IntegerFill = "auto",
) -> dict[str, Any]:
    r"""Overwrite the features of unavailable cells; this is the inverse of `mask_from_features`.

    .. math::
        x'_{nm} = \begin{cases} x_{nm} & a_{nm} = 1 \\ s_m & a_{nm} = 0 \end{cases}

    where :math:`a_{nm}` is the mask and the sentinel :math:`s_m` is NaN for floating-point and
    complex features, -1 for signed integers, and 0 or False for unsigned integers and bools.

    `mask_from_features` recovers the mask from the result with the same `integer_fill`, except in
    unsigned integers and bools without a fill value, and in available rows that consist of the
    sentinel.

    Arguments:
        features: modality name -> tensor (N, ...), NumPy array (N, ...), mapping key -> tensor or
            array, or None, of any shape after the first axis.
        mask: bool (N, M) or name -> (N,), True for the cells to keep.
        modalities: the M names in the order of the mask's columns.
        integer_fill: the sentinel of integers and bools. ``"auto"``: -1 for signed integers, 0 or
            False for unsigned integers and bools. An int, or name -> int for some modalities: this
            value. None: 0, which is a valid index of every embedding.

    Returns:
        new features as tensors, name -> (N, ...) or name -> key -> (N, ...), for the features that
        are not None; their gradient is 0 in hidden cells.

    Raises:
        KeyError: `features` or `integer_fill` has a name that is not in `modalities`.
        TypeError: a feature is not of the types above, the mask is not bool, or `integer_fill` is
            not of the types above.
        ValueError: shapes do not fit, no modality is given, or a fill value is out of the range of
            a feature's dtype.

    Example:
        >>> features = {"image": torch.ones(2, 1, 1, 2), "words": torch.tensor([[7, 2], [5, 5]])}
        >>> mask = torch.tensor([[True, False], [False, True]])
        >>> hidden = hide_features(features, mask, ["image", "words"])
        >>> hidden["image"].flatten(), hidden["words"]
        (tensor([1., 1., nan, nan]), tensor([[-1, -1],
                [ 5,  5]]))
        >>> torch.equal(mask_from_features(hidden, ["image", "words"]), mask)
        True
    """
    function = "hide_features"
    names = check_names(function, modalities)
    fills = integer_fills(function, integer_fill, names)
    given = given_features(function, features, names)
    columns = mask_columns(function, mask, names, count_rows(function, given))
    hidden: dict[str, Any] = {}
    for name, feature in given.items():
        column, fill = columns[:, names.index(name)], fills[name]
        hide = functools.partial(_hide, function, name, column, fill)
        hidden[name] = each_array(feature, hide)
    return hidden


# Dtypes for which not every version of torch has `where`, and a dtype of the same width.
_SAME_BITS = {
    torch.uint16: torch.int16,
    torch.uint32: torch.int32,
    torch.uint64: torch.int64,
    torch.float8_e4m3fn: torch.uint8,
    torch.float8_e5m2: torch.uint8,
}


def _hide(function: str, name: str, column: Tensor, fill: Fill, x: Array) -> Tensor:
    """Return x (N, ...) with the sentinel in the rows where `column` (N,) is False."""
    if isinstance(x, np.ndarray):
        x = as_tensor(f"{function}: the feature of {name!r}", x)
    sentinel = torch.tensor(
        fill_value(function, name, x.dtype, fill), dtype=x.dtype, device=x.device
    )
    # `where` also cuts the gradient of hidden cells; a product with the mask would keep NaN.
    shown, bits = append_axes(column.to(x.device), x), _SAME_BITS.get(x.dtype)
    if bits is None:
        return torch.where(shown, x, sentinel)
    return torch.where(shown, x.view(bits), sentinel.view(bits)).view(x.dtype)
