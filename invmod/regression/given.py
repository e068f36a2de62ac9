"""Options of patterns, and landmarks, that are given: by the user, or by another model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Self

import torch
from torch import Tensor

from invmod._checks import check_known, checked_rows
from invmod.regression.arguments import checked_positive, checked_weights
from invmod.regression.patterns import PatternChoice
from invmod.regression.regressions import PatternRegressions, scaled
from invmod.regression.training_rows import Pattern


class GivenOptions(PatternRegressions):
    """The regressions of all patterns, of which options and landmarks can be set."""

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
