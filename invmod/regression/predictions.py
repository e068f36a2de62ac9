"""Predictions of a fitted `PatternKernelRidge`, and what was chosen for it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from invmod._precision import without_autocast
from invmod._tables import aligned
from invmod.missingness import mask_from_features, pattern_name, rows_by_pattern
from invmod.missingness.masks import MaskLike
from invmod.regression.fitting import Units, flat_rows
from invmod.regression.kernels import Kernel
from invmod.regression.patterns import PatternChoice, read_choice
from invmod.regression.solving import PatternRegressions

BLOCK = 4096  # Number of rows that are predicted at once.


class PatternPredictions(PatternRegressions):
    """Predictions from the regressions of all patterns."""

    def forward(
        self, features: Mapping[str, Tensor | None], mask: MaskLike | None = None
    ) -> Tensor:
        """Return the values of the regressions, with gradients with respect to the features.

        Arguments:
            features: modality name -> (N, ...). A modality that is absent or None is missing in
                all rows.
            mask: bool (N, M) or name -> (N,); if None, rows of NaN are missing.

        Returns:
            (N, r) in the dtype of the model; for classes (N, C), values that are about 1 for the
            true class and 0 for others. They are no probabilities: see `probabilities`. A row
            with NaN in an available cell has NaN.

        Raises:
            RuntimeError: the model is not fitted.
            KeyError, TypeError, ValueError: as in `fit`.
        """
        x, observed = self._scaled_rows(f"{type(self).__name__}", features, mask)
        values = [x[0].new_empty(0, self._training.targets.shape[1])]
        order = []
        with without_autocast(observed):
            for available, rows in rows_by_pattern(observed).items():
                solution = self._solve(tuple(m for m, known in enumerate(available) if known))
                for block in torch.split(rows, BLOCK):
                    k = self._training.kernel_to(
                        solution.pattern,
                        solution.choice.weights,
                        solution.rows,
                        [part[block] for part in x],
                        observed[block],
                    )
                    values.append(k @ solution.alpha + solution.intercept)
                    order.append(block)
        if not order:
            return values[0]
        joined = torch.cat(values)[torch.cat(order).argsort()]
        # A constant modality, or one of weight 0, has no part in the sum but must not hide NaN.
        finite = torch.stack([part.isfinite().all(dim=1) for part in x]).all(dim=0)
        return torch.where(finite[:, None], joined, torch.nan)

    @torch.no_grad()
    def predict(
        self, features: Mapping[str, Tensor | None], mask: MaskLike | None = None
    ) -> Tensor:
        """Return predictions: (N,) or (N, r) as the targets of `fit`, or the classes (N,).

        Arguments and errors are those of `forward`.

        Raises:
            ValueError: a row to be classified has NaN or an infinity in an available cell.
        """
        values: Tensor = self(features, mask)
        classes = self.get_buffer("classes")
        if not len(classes):
            return values[:, 0] if self.get_buffer("targets").ndim == 1 else values
        self._check_known(values)
        return classes[values.argmax(dim=1)].to(torch.int64)

    @torch.no_grad()
    def probabilities(
        self, features: Mapping[str, Tensor | None], mask: MaskLike | None = None
    ) -> Tensor:
        r"""Return probabilities of classes (N, C), in the order of `classes`.

        .. math:: \pi_c = \frac{e^{s_p f_c}}{\sum_{c'} e^{s_p f_{c'}}}

        where f are the values of `forward`, and the factor :math:`s_p` of each pattern minimises
        the log loss of held-out rows (temperature scaling). A row without any modality has the
        shares of the classes in the training rows.

        Raises:
            TypeError: the targets of `fit` were no classes.
            ValueError: a row has NaN or an infinity in an available cell.
        """
        if not len(self.get_buffer("classes")):
            raise TypeError(
                f"{type(self).__name__}.probabilities: the targets were floating point, which have "
                "no probabilities. Fit with classes, integers or bools."
            )
        _, observed = self._scaled_rows(type(self).__name__, features, mask)
        values: Tensor = self(features, mask)
        self._check_known(values)
        for available, rows in rows_by_pattern(observed).items():
            solution = self._solve(tuple(m for m, known in enumerate(available) if known))
            if solution.choice.sharpness is not None:
                values[rows] = (solution.choice.sharpness * values[rows]).softmax(dim=1)
        return values

    def _scaled_rows(
        self, function: str, features: Mapping[str, Tensor | None], mask: MaskLike | None
    ) -> tuple[list[Tensor], Tensor]:
        """Return centred and scaled rows (N, d_m) of each modality, and the mask (N, M)."""
        self._check_fitted(function)
        if mask is None:
            mask = mask_from_features(features, self.modalities)
        num_rows = self._check_features(function, features, mask)
        device = self.get_buffer("targets").device
        observed = self._mask_columns(function, features, mask, num_rows).to(device)
        x = []
        for m, name in enumerate(self.modalities):
            units = Units(self.get_buffer(f"centre_{m}"), self.get_buffer(f"scale_{m}"))
            width = self.get_buffer(f"rows_{m}").shape[1]
            values = features.get(name)
            if values is None:
                x.append(units.centre.new_zeros(num_rows, width))
                continue
            rows = flat_rows(values).to(device)
            if rows.shape[1] != width:
                raise ValueError(
                    f"{function}: the feature of {name!r} must have {width} entries in each row as "
                    f"in `fit`, got {rows.shape[1]}."
                )
            x.append(units.apply(rows, observed[:, m]))
        return x, observed

    def _check_fitted(self, function: str) -> None:
        if getattr(self, "targets", None) is None:
            raise RuntimeError(f"{function}: not fitted yet. Call `fit` with training rows first.")

    def _check_known(self, values: Tensor) -> None:
        """Raise if a row to be classified has no scores."""
        if wrong := values.isnan().any(dim=1).nonzero()[:, 0].tolist():
            raise ValueError(
                f"{type(self).__name__}: {len(wrong)} rows have NaN or an infinity in an available "
                f"cell, the first is row {wrong[0]}. Mark the cells as missing in the mask."
            )

    @property
    def kernels(self) -> dict[str, Kernel | None]:
        """Modality name -> its kernel; None for a modality that is constant."""
        self._check_fitted(f"{type(self).__name__}.kernels")
        return dict(zip(self.modalities, self._training.kernels, strict=True))

    @property
    def choices(self) -> dict[tuple[str, ...], PatternChoice]:
        """Names of the available modalities -> what was chosen for the patterns met so far."""
        self._check_fitted(f"{type(self).__name__}.choices")
        num, found = len(self.modalities), {}
        for row in self.get_buffer("options").tolist():
            pattern = tuple(m for m in range(num) if row[m])
            weights = tuple(row[num + m] for m in pattern)
            found[tuple(self.modalities[m] for m in pattern)] = read_choice(weights, row[2 * num :])
        return found

    def summary(self) -> str:
        """Return the kernels and the choices for the patterns met so far, as text."""
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
