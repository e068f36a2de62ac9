"""`PatternKernelRidge` as a classifier and a regressor of scikit-learn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import ClassifierMixin, MultiOutputMixin, RegressorMixin, is_classifier
from sklearn.model_selection import check_cv
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import (
    _check_sample_weight,
    check_consistent_length,
    check_is_fitted,
    column_or_1d,
)
from torch import Tensor

from invmod.integrations.sklearn.base import Groups, ModalityEstimator, Partial
from invmod.regression import PatternKernelRidge

Option = float | Literal["auto"]


class PatternKernelEstimator(ModalityEstimator):
    """Base: fits `invmod.PatternKernelRidge` on a table."""

    def __init__(
        self,
        groups: Groups = None,
        *,
        kernel: str | Mapping[str, str] = "auto",
        width: Option | Mapping[str, Option] = "auto",
        weights: Literal["auto", "equal"] | Mapping[str, float] = "auto",
        ridge: Option = "auto",
        rows: Literal["all", "superset", "exact"] = "all",
        intercept: bool = True,
        standardize: bool | Literal["auto"] = "auto",
        criterion: Literal["loo", "gcv"] = "loo",
        landmarks: int | None = None,
        neighbours: int | None = None,
        probes: int | None = None,
        cv: Any = None,
        partial: Partial = "missing",
    ) -> None:
        self.groups = groups
        self.kernel = kernel
        self.width = width
        self.weights = weights
        self.ridge = ridge
        self.rows = rows
        self.intercept = intercept
        self.standardize = standardize
        self.criterion = criterion
        self.landmarks = landmarks
        self.neighbours = neighbours
        self.probes = probes
        self.cv = cv
        self.partial = partial

    def _fit(self, X: NDArray[Any], targets: NDArray[Any], sample_weight: Any, groups: Any) -> None:
        """Fit on a checked table, numeric targets, and the group numbers of rows."""
        columns = self._fit_groups(X)
        features, mask = self._features_and_mask(X, columns)
        model: PatternKernelRidge = PatternKernelRidge(
            list(columns),
            kernel=self.kernel,  # type: ignore[arg-type]  # checked by the model
            width=self.width,
            weights=self.weights,
            ridge=self.ridge,
            rows=self.rows,
            intercept=self.intercept,
            standardize=self.standardize,
            criterion=self.criterion,
            landmarks=self.landmarks,
            neighbours=self.neighbours,
            probes=self.probes,
        )
        model.fit(
            features,
            torch.from_numpy(targets),
            mask,
            groups=None if groups is None else torch.from_numpy(groups),
            row_weights=None if sample_weight is None else torch.from_numpy(sample_weight),
        )
        # Both are set at the end, so that an error leaves an earlier fit as it is.
        self.groups_, self.model_ = columns, model

    def _given_rows(
        self, X: NDArray[Any], y: NDArray[Any], sample_weight: Any, row_groups: Any
    ) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any] | None, NDArray[Any] | None]:
        """Return the rows whose weight is above 0, their weights, and their group numbers."""
        groups = self._group_numbers(X, y, row_groups)
        if sample_weight is None:
            return X, y, None, groups
        weights = _check_sample_weight(sample_weight, X, dtype=np.float64, ensure_non_negative=True)
        kept = weights > 0
        return X[kept], y[kept], weights[kept], None if groups is None else groups[kept]

    def _group_numbers(
        self, X: NDArray[Any], y: NDArray[Any], row_groups: Any
    ) -> NDArray[Any] | None:
        """Return the number of the group (N,) in which each row is left out, or None."""
        if row_groups is not None:
            row_groups = column_or_1d(row_groups)
            check_consistent_length(X, row_groups)
        if self.cv is None:
            if row_groups is None:
                return None
            return np.unique(row_groups, return_inverse=True)[1]
        splitter = check_cv(self.cv, y, classifier=is_classifier(self))
        numbers, times = np.zeros(len(X), dtype=np.int64), np.zeros(len(X), dtype=np.int64)
        complements = True
        for number, (train, test) in enumerate(splitter.split(X, y, row_groups)):
            numbers[test] = number
            times[test] += 1
            complements &= len(train) + len(test) == len(X)
        if not complements or (times != 1).any():
            raise ValueError(
                f"{type(self).__name__}: `cv` must leave out every row exactly once, and fit on "
                f"all others, got {self.cv!r}. Use folds, such as KFold or GroupKFold."
            )
        return numbers

    def _rows_to_predict(self, X: Any) -> tuple[dict[str, Tensor], Tensor]:
        check_is_fitted(self)
        return self._features_and_mask(self._numbers(X, reset=False), self.groups_)


class PatternKernelRegressor(RegressorMixin, MultiOutputMixin, PatternKernelEstimator):  # type: ignore[misc]
    """Predict numbers from the available modalities of a row, by `invmod.PatternKernelRidge`.

    A modality is a group of columns, and NaN in all of them means that it is missing. No imputer is
    needed.

    Arguments:
        groups: modality name -> its columns: a name, a position, a slice of positions, a sequence
            of names or positions, or bools (C,). Columns in no group have no part. None makes each
            column a modality.
        kernel, width, weights, ridge, rows, intercept, standardize, criterion: as in
            `invmod.PatternKernelRidge`.
        landmarks, neighbours, probes: as in `invmod.PatternKernelRidge`.
        cv: how rows are left out when options are chosen. None: one by one, or by `row_groups` of
            `fit`. Otherwise folds: their number, a splitter, or pairs of train and test rows. Each
            row must be in one test set, and in the training sets of all other folds.
        partial: how to treat a row with NaN in some columns of a group. ``"missing"``: the modality
            counts as missing in that row. ``"raise"``: an error.

    Attributes:
        groups_: modality name -> positions of its columns.
        model_: the fitted regression, with `choices`, `kernels`, `summary` and `smoother`.

    Example:
        >>> X = np.array([[0.0, 3.0], [1.0, 2.0], [2.0, np.nan], [3.0, 0.0]])
        >>> model = PatternKernelRegressor({"a": 0, "b": 1}, kernel="linear", ridge=1e-9)
        >>> model.fit(X, 2 * X[:, 0]).predict([[5.0, np.nan], [np.nan, 1.0]]).round(3)
        array([10.,  4.])
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None, row_groups: Any = None) -> Self:
        """Fit on a table in which NaN marks missing entries.

        Arguments:
            X: (N, C), an array or a data frame of numbers.
            y: (N,) or (N, r), numbers.
            sample_weight: (N,), not negative; rows of weight 0 are left out.
            row_groups: (N,), labels of clusters. Rows of a cluster are left out together when
                options are chosen.

        Returns:
            itself.

        Raises:
            KeyError: `groups` names a column that does not exist.
            TypeError, ValueError: the table, the targets, the weights or an option do not fit.
        """
        X, y = self._numbers(X, y=y, multi_output=True, y_numeric=True)
        X, y, weights, groups = self._given_rows(X, y, sample_weight, row_groups)
        # A copy, because torch warns of arrays that are read-only.
        self._fit(X, np.array(y, dtype=np.float64), weights, groups)
        return self

    def predict(self, X: Any) -> NDArray[Any]:
        """Return predictions (N,) or (N, r) for a table with the columns of `fit`."""
        features, mask = self._rows_to_predict(X)
        return self.model_.predict(features, mask).numpy()


