"""Rows of several modalities that come in different orders, brought together by their ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Integral
from typing import TypeAlias

import torch
from torch import Tensor

from invmod._checks import check_floating, describe_type

Id: TypeAlias = int | str


def stack_by_id(
    z: Mapping[str, Tensor], ids: Mapping[str, Tensor | Sequence[Id]]
) -> tuple[Tensor, Tensor, list[Id]]:
    r"""Stack the encoded rows of several modalities, so that one row holds one sample.

    .. math::
        c_{jm} = z_{m, r}, \quad a_{jm} = 1 \quad \text{where } \mathrm{id}_{m, r} = \mathrm{id}_j

    and :math:`c_{jm} = 0`, :math:`a_{jm} = 0` if modality m has no row with this id. Use it where
    each modality has a loader of its own, whose rows come in another order or belong to other
    samples. The result is what the alignment losses and ``invmod.fusion`` take.

    Arguments:
        z: name -> (n_m, D), the encoded rows of each modality; the order of the names is the order
            of the modalities. The numbers of rows may differ, the widths may not.
        ids: name -> n_m ids of the rows: a tensor or an array of integers, or a sequence of strings
            or of integers, the same kind in all modalities (7 is not ``"7"``).

    Returns:
        ``(z, mask, ids)``: (N, M, D) attached to the graph, with 0 in the missing cells; bool
        (N, M); and the list of the N ids, str or int, in the order in which they first occur.

    Raises:
        TypeError: rows are not floating-point tensors; or ids are neither a tensor of integers nor
            a sequence, are neither strings nor integers (such as None and NaN), or are both.
        KeyError: the names of `z` and `ids` differ.
        ValueError: shapes do not fit, there is no modality, or an id occurs twice in one modality.

    Example:
        >>> text, image = torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0], [4.0]])
        >>> ids = {"text": ["a", "b"], "image": ["c", "a"]}
        >>> z, mask, names = stack_by_id({"text": text, "image": image}, ids)
        >>> z[..., 0], names
        (tensor([[1., 4.],
                [2., 0.],
                [0., 3.]]), ['a', 'b', 'c'])
        >>> mask.sum(dim=0)
        tensor([2, 2])
    """
    listed = _checked_ids(z, ids)
    order: dict[Id, int] = {}
    for row_ids in listed.values():
        for row_id in row_ids:
            order.setdefault(row_id, len(order))
    columns, available = [], []
    for name, rows in z.items():
        position = {row_id: row for row, row_id in enumerate(listed[name])}
        # The position one past the last row holds zeros, for the ids that this modality lacks.
        index = torch.tensor(
            [position.get(row_id, len(position)) for row_id in order],
            dtype=torch.int64,
            device=rows.device,
        )
        padded = torch.cat([rows, rows.new_zeros(1, rows.shape[1])])
        columns.append(padded.index_select(0, index))
        available.append(index < len(position))
    return torch.stack(columns, dim=1), torch.stack(available, dim=1), list(order)


def _checked_ids(
    z: Mapping[str, Tensor], ids: Mapping[str, Tensor | Sequence[Id]]
) -> dict[str, list[Id]]:
    """Check the arguments; return the ids of each modality as a list."""
    function = "stack_by_id"
    if not z:
        raise ValueError(f"{function}: `z` is empty; pass name -> (n, D) for each modality.")
    if z.keys() != ids.keys():
        raise KeyError(
            f"{function}: `z` and `ids` must have the same names, got {list(z)} and {list(ids)}."
        )
    widths = set()
    listed = {}
    for name, rows in z.items():
        check_floating(function, f"z[{name!r}]", rows)
        listed[name] = _listed(f"{function}: `ids[{name!r}]`", ids[name])
        if rows.ndim != 2 or rows.shape[0] != len(listed[name]):
            raise ValueError(
                f"{function}: `z[{name!r}]` must have shape (n, D) with one row for each of its "
                f"{len(listed[name])} ids, got {tuple(rows.shape)}."
            )
        widths.add(rows.shape[1])
    if len(widths) > 1:
        raise ValueError(
            f"{function}: all modalities must have the same width D, got {sorted(widths)}."
        )
    _check_one_kind(listed)
    return listed


def _listed(what: str, ids: Tensor | Sequence[Id]) -> list[Id]:
    """Return ids as a list of distinct strings or distinct ints."""
    if isinstance(ids, Tensor):
        if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool or ids.ndim != 1:
            raise TypeError(
                f"{what} must be a tensor of integers (n,), got {ids.dtype} of shape "
                f"{tuple(ids.shape)}."
            )
        values: list[Id] = ids.tolist()
    elif isinstance(ids, (str, bytes)) or not hasattr(ids, "__len__"):
        raise TypeError(f"{what} must be a sequence of ids, got {describe_type(ids)}")
    else:
        values = [_plain(what, row_id) for row_id in ids]
    if len(set(values)) != len(values):
        twice = next(value for value in values if values.count(value) > 1)
        raise ValueError(f"{what} must be distinct, but {twice!r} occurs more than once.")
    return values


def _plain(what: str, row_id: object) -> Id:
    """Return an id as a str or an int; NumPy's scalars would be mixed with these in the result."""
    # None and NaN stand for a missing id, and two rows without an id are not one sample.
    if isinstance(row_id, str):
        return str(row_id)
    if isinstance(row_id, Integral) and not isinstance(row_id, bool):
        return int(row_id)
    raise TypeError(
        f"{what} must be strings or integers, got {row_id!r} of type {type(row_id).__name__}. "
        "Leave out rows without an id, and convert others, for example by `str`."
    )


def _check_one_kind(listed: Mapping[str, list[Id]]) -> None:
    """Raise if some ids are strings and some are integers, because these are never equal."""
    texts = {name: isinstance(ids[0], str) for name, ids in listed.items() if ids}
    for name, ids in listed.items():
        other = next((row_id for row_id in ids if isinstance(row_id, str) != texts[name]), None)
        if other is not None:
            raise TypeError(
                f"stack_by_id: `ids[{name!r}]` must be all strings or all integers, got {ids[0]!r} "
                f"and {other!r}. Convert them to one kind."
            )
    if len(set(texts.values())) > 1:
        got = {name: "strings" if is_text else "integers" for name, is_text in texts.items()}
        raise TypeError(
            f"stack_by_id: `ids` of all modalities must be of one kind, because the string '1' is "
            f"not the integer 1, got {got}. Convert them to one kind."
        )
