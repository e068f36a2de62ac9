"""Bases of the estimators: tables with NaN are converted to features with a mask."""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from collections.abc import Mapping
from typing import Any, Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, OneToOneFeatureMixin, TransformerMixin
from sklearn.utils.validation import FLOAT_DTYPES, check_is_fitted, validate_data
from torch import Tensor

from invmod._checks import check_choice
from invmod.integrations.sklearn.columns import ColumnGroups, Columns, column_groups
from invmod.integrations.sklearn.tables import (
    check_collected,
    columns_of_dates,
    columns_without_numbers,
)

Groups = Mapping[str, Columns] | None
Partial = Literal["missing", "raise"]


# scikit-learn has no types, so for mypy its classes are Any.
class ModalityEstimator(BaseEstimator, metaclass=ABCMeta):  # type: ignore[misc]
    """Base: converts a table with NaN to features with a mask.

    scikit-learn reads the parameters of an estimator from the signature of its `__init__`, so each
    subclass writes its own.
    """

    groups: Groups
    partial: Partial

    def _fit_groups(self, X: NDArray[Any]) -> ColumnGroups:
        """Return the groups of the columns of a table that `_numbers` checked in `fit`."""
        check_choice(type(self).__name__, "partial", self.partial, ("missing", "raise"))
        names = getattr(self, "feature_names_in_", None)
        return column_groups(
            type(self).__name__,
            self.groups,
            X.shape[1],
            None if names is None else names.tolist(),
        )

    def _numbers(self, X: Any, **options: Any) -> Any:
        """Return a table as an array of floats; name the columns that are not numeric.

        `options` are those of `validate_data`. With the targets `y` among them it returns both.
        """
        name = type(self).__name__
        check_collected(name, "X", X)
        if dates := columns_of_dates(X):
            raise TypeError(_not_numeric(name, dates))
        try:
            return validate_data(
                self, X, dtype=FLOAT_DTYPES, ensure_all_finite="allow-nan", **options
            )
        except (TypeError, ValueError) as error:
            # The conversion itself names a value but no column.
            wrong = columns_without_numbers(X)
            if not wrong:
                raise
            kind = ValueError if isinstance(error, ValueError) else TypeError
            raise kind(f"{_not_numeric(name, wrong)} The conversion reported: {error}") from error

    def _features_and_mask(
        self, X: NDArray[Any], groups: ColumnGroups
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Return modality name -> (N, columns of the group), and the mask (N, M)."""
        features, available = {}, []
        for name, columns in groups.items():
            values = X[:, columns]
            nan = np.isnan(values)
            some = nan.any(axis=1)
            part = some & ~nan.all(axis=1)
            if self.partial == "raise" and part.any():
                raise ValueError(
                    f"{type(self).__name__}: {int(part.sum())} rows have NaN in some columns of "
                    f"{name!r} and values in others, the first is row {int(part.argmax())}. Use "
                    "partial='missing' to treat the modality as missing there, or split the group."
                )
            features[name] = torch.from_numpy(values)
            available.append(~some)
        return features, torch.from_numpy(np.stack(available, axis=1))

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags


class ModalityImputer(
    OneToOneFeatureMixin,  # type: ignore[misc]
    TransformerMixin,  # type: ignore[misc]
    ModalityEstimator,
):
    """Base of the transformers: a table with NaN in, the table with NaN filled out."""

    @abstractmethod
    def _new_imputer(self, groups: ColumnGroups) -> Any:
        """Return an imputer of the library for the modalities of `groups`, not fitted."""

    def fit(self, X: Any, y: Any = None) -> Self:  # noqa: ARG002  # y is part of the interface
        """Fit on a table in which NaN marks missing entries.

        Arguments:
            X: (N, C), an array or a data frame of numbers.
            y: ignored.

        Returns:
            itself.

        Raises:
            KeyError: `groups` names a column that does not exist.
            TypeError, ValueError: a column is not numeric or the table is lazy, `groups` does not
                fit the table, a modality is missing in all rows, or a row has only a part of a
                modality and `partial` is ``"raise"``.
        """
        X = self._numbers(X)
        groups = self._fit_groups(X)
        features, mask = self._features_and_mask(X, groups)
        imputer = self._new_imputer(groups).fit(features, mask)
        # Both are set at the end, so that an error leaves an earlier fit as it is.
        self.groups_, self.imputer_ = groups, imputer
        return self

    def transform(self, X: Any) -> NDArray[Any]:
        """Return the table as floats with all NaN of the groups filled; other values stay.

        Arguments:
            X: (N, C), with the columns of `fit`.

        Raises:
            TypeError, ValueError: a column is not numeric or the table is lazy, the columns are not
                those of `fit`, or a row has only a part of a modality
                and `partial` is ``"raise"``.
        """
        check_is_fitted(self)
        X = self._numbers(X, reset=False, copy=True)
        features, mask = self._features_and_mask(X, self.groups_)
        filled, _ = self.imputer_(features, mask)
        for name, columns in self.groups_.items():
            values = X[:, columns]
            # In a row that has a part of the group, the observed entries stay as they are.
            X[:, columns] = np.where(np.isnan(values), filled[name].numpy(), values)
        return X  # type: ignore[no-any-return]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def _not_numeric(name: str, wrong: dict[Any, str]) -> str:
    """Return the message of an error that names the first column without numbers."""
    column, kind = next(iter(wrong.items()))
    others = f" ({len(wrong)} columns are not numeric)" if len(wrong) > 1 else ""
    return (
        f"{name}: `X` must be numeric, but column {column!r} contains {kind}{others}. Select the "
        "numeric columns with `ColumnTransformer`."
    )
