r"""Training rows that are appended to a fitted model, and targets that are replaced.

A pattern whose Cholesky factor L is in memory gets w more rows at :math:`n^2 w` operations instead
of :math:`n^3/3`:

.. math:: L_{21} = K_{21} L^{-T}, \qquad L_{22} L_{22}' = K_{22} + l W^{-1} - L_{21} L_{21}'

With landmarks, the sums F' W F and F' W Y of `projection.py` get those of the new rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Self

import torch
from torch import Tensor

from invmod._checks import checked_rows
from invmod._precision import without_autocast
from invmod.missingness import mask_from_features
from invmod.missingness.masks import MaskLike
from invmod.regression import arguments
from invmod.regression.fitting import Table, flat_rows
from invmod.regression.predictions import PatternPredictions
from invmod.regression.solving import Solution
from invmod.regression.state import answers_of, read_training
from invmod.regression.training_rows import Pattern, TrainingRows
from invmod.regression.units import Units


class ExtensibleRegressions(PatternPredictions):
    """The regressions of all patterns, to whose training rows others can be appended."""

    dtype: torch.dtype

    def extend(
        self,
        features: Mapping[str, Tensor | None],
        targets: Tensor,
        mask: MaskLike | None = None,
        *,
        rows: Tensor | None = None,
        row_weights: Tensor | None = None,
    ) -> Self:
        r"""Append training rows to a fitted model, which is not fitted from the start.

        The result is that of `fit` on all rows with these parts frozen: the centre and the scale of
        each modality, its kernel and width (a modality that was constant stays without a part),
        landmarks, whether the regressions are exact or projected, and the options of the patterns
        that were met so far. Everything else is exact up to rounding, in any number of steps. The
        options of a pattern that is met later are chosen on all rows. When the frozen parts no
        longer suit the rows, call `fit`.

        For n training rows and w new ones, a pattern of which a factor is in memory costs
        :math:`n^2 w` operations instead of :math:`n^3/3`. Factors of the last 8 patterns are in
        memory after `smoother`, and after a first call of this method. With landmarks, the sums
        over training rows get those of the new rows, and a pattern is solved from them again. If an
        error is raised, the model is left as it was.

        With landmarks the features are joined with those of `fit` in memory, in their dtype, even
        if those are in a file.

        Arguments:
            features: modality name -> (N, ...). A modality that is absent or None is missing in all
                rows.
            targets: (N,) or (N, r), as in `fit`; classes must be among those of `fit`.
            mask: bool (N, M) or name -> (N,), True for the observed cells; if None, rows of NaN
                are missing.
            rows: int64 (w,), the rows to append; None means all N.
            row_weights: (N,), above 0; None: all 1.

        Returns:
            itself. If the model was fitted with `groups`, each new row is a group of its own.

        Raises:
            RuntimeError: the model is not fitted.
            KeyError: a modality is unknown.
            TypeError, ValueError: shapes or types do not fit those of `fit`, there are too many
                rows, a kernel is precomputed, or an observed cell or a target is not finite.

        Example:
            >>> from invmod import PatternKernelRidge
            >>> x = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
            >>> model = PatternKernelRidge(["a"], kernel="linear", ridge=1e-9)
            >>> model = model.fit({"a": x}, x[:, 0])
            >>> model = model.extend({"a": 3 * x}, torch.tensor([-3.0, 9.0], dtype=torch.float64))
            >>> model.predict({"a": torch.tensor([[1.0]])}).round(decimals=4)
            tensor([3.4000], dtype=torch.float64)
        """
        function = f"{type(self).__name__}.extend"
        self._check_fitted(function)
        if any(kernel and kernel.name == "precomputed" for kernel in self._training.kernels):
            raise ValueError(
                f"{function}: no rows can be appended to a precomputed kernel. Call `fit` with the "
                "kernel of all rows."
            )
        if all(x is None for x in features.values()):
            raise ValueError(f"{function}: `features` has no modality.")
        table, numbers = self._checked_table(
            function, features, targets, mask, rows, all_needed=False
        )
        if self.is_exact:
            arguments.check_num_rows(function, len(self._training.targets) + len(numbers))
        row_weights = arguments.checked_row_weights(function, row_weights, targets)[numbers]
        self._replace(self._extended_state(function, table, row_weights))
        return self

    def set_targets(self, targets: Tensor) -> Self:
        """Replace the targets of all training rows; nothing else changes.

        Options that were chosen, and factors that are in memory, are kept.

        Arguments:
            targets: (n,) or (n, r) of the training rows, floating point, or classes (n,) that are
                among those of `fit`.

        Returns:
            itself.

        Raises:
            RuntimeError: the model is not fitted.
            TypeError, ValueError: the targets are of another kind than those of `fit`, or are not
                finite.

        Example:
            >>> from invmod import PatternKernelRidge
            >>> x = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
            >>> model = PatternKernelRidge(["a"], kernel="linear", ridge=1e-9)
            >>> model = model.fit({"a": x}, x[:, 0])
            >>> model.set_targets(5 * x[:, 0]).predict({"a": x}).round(decimals=4)
            tensor([-5.,  5.], dtype=torch.float64)
        """
        function = f"{type(self).__name__}.set_targets"
        self._check_fitted(function)
        own = self.get_buffer("targets")
        arguments.check_targets(function, targets, len(own))
        self._check_kind(function, targets, width=False)
        if not targets.isfinite().all():
            raise ValueError(f"{function}: `targets` must be finite, got NaN or an infinity.")
        changed = {"targets": targets.detach().to(own)}
        if not len(self.get_buffer("classes")):  # Their shape follows that of the targets.
            changed["classes"] = changed["targets"][:0]
        self._replace(self._present_state() | changed)
        return self

    # --- the state

    def _present_state(self) -> dict[str, Tensor]:
        return {name: self.get_buffer(name) for name in self._state_names()}

    def _extended_state(
        self, function: str, table: Table, row_weights: Tensor
    ) -> dict[str, Tensor]:
        """Return the state with the rows of a table."""
        self._check_kind(function, table.targets, width=True)
        state, count = self._present_state(), len(table.observed)
        added = {
            f"rows_{m}": self._appended_rows(function, m, table)
            for m in range(len(self.modalities))
        }
        added |= {
            "observed": table.observed,
            "targets": table.targets,
            "row_weights": row_weights,
        }
        groups = state["groups"]
        if len(groups):
            added["groups"] = groups.max() + 1 + torch.arange(count, device=groups.device)
        return state | {
            name: torch.cat([state[name], x.to(state[name])]) for name, x in added.items()
        }

    def _appended_rows(self, function: str, m: int, table: Table) -> Tensor:
        """Return the rows (w, d_m) of a modality, in the form and dtype of the state."""
        rows, name = self.get_buffer(f"rows_{m}"), self.modalities[m]
        x, observed = table.x[m].to(rows.device), table.observed[:, m].to(rows.device)
        if not x.shape[1] and not observed.any():  # The modality is absent.
            return rows.new_zeros(len(x), rows.shape[1])
        if x.shape[1] != rows.shape[1]:
            raise ValueError(
                f"{function}: the feature of {name!r} must have {rows.shape[1]} entries in each "
                f"row as in `fit`, got {x.shape[1]}."
            )
        if self._landmarks() is None:
            return Units(self.get_buffer(f"centre_{m}"), self.get_buffer(f"scale_{m}")).apply(
                x, observed
            )
        x = x.to(rows.dtype)
        if not x[observed].isfinite().all():
            raise ValueError(
                f"{function}: the feature of {name!r} is too large for {rows.dtype}, the dtype of "
                "the features in `fit`."
            )
        return x

    def _check_kind(self, function: str, targets: Tensor, *, width: bool) -> None:
        """Raise unless targets are numbers or known classes, as those of `fit`.

        Arguments:
            width: numbers must have the same number of columns, too.
        """
        own, classes = self.get_buffer("targets"), self.get_buffer("classes")
        if targets.is_floating_point() == (len(classes) > 0):
            kind = "classes, integers or bools" if len(classes) else "floating point"
            raise TypeError(
                f"{function}: `targets` must be {kind}, as in `fit`, got {targets.dtype}."
            )
        if width and targets.shape[1:] != own.shape[1:]:
            raise ValueError(
                f"{function}: `targets` must have the shape (N, {own.shape[1]}) as in `fit`, got "
                f"{tuple(targets.shape)}."
                if own.ndim == 2
                else f"{function}: `targets` must have the shape (N,) as in `fit`, got "
                f"{tuple(targets.shape)}."
            )
        if len(classes):
            known = torch.isin(targets.to(classes), classes)
            if not known.all():
                new = sorted(set(targets.to(classes)[~known].long().tolist()))
                raise ValueError(
                    f"{function}: `targets` has the classes {new}, which `fit` has not seen. Call "
                    "`fit` with all rows."
                )

    def _replace(self, state: Mapping[str, Tensor]) -> None:
        """Set a state with more rows or other targets; keep the factors and sums that remain."""
        projected = self._landmarks() is not None
        training = read_training(
            state, answers_of(state["targets"], state["classes"]), projected=projected
        )
        with torch.no_grad(), without_autocast(training.targets):
            solutions = self._extended_solutions(training)
            projection = None if self._projection is None else self._projection.extended(training)
        self._set_state(state)
        self.__dict__["_training"] = training
        self._solutions |= solutions
        self._projection, self._keeps_factors = projection, True

    def _extended_solutions(self, training: TrainingRows) -> dict[Pattern, Solution]:
        """Return the exact solutions that have a factor, with the training rows appended."""
        solutions = {}
        for pattern, solution in self._solutions.items():
            if not pattern or not isinstance(solution, Solution):
                continue
            try:
                extended = solution.extended(training, training.used(pattern, self.rows))
            except ValueError:
                continue  # Not positive definite: the pattern is solved again when it is needed.
            if extended is not None:
                solutions[pattern] = extended
        return solutions

    # --- checks

    def _checked_table(
        self,
        function: str,
        features: Mapping[str, Tensor | None],
        targets: Tensor,
        mask: MaskLike | None,
        rows: Tensor | None,
        *,
        all_needed: bool,
    ) -> tuple[Table, Tensor]:
        """Check rows with targets; return the chosen ones, and their numbers (n,).

        With `all_needed` every modality must be present, and observed in one of the rows.
        """
        if mask is None:
            mask = mask_from_features(features, self.modalities)
        observed_rows = self._observed_rows(function, features, mask, rows, all_needed=all_needed)
        present = next(x for x in features.values() if x is not None)
        num_rows, device = present.shape[0], present.device
        arguments.check_targets(function, targets, num_rows)
        numbers = checked_rows(function, rows, num_rows, device)
        x = []
        observed = torch.zeros(num_rows, len(self.modalities), dtype=torch.bool, device=device)
        for m, (name, at) in enumerate(zip(self.modalities, observed_rows, strict=True)):
            values = features.get(name)
            if values is None:
                # Only a validation set may lack a modality.
                x.append(torch.zeros(len(numbers), 0, device=device))
                continue
            arguments.check_observed(function, name, values, at, needed=all_needed)
            observed[at, m] = True
            # All rows need no copy, so that they can stay in a file.
            x.append(flat_rows(values) if rows is None else flat_rows(values)[numbers])
        chosen = targets.to(device)[numbers]
        if chosen.is_floating_point() and not chosen.isfinite().all():
            raise ValueError(f"{function}: `targets` must be finite, got NaN or an infinity.")
        return Table(x, observed[numbers], chosen), numbers
