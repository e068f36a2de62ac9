"""Assertions for tests of your own parts: the laws that parts for missing modalities must obey.

A part is a function or module. Each assertion calls the part and raises an `AssertionError` that
names the law and the place where it fails. The part must be deterministic: put a module into
evaluation mode, or disable its dropout. Use float64 inputs for laws that are checked up to
rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = [
    "assert_constant_preserved",
    "assert_full_mask_equals_no_mask",
    "assert_mask_honoured",
    "assert_nan_propagates",
    "assert_on_simplex",
    "assert_permutation_equivariant",
    "assert_permutation_invariant",
]

Features = Tensor | Mapping[str, Tensor]
FILLS = (float("nan"), float("inf"), 1e9)


def assert_mask_honoured(
    part: Callable[[Any, Tensor], Tensor],
    z: Features,
    mask: Tensor,
    *,
    parameters: Iterable[Tensor] = (),
    fills: Sequence[float] = FILLS,
) -> None:
    r"""Assert that unavailable cells affect neither the output of a part nor a gradient.

    .. math::
        f(z', a) = f(z, a) \text{ for every } z' \text{ with } z'_{nm} = z_{nm}
        \text{ where } a_{nm} = 1,
        \qquad \frac{\partial f}{\partial z_{nm}} = 0 \text{ where } a_{nm} = 0

    where f is the part and a is the mask. The unavailable cells are filled with each value of
    `fills`. Outputs and gradients must be bitwise equal, and gradients must be finite. Output
    entries that are not finite are excluded from the gradients.

    Arguments:
        part: called as ``part(z, mask)``; returns a tensor.
        z: floating point (N, M, ...), or modality name -> (N, ...) in the order of the mask's
            columns.
        mask: bool (N, M); True is available.
        parameters: further tensors whose gradients must not change. If `part` is a module, its
            parameters are added.
        fills: values to put into the unavailable cells.

    Raises:
        AssertionError: the part does not honour the mask; the message names the cell and its value.
        TypeError: `z` is not floating point, or `mask` not bool.
        ValueError: the shapes of `z` and `mask` do not fit.

    Example:
        >>> z, mask = torch.ones(1, 2, 3), torch.tensor([[True, False]])
        >>> assert_mask_honoured(
        ...     lambda z, mask: torch.where(mask[..., None], z, 0).sum(dim=1), z, mask
        ... )
        >>> assert_mask_honoured(  # doctest: +ELLIPSIS
        ...     lambda z, mask: (mask[..., None] * z).sum(dim=1), z, mask
        ... )
        Traceback (most recent call last):
            ...
        AssertionError: assert_mask_honoured: the output changes when the unavailable cell of ...
    """
    _check_cells("assert_mask_honoured", z, mask)
    if isinstance(part, torch.nn.Module):
        parameters = (*part.parameters(), *parameters)
    parameters = [parameter for parameter in parameters if parameter.requires_grad]
    names = [f"the feature of {name!r}" for name in z] if isinstance(z, Mapping) else ["z"]
    names += [f"parameter {index}" for index in range(len(parameters))]
    expected, gradients = _run(part, _filled(z, torch.zeros_like(mask), 0.0), mask, parameters)
    runs = {fill: _run(part, _filled(z, ~mask, fill), mask, parameters) for fill in fills}
    # Outputs are compared before gradients, because a wrong output explains a wrong gradient.
    for fill, (output, _) in runs.items():
        if not _equal(output, expected):
            raise AssertionError(
                "assert_mask_honoured: the output changes when "
                f"{_first_cell(part, z, mask, fill, expected)} {fill}. Select the available cells "
                "with `torch.where` before any arithmetic: nan * 0 is nan."
            )
    _check_gradients("with the given `z`", names, gradients, z, mask)
    for fill, (_, filled_gradients) in runs.items():
        condition = f"with {fill} in the unavailable cells"
        _check_gradients(condition, names, filled_gradients, z, mask)
        for name, gradient, before in zip(names, filled_gradients, gradients, strict=True):
            if not torch.equal(gradient, before):
                raise AssertionError(
                    f"assert_mask_honoured: {condition}, the gradient with respect to {name} "
                    "changes."
                )


def assert_nan_propagates(part: Callable[[Any, Tensor], Tensor], z: Features, mask: Tensor) -> None:
    r"""Assert that NaN in an available cell comes out of a part as NaN.

    .. math::
        a_{nm} = 1 \text{ and } z_{nm} = \mathrm{NaN} \quad \Rightarrow \quad
        f(z, a) \text{ has an entry that is NaN}

    where f is the part and a is the mask. A part that swallows NaN hides a broken batch: its output
    looks right while the weights are NaN. The cells are tried one at a time.

    Arguments:
        part: called as ``part(z, mask)``; returns a tensor.
        z: floating point (N, M, ...), or modality name -> (N, ...) in the order of the mask's
            columns.
        mask: bool (N, M); True is available.

    Raises:
        AssertionError: the output has no NaN; the message names the cell.
        TypeError: `z` is not floating point, or `mask` not bool.
        ValueError: the shapes of `z` and `mask` do not fit.

    Example:
        >>> z, mask = torch.ones(1, 2, 3), torch.tensor([[True, False]])
        >>> assert_nan_propagates(
        ...     lambda z, mask: torch.where(mask[..., None], z, 0).sum(dim=1), z, mask
        ... )
        >>> assert_nan_propagates(  # doctest: +ELLIPSIS
        ...     lambda z, mask: torch.where(mask[..., None] & (z > 0), z, 0).sum(dim=1), z, mask
        ... )
        Traceback (most recent call last):
            ...
        AssertionError: assert_nan_propagates: the output has no NaN when the available cell of ...
    """
    _check_cells("assert_nan_propagates", z, mask)
    for row, modality in mask.nonzero().tolist():
        cell = torch.zeros_like(mask)
        cell[row, modality] = True
        if not part(_filled(z, cell, float("nan")), mask).isnan().any():
            raise AssertionError(
                "assert_nan_propagates: the output has no NaN when the available cell of row "
                f"{row} and modality {modality} holds NaN. A comparison such as `x > 0` is False "
                "for NaN; write the guard so that NaN passes it, such as `~(x <= 0)`."
            )


def assert_full_mask_equals_no_mask(
    part: Callable[[Tensor, Tensor | None], Tensor],
    z: Tensor,
    *,
    rtol: float | None = None,
    atol: float | None = None,
) -> None:
    r"""Assert that a full mask and no mask give the same output: :math:`f(z, 1) = f(z)`.

    Arguments:
        part: called as ``part(z, mask)`` and ``part(z, None)``; returns a tensor.
        z: (N, M, ...).
        rtol, atol: tolerances of `torch.testing.assert_close`; pass both or neither.

    Raises:
        AssertionError: the outputs differ.

    Example:
        >>> from invmod import masked_mean
        >>> assert_full_mask_equals_no_mask(masked_mean, torch.ones(4, 3, 2))
    """
    mask = torch.ones(z.shape[:2], dtype=torch.bool, device=z.device)
    law = "assert_full_mask_equals_no_mask: a mask with every cell available changes the output"
    _assert_close(law, part(z, mask), part(z, None), rtol, atol)


def assert_permutation_invariant(
    part: Callable[..., Tensor],
    *inputs: Tensor | None,
    dim: int | Sequence[int],
    rtol: float | None = None,
    atol: float | None = None,
) -> None:
    r"""Assert that a permutation along an axis does not change the output: :math:`f(\pi x) = f(x)`.

    The law is checked for two permutations :math:`\pi` that generate all others: the swap of the
    first two positions, and the cyclic shift by one position.

    Arguments:
        part: called with the inputs; returns a tensor.
        inputs: tensors, all permuted in the same way along `dim`; None is passed on unchanged.
        dim: the axis, one for all inputs or one per input: 1 for the modalities of z (N, M, ...),
            of weights (E, M) and of a mask (N, M); 0 for the rows of z and of the mask.
        rtol, atol: tolerances of `torch.testing.assert_close`; pass both or neither.

    Raises:
        AssertionError: the output changes; the message states the permutation.
        ValueError: the inputs have different sizes along `dim`.

    Example:
        >>> assert_permutation_invariant(lambda z: z.sum(dim=1), torch.randn(4, 3), dim=1)
        >>> z = torch.tensor([[1.0, 2.0]])
        >>> assert_permutation_invariant(lambda z: z[:, 0], z, dim=1)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        AssertionError: assert_permutation_invariant: the permutation [1, 0] of dim 1 changes ...
    """
    permutations = _permutations("assert_permutation_invariant", inputs, dim)
    expected = part(*inputs)
    for order, permuted in permutations:
        law = (
            f"assert_permutation_invariant: the permutation {order.tolist()} of dim {dim} "
            "changes the output"
        )
        _assert_close(law, part(*permuted), expected, rtol, atol)


def assert_permutation_equivariant(
    part: Callable[..., Tensor],
    *inputs: Tensor | None,
    dim: int | Sequence[int],
    output_dim: int = 0,
    rtol: float | None = None,
    atol: float | None = None,
) -> None:
    r"""Assert that permuting the inputs permutes the output equally: :math:`f(\pi x) = \pi f(x)`.

    The law is checked for two permutations :math:`\pi` that generate all others: the swap of the
    first two positions, and the cyclic shift by one position.

    Arguments:
        part: called with the inputs; returns a tensor.
        inputs: tensors, all permuted in the same way along `dim`; None is passed on unchanged.
        dim: the axis, one for all inputs or one per input: 0 for the rows of z (N, M, ...) and of a
            mask (N, M), 1 for their modalities.
        output_dim: the corresponding axis of the output, for instance 1 for the rows of h (E, N,
            D).
        rtol, atol: tolerances of `torch.testing.assert_close`; pass both or neither.

    Raises:
        AssertionError: the output is not permuted equally; the message states the permutation.
        ValueError: the inputs have different sizes along `dim`.

    Example:
        >>> assert_permutation_equivariant(lambda z: 2 * z, torch.randn(4, 3), dim=0)
        >>> z = torch.tensor([1.0, 2.0])
        >>> assert_permutation_equivariant(  # doctest: +ELLIPSIS
        ...     lambda z: z.cumsum(dim=0), z, dim=0
        ... )
        Traceback (most recent call last):
            ...
        AssertionError: assert_permutation_equivariant: the permutation [1, 0] of dim 0 does not ...
    """
    permutations = _permutations("assert_permutation_equivariant", inputs, dim)
    expected = part(*inputs)
    for order, permuted in permutations:
        law = (
            f"assert_permutation_equivariant: the permutation {order.tolist()} of dim {dim} does "
            "not permute the output equally"
        )
        _assert_close(law, part(*permuted), expected.index_select(output_dim, order), rtol, atol)


def assert_on_simplex(weights: Tensor, *, atol: float = 1e-6) -> None:
    r"""Assert that each row of weights is on the simplex: non-negative, with sum 1.

    .. math::
        w_m \geq 0, \qquad \sum_m w_m = 1

    Arguments:
        weights: (..., M).
        atol: maximum difference between the sum of a row and 1.

    Raises:
        AssertionError: an entry is negative or not finite, or a row does not sum to 1; the message
            names the row.

    Example:
        >>> assert_on_simplex(torch.tensor([[0.5, 0.5], [1.0, 0.0]]))
        >>> assert_on_simplex(torch.tensor([[0.5, 0.5], [1.0, 0.5]]))
        Traceback (most recent call last):
            ...
        AssertionError: assert_on_simplex: row (1,) sums to 1.5, not to 1: [1.0, 0.5].
    """
    sums = weights.sum(dim=-1)
    for law, broken in (
        ("has an entry that is not finite", ~weights.isfinite().all(dim=-1)),
        ("has a negative entry", (weights < 0).any(dim=-1)),
        ("sums to {sum}, not to 1", (sums - 1).abs() > atol),
    ):
        if broken.any():
            row = tuple(broken.nonzero()[0].tolist())
            raise AssertionError(
                f"assert_on_simplex: row {row} {law.format(sum=sums[row].item())}: "
                f"{weights[row].tolist()}."
            )


def assert_constant_preserved(
    part: Callable[[Tensor, Tensor | None], Tensor],
    constant: Tensor,
    num_modalities: int,
    mask: Tensor | None = None,
    *,
    rtol: float | None = None,
    atol: float | None = None,
) -> None:
    r"""Assert that a fusion of equal modalities returns their common value.

    .. math::
        z_{nm} = c_n \text{ for all } m \quad \Rightarrow \quad f(z, a)_n = c_n

    where f is the part, :math:`c_n` is the common value and a is the mask. Rows without an
    available modality are not checked.

    Arguments:
        part: called as ``part(z, mask)``; returns (..., N, D), for instance (N, D) or (E, N, D).
        constant: c, (N, D).
        num_modalities: M.
        mask: bool (N, M), or None.
        rtol, atol: tolerances of `torch.testing.assert_close`; pass both or neither.

    Raises:
        AssertionError: the output differs from the constant; the message names the first such row.

    Example:
        >>> from invmod import masked_mean
        >>> constant = torch.tensor([[1.0, 2.0]])
        >>> assert_constant_preserved(masked_mean, constant, 3)
        >>> assert_constant_preserved(  # doctest: +ELLIPSIS
        ...     lambda z, mask: z.sum(dim=1), constant, 3
        ... )
        Traceback (most recent call last):
            ...
        AssertionError: assert_constant_preserved: row 0 does not keep its constant. ...
    """
    z = constant[:, None].repeat(1, num_modalities, *[1] * (constant.dim() - 1))
    output = part(z, mask)
    expected = constant.expand_as(output)
    rows = range(len(constant)) if mask is None else mask.any(dim=1).nonzero()[:, 0].tolist()
    axis = output.dim() - constant.dim()
    for row in rows:
        law = f"assert_constant_preserved: row {row} does not keep its constant"
        _assert_close(law, output.select(axis, row), expected.select(axis, row), rtol, atol)


# ---------------------------------------------------------------- cells and gradients


def _check_cells(caller: str, z: Features, mask: Tensor) -> None:
    tensors = list(z.values()) if isinstance(z, Mapping) else [z]
    for x in tensors:
        if not x.is_floating_point():
            raise TypeError(f"{caller}: `z` must be floating point, got {x.dtype}.")
    if mask.dtype != torch.bool:
        raise TypeError(
            f"{caller}: `mask` must have dtype torch.bool, got {mask.dtype}. "
            "Use `mask.bool()` (True means available)."
        )
    shape = (tensors[0].shape[0], len(tensors)) if isinstance(z, Mapping) else tuple(z.shape[:2])
    if tuple(mask.shape) != shape:
        raise ValueError(
            f"{caller}: `mask` must have shape (N, M) = {shape}, got {tuple(mask.shape)}."
        )


def _filled(z: Features, cells: Tensor, fill: float) -> Features:
    """Return a copy of z that requires a gradient and holds `fill` where `cells` (N, M) is True."""

    def copy(x: Tensor, where: Tensor) -> Tensor:
        x = x.detach().clone()
        x[where] = fill
        return x.requires_grad_()

    if isinstance(z, Mapping):
        return {name: copy(x, cells[:, column]) for column, (name, x) in enumerate(z.items())}
    return copy(z, cells)


def _run(
    part: Callable[[Any, Tensor], Tensor], z: Features, mask: Tensor, parameters: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """Return the output and the gradients of its weighted sum with respect to z and parameters."""
    inputs = [*(z.values() if isinstance(z, Mapping) else [z]), *parameters]
    output = part(z, mask)
    # NaN is a legitimate output for a row without modalities, but would make every gradient NaN.
    finite = torch.where(output.isfinite(), output, 0.0).flatten()
    # The coefficients differ, so that gradients of different entries do not cancel.
    coefficients = torch.linspace(0.5, 2.0, len(finite), dtype=finite.dtype, device=finite.device)
    total = (finite * coefficients).sum()
    if not total.requires_grad:
        return output.detach(), [torch.zeros_like(x) for x in inputs]
    gradients = torch.autograd.grad(total, inputs, allow_unused=True)
    return output.detach(), [
        torch.zeros_like(x) if gradient is None else gradient
        for x, gradient in zip(inputs, gradients, strict=True)
    ]


def _equal(a: Tensor, b: Tensor) -> bool:
    """Return whether two tensors have equal shape and entries, with NaN equal to NaN."""
    return a.shape == b.shape and bool(((a == b) | (a.isnan() & b.isnan())).all())


def _first_cell(
    part: Callable[[Any, Tensor], Tensor], z: Features, mask: Tensor, fill: float, expected: Tensor
) -> str:
    """Return a description of the first unavailable cell that alone changes the output.

    The description ends with the verb "holds" or "hold", to be followed by the fill value.
    """
    for row, modality in (~mask).nonzero().tolist():
        cell = torch.zeros_like(mask)
        cell[row, modality] = True
        if not _equal(part(_filled(z, cell, fill), mask), expected):
            return f"the unavailable cell of row {row} and modality {modality} holds"
    return "all unavailable cells together hold"


def _check_gradients(
    condition: str, names: Sequence[str], gradients: Sequence[Tensor], z: Features, mask: Tensor
) -> None:
    """Raise unless all gradients are finite and those of unavailable cells are 0."""
    for name, gradient in zip(names, gradients, strict=True):
        if not gradient.isfinite().all():
            raise AssertionError(
                f"assert_mask_honoured: {condition}, the gradient with respect to {name} is not "
                "finite."
            )
    columns = list(enumerate(mask.unbind(dim=1))) if isinstance(z, Mapping) else [(None, mask)]
    for (column, available), name, gradient in zip(columns, names, gradients, strict=False):
        # A cell is wrong if any entry of its gradient, over the axes after the mask's, is not 0.
        wrong = (
            (gradient != 0).flatten(available.dim()).any(dim=-1)
            if gradient.dim() > available.dim()
            else gradient != 0
        )
        wrong = wrong & ~available
        if wrong.any():
            row, *rest = wrong.nonzero()[0].tolist()
            modality = rest[0] if column is None else column
            raise AssertionError(
                f"assert_mask_honoured: {condition}, the gradient with respect to {name} is not 0 "
                f"in the unavailable cell of row {row} and modality {modality}."
            )


# ---------------------------------------------------------------- permutations and tolerances


def _permutations(
    caller: str, inputs: Sequence[Tensor | None], dim: int | Sequence[int]
) -> list[tuple[Tensor, list[Tensor | None]]]:
    """Return two permutations, each with the inputs permuted by it.

    They are the swap of the first two positions and the cyclic shift by one position.
    """
    dims = [dim] * len(inputs) if isinstance(dim, int) else list(dim)
    given = [(x, d) for x, d in zip(inputs, dims, strict=True) if x is not None]
    sizes = [x.shape[d] for x, d in given]
    if min(sizes) != max(sizes):
        raise ValueError(f"{caller}: the inputs must have equal sizes along `dim`, got {sizes}.")
    positions = torch.arange(sizes[0], device=given[0][0].device)
    # This transposition and the cyclic shift generate the whole symmetric group.
    swap = positions.clone()
    swap[:2] = positions[:2].flip(0)
    return [
        (
            order,
            [
                None if x is None else x.index_select(d, order)
                for x, d in zip(inputs, dims, strict=True)
            ],
        )
        for order in (swap, positions.roll(1))
    ]


def _assert_close(
    law: str, got: Tensor, expected: Tensor, rtol: float | None, atol: float | None
) -> None:
    try:
        torch.testing.assert_close(got, expected, rtol=rtol, atol=atol)
    except AssertionError as error:
        raise AssertionError(f"{law}. {error}") from None
