"""Conversion between features with missing rows and availability masks."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from numbers import Integral

import torch
from torch import Tensor

from invmod._checks import check_known, check_names
from invmod.missingness.masks import ROWS_AT_ONCE, MaskLike, append_axes, mask_columns

ENTRIES_AT_ONCE = 2**26  # bounds the temporary memory for long rows, such as images


def mask_from_features(
    features: Mapping[str, Tensor | None],
    modalities: Sequence[str],
    *,
    num_rows: int | None = None,
    integer_fill: int | Mapping[str, int] | None = None,
) -> Tensor:
    """Derive the mask from the features: a row of NaN, a None or an absent name means missing.

    A row consists of all axes after the first: an image (C, H, W) is missing if all of its entries
    are NaN. Integers (token ids, 8-bit images) have no NaN. All their rows are available, unless
    `integer_fill` is given: then a row whose entries all equal `integer_fill` is missing.

    Arguments:
        features: modality name -> tensor (N, ...) or None.
        modalities: the M names in the order of the mask's columns. A name that is not in `features`
            is missing in all rows.
        num_rows: N; needed only if no modality is given at all.
        integer_fill: the fill value of missing rows of integers, or name -> value for the
            modalities that have a fill value. Choose a value that never fills an available row,
            such as -1 for token ids.

    Returns:
        bool tensor (N, M), on the device of the features.

    Raises:
        KeyError: `features` or `integer_fill` has a name that is not in `modalities`.
        TypeError: a feature is neither a tensor (N, ...) nor None, or a fill value is not an int.
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
        >>> mask_from_features({"words": words}, ["words"], integer_fill=-1)
        tensor([[ True],
                [False]])
    """
    function = "mask_from_features"
    names = check_names(function, modalities)
    fills = integer_fills(function, integer_fill, names)
    if num_rows is not None and num_rows < 0:
        raise ValueError(f"{function}: `num_rows` must not be negative, got {num_rows}.")
    given = given_features(function, features, names)
    counts = {name: values.shape[0] for name, values in given.items()}
    # All modalities, and `num_rows` if it is given, must state the same number of rows.
    rows = set(counts.values()) | (set() if num_rows is None else {num_rows})
    if not rows:
        raise ValueError(
            f"{function}: no modality is given, so the number of rows is unknown. Pass `num_rows`."
        )
    if len(rows) > 1:
        expected = "" if num_rows is None else f" (num_rows={num_rows})"
        raise ValueError(
            f"{function}: modalities must have equal numbers of rows, got {counts}{expected}."
        )
    (total,) = rows
    device = next((values.device for values in given.values()), None)
    nothing = torch.zeros(total, dtype=torch.bool, device=device)
    columns = [
        given_rows(function, name, given[name], fills.get(name)) if name in given else nothing
        for name in names
    ]
    return torch.stack(columns, dim=1)


def given_features(
    function: str, features: Mapping[str, Tensor | None], names: tuple[str, ...]
) -> dict[str, Tensor]:
    """Return the features that are not None; raise unless each is a tensor with a known name."""
    check_known(function, "features", features, names)
    given = {name: values for name, values in features.items() if values is not None}
    for name, values in given.items():
        if not isinstance(values, Tensor) or values.ndim == 0:
            got = "a scalar" if isinstance(values, Tensor) else type(values).__name__
            raise TypeError(
                f"{function}: the feature of {name!r} must be a tensor (N, ...) or None, got {got}."
            )
    return given


def integer_fills(
    function: str, integer_fill: int | Mapping[str, int] | None, names: tuple[str, ...]
) -> dict[str, int]:
    """Return name -> fill value for the modalities that have one."""
    if integer_fill is None:
        return {}
    if not isinstance(integer_fill, Mapping):
        integer_fill = dict.fromkeys(names, integer_fill)
    check_known(function, "integer_fill", integer_fill, names)
    for value in integer_fill.values():
        if isinstance(value, bool) or not isinstance(value, (int, Integral)):
            raise TypeError(
                f"{function}: `integer_fill` must be an int or name -> int, got {value!r}."
            )
    return {name: int(value) for name, value in integer_fill.items()}


def given_rows(function: str, name: str, values: Tensor, fill: int | None = None) -> Tensor:
    """Return bool (N,), False for a row whose entries are all NaN or, for integers, all `fill`."""
    if not (values.is_floating_point() or values.is_complex()):
        # Without a fill value, or without entries, no integer row can be recognised as missing.
        if fill is None or 0 in values.shape:
            return torch.ones(values.shape[0], dtype=torch.bool, device=values.device)
        fill_value(function, name, values.dtype, fill)
        return torch.cat([(block != fill).any(1) for block in _blocks(values)])
    given: list[Tensor] = []
    start = 0
    for block in _blocks(values):
        nan = block.isnan()
        some, every = nan.any(1), nan.all(1)
        for wrong, what, hint in (
            (block.isinf().any(1), "an infinity", "Clip or drop it first."),
            (
                some & ~every,
                "NaN in part of a row",
                "A missing modality is a whole row of NaN; impute single values first.",
            ),
        ):
            if wrong.any():
                row = start + int(wrong.nonzero()[0])
                raise ValueError(
                    f"{function}: modality {name!r} has {what}, first in row {row}. {hint}"
                )
        # Now `some` and `every` differ only on rows without entries, which are available: there
        # `some` is False, but `every` is True.
        given.append(~some)
        start += len(block)
    return torch.cat(given) if given else torch.zeros(0, dtype=torch.bool, device=values.device)


def _blocks(values: Tensor) -> Iterator[Tensor]:
    """Yield values (N, ...) as blocks (n, entries of a row) of bounded size."""
    entries = math.prod(values.shape[1:])
    at_once = min(ROWS_AT_ONCE, max(1, ENTRIES_AT_ONCE // max(entries, 1)))
    for start in range(0, values.shape[0], at_once):
        block = values[start : start + at_once]
        yield block.reshape(len(block), entries)


def hide_features(
    features: Mapping[str, Tensor | None],
    mask: MaskLike,
    modalities: Sequence[str],
    *,
    integer_fill: int | Mapping[str, int] = 0,
) -> dict[str, Tensor]:
    r"""Overwrite the features of unavailable cells; this is the inverse of `mask_from_features`.

    .. math::
        x'_{nm} = \begin{cases} x_{nm} & a_{nm} = 1 \\ \mathrm{NaN} & a_{nm} = 0 \end{cases}

    where :math:`a_{nm}` is the mask. Features that are not floating-point receive `integer_fill`
    instead of NaN.

    Arguments:
        features: modality name -> tensor (N, ...) or None, of any shape after the first axis.
        mask: bool (N, M) or name -> (N,), True for the cells to keep.
        modalities: the M names in the order of the mask's columns.
        integer_fill: fill value of hidden rows of integer and bool features, or name -> value,
            where a name that is not in the mapping has the fill value 0. The default 0 is a valid
            index of every embedding; -1 can be distinguished from token ids afterwards.

    Returns:
        new features, name -> (N, ...), for the features that are not None; their gradient is 0 in
        hidden cells.

    Raises:
        KeyError: `features` or `integer_fill` has a name that is not in `modalities`.
        TypeError: a feature is neither a tensor (N, ...) nor None, the mask is not bool, or a fill
            value is not an int.
        ValueError: shapes do not fit, no modality is given, or a fill value is out of the range of
            a feature's dtype.

    Example:
        >>> features = {"image": torch.ones(2, 1, 1, 2), "words": torch.tensor([[7, 2], [5, 5]])}
        >>> mask = torch.tensor([[True, False], [False, True]])
        >>> hidden = hide_features(features, mask, ["image", "words"], integer_fill=-1)
        >>> hidden["image"].flatten(), hidden["words"]
        (tensor([1., 1., nan, nan]), tensor([[-1, -1],
                [ 5,  5]]))
        >>> torch.equal(mask_from_features(hidden, ["image", "words"], integer_fill=-1), mask)
        True
    """
    function = "hide_features"
    names = check_names(function, modalities)
    fills = integer_fills(function, integer_fill, names)
    given = given_features(function, features, names)
    columns = mask_columns(function, mask, names, count_rows(function, given))
    hidden = {}
    for name, x in given.items():
        fill = torch.tensor(
            fill_value(function, name, x.dtype, fills.get(name, 0)), dtype=x.dtype, device=x.device
        )
        # `where` also cuts the gradient of hidden cells; a product with the mask would keep NaN.
        hidden[name] = torch.where(
            append_axes(columns[:, names.index(name)].to(x.device), x), x, fill
        )
    return hidden


def fill_value(function: str, name: str, dtype: torch.dtype, integer_fill: int) -> float:
    """Return the fill value of missing rows: NaN, or `integer_fill` for integers and bools.

    Raises if `integer_fill` is out of the range of `dtype`.
    """
    if dtype.is_floating_point or dtype.is_complex:
        return math.nan
    low, high = (0, 1) if dtype == torch.bool else (torch.iinfo(dtype).min, torch.iinfo(dtype).max)
    if not low <= integer_fill <= high:
        raise ValueError(
            f"{function}, modality {name!r}: `integer_fill` must lie in [{low}, {high}] for "
            f"{dtype}, got {integer_fill}. Pass a value for each name."
        )
    return integer_fill


def count_rows(function: str, given: Mapping[str, Tensor]) -> int:
    """Return the number of rows N; raise if the features differ in it."""
    counts = {name: x.shape[0] for name, x in given.items()}
    if len(set(counts.values())) != 1:
        raise ValueError(
            f"{function}: modalities must have equal numbers of rows, at least one given, got "
            f"{counts}."
        )
    return next(iter(counts.values()))
