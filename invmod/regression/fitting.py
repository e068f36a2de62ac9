"""The units and the kernel of one modality, fitted on training rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from invmod.regression.choice import HeldOut, best_fit, descend
from invmod.regression.kernels import KERNELS, Kernel, kernel_between
from invmod.regression.units import Units, fitted_units

MIDDLE_WIDTH = 1.0  # The width of every kernel in the first round of the choice.


class Table(NamedTuple):
    """Rows with targets.

    Attributes:
        x: rows (n, d_m) of each modality, flattened, in any content where missing.
        observed: bool (n, M).
        targets: (n,) or (n, r).
    """

    x: list[Tensor]
    observed: Tensor
    targets: Tensor


class ComparedRows(NamedTuple):
    """The rows on which kernels are compared, and the ridges to choose from.

    Attributes:
        table: the training rows.
        validation: the validation rows, or None.
        held_out: targets of the training rows, and how rows are held out.
        sample: positions of the training rows that are compared (s,).
        ridges: the ridges.
    """

    table: Table
    validation: Table | None
    held_out: HeldOut
    sample: Tensor
    ridges: Sequence[float]


def fit_modality(
    m: int,
    compared: ComparedRows,
    candidates: Sequence[Kernel],
    scalings: Sequence[bool],
    *,
    projected: bool,
) -> dict[str, Tensor]:
    """Return the state of modality number m, with the scaling and the kernel that were chosen.

    Arguments:
        m: position of the modality.
        compared: the rows, and the ridges.
        candidates: kernels to choose from.
        scalings: values of `standardize` to choose from.
        projected: keep the rows as they are; only some are centred and scaled at a time.
    """
    x, observed = compared.table.x[m], compared.table.observed[:, m]
    dtype = compared.held_out.targets.dtype
    if candidates[0].name == "precomputed":
        kernel: Kernel | None = candidates[0]
        units = Units(torch.zeros(1), torch.ones(1)).to(x.device, dtype)
    else:
        at = observed.nonzero()[:, 0]
        row_weights = compared.held_out.row_weights[at]
        units_of = [fitted_units(x, at, row_weights, standardize=s) for s in scalings]
        kernel, units = _chosen(m, compared, candidates, [u.to(x.device, dtype) for u in units_of])
    number = -1 if kernel is None else KERNELS.index(kernel.name)
    width = 0.0 if kernel is None else kernel.width
    if projected and candidates[0].name != "precomputed":
        rows = x if x.is_floating_point() else x.to(dtype)
    else:
        rows = units.apply(x, observed)
    state = {
        "centre": units.centre,
        "scale": units.scale,
        "rows": rows,
        "validation_rows": x.new_zeros(0, dtype=dtype),
        "kernel": torch.tensor([number, width], dtype=dtype, device=x.device),
    }
    if compared.validation is not None:
        state["validation_rows"] = _validation_rows(m, compared.validation, units)
    return {f"{name}_{m}": value for name, value in state.items()}


def _chosen(
    m: int, compared: ComparedRows, candidates: Sequence[Kernel], scalings: Sequence[Units]
) -> tuple[Kernel | None, Units]:
    """Choose by the error of the regression on one modality alone; the first of equal ones."""
    if scalings[0].constant:
        return None, scalings[0]
    if len(candidates) * len(scalings) == 1:
        return candidates[0], scalings[0]
    rows_and_scored = _rows_and_scored(m, compared)
    # Kernels without a width and those of a middle width come first, under all scalings. Other
    # widths are compared for the best of these only, from the middle outwards.
    first = [kernel for kernel in candidates if kernel.width in (0.0, MIDDLE_WIDTH)] or candidates
    pairs = [(kernel, units) for units in scalings for kernel in first]
    errors = [_error(m, compared, *pair, *rows_and_scored) for pair in pairs]
    kernel, units = pairs[_smallest(errors)]
    widths = [each for each in candidates if each.name == kernel.name]
    start = widths.index(kernel)
    return descend(
        widths, start, lambda each: _error(m, compared, each, units, *rows_and_scored), min(errors)
    ), units


def _rows_and_scored(m: int, compared: ComparedRows) -> tuple[Tensor, Tensor]:
    """Return the sampled training rows, and the positions of held-out rows, with a modality."""
    with_it = compared.table.observed[:, m].nonzero()[:, 0]
    rows = with_it[torch.isin(with_it, compared.sample)]
    rows = rows if len(rows) else with_it[: len(compared.sample)]
    if compared.validation is not None:
        return rows, compared.validation.observed[:, m].nonzero()[:, 0]
    return rows, torch.arange(len(rows), device=rows.device)


def _error(
    m: int, compared: ComparedRows, kernel: Kernel, units: Units, rows: Tensor, scored: Tensor
) -> float:
    """Return the error of the regression on one modality alone, with the best ridge."""
    x = units.apply(compared.table.x[m][rows], torch.ones_like(rows, dtype=torch.bool))
    k_validation = None
    if compared.validation is not None:
        y = _validation_rows(m, compared.validation, units)
        k_validation = kernel_between(kernel, y, x)
    k = kernel_between(kernel, x, x)
    error = best_fit(compared.held_out.of(rows), k, k_validation, scored, compared.ridges).error
    return math.inf if math.isnan(error) else error


def _validation_rows(m: int, validation: Table, units: Units) -> Tensor:
    """Return centred and scaled validation rows (v, d), 0 where the modality is missing."""
    x, observed = validation.x[m], validation.observed[:, m]
    if not observed.any():
        return units.centre.new_zeros(len(x), len(units.centre))
    return units.apply(x, observed)


def flat_rows(x: Tensor) -> Tensor:
    """Return a feature (N, ...) as rows (N, d); N may be 0."""
    return x.reshape(x.shape[0], math.prod(x.shape[1:]))


def _smallest(errors: Sequence[float]) -> int:
    """Return the position of the smallest error, the first of several."""
    return min(range(len(errors)), key=lambda index: (errors[index], index))
