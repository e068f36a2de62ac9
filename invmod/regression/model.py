"""The class `PatternKernelRidge`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Self

import torch
from torch import Tensor

from invmod._checks import check_choice, check_count
from invmod._precision import without_autocast
from invmod.missingness.masks import MaskLike
from invmod.regression import arguments
from invmod.regression.arguments import Auto
from invmod.regression.choice import RIDGES, Criterion, HeldOut, accurate_ridges
from invmod.regression.extension import ExtensibleRegressions
from invmod.regression.fitting import ComparedRows, Table, fit_modality
from invmod.regression.kernels import KernelName
from invmod.regression.projection import draw_landmarks
from invmod.regression.state import read_training, sampled_rows
from invmod.regression.training_rows import ROW_RULES, RowRule


class PatternKernelRidge(ExtensibleRegressions):
    r"""Predict a target from the available modalities by one kernel regression for each pattern.

    For the modalities p that a row has, the prediction is kernel ridge regression on a weighted sum
    of the kernels of these modalities:

    .. math::
        f_p(x) = \sum_i k_p(x, x_i) \, \alpha_i + b, \qquad
        k_p(x, x_i) = \sum_{m \in p} \mu_m \, a_m a_{im} \, \kappa_m(x_m, x_{im}), \qquad
        (K_p + l \, W^{-1}) \, \alpha + 1 b = Y, \quad 1' \alpha = 0

    where i runs over the training rows, :math:`a_{im}` is 1 if row i has modality m, :math:`\mu`
    are weights with sum 1, :math:`\kappa_m` is the kernel of the modality, l the ridge, W the
    diagonal matrix of the rows' weights, Y the targets, and b the intercept. Nothing is imputed and
    nothing is trained. Every pattern has a regression of its own, so predictions of rows with
    different modalities can be compared: each is the best guess from the modalities of its row. A
    row without any modality gets the mean of the targets. A training row that has only some of the
    modalities of p counts too, with a larger noise: :math:`\mu_m` is added to its ridge for each
    modality that it lacks, the variance of a function whose value is unknown.

    Options that are not given are chosen by the squared errors of rows that are left out, which
    have a closed form: the kernel, its width and the scaling of each modality by a regression on
    this modality alone; the weights and the ridge for each pattern. Weights other than equal ones
    are those of stacking (or half way to them), and are taken if they are better by more than one
    standard error of the difference. With more than `choice_rows` training rows the choices are
    made on that many of them, drawn with a fixed seed; all rows are used in the regression.

    With `landmarks` the kernel of each modality is projected on that many training rows, so that
    cost and memory grow with n only linearly. `neighbours` corrects each prediction with the
    training rows that explain most of what landmarks leave. The prediction is then the posterior
    mean of a Gaussian process whose covariance is the kernel itself within a row and its
    neighbours, and elsewhere the projected kernel; the mean variance that landmarks do not explain
    counts as noise. It is exact if all rows are neighbours, or if the landmarks span the kernel.
    The features are then kept as they are, without a copy: do not change them after `fit`.

    A choice on training rows can be fooled: by rows in clusters (several rows of a patient), for
    which `groups` leaves out whole clusters, and by features that were made with the targets of the
    training rows (embeddings of a network that was trained on them), for which only a validation
    set helps.

    For n training rows, a pattern costs :math:`n^3/3` operations to solve when it is first met, and
    as much memory as three matrices (n, n); its coefficients are kept, and after `smoother` a
    matrix (n, n) as well. A choice costs an eigendecomposition of at most `choice_rows` rows: one
    for each kernel, and one to three for each pattern. More than 20,000 training rows are refused
    without `landmarks`.

    Arguments:
        modalities: the M names in the order of the mask's columns.
        kernel: ``"gaussian"`` :math:`e^{-\gamma |x - y|^2 / 2}`, ``"angle"``
            :math:`e^{\gamma (\cos(x, y) - 1)}`, ``"linear"`` :math:`x'y`, ``"precomputed"`` (then
            the feature is the kernel itself: (N, N) in `fit`, (N, n) for predictions from n
            training rows), or ``"auto"``; one for all modalities, or name -> kernel. Rows are
            centred and scaled to mean square length 1 first.
        width: :math:`\gamma`, or ``"auto"``; one for all modalities, or name -> width. ``"auto"``
            compares .1, .25, .5, 1, 2, 4 and 8: it starts at 1 and moves while the error falls.
        weights: :math:`\mu`: ``"auto"``, ``"equal"``, or name -> weight. Weights are scaled to sum
            1 within each pattern.
        ridge: l, or ``"auto"``. It is not multiplied by the number of rows.
        rows: training rows of a pattern. ``"all"``: those that have any of its modalities, since
            rows that have only some of them count too. ``"superset"``: those that have all of them,
            which is better if each modality alone predicts most of the target.
            ``"exact"``: those that have these and no others, if there are at least 50, else as
            ``"superset"``; it is the only rule that is right if the target, given the available
            features, depends on which modalities are missing. If no row has all of them, ``"all"``
            is used.
        intercept: fit b; without it b is 0, and so is the prediction without any modality.
        standardize: divide each entry by its standard deviation; ``"auto"`` compares both.
        criterion: ``"loo"`` (leave-one-out), or ``"gcv"`` (generalised cross-validation) for the
            kernel and the ridge, where rows are left out one by one.
        choice_rows: largest number of training rows that choices are made on.
        landmarks: number of training rows on which the kernel of each modality is projected, drawn
            by randomly pivoted Cholesky with a fixed seed; with no more training rows than this,
            and without landmarks, the regression is exact.
        neighbours: number of training rows by which each prediction is corrected; it needs
            landmarks.
        probes: number of clusters in which neighbours are searched; None: among all training rows.
            Each training row belongs to the cluster of its nearest landmark, and a row searches the
            clusters of its nearest landmarks, in each modality. It is for many training rows: the
            time of an exact search grows with their number.
        dtype: floating dtype of all computations. In float32 the smaller ridges of the grid are
            left out, those below ten times the rounding error :math:`n \epsilon`.

    Raises:
        KeyError: a mapping has an unknown modality, or lacks one.
        TypeError, ValueError: an argument is out of range.

    References:
        Mercaldo and Blume, Missing data and prediction: the pattern submodel, Biostatistics 2020;
        Saunders, Gammerman and Vovk, Ridge Regression Learning Algorithm in Dual Variables, 1998;
        Rifkin and Lippert, Notes on Regularized Least Squares, 2007 (leave-one-out in closed form).

    Example:
        >>> x = torch.tensor([[-1.0], [0.0], [1.0], [2.0]], dtype=torch.float64)
        >>> model = PatternKernelRidge(["a", "b"], kernel="linear", ridge=1e-9)
        >>> model = model.fit({"a": x, "b": 3 - x}, 2 * x[:, 0] + 1)
        >>> model.predict({"a": torch.tensor([[3.0], [torch.nan]]), "b": torch.tensor([[0.0]] * 2)})
        tensor([7.0000, 7.0000], dtype=torch.float64)
    """

    def __init__(
        self,
        modalities: Sequence[str],
        *,
        kernel: KernelName | Auto | Mapping[str, KernelName | Auto] = "auto",
        width: float | Auto | Mapping[str, float | Auto] = "auto",
        weights: Literal["auto", "equal"] | Mapping[str, float] = "auto",
        ridge: float | Auto = "auto",
        rows: RowRule = "all",
        intercept: bool = True,
        standardize: bool | Auto = "auto",
        criterion: Criterion = "loo",
        choice_rows: int = 2000,
        landmarks: int | None = None,
        neighbours: int | None = None,
        probes: int | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> None:
        super().__init__(modalities)
        self._candidates = arguments.candidate_kernels(kernel, width, self.modalities)
        self._weights = arguments.fixed_weights(weights, self.modalities)
        self._ridges = (
            RIDGES
            if ridge == "auto"
            else (arguments.checked_positive(arguments.FUNCTION, "ridge", ridge),)
        )
        check_choice("PatternKernelRidge", "rows", rows, ROW_RULES)
        check_choice("PatternKernelRidge", "criterion", criterion, ("loo", "gcv"))
        self.rows: RowRule = rows
        self.criterion: Criterion = criterion
        self.intercept = bool(intercept)
        arguments.check_dtype(dtype)
        self.choice_rows = check_count(arguments.FUNCTION, "choice_rows", choice_rows)
        counts = arguments.checked_approximation(landmarks, neighbours, probes)
        self.landmarks, self.neighbours, self.probes = counts
        self._scalings = (False, True) if standardize == "auto" else (bool(standardize),)
        self.dtype = dtype

    def fit(
        self,
        features: Mapping[str, Tensor | None],
        targets: Tensor,
        mask: MaskLike | None = None,
        *,
        rows: Tensor | None = None,
        groups: Tensor | None = None,
        row_weights: Tensor | None = None,
        validation: tuple[Mapping[str, Tensor | None], Tensor, MaskLike | None] | None = None,
    ) -> Self:
        """Fit on the training rows only. If an error is raised, the model is left as it was.

        Arguments:
            features: modality name -> (N, ...). The content of masked cells is never read.
            targets: (N,) or (N, r), floating point; or classes (N,), integers or bools.
            mask: bool (N, M) or name -> (N,), True for the observed cells; if None, rows of NaN
                are missing.
            rows: int64 (n,), the training rows; None means all N.
            groups: integers (N,). Rows with the same number are left out together when choices are
                made, so that rows in clusters do not vouch for each other.
            row_weights: (N,), above 0. A weight of 2 counts as two equal rows that are left out
                together. Weights n / (C n_c) balance C classes with n_c rows.
            validation: features, targets and mask of rows that choices are made on instead.

        Returns:
            itself.

        Raises:
            KeyError: a modality is unknown or absent.
            TypeError, ValueError: shapes or types do not fit, there are too many rows, a modality
                is observed in none of them, or an observed cell or a target is not finite.
        """
        function = f"{type(self).__name__}.fit"
        if rows is not None and any(each[0].name == "precomputed" for each in self._candidates):
            raise ValueError(f"{function}: `rows` cannot be given with a precomputed kernel.")
        table, numbers = self._checked_table(
            function, features, targets, mask, rows, all_needed=True
        )
        projected = self.landmarks is not None and len(numbers) > self.landmarks
        if not projected:
            arguments.check_num_rows(function, len(numbers))
        row_weights = arguments.checked_row_weights(function, row_weights, targets)
        groups = arguments.group_numbers(function, groups, targets)
        validated: Table | None = None
        if validation is not None:
            validated, _ = self._checked_table(
                f"{function}: `validation`", *validation, None, all_needed=False
            )
        dtype, device = self.dtype, numbers.device
        classes = arguments.classes_of(function, table.targets, dtype)
        held_out = HeldOut(
            arguments.answers(table.targets, classes, dtype),
            row_weights.to(device, dtype)[numbers],
            None if groups is None else groups.to(device)[numbers],
            None if validated is None else arguments.answers(validated.targets, classes, dtype),
            self.intercept,
            self.criterion,
        )
        ridges = accurate_ridges(self._ridges, len(numbers), dtype)
        compared = ComparedRows(
            table, validated, held_out, sampled_rows(len(numbers), self.choice_rows, device), ridges
        )
        state = self._shared_state(compared, classes)
        with torch.no_grad(), without_autocast(table.observed):
            for m, candidates in enumerate(self._candidates):
                state |= fit_modality(m, compared, candidates, self._scalings, projected=projected)
                state[f"landmarks_{m}"] = held_out.targets.new_zeros(0, dtype=torch.float64)
            if projected:
                state |= self._drawn_landmarks(state, held_out.targets)
        self._set_state(state)
        return self

    def _drawn_landmarks(self, state: Mapping[str, Tensor], targets: Tensor) -> dict[str, Tensor]:
        """Return the landmarks of each modality, for a state that lacks them."""
        training = read_training(state, targets, projected=True)
        drawn = draw_landmarks(training, self.landmarks or 0)
        # In float64, which has all positions exactly.
        return {f"landmarks_{m}": at.to(torch.float64) for m, at in enumerate(drawn)}

    def _shared_state(self, compared: ComparedRows, classes: Tensor) -> dict[str, Tensor]:
        """Return the part of the state that does not belong to one modality."""
        table, validation, held_out = compared.table, compared.validation, compared.held_out
        dtype = self.dtype
        none = held_out.targets.new_zeros(0)
        return {
            "observed": table.observed.to(dtype),
            "targets": table.targets.to(dtype),
            "row_weights": held_out.row_weights,
            "groups": none if held_out.groups is None else held_out.groups.to(dtype),
            "classes": classes.to(dtype),
            "validation_observed": none if validation is None else validation.observed.to(dtype),
            "validation_targets": none if validation is None else validation.targets.to(dtype),
            "options": none.new_zeros(0, 2 * len(self.modalities) + 3),
        }
