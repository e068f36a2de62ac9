"""The regression of item vectors on content: how it is made, and how processes divide its choices.

All processes fit the same regression on all warm items. Widths, and the weights and ridges of a
pattern, are each chosen in one process and shared.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from invmod.regression import PatternKernelRidge
from invmod.regression.arguments import MAX_LANDMARKS
from invmod.regression.patterns import read_choice
from milk_recsys.base.distributed import World
from milk_recsys.base.errors import DataError
from milk_recsys.methods.keep import KeepOptions
from milk_recsys.methods.keep.vectors import COMPARED, Spectrum
from milk_recsys.methods.warm import WarmData

__all__ = [
    "choose_divided",
    "compared_vectors",
    "content_regression",
    "fitted_regression",
    "share_landmarks",
]

CHOICE_ROWS = 1000  # Number of warm items that widths, weights and ridges are chosen on.
# With more warm items than this neighbours are fewer by default, and not searched among all items.
MANY_ITEMS = 100_000
FIRST_SHRINKAGE = 1.0  # lambda of the vectors E that the regression's options are chosen on.


def compared_vectors(leading: Spectrum, options: KeepOptions) -> Tensor:
    """Return the vectors of the warm items by which the regression's options are chosen, (n, k)."""
    first = FIRST_SHRINKAGE if options.shrinkage is None else options.shrinkage
    return leading.first(COMPARED).item_vectors(first)


def content_regression(
    names: Sequence[str],
    options: KeepOptions,
    dtype: torch.dtype,
    num_items: int,
    *,
    projected: bool,
    widths: Mapping[str, float] | None = None,
) -> PatternKernelRidge:
    """Return the regression on content, not fitted; `projected` on landmarks, or else exact.

    Arguments:
        widths: modality -> width; None for the width of the options.
    """
    many = num_items > MANY_ITEMS
    neighbours, probes = options.neighbours, options.probes
    if neighbours is None:
        neighbours = 64 if many else 256
    if probes is None and many:
        probes = 8
    return PatternKernelRidge(
        names,
        kernel="angle",
        width=widths or ("auto" if options.width is None else options.width),
        weights="auto" if options.fit_weights else "equal",
        ridge="auto" if options.ridge is None else options.ridge,
        intercept=False,
        standardize=False,
        choice_rows=CHOICE_ROWS,
        landmarks=options.landmarks if projected else None,
        neighbours=neighbours if projected and neighbours else None,
        probes=probes if projected and neighbours else None,
        dtype=dtype,
    )


def fitted_regression(
    data: WarmData, options: KeepOptions, targets: Tensor, world: World, *, projected: bool
) -> tuple[PatternKernelRidge, list[int]]:
    """Fit the regression on content to vectors of the warm items.

    A modality that no warm item has is left out.

    Returns:
        the regression, and the column of `data.mask` of each of its modalities.
    """
    columns: list[int] = data.mask.any(dim=0).nonzero()[:, 0].tolist()
    if not columns:
        raise DataError("No training item has a feature, so KEEP cannot be fitted.")
    names = [data.modalities[column] for column in columns]
    if projected and options.landmarks > MAX_LANDMARKS:
        raise DataError(
            f"--landmarks must be at most {MAX_LANDMARKS:,}, got {options.landmarks:,}. "
            "--neighbours makes new items' vectors more accurate, too."
        )
    features = {name: data.features[name] for name in names}

    def fitted(some: Sequence[str], own: KeepOptions, **given: Any) -> PatternKernelRidge:
        regression = content_regression(
            some, own, data.dtype, data.num_items, projected=projected, **given
        )
        of_some = [columns[names.index(name)] for name in some]
        return regression.fit(
            {name: features[name] for name in some}, targets, data.mask[:, of_some]
        )

    widths = None
    if world.size > 1 and options.width is None:
        alone = dataclasses.replace(options, landmarks=1)  # Landmarks have no part in the choice.
        widths = _widths_divided(names, lambda name: fitted([name], alone), world, data.device)
    regression = fitted(names, options, widths=widths)
    share_landmarks(regression, world)
    return regression, columns


def _widths_divided(
    names: Sequence[str],
    fitted: Callable[[str], PatternKernelRidge],
    world: World,
    device: torch.device,
) -> dict[str, float]:
    """Return the width of each modality, chosen in one of the processes.

    Arguments:
        names: of the modalities.
        fitted: maps a name to a regression on this modality alone, which has chosen its width.
        world: the processes.
        device: the device on which they communicate.
    """
    widths = torch.zeros(len(names), dtype=torch.float64, device=device)
    for m in range(world.rank, len(names), world.size):
        kernel = fitted(names[m]).kernels[names[m]]
        widths[m] = 1.0 if kernel is None else kernel.width  # A constant modality has no kernel.
    # The widths of other processes are 0 here.
    return dict(zip(names, world.sum(widths).tolist(), strict=True))


def share_landmarks(regression: PatternKernelRidge, world: World) -> None:
    """Give the regression the landmarks of rank 0.

    All processes draw with one seed, but those of different machines may round differently.
    """
    if world.size == 1 or regression.is_exact:
        return
    own = {name: rows.tolist() for name, rows in regression.landmark_rows.items()}
    shared = world.broadcast(own)
    other = {name: torch.tensor(rows) for name, rows in shared.items() if rows != own[name]}
    if other:
        regression.set_landmarks(other)


def choose_divided(
    regression: PatternKernelRidge, patterns: Sequence[Sequence[str]], world: World
) -> None:
    """Choose the options of patterns of modalities, each in one process, and share them.

    Afterwards the options are in the regression of every process, in the order in which one process
    would choose them.
    """
    if world.size == 1:
        return  # They are chosen when a pattern is first needed.
    known = regression.choices
    varying = [name for name, kernel in regression.kernels.items() if kernel is not None]
    named = [tuple(name for name in varying if name in names) for names in patterns]
    new = [names for names in dict.fromkeys(named) if names and names not in known]
    width = len(regression.modalities) + 3
    numbers = torch.zeros(len(new), width, dtype=torch.float64)
    for index in range(world.rank, len(new), world.size):
        weights, *others = regression.choose(new[index])
        row = [*weights, *(torch.nan if number is None else number for number in others)]
        numbers[index, : len(row)] = torch.tensor(row, dtype=torch.float64)
    # The rows of other processes are 0 here.
    rows = world.sum(numbers.to(regression.get_buffer("observed").device)).tolist()
    regression.set_choices(
        {
            names: read_choice(tuple(row[: len(names)]), row[len(names) : len(names) + 3])
            for names, row in zip(new, rows, strict=True)
        }
    )
