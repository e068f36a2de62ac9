"""The regressions of all patterns, with the weights and the ridge of each: chosen, or given."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Self

import torch
from torch import Tensor
from typing_extensions import override

from invmod._checks import check_known, checked_rows
from invmod._precision import without_autocast
from invmod._tables import aligned
from invmod.missingness import pattern_name
from invmod.regression.arguments import checked_positive, checked_weights
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

    def set_choice(self, weights: Mapping[str, float], ridge: float) -> Self:
        """Set the weights and the ridge for the pattern of the given modalities.

        They replace a choice until the next `fit`, and are a part of the state. If the targets are
        classes, the sharpness of their probabilities is fitted with these options, which costs an
        eigendecomposition.

        Arguments:
            weights: modality name -> weight, for all modalities of the pattern and no others. They
                are scaled to sum 1 over those that are not constant.
            ridge: l, above 0.

        Returns:
            itself.

        Raises:
            RuntimeError: the model is not fitted.
            KeyError: a modality is unknown.
            TypeError, ValueError: a weight or the ridge is out of range, or no modality that varies
                has a weight above 0.

        Example:
            >>> from invmod import PatternKernelRidge
            >>> x = torch.arange(6.0).reshape(6, 1)
            >>> model = PatternKernelRidge(["a", "b"]).fit({"a": x, "b": -x}, x[:, 0])
            >>> model.set_choice({"a": 3, "b": 1}, ridge=0.5).choices["a", "b"][:2]
            ((0.75, 0.25), 0.5)
        """
        function = f"{type(self).__name__}.set_choice"
        self._check_fitted(function)
        by_name = checked_weights(function, weights, self.modalities)
        ridge = checked_positive(function, "ridge", ridge)
        pattern = self._varying([m for m, name in enumerate(self.modalities) if name in by_name])
        given = [by_name[self.modalities[m]] for m in pattern]
        if not any(given):
            raise ValueError(
                f"{function}: `weights` must have a weight above 0 for a modality that is not "
                f"constant in the training rows, got {dict(by_name)}."
            )
        used = self._training.used(pattern, self.rows)
        self._store(pattern, self._new_choice(pattern, used, scaled(given), (ridge,)))
        self._solutions.pop(pattern, None)
        return self

    def choose(self, modalities: Sequence[str]) -> PatternChoice:
        """Return the options of a pattern, which are chosen now if they were not chosen yet.

        Otherwise they are chosen when the first row with the pattern is predicted.

        Arguments:
            modalities: names of the modalities of the pattern.

        Raises:
            RuntimeError: the model is not fitted.
            KeyError: a modality is unknown.
            ValueError: none of the modalities varies in the training rows.

        Example:
            >>> from invmod import PatternKernelRidge
            >>> x = torch.arange(6.0).reshape(6, 1)
            >>> model = PatternKernelRidge(["a", "b"], weights="equal", ridge=0.5)
            >>> model.fit({"a": x, "b": -x}, x[:, 0]).choose(["b", "a"]).weights
            (0.5, 0.5)
        """
        function = f"{type(self).__name__}.choose"
        self._check_fitted(function)
        check_known(function, "modalities", modalities, self.modalities)
        pattern = self._varying([m for m, name in enumerate(self.modalities) if name in modalities])
        if not pattern:
            raise ValueError(
                f"{function}: {list(modalities)} has no modality that varies in the training rows."
            )
        return self._choice(pattern, self._training.used(pattern, self.rows))

    def set_choices(self, choices: Mapping[Sequence[str], PatternChoice]) -> Self:
        """Set the options of patterns as another model has them in `choices`.

        It saves the time of the choice, if the other model was fitted on the same rows, for example
        in another process.

        Arguments:
            choices: names of the modalities of a pattern, those that vary, in the order of
                `modalities` -> its options.

        Returns:
            itself.

        Raises:
            RuntimeError: the model is not fitted.
            KeyError: a modality is unknown.
            ValueError: a pattern is not as described, or has another number of weights.
        """
        function = f"{type(self).__name__}.set_choices"
        self._check_fitted(function)
        patterns: list[tuple[Pattern, PatternChoice]] = []
        for names, choice in choices.items():
            check_known(function, "choices", names, self.modalities)
            pattern = self._varying([m for m, n in enumerate(self.modalities) if n in names])
            expected = tuple(self.modalities[m] for m in pattern)
            if not pattern or tuple(names) != expected or len(choice.weights) != len(pattern):
                raise ValueError(
                    f"{function}: the pattern {tuple(names)} must be {expected}, the modalities "
                    f"that vary, with a weight of each, got the weights {choice.weights}."
                )
            patterns.append((pattern, choice))
        for pattern, choice in patterns:
            self._store(pattern, choice)
            self._solutions.pop(pattern, None)
        return self

    @property
    def landmark_rows(self) -> dict[str, Tensor]:
        """Modality name -> int64 (L_m,), positions of its landmarks among the training rows.

        It is empty if the regressions are exact.
        """
        self._check_fitted(f"{type(self).__name__}.landmark_rows")
        landmarks = self._landmarks()
        return {} if landmarks is None else dict(zip(self.modalities, landmarks, strict=True))

    def set_landmarks(self, rows: Mapping[str, Tensor]) -> Self:
        """Set the landmarks of modalities, for a model that was fitted with `landmarks`.

        They replace those that were drawn until the next `fit`, and are a part of the state.
        Options that were chosen are kept.

        Arguments:
            rows: modality name -> int64 (L_m,), positions of distinct training rows that have the
                modality. Modalities that are absent keep their landmarks.

        Returns:
            itself.

        Raises:
            RuntimeError: the model is not fitted.
            KeyError: a modality is unknown.
            TypeError, ValueError: the regressions are exact, or the rows are not as described.

        Example:
            >>> from invmod import PatternKernelRidge
            >>> x = torch.arange(6.0).reshape(6, 1)
            >>> model = PatternKernelRidge(["a"], landmarks=2).fit({"a": x}, x[:, 0])
            >>> model.set_landmarks({"a": torch.tensor([5, 0])}).landmark_rows
            {'a': tensor([5, 0])}
        """
        function = f"{type(self).__name__}.set_landmarks"
        self._check_fitted(function)
        check_known(function, "rows", rows, self.modalities)
        if self._landmarks() is None:
            raise ValueError(f"{function}: the regressions are exact; build with `landmarks`.")
        observed, checked = self.get_buffer("observed") > 0.5, {}
        for m, name in enumerate(self.modalities):
            if name not in rows:
                continue
            at = checked_rows(function, rows[name], len(observed), observed.device)
            if not len(at) or not observed[at, m].all() or not self._varying([m]):
                raise ValueError(
                    f"{function}: `rows` must have training rows with the modality {name!r}, which "
                    f"must not be constant, got {at.tolist()}."
                )
            checked[m] = at
        for m, at in checked.items():
            setattr(self, f"landmarks_{m}", at.to(torch.float64))
        self._state_changed()
        return self

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
