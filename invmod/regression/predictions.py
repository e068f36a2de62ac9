"""Predictions of a fitted `PatternKernelRidge`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from invmod._checks import check_known, check_tensor, checked_rows
from invmod._precision import without_autocast
from invmod.missingness import mask_from_features, rows_by_pattern
from invmod.missingness.masks import MaskLike
from invmod.regression.fitting import flat_rows
from invmod.regression.given import GivenOptions
from invmod.regression.solving import Fitted, PatternSolution, Solution
from invmod.regression.training_rows import Pattern, Queries
from invmod.regression.units import Units

BLOCK = 4096  # Number of rows that are predicted at once.


class PatternPredictions(GivenOptions):
    """Predictions from the regressions of all patterns."""

    def forward(
        self,
        features: Mapping[str, Tensor | None],
        mask: MaskLike | None = None,
        *,
        pattern: Sequence[str] | None = None,
    ) -> Tensor:
        """Return the values of the regressions, with gradients with respect to the features.

        Arguments:
            features: modality name -> (N, ...). A modality that is absent or None is missing in
                all rows.
            mask: bool (N, M) or name -> (N,); if None, rows of NaN are missing.
            pattern: names of the modalities whose regression is used for all rows; a modality of
                the pattern that a row lacks adds 0 to its kernel. None: each row has the
                regression of its own modalities.

        Returns:
            (N, r) in the dtype of the model; for classes (N, C), values that are about 1 for the
            true class and 0 for others. They are no probabilities: see `probabilities`. A row
            with NaN in an available cell has NaN.

        Raises:
            RuntimeError: the model is not fitted.
            KeyError, TypeError, ValueError: as in `fit`.
        """
        self._check_fitted(type(self).__name__)
        width = self._training.targets.shape[1]
        return self._by_pattern(features, mask, width, lambda s, rows: s.values(rows), pattern)

    def smoother(
        self,
        features: Mapping[str, Tensor | None],
        mask: MaskLike | None = None,
        *,
        pattern: Sequence[str] | None = None,
    ) -> Tensor:
        r"""Return the matrix H of the linear smoother: the weight of each training row.

        .. math:: f(x) = H \, Y

        where f are the values of `forward`, and Y (n, r) the targets of the training rows, or for
        classes their indicators (n, C). A row of H answers which training rows a prediction comes
        from, and with which sign. With an intercept it sums to 1. H depends on the targets through
        the choice of options only, so it can be applied to other targets of any width.

        Cost: :math:`n^3/3` operations for the first call with a pattern and :math:`2 n^2` for each
        row. The Cholesky factors (n, n) of the last 8 patterns are kept, as `forward` does not,
        until the next `fit`; copies and pickles are made without them.

        Arguments:
            features, mask, pattern: as in `forward`.

        Returns:
            (N, n), in the dtype of the model, with gradients with respect to the features. The
            column of a training row that the pattern does not use is 0. A row without any modality
            has :math:`w_i / \sum_j w_j`, the training rows' shares of the weights, or 0 without an
            intercept. A row with NaN in an available cell has NaN.

        Raises:
            RuntimeError: the model is not fitted.
            KeyError, TypeError, ValueError: as in `fit`.

        Example:
            >>> from invmod import PatternKernelRidge
            >>> x = torch.tensor([[0.0], [0.0], [1.0], [1.0]], dtype=torch.float64)
            >>> model = PatternKernelRidge(["a"], kernel="linear", ridge=1e-9)
            >>> model = model.fit({"a": x}, x[:, 0])
            >>> model.smoother({"a": torch.tensor([[0.0], [torch.nan]])}).round(decimals=4)
            tensor([[0.5000, 0.5000, 0.0000, 0.0000],
                    [0.2500, 0.2500, 0.2500, 0.2500]], dtype=torch.float64)
        """
        self._check_fitted(f"{type(self).__name__}.smoother")
        width = len(self._training.targets)
        return self._by_pattern(features, mask, width, lambda s, rows: s.smoother(rows), pattern)

    def smoother_by_modality(
        self,
        features: Mapping[str, Tensor | None],
        mask: MaskLike | None = None,
        *,
        pattern: Sequence[str] | None = None,
    ) -> Tensor:
        r"""Return the parts of the matrix H of `smoother` that come from each modality.

        .. math:: k_p = \sum_{m \in p} \mu_m k_m \quad\Rightarrow\quad H = \sum_m H_m + H_0

        since H is an affine function of the kernel. H_0 is the part of the intercept. The parts of
        a prediction are :math:`H_m Y`, exactly and also with landmarks and neighbours; they may
        have any sign.

        Arguments:
            features, mask, pattern: as in `forward`.

        Returns:
            (M + 1, N, n) in the order of the modalities, which sums to `smoother`. The last part is
            that of the intercept, and 0 without one.

        Raises:
            RuntimeError: the model is not fitted.
            KeyError, TypeError, ValueError: as in `fit`.

        Example:
            >>> from invmod import PatternKernelRidge
            >>> x = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
            >>> model = PatternKernelRidge(["a", "b"], kernel="linear", ridge=1.0, intercept=False)
            >>> rows = {"a": x, "b": -x}
            >>> parts = model.fit(rows, x[:, 0]).smoother_by_modality(rows)
            >>> parts.shape, torch.allclose(parts.sum(dim=0), model.smoother(rows))
            (torch.Size([3, 2, 2]), True)
        """
        self._check_fitted(f"{type(self).__name__}.smoother_by_modality")
        n, count = len(self._training.targets), len(self.modalities) + 1
        flat = self._by_pattern(
            features,
            mask,
            count * n,
            lambda s, rows: s.smoother_parts(rows).flatten(1),
            pattern,
        )
        return flat.reshape(len(flat), count, n).transpose(0, 1)

    def kernel_matrix(
        self,
        features: Mapping[str, Tensor | None],
        mask: MaskLike | None = None,
        *,
        pattern: Sequence[str] | None = None,
    ) -> Tensor:
        r"""Return the kernel :math:`k_p` between rows and the training rows.

        Arguments:
            features, mask, pattern: as in `smoother`.

        Returns:
            (N, n), in the dtype of the model. The column of a training row that the pattern does
            not use is 0.

        Raises:
            RuntimeError: the model is not fitted.
            KeyError, TypeError, ValueError: as in `fit`.

        Example:
            >>> from invmod import PatternKernelRidge
            >>> x = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
            >>> model = PatternKernelRidge(["a"], kernel="linear", ridge=1.0).fit({"a": x}, x[:, 0])
            >>> model.kernel_matrix({"a": torch.tensor([[3.0]])})
            tensor([[-3.,  3.]], dtype=torch.float64)
        """
        self._check_fitted(f"{type(self).__name__}.kernel_matrix")
        width = len(self._training.targets)
        return self._by_pattern(
            features, mask, width, lambda s, rows: s.spread_kernel(rows), pattern
        )

    @torch.no_grad()
    def leave_one_out_smoother(
        self,
        modalities: Sequence[str],
        rows: Tensor | None = None,
        *,
        from_all: bool = False,
    ) -> Tensor:
        r"""Return the weights of the other training rows in each one's leave-one-out prediction.

        .. math:: f^{(-i)}(x_i) = \sum_j H_{ij} \, y_j, \qquad
            H_{ij} = -C_{ij} / C_{ii} \; (j \ne i), \qquad H_{ii} = 0

        where :math:`f^{(-i)}` is the regression that is fitted without row i, C is
        :math:`Q - Q 1 1' Q / (1' Q 1)` with :math:`Q = (K + l W^{-1})^{-1}`, and Q itself without
        an intercept. As for `smoother`, the targets need not be those of `fit`. The options of the
        pattern were chosen with row i.

        Cost: :math:`n^3` operations and two matrices (n, n).

        Arguments:
            modalities: names of the modalities of the pattern.
            rows: int64 (s,), positions of the training rows that are used, without repetition;
                None means all n.
            from_all: predict `rows` from all other training rows, not from each other. With
                landmarks it must be True, and the landmarks were drawn with row i.

        Returns:
            (s, s), or (s, n) with `from_all`. Rows and columns of training rows that the pattern
            does not use are 0. A row that the others do not determine has NaN.

        Raises:
            RuntimeError: the model is not fitted.
            KeyError: a modality is unknown.
            TypeError, ValueError: `rows` are no positions of training rows.

        Example:
            >>> from invmod import PatternKernelRidge
            >>> x = torch.tensor([[0.0], [0.0], [3.0]], dtype=torch.float64)
            >>> model = PatternKernelRidge(["a"], kernel="angle", ridge=1e-9).fit({"a": x}, x[:, 0])
            >>> model.leave_one_out_smoother(["a"])[0].round(decimals=4)
            tensor([0., 1., 0.], dtype=torch.float64)
        """
        function = f"{type(self).__name__}.leave_one_out_smoother"
        self._check_fitted(function)
        training, solution = self._training, self._solution(self._flags(function, modalities))
        chosen = checked_rows(function, rows, len(training.targets), training.targets.device)
        if not from_all:
            if not isinstance(solution, Solution):
                raise ValueError(f"{function}: with landmarks, `from_all` must be True.")
            return solution.leave_one_out(chosen)
        used = torch.isin(chosen, solution.rows)
        h = training.targets.new_zeros(len(chosen), len(training.targets))
        if solution.pattern and used.any():
            with without_autocast(h):
                h[used] = solution.left_out_smoother(self._left_out(solution, chosen[used]))
        return h

    def _left_out(self, solution: PatternSolution, rows: Tensor) -> Queries:
        """Return training rows (s,) of a pattern as queries that are left out."""
        training, positions = self._training, torch.searchsorted(solution.rows, rows)
        return Queries([x[rows] for x in training.x], training.observed[rows], positions)

    @torch.no_grad()
    def leave_one_out(
        self,
        modalities: Sequence[str],
        rows: Tensor | None = None,
        *,
        targets: Tensor | None = None,
    ) -> Tensor:
        r"""Return the prediction of each training row by the regression without this row.

        The options of the pattern were chosen with the row, and so were landmarks.

        Arguments:
            modalities: names of the modalities of the pattern.
            rows: int64 (s,), positions of the training rows to predict, which must be used by the
                pattern; None: all of them.
            targets: other targets (n, r) of the training rows than those of `fit`.

        Returns:
            (s, r); for classes (s, C).

        Raises:
            RuntimeError: the model is not fitted.
            KeyError: a modality is unknown.
            TypeError, ValueError: `rows` are no positions of training rows of the pattern, the
                pattern has no modality that varies, or the targets do not fit.

        Example:
            >>> from invmod import PatternKernelRidge
            >>> x = torch.tensor([[0.0], [0.0], [3.0]], dtype=torch.float64)
            >>> model = PatternKernelRidge(["a"], kernel="angle", ridge=1e-9).fit({"a": x}, x[:, 0])
            >>> model.leave_one_out(["a"]).round(decimals=4).flatten()
            tensor([0., 0., 0.], dtype=torch.float64)
        """
        function = f"{type(self).__name__}.leave_one_out"
        self._check_fitted(function)
        training = self._training
        solution = self._solution(self._flags(function, modalities))
        if not solution.pattern:
            raise ValueError(f"{function}: {list(modalities)} has no modality that varies.")
        chosen = solution.rows
        if rows is not None:
            chosen = checked_rows(function, rows, len(training.targets), training.targets.device)
            if not torch.isin(chosen, solution.rows).all():
                raise ValueError(
                    f"{function}: `rows` has training rows that {list(modalities)} does not use."
                )
        other = None if targets is None else self._other_targets(function, targets)
        with without_autocast(training.targets):
            return solution.left_out(self._left_out(solution, chosen), other)

    def with_targets(self, targets: Tensor) -> Callable[..., Tensor]:
        """Return the same regressions for other targets, with the options that were chosen.

        Arguments:
            targets: (n, r) of the training rows of `fit`.

        Returns:
            a function with the arguments of `forward` that returns (N, r). It keeps the
            coefficients of each pattern, and raises RuntimeError after another `fit`, a load or a
            move of the model.

        Raises:
            RuntimeError: the model is not fitted.
            TypeError, ValueError: the targets are no such tensor.

        Example:
            >>> from invmod import PatternKernelRidge
            >>> x = torch.tensor([[0.0], [1.0], [2.0]], dtype=torch.float64)
            >>> model = PatternKernelRidge(["a"], kernel="linear", ridge=1e-9)
            >>> model = model.fit({"a": x}, x[:, 0])
            >>> model.with_targets(3 * x)({"a": torch.tensor([[4.0]])}).round(decimals=4)
            tensor([[12.]], dtype=torch.float64)
        """
        function = f"{type(self).__name__}.with_targets"
        self._check_fitted(function)
        return OtherTargets(self, self._other_targets(function, targets).clone())

    def _other_targets(self, function: str, targets: Tensor) -> Tensor:
        own = self._training.targets
        check_tensor(function, "targets", targets)
        if targets.ndim != 2 or len(targets) != len(own):
            raise ValueError(
                f"{function}: `targets` must have shape ({len(own)}, r), got "
                f"{tuple(targets.shape)}."
            )
        if not (targets.is_floating_point() and targets.isfinite().all()):
            raise ValueError(f"{function}: `targets` must be finite floating point numbers.")
        return targets.detach().to(own)

    def _flags(self, function: str, modalities: Sequence[str]) -> list[bool]:
        """Return which modalities (M,) are named; raise for unknown names."""
        check_known(function, "modalities", modalities, self.modalities)
        return [name in modalities for name in self.modalities]

    def _by_pattern(
        self,
        features: Mapping[str, Tensor | None],
        mask: MaskLike | None,
        width: int,
        apply: Callable[[PatternSolution, Queries], Tensor],
        pattern: Sequence[str] | None = None,
    ) -> Tensor:
        """Return (N, width): `apply` to the rows of each pattern."""
        function = type(self).__name__
        x, observed = self._scaled_rows(function, features, mask)
        values, order = [x[0].new_empty(0, width)], [x[0].new_empty(0, dtype=torch.int64)]
        with without_autocast(observed):
            groups = rows_by_pattern(observed)
            if pattern is not None:
                every_row = torch.arange(len(observed), device=observed.device)
                groups = {tuple(self._flags(function, pattern)): every_row}
            for available, rows in groups.items():
                solution = self._solution(available)
                for block in torch.split(rows, BLOCK):
                    values.append(apply(solution, Queries(x, observed).of(block)))
                    order.append(block)
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
        r"""Return probabilities (N, C) of the classes, in ascending order of the classes.

        .. math:: \pi_c = \frac{e^{s_p f_c}}{\sum_{c'} e^{s_p f_{c'}}}

        where f are the values of `forward`, and the factor :math:`s_p` of each pattern minimises
        the log loss of held-out rows (temperature scaling). A row without any modality has the
        shares of the classes in the training rows, or 1 / C without an intercept.

        Raises:
            TypeError: the targets of `fit` were no classes.
            ValueError: a row has NaN or an infinity in an available cell.
        """
        self._check_fitted(f"{type(self).__name__}.probabilities")
        num_classes = len(self.get_buffer("classes"))
        if not num_classes:
            raise TypeError(
                f"{type(self).__name__}.probabilities: the targets were floating point, which have "
                "no probabilities. Fit with classes, integers or bools."
            )
        probabilities = self._by_pattern(
            features, mask, num_classes, lambda s, rows: s.probabilities(rows)
        )
        self._check_known(probabilities)
        return probabilities

    def _scaled_rows(
        self, function: str, features: Mapping[str, Tensor | None], mask: MaskLike | None
    ) -> tuple[list[Tensor], Tensor]:
        """Return centred and scaled rows (N, d_m) of each modality, and the mask (N, M)."""
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

    def _check_known(self, values: Tensor) -> None:
        """Raise if a row to be classified has no scores."""
        if wrong := values.isnan().any(dim=1).nonzero()[:, 0].tolist():
            raise ValueError(
                f"{type(self).__name__}: {len(wrong)} rows have NaN or an infinity in an available "
                f"cell, the first is row {wrong[0]}. Mark the cells as missing in the mask."
            )


class OtherTargets:
    """The regressions of a fitted model for other targets; see `PatternPredictions.with_targets`.

    Arguments:
        model: the fitted model.
        targets: (n, r) of its training rows.
    """

    def __init__(self, model: PatternPredictions, targets: Tensor) -> None:
        self._model, self.targets, self._training = model, targets, model._training
        self._fitted: dict[Pattern, tuple[PatternSolution, Fitted]] = {}

    def __call__(
        self,
        features: Mapping[str, Tensor | None],
        mask: MaskLike | None = None,
        *,
        pattern: Sequence[str] | None = None,
    ) -> Tensor:
        """Return predictions (N, r); arguments and errors are those of `forward`."""
        if self._model._training is not self._training:
            raise RuntimeError(
                "The model was fitted, loaded or moved since `with_targets`. Call it again."
            )
        return self._model._by_pattern(features, mask, self.targets.shape[1], self._values, pattern)

    def _values(self, solution: PatternSolution, queries: Queries) -> Tensor:
        cached = self._fitted.get(solution.pattern)
        if cached is None or cached[0] is not solution:  # `set_choice` replaces a solution.
            cached = self._fitted[solution.pattern] = solution, solution.fit(self.targets)
        return solution.values(queries, cached[1])
