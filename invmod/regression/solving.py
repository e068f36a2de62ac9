"""The fitted state of `PatternKernelRidge`, and the regressions that follow from it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple, Self

import torch
from torch import Tensor
from typing_extensions import override

from invmod._fitted import FittedModule
from invmod._precision import without_autocast
from invmod.regression.choice import Criterion, HeldOut
from invmod.regression.kernels import KERNELS, Kernel
from invmod.regression.leave_one_out import solve
from invmod.regression.patterns import Comparison, PatternChoice, choose, read_choice
from invmod.regression.training_rows import Pattern, RowRule, TrainingRows

MAX_COMPARED = 2000  # Number of training rows on which kernels, weights and ridges are chosen.
SEED = 0  # Seed of the draw of these rows.
PER_MODALITY = ("centre", "scale", "rows", "kernel", "validation_rows")
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


class Solution(NamedTuple):
    """The regression of one pattern.

    Attributes:
        choice: its options.
        pattern: positions of its modalities that are not constant.
        rows: positions of its training rows (n,).
        alpha: (n, r), the coefficients.
        intercept: b (r,).
    """

    choice: PatternChoice
    pattern: Pattern
    rows: Tensor
    alpha: Tensor
    intercept: Tensor


class PatternRegressions(FittedModule):
    """The regressions of all patterns, each of them solved when it is first needed.

    The state has, for modality number m, ``centre_m`` and ``scale_m`` (d,), ``rows_m`` (n, d)
    centred and scaled, ``kernel_m`` (its number and width; the number of a constant modality is
    -1), and ``validation_rows_m`` (v, d). It has ``observed`` (n, M), ``targets`` (n,) or (n, r),
    ``row_weights`` (n,), ``groups`` (n,) or (0,), ``classes`` (C,) or (0,), the mask and the
    targets of validation rows, v = 0 without them, and ``options`` (P, 2M + 3): for each pattern
    met so far its modalities, their weights, the ridge, the error and the sharpness.
    """

    rows: RowRule
    intercept: bool
    criterion: Criterion
    _weights: tuple[float, ...] | None
    _ridges: Sequence[float]

    def __init__(self, modalities: Sequence[str]) -> None:
        super().__init__(modalities)
        self._solutions: dict[Pattern, Solution] = {}
        self._predicted_alone: dict[int, Tensor] = {}

    @override
    def _state_names(self) -> list[str]:
        indices = range(len(self.modalities))
        return [f"{kind}_{index}" for kind in PER_MODALITY for index in indices] + list(SHARED)

    @override
    def _state_changed(self, loaded: Sequence[str] = ()) -> None:
        self._solutions.clear()
        self._predicted_alone.clear()
        self.__dict__.pop("_comparison", None)
        self.__dict__.pop("_training", None)

    @override
    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Move to another device; the fitted state keeps its dtype if the model is cast."""
        # Apply `fn` to an empty tensor to learn the device that it moves to, and ignore its dtype.
        super()._apply(lambda t: t.to(fn(t.new_empty(0)).device), recurse)  # type: ignore[no-untyped-call]
        self._state_changed()
        return self

    def _per_modality(self, kind: str) -> list[Tensor]:
        return [self.get_buffer(f"{kind}_{index}") for index in range(len(self.modalities))]

    def _answers(self, name: str) -> Tensor:
        """Return targets as (n, r); classes as indicators (n, C)."""
        targets, classes = self.get_buffer(name), self.get_buffer("classes")
        if len(classes):
            return (targets[:, None] == classes).to(self.get_buffer("centre_0"))
        return targets.reshape(targets.shape[0], -1)

    @functools.cached_property
    def _training(self) -> TrainingRows:
        """The training rows."""
        kernels = [read_kernel(*kernel.tolist()) for kernel in self._per_modality("kernel")]
        observed = self.get_buffer("observed") > 0.5
        varies = torch.tensor([kernel is not None for kernel in kernels], device=observed.device)
        return TrainingRows(
            self._per_modality("rows"),
            observed & varies,
            self._answers("targets"),
            self.get_buffer("row_weights"),
            kernels,
        )

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
            sampled_rows(len(training.targets), groups.device),
            held_out,
            self._per_modality("validation_rows") if validated else None,
            self.get_buffer("validation_observed") > 0.5 if validated else None,
            self._ridges,
        )

    def _alone(self, m: int) -> Tensor:
        """Return `Comparison.alone`, from the cache if it was computed before."""
        if m not in self._predicted_alone:
            self._predicted_alone[m] = self._comparison.alone(m)
        return self._predicted_alone[m]

    def _solve(self, pattern: Pattern) -> Solution:
        """Return the regression of a pattern, from the cache if it was solved before."""
        if pattern not in self._solutions:
            with torch.no_grad(), without_autocast(self.get_buffer("targets")):
                self._solutions[pattern] = self._new_solution(pattern)
        return self._solutions[pattern]

    def _new_solution(self, pattern: Pattern) -> Solution:
        training = self._training
        varying = tuple(m for m in pattern if training.kernels[m] is not None)
        used = training.used(varying, self.rows)
        if not len(used):
            # Nothing is known: the best guess is the mean of all targets.
            y, w = training.targets, training.row_weights
            mean = (w @ y / w.sum()) if self.intercept else y.new_zeros(y.shape[1])
            choice = PatternChoice((), math.nan, None, None)
            return Solution(choice, (), used, y.new_zeros(0, y.shape[1]), mean)
        choice = self._known_choice(varying) or self._new_choice(varying, used)
        k = training.kernel(varying, choice.weights, used)
        alpha, b = solve(
            k,
            training.targets[used],
            choice.ridge,
            training.row_weights[used],
            intercept=self.intercept,
        )
        return Solution(choice, varying, used, alpha, b)

    def _known_choice(self, pattern: Pattern) -> PatternChoice | None:
        """Return the choice for a pattern from the state, or None."""
        m = len(self.modalities)
        wanted = [float(index in pattern) for index in range(m)]
        for row in self.get_buffer("options").tolist():
            if row[:m] == wanted:
                weights = tuple(row[m + index] for index in pattern)
                return read_choice(weights, row[2 * m :])
        return None

    def _new_choice(self, pattern: Pattern, used: Tensor) -> PatternChoice:
        """Choose the options of a pattern, and add them to the state."""
        weights = None
        if self._weights is not None:
            given = [self._weights[m] for m in pattern]
            weights = tuple(weight / (sum(given) or 1.0) for weight in given)
        classes = len(self.get_buffer("classes")) > 0
        free = classes or len(self._ridges) > 1 or (weights is None and len(pattern) > 1)
        if free:
            choice = choose(self._comparison, pattern, used, weights, self._alone, classes=classes)
        else:
            choice = PatternChoice(weights or (1.0,), self._ridges[0], None, None)
        m, table = len(self.modalities), self.get_buffer("options")
        row = table.new_zeros(2 * m + 3)
        for index, weight in zip(pattern, choice.weights, strict=True):
            row[index], row[m + index] = 1.0, weight
        row[2 * m :] = row.new_tensor([math.nan if x is None else x for x in choice[1:]])
        self.options = torch.cat([table, row[None]])
        return choice


def sampled_rows(num_rows: int, device: torch.device) -> Tensor:
    """Return the positions of the training rows on which choices are made, at most 2,000."""
    if num_rows <= MAX_COMPARED:
        return torch.arange(num_rows, device=device)
    generator = torch.Generator().manual_seed(SEED)
    return torch.randperm(num_rows, generator=generator)[:MAX_COMPARED].sort().values.to(device)


def read_kernel(number: float, width: float) -> Kernel | None:
    """Return the kernel that the state describes; None for a constant modality.

    Example:
        >>> read_kernel(0.0, 0.0), read_kernel(-1.0, 0.0)
        (Kernel(name='linear', width=0.0), None)
    """
    return None if number < 0 else Kernel(KERNELS[int(number)], width)
