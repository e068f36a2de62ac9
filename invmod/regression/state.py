"""The fitted state of `PatternKernelRidge`, and the training rows that it describes."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from typing_extensions import override

from invmod._fitted import FittedModule
from invmod.regression.choice import Criterion, HeldOut, accurate_ridges
from invmod.regression.kernels import KERNELS, Kernel
from invmod.regression.patterns import Comparison
from invmod.regression.training_rows import RowRule, TrainingRows
from invmod.regression.units import ScaledRows, Units

SEED = 0  # Seed of the draw of these rows.
PER_MODALITY = ("centre", "scale", "rows", "kernel", "validation_rows", "landmarks")
SHARED = (
    "observed",
    "targets",
    "row_weights",
    "groups",
    "classes",
    "validation_observed",
    "validation_targets",
    "options",
)


class PatternState(FittedModule):
    """The state of the regressions of all patterns.

    The state has, for modality number m, ``centre_m`` and ``scale_m`` (d,), ``rows_m`` (n, d)
    centred and scaled, ``kernel_m`` (its number and width; the number of a constant modality is
    -1), ``validation_rows_m`` (v, d), and ``landmarks_m`` (L_m,), positions of training rows, or
    none if the regression is exact. With landmarks ``rows_m`` is as it was given. It has
    ``observed`` (n, M), ``targets`` (n,) or (n, r), ``row_weights`` (n,), ``groups`` (n,) or (0,),
    ``classes`` (C,) or (0,), the mask and the targets of validation rows, v = 0 without them, and
    ``options`` (P, 2M + 3): for each of P patterns its modalities, their weights, the ridge, the
    error and the sharpness.
    """

    _keeps_dtype = True

    rows: RowRule
    intercept: bool
    criterion: Criterion
    choice_rows: int
    _ridges: Sequence[float]

    @override
    def _state_names(self) -> list[str]:
        indices = range(len(self.modalities))
        return [f"{kind}_{index}" for kind in PER_MODALITY for index in indices] + list(SHARED)

    @override
    def _state_changed(self, loaded: Sequence[str] = ()) -> None:
        self.__dict__.pop("_comparison", None)
        self.__dict__.pop("_training", None)

    def _per_modality(self, kind: str) -> list[Tensor]:
        return [self.get_buffer(f"{kind}_{index}") for index in range(len(self.modalities))]

    def _answers(self, name: str) -> Tensor:
        """Return targets as (n, r); classes as indicators (n, C)."""
        return answers_of(self.get_buffer(name), self.get_buffer("classes"))

    def _candidate_ridges(self) -> Sequence[float]:
        """Return the ridges to choose from."""
        weights = self.get_buffer("row_weights")
        return accurate_ridges(self._ridges, len(weights), weights.dtype)

    @functools.cached_property
    def _training(self) -> TrainingRows:
        """The training rows."""
        state = {name: self.get_buffer(name) for name in self._state_names()}
        return read_training(
            state, self._answers("targets"), projected=self._landmarks() is not None
        )

    def _landmarks(self) -> list[Tensor] | None:
        """Return the positions of the landmarks of each modality; None if there are none."""
        landmarks = [at.long() for at in self._per_modality("landmarks")]
        return landmarks if any(len(at) for at in landmarks) else None

    @functools.cached_property
    def _comparison(self) -> Comparison:
        """The rows on which choices are made."""
        training, groups = self._training, self.get_buffer("groups")
        validated = len(self.get_buffer("validation_targets")) > 0
        held_out = HeldOut(
            training.targets,
            training.row_weights,
            groups.long() if len(groups) else None,
            self._answers("validation_targets") if validated else None,
            self.intercept,
            self.criterion,
        )
        return Comparison(
            training,
            sampled_rows(len(training.targets), self.choice_rows, groups.device),
            held_out,
            self._per_modality("validation_rows") if validated else None,
            self.get_buffer("validation_observed") > 0.5 if validated else None,
            self._candidate_ridges(),
        )


def answers_of(targets: Tensor, classes: Tensor) -> Tensor:
    """Return targets of a state as (n, r); classes as indicators (n, C)."""
    if len(classes):
        return (targets[:, None] == classes).to(classes)
    return targets.reshape(targets.shape[0], -1)


def read_training(state: Mapping[str, Tensor], targets: Tensor, *, projected: bool) -> TrainingRows:
    """Return the training rows of a state.

    Arguments:
        state: the buffers by name.
        targets: Y (n, r).
        projected: whether the state has the rows as they were given.
    """
    observed, x, kernels = state["observed"] > 0.5, [], []
    for m in range(observed.shape[1]):
        rows = state[f"rows_{m}"]
        kernel = read_kernel(*state[f"kernel_{m}"].tolist())
        units = Units(state[f"centre_{m}"], state[f"scale_{m}"])
        scaled = not projected or (kernel is not None and kernel.name == "precomputed")
        x.append(rows if scaled else ScaledRows(rows, observed[:, m], units))
        kernels.append(kernel)
    varies = torch.tensor([kernel is not None for kernel in kernels], device=observed.device)
    return TrainingRows(x, observed & varies, targets, state["row_weights"], kernels)


def sampled_rows(num_rows: int, limit: int, device: torch.device) -> Tensor:
    """Return the positions of the training rows on which choices are made, at most `limit`."""
    if num_rows <= limit:
        return torch.arange(num_rows, device=device)
    generator = torch.Generator().manual_seed(SEED)
    return torch.randperm(num_rows, generator=generator)[:limit].sort().values.to(device)


def read_kernel(number: float, width: float) -> Kernel | None:
    """Return the kernel that the state describes; None for a constant modality.

    Example:
        >>> read_kernel(0.0, 0.0), read_kernel(-1.0, 0.0)
        (Kernel(name='linear', width=0.0), None)
    """
    return None if number < 0 else Kernel(KERNELS[int(number)], width)
