"""The regressions of all patterns, with the weights and the ridge of each: chosen, or given."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import torch
from torch import Tensor
from typing_extensions import override

from invmod._precision import without_autocast
from invmod._tables import aligned
from invmod.missingness import pattern_name
from invmod.regression.kernels import Kernel
from invmod.regression.local import ProjectedSolution
from invmod.regression.patterns import Alone, PatternChoice, choose, read_choice
from invmod.regression.projection import Projection
from invmod.regression.solving import PatternSolution, Solution
from invmod.regression.state import PatternState
from invmod.regression.training_rows import Pattern

MAX_FACTORS = 8  # Number of patterns that keep a Cholesky factor.


class PatternRegressions(PatternState):
    """The regressions of all patterns, each of them made when it is first needed."""

    _weights: tuple[float, ...] | None
    neighbours: int
    probes: int | None

    def __init__(self, modalities: Sequence[str]) -> None:
        super().__init__(modalities)
        self._solutions: dict[Pattern, PatternSolution] = {}
        self._predicted_alone: dict[int, Alone] = {}
        self._projection: Projection | None = None
        self._keeps_factors = False  # Whether factors are kept after a fit, to be extended.

    @override
    def _state_changed(self, loaded: Sequence[str] = ()) -> None:
        super()._state_changed(loaded)
        self._solutions.clear()
        self._predicted_alone.clear()
        self._projection = None
        self._keeps_factors = False

    @property
    def kernels(self) -> dict[str, Kernel | None]:
        """Modality name -> its kernel; None for a modality that is constant."""
        self._check_fitted(f"{type(self).__name__}.kernels")
        return dict(zip(self.modalities, self._training.kernels, strict=True))

    @property
    def is_exact(self) -> bool:
        """Whether the regressions are exact, and not projected on landmarks."""
        self._check_fitted(f"{type(self).__name__}.is_exact")
        return self._landmarks() is None

    @property
    def choices(self) -> dict[tuple[str, ...], PatternChoice]:
        """Names of the available modalities -> weights and ridge, for the patterns met so far."""
        self._check_fitted(f"{type(self).__name__}.choices")
        return {
            tuple(self.modalities[m] for m in pattern): choice
            for pattern, choice in self._choices().items()
        }

    def summary(self) -> str:
        """Return the kernels and the options of the patterns met so far, as text."""
        kernels = aligned(
            ["modality", "kernel"],
            [[name, str(k) if k else "none (constant)"] for name, k in self.kernels.items()],
        )
        rows = [
            [
                pattern_name([m in names for m in self.modalities], self.modalities),
                ", ".join(f"{weight:.3f}" for weight in choice.weights),
                f"{choice.ridge:.3g}",
                "" if choice.error is None else f"{choice.error:.4g}",
            ]
            for names, choice in self.choices.items()
        ]
        return kernels + "\n\n" + aligned(["pattern", "weights", "ridge", "error"], rows)

    # --- solutions

    def _solution(self, available: Sequence[bool]) -> PatternSolution:
        """Return the regression for rows with the modalities where `available` (M,) is True."""
        pattern = self._varying([m for m, known in enumerate(available) if known])
        if pattern not in self._solutions:
            with torch.no_grad(), without_autocast(self.get_buffer("targets")):
                self._solutions[pattern] = self._new_solution(pattern)
        # The last pattern is the most recent one. Of the patterns before it, the oldest lose their
        # factors, each of which is as large as a kernel.
        solution = self._solutions[pattern] = self._solutions.pop(pattern)
        earlier = list(self._solutions.values())[:-1]
        with_factor = [each for each in earlier if each.has_cache]
        for each in with_factor[: -(MAX_FACTORS - 1)]:
            each.drop_cache()
        return solution

    def _varying(self, modalities: Sequence[int]) -> Pattern:
        """Return the positions of the modalities that are not constant."""
        return tuple(m for m in modalities if self._training.kernels[m] is not None)

    def _new_solution(self, pattern: Pattern) -> PatternSolution:
        used = self._training.used(pattern, self.rows)
        choice = PatternChoice((), math.nan, None, None)
        if pattern:
            choice = self._choice(pattern, used)
        landmarks = self._landmarks()
        if landmarks is None or not pattern:
            solution = Solution(self._training, pattern, used, choice, intercept=self.intercept)
            solution.keeps_factor = self._keeps_factors
            return solution
        if self._projection is None:
            self._projection = Projection(self._training, landmarks)
        return ProjectedSolution(
            self._projection,
            pattern,
            used,
            choice,
            intercept=self.intercept,
            neighbours=self.neighbours,
            probes=self.probes,
        )

    # --- options

    def _choice(self, pattern: Pattern, used: Tensor) -> PatternChoice:
        """Return the options of a pattern, chosen if they are not in the state."""
        if pattern not in self._choices():
            self._store(pattern, self._chosen(pattern, used))
        # Also a new choice is read from the state, which may have rounded it to float32.
        return self._choices()[pattern]

    def _chosen(self, pattern: Pattern, used: Tensor) -> PatternChoice:
        """Choose the options of a pattern that were not given in the constructor."""
        weights = None
        if self._weights is not None:
            weights = scaled([self._weights[m] for m in pattern])
        return self._new_choice(pattern, used, weights, self._candidate_ridges())

    def _new_choice(
        self,
        pattern: Pattern,
        used: Tensor,
        weights: tuple[float, ...] | None,
        ridges: Sequence[float],
    ) -> PatternChoice:
        """Choose the weights unless they are given, one of the ridges, and the sharpness."""
        classes = len(self.get_buffer("classes")) > 0
        if weights is None and len(pattern) == 1:
            weights = (1.0,)
        if weights is not None and len(ridges) == 1 and not classes:
            return PatternChoice(weights, ridges[0], None, None)
        compared = dataclasses.replace(self._comparison, ridges=ridges)
        with torch.no_grad(), without_autocast(used):
            return choose(compared, pattern, used, weights, self._alone, classes=classes)

    def _alone(self, m: int) -> Alone:
        """Return `Comparison.alone`, from the cache if it was computed before."""
        if m not in self._predicted_alone:
            self._predicted_alone[m] = self._comparison.alone(m)
        return self._predicted_alone[m]

    def _choices(self) -> dict[Pattern, PatternChoice]:
        """Return pattern -> options, read from the state."""
        num, choices = len(self.modalities), {}
        for row in self.get_buffer("options").tolist():
            pattern = tuple(m for m in range(num) if row[m])
            weights = tuple(row[num + m] for m in pattern)
            choices[pattern] = read_choice(weights, row[2 * num :])
        return choices

    def _store(self, pattern: Pattern, choice: PatternChoice) -> None:
        """Add the options of a pattern to the state, instead of earlier ones."""
        num, table = len(self.modalities), self.get_buffer("options")
        row = table.new_zeros(2 * num + 3)
        for m, weight in zip(pattern, choice.weights, strict=True):
            row[m], row[num + m] = 1.0, weight
        row[2 * num :] = row.new_tensor([math.nan if x is None else x for x in choice[1:]])
        others = (table[:, :num] != row[:num]).any(dim=1)
        self.options = torch.cat([table[others], row[None]])


def scaled(weights: Sequence[float]) -> tuple[float, ...]:
    """Return the weights scaled to sum 1; all 0 if they are all 0.

    Example:
        >>> scaled([1.0, 3.0])
        (0.25, 0.75)
    """
    total = sum(weights) or 1.0
    return tuple(weight / total for weight in weights)