class PatternKernelClassifier(ClassifierMixin, PatternKernelEstimator):  # type: ignore[misc]
    """Predict classes from the available modalities of a row, by `invmod.PatternKernelRidge`.

    Arguments:
        groups, cv, partial: as in `PatternKernelRegressor`.
        kernel, width, weights, ridge, rows, intercept, standardize, criterion: as in
            `invmod.PatternKernelRidge`.
        landmarks, neighbours, probes: as in `invmod.PatternKernelRidge`.

    Attributes:
        classes_: the classes (K,) in ascending order.
        groups_, model_: as in `PatternKernelRegressor`. The classes of `model_` are positions in
            `classes_`.

    Example:
        >>> X = np.array([[0.0, 0.1], [0.2, np.nan], [2.0, 2.1], [2.2, 1.9]])
        >>> model = PatternKernelClassifier({"a": 0, "b": 1}, kernel="linear")
        >>> model.fit(X, ["low", "low", "high", "high"]).predict([[np.nan, 0.0], [2.0, np.nan]])
        array(['low', 'high'], dtype='<U4')
    """

    def fit(self, X: Any, y: Any, sample_weight: Any = None, row_groups: Any = None) -> Self:
        """Fit on a table in which NaN marks missing entries.

        Arguments:
            X: (N, C), an array or a data frame of numbers.
            y: (N,), classes: numbers or text.
            sample_weight, row_groups: as in `PatternKernelRegressor.fit`.

        Returns:
            itself.

        Raises:
            KeyError: `groups` names a column that does not exist.
            TypeError, ValueError: the table, the classes, the weights or an option do not fit.
        """
        X, y = self._numbers(X, y=y)
        check_classification_targets(y)
        X, y, weights, groups = self._given_rows(X, y, sample_weight, row_groups)
        classes, numbers = np.unique(y, return_inverse=True)
        self._fit(X, numbers, weights, groups)
        self.classes_ = classes
        return self

    def predict(self, X: Any) -> NDArray[Any]:
        """Return the classes (N,) of a table with the columns of `fit`."""
        features, mask = self._rows_to_predict(X)
        return self.classes_[self.model_.predict(features, mask).numpy()]  # type: ignore[no-any-return]

    def predict_proba(self, X: Any) -> NDArray[Any]:
        """Return probabilities (N, K) of the classes, in the order of `classes_`."""
        features, mask = self._rows_to_predict(X)
        return self.model_.probabilities(features, mask).numpy()
