"""The imputers of `invmod.imputation` as transformers of scikit-learn."""

from __future__ import annotations

from typing import Literal

from typing_extensions import override

from invmod.imputation import KNNImputer, MeanImputer, PPCAImputer, RidgeImputer, ZeroImputer
from invmod.integrations.sklearn.base import Groups, ModalityImputer, Partial
from invmod.integrations.sklearn.columns import ColumnGroups


class ModalityMeanImputer(ModalityImputer):
    """Fill a missing modality with the means of its columns, by `invmod.MeanImputer`.

    Arguments:
        groups: modality name -> its columns: a name, a position, a slice of positions, a sequence
            of names or positions, or bools (C,). Tables must be numeric; columns in no group keep
            their values (as floats). None makes each column a modality.
        partial: how to treat a row with NaN in some columns of a group. ``"missing"``: the modality
            counts as missing in that row, so its values enter no mean, distance or regression;
            its NaN are filled, and its observed entries stay as they are. ``"raise"``: an error.

    Attributes:
        groups_: modality name -> positions of its columns.
        imputer_: the fitted imputer of the library.

    Example:
        >>> import numpy as np
        >>> X = np.array([[1.0, 2.0, 0.0], [3.0, 6.0, 1.0], [np.nan, np.nan, 2.0]])
        >>> ModalityMeanImputer(groups={"image": slice(0, 2), "text": 2}).fit_transform(X)
        array([[1., 2., 0.],
               [3., 6., 1.],
               [2., 4., 2.]])
    """

    def __init__(self, groups: Groups = None, *, partial: Partial = "missing") -> None:
        self.groups = groups
        self.partial = partial

    @override
    def _new_imputer(self, groups: ColumnGroups) -> MeanImputer:
        return MeanImputer(list(groups))


class ModalityZeroImputer(ModalityImputer):
    """Fill a missing modality with zeros, by `invmod.ZeroImputer`.

    Arguments:
        groups, partial: as in `ModalityMeanImputer`.

    Example:
        >>> import numpy as np
        >>> ModalityZeroImputer().fit_transform(np.array([[1.0, np.nan], [np.nan, 2.0]]))
        array([[1., 0.],
               [0., 2.]])
    """

    def __init__(self, groups: Groups = None, *, partial: Partial = "missing") -> None:
        self.groups = groups
        self.partial = partial

    @override
    def _new_imputer(self, groups: ColumnGroups) -> ZeroImputer:
        return ZeroImputer(list(groups))


class ModalityKNNImputer(ModalityImputer):
    """Fill a missing modality from the nearest rows, by `invmod.KNNImputer`.

    Arguments:
        groups, partial: as in `ModalityMeanImputer`.
        num_neighbours, standardize: as in `invmod.KNNImputer`.

    Example:
        >>> import numpy as np
        >>> X = np.array([[0.0, 5.0], [1.0, 6.0], [9.0, 7.0], [0.9, np.nan]])
        >>> ModalityKNNImputer(num_neighbours=2).fit_transform(X)[3]
        array([0.9, 5.5])
    """

    def __init__(
        self,
        groups: Groups = None,
        *,
        partial: Partial = "missing",
        num_neighbours: int = 5,
        standardize: bool = True,
    ) -> None:
        self.groups = groups
        self.partial = partial
        self.num_neighbours = num_neighbours
        self.standardize = standardize

    @override
    def _new_imputer(self, groups: ColumnGroups) -> KNNImputer:
        return KNNImputer(
            list(groups), num_neighbours=self.num_neighbours, standardize=self.standardize
        )


class ModalityRidgeImputer(ModalityImputer):
    """Fill a missing modality by ridge regression, by `invmod.RidgeImputer`.

    Arguments:
        groups, partial: as in `ModalityMeanImputer`.
        ridge, standardize: as in `invmod.RidgeImputer`.

    Example:
        >>> import numpy as np
        >>> X = np.array([[0.0, 1.0], [1.0, 4.0], [2.0, 7.0], [4.0, np.nan]])
        >>> ModalityRidgeImputer(ridge=0.0).fit_transform(X)[3].round(6)
        array([ 4., 13.])
    """

    def __init__(
        self,
        groups: Groups = None,
        *,
        partial: Partial = "missing",
        ridge: float = 1.0,
        standardize: bool = True,
    ) -> None:
        self.groups = groups
        self.partial = partial
        self.ridge = ridge
        self.standardize = standardize

    @override
    def _new_imputer(self, groups: ColumnGroups) -> RidgeImputer:
        return RidgeImputer(list(groups), ridge=self.ridge, standardize=self.standardize)


class ModalityPPCAImputer(ModalityImputer):
    """Fill a missing modality from latent factors, by `invmod.PPCAImputer`.

    Arguments:
        groups, partial: as in `ModalityMeanImputer`.
        num_components: number of factors, below the number of columns in groups. The default is the
            smallest model; choose the number on validation data.
        noise, standardize, tolerance, max_iterations: as in `invmod.PPCAImputer`.

    Example:
        >>> import numpy as np
        >>> X = np.array([[-2.0, 6.0], [-1.0, 3.0], [0.0, 0.0], [1.0, -3.0], [2.0, -6.0]])
        >>> imputer = ModalityPPCAImputer(noise="shared").fit(X)
        >>> imputer.transform([[2.0, np.nan]]).round(2)
        array([[ 2., -6.]])
    """

    def __init__(
        self,
        groups: Groups = None,
        *,
        partial: Partial = "missing",
        num_components: int = 1,
        noise: Literal["modality", "shared"] = "modality",
        standardize: bool = True,
        tolerance: float = 1e-6,
        max_iterations: int = 500,
    ) -> None:
        self.groups = groups
        self.partial = partial
        self.num_components = num_components
        self.noise = noise
        self.standardize = standardize
        self.tolerance = tolerance
        self.max_iterations = max_iterations

    @override
    def _new_imputer(self, groups: ColumnGroups) -> PPCAImputer:
        num_columns = sum(len(columns) for columns in groups.values())
        if self.num_components >= num_columns:
            raise ValueError(
                "ModalityPPCAImputer: `num_components` must be below the number of columns in "
                f"groups, got {self.num_components} with n_features = {num_columns}."
            )
        return PPCAImputer(
            list(groups),
            num_components=self.num_components,
            noise=self.noise,
            standardize=self.standardize,
            tolerance=self.tolerance,
            max_iterations=self.max_iterations,
        )
